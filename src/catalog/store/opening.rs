//! Opening the database, also again after a failure, and closing it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Database;

use super::disk::{self, OpenError, RecordKey, TableSnapshot};
use super::index::RecordIndex;
use super::state::{DatabaseWriter, Readable};
use super::{CatalogStore, CatalogStoreError};

/// The time between two attempts to open the database again.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// The result of opening the database; last, the keys of unreadable records.
type LoadedRecords = (Database, TableSnapshot, RecordIndex, Vec<RecordKey>);

impl CatalogStore {
    /// Reads the database. A damaged database is moved aside.
    pub(super) fn load_or_recreate(file: &Path) -> Result<LoadedRecords, OpenError> {
        match Self::load(file) {
            Err(OpenError::Damaged(reason)) => {
                let aside = disk::move_aside(file).map_err(|error| OpenError::Failed(error.to_string()))?;
                tracing::warn!(
                    file = %file.display(),
                    moved_to = %aside.display(),
                    reason,
                    "the catalog is damaged and was moved aside; its records will arrive again from other nodes"
                );
                Self::load(file)
            }
            loaded => loaded,
        }
    }

    /// Reads the database, and lists the keys of records that cannot be read, since another version has written them.
    fn load(file: &Path) -> Result<LoadedRecords, OpenError> {
        Self::load_each(file, |_, _| {})
    }

    /// [`load`](Self::load), and passes each row to `each`.
    pub(super) fn load_each(
        file: &Path,
        mut each: impl FnMut(&RecordKey, &[u8]),
    ) -> Result<LoadedRecords, OpenError> {
        let (mut index, mut unreadable) = (RecordIndex::default(), Vec::new());
        let (database, snapshot) = disk::open(file, |place, bytes| {
            let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            match disk::record(bytes) {
                Some(record)
                    if disk::key_of(record.record()) == *place
                        && index.current(record.record()).is_none() =>
                {
                    index.load(record.record(), len);
                    each(place, bytes);
                }
                _ => unreadable.push(*place),
            }
        })?;
        Ok((database, snapshot, index, unreadable))
    }

    pub(super) fn drop_unreadable(
        &self,
        writer: &mut DatabaseWriter,
        places: &[RecordKey],
    ) -> Result<(), CatalogStoreError> {
        let Some(database) = writer.database.as_ref().filter(|_| !places.is_empty()) else { return Ok(()) };
        tracing::warn!(count = places.len(), "deleting unreadable records of the catalog");
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
            Ok(snapshot) => self.readable.write().snapshot = Some(Arc::new(snapshot)),
            Err(error) => return Err(self.close(writer, &error)),
        }
        Ok(())
    }

    /// Opens the database again after a failure, unless that was tried a moment ago.
    pub(super) fn reopen(&self, writer: &mut DatabaseWriter) -> Result<(), CatalogStoreError> {
        if writer.in_memory.is_some() {
            self.return_to_disk(writer);
        }
        if writer.database.is_some() {
            return Ok(());
        }
        if let Some((when, reason)) = &writer.failed
            && when.elapsed() < REOPEN_AFTER
        {
            return Err(CatalogStoreError { path: self.file.clone(), reason: reason.clone() });
        }
        match Self::load_or_recreate(&self.file) {
            Ok((database, snapshot, index, unreadable)) => {
                writer.database = Some(database);
                (writer.unsafe_commits, writer.failed) = (false, None);
                *self.readable.write() = Readable { index, snapshot: Some(Arc::new(snapshot)) };
                tracing::info!(file = %self.file.display(), "the catalog is open again");
                self.drop_unreadable(writer, &unreadable)
            }
            Err(OpenError::Full(_)) => self.continue_in_memory(writer),
            Err(OpenError::Damaged(reason) | OpenError::Failed(reason)) => {
                tracing::warn!(file = %self.file.display(), reason, "could not open the catalog again");
                writer.failed = Some((Instant::now(), reason.clone()));
                Err(CatalogStoreError { path: self.file.clone(), reason })
            }
        }
    }

    /// Closes the database after an error: all calls fail or find nothing from then on.
    pub(super) fn close(&self, writer: &mut DatabaseWriter, error: &redb::Error) -> CatalogStoreError {
        tracing::warn!(file = %self.file.display(), %error, "closing the catalog after an error");
        self.readable.write().snapshot = None;
        (writer.database, writer.in_memory) = (None, None);
        CatalogStoreError { path: self.file.clone(), reason: error.to_string() }
    }

    /// [`close`](Self::close), unless the disk is full: then the store continues in memory.
    pub(super) fn close_or_continue(
        &self,
        writer: &mut DatabaseWriter,
        error: &redb::Error,
    ) -> Result<(), CatalogStoreError> {
        let was_on_disk = writer.in_memory.is_none();
        let failed = self.close(writer, error);
        if was_on_disk && disk::is_full(error) { self.continue_in_memory(writer) } else { Err(failed) }
    }
}
