//! The bytes that may be deleted.

use std::ops::Range;

use crate::store::Content;

/// The unit in which bytes behind readers are deleted, in bytes.
const EXTENT: u64 = 16 << 20;

/// The same for a content in memory, of which there is less.
const MEMORY_EXTENT: u64 = 1 << 20;

/// The cached extents of a content that no reader needs soon, from its end.
pub(super) fn deletable(content: &Content, needed: &[Range<u64>]) -> Vec<Range<u64>> {
    let unit = if content.is_in_memory() { MEMORY_EXTENT } else { EXTENT };
    let mut found = Vec::new();
    for cached in content.verified_ranges(0..content.len()) {
        let mut start = cached.start;
        while start < cached.end {
            let end = ((start / unit + 1) * unit).min(cached.end);
            let extent = start..end;
            if !needed.iter().any(|needed| overlaps(needed, &extent)) {
                found.push(extent);
            }
            start = end;
        }
    }
    found.reverse();
    found
}

pub(super) fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
