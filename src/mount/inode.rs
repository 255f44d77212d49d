//! Inode numbers: assigned once, remembered as long as the mount exists, never reused.
//!
//! A revision's directory gets one contiguous block of numbers, keyed by its path in the mount and by its info hash. So
//! the same content at the same path keeps its numbers, however often the set of revisions is published, and also when a
//! model that is read from a hub gets its manifest. Directories
//! above the revisions are keyed by their path.
//!
//! A program may look up a directory above the revisions of which nothing is known (a guessed [`TopPath`]). It gets its
//! number by its path too, so it keeps the number when it becomes known. Of the guessed directories only the last
//! [`MAX_GUESSED`] are remembered. The number of a forgotten one is stale.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

use super::top_path::TopPath;
use crate::model::InfoHash;

/// How many guessed directories are remembered: about 1 MiB.
const MAX_GUESSED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// An inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount (FUSE fixes it at 1).
    pub const ROOT: Self = Self(1);
}

/// Assigns and remembers inode numbers. The lock is held for single steps only.
#[derive(Debug)]
pub struct InodeNumbers(Mutex<NumberTable>);

#[derive(Debug)]
struct NumberTable {
    next: u64,
    /// Known directories above the revisions, by path.
    paths: HashMap<String, Ino>,
    /// Revisions, by path: the first number and how many there are.
    blocks: HashMap<(String, InfoHash), (Ino, u64)>,
    guessed: LruCache<Ino, TopPath>,
    /// The numbers of `guessed` that are not in `paths`, by path.
    guesses: HashMap<String, Ino>,
}

impl Default for InodeNumbers {
    fn default() -> Self {
        Self(Mutex::new(NumberTable {
            next: Ino::ROOT.0 + 1,
            paths: HashMap::new(),
            blocks: HashMap::new(),
            guessed: LruCache::new(MAX_GUESSED),
            guesses: HashMap::new(),
        }))
    }
}

impl NumberTable {
    fn allocate(&mut self, count: u64) -> Ino {
        let first = self.next;
        self.next += count;
        Ino(first)
    }
}

impl InodeNumbers {
    fn lock(&self) -> MutexGuard<'_, NumberTable> {
        self.0.lock()
    }

    /// The number of a directory or link above the revisions, by its path in the mount.
    pub fn of_path(&self, path: &str) -> Ino {
        let table = &mut *self.lock();
        if let Some(&ino) = table.paths.get(path) {
            return ino;
        }
        let guessed = table.guesses.remove(path);
        let ino = guessed.unwrap_or_else(|| table.allocate(1));
        table.guessed.pop(&ino);
        table.paths.insert(path.to_owned(), ino);
        ino
    }

    /// The number of a guessed directory: a program looked it up, and nothing in it is shown.
    pub fn of_guess(&self, place: &TopPath) -> Ino {
        let path = place.path();
        let table = &mut *self.lock();
        // If the directory was shown before, its number is in `paths` and never forgotten.
        let known = table.paths.get(&path).or_else(|| table.guesses.get(&path)).copied();
        let ino = known.unwrap_or_else(|| table.allocate(1));
        if known.is_none() {
            table.guesses.insert(path, ino);
        }
        if let Some((former, forgotten)) = table.guessed.push(ino, place.clone())
            && former != ino
        {
            table.guesses.remove(&forgotten.path());
        }
        ino
    }

    /// The guessed directory of a number from [`Self::of_guess`].
    pub fn guess_of(&self, ino: Ino) -> Option<TopPath> {
        self.lock().guessed.get(&ino).cloned()
    }

    /// The first number of a revision that was shown at `path` before.
    pub fn known_revision(&self, path: &str, content: InfoHash) -> Option<Ino> {
        self.lock().blocks.get(&(path.to_owned(), content)).map(|&(first, _)| first)
    }

    /// Gives a revision at `path` the numbers of another one, which it replaces: open files and directories stay valid. Both
    /// have the same files.
    pub fn succeed(&self, path: &str, former: InfoHash, content: InfoHash) {
        let table = &mut *self.lock();
        if let Some(&numbers) = table.blocks.get(&(path.to_owned(), former)) {
            table.blocks.entry((path.to_owned(), content)).or_insert(numbers);
        }
    }

    /// The first of the `count` consecutive numbers of a revision shown at `path`.
    pub fn of_revision(&self, path: &str, content: InfoHash, count: u64) -> Ino {
        let table = &mut *self.lock();
        let key = (path.to_owned(), content);
        match table.blocks.get(&key) {
            Some(&(first, len)) if len == count => first,
            _ => {
                let first = table.allocate(count);
                table.blocks.insert(key, (first, count));
                first
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    fn org(name: &str) -> TopPath {
        TopPath::Org(Kind::Model, name.to_owned())
    }

    #[test]
    fn numbers_are_remembered_and_never_overlap() {
        let numbers = InodeNumbers::default();
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

    #[test]
    fn a_guessed_directory_keeps_its_number_once_known() {
        let numbers = InodeNumbers::default();
        let asked = numbers.of_guess(&org("acme"));
        assert_eq!(numbers.of_guess(&org("acme")), asked);
        assert_eq!(numbers.guess_of(asked), Some(org("acme")));
        assert_eq!(numbers.of_path("acme"), asked);
        assert_eq!(numbers.guess_of(asked), None);
        assert_eq!(numbers.of_guess(&org("acme")), asked);
        assert_eq!(numbers.guess_of(asked), Some(org("acme")));
    }

    #[test]
    fn guessed_numbers_are_bounded_and_known_ones_are_kept() {
        let numbers = InodeNumbers::default();
        let known = numbers.of_path("known");
        numbers.of_guess(&org("known"));
        let first = numbers.of_guess(&org("first"));
        for n in 0..MAX_GUESSED.get() {
            numbers.of_guess(&org(&format!("o{n}")));
        }
        assert_eq!(numbers.guess_of(first), None);
        assert_ne!(numbers.of_guess(&org("first")), first, "one number has two meanings");
        assert_eq!(numbers.of_guess(&org("known")), known);
        let table = numbers.lock();
        assert!(table.guessed.len() <= MAX_GUESSED.get() && table.guesses.len() <= MAX_GUESSED.get());
    }
}
