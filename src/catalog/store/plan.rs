//! Changes of the index that a transaction plans: the rules see them immediately, readers after the commit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use redb::ReadableTable as _;

use super::disk::{self, RecordKey, RowTable};
use super::index::{NewRow, Publisher, RecordIndex, RowKey, ahead, expired, publisher_of};
use super::rows::Row;
use crate::catalog::UnixTime;
use crate::catalog::record::{Record, RecordBody, SharedRecord, SignedRecord, successor_salt};
use crate::model::PublisherKey;

/// The result of storing a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOutcome {
    /// New, or newer than the one known: stored.
    Stored,
    /// Known already, or older than the one known.
    Known,
    /// The record has a future time or has expired.
    Untimely,
    /// A limit is reached.
    Full,
}

/// The limits of the store.
#[derive(Debug, Clone)]
pub(super) struct RecordLimits {
    /// Records in all. The hub has about two million models; a quarter of a million records are 60 MB in memory.
    pub records: usize,
    /// Bytes of all records on disk: enough for so many records of common length.
    pub bytes: u64,
    /// Records of a publisher that is not kept: more than any organisation on the hub has, and few enough that one key cannot
    /// fill the catalog.
    pub per_publisher: u32,
    /// Records of a kept publisher: enough for a mirror of a large part of the hub.
    pub per_kept: u32,
}

pub(super) const LIMITS: RecordLimits =
    RecordLimits { records: 250_000, bytes: 128 << 20, per_publisher: 2_000, per_kept: 50_000 };

/// Changes to the index.
#[derive(Default)]
pub(super) struct Changes {
    rows: BTreeMap<RowKey, Option<NewRow>>,
    publishers: HashMap<PublisherKey, Publisher>,
    records: usize,
    bytes: u64,
}

/// A transaction in preparation.
pub(super) struct WritePlan<'a, 't> {
    index: &'a RecordIndex,
    rows: RowTable<'t>,
    limits: &'a RecordLimits,
    kept: &'a dyn Fn(&PublisherKey) -> bool,
    changes: Changes,
    /// Publishers by their number of records, most first, then by the age of their latest news. Made when first needed;
    /// entries may be out of date.
    victims: Option<BinaryHeap<(u32, Reverse<UnixTime>, PublisherKey)>>,
}

impl Changes {
    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.publishers.is_empty()
    }

    /// Applies the changes.
    pub fn apply(self, index: &mut RecordIndex) {
        for (key, row) in self.rows {
            match row {
                Some(new) => index.rows.insert(key.bytes(), new.row, &new.facets),
                None => index.rows.remove(key.bytes()),
            }
        }
        for (key, publisher) in self.publishers {
            index.set_publisher(key, publisher);
        }
        (index.records, index.bytes) = (self.records, self.bytes);
    }
}

impl<'a, 't> WritePlan<'a, 't> {
    pub fn new(
        index: &'a RecordIndex,
        rows: RowTable<'t>,
        limits: &'a RecordLimits,
        kept: &'a dyn Fn(&PublisherKey) -> bool,
    ) -> Self {
        let changes = Changes { records: index.records, bytes: index.bytes, ..Changes::default() };
        Self { index, rows, limits, kept, changes, victims: None }
    }

    pub fn finish(self) -> Changes {
        self.changes
    }

    fn row(&self, key: &RowKey) -> Option<&Row> {
        match self.changes.rows.get(key) {
            Some(changed) => changed.as_ref().map(|new| &new.row),
            None => self.index.rows.get(key.bytes()),
        }
    }

    fn publisher(&self, key: &PublisherKey) -> Publisher {
        self.changes
            .publishers
            .get(key)
            .or_else(|| self.index.publishers.get(key))
            .cloned()
            .unwrap_or_default()
    }

    /// Inserts records by the rules at [`CatalogStore::insert`](super::CatalogStore::insert).
    pub fn insert_all(
        &mut self,
        records: &[SharedRecord],
        now: UnixTime,
    ) -> Result<Vec<StoreOutcome>, redb::Error> {
        records.iter().map(|record| self.insert(record, now)).collect()
    }

    /// Inserts a record by the rules at [`CatalogStore::insert`](super::CatalogStore::insert).
    fn insert(&mut self, signed: &SignedRecord, now: UnixTime) -> Result<StoreOutcome, redb::Error> {
        let record = signed.record();
        let mut publisher = self.publisher(&record.publisher);
        let kept = (self.kept)(&record.publisher);
        let old = expired(record.time, now);
        if signed.check_time(now).is_err() || (old && !kept && publisher.count == 0) {
            return Ok(StoreOutcome::Untimely);
        }
        let key = signed.model().map(|model| RowKey::of(&record.publisher, model));
        let known = match &key {
            Some(key) => self.row(key).map(|row| (row.sequence, row.time, row.len)),
            None => publisher.successor,
        };
        // A record with a future timestamp does not block newer ones.
        let counts = known.filter(|(_, time, _)| !ahead(*time, now));
        if counts.is_some_and(|(sequence, time, _)| record.sequence <= sequence || record.time < time) {
            return Ok(StoreOutcome::Known);
        }
        let bytes = signed.to_bytes();
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        if let Some((sequence, _, len)) = known {
            let old = Record { sequence, ..record.clone() };
            self.forget(&disk::key_of(&old), key.as_ref(), &record.publisher, len)?;
        } else if !self.make_room(record, &publisher, kept, len)? {
            return Ok(StoreOutcome::Full);
        }
        publisher = self.publisher(&record.publisher);
        publisher.count += 1;
        publisher.highest = publisher.highest.max(record.sequence);
        publisher.newest = publisher.newest.max(record.time);
        self.rows.insert(&disk::key_of(record), bytes.as_slice())?;
        match (&record.body, key) {
            (RecordBody::Model(model), Some(key)) => {
                let row = self.index.row(model, record, len);
                self.changes.rows.insert(key, Some(row));
            }
            _ => publisher.successor = Some((record.sequence, record.time, len)),
        }
        if let Some(victims) = &mut self.victims {
            victims.push((publisher.count, Reverse(publisher.newest), record.publisher));
        }
        self.changes.publishers.insert(record.publisher, publisher);
        self.changes.records += 1;
        self.changes.bytes += u64::from(len);
        Ok(StoreOutcome::Stored)
    }

    /// Makes room for a record that replaces none. Returns false if that is not possible.
    fn make_room(
        &mut self,
        record: &Record,
        publisher: &Publisher,
        kept: bool,
        len: u16,
    ) -> Result<bool, redb::Error> {
        // The holder of a replaced key may not be its owner.
        let trusted = kept && publisher.successor.is_none();
        let most = if trusted { self.limits.per_kept } else { self.limits.per_publisher };
        if publisher.count >= most && !self.evict_older(record)? {
            return Ok(false);
        }
        while self.changes.records >= self.limits.records
            || self.changes.bytes + u64::from(len) > self.limits.bytes
        {
            let own = if kept { 0 } else { self.publisher(&record.publisher).count };
            let Some((victim, count)) = self.victim() else { return Ok(false) };
            let made = if own >= count && own > 0 {
                self.evict_older(record)?
            } else {
                self.evict(&victim, i64::MAX)?
            };
            if !made {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The publisher with the most records that is not kept, and the number.
    fn victim(&mut self) -> Option<(PublisherKey, u32)> {
        let mut victims = self.victims.take().unwrap_or_else(|| {
            let known = self.index.publishers.iter().map(|(key, publisher)| (*key, publisher));
            let changed = self.changes.publishers.iter().map(|(key, publisher)| (*key, publisher));
            known.chain(changed).map(|(key, p)| (p.count, Reverse(p.newest), key)).collect()
        });
        let mut found = None;
        while let Some((count, newest, key)) = victims.pop() {
            let now = self.publisher(&key);
            if now.count == 0 || (self.kept)(&key) {
                continue;
            }
            victims.push((now.count, Reverse(now.newest), key));
            if (now.count, now.newest) == (count, newest.0) {
                found = Some((key, count));
                break;
            }
        }
        self.victims = Some(victims);
        found
    }

    /// Deletes the oldest record of the same publisher, if it is older than this one.
    fn evict_older(&mut self, record: &Record) -> Result<bool, redb::Error> {
        self.evict(&record.publisher, record.sequence)
    }

    /// Deletes the record of a publisher with the lowest sequence, if that is below `before`; the successor's record last.
    /// Returns whether a record was deleted.
    fn evict(&mut self, publisher: &PublisherKey, before: i64) -> Result<bool, redb::Error> {
        let only = self.publisher(publisher).count == 1;
        let (first, last) = disk::keys_after(publisher, -1);
        let mut oldest = None;
        for row in self.rows.range::<&RecordKey>(&first..=&last)? {
            let (place, bytes) = row?;
            if only || place.value()[40..] != successor_salt() {
                oldest = Some((*place.value(), disk::record(bytes.value()), bytes.value().len()));
                break;
            }
        }
        let Some((place, record, len)) = oldest else { return Ok(false) };
        let Some(record) = record.filter(|record| record.record().sequence < before) else {
            return Ok(false);
        };
        let key = record.model().map(|model| RowKey::of(publisher, model));
        self.forget(&place, key.as_ref(), publisher, u16::try_from(len).unwrap_or(u16::MAX))?;
        Ok(true)
    }

    /// Deletes a record. Without a key, it is the publisher's successor record.
    fn forget(
        &mut self,
        place: &RecordKey,
        key: Option<&RowKey>,
        publisher: &PublisherKey,
        len: u16,
    ) -> Result<(), redb::Error> {
        self.rows.remove(place)?;
        let mut state = self.publisher(publisher);
        state.count = state.count.saturating_sub(1);
        match key {
            Some(key) => {
                self.changes.rows.insert(key.clone(), None);
            }
            None => state.successor = None,
        }
        self.changes.publishers.insert(*publisher, state);
        self.changes.records = self.changes.records.saturating_sub(1);
        self.changes.bytes = self.changes.bytes.saturating_sub(u64::from(len));
        Ok(())
    }

    /// Deletes up to `most` expired records, and returns how many.
    pub fn expire(&mut self, now: UnixTime, most: usize) -> Result<usize, redb::Error> {
        let index = self.index;
        let mut dropped = 0;
        for entry in index.rows.iter().filter(|entry| expired(entry.row.time, now)).take(most) {
            let place = disk::key_of_row(entry.key, entry.row.sequence);
            if let Some((place, publisher)) = place.zip(publisher_of(entry.key)) {
                self.forget(&place, Some(&entry.key.into()), &publisher, entry.row.len)?;
                dropped += 1;
            }
        }
        for key in index.publishers.keys() {
            let publisher = self.publisher(key);
            if dropped < most
                && publisher.outlived(now)
                && !(self.kept)(key)
                && let Some((sequence, _, len)) = publisher.successor
            {
                self.forget(&disk::key_of_successor(key, sequence), None, key, len)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}
