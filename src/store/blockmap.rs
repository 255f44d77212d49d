//! The map of the verified 16 KiB blocks of one content, in memory and as the bytes of its map file.
//!
//! A map without blocks and a map of all blocks own no memory, so that a hundred thousand untouched files cost
//! nothing. Bits beyond the last block are never set. The file is a header (magic, length of the content,
//! identity of the boot that wrote it) and one bit a block, least significant first.
//!
//! Versions before 2 recorded what libtorrent called verified. Their maps are still read, but their blocks are not proved (see
//! [`MapHeader::proved`]). Blocks that came from a hub have maps of another kind ([`MapKind::Hub`]), which no content of a swarm
//! accepts: no hash of a torrent covers these blocks.

use std::ops::Range;

use fixedbitset::FixedBitSet;

use crate::model::BLOCK_LEN;

/// Bytes before the bits in a map file.
pub(super) const HEADER_LEN: usize = 32;

const MAGIC: &[u8; 8] = b"silmmap2";

/// The magic of versions that recorded the blocks that libtorrent called verified.
const UNPROVED_MAGIC: &[u8; 8] = b"silmmap1";

/// The magic of maps of bytes that came from a hub.
const HUB_MAGIC: &[u8; 8] = b"silmhub1";

/// The reason why the blocks of a map count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MapKind {
    /// Our own code has proved them against the pieces root.
    Proved,
    /// A hub has sent them for a fixed commit.
    Hub,
}

/// The header of a map file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapHeader {
    /// The boot that wrote the file.
    pub boot: [u8; 16],
    /// Whether our own code proved the blocks before they were recorded.
    pub proved: bool,
}

/// The verified blocks of a content of `len` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockMap {
    kind: MapKind,
    len: u64,
    blocks: usize,
    /// Empty while `ones` is 0 or `blocks`.
    bits: FixedBitSet,
    ones: usize,
}

impl BlockMap {
    /// A map without a verified block.
    pub fn none(len: u64) -> Self {
        Self::none_of(MapKind::Proved, len)
    }

    /// A map of a kind without a block.
    pub fn none_of(kind: MapKind, len: u64) -> Self {
        Self { kind, len, blocks: len.div_ceil(BLOCK_LEN) as usize, bits: FixedBitSet::new(), ones: 0 }
    }

    /// A map with all blocks verified.
    pub fn all(len: u64) -> Self {
        let mut map = Self::none(len);
        map.ones = map.blocks;
        map
    }

    /// A map of the same content without a verified block.
    pub fn unset(&self) -> Self {
        Self::none_of(self.kind, self.len)
    }

    /// A map of another kind with the same blocks.
    pub fn of_kind(&self, kind: MapKind) -> Self {
        Self { kind, ..self.clone() }
    }

    /// The blocks that bytes `range` touch.
    pub fn touched(&self, range: &Range<u64>) -> Range<usize> {
        let end = range.end.min(self.len);
        if range.start >= end {
            return 0..0;
        }
        (range.start / BLOCK_LEN) as usize..end.div_ceil(BLOCK_LEN) as usize
    }

    /// Whether every block that bytes `range` touch is verified.
    pub fn has(&self, range: &Range<u64>) -> bool {
        self.is_full() || self.touched(range).is_empty() || {
            self.ones > 0 && self.bits.contains_all_in_range(self.touched(range))
        }
    }

    /// Whether all blocks are verified.
    pub fn is_full(&self) -> bool {
        self.ones == self.blocks
    }

    /// Whether no block is verified.
    pub fn is_clear(&self) -> bool {
        self.ones == 0
    }

    /// Number of verified bytes.
    pub fn bytes(&self) -> u64 {
        if self.is_full() {
            return self.len;
        }
        let whole = self.ones as u64 * BLOCK_LEN;
        let last_is_in = self.ones > 0 && self.bits.contains(self.blocks - 1);
        if last_is_in { whole - (self.blocks as u64 * BLOCK_LEN - self.len) } else { whole }
    }

    /// Whether all blocks are verified as soon as those that bytes `range` touch are, and are not before.
    pub fn is_filled_by(&self, range: &Range<u64>) -> bool {
        if self.is_full() {
            return false;
        }
        let blocks = self.touched(range);
        let set = if self.is_clear() { 0 } else { self.bits.count_ones(blocks.clone()) };
        self.ones + blocks.len() - set == self.blocks
    }

    /// Sets the blocks that bytes `range` touch. Returns whether any changed.
    pub fn insert(&mut self, range: &Range<u64>) -> bool {
        let blocks = self.touched(range);
        if self.is_full() || blocks.is_empty() {
            return false;
        }
        self.bits.grow(self.blocks);
        let new = blocks.len() - self.bits.count_ones(blocks.clone());
        self.bits.insert_range(blocks);
        self.ones += new;
        self.normalise();
        new > 0
    }

    /// Clears the blocks that bytes `range` touch. Returns whether any changed.
    pub fn remove(&mut self, range: &Range<u64>) -> bool {
        let blocks = self.touched(range);
        if self.is_clear() || blocks.is_empty() {
            return false;
        }
        if self.is_full() {
            self.bits.grow(self.blocks);
            self.bits.insert_range(..);
        }
        let gone = self.bits.count_ones(blocks.clone());
        self.bits.remove_range(blocks);
        self.ones -= gone;
        self.normalise();
        gone > 0
    }

    /// Sets every block that `other`, a map of the same content, has set.
    pub fn insert_all(&mut self, other: &Self) {
        for run in other.runs(&(0..self.len), true) {
            self.insert(&run);
        }
    }

    /// Clears every block that `other`, a map of the same content, has set.
    pub fn remove_all(&mut self, other: &Self) {
        for run in other.runs(&(0..self.len), true) {
            self.remove(&run);
        }
    }

    fn normalise(&mut self) {
        if self.is_full() || self.is_clear() {
            self.bits = FixedBitSet::new();
        }
    }

    fn contains(&self, block: usize) -> bool {
        self.is_full() || (self.ones > 0 && self.bits.contains(block))
    }

    /// The byte ranges inside `range` (widened to blocks, cut at the end) whose verified state is `verified`.
    pub fn runs(&self, range: &Range<u64>, verified: bool) -> Vec<Range<u64>> {
        let blocks = self.touched(range);
        if blocks.is_empty() {
            return Vec::new();
        }
        let bytes = |b: Range<usize>| b.start as u64 * BLOCK_LEN..(b.end as u64 * BLOCK_LEN).min(self.len);
        if self.is_full() || self.is_clear() {
            return if self.is_full() == verified { vec![bytes(blocks)] } else { Vec::new() };
        }
        let mut runs = Vec::new();
        let mut start = None;
        for block in blocks.clone() {
            match (self.contains(block) == verified, start) {
                (true, None) => start = Some(block),
                (false, Some(s)) => {
                    runs.push(bytes(s..block));
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(s) = start {
            runs.push(bytes(s..blocks.end));
        }
        runs
    }

    /// Offset in the map file, and new value, of the bytes that hold the bits of bytes `range`.
    pub fn patch(&self, range: &Range<u64>) -> (u64, Vec<u8>) {
        let blocks = self.touched(range);
        let at = blocks.start / 8..blocks.end.div_ceil(8);
        let bytes = at
            .clone()
            .map(|i| {
                (0..8)
                    .filter(|bit| i * 8 + bit < self.blocks && self.contains(i * 8 + bit))
                    .fold(0u8, |byte, bit| byte | 1 << bit)
            })
            .collect();
        ((HEADER_LEN + at.start) as u64, bytes)
    }

    /// The whole map file.
    pub fn encode(&self, boot: &[u8; 16]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.blocks.div_ceil(8));
        out.extend_from_slice(match self.kind {
            MapKind::Proved => MAGIC,
            MapKind::Hub => HUB_MAGIC,
        });
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(boot);
        out.extend(self.patch(&(0..self.len)).1);
        out
    }

    /// Reads a map file for a content of `len` bytes. None if it is damaged, or belongs to another length or kind.
    pub fn decode(kind: MapKind, len: u64, file: &[u8]) -> Option<(Self, MapHeader)> {
        let mut map = Self::none_of(kind, len);
        let (header, bits) = file.split_at_checked(HEADER_LEN)?;
        let (proved, known) = match kind {
            MapKind::Proved => (&header[..8] == MAGIC, &header[..8] == UNPROVED_MAGIC),
            MapKind::Hub => (&header[..8] == HUB_MAGIC, false),
        };
        let known = proved || known;
        if !known || header[8..16] != len.to_le_bytes() || bits.len() != map.blocks.div_ceil(8) {
            return None;
        }
        let header = MapHeader { boot: header[16..].try_into().ok()?, proved };
        let words = bits.chunks(size_of::<usize>()).map(|chunk| {
            let mut word = [0; size_of::<usize>()];
            word[..chunk.len()].copy_from_slice(chunk);
            usize::from_le_bytes(word)
        });
        let mut set = FixedBitSet::with_capacity_and_blocks(map.blocks.next_multiple_of(8), words);
        // A bit beyond the last block is damage that must not be counted.
        set.remove_range(map.blocks..);
        map.ones = set.count_ones(..);
        map.bits = set;
        map.normalise();
        Some((map, header))
    }

    /// Length of the map file in bytes.
    pub fn encoded_len(len: u64) -> u64 {
        HEADER_LEN as u64 + len.div_ceil(BLOCK_LEN).div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(Range<u64>),
        Remove(Range<u64>),
        Recode,
    }

    fn ops(len: u64) -> impl Strategy<Value = Vec<Op>> {
        let range = (0..len + 40_000, 0..len).prop_map(|(start, n)| start..start + n);
        let op = prop_oneof![
            3 => range.clone().prop_map(Op::Insert),
            2 => range.prop_map(Op::Remove),
            1 => Just(Op::Recode)
        ];
        proptest::collection::vec(op, 0..30)
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_vector((len, ops) in (1u64..3_000_000).prop_flat_map(|l| (Just(l), ops(l)))) {
            let mut map = BlockMap::none(len);
            let mut plain = vec![false; len.div_ceil(BLOCK_LEN) as usize];
            let mut patched = map.encode(&[7; 16]);
            for op in ops {
                let (range, value) = match op {
                    Op::Insert(r) => { map.insert(&r); (r, true) }
                    Op::Remove(r) => { map.remove(&r); (r, false) }
                    Op::Recode => {
                        let (back, header) = BlockMap::decode(MapKind::Proved, len, &map.encode(&[7; 16])).unwrap();
                        prop_assert_eq!(header, MapHeader { boot: [7; 16], proved: true });
                        map = back;
                        continue;
                    }
                };
                for (i, bit) in plain.iter_mut().enumerate() {
                    let (start, end) = (i as u64 * BLOCK_LEN, ((i as u64 + 1) * BLOCK_LEN).min(len));
                    if range.start < end && range.end > start && !range.is_empty() { *bit = value; }
                }
                let (at, bytes) = map.patch(&range);
                patched[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
                prop_assert_eq!(&patched, &map.encode(&[7; 16]));
            }
            let mut bytes = 0;
            for (i, &bit) in plain.iter().enumerate() {
                let range = i as u64 * BLOCK_LEN..((i as u64 + 1) * BLOCK_LEN).min(len);
                prop_assert_eq!(map.has(&range), bit);
                if bit { bytes += range.end - range.start; }
            }
            prop_assert_eq!(map.bytes(), bytes);
            prop_assert_eq!(map.is_full(), plain.iter().all(|&b| b));
            let held: u64 = map.runs(&(0..len), true).iter().map(|r| r.end - r.start).sum();
            let missing: u64 = map.runs(&(0..len), false).iter().map(|r| r.end - r.start).sum();
            prop_assert_eq!((held, missing), (bytes, len - bytes));
        }

        #[test]
        fn maps_are_added_and_subtracted_block_by_block(
            (len, a, b) in (1u64..1_000_000).prop_flat_map(|l| (Just(l), 0..l + 9, 0..l + 9))
        ) {
            let (mut first, mut second) = (BlockMap::none(len), BlockMap::none(len));
            first.insert(&(0..a));
            second.insert(&(b..len));
            let (mut sum, mut rest) = (first.clone(), first.clone());
            sum.insert_all(&second);
            rest.remove_all(&second);
            for block in 0..len.div_ceil(BLOCK_LEN) {
                let range = block * BLOCK_LEN..((block + 1) * BLOCK_LEN).min(len);
                let (in_first, in_second) = (first.has(&range), second.has(&range));
                prop_assert_eq!(sum.has(&range), in_first || in_second);
                prop_assert_eq!(rest.has(&range), in_first && !in_second);
            }
        }

        #[test]
        fn decoding_garbage_never_panics(len in 0u64..300_000, file in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = BlockMap::decode(MapKind::Proved, len, &file);
        }
    }

    #[test]
    fn bad_lengths_are_refused_and_stray_bits_dropped() {
        let mut file = BlockMap::all(3 * BLOCK_LEN).encode(&[0; 16]);
        assert!(BlockMap::decode(MapKind::Proved, 3 * BLOCK_LEN + 1, &file).is_none());
        assert!(BlockMap::decode(MapKind::Proved, 3 * BLOCK_LEN, &file[..HEADER_LEN]).is_none());
        *file.last_mut().unwrap() = 0b1111_0110;
        let (map, _) = BlockMap::decode(MapKind::Proved, 3 * BLOCK_LEN, &file).unwrap();
        assert_eq!(map.bytes(), 2 * BLOCK_LEN);
    }

    #[test]
    fn map_of_an_older_version_is_not_proved() {
        let mut file = BlockMap::all(3 * BLOCK_LEN).encode(&[5; 16]);
        file[..8].copy_from_slice(UNPROVED_MAGIC);
        let (map, header) = BlockMap::decode(MapKind::Proved, 3 * BLOCK_LEN, &file).unwrap();
        assert_eq!((map.bytes(), header), (3 * BLOCK_LEN, MapHeader { boot: [5; 16], proved: false }));
    }
}
