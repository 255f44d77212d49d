//! The database in memory, while the disk has no space for it.
//!
//! Without it a node with a full disk would find no model: what peers announce could not be stored.

use std::time::{Duration, Instant};

use super::disk::{self, OpenError};
use super::index::RecordIndex;
use super::state::{DatabaseWriter, InMemory, Readable};
use super::{CatalogStore, CatalogStoreError};

/// The time between two attempts to write the records to the disk.
const RETURN_AFTER: Duration = Duration::from_secs(20);

impl CatalogStore {
    /// Continues in memory with the records on disk, or without records if they cannot be read.
    pub(super) fn continue_in_memory(&self, writer: &mut DatabaseWriter) -> Result<(), CatalogStoreError> {
        let mut rows = Vec::new();
        let (index, is_copy) =
            match Self::load_each(&self.file, |key, bytes| rows.push((*key, bytes.to_vec()))) {
                Ok((_, _, index, _)) => (index, true),
                Err(_) => {
                    rows.clear();
                    (RecordIndex::default(), !self.file.exists())
                }
            };
        let (database, snapshot) = disk::in_memory(&rows)
            .map_err(|error| CatalogStoreError { path: self.file.clone(), reason: error.to_string() })?;
        writer.database = Some(database);
        writer.in_memory = Some(InMemory { tried: Instant::now(), is_due: false, is_copy });
        (writer.unsafe_commits, writer.failed) = (false, None);
        tracing::warn!(
            file = %self.file.display(),
            records = index.records,
            "the catalog is kept in memory, because the disk is full or read-only"
        );
        *self.readable.write() = Readable { index, snapshot: Some(std::sync::Arc::new(snapshot)) };
        Ok(())
    }

    /// Writes the records in memory to the disk and continues there, unless that fails or was tried a moment ago.
    pub(super) fn return_to_disk(&self, writer: &mut DatabaseWriter) {
        let is_due = |state: &&mut InMemory| state.is_due || state.tried.elapsed() >= RETURN_AFTER;
        let Some(state) = writer.in_memory.as_mut().filter(is_due) else { return };
        (state.tried, state.is_due) = (Instant::now(), false);
        let is_copy = state.is_copy;
        let snapshot = self.readable.read().snapshot.clone();
        let returned = || -> Result<_, OpenError> {
            if let Some(rows) = snapshot.filter(|_| is_copy) {
                let (database, ..) = Self::load_or_recreate(&self.file)?;
                disk::replace(&database, &rows).map_err(|error| OpenError::Failed(error.to_string()))?;
            }
            Self::load_or_recreate(&self.file)
        };
        match returned() {
            Ok((database, snapshot, index, _)) => {
                (writer.database, writer.in_memory) = (Some(database), None);
                tracing::info!(file = %self.file.display(), records = index.records, "the catalog is on disk again");
                *self.readable.write() = Readable { index, snapshot: Some(std::sync::Arc::new(snapshot)) };
            }
            Err(OpenError::Damaged(reason) | OpenError::Failed(reason) | OpenError::Full(reason)) => {
                tracing::debug!(file = %self.file.display(), reason, "the catalog stays in memory");
            }
        }
    }
}
