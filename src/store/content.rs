//! One file's bytes and the map of its verified blocks.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::model::PiecesRoot;

/// The bytes of one file.
#[derive(Debug)]
pub struct Content;

impl Content {
    /// Its name; none for the empty file.
    pub fn root(&self) -> Option<PiecesRoot> {
        todo!()
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the bytes are, or go.
    pub fn path(&self) -> PathBuf {
        todo!()
    }

    /// Whether all bytes of the range are verified.
    pub fn has(&self, _range: Range<u64>) -> bool {
        todo!()
    }

    /// Whether all bytes are verified.
    pub fn is_complete(&self) -> bool {
        todo!()
    }

    /// Number of verified bytes.
    pub fn cached_bytes(&self) -> u64 {
        todo!()
    }

    /// Records that the range is verified and readable. `range` starts at a block and ends at one or at the end.
    pub fn mark_verified(&self, _range: Range<u64>) -> io::Result<()> {
        todo!()
    }

    /// Takes the range back: it turned out damaged or was thrown away.
    pub fn mark_missing(&self, _range: Range<u64>) -> io::Result<()> {
        todo!()
    }

    /// Reads verified bytes. `Ok(None)` if some are not verified; an error or a file that is too short takes the
    /// range back and is told as an error.
    pub fn read(&self, _range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        todo!()
    }
}
