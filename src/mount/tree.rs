//! The file system as a table: names, attributes, listings and facts, answered from memory.
//!
//! Nothing here waits, touches the network or knows of FUSE. The shown set is one immutable [`View`] that
//! `publish` replaces as a whole; a directory that is open goes on listing the view it was opened with, so that
//! offsets stay true while others publish.
//!
//! Where names may be asked for beyond what is shown ([`Tree::guess_names`]), every name that an organisation could
//! have is a directory: not listed, empty, and given up when nobody has looked at it for a while. The kernel asks for
//! `org` before it asks for `name`, when nobody can know yet. So `stat anything` succeeds, and `ls` shows what is.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};

use super::inode::{Ino, Numbers};
use super::listing::{Node, NodeKind};
use super::never::NeverResolve;
use super::place::{Guess, Place, Sought, fingerprint_of};
use super::view::{Found, Placement, Shown, TopDir, TopEntry, View};
use super::xattr::{self, Fact};
use crate::fetch::FileRef;
use crate::model::{Manifest, ModelRef, PublisherKey};
use crate::store::StoredRevision;

/// How long names and attributes above the revisions are valid: publishing changes them, and nobody should have
/// to wait for that.
const TOP_TTL: Duration = Duration::from_secs(1);

/// How long a name within a revision is valid, present or not: content is named by its hash and never changes.
/// When the revision is taken out, the entry above it expires first and with it all below.
const NAME_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long the attributes of a file that is not wholly here are valid: its blocks grow while it is read.
const PARTIAL_TTL: Duration = Duration::from_secs(1);

/// How long the attributes of a complete file are valid. Eviction may take blocks back, and `st_blocks` should
/// say so within minutes.
const COMPLETE_TTL: Duration = Duration::from_secs(600);

/// The unit of `st_blocks` (POSIX) and of our statfs, in bytes.
const BLOCK: u64 = 512;

/// What a name or number is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The number stands for nothing that is shown (any more).
    #[error("this inode is no longer shown")]
    Stale,
    /// It is not a directory.
    #[error("not a directory")]
    NotDir,
    /// It is a directory.
    #[error("is a directory")]
    IsDir,
    /// It is not a link.
    #[error("not a symbolic link")]
    NotLink,
    /// It has no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// Several publishers dispute the name of the model.
    #[error("several publishers dispute this name")]
    Disputed,
    /// Whoever asked is to end.
    #[error("a signal came")]
    Interrupted,
    /// The mount is being taken down.
    #[error("the mount is being taken down")]
    Stopped,
}

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InodeKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// What `stat` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Kind.
    pub kind: InodeKind,
    /// Length in bytes.
    pub size: u64,
    /// Cached bytes, in units of 512; at least 1 for a file that is not empty.
    pub blocks: u64,
    /// All of the three times.
    pub mtime: SystemTime,
    /// Permission bits.
    pub perm: u16,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How long these attributes are valid.
    pub ttl: Duration,
}

/// The answer to a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// There is such a name.
    Present {
        /// Its attributes.
        attr: Attr,
        /// How long the name is valid.
        ttl: Duration,
    },
    /// There is none, and that is valid for so long.
    Absent(Duration),
    /// None is known, but there may be such a model elsewhere.
    Unknown(Sought),
}

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its attributes.
    pub attr: Attr,
    /// How long name and attributes may be remembered together.
    pub ttl: Duration,
}

/// What statfs shows, in blocks of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// All shown bytes.
    pub blocks: u64,
    /// Those that are not here yet.
    pub missing: u64,
    /// Number of inodes.
    pub inodes: u64,
}

/// Who owns what is shown, and since when.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was mounted.
    pub mounted_at: SystemTime,
}

/// The shown set of revisions.
pub struct Tree {
    owner: Owner,
    /// Held by whoever publishes, so that one does so after another.
    publishing: Mutex<()>,
    numbers: Numbers,
    /// Held for the time of a clone.
    view: RwLock<Arc<View>>,
    /// Which revisions a listing shows; none is all.
    listed: RwLock<Option<Arc<ListFilter>>>,
    /// The names that stand for nothing; none where there is no more than what is shown.
    never: OnceLock<NeverResolve>,
    /// Answers what the trust knows; none before it is asked.
    trust: RwLock<Option<Arc<dyn Judge>>>,
}

/// Questions of the mount about publishers. Called for each lookup and listing: must not block.
pub trait Judge: Send + Sync {
    /// Whether the name of a model belongs to its publisher.
    fn is_pinned(&self, manifest: &Manifest) -> bool;
    /// The publisher known here that a text means: by an alias, or the beginning of a key or fingerprint.
    fn find(&self, text: &str) -> Option<PublisherKey>;
}

/// Says of a revision whether listings show it.
pub type ListFilter = dyn Fn(&StoredRevision) -> bool + Send + Sync;

impl Tree {
    /// A tree that shows nothing yet.
    pub fn new(owner: Owner) -> Self {
        let numbers = Numbers::default();
        let view = View::new(Shown::default(), None, &numbers, owner.mounted_at);
        Self {
            owner,
            publishing: Mutex::new(()),
            numbers,
            view: RwLock::new(Arc::new(view)),
            listed: RwLock::new(None),
            never: OnceLock::new(),
            trust: RwLock::new(None),
        }
    }

    /// Replaces the shown set. A disputed name that was read before keeps its publisher; returns these names.
    pub fn publish(&self, shown: impl Into<Shown>) -> BTreeSet<ModelRef> {
        let mut shown = shown.into();
        let _one = self.publishing.lock();
        let previous = self.view();
        let kept = previous.used_of(&shown);
        shown.disputed.retain(|model| !kept.contains(model));
        let view = View::new(shown, Some(&previous), &self.numbers, self.owner.mounted_at);
        *self.view.write() = Arc::new(view);
        kept
    }

    fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Lists, from now on, only the revisions that the filter accepts, asked whenever a directory is opened. What is
    /// not listed is found by its name all the same.
    pub fn list_only(&self, filter: Arc<ListFilter>) {
        *self.listed.write() = Some(filter);
    }

    /// Asks about publishers from now on.
    pub fn ask_trust(&self, judge: Arc<dyn Judge>) {
        *self.trust.write() = Some(judge);
    }

    fn judge(&self) -> Option<Arc<dyn Judge>> {
        self.trust.read().clone()
    }

    /// Answers, from now on, that a name above the revisions that is not known may stand for something, unless it matches
    /// `never`. The first call counts.
    pub fn guess_names(&self, never: NeverResolve) {
        let _ = self.never.set(never);
    }

    /// Finds a name in a directory.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Lookup, TreeError> {
        let view = self.view();
        // Our names are UTF-8; others are merely absent.
        let name = std::str::from_utf8(name.as_bytes()).ok();
        match view.find(parent) {
            Some(Found::Top(dir)) => Ok(match name.and_then(|n| dir.child(n)) {
                Some(entry) => {
                    Lookup::Present { attr: attr_of(&view, entry.ino, &self.owner)?, ttl: TOP_TTL }
                }
                None => self.guess(&view, &dir.place, name)?,
            }),
            Some(Found::Inside(placement, _, node @ Node { kind: NodeKind::Dir { .. }, .. })) => {
                placement.note_use();
                Ok(match name.and_then(|n| placement.nodes.child(node, n)) {
                    Some(child) => {
                        let attr = attr_of(&view, placement.ino(child), &self.owner)?;
                        Lookup::Present { attr, ttl: NAME_TTL }
                    }
                    None => Lookup::Absent(NAME_TTL),
                })
            }
            Some(Found::Link(_) | Found::Inside(..)) => Err(TreeError::NotDir),
            None => {
                let place = self.numbers.guess_of(parent).ok_or(TreeError::Stale)?;
                self.guess(&view, &place, name)
            }
        }
    }

    /// The answer to a name that is not known.
    fn guess(&self, view: &View, place: &Place, name: Option<&str>) -> Result<Lookup, TreeError> {
        if matches!(place, Place::Alias(..)) {
            return Err(TreeError::NotDir);
        }
        let may_be = self.never.get().is_some();
        let none = NeverResolve::default();
        let never = self.never.get().unwrap_or(&none);
        Ok(match name.and_then(|name| place.guess(name, never)) {
            Some(Guess::Model(sought)) if sought.publisher.is_none() && view.is_disputed(&sought.model) => {
                return Err(TreeError::Disputed);
            }
            Some(Guess::Model(sought)) if may_be => Lookup::Unknown(sought),
            Some(Guess::Dir(place)) if may_be => {
                let attr = dir_attr(self.numbers.of_guess(&place), &self.owner);
                Lookup::Present { attr, ttl: TOP_TTL }
            }
            Some(Guess::Publisher(text)) => self.publisher(text),
            _ => Lookup::Absent(Duration::ZERO),
        })
    }

    /// The answer to a name in `/.by` that is not a fingerprint as it is printed: a link to the fingerprint of the publisher
    /// that it means.
    fn publisher(&self, text: String) -> Lookup {
        let known = || Some(self.judge()?.find(&text)?.fingerprint());
        let Some(publisher) = fingerprint_of(&text).or_else(known) else {
            return Lookup::Absent(Duration::ZERO);
        };
        let attr_of = |ino| link_attr(ino, &publisher, &self.owner);
        let ino = self.numbers.of_guess(&Place::Alias(text, publisher.clone()));
        Lookup::Present { attr: attr_of(ino), ttl: TOP_TTL }
    }

    /// The attributes of an inode.
    pub fn attr(&self, ino: Ino) -> Result<Attr, TreeError> {
        match attr_of(&self.view(), ino, &self.owner) {
            Err(TreeError::Stale) => match self.numbers.guess_of(ino) {
                Some(Place::Alias(_, publisher)) => Ok(link_attr(ino, &publisher, &self.owner)),
                Some(_) => Ok(dir_attr(ino, &self.owner)),
                None => Err(TreeError::Stale),
            },
            attr => attr,
        }
    }

    /// Where a link points.
    pub fn link(&self, ino: Ino) -> Result<String, TreeError> {
        match self.view().find(ino) {
            Some(Found::Link(target)) => Ok(target.to_owned()),
            Some(Found::Top(_) | Found::Inside(..)) => Err(TreeError::NotLink),
            None => match self.numbers.guess_of(ino).ok_or(TreeError::Stale)? {
                Place::Alias(_, publisher) => Ok(publisher),
                _ => Err(TreeError::NotLink),
            },
        }
    }

    /// The file behind an inode.
    pub fn file(&self, ino: Ino) -> Result<FileRef, TreeError> {
        match self.view().find(ino).ok_or(TreeError::Stale)? {
            Found::Inside(placement, _, Node { kind: NodeKind::File(file), .. }) => {
                placement.note_use();
                Ok(FileRef { revision: placement.revision.clone(), file: *file as usize })
            }
            Found::Top(_) | Found::Link(_) | Found::Inside(..) => Err(TreeError::IsDir),
        }
    }

    /// Opens a directory for listing.
    pub fn open_dir(&self, ino: Ino) -> Result<OpenDir, TreeError> {
        let view = self.view();
        let Some(found) = view.find(ino) else {
            // Nothing is known of it, or it would be found.
            let place = self.numbers.guess_of(ino).ok_or(TreeError::Stale)?;
            if matches!(place, Place::Alias(..)) {
                return Err(TreeError::NotDir);
            }
            let parent = match place.parent() {
                Place::Root => Ino::ROOT,
                parent => self.numbers.of_guess(&parent),
            };
            let empty = Some([ino, parent].map(|ino| dir_attr(ino, &self.owner)));
            return Ok(OpenDir { view, ino, owner: self.owner, entries: Vec::new(), empty });
        };
        let entries = match found {
            Found::Top(dir) => {
                let filter = self.listed.read().clone();
                let shown = |at: &usize| {
                    filter.as_deref().is_none_or(|f| is_listed(&view, dir, &dir.entries[*at], f))
                };
                (0..dir.entries.len()).filter(shown).collect()
            }
            Found::Inside(placement, _, Node { kind: NodeKind::Dir { .. }, .. }) => {
                placement.note_use();
                Vec::new()
            }
            Found::Link(_) | Found::Inside(..) => return Err(TreeError::NotDir),
        };
        Ok(OpenDir { view: view.clone(), ino, owner: self.owner, entries, empty: None })
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, ino: Ino, name: &OsStr) -> Result<String, TreeError> {
        let fact = Fact::from_name(name).ok_or(TreeError::NoAttribute)?;
        let view = self.view();
        // A directory that somebody merely asked for has none either.
        let found = view.find(ino).ok_or(TreeError::NoAttribute)?;
        self.fact(&found, fact).ok_or(TreeError::NoAttribute)
    }

    /// The names of the extended attributes that an inode has.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<&'static str>, TreeError> {
        let view = self.view();
        let Some(found) = view.find(ino) else {
            return self.attr(ino).map(|_| Vec::new());
        };
        Ok(Fact::ALL.into_iter().filter(|f| self.fact(&found, *f).is_some()).map(Fact::name).collect())
    }

    fn fact(&self, found: &Found<'_>, fact: Fact) -> Option<String> {
        xattr::value(found, fact, |manifest| Some(self.judge()?.is_pinned(manifest)))
    }

    /// Sums over everything that is shown. Bytes that two revisions share count in both.
    pub fn totals(&self) -> Totals {
        let view = self.view();
        let (mut bytes, mut here, mut inodes) = (0u64, 0u64, view.top_len());
        // What is below `.by` as well counts once.
        for placement in view.placements().filter(|placement| placement.of.is_none()) {
            bytes = bytes.saturating_add(placement.revision.manifest.total_size);
            here = here.saturating_add(placement.revision.cached_bytes());
            inodes += placement.nodes.len();
        }
        let (blocks, here) = (bytes.div_ceil(BLOCK), here / BLOCK);
        Totals { blocks, missing: if bytes == 0 { 0 } else { blocks.saturating_sub(here) }, inodes }
    }
}

/// An open directory: the view at the time of opening.
pub struct OpenDir {
    view: Arc<View>,
    ino: Ino,
    owner: Owner,
    /// Above the revisions: which entries of the directory are listed.
    entries: Vec<usize>,
    /// One of which nothing was known: itself and the one above it.
    empty: Option<[Attr; 2]>,
}

impl OpenDir {
    /// The entry at a position. 0 is `.`, 1 is `..`; none behind the last.
    pub fn entry(&self, position: u64) -> Option<Entry> {
        if let Some(empty) = &self.empty {
            let at = usize::try_from(position).ok()?;
            let name = [".", ".."].get(at)?;
            return Some(Entry { name: (*name).to_owned(), attr: empty[at].clone(), ttl: Duration::ZERO });
        }
        let found = self.view.find(self.ino)?;
        let (ino, name, ttl) = match (position, &found) {
            (0, _) => (self.ino, ".".to_owned(), Duration::ZERO),
            (1, _) => (parent_of(&found), "..".to_owned(), Duration::ZERO),
            (n, Found::Top(dir)) => {
                let entry = &dir.entries[*self.entries.get(usize::try_from(n - 2).ok()?)?];
                (entry.ino, entry.name.clone(), TOP_TTL)
            }
            (n, Found::Inside(placement, _, Node { kind: NodeKind::Dir { children, .. }, .. })) => {
                let child = *children.get(usize::try_from(n - 2).ok()?)?;
                let node = placement.nodes.get(child.into())?;
                (placement.ino(child), node.name.clone().into_string(), NAME_TTL)
            }
            (_, Found::Link(_) | Found::Inside(..)) => return None,
        };
        let attr = attr_of(&self.view, ino, &self.owner).ok()?;
        let ttl = ttl.min(attr.ttl);
        Some(Entry { name, attr, ttl })
    }
}

/// Whether a filter lets an entry of a directory above the revisions through: a revision by itself, a link by its
/// target, a directory by any of its entries.
fn is_listed(view: &View, dir: &TopDir, entry: &TopEntry, filter: &ListFilter) -> bool {
    match view.find(entry.ino) {
        Some(Found::Inside(placement, ..)) => filter(&placement.revision),
        Some(Found::Link(target)) => {
            dir.child(target).is_some_and(|e| e.is_dir && is_listed(view, dir, e, filter))
        }
        Some(Found::Top(below)) => below.entries.iter().any(|e| is_listed(view, below, e, filter)),
        None => false,
    }
}

fn parent_of(found: &Found<'_>) -> Ino {
    match found {
        Found::Top(dir) => dir.parent,
        Found::Inside(placement, 0, _) => placement.parent,
        Found::Inside(placement, _, node) => placement.ino(node.parent),
        Found::Link(_) => Ino::ROOT,
    }
}

/// The attributes of an empty directory above the revisions.
fn dir_attr(ino: Ino, owner: &Owner) -> Attr {
    Attr {
        ino,
        kind: InodeKind::Dir,
        size: 0,
        blocks: 0,
        mtime: owner.mounted_at,
        perm: 0o555,
        nlink: 2,
        uid: owner.uid,
        gid: owner.gid,
        ttl: TOP_TTL,
    }
}

/// The attributes of a link.
fn link_attr(ino: Ino, target: &str, owner: &Owner) -> Attr {
    Attr { kind: InodeKind::Link, size: target.len() as u64, perm: 0o777, nlink: 1, ..dir_attr(ino, owner) }
}

fn attr_of(view: &View, ino: Ino, owner: &Owner) -> Result<Attr, TreeError> {
    let found = view.find(ino).ok_or(TreeError::Stale)?;
    let attr = Attr { nlink: view.nlink(&found), ..dir_attr(ino, owner) };
    Ok(match &found {
        Found::Top(_) => attr,
        Found::Link(target) => Attr { kind: InodeKind::Link, size: target.len() as u64, perm: 0o777, ..attr },
        Found::Inside(placement, index, Node { kind: NodeKind::Dir { .. }, .. }) => {
            let ttl = if *index == 0 { TOP_TTL } else { NAME_TTL };
            Attr { mtime: placement.mtime, ttl, ..attr }
        }
        Found::Inside(placement, _, Node { kind: NodeKind::File(file), .. }) => {
            file_attr(placement, *file as usize, attr)
        }
    })
}

fn file_attr(placement: &Placement, file: usize, base: Attr) -> Attr {
    let content = &placement.revision.contents[file];
    let entry = &placement.revision.manifest.files[file];
    Attr {
        kind: InodeKind::File,
        size: entry.size,
        // GNU tar archives a file with 0 blocks as zeros, without reading it.
        blocks: content.cached_bytes().div_ceil(BLOCK).max(entry.size.min(1)),
        mtime: placement.mtime,
        perm: if entry.executable { 0o555 } else { 0o444 },
        ttl: if content.is_complete() { COMPLETE_TTL } else { PARTIAL_TTL },
        ..base
    }
}
