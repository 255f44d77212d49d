//! The index of the records in memory: enough to search, order and count them. The records are on disk.
//!
//! A row takes some 200 bytes: name, version and publisher, a few numbers, and two bytes for each tag and licence, which are
//! a hash of the text. So a search for a tag can find a few wrong rows; the search then compares the records.

use std::collections::btree_map;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;

use super::rows::{Entry, Row, Rows};
use crate::catalog::message::Have;
use crate::catalog::query::Query;
use crate::catalog::record::{ModelRecord, Record, RecordBody};
use crate::catalog::{EXPIRY, MAX_AHEAD, UnixTime};
use crate::model::{ModelName, ModelRef, PublisherKey, Revision};

/// `name NUL version NUL publisher`: the order of search results, and the identity of a record: a newer record with the same key
/// replaces an older one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey(Box<[u8]>);

/// A row to insert.
#[derive(Debug)]
pub(super) struct NewRow {
    pub row: Row,
    /// Hashes of the licence and the tags.
    pub facets: Box<[u16]>,
}

/// Figures of one publisher.
#[derive(Debug, Clone, Default)]
pub(super) struct Publisher {
    /// The highest sequence of the known records.
    pub highest: i64,
    /// The number of known records, including the successor's.
    pub count: u32,
    /// The latest time of the records.
    pub newest: UnixTime,
    /// Sequence, time and bytes on disk of the record that names the successor.
    pub successor: Option<(i64, UnixTime, u16)>,
}

/// All known records.
#[derive(Debug, Default)]
pub(super) struct RecordIndex {
    pub rows: Rows,
    pub publishers: BTreeMap<PublisherKey, Publisher>,
    /// The number of records.
    pub records: usize,
    /// Bytes of all records on disk, without the overhead of the database.
    pub bytes: u64,
    hasher: RandomState,
}

impl Publisher {
    pub fn have(&self, publisher: PublisherKey) -> Have {
        Have { publisher, sequence: self.highest, count: self.count }
    }

    /// Whether only an old successor record is left.
    pub fn outlived(&self, now: UnixTime) -> bool {
        self.count == 1 && self.successor.is_some_and(|(_, time, _)| expired(time, now))
    }
}

impl RowKey {
    pub fn of(publisher: &PublisherKey, model: &ModelRecord) -> Self {
        Self::new(publisher, &model.name, &model.version)
    }

    pub fn new(publisher: &PublisherKey, name: &ModelName, version: &Revision) -> Self {
        let mut key = format!("{name}\0{version}\0").into_bytes();
        key.extend_from_slice(publisher.as_bytes());
        Self(key.into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for RowKey {
    fn from(key: &[u8]) -> Self {
        Self(key.into())
    }
}

/// The publisher in a key.
pub(super) fn publisher_of(key: &[u8]) -> Option<PublisherKey> {
    key.last_chunk().copied().map(PublisherKey)
}

/// The publisher in a key, and the text whose hash is the salt.
pub(super) fn publisher_and_model(key: &[u8]) -> Option<(PublisherKey, String)> {
    let (text, publisher) = key.split_last_chunk::<32>()?;
    let (name, version) = std::str::from_utf8(text).ok()?.strip_suffix('\0')?.split_once('\0')?;
    Some((PublisherKey(*publisher), format!("{name}@{version}")))
}

/// Whether a record of this time has expired.
pub(super) fn expired(time: UnixTime, now: UnixTime) -> bool {
    time.saturating_add(EXPIRY) <= now
}

/// Whether a record of this time is from the future.
pub(super) fn ahead(time: UnixTime, now: UnixTime) -> bool {
    time > now.saturating_add(MAX_AHEAD)
}

/// The kind is hashed too: a tag and a licence with the same text differ.
fn facet(hasher: &RandomState, kind: char, text: &str) -> u16 {
    hasher.hash_one((kind, text)) as u16
}

/// A query in the form that is compared with rows.
pub(super) struct Filter<'a> {
    query: &'a Query,
    facets: Vec<u16>,
    /// The matching publishers, unless all match.
    publishers: Option<HashSet<PublisherKey>>,
}

impl RecordIndex {
    /// The row of a model's record.
    pub fn row(&self, model: &ModelRecord, record: &Record, len: u16) -> NewRow {
        let tags = model.tags.iter().map(|tag| facet(&self.hasher, 't', &tag.to_lowercase()));
        let license = model.license.iter().map(|text| facet(&self.hasher, 'l', &text.to_lowercase()));
        let facets: Box<[u16]> = license.chain(tags).collect();
        // Names have at most 202 bytes.
        let name_len = u8::try_from(model.name.to_string().len()).unwrap_or(u8::MAX);
        let (sequence, time) = (record.sequence, record.time);
        NewRow { row: Row { sequence, time, size: model.size, len, name_len }, facets }
    }

    /// Adds a record from the disk. The index must not have another version of it.
    pub fn load(&mut self, record: &Record, len: u16) {
        let publisher = self.publishers.entry(record.publisher).or_default();
        publisher.count += 1;
        publisher.highest = publisher.highest.max(record.sequence);
        publisher.newest = publisher.newest.max(record.time);
        self.records += 1;
        self.bytes += u64::from(len);
        match &record.body {
            RecordBody::Successor(_) => publisher.successor = Some((record.sequence, record.time, len)),
            RecordBody::Model(model) => {
                let new = self.row(model, record, len);
                self.rows.insert(RowKey::of(&record.publisher, model).bytes(), new.row, &new.facets);
            }
        }
    }

    /// Sequence and time of the known record that this one would replace.
    pub fn current(&self, record: &Record) -> Option<(i64, UnixTime)> {
        match &record.body {
            RecordBody::Successor(_) => {
                let (sequence, time, _) = self.publishers.get(&record.publisher)?.successor?;
                Some((sequence, time))
            }
            RecordBody::Model(model) => {
                let row = self.rows.get(RowKey::of(&record.publisher, model).bytes())?;
                Some((row.sequence, row.time))
            }
        }
    }

    /// Whether there are expired records to delete.
    pub fn has_expired(&self, now: UnixTime, kept: &dyn Fn(&PublisherKey) -> bool) -> bool {
        self.rows.iter().any(|entry| expired(entry.row.time, now))
            || self.publishers.iter().any(|(key, publisher)| publisher.outlived(now) && !kept(key))
    }

    /// The rows of every version of a name by every publisher.
    pub fn of_name(&self, name: &ModelName) -> impl Iterator<Item = Entry<'_>> {
        self.beginning(format!("{name}\0").into_bytes())
    }

    /// The rows of one version of a name by every publisher.
    pub fn of_model(&self, model: &ModelRef) -> impl Iterator<Item = Entry<'_>> {
        self.beginning(format!("{}\0{}\0", model.name, model.revision).into_bytes())
    }

    fn beginning(&self, prefix: Vec<u8>) -> impl Iterator<Item = Entry<'_>> {
        let rows = self.rows.from(Bound::Included(&prefix));
        rows.take_while(move |entry| entry.key.starts_with(&prefix))
    }

    /// Prepares a query.
    pub fn filter<'a>(&self, query: &'a Query) -> Filter<'a> {
        let terms = query.terms();
        let tags = terms.tags.iter().map(|tag| facet(&self.hasher, 't', tag));
        let facets = tags.chain(terms.licenses.iter().map(|text| facet(&self.hasher, 'l', text))).collect();
        let fitting = || self.publishers.keys().filter(|key| terms.publisher_fits(key)).copied().collect();
        Filter { query, facets, publishers: terms.has_publishers().then(fitting) }
    }

    /// Up to `limit` rows after a key (or from the first on) that may match.
    pub fn find(&self, filter: &Filter<'_>, after: Option<&[u8]>, limit: usize) -> Vec<(RowKey, i64)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let terms = filter.query.terms();
        let mut lower = Vec::new();
        let fits = |entry: &Entry<'_>| {
            if !terms.size_fits(entry.row.size) || !filter.facets.iter().all(|facet| entry.has_facet(*facet))
            {
                return false;
            }
            if let Some(fitting) = &filter.publishers
                && !publisher_of(entry.key).is_some_and(|publisher| fitting.contains(&publisher))
            {
                return false;
            }
            !terms.has_names() || {
                lower.clear();
                lower.extend_from_slice(entry.name());
                lower.make_ascii_lowercase();
                terms.name_fits(&lower)
            }
        };
        let found = self.rows.from(start).filter(fits).take(limit);
        found.map(|entry| (entry.key.into(), entry.row.sequence)).collect()
    }

    /// Replaces a publisher's figures; removes a publisher without records.
    pub fn set_publisher(&mut self, key: PublisherKey, publisher: Publisher) {
        match self.publishers.entry(key) {
            btree_map::Entry::Occupied(entry) if publisher.count == 0 => {
                entry.remove();
            }
            btree_map::Entry::Occupied(mut entry) => *entry.get_mut() = publisher,
            btree_map::Entry::Vacant(entry) if publisher.count > 0 => {
                entry.insert(publisher);
            }
            btree_map::Entry::Vacant(_) => {}
        }
    }
}
