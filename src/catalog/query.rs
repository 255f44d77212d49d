//! What `discover` searches for: a pattern on the name and terms on other facts.
//!
//! Terms are separated by blanks and must all hold: `llama`, `mistralai/*`, `tag:code`, `license:mit`,
//! `publisher:x7k2-…` (fingerprint, key or a prefix of either), `size<20GB`, `size>=1GiB`.

use crate::catalog::record::Record;

/// The longest query, in bytes of its text.
pub const MAX_QUERY: usize = 512;

/// Why a text is no query. Names the term.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(pub String);

/// A parsed query. The empty one matches every model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    text: String,
}

impl Query {
    /// Whether a record is a model that fits.
    pub fn matches(&self, record: &Record) -> bool {
        todo!()
    }

    /// The text that it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::str::FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        todo!()
    }
}
