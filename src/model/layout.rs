//! Where each file's bytes stand in the pieces of a v2 (or hybrid) torrent.
//!
//! In BEP 52 every non-empty file starts at a piece boundary, in the order of the file tree: by raw bytes of
//! the path components. Empty files own no piece. Pad files of hybrid torrents fill the gap and are not files.

use super::BLOCK_LEN;

/// The index of a piece within its torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(pub u32);

/// One file's place among the pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSpan {
    /// The file's first piece; meaningless when `len` is 0.
    pub first_piece: u32,
    /// Number of pieces the file covers; 0 for an empty file.
    pub pieces: u32,
    /// The file's length in bytes.
    pub len: u64,
}

/// The map between the files of a torrent, in canonical order, and its pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    piece_length: u32,
    spans: Vec<FileSpan>,
    piece_count: u32,
}

impl Layout {
    /// Lays out files of the given lengths (bytes, in canonical order) with `piece_length` bytes a piece.
    pub fn new(piece_length: u32, lengths: impl IntoIterator<Item = u64>) -> Self {
        assert!(
            piece_length.is_power_of_two() && u64::from(piece_length) >= BLOCK_LEN,
            "piece length {piece_length} is not a power of two of at least 16 KiB"
        );
        let mut next = 0u32;
        let spans = lengths
            .into_iter()
            .map(|len| {
                let pieces = u32::try_from(len.div_ceil(u64::from(piece_length))).unwrap_or(u32::MAX);
                let span = FileSpan { first_piece: next, pieces, len };
                next = next.saturating_add(pieces);
                span
            })
            .collect();
        Self { piece_length, spans, piece_count: next }
    }

    /// Bytes in a piece (the last piece of each file may be shorter).
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Number of pieces of the torrent.
    pub fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// The files' spans, in canonical order.
    pub fn spans(&self) -> &[FileSpan] {
        &self.spans
    }

    /// The pieces that hold bytes `offset..offset + len` of a file, as an index range; empty where the range
    /// lies outside the file.
    pub fn pieces_of(&self, file: usize, offset: u64, len: u64) -> std::ops::Range<u32> {
        let span = self.spans[file];
        let end = offset.saturating_add(len).min(span.len);
        if offset >= end {
            return span.first_piece..span.first_piece;
        }
        let piece_length = u64::from(self.piece_length);
        span.first_piece + (offset / piece_length) as u32
            ..span.first_piece + end.div_ceil(piece_length) as u32
    }

    /// The file that owns a piece and the byte range of the file that the piece holds.
    pub fn owner(&self, piece: PieceIndex) -> Option<(usize, std::ops::Range<u64>)> {
        // Empty files share their first piece with their successor; partition_point finds the last candidate.
        let after = self.spans.partition_point(|s| s.first_piece <= piece.0);
        let file = (0..after).rev().find(|&i| self.spans[i].pieces > 0)?;
        let span = self.spans[file];
        let at = piece.0.checked_sub(span.first_piece).filter(|&at| at < span.pieces)?;
        let start = u64::from(at) * u64::from(self.piece_length);
        Some((file, start..(start + u64::from(self.piece_length)).min(span.len)))
    }
}
