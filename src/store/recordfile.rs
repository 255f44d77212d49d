//! One record on disk: `resume/<info hash>.json`.
//!
//! The first line is the whole record as it was when the file was written. Each further line is one change of it, with a
//! checksum; a change costs one append and one fsync, however long the record is. When the changes are longer than the
//! record, the file is written again, atomically. A kill or a power cut may leave an incomplete change as the last line:
//! it does not count, and the next change writes the file again. An older version wrote one line without a line break.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::record::{Delta, PlacementRecord};
use crate::fsutil;

/// Longest file read, in bytes; 100 000 files of long paths fit twice.
const MAX_LEN: u64 = 1 << 30;

/// Changes of this many bytes are kept however short the record is.
const MIN_CHANGES: u64 = 64 << 10;

/// Bytes of a checksum, in hex.
const SUM_LEN: usize = 16;

/// The lengths of the parts of the file, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PartLengths {
    /// The record at the beginning.
    whole: u64,
    /// The record and the changes that count. The next change is appended here, if the file is as long.
    end: u64,
}

/// Reads a record, and the lengths of its parts up to the last whole change.
pub(super) fn read(path: &Path) -> io::Result<(PlacementRecord, PartLengths)> {
    let bytes = fsutil::read_capped(path, MAX_LEN)?;
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let whole = lines.next().unwrap_or_default();
    let mut record: PlacementRecord = serde_json::from_slice(whole)?;
    record.normalise();
    // A change after a line without a line break would make that line unreadable: the file is written again instead.
    let end = if whole.ends_with(b"\n") { whole.len() as u64 } else { 0 };
    let mut lengths = PartLengths { whole: whole.len() as u64, end };
    for line in lines {
        let Some(delta) = parse(line) else {
            let lost = bytes.len() as u64 - lengths.end;
            tracing::warn!(file = %path.display(), lost, "the record ends with an incomplete change");
            break;
        };
        record.apply(delta);
        lengths.end += line.len() as u64;
    }
    Ok((record, lengths))
}

/// Writes durably that a record becomes `new` by `delta`. `known` are the lengths that [`read`] or this function returned;
/// none if there is no file. After an error a later read may return either record.
pub(super) fn write(
    path: &Path,
    known: Option<PartLengths>,
    new: &PlacementRecord,
    delta: &Delta,
) -> io::Result<PartLengths> {
    if let Some(known) = known
        && let Some(lengths) = append(path, known, delta)?
    {
        return Ok(lengths);
    }
    let mut bytes = serde_json::to_vec(new)?;
    bytes.push(b'\n');
    fsutil::write_atomic(path, &bytes, fsutil::MODE_PRIVATE)?;
    Ok(PartLengths { whole: bytes.len() as u64, end: bytes.len() as u64 })
}

/// Appends a change. None if the file must be written again: it has too many changes, or another program has changed it.
fn append(path: &Path, known: PartLengths, delta: &Delta) -> io::Result<Option<PartLengths>> {
    let line = line(delta)?;
    let end = known.end + line.len() as u64;
    if end.saturating_sub(known.whole) > known.whole + MIN_CHANGES {
        return Ok(None);
    }
    let opened = File::options().append(true).open(path);
    let Some(mut file) = fsutil::existing(opened)? else { return Ok(None) };
    if file.metadata()?.len() != known.end {
        return Ok(None);
    }
    file.write_all(&line)?;
    fsutil::flush(&file)?;
    Ok(Some(PartLengths { end, ..known }))
}

/// Removes a record, durably.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if fsutil::remove_if_there(path)? { fsutil::sync_dir(fsutil::parent(path)) } else { Ok(()) }
}

/// The line of a change: the checksum, a blank, JSON, a line break.
fn line(delta: &Delta) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(delta)?;
    let mut line = format!("{} ", sum(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

fn parse(line: &[u8]) -> Option<Delta> {
    let (found, json) = line.strip_suffix(b"\n")?.split_at_checked(SUM_LEN)?;
    let json = json.strip_prefix(b" ")?;
    (found == sum(json).as_bytes()).then(|| serde_json::from_slice(json).ok())?
}

fn sum(json: &[u8]) -> String {
    hex::encode(&Sha256::digest(json)[..SUM_LEN / 2])
}
