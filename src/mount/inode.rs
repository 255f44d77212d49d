//! Inode numbers: given once, remembered for the node's life, never reused.
//!
//! A revision's directory gets one contiguous block of numbers, keyed by where it is shown and by its info hash:
//! same place, same content, same numbers, however often the set of revisions is published. Directories above
//! the revisions are keyed by their path.
//!
//! Directories that somebody merely asked for (a [`Place`] of which nothing is known) get numbers by the same paths,
//! so that one keeps its number when it becomes known. Of those that never did only the last [`MAX_GUESSED`] are
//! remembered; the number of one that was forgotten stands for nothing any more.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

use super::place::Place;
use crate::model::InfoHash;

/// How many directories that are merely asked for are remembered: about 1 MiB.
const MAX_GUESSED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// An inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount (FUSE fixes it at 1).
    pub const ROOT: Self = Self(1);
}

/// The giver of numbers. Its lock is held for single steps only.
#[derive(Debug)]
pub struct Numbers(Mutex<Table>);

#[derive(Debug)]
struct Table {
    next: u64,
    paths: HashMap<String, Ino>,
    blocks: HashMap<(String, InfoHash), (Ino, u64)>,
    /// What was asked for and has not been known so far.
    guessed: LruCache<Ino, Place>,
    /// The numbers of those, by path.
    guesses: HashMap<String, Ino>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self(Mutex::new(Table {
            next: Ino::ROOT.0 + 1,
            paths: HashMap::new(),
            blocks: HashMap::new(),
            guessed: LruCache::new(MAX_GUESSED),
            guesses: HashMap::new(),
        }))
    }
}

impl Table {
    fn take(&mut self, count: u64) -> Ino {
        let first = self.next;
        self.next += count;
        Ino(first)
    }
}

impl Numbers {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }

    /// The number of a directory or link above the revisions, by its path in the mount.
    pub fn of_path(&self, path: &str) -> Ino {
        let table = &mut *self.lock();
        if let Some(&ino) = table.paths.get(path) {
            return ino;
        }
        let guessed = table.guesses.remove(path);
        let ino = guessed.unwrap_or_else(|| table.take(1));
        table.guessed.pop(&ino);
        table.paths.insert(path.to_owned(), ino);
        ino
    }

    /// The number of a directory that somebody asked for and of which nothing is shown.
    pub fn of_guess(&self, place: &Place) -> Ino {
        let path = place.path();
        let table = &mut *self.lock();
        // It was shown once: its number is never forgotten, so that only what it stands for is noted again.
        let known = table.paths.get(&path).or_else(|| table.guesses.get(&path)).copied();
        let ino = known.unwrap_or_else(|| table.take(1));
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

    /// What a number was given for by [`Self::of_guess`].
    pub fn guess_of(&self, ino: Ino) -> Option<Place> {
        self.lock().guessed.get(&ino).cloned()
    }

    /// The first number of a revision that was shown at `path` before.
    pub fn known_revision(&self, path: &str, content: InfoHash) -> Option<Ino> {
        self.lock().blocks.get(&(path.to_owned(), content)).map(|&(first, _)| first)
    }

    /// The first of the `count` consecutive numbers of a revision shown at `path`.
    pub fn of_revision(&self, path: &str, content: InfoHash, count: u64) -> Ino {
        let table = &mut *self.lock();
        let key = (path.to_owned(), content);
        match table.blocks.get(&key) {
            Some(&(first, len)) if len == count => first,
            _ => {
                let first = table.take(count);
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

    fn org(name: &str) -> Place {
        Place::Org(Kind::Model, name.to_owned())
    }

    #[test]
    fn numbers_are_remembered_and_never_overlap() {
        let numbers = Numbers::default();
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
    fn what_was_asked_for_keeps_its_number_when_it_becomes_known_and_when_it_is_no_more() {
        let numbers = Numbers::default();
        let asked = numbers.of_guess(&org("acme"));
        assert_eq!(numbers.of_guess(&org("acme")), asked);
        assert_eq!(numbers.guess_of(asked), Some(org("acme")));
        assert_eq!(numbers.of_path("acme"), asked);
        assert_eq!(numbers.guess_of(asked), None);
        assert_eq!(numbers.of_guess(&org("acme")), asked);
        assert_eq!(numbers.guess_of(asked), Some(org("acme")));
    }

    #[test]
    fn only_so_many_that_nobody_has_are_remembered_and_the_known_ones_for_ever() {
        let numbers = Numbers::default();
        let known = numbers.of_path("known");
        numbers.of_guess(&org("known"));
        let first = numbers.of_guess(&org("first"));
        for n in 0..MAX_GUESSED.get() {
            numbers.of_guess(&org(&format!("o{n}")));
        }
        assert_eq!(numbers.guess_of(first), None);
        assert_ne!(numbers.of_guess(&org("first")), first, "a number stands for two things");
        assert_eq!(numbers.of_guess(&org("known")), known);
        let table = numbers.lock();
        assert!(table.guessed.len() <= MAX_GUESSED.get() && table.guesses.len() <= MAX_GUESSED.get());
    }
}
