//! The ends of the tensors of a `.safetensors` file, so that a window does not extend into a tensor that is not read.

use crate::model::safetensors::{LENGTH_LEN, header_len, parse_header};
use crate::store::Content;

/// A run must have read so many bytes past the first end that it crossed before the next tensor is expected too: the
/// kernel's read-ahead crosses ends by up to 128 KiB although no program reads there.
const EVIDENCE: u64 = 1 << 20;

/// How far a reader must go beyond the end of a tensor before bytes ahead of it are fetched from a hub, where each byte is
/// fetched for this reader alone.
const CROSSED: u64 = 256 << 10;

/// The longest header that is parsed, in bytes. The format allows 100 MB; real ones are below 1 MB.
pub(super) const MAX_HEADER: u64 = 16 << 20;

/// The ends of header and tensors, as offsets in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensors {
    ends: Vec<u64>,
    len: u64,
}

/// The knowledge about the tensors of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileTensors {
    /// Not a `.safetensors` file, or its header is not one.
    Plain,
    /// The header is not verified yet.
    Unread,
    /// The header was parsed.
    Tensors(Tensors),
}

impl Tensors {
    /// Takes the ends of the tensors in any order; `len` is the length of the file.
    pub(super) fn new(header_end: u64, ends: impl IntoIterator<Item = u64>, len: u64) -> Self {
        let mut all: Vec<u64> = ends.into_iter().map(|end| end.min(len)).collect();
        all.push(header_end.min(len));
        all.sort_unstable();
        all.dedup();
        Self { ends: all, len }
    }

    /// The end of the header, in bytes from the start of the file.
    pub(super) fn header_end(&self) -> u64 {
        self.ends.first().copied().unwrap_or(0)
    }

    /// Whether a run that has read `start..pos` in order has just crossed the end of what it read: the kernel's read-ahead does
    /// that although no program reads there.
    pub(super) fn has_just_crossed(&self, start: u64, pos: u64) -> bool {
        let before = self.ends.partition_point(|&end| end <= pos);
        let Some(&crossed) = self.ends[..before].last().filter(|&&end| end > start) else { return false };
        pos - crossed < CROSSED && self.bound(start, pos) < self.len
    }

    /// The end of the window of a run that has read `start..pos` in order.
    pub(super) fn bound(&self, start: u64, pos: u64) -> u64 {
        let first = self.ends.partition_point(|&end| end <= start);
        let next = self.ends.partition_point(|&end| end < pos);
        let crossed = next.saturating_sub(first);
        if crossed >= 2 && pos - self.ends[first] >= EVIDENCE {
            return self.len;
        }
        self.ends.get(next).copied().unwrap_or(self.len)
    }
}

/// Reads and parses the header of a file if its bytes are verified. A file with an invalid header is `Plain`.
pub(super) fn read_shape(content: &Content) -> Option<FileTensors> {
    let len = content.len();
    if len < LENGTH_LEN {
        return Some(FileTensors::Plain);
    }
    let first = content.read(0..LENGTH_LEN).ok()??.try_into().ok()?;
    let header = match header_len(first, len) {
        Ok(header) if header <= MAX_HEADER => content.read(0..LENGTH_LEN + header).ok()??,
        Ok(_) | Err(_) => return Some(FileTensors::Plain),
    };
    Some(match parse_header(&header) {
        Ok(header) => {
            FileTensors::Tensors(Tensors::new(header.end, header.tensors.iter().map(|t| t.range.end), len))
        }
        Err(_) => FileTensors::Plain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn tensors() -> Tensors {
        // Header of 1 KiB, then 10 MiB, 4 KiB, 4 KiB, 10 MiB, 10 MiB.
        let mut ends = vec![];
        let mut at = 1024;
        for len in [10 * MIB, 4096, 4096, 10 * MIB, 10 * MIB] {
            at += len;
            ends.push(at);
        }
        Tensors::new(1024, ends, at)
    }

    #[test]
    fn window_ends_with_the_tensor() {
        let t = tensors();
        assert_eq!(t.bound(2 * MIB, 3 * MIB), 1024 + 10 * MIB);
        assert_eq!(t.bound(0, 512), 1024, "the header ends too");
        assert_eq!(t.bound(0, 3 * MIB), 1024 + 10 * MIB, "opening and reading the first tensor is no scan");
    }

    #[test]
    fn kernel_read_ahead_past_small_tensors_is_ignored() {
        let t = tensors();
        let end = 1024 + 10 * MIB;
        assert_eq!(t.bound(2 * MIB, end + 128 * 1024), end + 8192 + 10 * MIB);
        assert_eq!(t.bound(2 * MIB, end), end, "at the very end nothing more is expected");
    }

    #[test]
    fn run_across_tensors_expects_the_next_ones() {
        let t = tensors();
        assert_eq!(t.bound(0, 12 * MIB), t.len);
        assert_eq!(t.bound(9 * MIB, 12 * MIB), t.len);
    }

    #[test]
    fn ends_beyond_the_file_are_cut() {
        let t = Tensors::new(100, [110, u64::MAX], 120);
        assert_eq!(t.bound(0, 111), 120);
        assert_eq!(t.bound(0, 120), 120);
    }
}
