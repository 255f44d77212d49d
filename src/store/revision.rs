//! One revision of a model, with the contents of its files.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, OnceLock};

use fixedbitset::FixedBitSet;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::parts::Parts;
use super::placement::PlacedFile;
use super::{Content, ContentKey, HubListing, ListedFiles, Stamp, StoreError, syncing};
use crate::model::scan::ScannedFile;
use crate::model::{FileEntry, Layout, Manifest, ManifestError, ModelName, PiecesRoot, Revision};

/// The piece length in manifests of files that are not shared. No torrent is made of them. It is the longest one, so that no
/// model has too many pieces.
const LOCAL_PIECE_LENGTH: u32 = 128 << 20;

/// One revision with the contents of its files.
#[derive(Debug)]
pub struct StoredRevision {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// The pieces of each file.
    pub layout: Layout,
    /// One per file of the manifest, in its order. Revisions that have equal files share the `Arc`.
    pub contents: Vec<Arc<Content>>,
    /// Whether its files are the user's and not shared. Then the hashes in its manifest are no hashes of bytes, and must not
    /// be shown or sent.
    pub is_local: bool,
    /// The commit at a hub, if no manifest is known and the files are read from there. Then the hashes in the manifest are no
    /// hashes of bytes either.
    pub hub: Option<Arc<HubModel>>,
    /// The hashes that a hub lists for the files, if the publisher of the manifest is one that the user did not choose, and the hub
    /// lists its files.
    pub listed: Option<Arc<ListedFiles>>,
    /// Whether bytes of it were found to contradict the hub; none if `listed` is none. All revisions with the manifest share it.
    pub refutation: Option<Arc<Refutation>>,
}

/// What the hub has shown about bytes that agree with its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ListedState {
    /// The hub lists the length and the hash. The pieces root may be false: the complete bytes were not compared.
    #[serde(rename = "listed by the hub")]
    Listed,
    /// The complete bytes have the hash that the hub lists.
    #[serde(rename = "as on the hub")]
    Equal,
}

impl ListedState {
    /// For people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed by the hub",
            Self::Equal => "as on the hub",
        }
    }
}

/// That bytes of a manifest contradict the hub, and the revision with which its readers continue.
#[derive(Debug, Default)]
pub struct Refutation {
    difference: OnceLock<String>,
    /// Empty until [`Self::end`].
    successor: watch::Sender<Option<Option<Arc<StoredRevision>>>>,
}

impl Refutation {
    /// Refuses the manifest from now on: no byte of it may be read. Returns whether this is the first difference.
    pub fn refute(&self, difference: String) -> bool {
        self.difference.set(difference).is_ok()
    }

    /// What the manifest and the hub have different, if that was found.
    pub fn difference(&self) -> Option<&str> {
        self.difference.get().map(String::as_str)
    }

    /// Has readers continue with the same commit at the hub; without one, they fail.
    pub fn end(&self, successor: Option<Arc<StoredRevision>>) {
        self.successor.send_replace(Some(successor));
    }

    /// The same commit at the hub, once it is known.
    pub fn successor(&self) -> Option<Arc<StoredRevision>> {
        self.successor.borrow().clone().flatten()
    }

    /// Waits for [`Self::end`]. The caller has a deadline.
    pub async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.successor.subscribe().wait_for(Option::is_some).await;
    }
}

/// A model that is read from a hub.
#[derive(Debug)]
pub struct HubModel {
    /// The commit.
    pub listing: HubListing,
    /// The same model with its manifest, once that is known.
    successor: RwLock<Option<Arc<StoredRevision>>>,
}

impl HubModel {
    pub(super) fn new(listing: HubListing) -> Self {
        Self { listing, successor: RwLock::default() }
    }

    /// The same model with its manifest, once that is known: reads continue there.
    pub fn successor(&self) -> Option<Arc<StoredRevision>> {
        self.successor.read().clone()
    }

    /// Sets the revision with which all reads continue.
    pub fn succeed(&self, revision: Arc<StoredRevision>) {
        *self.successor.write() = Some(revision);
    }
}

impl StoredRevision {
    /// Makes the verified bytes of some files (indices into the manifest) survive a power cut, as [`Store::sync`] does. Waits
    /// for the disk.
    ///
    /// [`Store::sync`]: super::Store::sync
    pub(crate) fn sync(&self, files: &[usize]) -> Result<(), StoreError> {
        let contents: Vec<_> = files.iter().map(|&file| self.contents[file].clone()).collect();
        syncing::sync(&contents)
    }

    /// A revision of files below the models directory that have no record: the user put them there. They are read in place
    /// and never written, moved or removed. Reads no byte of them. A file that changes later can no longer be read through
    /// this revision.
    pub(crate) fn local(
        parts: &Arc<Parts>,
        name: &ModelName,
        files: &[ScannedFile],
    ) -> Result<Arc<Self>, ManifestError> {
        let entry = |file: &ScannedFile| {
            let size = file.metadata.len();
            let root = (size > 0).then(|| local_root(file));
            FileEntry {
                executable: file.metadata.mode() & 0o100 != 0,
                ..FileEntry::new(file.path.as_str(), size, None, root)
            }
        };
        let entries = files.iter().map(entry).collect();
        let manifest = Manifest::new(name.clone(), Revision::default(), LOCAL_PIECE_LENGTH, entries)?;
        let content = |(entry, file): (&FileEntry, &ScannedFile)| match ContentKey::of(entry) {
            None => Content::empty(parts.clone()),
            Some(key) => {
                let placed = PlacedFile::whole(file.source.clone(), Stamp::of(&file.metadata), false);
                Content::local(key, parts.clone(), placed)
            }
        };
        // Both are in canonical order.
        let contents = manifest.files.iter().zip(files).map(|pair| Arc::new(content(pair))).collect();
        let layout = manifest.layout();
        Ok(Arc::new(Self {
            manifest: Arc::new(manifest),
            layout,
            contents,
            is_local: true,
            hub: None,
            listed: None,
            refutation: None,
        }))
    }

    /// The pieces whose bytes are all verified, as the engine expects them on `add`.
    pub fn have_pieces(&self) -> FixedBitSet {
        let mut have = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
        let piece_length = u64::from(self.layout.piece_length());
        for (span, content) in self.layout.spans().iter().zip(&self.contents) {
            let first = span.first_piece as usize;
            for held in content.verified_ranges(0..span.len) {
                let start = held.start.div_ceil(piece_length) as usize;
                let end = if held.end == span.len {
                    span.pieces as usize
                } else {
                    (held.end / piece_length) as usize
                };
                if start < end {
                    have.insert_range(first + start..first + end);
                }
            }
        }
        have
    }

    /// The pieces whose bytes are all cached, and not all proved.
    pub fn unproved_pieces(&self) -> FixedBitSet {
        let mut unproved = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
        let piece_length = u64::from(self.layout.piece_length());
        for (span, content) in self.layout.spans().iter().zip(&self.contents) {
            for piece in content.unproved_pieces(piece_length) {
                unproved.insert((span.first_piece + piece) as usize);
            }
        }
        unproved
    }

    /// The pieces that may be offered in the swarm of a model that is not withheld: the verified ones, and the ones that
    /// may be offered once they are proved.
    pub fn offered_pieces(&self) -> (FixedBitSet, FixedBitSet) {
        let (mut have, mut unproved) = (self.have_pieces(), self.unproved_pieces());
        let Some(parts) = self.parts() else { return (have, unproved) };
        let keys = self.contents.iter().filter_map(|content| content.key());
        let reserved = parts.withheld.reserved(keys, &parts.placements);
        for (span, content) in self.layout.spans().iter().zip(&self.contents) {
            if content.key().is_some_and(|key| reserved.contains(&key)) {
                let pieces = span.first_piece as usize..(span.first_piece + span.pieces) as usize;
                have.set_range(pieces.clone(), false);
                unproved.set_range(pieces, false);
            }
        }
        (have, unproved)
    }

    /// Whether bytes of it may have been lost when the machine stopped, and were not read since.
    pub fn is_doubted(&self) -> bool {
        self.parts().is_some_and(|parts| parts.scrub.is_doubted(&self.manifest.torrent.info_hash))
    }

    /// Whether every byte is verified.
    pub fn is_complete(&self) -> bool {
        self.contents.iter().all(|c| c.is_complete())
    }

    /// Verified bytes. Unproved bytes do not count.
    pub fn cached_bytes(&self) -> u64 {
        self.contents.iter().map(|c| c.cached_bytes()).sum()
    }

    /// Cached bytes, verified or unproved.
    pub fn held_bytes(&self) -> u64 {
        self.contents.iter().map(|c| c.cached_bytes() + c.unproved_bytes()).sum()
    }

    /// What the hub has shown about a file of a manifest of a publisher that the user did not choose. None if it lists no file of the
    /// manifest, or was not asked.
    pub fn hub_state(&self, file: usize) -> Option<ListedState> {
        let listed = self.listed.as_ref()?;
        Some(if listed.is_checked(file) { ListedState::Equal } else { ListedState::Listed })
    }

    /// [`Self::hub_state`] of the whole model: that of a file that is not compared, if there is one.
    pub fn hub_state_of_all(&self) -> Option<ListedState> {
        let all = (0..self.contents.len()).filter_map(|file| self.hub_state(file));
        all.min()
    }

    /// The contents of some files (indices into the manifest), each once, empty ones left out.
    pub(super) fn unique(&self, files: &[usize]) -> BTreeMap<ContentKey, Arc<Content>> {
        let contents = files.iter().map(|&file| self.contents[file].clone());
        contents.filter_map(|c| Some((c.key()?, c))).collect()
    }

    fn parts(&self) -> Option<&Parts> {
        self.contents.first().map(|content| &*content.parts)
    }
}

/// A name for the bytes of a file instead of their hash: it changes when the file does.
fn local_root(file: &ScannedFile) -> PiecesRoot {
    let mut hasher = Sha256::new();
    hasher.update(b"silmaril local file\0");
    hasher.update(file.source.as_os_str().as_encoded_bytes());
    hasher.update(format!("\0{:?}", Stamp::of(&file.metadata)));
    PiecesRoot(hasher.finalize().into())
}
