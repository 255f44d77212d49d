//! The name of a branch, tag or commit.

use std::fmt;
use std::str::FromStr;

use super::error::{RepositoryError, short};

/// The name of a branch or tag, or a commit in hex, as the user gives it. git-check-ref-format(1) defines the valid names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(String);

impl Reference {
    /// The name as the user gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Reference {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        let bad = |c: char| {
            c.is_control() || c.is_whitespace() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\')
        };
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        let sound = text.len() <= 255
            && text != "@"
            && !text.starts_with('-')
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(bad)
            && text.split('/').all(part);
        if sound { Ok(Self(text.to_owned())) } else { Err(RepositoryError::Reference(short(text))) }
    }
}
