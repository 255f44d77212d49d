//! The query of `discover`: patterns of the name and terms on other facts.
//!
//! Terms are separated by blanks and must all hold:
//!
//! | term | matches |
//! |---|---|
//! | `llama` | names (`org/name`) that contain the word, in any case |
//! | `mistralai/*` | names that match the glob, in any case; `*` also matches `/` |
//! | `tag:code` | models with the tag, in any case |
//! | `license:mit` | models under the licence, in any case |
//! | `publisher:x7k2-9fqa` | models signed by the key with this fingerprint, or a prefix of it or of the key in hex |
//! | `size<20GB` | models of that size; also `<=`, `>`, `>=`, `=` |
//!
//! Queries are sent to peers as text, and received from them: the cost of a query is bounded by its length, and by the number
//! of its terms, globs and wildcards. A glob is matched in time linear in the name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use memchr::memmem::Finder;

use crate::catalog::record::{ModelRecord, Record, RecordBody};
use crate::model::{PublisherKey, text};

/// The longest query, in bytes of its text.
pub const MAX_QUERY: usize = 512;
/// The most terms of a query.
pub const MAX_TERMS: usize = 16;
/// The most globs of a query: each takes some 100 ns for every name, and up to a millisecond at first.
pub const MAX_GLOBS: usize = 4;
/// The most wildcards in all its globs.
pub const MAX_WILDCARDS: usize = 16;

/// A text that is not a query. Names the term.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(pub String);

/// A parsed query. The empty one matches every model.
#[derive(Debug, Clone, Default)]
pub struct Query {
    text: String,
    terms: Arc<QueryTerms>,
}

/// The terms of a query; all must hold. Texts are in lower case.
#[derive(Debug, Default)]
pub(super) struct QueryTerms {
    /// Texts that names must contain: the words, and the parts of globs between wildcards. Searching for these is much faster
    /// than matching the glob.
    words: Vec<Finder<'static>>,
    globs: Vec<GlobMatcher>,
    publishers: Vec<String>,
    sizes: Vec<(Compare, u64)>,
    /// The tags searched for.
    pub tags: Vec<String>,
    /// The licences searched for.
    pub licenses: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

impl PartialEq for Query {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Query {}

impl Query {
    /// Whether a record announces a model that matches.
    pub fn matches(&self, record: &Record) -> bool {
        match &record.body {
            RecordBody::Model(model) => self.terms.fit(&record.publisher, model),
            RecordBody::Successor(_) => false,
        }
    }

    /// The text of the query, without surrounding blanks.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn terms(&self) -> &QueryTerms {
        &self.terms
    }
}

impl QueryTerms {
    fn fit(&self, publisher: &PublisherKey, model: &ModelRecord) -> bool {
        let any = |texts: &[String], wanted: &String| texts.iter().any(|t| t.to_lowercase() == *wanted);
        self.size_fits(model.size)
            && self.name_fits(model.name.to_string().to_ascii_lowercase().as_bytes())
            && self.tags.iter().all(|tag| any(&model.tags, tag))
            && self.licenses.iter().all(|license| any(model.license.as_slice(), license))
            && self.publisher_fits(publisher)
    }

    /// Whether a name, in lower case, matches.
    pub fn name_fits(&self, lower: &[u8]) -> bool {
        self.words.iter().all(|word| word.find(lower).is_some())
            && self.globs.iter().all(|glob| glob.is_match(OsStr::from_bytes(lower)))
    }

    /// Whether there are terms on the name.
    pub fn has_names(&self) -> bool {
        !self.words.is_empty() || !self.globs.is_empty()
    }

    /// Whether a size matches.
    pub fn size_fits(&self, size: u64) -> bool {
        self.sizes.iter().all(|&(compare, than)| match compare {
            Compare::Less => size < than,
            Compare::AtMost => size <= than,
            Compare::Equal => size == than,
            Compare::AtLeast => size >= than,
            Compare::More => size > than,
        })
    }

    /// Whether there are terms on the publisher.
    pub fn has_publishers(&self) -> bool {
        !self.publishers.is_empty()
    }

    /// Whether a publisher matches. Computes a hash.
    pub fn publisher_fits(&self, publisher: &PublisherKey) -> bool {
        if self.publishers.is_empty() {
            return true;
        }
        let (key, fingerprint) = (publisher.to_string(), publisher.fingerprint().replace('-', ""));
        self.publishers.iter().all(|wanted| key.starts_with(wanted) || fingerprint.starts_with(wanted))
    }

    fn add(&mut self, term: &str) -> Result<(), QueryError> {
        let wrong = |why: &str| Err(QueryError(format!("{term:?} is no search term: {why}")));
        if !text::is_clean(term) {
            return wrong("it has invisible characters");
        }
        if let Some((key, value)) = term.split_once(':') {
            let value = value.to_lowercase();
            if value.is_empty() {
                return wrong("nothing follows the colon");
            }
            match key.to_ascii_lowercase().as_str() {
                "tag" => self.tags.push(value),
                "license" | "licence" => self.licenses.push(value),
                "publisher" => {
                    let digits = value.replace('-', "");
                    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
                        return wrong("a publisher is a fingerprint such as x7k2-9fqa-m3tz-c0d8, or a key");
                    }
                    self.publishers.push(digits);
                }
                _ => return wrong("there are tag:, license:, publisher:, size< and words of a name"),
            }
            return Ok(());
        }
        if let Some(at) = term.find(['<', '>', '=']) {
            if !term[..at].eq_ignore_ascii_case("size") {
                return wrong("only size can be compared, as in size<20GB");
            }
            let (compare, size) = match &term.as_bytes()[at..] {
                [b'<', b'=', ..] => (Compare::AtMost, &term[at + 2..]),
                [b'>', b'=', ..] => (Compare::AtLeast, &term[at + 2..]),
                [b'<', ..] => (Compare::Less, &term[at + 1..]),
                [b'>', ..] => (Compare::More, &term[at + 1..]),
                _ => (Compare::Equal, &term[at + 1..]),
            };
            return match text::parse_size(size) {
                Ok(size) => {
                    self.sizes.push((compare, size));
                    Ok(())
                }
                Err(error) => wrong(&error.to_string()),
            };
        }
        if term.contains(['*', '?', '[']) {
            if self.globs.len() == MAX_GLOBS {
                return wrong("there are too many patterns");
            }
            return match GlobBuilder::new(term).case_insensitive(true).build() {
                Ok(glob) => {
                    self.globs.push(glob.compile_matcher());
                    // Classes, alternatives and escapes are skipped.
                    if !term.contains(['[', '{', '\\']) {
                        let longest =
                            term.split(['*', '?']).max_by_key(|part| part.len()).unwrap_or_default();
                        self.words.push(Finder::new(&longest.to_ascii_lowercase()).into_owned());
                    }
                    Ok(())
                }
                Err(error) => wrong(&error.kind().to_string()),
            };
        }
        self.words.push(Finder::new(&term.to_ascii_lowercase()).into_owned());
        Ok(())
    }
}

impl std::str::FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let too = |what: &str| Err(QueryError(format!("the search {what}")));
        if text.len() > MAX_QUERY {
            return too(&format!("is longer than {MAX_QUERY} bytes"));
        }
        if text.split_whitespace().count() > MAX_TERMS {
            return too(&format!("has more than {MAX_TERMS} terms"));
        }
        if text.chars().filter(|c| matches!(c, '*' | '?' | '[' | '{')).count() > MAX_WILDCARDS {
            return too(&format!("has more than {MAX_WILDCARDS} wildcards"));
        }
        let mut terms = QueryTerms::default();
        for term in text.split_whitespace() {
            terms.add(term)?;
        }
        Ok(Self { text: text.trim().to_owned(), terms: Arc::new(terms) })
    }
}

#[cfg(test)]
mod tests;
