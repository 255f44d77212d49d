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

/// The hub's ids, and those of SPDX that are of no software licence, that let anybody pass the files on whole.
const PERMITTED: &[&str] = &[
    "bsd",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "cdla-sharing-1.0",
    "gfdl",
    "gpl",
    "lgpl",
    "odbl",
    "odc-by",
    "odc-by-1.0",
    "openmdw-1.0",
    "pddl",
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

/// Whether a licence is known to let anybody pass the files on, to anybody and for any purpose: those that the OSI or the
/// FSF approve of, and open ones for data. Of an SPDX expression, whether that holds of what it comes to. Whatever is not
/// known to permit it does not.
pub fn permits_redistribution(id: &str) -> bool {
    let permits = |name: &str| {
        let known =
            spdx::identifiers::LICENSES.iter().find(|license| license.name.eq_ignore_ascii_case(name));
        let approved = known
            .and_then(|known| spdx::license_id(known.name))
            .is_some_and(|license| license.is_osi_approved() || license.is_fsf_free_libre());
        approved || PERMITTED.contains(&name.to_ascii_lowercase().as_str())
    };
    permits(id)
        || spdx::Expression::parse(id).is_ok_and(|expression| {
            expression.evaluate(|req| req.license.id().is_some_and(|license| permits(license.name)))
        })
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
    fn only_open_licences_permit_passing_models_on() {
        for id in [
            "apache-2.0",
            "MIT",
            "bsd-3-clause",
            "gpl-3.0",
            "lgpl-2.1",
            "mpl-2.0",
            "cc-by-4.0",
            "cc0-1.0",
            "cdla-permissive-2.0",
            "MIT OR LicenseRef-mine",
            "Apache-2.0 AND MIT",
            "unlicense",
            "odc-by",
        ] {
            assert!(permits_redistribution(id), "{id}");
        }
        for id in [
            "llama3.1",
            "gemma",
            "other",
            "unknown",
            "cc-by-nc-4.0",
            "cc-by-nc-sa-4.0",
            "openrail",
            "creativeml-openrail-m",
            "cc",
            "",
            "Apache-2.0 AND LicenseRef-mine",
            "proprietary",
        ] {
            assert!(!permits_redistribution(id), "{id}");
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
