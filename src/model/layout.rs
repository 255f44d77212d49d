//! The position of each file's bytes in the pieces of a v2 or hybrid torrent.
//!
//! In BEP 52 every non-empty file starts at a piece boundary. The order is that of the file tree: by raw bytes of the path
//! components. Empty files have no piece. Pad files of hybrid torrents are not counted as files.

use super::BLOCK_LEN;

/// The index of a piece within its torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(pub u32);

/// The pieces of one file.
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
    /// Lays out files of the given lengths (bytes, in canonical order) with `piece_length` bytes per piece. Panics if the
    /// piece length is not a power of two of at least 16 KiB.
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

    /// The pieces of bytes `offset..offset + len` of a file, as a range of indices; empty if the bytes are outside the
    /// file.
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

    /// The file of a piece, and the piece's byte range in that file; none after the last piece.
    pub fn owner(&self, piece: PieceIndex) -> Option<(usize, std::ops::Range<u64>)> {
        // Empty files have the same first piece as the next file. `after` is behind the last candidate.
        let after = self.spans.partition_point(|s| s.first_piece <= piece.0);
        let file = (0..after).rev().find(|&i| self.spans[i].pieces > 0)?;
        let span = self.spans[file];
        let at = piece.0.checked_sub(span.first_piece).filter(|&at| at < span.pieces)?;
        let start = u64::from(at) * u64::from(self.piece_length);
        Some((file, start..(start + u64::from(self.piece_length)).min(span.len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn owners_and_pieces_agree(lengths in proptest::collection::vec(0u64..100_000, 1..8)) {
            let layout = Layout::new(16384, lengths.iter().copied());
            let mut next = 0;
            for (file, &len) in lengths.iter().enumerate() {
                let all = layout.pieces_of(file, 0, len);
                prop_assert_eq!(all.clone(), next..next + len.div_ceil(16384) as u32);
                next = all.end;
                let mut end = 0;
                for piece in all {
                    let (owner, range) = layout.owner(PieceIndex(piece)).unwrap();
                    prop_assert_eq!((owner, range.start), (file, end));
                    prop_assert!(!range.is_empty() && range.end - range.start <= 16384);
                    prop_assert_eq!(layout.pieces_of(file, range.start, range.end - range.start), piece..piece + 1);
                    end = range.end;
                }
                prop_assert_eq!(end, len);
            }
            prop_assert_eq!(layout.piece_count(), next);
            prop_assert_eq!(layout.owner(PieceIndex(next)), None);
        }

        #[test]
        fn a_range_has_exactly_the_pieces_of_its_bytes(len in 0u64..80_000, offset in 0u64..90_000, count in 0u64..90_000) {
            let layout = Layout::new(16384, [5, 0, len, 7]);
            let expected: Vec<u32> = (0..layout.piece_count())
                .filter(|&piece| {
                    let (file, range) = layout.owner(PieceIndex(piece)).unwrap();
                    file == 2 && range.start < offset.saturating_add(count) && offset < range.end && count > 0
                })
                .collect();
            prop_assert_eq!(layout.pieces_of(2, offset, count).collect::<Vec<_>>(), expected);
        }
    }
}
