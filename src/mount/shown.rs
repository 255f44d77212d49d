//! The inodes that a mount shows: directories above the revisions with their entries, and revisions at their places.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::inode::Ino;
use super::listing::{ListingNode, Nodes};
use super::top_path::TopPath;
use crate::store::StoredRevision;

/// A directory above the revisions: the root, `datasets`, an organisation, or the same below `.by`.
#[derive(Debug)]
pub struct TopDir {
    /// Its path.
    pub place: TopPath,
    /// The directory above it; the root is its own parent.
    pub parent: Ino,
    /// Listed entries, sorted by name.
    pub entries: Vec<TopEntry>,
    /// Entries that are found but not listed, sorted by name.
    pub hidden: Vec<TopEntry>,
}

impl TopDir {
    pub(super) fn new(place: TopPath, parent: Ino) -> Self {
        Self { place, parent, entries: Vec::new(), hidden: Vec::new() }
    }

    /// Finds a name.
    pub fn child(&self, name: &str) -> Option<&TopEntry> {
        [&self.entries, &self.hidden].into_iter().find_map(|entries| {
            let at = entries.binary_search_by(|e| e.name.as_str().cmp(name)).ok()?;
            Some(&entries[at])
        })
    }
}

/// An entry of a [`TopDir`].
#[derive(Debug)]
pub struct TopEntry {
    /// File name.
    pub name: String,
    /// Inode number.
    pub ino: Ino,
    /// True for a directory, false for a link or a text.
    pub is_dir: bool,
}

/// A revision that is shown at one path.
#[derive(Debug)]
pub struct Placement {
    /// The directory that contains it.
    pub parent: Ino,
    /// The number of its own directory. The numbers of its other nodes follow.
    pub first: Ino,
    /// Manifest and contents.
    pub revision: Arc<StoredRevision>,
    /// Directories and files.
    pub nodes: Arc<Nodes>,
    /// The manifest's time of creation; if it has none, the time of mounting.
    pub mtime: SystemTime,
    /// The publisher's fingerprint if it is shown below `.by`; none if it is shown under its name.
    pub of: Option<String>,
    /// Whether something in it was looked up, listed or opened since the mount began.
    pub(super) used: Arc<AtomicBool>,
}

impl Placement {
    /// Remembers that a program uses it.
    pub fn note_use(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// The inode number of a node.
    pub fn ino(&self, node: u32) -> Ino {
        Ino(self.first.0 + u64::from(node))
    }
}

/// The inode of a number.
pub enum InodeRef<'a> {
    /// A directory above the revisions.
    Top(&'a TopDir),
    /// A link above the revisions, with its target.
    Link(&'a str),
    /// A file above the revisions, with its text.
    Text(&'a str),
    /// A directory or file of a revision, with its index among the revision's nodes.
    Inside(&'a Placement, u32, &'a ListingNode),
}
