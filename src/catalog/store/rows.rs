//! The rows of the index: a sorted table in chunks, so that a scan reads memory from front to back.
//!
//! A tree with a key on the heap for each row takes 60 ms to scan 100 000 rows, nearly all of it waiting for memory. Here
//! the fixed parts of a chunk's rows are adjacent in memory, and so are their texts.

use std::ops::Bound;

use crate::catalog::UnixTime;

/// The most rows of a chunk; a larger chunk is split. Inserting moves at most half a chunk, 10 KB.
const CHUNK: usize = 512;

/// The indexed facts of one model's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub sequence: i64,
    pub time: UnixTime,
    /// Bytes of all files of the model.
    pub size: u64,
    /// Bytes on disk.
    pub len: u16,
    /// Bytes of the name, with which the key begins.
    pub name_len: u8,
}

/// A row, its key, and the hashes of its licence and tags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub key: &'a [u8],
    pub row: &'a Row,
    facets: &'a [[u8; 2]],
}

/// The position of a row's text: the key, then two bytes for each facet.
#[derive(Debug, Clone, Copy)]
struct Text {
    at: u32,
    key: u16,
    facets: u16,
}

impl Text {
    fn len(self) -> usize {
        usize::from(self.key) + 2 * usize::from(self.facets)
    }
}

#[derive(Debug, Default)]
struct Chunk {
    /// Sorted by key.
    rows: Vec<(Text, Row)>,
    /// In no order, and with gaps where rows were.
    texts: Vec<u8>,
    gaps: usize,
}

/// Rows by key.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Sorted by key. No chunk is empty.
    chunks: Vec<Chunk>,
}

impl Entry<'_> {
    /// The name, with which the key begins.
    pub fn name(&self) -> &[u8] {
        &self.key[..usize::from(self.row.name_len).min(self.key.len())]
    }

    /// Whether the licence or a tag has the hash.
    pub fn has_facet(&self, facet: u16) -> bool {
        self.facets.contains(&facet.to_le_bytes())
    }
}

impl Chunk {
    fn key(&self, index: usize) -> &[u8] {
        let text = self.rows[index].0;
        &self.texts[text.at as usize..text.at as usize + usize::from(text.key)]
    }

    fn entry(&self, index: usize) -> Entry<'_> {
        let (text, row) = &self.rows[index];
        let text = &self.texts[text.at as usize..text.at as usize + text.len()];
        let (key, facets) = text.split_at(usize::from(self.rows[index].0.key));
        Entry { key, row, facets: facets.as_chunks().0 }
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let index = self.rows.partition_point(|(text, _)| {
            &self.texts[text.at as usize..text.at as usize + usize::from(text.key)] < key
        });
        if index < self.rows.len() && self.key(index) == key { Ok(index) } else { Err(index) }
    }

    fn insert(&mut self, index: usize, key: &[u8], row: Row, facets: impl Iterator<Item = [u8; 2]>) {
        let at = self.texts.len();
        self.texts.extend_from_slice(key);
        self.texts.extend(facets.flatten());
        let facets = (self.texts.len() - at - key.len()) / 2;
        // Chunks have a few hundred rows of at most a kilobyte, keys less than 350 bytes, records less than 500 tags.
        let text = Text { at: at as u32, key: key.len() as u16, facets: facets as u16 };
        self.rows.insert(index, (text, row));
    }

    fn remove(&mut self, index: usize) {
        let (text, _) = self.rows.remove(index);
        self.gaps += text.len();
        if self.gaps > self.texts.len() / 2 {
            *self = self.part(0, self.rows.len());
        }
    }

    /// A copy of some of the rows, without gaps.
    fn part(&self, from: usize, to: usize) -> Self {
        let mut part = Self::default();
        part.rows.reserve(to - from);
        part.texts.reserve(self.rows[from..to].iter().map(|(text, _)| text.len()).sum());
        for index in from..to {
            let entry = self.entry(index);
            part.insert(index - from, entry.key, *entry.row, entry.facets.iter().copied());
        }
        part
    }
}

impl Rows {
    /// The chunk for a key: the last that does not begin after it.
    fn chunk(&self, key: &[u8]) -> usize {
        self.chunks.partition_point(|chunk| chunk.key(0) <= key).saturating_sub(1)
    }

    /// The row of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Row> {
        let chunk = self.chunks.get(self.chunk(key))?;
        chunk.find(key).ok().map(|index| &chunk.rows[index].1)
    }

    /// Inserts a row, or replaces the row with the same key.
    pub fn insert(&mut self, key: &[u8], row: Row, facets: &[u16]) {
        let at = self.chunk(key);
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::default());
        }
        let chunk = &mut self.chunks[at];
        let facets = facets.iter().map(|facet| facet.to_le_bytes());
        match chunk.find(key) {
            Ok(index) => {
                chunk.insert(index, key, row, facets);
                chunk.remove(index + 1);
            }
            Err(index) => chunk.insert(index, key, row, facets),
        }
        if chunk.rows.len() > CHUNK {
            let (middle, end) = (chunk.rows.len() / 2, chunk.rows.len());
            let upper = chunk.part(middle, end);
            *chunk = chunk.part(0, middle);
            self.chunks.insert(at + 1, upper);
        }
    }

    /// Removes a row.
    pub fn remove(&mut self, key: &[u8]) {
        let at = self.chunk(key);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        if let Ok(index) = chunk.find(key) {
            chunk.remove(index);
            if chunk.rows.is_empty() {
                self.chunks.remove(at);
            }
        }
    }

    /// The rows from a key on, in order.
    pub fn from<'a>(&'a self, start: Bound<&[u8]>) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let (chunk, index) = match start {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) | Bound::Excluded(key) => {
                let at = self.chunk(key);
                let index = self.chunks.get(at).map_or(0, |chunk| match chunk.find(key) {
                    Ok(index) if matches!(start, Bound::Excluded(_)) => index + 1,
                    Ok(index) | Err(index) => index,
                });
                (at, index)
            }
        };
        let first = self
            .chunks
            .get(chunk)
            .into_iter()
            .flat_map(move |chunk| (index..chunk.rows.len()).map(move |index| chunk.entry(index)));
        let rest = self.chunks.iter().skip(chunk + 1);
        first.chain(rest.flat_map(|chunk| (0..chunk.rows.len()).map(move |index| chunk.entry(index))))
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.from(Bound::Unbounded)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn row(number: u16) -> Row {
        Row { sequence: number.into(), time: 1, size: 2, len: number, name_len: 1 }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        /// Compares with the tree of the standard library: keys are added, changed and removed, enough for many chunks.
        #[test]
        fn rows_are_those_of_a_sorted_map(
            keys in prop::collection::vec((0u16..4000, 0u8..4), 0..6000),
            start in 0u16..4200,
        ) {
            let (mut rows, mut model) = (Rows::default(), BTreeMap::new());
            let text = |key: u16| format!("{:x}/{key}", key % 7).into_bytes();
            for (number, (key, what)) in (0u16..).zip(keys) {
                let key = text(key);
                if what == 0 {
                    rows.remove(&key);
                    model.remove(&key);
                } else {
                    rows.insert(&key, row(number), &[number, 7][..usize::from(what) - 1]);
                    model.insert(key, (number, what));
                }
            }
            let listed: Vec<_> = rows.iter().map(|entry| (entry.key.to_vec(), *entry.row)).collect();
            let expected: Vec<_> = model.iter().map(|(key, (n, _))| (key.clone(), row(*n))).collect();
            prop_assert_eq!(&listed, &expected);
            for entry in rows.iter() {
                let (number, what) = model[entry.key];
                prop_assert_eq!(entry.has_facet(number), what > 1 || (what == 3 && number == 7));
                prop_assert_eq!(entry.has_facet(7), what == 3 || (what == 2 && number == 7));
                prop_assert_eq!(rows.get(entry.key), Some(&row(number)));
            }
            let start = text(start);
            for bound in [Bound::Included(&start[..]), Bound::Excluded(&start[..])] {
                let listed: Vec<_> = rows.from(bound).map(|entry| entry.key.to_vec()).collect();
                let from = (bound.map(<[u8]>::to_vec), Bound::Unbounded);
                let expected: Vec<_> = model.range(from).map(|(key, _)| key.clone()).collect();
                prop_assert_eq!(listed, expected);
            }
            prop_assert_eq!(rows.get(b"none"), None);
            prop_assert!(rows.chunks.iter().all(|chunk| !chunk.rows.is_empty() && chunk.rows.len() <= CHUNK));
            prop_assert!(rows.chunks.iter().all(|chunk| 2 * chunk.gaps <= chunk.texts.len()));
        }
    }
}
