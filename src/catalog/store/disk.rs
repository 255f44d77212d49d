//! The records on disk: one table of an embedded database, ordered by publisher and sequence.
//!
//! Its pages carry checksums, all of which are looked at when it is opened: a record that was damaged here must not be
//! handed on, since its receivers would take us for a forger.

use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use redb::{Database, ReadOnlyTable, ReadableDatabase as _, Table, TableDefinition, WriteTransaction};

use super::index::publisher_and_model;
use crate::catalog::record::{Record, SharedRecord, UncheckedRecord, successor_salt};
use crate::model::PublisherKey;

use sha1::{Digest as _, Sha1};

/// Publisher, sequence (big endian; never negative) and salt, to the wire form.
const RECORDS: TableDefinition<'_, &[u8; 60], &[u8]> = TableDefinition::new("records");

/// What the database keeps of its pages in memory. The system keeps them too, so little is enough.
const CACHE: usize = 4 << 20;

/// A record's place in the table.
pub(super) type Place = [u8; 60];
/// What the table held when the last transaction ended.
pub(super) type Snapshot = ReadOnlyTable<&'static [u8; 60], &'static [u8]>;
/// The table within a transaction.
pub(super) type Rows<'t> = Table<'t, &'static [u8; 60], &'static [u8]>;

/// Why the database cannot be opened.
pub(super) enum OpenError {
    /// Its bytes make no sense.
    Damaged(String),
    /// It cannot be read or written now.
    Failed(String),
}

fn place(publisher: &PublisherKey, sequence: i64, salt: [u8; 20]) -> Place {
    let mut place = [0; 60];
    place[..32].copy_from_slice(publisher.as_bytes());
    place[32..40].copy_from_slice(&sequence.to_be_bytes());
    place[40..].copy_from_slice(&salt);
    place
}

/// The place of a record.
pub(super) fn place_of(record: &Record) -> Place {
    place(&record.publisher, record.sequence, record.salt())
}

/// The place of a publisher's successor record.
pub(super) fn place_of_successor(publisher: &PublisherKey, sequence: i64) -> Place {
    place(publisher, sequence, successor_salt())
}

/// The place of a model's record.
pub(super) fn place_of_row(key: &[u8], sequence: i64) -> Option<Place> {
    let (publisher, model) = publisher_and_model(key)?;
    Some(place(&publisher, sequence, Sha1::digest(model).into()))
}

/// The places of a publisher's records after a sequence.
pub(super) fn places_after(publisher: &PublisherKey, sequence: i64) -> (Place, Place) {
    let first = match sequence.checked_add(1) {
        Some(next) => place(publisher, next.max(0), [0; 20]),
        // After the last there is none: an empty range.
        None => place(publisher, i64::MAX, [255; 20]),
    };
    (first, place(publisher, i64::MAX, [255; 20]))
}

/// Reads a record that was verified before it was stored.
pub(super) fn record(bytes: &[u8]) -> Option<SharedRecord> {
    UncheckedRecord::from_bytes(bytes).ok().map(|record| SharedRecord::new(record.trust()))
}

/// Opens or makes the database and hands over every record and its length on disk.
///
/// # Errors
/// Damage is distinguished from what may pass: no space, no rights, in use. In that case no part of a new database
/// remains, which would look damaged the next time.
pub(super) fn open(
    file: &Path,
    mut each: impl FnMut(&Place, &[u8]),
) -> Result<(Database, Snapshot), OpenError> {
    let is_new = !file.exists();
    // The database may panic over bytes that nobody sane has written.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| {
        let database =
            (Database::builder()).set_cache_size(CACHE).set_check_integrity_on_open(true).create(file)?;
        let transaction = database.begin_write()?;
        transaction.open_table(RECORDS)?;
        transaction.commit()?;
        let rows = snapshot(&database)?;
        for row in rows.range::<&Place>(..)? {
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
            // The caller gets the reason for which it could not be made.
            let _ = fs::remove_file(file);
        }
        if damaged { OpenError::Damaged(error.to_string()) } else { OpenError::Failed(error.to_string()) }
    })
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

/// What the table holds now.
pub(super) fn snapshot(database: &Database) -> Result<Snapshot, redb::Error> {
    Ok(database.begin_read()?.open_table(RECORDS)?)
}

/// The table, to be written.
pub(super) fn rows(transaction: &WriteTransaction) -> Result<Rows<'_>, redb::Error> {
    Ok(transaction.open_table(RECORDS)?)
}

/// Puts a damaged file aside, in place of one that was put aside before.
pub(super) fn put_aside(file: &Path) -> io::Result<std::path::PathBuf> {
    let aside = file.with_extension("redb.damaged");
    fs::rename(file, &aside)?;
    Ok(aside)
}
