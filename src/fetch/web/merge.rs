//! Merges neighbouring pieces of one file into one request.

use std::ops::Range;

use super::{MAX_REQUEST, MIN_REQUEST};
use crate::model::{Layout, PieceIndex};

/// The pieces of a request that begins with `first`: pieces that are `due`, up to [`MAX_REQUEST`] bytes; and up to
/// [`MIN_REQUEST`] bytes also pieces that are only `missing`. It ends with the file.
pub(super) fn extend(
    layout: &Layout,
    first: u32,
    due: impl Fn(u32) -> bool,
    missing: impl Fn(u32) -> bool,
) -> Range<u32> {
    let mut end = first + 1;
    let Some((file, bytes)) = layout.owner(PieceIndex(first)) else { return first..end };
    let span = layout.spans()[file];
    let mut len = bytes.end - bytes.start;
    while end < span.first_piece + span.pieces {
        let next = layout.owner(PieceIndex(end)).map_or(0, |(_, bytes)| bytes.end - bytes.start);
        let wanted = due(end) && len + next <= MAX_REQUEST;
        let worth_it = len < MIN_REQUEST && missing(end);
        if !(wanted || worth_it) {
            break;
        }
        len += next;
        end += 1;
    }
    first..end
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn neighbours_are_merged_up_to_the_limit() {
        let layout = Layout::new(MIB as u32, [40 * MIB, MIB]);
        assert_eq!(extend(&layout, 3, |p| p < 7, |_| true), 3..7);
        assert_eq!(extend(&layout, 3, |p| p != 5, |_| true), 3..5);
        assert_eq!(extend(&layout, 3, |_| true, |_| true), 3..19);
    }

    #[test]
    fn request_ends_with_its_file() {
        let layout = Layout::new(MIB as u32, [MIB, 2 * MIB + 5, MIB]);
        assert_eq!(extend(&layout, 1, |_| true, |_| true), 1..4);
        let small = Layout::new(16 * KIB as u32, [20 * KIB, 20 * KIB]);
        assert_eq!(extend(&small, 0, |_| true, |_| true), 0..2);
    }

    #[test]
    fn missing_pieces_are_added_up_to_the_least_length() {
        let layout = Layout::new(256 * KIB as u32, [10 * MIB]);
        assert_eq!(extend(&layout, 2, |_| false, |_| true), 2..6);
        assert_eq!(extend(&layout, 2, |_| false, |p| p != 4), 2..4);
        assert_eq!(extend(&layout, 2, |p| p < 9, |_| true), 2..9);
    }

    #[test]
    fn long_piece_is_a_request_of_its_own() {
        let layout = Layout::new(64 << 20, [200 * MIB]);
        assert_eq!(extend(&layout, 1, |_| true, |_| true), 1..2);
    }
}
