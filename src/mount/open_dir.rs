//! Open directories: their entries, as the view had them at the time of opening.

use std::sync::Arc;
use std::time::Duration;

use super::attr::{Attr, NAME_TTL, Owner, TOP_TTL, attr_of};
use super::inode::Ino;
use super::listing::{ListingNode, NodeKind};
use super::shown::{InodeRef, TopDir, TopEntry};
use super::top_path::TopPath;
use super::view::View;
use crate::store::StoredRevision;

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Its attributes.
    pub attr: Attr,
    /// How long name and attributes may be remembered together.
    pub ttl: Duration,
}

/// Whether listings show a revision.
pub type ListFilter = dyn Fn(&StoredRevision) -> bool + Send + Sync;

/// An open directory, with the view at the time of opening.
pub struct OpenDir {
    pub(super) view: Arc<View>,
    pub(super) ino: Ino,
    pub(super) owner: Owner,
    /// For a directory above the revisions: indices of the entries that are listed.
    pub(super) entries: Vec<usize>,
    /// For a guessed directory: the attributes of itself and its parent.
    pub(super) empty: Option<[Attr; 2]>,
}

impl OpenDir {
    /// The entry at a position: 0 is `.`, 1 is `..`; none after the last entry.
    pub fn entry(&self, position: u64) -> Option<DirEntry> {
        if let Some(empty) = &self.empty {
            let at = usize::try_from(position).ok()?;
            let name = [".", ".."].get(at)?;
            return Some(DirEntry { name: (*name).to_owned(), attr: empty[at].clone(), ttl: Duration::ZERO });
        }
        let found = self.view.find(self.ino)?;
        let (ino, name, ttl) = match (position, &found) {
            (0, _) => (self.ino, ".".to_owned(), Duration::ZERO),
            (1, _) => (parent_of(&found), "..".to_owned(), Duration::ZERO),
            (n, InodeRef::Top(dir)) => {
                let entry = &dir.entries[*self.entries.get(usize::try_from(n - 2).ok()?)?];
                (entry.ino, entry.name.clone(), TOP_TTL)
            }
            (n, InodeRef::Inside(placement, _, ListingNode { kind: NodeKind::Dir { children, .. }, .. })) => {
                let child = *children.get(usize::try_from(n - 2).ok()?)?;
                let node = placement.nodes.get(child.into())?;
                (placement.ino(child), node.name.clone().into_string(), NAME_TTL)
            }
            (_, InodeRef::Link(_) | InodeRef::Text(_) | InodeRef::Inside(..)) => return None,
        };
        let attr = attr_of(&self.view, ino, &self.owner).ok()?;
        let ttl = ttl.min(attr.ttl);
        Some(DirEntry { name, attr, ttl })
    }
}

/// Whether a filter accepts an entry of a directory above the revisions. A link is accepted if its target is, and a
/// directory if any of its entries is.
pub(super) fn is_listed(view: &View, dir: &TopDir, entry: &TopEntry, filter: &ListFilter) -> bool {
    match view.find(entry.ino) {
        Some(InodeRef::Inside(placement, ..)) => filter(&placement.revision),
        Some(InodeRef::Link(target)) => {
            dir.child(target).is_some_and(|e| e.is_dir && is_listed(view, dir, e, filter))
        }
        // The directories and files of a repository that has a listed snapshot.
        Some(InodeRef::Text(_)) => true,
        Some(InodeRef::Top(TopDir { place: TopPath::RepoDir(..), .. })) => true,
        Some(InodeRef::Top(below @ TopDir { place: TopPath::Repo(_), .. })) => {
            let dirs = below.entries.iter().filter_map(|entry| match view.find(entry.ino)? {
                InodeRef::Top(dir) => Some(dir),
                _ => None,
            });
            let mut snapshots = dirs.flat_map(|dir| dir.entries.iter().map(move |entry| (dir, entry)));
            snapshots.any(|(dir, entry)| entry.is_dir && is_listed(view, dir, entry, filter))
        }
        Some(InodeRef::Top(below)) => below.entries.iter().any(|e| is_listed(view, below, e, filter)),
        None => false,
    }
}

fn parent_of(found: &InodeRef<'_>) -> Ino {
    match found {
        InodeRef::Top(dir) => dir.parent,
        InodeRef::Inside(placement, 0, _) => placement.parent,
        InodeRef::Inside(placement, _, node) => placement.ino(node.parent),
        InodeRef::Link(_) | InodeRef::Text(_) => Ino::ROOT,
    }
}
