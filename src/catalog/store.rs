//! All known records: in an embedded database that survives `kill -9`, with an index in memory for searches.
//!
//! The number of records is bounded, in all and for each publisher, by the rules at [`CatalogStore::insert`].
//!
//! One thread at a time writes, under `writer`. The index in memory and the database's snapshot change together, after the
//! commit and under one lock, so a reader always sees both agree, and never waits for writes to the disk. `writer` is locked
//! before `readable`, and `readable` for as long as a scan of the index takes: at most 50 ms with 100 000 records.
//!
//! Records of [`insert`](CatalogStore::insert) are on disk when it returns; records of
//! [`insert_soon`](CatalogStore::insert_soon) after the next [`flush`](CatalogStore::flush). If the process ends in between,
//! the database is as it was at the flush before.
//!
//! A database that fails is closed, and opened again by the next writer. Until then, no record is found. While the disk is full
//! or read-only, the database is in memory.
//!
//! Calls that write wait for the disk. Calls that return records read the disk, mostly the system's cache: some 10 µs for
//! each record. They, and [`CatalogStore::search`] above all, need a thread that may take time. All other calls answer
//! immediately from memory.

mod disk;
mod index;
mod memory;
mod opening;
mod plan;
mod rows;
mod state;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::Durability;

use self::disk::{RecordKey, TableSnapshot};
use self::index::{RecordIndex, RowKey};
pub use self::plan::StoreOutcome;
use self::plan::{LIMITS, RecordLimits, WritePlan};
use self::state::{DatabaseWriter, InMemory, Readable};
use crate::catalog::UnixTime;
use crate::catalog::message::Have;
use crate::catalog::query::Query;
use crate::catalog::record::{Record, SharedRecord, UncheckedRecord};
use crate::fsutil::is_full_or_read_only;
use crate::model::{ModelName, ModelRef, PublisherKey};

/// The reason why the catalog's database fails.
#[derive(Debug, thiserror::Error)]
#[error("the catalog {}: {reason}", path.display())]
pub struct CatalogStoreError {
    /// Its file.
    pub path: PathBuf,
    /// The database's error.
    pub reason: String,
}

/// A page of search results, by name, version and publisher.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The records.
    pub records: Vec<SharedRecord>,
    /// The cursor of the next page; none after the last.
    pub next: Option<Vec<u8>>,
}

/// The most records of one page.
pub const MAX_PAGE: usize = 1000;
/// The most expired records that one transaction deletes.
const EXPIRE_AT_ONCE: usize = 10_000;

/// The catalog's records.
pub struct CatalogStore {
    file: PathBuf,
    limits: RecordLimits,
    writer: Mutex<DatabaseWriter>,
    readable: RwLock<Readable>,
}

impl CatalogStore {
    /// Opens or makes the database below a directory. A damaged database is moved aside, with a warning, and a new one is
    /// made. Blocks.
    pub fn open(dir: &Path, now: UnixTime) -> Result<Self, CatalogStoreError> {
        Self::open_with(dir, now, LIMITS)
    }

    fn open_with(dir: &Path, now: UnixTime, limits: RecordLimits) -> Result<Self, CatalogStoreError> {
        let file = dir.join("records.redb");
        match fs::create_dir_all(dir) {
            // The database is in memory then.
            Err(error) if !is_full_or_read_only(error.kind()) => {
                return Err(CatalogStoreError { path: file, reason: error.to_string() });
            }
            _ => {}
        }
        let writer = DatabaseWriter { database: None, in_memory: None, unsafe_commits: false, failed: None };
        let readable = Readable { index: RecordIndex::default(), snapshot: None };
        let (writer, readable) = (Mutex::new(writer), RwLock::new(readable));
        let store = Self { file, limits, writer, readable };
        store.reopen(&mut store.writer.lock())?;
        // The publishers to keep are not known yet, so all successors are kept.
        store.expire(now, &|_| true)?;
        Ok(store)
    }

    /// Stores records in one transaction. Records of `kept` publishers (listed, pinned, our own, and former keys of these) are
    /// not deleted for records of other publishers. Blocks.
    ///
    /// - Of a publisher, name and version, the record with the highest sequence stays, and a record with an earlier time does
    ///   not replace it, unless its time is in the future: it arrived while a clock was ahead.
    /// - A publisher has 2 000 records, or 50 000 if kept and not replaced: a later record replaces the one with the lowest
    ///   sequence.
    /// - There are 250 000 records in all, of 128 MiB together. At the limit, records of the publisher that is not kept and
    ///   has the most are deleted, lowest sequence first; of equal publishers, the one with the oldest news.
    /// - The record of a successor does not expire while its publisher is kept or has other records.
    pub fn insert(
        &self,
        records: &[SharedRecord],
        now: UnixTime,
        kept: &dyn Fn(&PublisherKey) -> bool,
    ) -> Result<Vec<StoreOutcome>, CatalogStoreError> {
        self.transact(Durability::Immediate, kept, |plan| plan.insert_all(records, now))
    }

    /// [`insert`](Self::insert) without waiting for the disk, for records that arrive again if they are lost. Until the next
    /// [`flush`](Self::flush), a kill loses them. Blocks, but does not sync the disk.
    pub fn insert_soon(
        &self,
        records: &[SharedRecord],
        now: UnixTime,
        kept: &dyn Fn(&PublisherKey) -> bool,
    ) -> Result<Vec<StoreOutcome>, CatalogStoreError> {
        self.transact(Durability::None, kept, |plan| plan.insert_all(records, now))
    }

    /// Saves all commits to disk, and opens the database again if it has failed. Blocks.
    pub fn flush(&self) -> Result<(), CatalogStoreError> {
        let mut writer = self.writer.lock();
        self.reopen(&mut writer)?;
        let Some(database) = writer.database.as_ref().filter(|_| writer.unsafe_commits) else {
            return Ok(());
        };
        let flushed = || -> Result<(), redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            Ok(transaction.commit()?)
        };
        match flushed() {
            Ok(()) => {
                writer.unsafe_commits = false;
                Ok(())
            }
            Err(error) => self.close_or_continue(&mut writer, &error),
        }
    }

    /// Deletes expired records, and returns how many. The record of a successor stays while its publisher is kept or has other
    /// records. Blocks.
    pub fn expire(
        &self,
        now: UnixTime,
        kept: &dyn Fn(&PublisherKey) -> bool,
    ) -> Result<usize, CatalogStoreError> {
        let mut dropped = 0;
        loop {
            if !self.readable.read().index.has_expired(now, kept) {
                return Ok(dropped);
            }
            match self.transact(Durability::Immediate, kept, |plan| plan.expire(now, EXPIRE_AT_ONCE))? {
                0 => return Ok(dropped),
                more => dropped += more,
            }
        }
    }

    /// The known record of the same publisher, name and version, for
    /// [`Unchecked::verify`](crate::catalog::message::Unchecked::verify). Reads the disk.
    pub fn known(&self, record: &UncheckedRecord) -> Option<SharedRecord> {
        let record = record.record();
        self.record(|index| {
            let (sequence, _) = index.current(record)?;
            Some(disk::key_of(&Record { sequence, ..record.clone() }))
        })
    }

    /// Every revision of a model by every publisher, at most [`MAX_PAGE`]. Reads the disk.
    pub fn of_name(&self, name: &ModelName) -> Vec<SharedRecord> {
        self.records(|index| {
            let rows = index.of_name(name).take(MAX_PAGE);
            rows.filter_map(|entry| disk::key_of_row(entry.key, entry.row.sequence)).collect()
        })
    }

    /// The records of a model at a revision: first of `kept` publishers, then the rest in a random order, so that neither a
    /// flood nor chosen keys hide a record forever; at most [`MAX_PAGE`]. Scans all records of the model, and reads the disk.
    pub fn of_model(&self, model: &ModelRef, kept: &HashSet<PublisherKey>) -> Vec<SharedRecord> {
        let is_kept =
            |key: &[u8]| index::publisher_of(key).is_some_and(|publisher| kept.contains(&publisher));
        self.records(|index| {
            let mut rows = Vec::new();
            let not_kept = index.of_model(model).filter(|entry| {
                let is_kept = is_kept(entry.key);
                if is_kept && rows.len() < MAX_PAGE {
                    rows.push(*entry);
                }
                !is_kept
            });
            let not_kept = random_sample(not_kept, MAX_PAGE);
            rows.extend(not_kept);
            rows.truncate(MAX_PAGE);
            rows.iter().filter_map(|entry| disk::key_of_row(entry.key, entry.row.sequence)).collect()
        })
    }

    /// A publisher's record of a model. Reads the disk.
    pub fn of(&self, publisher: &PublisherKey, model: &ModelRef) -> Option<SharedRecord> {
        let key = RowKey::new(publisher, &model.name, &model.revision);
        self.record(|index| disk::key_of_row(key.bytes(), index.rows.get(key.bytes())?.sequence))
    }

    /// The key that a publisher has named as its successor. Reads the disk.
    pub fn successor(&self, publisher: &PublisherKey) -> Option<SharedRecord> {
        self.record(|index| {
            let (sequence, ..) = index.publishers.get(publisher)?.successor?;
            Some(disk::key_of_successor(publisher, sequence))
        })
    }

    /// Up to `limit` matching models, at most [`MAX_PAGE`], from the cursor of an earlier page on. Scans the whole index, and
    /// reads the disk.
    pub fn search(&self, query: &Query, from: Option<&[u8]>, limit: usize) -> Page {
        let limit = limit.clamp(1, MAX_PAGE);
        let mut page = Page::default();
        let mut from = from.map(<[u8]>::to_vec);
        loop {
            let wanted = limit - page.records.len();
            let state = self.readable.read();
            // One more row shows whether there is another page.
            let mut rows = state.index.find(&state.index.filter(query), from.as_deref(), wanted + 1);
            let snapshot = state.snapshot.clone();
            drop(state);
            let more = rows.len() > wanted;
            rows.truncate(wanted);
            let last = rows.last().map(|(key, _)| key.bytes().to_vec());
            let found = rows.iter().filter_map(|(key, sequence)| disk::key_of_row(key.bytes(), *sequence));
            let found = found.filter_map(|place| self.fetch(&snapshot, &place));
            page.records.extend(found.filter(|record| query.matches(record.record())));
            if !more {
                return page;
            }
            if page.records.len() == limit {
                page.next = last;
                return page;
            }
            from = last;
        }
    }

    /// The summary of each publisher's records. From memory: a millisecond for 20 000.
    pub fn digest(&self) -> Vec<Have> {
        let state = self.readable.read();
        state.index.publishers.iter().map(|(key, publisher)| publisher.have(*key)).collect()
    }

    /// The summary of one publisher's records. From memory.
    pub fn have(&self, publisher: &PublisherKey) -> Option<Have> {
        Some(self.readable.read().index.publishers.get(publisher)?.have(*publisher))
    }

    /// A publisher's records after a sequence, ascending by sequence, at most `limit` and [`MAX_PAGE`]. Reads the disk.
    pub fn after(&self, publisher: &PublisherKey, sequence: i64, limit: usize) -> Vec<SharedRecord> {
        let Some(snapshot) = self.readable.read().snapshot.clone() else { return Vec::new() };
        let (first, last) = disk::keys_after(publisher, sequence);
        let rows = match snapshot.range::<&RecordKey>(&first..&last) {
            Ok(rows) => rows,
            Err(error) => {
                self.unreadable(&error);
                return Vec::new();
            }
        };
        let records = rows.take(limit.min(MAX_PAGE)).filter_map(|row| match row {
            Ok((_, bytes)) => disk::record(bytes.value()),
            Err(error) => {
                self.unreadable(&error);
                None
            }
        });
        records.collect()
    }

    /// How many records are known.
    pub fn len(&self) -> usize {
        self.readable.read().index.records
    }

    /// Whether no record is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the records that the index selects.
    fn records(&self, select: impl FnOnce(&RecordIndex) -> Vec<RecordKey>) -> Vec<SharedRecord> {
        let readable = self.readable.read();
        let (keys, snapshot) = (select(&readable.index), readable.snapshot.clone());
        drop(readable);
        keys.iter().filter_map(|key| self.fetch(&snapshot, key)).collect()
    }

    fn record(&self, select: impl FnOnce(&RecordIndex) -> Option<RecordKey>) -> Option<SharedRecord> {
        self.records(|index| select(index).into_iter().collect()).pop()
    }

    /// Reads one record; none after a disk error, which is logged.
    fn fetch(&self, snapshot: &Option<Arc<TableSnapshot>>, place: &RecordKey) -> Option<SharedRecord> {
        match snapshot.as_ref()?.get(place) {
            Ok(bytes) => bytes.and_then(|bytes| disk::record(bytes.value())),
            Err(error) => {
                self.unreadable(&error);
                None
            }
        }
    }

    fn unreadable(&self, error: &redb::StorageError) {
        tracing::warn!(file = %self.file.display(), %error, "could not read the catalog");
    }

    /// Plans changes and commits them. Readers see all changes together after the commit.
    fn transact<T>(
        &self,
        durability: Durability,
        kept: &dyn Fn(&PublisherKey) -> bool,
        change: impl Fn(&mut WritePlan<'_, '_>) -> Result<T, redb::Error>,
    ) -> Result<T, CatalogStoreError> {
        let mut writer = self.writer.lock();
        self.reopen(&mut writer)?;
        loop {
            match self.try_transact(&mut writer, durability, kept, &change) {
                Ok(done) => return Ok(done),
                Err(error) => self.close_or_continue(&mut writer, &error)?,
            }
        }
    }

    fn try_transact<T>(
        &self,
        writer: &mut DatabaseWriter,
        durability: Durability,
        kept: &dyn Fn(&PublisherKey) -> bool,
        change: impl Fn(&mut WritePlan<'_, '_>) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let Some(database) = &writer.database else { return Err(redb::Error::DatabaseClosed) };
        let mut transaction = database.begin_write()?;
        transaction.set_durability(durability)?;
        // Only the writer changes the index, so this thread may read it for long.
        let state = self.readable.read();
        let mut plan = WritePlan::new(&state.index, disk::rows(&transaction)?, &self.limits, kept);
        let done = change(&mut plan)?;
        let changes = plan.finish();
        drop(state);
        if changes.is_empty() {
            // Without changes there is nothing to sync.
            transaction.abort()?;
            return Ok(done);
        }
        transaction.commit()?;
        let snapshot = disk::snapshot(database)?;
        writer.unsafe_commits = matches!(durability, Durability::None);
        let mut state = self.readable.write();
        changes.apply(&mut state.index);
        state.snapshot = Some(Arc::new(snapshot));
        Ok(done)
    }
}

/// At most `most` random items in a random order. Uses memory only for the result.
fn random_sample<T>(items: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let mut chosen = Vec::new();
    for (before, item) in items.enumerate() {
        if chosen.len() < most {
            chosen.push(item);
        } else if let Some(place) = chosen.get_mut(fastrand::usize(..=before)) {
            *place = item;
        }
    }
    fastrand::shuffle(&mut chosen);
    chosen
}

impl Drop for CatalogStore {
    fn drop(&mut self) {
        let mut writer = self.writer.lock();
        // The records in memory are lost if the disk is still full.
        writer.in_memory.iter_mut().for_each(InMemory::try_soon);
        self.return_to_disk(&mut writer);
        // A failed database has nothing to save.
        let is_open = writer.database.is_some();
        drop(writer);
        if is_open && let Err(error) = self.flush() {
            tracing::warn!(%error, "could not save the latest records of the catalog");
        }
    }
}

#[cfg(test)]
mod tests;
