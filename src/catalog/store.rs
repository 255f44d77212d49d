//! All records known: in an embedded database that survives `kill -9`, and in memory for searching.
//!
//! Bounded in all and per publisher; what is over goes by the rules at [`CatalogStore::insert`]. Calls block for the
//! disk where they say so; the others answer from memory.

use std::path::{Path, PathBuf};

use crate::catalog::UnixTime;
use crate::catalog::message::Have;
use crate::catalog::query::Query;
use crate::catalog::record::{SharedRecord, UncheckedRecord};
use crate::model::{ModelName, PublisherKey};

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

/// The catalog's records.
pub struct CatalogStore {}

impl CatalogStore {
    /// Opens or makes the database below a directory; one that is damaged is put aside, said, and begun anew. Blocks.
    pub fn open(dir: &Path, now: UnixTime) -> Result<Self, StoreError> {
        todo!()
    }

    /// Takes records in, in one transaction. Records of `kept` publishers (listed, pinned, our own) are not made to
    /// go for those of others. Blocks.
    pub fn insert(
        &self,
        records: &[SharedRecord],
        now: UnixTime,
        kept: &dyn Fn(&PublisherKey) -> bool,
    ) -> Result<Vec<Outcome>, StoreError> {
        todo!()
    }

    /// Drops what has expired; returns how many. What a publisher has named as successor stays while the publisher is
    /// kept or any other record of theirs is known. Blocks.
    pub fn expire(&self, now: UnixTime, kept: &dyn Fn(&PublisherKey) -> bool) -> Result<usize, StoreError> {
        todo!()
    }

    /// The record known of the same publisher, name and version, for [`Unchecked::verify`](crate::catalog::message::Unchecked::verify).
    pub fn known(&self, record: &UncheckedRecord) -> Option<SharedRecord> {
        todo!()
    }

    /// Every revision of a model by every publisher.
    pub fn of_name(&self, name: &ModelName) -> Vec<SharedRecord> {
        todo!()
    }

    /// The key that a publisher has named as its successor.
    pub fn successor(&self, publisher: &PublisherKey) -> Option<SharedRecord> {
        todo!()
    }

    /// Up to `limit` models that match, from a cursor on that an earlier page gave.
    pub fn search(&self, query: &Query, from: Option<&[u8]>, limit: usize) -> Page {
        todo!()
    }

    /// What is known of each publisher.
    pub fn digest(&self) -> Vec<Have> {
        todo!()
    }

    /// What is known of one publisher.
    pub fn have(&self, publisher: &PublisherKey) -> Option<Have> {
        todo!()
    }

    /// A publisher's records after a sequence, ascending by sequence, at most `limit`.
    pub fn after(&self, publisher: &PublisherKey, sequence: i64, limit: usize) -> Vec<SharedRecord> {
        todo!()
    }

    /// How many records are known.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
