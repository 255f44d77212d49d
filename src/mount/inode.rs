//! Inode numbers: given once, remembered for the node's life, never reused.
//!
//! A revision's directory gets one contiguous block of numbers, keyed by where it is shown and by its info hash:
//! same place, same content, same numbers, however often the set of revisions is published. Directories above
//! the revisions are keyed by their path.

use std::collections::HashMap;

use crate::model::InfoHash;

/// An inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount (FUSE fixes it at 1).
    pub const ROOT: Self = Self(1);
}

/// The giver of numbers.
#[derive(Debug)]
pub struct Numbers {
    next: u64,
    paths: HashMap<String, Ino>,
    blocks: HashMap<(String, InfoHash), (Ino, u64)>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { next: Ino::ROOT.0 + 1, paths: HashMap::new(), blocks: HashMap::new() }
    }
}

impl Numbers {
    fn take(&mut self, count: u64) -> Ino {
        let first = self.next;
        self.next += count;
        Ino(first)
    }

    /// The number of a directory or link above the revisions, by its path in the mount.
    pub fn of_path(&mut self, path: &str) -> Ino {
        if let Some(&ino) = self.paths.get(path) {
            return ino;
        }
        let ino = self.take(1);
        self.paths.insert(path.to_owned(), ino);
        ino
    }

    /// The first number of a revision that was shown at `path` before.
    pub fn known_revision(&self, path: &str, content: InfoHash) -> Option<Ino> {
        self.blocks.get(&(path.to_owned(), content)).map(|&(first, _)| first)
    }

    /// The first of the `count` consecutive numbers of a revision shown at `path`.
    pub fn of_revision(&mut self, path: &str, content: InfoHash, count: u64) -> Ino {
        let key = (path.to_owned(), content);
        match self.blocks.get(&key) {
            Some(&(first, len)) if len == count => first,
            _ => {
                let first = self.take(count);
                self.blocks.insert(key, (first, count));
                first
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_remembered_and_never_overlap() {
        let mut numbers = Numbers::default();
        let org = numbers.of_path("org");
        let a = numbers.of_revision("org/a", InfoHash([1; 32]), 10);
        let b = numbers.of_revision("org/a", InfoHash([2; 32]), 5);
        let next = numbers.of_path("other");
        assert!(org > Ino::ROOT && a > org);
        assert_eq!(b.0, a.0 + 10);
        assert_eq!(next.0, b.0 + 5);
        assert_eq!(numbers.of_revision("org/a", InfoHash([1; 32]), 10), a);
        assert_eq!(numbers.of_path("org"), org);
    }
}
