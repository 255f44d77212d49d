//! The inodes of the mount: names, attributes, listings and extended attributes, answered from memory.
//!
//! This module never waits, does not use the network and does not depend on FUSE. The shown revisions are one immutable
//! [`View`], which `publish` replaces as a whole. An open directory continues to list the view with which it was opened,
//! so its offsets stay valid after a `publish`.
//!
//! If unknown models may be looked up ([`Tree::guess_names`]), every possible name of an organisation is a directory: not
//! listed, empty, and forgotten when it was not used for a while. The reason: the kernel looks up `org` before `name`,
//! and at that time no record can prove that `org` exists. So `stat anything` succeeds, and `ls` lists only known names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};

use super::inode::{Ino, InodeNumbers};
use super::listing::{ListingNode, NodeKind};
use super::never_resolve::NeverResolve;
use super::top_path::{MountLayout, PossibleEntry, RequestedModel, TopPath, fingerprint_of};
use super::view::{InodeRef, Placement, ShownModels, TopDir, TopEntry, View};
use super::xattr::{self, XattrName};
use crate::fetch::FileRef;
use crate::model::{InfoHash, Manifest, ModelName, ModelRef, PublisherKey};
use crate::store::StoredRevision;

/// How long names and attributes above the revisions are valid. Short, because `publish` changes them and programs
/// should see the change soon.
const TOP_TTL: Duration = Duration::from_secs(1);

/// How long a name within a revision is valid, whether it exists or not: content is named by its hash and never changes.
/// When the revision is removed, the entry of its directory expires first, and all names below it with it.
const NAME_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long the attributes of an incomplete file are valid: its blocks grow while it is read.
const PARTIAL_TTL: Duration = Duration::from_secs(1);

/// How long the attributes of a complete file are valid. Eviction may remove blocks, and `st_blocks` should show that
/// within minutes.
const COMPLETE_TTL: Duration = Duration::from_secs(600);

/// The unit of `st_blocks` (POSIX) and of the mount's statfs, in bytes.
const BLOCK: u64 = 512;

/// Why the tree cannot answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No inode with this number is shown, or no longer.
    #[error("this inode is no longer shown")]
    Stale,
    /// The inode is not a directory.
    #[error("not a directory")]
    NotDir,
    /// The inode is a directory.
    #[error("is a directory")]
    IsDir,
    /// The inode is not a symbolic link.
    #[error("not a symbolic link")]
    NotLink,
    /// The inode has no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// Several publishers dispute the name of the model.
    #[error("several publishers dispute this name")]
    Disputed,
    /// The hub does not permit this user to read the model.
    #[error("the hub does not permit this user to read it")]
    Denied,
    /// The program that waits is about to end.
    #[error("interrupted by a signal")]
    Interrupted,
    /// The mount is being unmounted.
    #[error("the mount is being unmounted")]
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

/// The attributes that `stat` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// File type.
    pub kind: InodeKind,
    /// Length in bytes.
    pub size: u64,
    /// Cached bytes, in units of 512; at least 1 for a file that is not empty.
    pub blocks: u64,
    /// Used for all three times.
    pub mtime: SystemTime,
    /// Permission bits.
    pub perm: u16,
    /// Number of hard links.
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
    /// The name exists.
    Present {
        /// The attributes of its inode.
        attr: Attr,
        /// How long the name is valid.
        ttl: Duration,
    },
    /// The name does not exist. The reply is valid for this time.
    Absent(Duration),
    /// No such model is known, but another host may have it.
    Unknown(RequestedModel),
}

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

/// The numbers that statfs shows, in blocks of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Blocks of all shown files.
    pub blocks: u64,
    /// Blocks that are not cached.
    pub missing: u64,
    /// Number of inodes.
    pub inodes: u64,
}

/// Owner and default time of all inodes.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of mounting: the modification time of directories without a better one.
    pub mounted_at: SystemTime,
}

impl Owner {
    /// The user and group of this process, and now.
    pub fn of_this_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { uid: uid.as_raw(), gid: gid.as_raw(), mounted_at: SystemTime::now() }
    }
}

/// The inodes of one mount.
pub struct Tree {
    owner: Owner,
    layout: MountLayout,
    /// Held during `publish`, so that calls run one after another. Locked before `view`.
    publishing: Mutex<()>,
    numbers: InodeNumbers,
    /// Locked only to clone or replace the `Arc`.
    view: RwLock<Arc<View>>,
    /// Selects the revisions that listings show; none shows all.
    listed: RwLock<Option<Arc<ListFilter>>>,
    /// Names that are never guessed. None: no name is guessed, only shown names exist.
    never: OnceLock<NeverResolve>,
    /// None until [`Self::set_trust`].
    trust: RwLock<Option<Arc<dyn PublisherTrust>>>,
}

/// Answers the mount's questions about publishers. Called for lookups and extended attributes: must not block.
pub trait PublisherTrust: Send + Sync {
    /// Whether the name of a model is pinned to its publisher.
    fn is_pinned(&self, manifest: &Manifest) -> bool;
    /// The known publisher that a text means: by an alias, or by the beginning of a key or fingerprint.
    fn find_publisher(&self, text: &str) -> Option<PublisherKey>;
}

/// Whether listings show a revision.
pub type ListFilter = dyn Fn(&StoredRevision) -> bool + Send + Sync;

impl Tree {
    /// A tree without revisions.
    pub fn new(owner: Owner, layout: MountLayout) -> Self {
        let numbers = InodeNumbers::default();
        let view = View::new(ShownModels::default(), layout, None, &numbers, owner.mounted_at);
        Self {
            owner,
            layout,
            publishing: Mutex::new(()),
            numbers,
            view: RwLock::new(Arc::new(view)),
            listed: RwLock::new(None),
            never: OnceLock::new(),
            trust: RwLock::new(None),
        }
    }

    /// Replaces the shown revisions. A disputed name that was read before keeps its publisher. Returns these names.
    pub fn publish(&self, shown: impl Into<ShownModels>) -> BTreeSet<ModelRef> {
        let mut shown = shown.into();
        let _one = self.publishing.lock();
        let previous = self.view();
        let kept = previous.used_of(&shown);
        shown.disputed.retain(|model| !kept.contains(model));
        let view = View::new(shown, self.layout, Some(&previous), &self.numbers, self.owner.mounted_at);
        *self.view.write() = Arc::new(view);
        kept
    }

    fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// From now on lists only the revisions that the filter accepts. The filter runs when a directory is opened. A lookup
    /// by name still finds a revision that is not listed.
    pub fn list_only(&self, filter: Arc<ListFilter>) {
        *self.listed.write() = Some(filter);
    }

    /// Sets the source of answers about publishers.
    pub fn set_trust(&self, trust: Arc<dyn PublisherTrust>) {
        *self.trust.write() = Some(trust);
    }

    fn trust(&self) -> Option<Arc<dyn PublisherTrust>> {
        self.trust.read().clone()
    }

    /// From now on unknown names above the revisions are guessed: an organisation is an empty directory, and a model is
    /// [`Lookup::Unknown`]. Names that match `never` are not guessed. Further calls have no effect.
    pub fn guess_names(&self, never: NeverResolve) {
        let _ = self.never.set(never);
    }

    /// Finds a name in a directory.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Lookup, TreeError> {
        let view = self.view();
        // All names of the mount are UTF-8. A name that is not UTF-8 is absent.
        let name = std::str::from_utf8(name.as_bytes()).ok();
        match view.find(parent) {
            Some(InodeRef::Top(dir)) => Ok(match name.and_then(|n| dir.child(n)) {
                Some(entry) => {
                    Lookup::Present { attr: attr_of(&view, entry.ino, &self.owner)?, ttl: TOP_TTL }
                }
                None => self.guess(&view, &dir.place, name)?,
            }),
            Some(InodeRef::Inside(placement, _, node @ ListingNode { kind: NodeKind::Dir { .. }, .. })) => {
                placement.note_use();
                Ok(match name.and_then(|n| placement.nodes.child(node, n)) {
                    Some(child) => {
                        let attr = attr_of(&view, placement.ino(child), &self.owner)?;
                        Lookup::Present { attr, ttl: NAME_TTL }
                    }
                    None => Lookup::Absent(NAME_TTL),
                })
            }
            Some(InodeRef::Link(_) | InodeRef::Text(_) | InodeRef::Inside(..)) => Err(TreeError::NotDir),
            None => {
                let place = self.numbers.guess_of(parent).ok_or(TreeError::Stale)?;
                self.guess(&view, &place, name)
            }
        }
    }

    /// The reply to an unknown name.
    fn guess(&self, view: &View, place: &TopPath, name: Option<&str>) -> Result<Lookup, TreeError> {
        if matches!(place, TopPath::Alias(..)) {
            return Err(TreeError::NotDir);
        }
        let may_be = self.never.get().is_some();
        let none = NeverResolve::default();
        let never = self.never.get().unwrap_or(&none);
        Ok(match name.and_then(|name| place.guess(name, never)) {
            Some(PossibleEntry::Model(requested))
                if requested.publisher.is_none() && view.is_disputed(&requested.model) =>
            {
                return Err(TreeError::Disputed);
            }
            Some(PossibleEntry::Model(requested)) if may_be => Lookup::Unknown(requested),
            Some(PossibleEntry::Dir(place)) if may_be => {
                let attr = dir_attr(self.numbers.of_guess(&place), &self.owner);
                Lookup::Present { attr, ttl: TOP_TTL }
            }
            Some(PossibleEntry::Publisher(text)) => self.publisher_link(text),
            _ => Lookup::Absent(Duration::ZERO),
        })
    }

    /// The reply to a name in `/.by` that is not a fingerprint as it is printed: if the name means a publisher, a link to
    /// the fingerprint.
    fn publisher_link(&self, text: String) -> Lookup {
        let known = || Some(self.trust()?.find_publisher(&text)?.fingerprint());
        let Some(publisher) = fingerprint_of(&text).or_else(known) else {
            return Lookup::Absent(Duration::ZERO);
        };
        let attr_of = |ino| link_attr(ino, &publisher, &self.owner);
        let ino = self.numbers.of_guess(&TopPath::Alias(text, publisher.clone()));
        Lookup::Present { attr: attr_of(ino), ttl: TOP_TTL }
    }

    /// The attributes of an inode.
    pub fn attr(&self, ino: Ino) -> Result<Attr, TreeError> {
        match attr_of(&self.view(), ino, &self.owner) {
            Err(TreeError::Stale) => match self.numbers.guess_of(ino) {
                Some(TopPath::Alias(_, publisher)) => Ok(link_attr(ino, &publisher, &self.owner)),
                Some(_) => Ok(dir_attr(ino, &self.owner)),
                None => Err(TreeError::Stale),
            },
            attr => attr,
        }
    }

    /// The target of a link.
    pub fn link(&self, ino: Ino) -> Result<String, TreeError> {
        match self.view().find(ino) {
            Some(InodeRef::Link(target)) => Ok(target.to_owned()),
            Some(InodeRef::Top(_) | InodeRef::Text(_) | InodeRef::Inside(..)) => Err(TreeError::NotLink),
            None => match self.numbers.guess_of(ino).ok_or(TreeError::Stale)? {
                TopPath::Alias(_, publisher) => Ok(publisher),
                _ => Err(TreeError::NotLink),
            },
        }
    }

    /// The file of an inode.
    pub fn file(&self, ino: Ino) -> Result<FileRef, TreeError> {
        match self.view().find(ino).ok_or(TreeError::Stale)? {
            InodeRef::Inside(placement, _, ListingNode { kind: NodeKind::File(file), .. }) => {
                placement.note_use();
                Ok(FileRef { revision: placement.revision.clone(), file: *file as usize })
            }
            InodeRef::Top(_) | InodeRef::Link(_) | InodeRef::Text(_) | InodeRef::Inside(..) => {
                Err(TreeError::IsDir)
            }
        }
    }

    /// The text of a file above the revisions; none for other inodes.
    pub fn text(&self, ino: Ino) -> Option<String> {
        match self.view().find(ino)? {
            InodeRef::Text(text) => Some(text.to_owned()),
            InodeRef::Top(_) | InodeRef::Link(_) | InodeRef::Inside(..) => None,
        }
    }

    /// The revision whose own directory has this inode number.
    pub fn revision(&self, ino: Ino) -> Option<Arc<StoredRevision>> {
        match self.view().find(ino)? {
            InodeRef::Inside(placement, 0, _) => {
                placement.note_use();
                Some(placement.revision.clone())
            }
            InodeRef::Top(_) | InodeRef::Link(_) | InodeRef::Text(_) | InodeRef::Inside(..) => None,
        }
    }

    /// The revisions that are shown under a name, the default one first.
    pub fn revisions(&self, name: &ModelName) -> Vec<Arc<StoredRevision>> {
        let view = self.view();
        let shown = view.placements().filter(|placement| placement.of.is_none());
        let mut revisions: Vec<_> =
            shown.map(|placement| placement.revision.clone()).filter(|r| r.manifest.name == *name).collect();
        revisions.sort_by_key(|r| (!r.manifest.version.is_default(), r.manifest.version.clone()));
        revisions
    }

    /// Whether a revision with this torrent is shown under its name.
    pub fn shows(&self, info_hash: &InfoHash) -> bool {
        self.view().shows(info_hash)
    }

    /// Opens a directory for listing.
    pub fn open_dir(&self, ino: Ino) -> Result<OpenDir, TreeError> {
        let view = self.view();
        let Some(found) = view.find(ino) else {
            // The view does not have it, so it can only be a guessed directory.
            let place = self.numbers.guess_of(ino).ok_or(TreeError::Stale)?;
            if matches!(place, TopPath::Alias(..)) {
                return Err(TreeError::NotDir);
            }
            let parent = match place.parent() {
                TopPath::Root => Ino::ROOT,
                TopPath::CacheRoot => Ino::ROOT,
                parent => self.numbers.of_guess(&parent),
            };
            let empty = Some([ino, parent].map(|ino| dir_attr(ino, &self.owner)));
            return Ok(OpenDir { view, ino, owner: self.owner, entries: Vec::new(), empty });
        };
        let entries = match found {
            InodeRef::Top(dir) => {
                let filter = self.listed.read().clone();
                let shown = |at: &usize| {
                    filter.as_deref().is_none_or(|f| is_listed(&view, dir, &dir.entries[*at], f))
                };
                (0..dir.entries.len()).filter(shown).collect()
            }
            InodeRef::Inside(placement, _, ListingNode { kind: NodeKind::Dir { .. }, .. }) => {
                placement.note_use();
                Vec::new()
            }
            InodeRef::Link(_) | InodeRef::Text(_) | InodeRef::Inside(..) => return Err(TreeError::NotDir),
        };
        Ok(OpenDir { view: view.clone(), ino, owner: self.owner, entries, empty: None })
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, ino: Ino, name: &OsStr) -> Result<String, TreeError> {
        let name = XattrName::from_name(name).ok_or(TreeError::NoAttribute)?;
        let view = self.view();
        // A guessed directory is not in the view and has no extended attributes.
        let found = view.find(ino).ok_or(TreeError::NoAttribute)?;
        self.xattr_value(&found, name).ok_or(TreeError::NoAttribute)
    }

    /// The names of the extended attributes that an inode has.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<&'static str>, TreeError> {
        let view = self.view();
        let Some(found) = view.find(ino) else {
            return self.attr(ino).map(|_| Vec::new());
        };
        Ok(XattrName::ALL
            .into_iter()
            .filter(|f| self.xattr_value(&found, *f).is_some())
            .map(XattrName::name)
            .collect())
    }

    fn xattr_value(&self, found: &InodeRef<'_>, name: XattrName) -> Option<String> {
        xattr::value(found, name, |manifest| Some(self.trust()?.is_pinned(manifest)))
    }

    /// Sums over all shown revisions. Bytes that two revisions share are counted in both.
    pub fn totals(&self) -> Totals {
        let view = self.view();
        let (mut bytes, mut here, mut inodes) = (0u64, 0u64, view.top_len());
        // Revisions that are also shown below `.by` are counted once.
        for placement in view.placements().filter(|placement| placement.of.is_none()) {
            bytes = bytes.saturating_add(placement.revision.manifest.total_size);
            here = here.saturating_add(placement.revision.cached_bytes());
            inodes += placement.nodes.len();
        }
        let (blocks, here) = (bytes.div_ceil(BLOCK), here / BLOCK);
        Totals { blocks, missing: if bytes == 0 { 0 } else { blocks.saturating_sub(here) }, inodes }
    }
}

/// An open directory, with the view at the time of opening.
pub struct OpenDir {
    view: Arc<View>,
    ino: Ino,
    owner: Owner,
    /// For a directory above the revisions: indices of the entries that are listed.
    entries: Vec<usize>,
    /// For a guessed directory: the attributes of itself and its parent.
    empty: Option<[Attr; 2]>,
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
fn is_listed(view: &View, dir: &TopDir, entry: &TopEntry, filter: &ListFilter) -> bool {
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
        InodeRef::Top(_) => attr,
        InodeRef::Link(target) => {
            Attr { kind: InodeKind::Link, size: target.len() as u64, perm: 0o777, ..attr }
        }
        InodeRef::Text(text) => {
            Attr { kind: InodeKind::File, size: text.len() as u64, blocks: 1, perm: 0o444, ..attr }
        }
        InodeRef::Inside(placement, index, ListingNode { kind: NodeKind::Dir { .. }, .. }) => {
            let ttl = if *index == 0 { TOP_TTL } else { NAME_TTL };
            Attr { mtime: placement.mtime, ttl, ..attr }
        }
        InodeRef::Inside(placement, _, ListingNode { kind: NodeKind::File(file), .. }) => {
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
        // GNU tar archives a file with 0 blocks as zeros without reading it, so at least 1.
        blocks: content.cached_bytes().div_ceil(BLOCK).max(entry.size.min(1)),
        mtime: placement.mtime,
        perm: if entry.executable { 0o555 } else { 0o444 },
        ttl: if content.is_complete() { COMPLETE_TTL } else { PARTIAL_TTL },
        ..base
    }
}
