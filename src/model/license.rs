//! Licence identifiers: SPDX expressions and the identifiers of the hub. Unknown identifiers are accepted with a warning,
//! because some models have licences that are in no list.

use super::text::is_clean;

/// Identifiers of the hub that are not SPDX identifiers in lower case.
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

/// Identifiers of the hub, and SPDX identifiers of licences for other works than software, that permit anyone to
/// redistribute complete files.
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

/// The reason why a text cannot be a licence identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LicenseError {
    /// The text is empty.
    #[error("the licence is empty; use an SPDX identifier such as apache-2.0")]
    Empty,
    /// Longer than [`MAX_LICENSE`], or with characters that are invisible or change the direction of text.
    #[error("{0:?} cannot be a licence identifier")]
    Unusable(String),
}

/// Whether a text is an SPDX identifier (in any case), an SPDX expression, or an identifier of the hub.
pub fn is_known(id: &str) -> bool {
    HUB.contains(&id.to_ascii_lowercase().as_str())
        || spdx::identifiers::LICENSES.iter().any(|license| license.name.eq_ignore_ascii_case(id))
        || spdx::Expression::parse(id).is_ok()
}

/// Whether a licence is known to permit everyone to redistribute the files, for any purpose. That holds for licences that
/// the OSI or the FSF approves, and for open licences for data. An SPDX expression is evaluated with this rule. False for
/// unknown licences.
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

/// Checks an identifier. Returns it trimmed, with a warning if it is in no list.
pub fn check(id: &str) -> Result<(String, Option<String>), LicenseError> {
    let id = id.trim();
    if id.is_empty() {
        return Err(LicenseError::Empty);
    }
    if id.len() > MAX_LICENSE || !is_clean(id) {
        return Err(LicenseError::Unusable(id.chars().take(60).collect()));
    }
    let warning = (!is_known(id)).then(|| {
        format!("the licence {id:?} is neither an SPDX identifier nor one of the hub's; it is used unchanged")
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
    fn only_open_licences_permit_redistribution() {
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
    fn unknown_identifiers_are_accepted_with_a_warning() {
        let (id, warning) = check(" my-own-licence ").unwrap();
        assert_eq!(id, "my-own-licence");
        assert!(warning.unwrap().contains("my-own-licence"));
        assert_eq!(check("  "), Err(LicenseError::Empty));
        assert!(matches!(check("a\u{1b}b"), Err(LicenseError::Unusable(_))));
        for hidden in ["mit\u{202e}", "m\u{200b}it", "\u{2067}mit", "mi\u{feff}t"] {
            assert!(matches!(check(hidden), Err(LicenseError::Unusable(_))), "{hidden:?}");
        }
        assert!(matches!(check(&"x".repeat(300)), Err(LicenseError::Unusable(_))));
    }
}
