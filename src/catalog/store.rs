//! All records known: in an embedded database that survives `kill -9`, and in memory what a search looks at.
//!
//! Bounded in all and per publisher; what is over goes by the rules at [`CatalogStore::insert`].
//!
//! Who writes: one thread at a time, under `writer`. The index in memory and the database's snapshot change together,
//! after the commit and under one lock, so a reader always sees the two agree, and never waits for the disk's writes.
//! `writer` is locked before `state`, and `state` for as long as a scan of the index takes: 50 ms with 100 000 records
//! at worst.
//!
//! What [`insert`](CatalogStore::insert) has taken in is on the disk when it returns; what
//! [`insert_soon`](CatalogStore::insert_soon) has, after the next [`flush`](CatalogStore::flush). Ended in between, the
//! database is as it was at the flush before.
//!
//! A database that fails, as on a full disk, is closed and opened again by the next who writes. Until that succeeds,
//! nothing is found in it.
//!
//! Calls that write wait for the disk. Those that return records read them from the disk, mostly from the system's
//! cache: some 10 µs for each record. They, and [`CatalogStore::search`] above all, belong on a thread that may take
//! time. The others answer from memory at once.

mod disk;
mod index;
mod plan;
mod rows;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use redb::{Database, Durability};

use self::disk::{OpenError, Place, Snapshot};
use self::index::{Index, Key};
use self::plan::Plan;
use crate::catalog::UnixTime;
use crate::catalog::message::Have;
use crate::catalog::query::Query;
use crate::catalog::record::{Record, SharedRecord, UncheckedRecord};
use crate::model::{ModelName, ModelRef, PublisherKey};

/// Why the catalog's database fails.
#[derive(Debug, thiserror::Error)]
#[error("the catalog {}: {reason}", path.display())]
pub struct StoreError {
    /// Its file.
    pub path: PathBuf,
    /// What the database said.
    pub reason: String,
}

/// What became of a record that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// New, or newer than the one known: stored.
    Stored,
    /// Known already, or older than the one known.
    Known,
    /// From the future or expired.
    Untimely,
    /// Beyond a bound.
    Full,
}

/// A page of search results, by name, version and publisher.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The records.
    pub records: Vec<SharedRecord>,
    /// Where the next page begins; none after the last.
    pub next: Option<Vec<u8>>,
}

/// How much is kept.
#[derive(Debug, Clone)]
struct Limits {
    /// Records in all. The hub has about two million models; a quarter of a million records are 60 MB in memory.
    records: usize,
    /// Bytes of records on disk in all: what so many records of common length take.
    bytes: u64,
    /// Records of one publisher who is not kept: more than any organisation on the hub has, few enough that a single key
    /// cannot fill the catalog.
    per_publisher: u32,
    /// Records of a kept one: even a mirror of a large part of the hub has its place.
    per_kept: u32,
}

const LIMITS: Limits = Limits { records: 250_000, bytes: 128 << 20, per_publisher: 2_000, per_kept: 50_000 };

/// The most records of one page, whatever was asked for.
pub const MAX_PAGE: usize = 1000;
/// The most records that one transaction drops when they expire.
const EXPIRE_AT_ONCE: usize = 10_000;

/// How soon after a failed attempt to open the database again another is made.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// What readers see; both parts of the same transaction.
struct State {
    index: Index,
    /// None while the database is not open.
    snapshot: Option<Arc<Snapshot>>,
}

/// What the one who writes has.
struct Writer {
    /// None after it failed.
    database: Option<Database>,
    /// Something is committed that is not on the disk.
    unsafe_commits: bool,
    /// When it was tried in vain to open it again, and why that failed.
    failed: Option<(Instant, String)>,
}

/// The catalog's records.
pub struct CatalogStore {
    file: PathBuf,
    limits: Limits,
    writer: Mutex<Writer>,
    state: RwLock<State>,
}

/// All that opening the database gives.
type Loaded = (Database, Snapshot, Index, Vec<Place>);

impl CatalogStore {
    /// Opens or makes the database below a directory; one that is damaged is put aside, said, and begun anew. Blocks.
    pub fn open(dir: &Path, now: UnixTime) -> Result<Self, StoreError> {
        Self::open_with(dir, now, LIMITS)
    }

    fn open_with(dir: &Path, now: UnixTime, limits: Limits) -> Result<Self, StoreError> {
        let file = dir.join("records.redb");
        let failed = |reason: String| StoreError { path: file.clone(), reason };
        fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
        let (database, snapshot, index, unreadable) = Self::load_or_begin_anew(&file).map_err(failed)?;
        let state = RwLock::new(State { index, snapshot: Some(Arc::new(snapshot)) });
        let writer = Writer { database: Some(database), unsafe_commits: false, failed: None };
        let store = Self { file: file.clone(), limits, writer: Mutex::new(writer), state };
        store.drop_unreadable(&mut store.lock(), &unreadable)?;
        // Whose successors are to be kept is not known yet.
        store.expire(now, &|_| true)?;
        Ok(store)
    }

    /// Reads the database; one that is damaged is put aside.
    fn load_or_begin_anew(file: &Path) -> Result<Loaded, String> {
        let loaded = match Self::load(file) {
            Err(OpenError::Damaged(reason)) => {
                let aside = disk::put_aside(file).map_err(|error| error.to_string())?;
                tracing::warn!(
                    "the catalog {} is damaged ({reason}); it was put aside as {}, and the records will come again \
                     from other nodes",
                    file.display(),
                    aside.display()
                );
                Self::load(file)
            }
            loaded => loaded,
        };
        loaded.map_err(|error| match error {
            OpenError::Damaged(reason) | OpenError::Failed(reason) => reason,
        })
    }

    /// Reads the database, and tells the places of what cannot be read: written by another version.
    fn load(file: &Path) -> Result<Loaded, OpenError> {
        let (mut index, mut unreadable) = (Index::default(), Vec::new());
        let (database, snapshot) = disk::open(file, |place, bytes| {
            let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            match disk::record(bytes) {
                Some(record)
                    if disk::place_of(record.record()) == *place
                        && index.current(record.record()).is_none() =>
                {
                    index.load(record.record(), len);
                }
                _ => unreadable.push(*place),
            }
        })?;
        Ok((database, snapshot, index, unreadable))
    }

    fn drop_unreadable(&self, writer: &mut Writer, places: &[Place]) -> Result<(), StoreError> {
        let Some(database) = writer.database.as_ref().filter(|_| !places.is_empty()) else { return Ok(()) };
        tracing::warn!("{} records of the catalog cannot be read; they are dropped", places.len());
        let drop_them = || -> Result<_, redb::Error> {
            let transaction = database.begin_write()?;
            let mut rows = disk::rows(&transaction)?;
            for place in places {
                rows.remove(place)?;
            }
            drop(rows);
            transaction.commit()?;
            disk::snapshot(database)
        };
        match drop_them() {
            Ok(snapshot) => self.write().snapshot = Some(Arc::new(snapshot)),
            Err(error) => return Err(self.close(writer, &error)),
        }
        Ok(())
    }

    /// Opens the database again after it failed, unless that was tried a moment ago.
    fn reopen(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.database.is_some() {
            return Ok(());
        }
        if let Some((when, reason)) = &writer.failed
            && when.elapsed() < REOPEN_AFTER
        {
            return Err(StoreError { path: self.file.clone(), reason: reason.clone() });
        }
        match Self::load_or_begin_anew(&self.file) {
            Ok((database, snapshot, index, unreadable)) => {
                writer.database = Some(database);
                (writer.unsafe_commits, writer.failed) = (false, None);
                *self.write() = State { index, snapshot: Some(Arc::new(snapshot)) };
                tracing::info!("the catalog {} is open again", self.file.display());
                self.drop_unreadable(writer, &unreadable)
            }
            Err(reason) => {
                tracing::warn!("the catalog {} cannot be opened again: {reason}", self.file.display());
                writer.failed = Some((Instant::now(), reason.clone()));
                Err(StoreError { path: self.file.clone(), reason })
            }
        }
    }

    /// Closes the database after an error: it refuses everything from then on.
    fn close(&self, writer: &mut Writer, error: &redb::Error) -> StoreError {
        tracing::warn!("the catalog {} is closed after an error: {error}", self.file.display());
        self.write().snapshot = None;
        writer.database = None;
        StoreError { path: self.file.clone(), reason: error.to_string() }
    }

    /// Takes records in, in one transaction. Records of `kept` publishers (listed, pinned, our own, and former keys of
    /// these) are not made to go for those of others. Blocks.
    ///
    /// - Of a publisher, name and version, the record with the highest sequence stays, and time does not go back with it,
    ///   unless its time is in the future: it came while a clock was ahead.
    /// - A publisher has 2 000 records, or 50 000 if kept and not replaced: a later one makes the one with the lowest sequence go.
    /// - There are 250 000 in all, of 128 MiB together: when they are reached, those of the publisher go who is not kept
    ///   and has the most, lowest sequence first; of equals, of the one who was not heard of for longest.
    /// - What names a publisher's successor does not expire while the publisher is kept or has other records here.
    pub fn insert(
        &self,
        records: &[SharedRecord],
        now: UnixTime,
        kept: &dyn Fn(&PublisherKey) -> bool,
    ) -> Result<Vec<Outcome>, StoreError> {
        let insert =
            |plan: &mut Plan<'_, '_>| records.iter().map(|record| plan.insert(record, now)).collect();
        self.transact(Durability::Immediate, kept, insert)
    }

    /// [`insert`](Self::insert) of what comes again if it is lost: the disk is not waited for. What is not on it by the
    /// next [`flush`](Self::flush) is lost when the process is killed before. Blocks, but for the disk's syncing.
    pub fn insert_soon(
        &self,
        records: &[SharedRecord],
        now: UnixTime,
        kept: &dyn Fn(&PublisherKey) -> bool,
    ) -> Result<Vec<Outcome>, StoreError> {
        let insert =
            |plan: &mut Plan<'_, '_>| records.iter().map(|record| plan.insert(record, now)).collect();
        self.transact(Durability::None, kept, insert)
    }

    /// Puts on the disk what is not there yet; opens the database again where it failed. Blocks.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut writer = self.lock();
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
            Err(error) => Err(self.close(&mut writer, &error)),
        }
    }

    /// Drops what has expired; returns how many. What a publisher has named as successor stays while the publisher is
    /// kept or any other record of theirs is known. Blocks.
    pub fn expire(&self, now: UnixTime, kept: &dyn Fn(&PublisherKey) -> bool) -> Result<usize, StoreError> {
        let mut dropped = 0;
        loop {
            if !self.read().index.has_expired(now, kept) {
                return Ok(dropped);
            }
            match self.transact(Durability::Immediate, kept, |plan| plan.expire(now, EXPIRE_AT_ONCE))? {
                0 => return Ok(dropped),
                more => dropped += more,
            }
        }
    }

    /// Whether a record would be new, or newer than the one known. From memory.
    pub fn is_news(&self, record: &Record) -> bool {
        match self.read().index.current(record) {
            Some((sequence, time)) => record.sequence > sequence && record.time >= time,
            None => true,
        }
    }

    /// The record known of the same publisher, name and version, for
    /// [`Unchecked::verify`](crate::catalog::message::Unchecked::verify). Reads the disk.
    pub fn known(&self, record: &UncheckedRecord) -> Option<SharedRecord> {
        let record = record.record();
        let state = self.read();
        let (sequence, _) = state.index.current(record)?;
        let snapshot = state.snapshot.clone();
        drop(state);
        self.fetch(&snapshot, &disk::place_of(&Record { sequence, ..record.clone() }))
    }

    /// Every revision of a model by every publisher, at most [`MAX_PAGE`]. Reads the disk.
    pub fn of_name(&self, name: &ModelName) -> Vec<SharedRecord> {
        let state = self.read();
        let rows = state.index.of_name(name).take(MAX_PAGE);
        let places: Vec<_> =
            rows.filter_map(|entry| disk::place_of_row(entry.key, entry.row.sequence)).collect();
        let snapshot = state.snapshot.clone();
        drop(state);
        places.iter().filter_map(|place| self.fetch(&snapshot, place)).collect()
    }

    /// The records of a model at a revision, those of `kept` publishers first, then others in an order of chance, so that
    /// neither a flood nor well chosen keys hide any for ever; at most [`MAX_PAGE`]. Looks at all records of the model,
    /// and reads the disk.
    pub fn of_model(&self, model: &ModelRef, kept: &HashSet<PublisherKey>) -> Vec<SharedRecord> {
        let state = self.read();
        let mut rows = Vec::new();
        let is_kept =
            |key: &[u8]| index::publisher_of(key).is_some_and(|publisher| kept.contains(&publisher));
        let others = state.index.of_model(model).filter(|entry| {
            let is_kept = is_kept(entry.key);
            if is_kept && rows.len() < MAX_PAGE {
                rows.push(*entry);
            }
            !is_kept
        });
        let others = by_chance(others, MAX_PAGE);
        rows.extend(others);
        rows.truncate(MAX_PAGE);
        let places: Vec<_> =
            rows.iter().filter_map(|entry| disk::place_of_row(entry.key, entry.row.sequence)).collect();
        let snapshot = state.snapshot.clone();
        drop(state);
        places.iter().filter_map(|place| self.fetch(&snapshot, place)).collect()
    }

    /// A publisher's record of a model. Reads the disk.
    pub fn of(&self, publisher: &PublisherKey, model: &ModelRef) -> Option<SharedRecord> {
        let state = self.read();
        let key = Key::new(publisher, &model.name, &model.revision);
        let place = disk::place_of_row(key.bytes(), state.index.rows.get(key.bytes())?.sequence)?;
        let snapshot = state.snapshot.clone();
        drop(state);
        self.fetch(&snapshot, &place)
    }

    /// The key that a publisher has named as its successor. Reads the disk.
    pub fn successor(&self, publisher: &PublisherKey) -> Option<SharedRecord> {
        let state = self.read();
        let (sequence, ..) = state.index.publishers.get(publisher)?.successor?;
        let snapshot = state.snapshot.clone();
        drop(state);
        self.fetch(&snapshot, &disk::place_of_successor(publisher, sequence))
    }

    /// Up to `limit` models that match, at most [`MAX_PAGE`], from a cursor on that an earlier page gave. Looks at all
    /// that is known, and reads the disk.
    pub fn search(&self, query: &Query, from: Option<&[u8]>, limit: usize) -> Page {
        let limit = limit.clamp(1, MAX_PAGE);
        let mut page = Page::default();
        let mut from = from.map(<[u8]>::to_vec);
        loop {
            let wanted = limit - page.records.len();
            let state = self.read();
            // One more tells whether there is another page.
            let mut rows = state.index.find(&state.index.filter(query), from.as_deref(), wanted + 1);
            let snapshot = state.snapshot.clone();
            drop(state);
            let more = rows.len() > wanted;
            rows.truncate(wanted);
            let last = rows.last().map(|(key, _)| key.bytes().to_vec());
            let found = rows.iter().filter_map(|(key, sequence)| disk::place_of_row(key.bytes(), *sequence));
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

    /// What is known of each publisher. From memory: a millisecond for 20 000.
    pub fn digest(&self) -> Vec<Have> {
        let state = self.read();
        state.index.publishers.iter().map(|(key, publisher)| publisher.have(*key)).collect()
    }

    /// What is known of one publisher. From memory.
    pub fn have(&self, publisher: &PublisherKey) -> Option<Have> {
        Some(self.read().index.publishers.get(publisher)?.have(*publisher))
    }

    /// A publisher's records after a sequence, ascending by sequence, at most `limit` and [`MAX_PAGE`]. Reads the disk.
    pub fn after(&self, publisher: &PublisherKey, sequence: i64, limit: usize) -> Vec<SharedRecord> {
        let Some(snapshot) = self.read().snapshot.clone() else { return Vec::new() };
        let (first, last) = disk::places_after(publisher, sequence);
        let rows = match snapshot.range::<&Place>(&first..&last) {
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
        self.read().index.records
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads one record. None where the disk fails, which is said.
    fn fetch(&self, snapshot: &Option<Arc<Snapshot>>, place: &Place) -> Option<SharedRecord> {
        match snapshot.as_ref()?.get(place) {
            Ok(bytes) => bytes.and_then(|bytes| disk::record(bytes.value())),
            Err(error) => {
                self.unreadable(&error);
                None
            }
        }
    }

    fn unreadable(&self, error: &redb::StorageError) {
        tracing::warn!("cannot read the catalog {}: {error}", self.file.display());
    }

    /// Plans changes and commits them; readers see them after that, all at once.
    fn transact<T>(
        &self,
        durability: Durability,
        kept: &dyn Fn(&PublisherKey) -> bool,
        change: impl FnOnce(&mut Plan<'_, '_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut writer = self.lock();
        self.reopen(&mut writer)?;
        let Some(database) = &writer.database else {
            return Err(StoreError { path: self.file.clone(), reason: "it is closed".to_owned() });
        };
        let transact = || -> Result<_, redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability)?;
            // Nobody else changes the index while this thread is the writer, so it may be read without hurry.
            let state = self.read();
            let mut plan = Plan::new(&state.index, disk::rows(&transaction)?, &self.limits, kept);
            let done = change(&mut plan)?;
            let changes = plan.finish();
            drop(state);
            if changes.is_empty() {
                // Nothing to wait for the disk for.
                transaction.abort()?;
                return Ok((done, None));
            }
            transaction.commit()?;
            Ok((done, Some((changes, disk::snapshot(database)?))))
        };
        let (done, changed) = match transact() {
            Ok(done) => done,
            Err(error) => return Err(self.close(&mut writer, &error)),
        };
        if changed.is_some() {
            writer.unsafe_commits = matches!(durability, Durability::None);
        }
        if let Some((changes, snapshot)) = changed {
            let mut state = self.write();
            changes.apply(&mut state.index);
            state.snapshot = Some(Arc::new(snapshot));
        }
        Ok(done)
    }

    // No panic leaves the state half changed: whoever panicked had not begun to change it, or only read.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }
}

/// Some of the items, each as likely as any other, in an order of chance. Keeps no more than it gives.
fn by_chance<T>(items: impl Iterator<Item = T>, most: usize) -> Vec<T> {
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
        // One that failed has nothing to save.
        if self.lock().database.is_some()
            && let Err(error) = self.flush()
        {
            tracing::warn!("what was learned last is lost: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
