//! Names of models and of their revisions, checked when they are parsed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest component of a name, in bytes.
pub const MAX_COMPONENT: usize = 96;

/// The revision that is used if none is given.
pub const DEFAULT_REVISION: &str = "main";

/// The organisation that models of the hub have here if their name there is one word: `_/gpt2` is `gpt2` on the hub. The hub has
/// no organisation of this name.
pub const NO_ORG: &str = "_";

/// The reason why a string is not a name or a revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `org/name` or `datasets/org/name`.
    #[error("{0:?} is not a model name; names look like org/name or datasets/org/name")]
    Shape(String),
    /// A component is too long or has a character outside `[A-Za-z0-9_][A-Za-z0-9._-]*`.
    #[error(
        "{0:?} cannot be part of a name; use 1 to 96 letters, digits, '.', '_' or '-', starting with a letter, digit or '_'"
    )]
    Component(String),
}

/// Whether a name is that of a model or a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A model, `org/name`.
    Model,
    /// A dataset, `datasets/org/name`.
    Dataset,
}

fn component(s: &str) -> Result<&str, NameError> {
    // As on the hub, the only punctuation at the beginning of a name is '_': '.' hides a file and '-' begins an option.
    let ok = s.len() <= MAX_COMPONENT
        && s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if ok { Ok(s) } else { Err(NameError::Component(s.chars().take(MAX_COMPONENT + 4).collect())) }
}

/// The name of a model or dataset, without a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName {
    kind: Kind,
    org: String,
    name: String,
}

impl ModelName {
    /// Checks the parts and builds a name. An organisation cannot be called `datasets`, in any case, because its models
    /// could be confused with datasets.
    pub fn new(kind: Kind, org: &str, name: &str) -> Result<Self, NameError> {
        if org.eq_ignore_ascii_case("datasets") {
            return Err(NameError::Shape(format!("{org}/{name}")));
        }
        Ok(Self { kind, org: component(org)?.to_owned(), name: component(name)?.to_owned() })
    }

    /// A name as the hub writes it, without the kind: `org/name`, or one word (see [`NO_ORG`]).
    pub fn of_hub(kind: Kind, id: &str) -> Result<Self, NameError> {
        let (org, name) = id.split_once('/').unwrap_or((NO_ORG, id));
        Self::new(kind, org, name)
    }

    /// The name as the hub writes it, without the kind.
    pub fn hub_id(&self) -> String {
        self.hub_parts().collect::<Vec<_>>().join("/")
    }

    /// The components of [`Self::hub_id`].
    pub fn hub_parts(&self) -> impl Iterator<Item = &str> {
        [self.org(), self.name()].into_iter().skip(usize::from(self.org == NO_ORG))
    }

    /// Model or dataset.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The first component: the organisation or user.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// The last component. It is also the `name` of the torrent.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        write!(f, "{prefix}{}/{}", self.org, self.name)
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = s.split('/').collect();
        match parts.as_slice() {
            ["datasets", org, name] => Self::new(Kind::Dataset, org, name),
            [org, name] => Self::new(Kind::Model, org, name),
            _ => Err(NameError::Shape(s.chars().take(2 * MAX_COMPONENT + 16).collect())),
        }
    }
}

impl Serialize for ModelName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One immutable state of a model: a tag, branch or commit name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(String);

impl Revision {
    /// The revision as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is [`DEFAULT_REVISION`].
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT_REVISION
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self(DEFAULT_REVISION.to_owned())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Revision {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        component(s).map(|s| Self(s.to_owned()))
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A revision of a model, written `org/name@revision`; without `@` it is the default revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelRef {
    /// The name without the revision.
    pub name: ModelName,
    /// [`DEFAULT_REVISION`] if the text has none.
    pub revision: Revision,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.revision.is_default() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}@{}", self.name, self.revision)
        }
    }
}

impl Serialize for ModelRef {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for ModelRef {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        match s.split_once('@') {
            Some((name, revision)) => Ok(Self { name: name.parse()?, revision: revision.parse()? }),
            None => Ok(Self { name: s.parse()?, revision: Revision::default() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_word_of_the_hub_is_a_name_without_organisation() {
        let gpt2 = ModelName::of_hub(Kind::Model, "gpt2").unwrap();
        assert_eq!((gpt2.to_string().as_str(), gpt2.hub_id().as_str()), ("_/gpt2", "gpt2"));
        let other = ModelName::of_hub(Kind::Dataset, "org/squad").unwrap();
        assert_eq!(
            (other.to_string().as_str(), other.hub_id().as_str()),
            ("datasets/org/squad", "org/squad")
        );
        for bad in ["", "/x", "x/", "a/b/c", "..", "a b"] {
            assert!(ModelName::of_hub(Kind::Model, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_split_into_components() {
        let model: ModelRef = "google/gemma-2b@v1.0".parse().unwrap();
        assert_eq!(
            (model.name.kind(), model.name.org(), model.name.name()),
            (Kind::Model, "google", "gemma-2b")
        );
        assert_eq!((model.revision.as_str(), model.to_string().as_str()), ("v1.0", "google/gemma-2b@v1.0"));
        let data: ModelRef = "datasets/rajpurkar/squad".parse().unwrap();
        assert_eq!(
            (data.name.kind(), data.name.org(), data.revision.is_default()),
            (Kind::Dataset, "rajpurkar", true)
        );
        assert_eq!(data.to_string(), "datasets/rajpurkar/squad");
    }

    #[test]
    fn names_may_begin_with_an_underscore() {
        for text in ["_org/model", "org/_model", "datasets/_org/__data", "org/model@_branch", "_/_"] {
            assert_eq!(text.parse::<ModelRef>().map(|model| model.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn invalid_names_are_refused() {
        for text in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "a//b",
            "../b",
            "a/..",
            "a/.hidden",
            "-a/b",
            "a b/c",
            "datasets/a",
            "Datasets/a",
            "datasets/datasets/a",
            "a/b@",
            "a/b@../c",
            "a/b@v1@v2",
            "a/b\n",
            "é/b",
            "a/b@.git",
        ] {
            assert!(text.parse::<ModelRef>().is_err(), "{text:?}");
        }
        let long = "x".repeat(MAX_COMPONENT);
        assert!(format!("{long}/{long}@{long}").parse::<ModelRef>().is_ok());
        assert!(format!("{long}x/y").parse::<ModelRef>().is_err());
    }

    proptest! {
        #[test]
        fn every_written_name_is_read_again(text in "(datasets/)?[A-Za-z0-9._-]{1,4}/[A-Za-z0-9._-]{1,4}(@[A-Za-z0-9._-]{1,4})?") {
            if let Ok(model) = text.parse::<ModelRef>() {
                prop_assert_eq!(model.to_string().parse::<ModelRef>().unwrap(), model);
            }
        }
    }
}
