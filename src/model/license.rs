//! Licence identifiers: SPDX expressions and the ids of the hub. Unknown ones are accepted with a warning, since
//! models come under licences that no list has.

/// The hub's ids that are not SPDX identifiers in lower case.
const HUB: &[&str] = &[
    "apple-amlr",
    "apple-ascl",
    "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m",
    "bsd",
    "c-uda",
    "cc",
    "creativeml-openrail-m",
    "deepfloyd-if-license",
    "fair-noncommercial-research-license",
    "gemma",
    "gfdl",
    "gpl",
    "grok2-community",
    "h-research",
    "intel-research",
    "lgpl",
    "lgpl-lr",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "odbl",
    "openmdw-1.0",
    "openrail",
    "openrail++",
    "other",
    "pddl",
    "unknown",
];

/// The longest identifier, in bytes.
pub const MAX_LICENSE: usize = 256;

/// Why a text cannot stand for a licence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LicenseError {
    /// Nothing there.
    #[error("the licence is empty; name it as SPDX does, such as apache-2.0")]
    Empty,
    /// Longer than [`MAX_LICENSE`], or with control characters.
    #[error("{0:?} cannot be a licence identifier")]
    Unusable(String),
}

/// Whether an identifier is one of SPDX's (any case), an SPDX expression, or one of the hub's.
pub fn is_known(id: &str) -> bool {
    HUB.contains(&id.to_ascii_lowercase().as_str())
        || spdx::identifiers::LICENSES.iter().any(|license| license.name.eq_ignore_ascii_case(id))
        || spdx::Expression::parse(id).is_ok()
}

/// Checks an identifier; returns it trimmed, with a warning for people if no list has it.
pub fn check(id: &str) -> Result<(String, Option<String>), LicenseError> {
    let id = id.trim();
    if id.is_empty() {
        return Err(LicenseError::Empty);
    }
    if id.len() > MAX_LICENSE || id.chars().any(char::is_control) {
        return Err(LicenseError::Unusable(id.chars().take(60).collect()));
    }
    let warning = (!is_known(id)).then(|| {
        format!(
            "the licence {id:?} is neither an SPDX identifier nor one of the hub's; it is used as it stands"
        )
    });
    Ok((id.to_owned(), warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_both_lists_are_known() {
        for id in [
            "apache-2.0",
            "Apache-2.0",
            "MIT",
            "mit",
            "cc-by-nc-4.0",
            "llama3.1",
            "Gemma",
            "other",
            "gpl-3.0",
            "MIT OR Apache-2.0",
        ] {
            assert_eq!(check(id), Ok((id.to_owned(), None)));
        }
    }

    #[test]
    fn others_are_taken_with_a_warning_unless_they_cannot_be_shown() {
        let (id, warning) = check(" my-own-licence ").unwrap();
        assert_eq!(id, "my-own-licence");
        assert!(warning.unwrap().contains("my-own-licence"));
        assert_eq!(check("  "), Err(LicenseError::Empty));
        assert!(matches!(check("a\u{1b}b"), Err(LicenseError::Unusable(_))));
        assert!(matches!(check(&"x".repeat(300)), Err(LicenseError::Unusable(_))));
    }
}
