//! The data of an open database: for its readers, and for the thread that writes.

use std::sync::Arc;
use std::time::Instant;

use redb::Database;

use super::disk::TableSnapshot;
use super::index::RecordIndex;

/// The data for readers; both parts are of the same transaction.
pub(super) struct Readable {
    pub index: RecordIndex,
    /// None while the database is not open.
    pub snapshot: Option<Arc<TableSnapshot>>,
}

/// The data of the writing thread.
pub(super) struct DatabaseWriter {
    /// None after a failure.
    pub database: Option<Database>,
    /// Set while the database is in memory instead of on disk.
    pub in_memory: Option<InMemory>,
    /// Whether a commit is not on disk yet.
    pub unsafe_commits: bool,
    /// When opening it again failed, and the reason.
    pub failed: Option<(Instant, String)>,
}

/// The state of a database in memory.
pub(super) struct InMemory {
    /// When writing the records to the disk was tried last.
    pub tried: Instant,
    /// Whether it is tried again without waiting.
    pub is_due: bool,
    /// Whether it has all records of the database on disk, so that it may replace them. Otherwise its own records are
    /// discarded when the disk can be written again; they arrive again from other nodes.
    pub is_copy: bool,
}

impl InMemory {
    /// Makes the next attempt to return to the disk due.
    pub fn try_soon(&mut self) {
        self.is_due = true;
    }
}
