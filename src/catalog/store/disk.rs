//! The records on disk: one table of an embedded database, ordered by publisher and sequence.
//!
//! The database checks the checksums of all its pages when it is opened: a damaged record must not be sent, since its
//! receivers would regard this node as a forger.

use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition,
    WriteTransaction,
};

use super::index::publisher_and_model;
use crate::catalog::record::{Record, SharedRecord, UncheckedRecord, successor_salt};
use crate::fsutil::is_full_or_read_only;
use crate::model::PublisherKey;

use sha1::{Digest as _, Sha1};

/// Publisher, sequence (big endian; never negative) and salt, to the wire form.
const RECORDS: TableDefinition<'_, &[u8; 60], &[u8]> = TableDefinition::new("records");

/// Memory for cached pages. The system caches them as well, so little is enough.
const CACHE: usize = 4 << 20;

/// The key of a record in the table.
pub(super) type RecordKey = [u8; 60];
/// The table at the end of the last transaction.
pub(super) type TableSnapshot = ReadOnlyTable<&'static [u8; 60], &'static [u8]>;
/// The table within a transaction.
pub(super) type RowTable<'t> = Table<'t, &'static [u8; 60], &'static [u8]>;

/// The reason why the database cannot be opened.
pub(super) enum OpenError {
    /// The file is damaged.
    Damaged(String),
    /// The file cannot be read or written now.
    Failed(String),
    /// The file cannot be written because the disk is full or read-only.
    Full(String),
}

fn place(publisher: &PublisherKey, sequence: i64, salt: [u8; 20]) -> RecordKey {
    let mut place = [0; 60];
    place[..32].copy_from_slice(publisher.as_bytes());
    place[32..40].copy_from_slice(&sequence.to_be_bytes());
    place[40..].copy_from_slice(&salt);
    place
}

/// The key of a record.
pub(super) fn key_of(record: &Record) -> RecordKey {
    place(&record.publisher, record.sequence, record.salt())
}

/// The key of a publisher's successor record.
pub(super) fn key_of_successor(publisher: &PublisherKey, sequence: i64) -> RecordKey {
    place(publisher, sequence, successor_salt())
}

/// The key of a model's record.
pub(super) fn key_of_row(key: &[u8], sequence: i64) -> Option<RecordKey> {
    let (publisher, model) = publisher_and_model(key)?;
    Some(place(&publisher, sequence, Sha1::digest(model).into()))
}

/// The range of keys of a publisher's records after a sequence.
pub(super) fn keys_after(publisher: &PublisherKey, sequence: i64) -> (RecordKey, RecordKey) {
    let first = match sequence.checked_add(1) {
        Some(next) => place(publisher, next.max(0), [0; 20]),
        // No sequence follows the last: an empty range.
        None => place(publisher, i64::MAX, [255; 20]),
    };
    (first, place(publisher, i64::MAX, [255; 20]))
}

/// Reads a record that was verified before it was stored.
pub(super) fn record(bytes: &[u8]) -> Option<SharedRecord> {
    UncheckedRecord::from_bytes(bytes).ok().map(|record| SharedRecord::new(record.trust()))
}

/// Opens or makes the database, and passes every record to `each` with its key.
///
/// # Errors
/// Damage is distinguished from faults that may pass: no space, no permission, in use. After such a fault no part of a new
/// database remains, which would look damaged the next time.
pub(super) fn open(
    file: &Path,
    mut each: impl FnMut(&RecordKey, &[u8]),
) -> Result<(Database, TableSnapshot), OpenError> {
    let is_new = !file.exists();
    // The database may panic over damaged bytes.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| {
        let database =
            (Database::builder()).set_cache_size(CACHE).set_check_integrity_on_open(true).create(file)?;
        let transaction = database.begin_write()?;
        transaction.open_table(RECORDS)?;
        transaction.commit()?;
        let rows = snapshot(&database)?;
        for row in rows.range::<&RecordKey>(..)? {
            let (place, bytes) = row?;
            each(place.value(), bytes.value());
        }
        Ok((database, rows))
    }));
    let opened =
        opened.unwrap_or_else(|_| Err(redb::Error::Corrupted("the database panicked over it".to_owned())));
    opened.map_err(|error| {
        let damaged = is_damage(&error);
        if is_new && !damaged {
            // The caller receives the reason for the failure.
            let _ = fs::remove_file(file);
        }
        let reason = error.to_string();
        match error {
            _ if damaged => OpenError::Damaged(reason),
            _ if is_full(&error) => OpenError::Full(reason),
            _ => OpenError::Failed(reason),
        }
    })
}

/// Whether a write failed because the disk is full or read-only.
pub(super) fn is_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if is_full_or_read_only(error.kind()))
}

/// Makes a database in memory with these rows.
pub(super) fn in_memory(rows: &[(RecordKey, Vec<u8>)]) -> Result<(Database, TableSnapshot), redb::Error> {
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(InMemoryBackend::new())?;
    let transaction = database.begin_write()?;
    let mut table = self::rows(&transaction)?;
    for (key, bytes) in rows {
        table.insert(key, bytes.as_slice())?;
    }
    drop(table);
    transaction.commit()?;
    let rows = snapshot(&database)?;
    Ok((database, rows))
}

/// Makes the rows of a database equal to those of a snapshot of another one, in one transaction.
pub(super) fn replace(database: &Database, by: &TableSnapshot) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    let mut table = rows(&transaction)?;
    table.retain(|key, _| by.get(key).is_ok_and(|row| row.is_some()))?;
    for row in by.range::<&RecordKey>(..)? {
        let (key, bytes) = row?;
        if table.get(key.value())?.is_none() {
            table.insert(key.value(), bytes.value())?;
        }
    }
    drop(table);
    Ok(transaction.commit()?)
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        redb::Error::PreviousIo | redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            false
        }
        _ => true,
    }
}

/// The present content of the table.
pub(super) fn snapshot(database: &Database) -> Result<TableSnapshot, redb::Error> {
    Ok(database.begin_read()?.open_table(RECORDS)?)
}

/// The table, open for writing.
pub(super) fn rows(transaction: &WriteTransaction) -> Result<RowTable<'_>, redb::Error> {
    Ok(transaction.open_table(RECORDS)?)
}

/// Moves a damaged file aside, over one that was moved before.
pub(super) fn move_aside(file: &Path) -> io::Result<std::path::PathBuf> {
    let aside = file.with_extension("redb.damaged");
    fs::rename(file, &aside)?;
    Ok(aside)
}
