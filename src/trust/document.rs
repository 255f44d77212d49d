//! The content of `trust.yaml`, and its text. Unknown keys and contradicting entries are errors with their line.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TrustError;
use super::bounds::{MAX_CHAIN, MAX_PINS, MAX_PUBLISHERS};
use crate::model::{ModelName, PublisherKey};
use crate::yaml::{self, YamlError, YamlLimits};

/// The most replaced keys that are remembered.
pub(super) const MAX_SUCCESSIONS: usize = 10_000;

/// Bounds of the file: the most entries, each a map of three keys, with long names.
pub(super) const LIMITS: YamlLimits =
    YamlLimits { bytes: 64 << 20, values: 7 * (MAX_PINS + MAX_PUBLISHERS + MAX_SUCCESSIONS) + 16 };

const HEADING: &str = "\
# Trusted publishers, names that belong to one publisher, and keys that were replaced.
# `silmaril trust` changes this file, and does not keep comments other than these.
";

/// A short name that the user of this node gives to a publisher: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, but no key and no
/// fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias(String);

/// A text that cannot be an alias.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be an alias; use 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit, not a key or a fingerprint"
)]
pub struct AliasError(String);

impl Alias {
    /// Whether the alias is this text, without regard to case: aliases that differ only in case would be confused.
    pub fn is(&self, text: &str) -> bool {
        self.0.eq_ignore_ascii_case(text)
    }
}

impl FromStr for Alias {
    type Err = AliasError;

    fn from_str(text: &str) -> Result<Self, AliasError> {
        let charset = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let groups: Vec<&str> = text.split('-').collect();
        let like_fingerprint = groups.len() == 4
            && groups
                .iter()
                .all(|group| group.len() == 4 && group.bytes().all(|b| b.is_ascii_alphanumeric()));
        if !charset || like_fingerprint || text.parse::<PublisherKey>().is_ok() {
            return Err(AliasError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Alias {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Alias {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// The time of a decision, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When(Timestamp);

impl When {
    /// The present time.
    pub fn now() -> Self {
        let now = Timestamp::now();
        Self(Timestamp::from_second(now.as_second()).unwrap_or(now))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let wrong = |_| D::Error::custom(format!("{text:?} is not a time such as 2026-01-31T12:00:00Z"));
        text.parse().map(Self).map_err(wrong)
    }
}

/// A publisher that the user trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedPublisher {
    /// The publisher.
    pub key: PublisherKey,
    /// The user's name for the publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<Alias>,
    /// The time at which it was listed.
    pub added: When,
}

/// A name that belongs to a publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The name.
    pub name: ModelName,
    /// The owner.
    pub publisher: PublisherKey,
    /// The time at which it was pinned.
    pub since: When,
}

/// A key that its owner has replaced by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Succession {
    /// The former key.
    pub key: PublisherKey,
    /// The key that replaces it.
    pub successor: PublisherKey,
    /// The time at which this node received the succession.
    pub since: When,
}

/// The file's contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustDocument {
    /// Trusted publishers, in the order of the file.
    pub publishers: Vec<ListedPublisher>,
    /// Names with an owner.
    pub pins: BTreeMap<ModelName, Pin>,
    /// Replaced keys. An entry never changes.
    pub successions: BTreeMap<PublisherKey, Succession>,
}

/// The structure of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    publishers: Option<UniqueEntries<ListedPublisher>>,
    #[serde(default)]
    pins: Option<UniqueEntries<Pin>>,
    #[serde(default)]
    successions: Option<UniqueEntries<Succession>>,
}

#[derive(Serialize)]
struct Writing<'a> {
    publishers: &'a [ListedPublisher],
    pins: Vec<&'a Pin>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    successions: Vec<&'a Succession>,
}

/// An entry that may occur only once in a list.
trait UniqueEntry {
    /// The most entries of a list.
    const MAX: usize;
    /// Texts that must differ between entries.
    fn marks(&self) -> Vec<String>;
}

impl UniqueEntry for ListedPublisher {
    const MAX: usize = MAX_PUBLISHERS;
    fn marks(&self) -> Vec<String> {
        let alias = self.alias.as_ref().map(|alias| alias.to_string().to_ascii_lowercase());
        [Some(self.key.to_string()), alias].into_iter().flatten().collect()
    }
}

impl UniqueEntry for Pin {
    const MAX: usize = MAX_PINS;
    fn marks(&self) -> Vec<String> {
        vec![self.name.to_string()]
    }
}

impl UniqueEntry for Succession {
    const MAX: usize = MAX_SUCCESSIONS;
    fn marks(&self) -> Vec<String> {
        vec![self.key.to_string()]
    }
}

/// A list without equal entries.
#[derive(Debug)]
struct UniqueEntries<T>(Vec<T>);

impl<'de, T: UniqueEntry + Deserialize<'de>> Deserialize<'de> for UniqueEntries<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Seen<T>(PhantomData<T>);
        impl<'de, T: UniqueEntry + Deserialize<'de>> Visitor<'de> for Seen<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let (mut entries, mut marks) = (Vec::new(), std::collections::HashSet::new());
                while let Some(entry) = seq.next_element::<T>()? {
                    if let Some(twice) = entry.marks().into_iter().find(|mark| !marks.insert(mark.clone())) {
                        return Err(A::Error::custom(format!("{twice} occurs twice")));
                    }
                    entries.push(entry);
                    if entries.len() > T::MAX {
                        return Err(A::Error::custom(format!("more than {} entries", T::MAX)));
                    }
                }
                Ok(entries)
            }
        }
        d.deserialize_seq(Seen(PhantomData)).map(Self)
    }
}

fn entries<T>(written: Option<UniqueEntries<T>>) -> Vec<T> {
    written.map(|entries| entries.0).unwrap_or_default()
}

impl TrustDocument {
    /// Reads the text of a file; `path` is for errors only. An empty text is an empty document.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, TrustError> {
        let written = yaml::read::<Option<Written>>(text, LIMITS).map_err(|YamlError { line, what }| {
            TrustError::File { path: path.to_owned(), line, reason: what, kind: None }
        })?;
        let Written { publishers, pins, successions } = written.unwrap_or_default();
        Ok(Self {
            publishers: entries(publishers),
            pins: entries(pins).into_iter().map(|pin| (pin.name.clone(), pin)).collect(),
            successions: entries(successions).into_iter().map(|known| (known.key, known)).collect(),
        })
    }

    /// The text of the file.
    pub fn to_text(&self) -> Result<String, YamlError> {
        let writing = Writing {
            publishers: &self.publishers,
            pins: self.pins.values().collect(),
            successions: self.successions.values().collect(),
        };
        Ok(format!("{HEADING}{}", yaml::write(&writing)?))
    }

    /// The publisher that owns a name.
    pub fn pinned(&self, name: &ModelName) -> Option<PublisherKey> {
        self.pins.get(name).map(|pin| pin.publisher)
    }

    /// A publisher's entry on the list.
    pub fn listed(&self, key: &PublisherKey) -> Option<&ListedPublisher> {
        self.publishers.iter().find(|listed| listed.key == *key)
    }

    /// Pins a name to a publisher, unless the name has an owner.
    pub fn pin(&mut self, name: &ModelName, publisher: PublisherKey) -> Result<(), TrustError> {
        if self.pins.contains_key(name) {
            return Ok(());
        }
        if self.pins.len() >= MAX_PINS {
            return Err(TrustError::Full);
        }
        self.pins.insert(name.clone(), Pin { name: name.clone(), publisher, since: When::now() });
        Ok(())
    }

    /// Lists a publisher. If it is listed already, changes its alias, if one is given.
    pub fn list(&mut self, key: PublisherKey, alias: Option<Alias>) -> Result<(), TrustError> {
        if let Some(known) = self.successions.get(&key) {
            let by = self.describe(&known.successor);
            return Err(TrustError::FormerKey { given: key.fingerprint(), by });
        }
        let called = |listed: &&ListedPublisher| match (&listed.alias, &alias) {
            (Some(theirs), Some(alias)) => listed.key != key && theirs.is(&alias.0),
            _ => false,
        };
        if let (Some(alias), Some(holder)) = (&alias, self.publishers.iter().find(called)) {
            let publisher = holder.key.fingerprint();
            return Err(TrustError::AliasTaken { alias: alias.to_string(), publisher });
        }
        if let Some(listed) = self.publishers.iter_mut().find(|listed| listed.key == key) {
            listed.alias = alias.or(listed.alias.take());
            return Ok(());
        }
        if self.publishers.len() >= MAX_PUBLISHERS {
            return Err(TrustError::Full);
        }
        self.publishers.push(ListedPublisher { key, alias, added: When::now() });
        Ok(())
    }

    /// Follows a succession: names and listing of the former key belong to the key at the end of the chain from now on, in
    /// whatever order successions become known. The first succession known of a key stays. Returns whether it was new.
    pub fn succeed(&mut self, key: PublisherKey, successor: PublisherKey) -> bool {
        let new = key != successor
            && !self.successions.contains_key(&key)
            && self.successions.len() < MAX_SUCCESSIONS;
        if new {
            self.successions.insert(key, Succession { key, successor, since: When::now() });
        }
        if let Some(owner) = self.present(&key) {
            self.hand_over(key, owner);
        }
        new
    }

    /// The key at the end of the known successions from `key`, in at most [`MAX_CHAIN`] steps; none without successions, or
    /// if they form a circle.
    pub(super) fn present(&self, key: &PublisherKey) -> Option<PublisherKey> {
        let mut passed = vec![*key];
        while passed.len() <= MAX_CHAIN
            && let Some(known) = self.successions.get(&passed[passed.len() - 1])
        {
            if passed.contains(&known.successor) {
                return None;
            }
            passed.push(known.successor);
        }
        passed.pop().filter(|last| last != key)
    }

    fn hand_over(&mut self, key: PublisherKey, owner: PublisherKey) {
        for pin in self.pins.values_mut().filter(|pin| pin.publisher == key) {
            pin.publisher = owner;
        }
        if let Some(at) = self.publishers.iter().position(|listed| listed.key == key) {
            let former = self.publishers[at].alias.clone();
            match self.publishers.iter_mut().find(|listed| listed.key == owner) {
                Some(listed) => {
                    listed.alias = listed.alias.take().or(former);
                    self.publishers.remove(at);
                }
                None => self.publishers[at].key = owner,
            }
        }
    }

    /// The user's name for a publisher.
    pub fn alias(&self, key: &PublisherKey) -> Option<&Alias> {
        self.listed(key)?.alias.as_ref()
    }
}
