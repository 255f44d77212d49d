//! What of the records is in memory: enough to search, to order and to bound them. The records are on disk.
//!
//! A row takes some 250 bytes, whatever its record says: the name, six numbers, and two bytes for each tag and licence,
//! which are the hash of the text. So a search for a tag can find a few rows too many; it looks at the record then.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;

use crate::catalog::message::Have;
use crate::catalog::query::Query;
use crate::catalog::record::{Body, ModelRecord, Record};
use crate::catalog::{EXPIRY, UnixTime};
use crate::model::{ModelName, PublisherKey};

/// `name NUL version NUL publisher`: orders the models as they are listed, and says which record replaces which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Box<[u8]>);

/// What is known of one model's record.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub sequence: i64,
    pub time: UnixTime,
    /// Bytes on disk.
    pub len: u16,
    size: u64,
    /// Hashes of the licence and the tags.
    facets: Box<[u16]>,
}

/// What is known of one publisher.
#[derive(Debug, Clone, Default)]
pub(super) struct Publisher {
    /// The highest sequence seen among the records known.
    pub highest: i64,
    /// How many records are known, the successor's included.
    pub count: u32,
    /// The latest time among them.
    pub newest: UnixTime,
    /// Sequence, time and bytes on disk of the record that names the successor.
    pub successor: Option<(i64, UnixTime, u16)>,
}

/// All records known.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub rows: BTreeMap<Key, Row>,
    pub publishers: BTreeMap<PublisherKey, Publisher>,
    /// How many records there are.
    pub records: usize,
    /// Bytes on disk of all records, without the database's own.
    pub bytes: u64,
    hasher: RandomState,
}

impl Publisher {
    pub fn have(&self, publisher: PublisherKey) -> Have {
        Have { publisher, sequence: self.highest, count: self.count }
    }

    /// Whether nothing is left but an old record that names the successor.
    pub fn outlived(&self, now: UnixTime) -> bool {
        self.count == 1 && self.successor.is_some_and(|(_, time, _)| expired(time, now))
    }
}

impl Key {
    pub fn of(publisher: &PublisherKey, model: &ModelRecord) -> Self {
        let mut key = format!("{}\0{}\0", model.name, model.version).into_bytes();
        key.extend_from_slice(publisher.as_bytes());
        Self(key.into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name and the version as text, and the publisher.
    fn parts(&self) -> Option<(&str, &str, PublisherKey)> {
        let (text, publisher) = self.0.split_last_chunk::<32>()?;
        let (name, version) = std::str::from_utf8(text).ok()?.strip_suffix('\0')?.split_once('\0')?;
        Some((name, version, PublisherKey(*publisher)))
    }

    /// Publisher, and the text that the salt is the hash of.
    pub fn publisher_and_model(&self) -> Option<(PublisherKey, String)> {
        let (name, version, publisher) = self.parts()?;
        Some((publisher, format!("{name}@{version}")))
    }
}

/// Whether a record of that time is too old.
pub(super) fn expired(time: UnixTime, now: UnixTime) -> bool {
    time.saturating_add(EXPIRY) <= now
}

/// A tag and a licence of the same text are not the same.
fn facet(hasher: &RandomState, kind: char, text: &str) -> u16 {
    hasher.hash_one((kind, text)) as u16
}

/// A query as rows are asked.
pub(super) struct Filter<'a> {
    query: &'a Query,
    facets: Vec<u16>,
    /// Those who fit, where not all do.
    publishers: Option<BTreeSet<PublisherKey>>,
}

impl Index {
    pub fn row(&self, model: &ModelRecord, time: UnixTime, sequence: i64, len: u16) -> Row {
        let tags = model.tags.iter().map(|tag| facet(&self.hasher, 't', &tag.to_lowercase()));
        let license = model.license.iter().map(|text| facet(&self.hasher, 'l', &text.to_lowercase()));
        let facets: Box<[u16]> = license.chain(tags).collect();
        Row { sequence, time, len, size: model.size, facets }
    }

    /// Takes in a record from the disk, of which no other version is here.
    pub fn load(&mut self, record: &Record, len: u16) {
        let publisher = self.publishers.entry(record.publisher).or_default();
        publisher.count += 1;
        publisher.highest = publisher.highest.max(record.sequence);
        publisher.newest = publisher.newest.max(record.time);
        self.records += 1;
        self.bytes += u64::from(len);
        match &record.body {
            Body::Successor(_) => publisher.successor = Some((record.sequence, record.time, len)),
            Body::Model(model) => {
                let row = self.row(model, record.time, record.sequence, len);
                self.rows.insert(Key::of(&record.publisher, model), row);
            }
        }
    }

    /// Sequence and time of the record known that this one would replace.
    pub fn current(&self, record: &Record) -> Option<(i64, UnixTime)> {
        match &record.body {
            Body::Successor(_) => {
                let (sequence, time, _) = self.publishers.get(&record.publisher)?.successor?;
                Some((sequence, time))
            }
            Body::Model(model) => {
                let row = self.rows.get(&Key::of(&record.publisher, model))?;
                Some((row.sequence, row.time))
            }
        }
    }

    /// Whether anything is to be dropped for its age.
    pub fn has_expired(&self, now: UnixTime, kept: &dyn Fn(&PublisherKey) -> bool) -> bool {
        self.rows.values().any(|row| expired(row.time, now))
            || self.publishers.iter().any(|(key, publisher)| publisher.outlived(now) && !kept(key))
    }

    /// The rows of every version of a name by every publisher.
    pub fn of_name(&self, name: &ModelName) -> impl Iterator<Item = (&Key, &Row)> {
        let prefix = format!("{name}\0").into_bytes();
        let from = Key(prefix.clone().into());
        self.rows.range(from..).take_while(move |(key, _)| key.0.starts_with(&prefix))
    }

    /// Prepares a query.
    pub fn filter<'a>(&self, query: &'a Query) -> Filter<'a> {
        let terms = query.terms();
        let tags = terms.tags.iter().map(|tag| facet(&self.hasher, 't', tag));
        let facets = tags.chain(terms.licenses.iter().map(|text| facet(&self.hasher, 'l', text))).collect();
        let fitting = || self.publishers.keys().filter(|key| terms.publisher_fits(key)).copied().collect();
        Filter { query, facets, publishers: terms.has_publishers().then(fitting) }
    }

    /// Up to `limit` rows after a key (or from the first on) that may fit.
    pub fn find(&self, filter: &Filter<'_>, after: Option<&[u8]>, limit: usize) -> Vec<(Key, i64)> {
        let start = match after {
            Some(key) => Bound::Excluded(Key(key.into())),
            None => Bound::Unbounded,
        };
        let mut lower = String::new();
        let fits = |(key, row): &(&Key, &Row)| {
            let terms = filter.query.terms();
            if !terms.size_fits(row.size) || !filter.facets.iter().all(|facet| row.facets.contains(facet)) {
                return false;
            }
            let Some((name, _, publisher)) = key.parts() else { return false };
            if filter.publishers.as_ref().is_some_and(|fitting| !fitting.contains(&publisher)) {
                return false;
            }
            lower.clear();
            lower.push_str(name);
            lower.make_ascii_lowercase();
            terms.name_fits(&lower)
        };
        let rows = self.rows.range((start, Bound::Unbounded)).filter(fits);
        rows.take(limit).map(|(key, row)| (key.clone(), row.sequence)).collect()
    }

    /// Puts a publisher's new state in place of the old; one without records goes.
    pub fn set_publisher(&mut self, key: PublisherKey, publisher: Publisher) {
        match self.publishers.entry(key) {
            Entry::Occupied(entry) if publisher.count == 0 => {
                entry.remove();
            }
            Entry::Occupied(mut entry) => *entry.get_mut() = publisher,
            Entry::Vacant(entry) if publisher.count > 0 => {
                entry.insert(publisher);
            }
            Entry::Vacant(_) => {}
        }
    }
}
