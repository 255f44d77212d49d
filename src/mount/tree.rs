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
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::attr::{Attr, BLOCK, NAME_TTL, Owner, TOP_TTL, attr_of, dir_attr, link_attr};
use super::inode::{Ino, InodeNumbers};
use super::listing::{ListingNode, NodeKind};
use super::never_resolve::NeverResolve;
use super::open_dir::{ListFilter, OpenDir, is_listed};
use super::shown::InodeRef;
use super::top_path::{MountLayout, PossibleEntry, RequestedModel, TopPath, fingerprint_of};
use super::tree_error::TreeError;
use super::view::{ShownModels, View};
use super::xattr::{self, XattrName};
use crate::fetch::FileRef;
use crate::model::{InfoHash, Manifest, ModelName, ModelRef, PublisherKey};
use crate::store::StoredRevision;

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
