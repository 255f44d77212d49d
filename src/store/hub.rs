//! Models of which no manifest is known, read from a hub: their commits, and the contents of their files.
//!
//! A content that comes from a hub is named by the hub's hash of it, not by a pieces root, and has a map of another kind. So
//! its bytes are never offered to a swarm. While it is partial, its bytes rest on the hub's TLS and on the fixed commit. When
//! it is complete, all of it is hashed ([`HubProof`]). When a manifest of the model is known, the bytes move to the contents
//! of the manifest: as verified bytes if they were hashed, otherwise as bytes that are proved before a reader gets them.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::RwLock;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::blockmap::{BlockMap, MapKind};
use super::content::{Content, Location};
use super::data::remove_data;
use super::mapfile::Loaded;
use super::{ContentKey, Stamp, Store, StoreError, StoredRevision, mapfile};
use crate::model::hash::FileHashes;
use crate::model::manifest::SourceEntry;
use crate::model::merkle::Hash;
use crate::model::{
    FileEntry, GitOid, Identity, Manifest, ManifestError, ModelRef, PiecesRoot, Sha256Digest,
};
use crate::{fsutil, nofollow};

/// The piece length in manifests of models that are read from a hub. No torrent is made of them. It is the longest one, so that
/// no model has too many pieces.
const HUB_PIECE_LENGTH: u32 = 128 << 20;

/// Longest commit that is read from the disk, in bytes.
const MAX_LISTING: u64 = 256 << 20;

/// Longest proof that is read, in bytes: the hashes of the pieces of the longest file.
const MAX_PROOF: u64 = 256 << 20;

/// The name of a content that comes from a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HubKey {
    /// The hash that the hub lists.
    pub identity: Identity,
    /// Length in bytes.
    pub len: u64,
}

impl HubKey {
    /// Name of its file in the cache.
    pub(super) fn file_name(&self) -> String {
        match self.identity {
            Identity::Lfs(sha256) => format!("{sha256}.{}", self.len),
            Identity::Git(oid) => format!("{oid}.{}", self.len),
        }
    }

    /// The content of a file with this name, if any.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (hash, len) = name.split_once('.')?;
        let identity = match hash.len() {
            40 => Identity::Git(hash.parse().ok()?),
            _ => Identity::Lfs(hash.parse().ok()?),
        };
        Some(Self { identity, len: len.parse().ok()? })
    }

    /// The key among all contents: no bytes have this pieces root.
    pub(super) fn content_key(&self) -> ContentKey {
        let mut hasher = Sha256::new();
        hasher.update(b"silmaril hub content\0");
        hasher.update(self.file_name());
        ContentKey { root: PiecesRoot(hasher.finalize().into()), len: self.len }
    }
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubFile {
    /// The relative path.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// The hash that the hub lists.
    pub identity: Identity,
}

impl HubFile {
    /// The name of its content; none for an empty file.
    pub fn key(&self) -> Option<HubKey> {
        (self.size > 0).then_some(HubKey { identity: self.identity, len: self.size })
    }
}

/// One commit of a repository at a hub. The name of the model stays at this commit until the user updates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubListing {
    /// The model.
    pub model: ModelRef,
    /// The name that the hub uses for the repository; it differs from the model's after a renaming.
    pub repository: crate::model::ModelName,
    /// The address of the hub.
    pub endpoint: String,
    /// The commit.
    pub commit: GitOid,
    /// The files, in canonical order.
    pub files: Vec<HubFile>,
    /// Whether users must accept conditions to read the repository.
    #[serde(default)]
    pub gated: bool,
    /// Whether only certain users can read it.
    #[serde(default)]
    pub private: bool,
    /// The licence that the hub reports.
    #[serde(default)]
    pub license: Option<String>,
    /// A newer commit of the same name that the hub had when it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<GitOid>,
}

impl HubListing {
    /// The file with a path.
    pub fn file(&self, path: &str) -> Option<&HubFile> {
        let at = self.files.binary_search_by(|file| crate::model::path::compare(&file.path, path));
        at.ok().map(|at| &self.files[at])
    }

    /// Whether only users that the hub accepts may read the files.
    pub fn is_restricted(&self) -> bool {
        self.gated || self.private
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
    /// The same model with its manifest, once that is known: reads continue there.
    pub fn successor(&self) -> Option<Arc<StoredRevision>> {
        self.successor.read().clone()
    }

    /// Has all reads continue with another revision.
    pub fn succeed(&self, revision: Arc<StoredRevision>) {
        *self.successor.write() = Some(revision);
    }
}

/// The hashes of a complete content whose bytes have the hash that the hub lists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HubProof {
    /// The file when it was hashed.
    pub stamp: Stamp,
    /// SHA-256 of all bytes.
    pub sha256: Sha256Digest,
    /// Merkle root.
    pub pieces_root: PiecesRoot,
    /// The hashes of the pieces, in base64.
    layer: String,
    /// Bytes per piece.
    pub piece_length: u32,
}

impl HubProof {
    fn of(hashes: &FileHashes, piece_length: u32) -> Option<Self> {
        Some(Self {
            stamp: Stamp::of(&hashes.metadata),
            sha256: hashes.sha256,
            pieces_root: hashes.pieces_root?,
            layer: STANDARD.encode(hashes.layer.concat()),
            piece_length,
        })
    }

    /// The hashes, together with the metadata that the file has now under any name. None if it has changed.
    pub fn hashes(&self, metadata: std::fs::Metadata) -> Option<FileHashes> {
        let bytes = STANDARD.decode(&self.layer).ok()?;
        let (layer, rest) = bytes.as_chunks::<{ size_of::<Hash>() }>();
        (rest.is_empty() && Stamp::of(&metadata) == self.stamp).then(|| FileHashes {
            sha256: self.sha256,
            pieces_root: Some(self.pieces_root),
            layer: layer.to_vec(),
            granules: Vec::new(),
            metadata,
        })
    }
}

impl StoredRevision {
    /// The revision of a commit at a hub. Its manifest is made up: no hash in it is a hash of bytes.
    pub fn of_hub(store: &Arc<Store>, listing: HubListing) -> Result<Arc<Self>, HubRevisionError> {
        let entry = |file: &HubFile| {
            let root = file.key().map(|key| key.content_key().root);
            let sha256 = match file.identity {
                Identity::Lfs(sha256) => Some(sha256),
                Identity::Git(_) => None,
            };
            FileEntry::new(file.path.as_str(), file.size, sha256, root)
        };
        let entries = listing.files.iter().map(entry).collect();
        let model = listing.model.clone();
        let mut manifest = Manifest::new(model.name, model.revision, HUB_PIECE_LENGTH, entries)?;
        manifest.license.clone_from(&listing.license);
        manifest.source = Some(SourceEntry {
            kind: "huggingface".to_owned(),
            url: None,
            commit: Some(listing.commit.to_string()),
            other: Default::default(),
        });
        // Both are in canonical order.
        let contents = listing.files.iter().map(|file| match file.key() {
            None => Ok(Arc::new(Content::empty(store.clone()))),
            Some(key) => store.hub_content(key),
        });
        let contents = contents.collect::<Result<Vec<_>, StoreError>>()?;
        let layout = manifest.layout();
        let hub = Some(Arc::new(HubModel { listing, successor: RwLock::default() }));
        Ok(Arc::new(Self { manifest: Arc::new(manifest), layout, contents, is_local: false, hub }))
    }
}

/// Why a commit at a hub cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HubRevisionError {
    /// Its files cannot be the files of a model.
    #[error(transparent)]
    Files(#[from] ManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The content of a file at a hub.
    pub(super) fn hub_content(self: &Arc<Self>, key: HubKey) -> Result<Arc<Content>, StoreError> {
        self.live.get_or_open(key.content_key(), || Content::of_hub(key, self.clone()))
    }

    /// Moves the bytes of a content that comes from a hub to the content of a file of a manifest with the same length. They
    /// count as verified if `proof` has their pieces root and the file is unchanged, otherwise they are proved before a reader
    /// gets them. If the other content has more bytes already, the bytes of the hub are deleted. Returns whether they moved.
    pub fn take_from_hub(&self, from: &Content, to: &Content, proof: Option<&HubProof>) -> io::Result<bool> {
        let _moving = self.moving.lock();
        let (Some(hub), Some(key)) = (from.hub_key(), to.key()) else { return Ok(false) };
        let mut leaving = from.writer();
        let mut entering = to.writer();
        let old = self.files.cached_from_hub(&hub);
        let map = from.state().map.of_kind(MapKind::Proved);
        let new = self.files.cached(&key);
        let has_more = to.cached_bytes() + to.unproved_bytes() >= map.bytes();
        let fits = key.len == hub.len && matches!(to.location(), Location::Own(at) if at == new);
        if map.is_clear() || has_more || !fits {
            leaving.discard()?;
            return Ok(false);
        }
        let is_proved = map.is_full()
            && proof.is_some_and(|proof| {
                proof.pieces_root == key.root && Stamp::at(&old).is_ok_and(|now| now == proof.stamp)
            });
        nofollow::create_dir_all(fsutil::parent(&new))?;
        remove_data(&new)?;
        fsutil::flush(&nofollow::read(&old)?)?;
        let boot = &self.files.boot;
        let none = BlockMap::none(key.len);
        let (proved, unproved) = if is_proved { (map, none) } else { (none, map) };
        // The maps first: until the data is there, they claim nothing.
        mapfile::write_live(&new, &proved, boot)?;
        mapfile::write_synced(&new, &proved, boot)?;
        mapfile::write_unproved(&new, &unproved, boot)?;
        nofollow::rename(&old, &new)?;
        nofollow::sync_dir(fsutil::parent(&new))?;
        if is_proved {
            mapfile::write_stamp(&new, &mapfile::OwnStamp::of(&nofollow::metadata(&new)?))?;
        }
        entering.move_to(Location::Own(new), Loaded { map: proved, unproved, live: true, synced: true });
        leaving.move_to_empty(Location::Own(old.clone()));
        mapfile::remove(&old)?;
        Ok(true)
    }

    /// The commits of models that are read from a hub. A damaged file is logged and skipped.
    pub fn hub_listings(&self) -> Vec<HubListing> {
        let root = self.files.paths.hub_models();
        let (mut found, mut dirs) = (Vec::new(), vec![root]);
        while let Some(dir) = dirs.pop() {
            for (name, kind) in nofollow::read_dir(&dir).unwrap_or_default() {
                let path = dir.join(name);
                if kind.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "json") {
                    match self.read_listing(&path) {
                        Ok(listing) => found.push(listing),
                        Err(error) => tracing::warn!(%error, "skipping a damaged commit of a hub"),
                    }
                }
            }
        }
        found.sort_by(|a, b| a.model.cmp(&b.model));
        found
    }

    fn read_listing(&self, path: &Path) -> Result<HubListing, StoreError> {
        let bytes = nofollow::read_capped(path, MAX_LISTING).map_err(|e| StoreError::io(path, e))?;
        let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
        let listing: HubListing = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if self.files.paths.hub_model(&listing.model) != path {
            return Err(damaged("it describes another model".to_owned()));
        }
        Ok(listing)
    }

    /// Stores the commit of a model durably, in place of an earlier one.
    pub fn save_hub_listing(&self, listing: &HubListing) -> Result<(), StoreError> {
        let path = self.files.paths.hub_model(&listing.model);
        let failed = |e| StoreError::io(&path, e);
        let json = serde_json::to_vec(listing).map_err(|e| failed(e.into()))?;
        nofollow::create_dir_all(fsutil::parent(&path)).map_err(failed)?;
        nofollow::write_atomic(&path, &json, fsutil::MODE_PRIVATE).map_err(failed)
    }

    /// The cached bytes of a model that is read from a hub; none for another model.
    pub fn hub_bytes(self: &Arc<Self>, model: &ModelRef) -> Result<Option<u64>, StoreError> {
        let Some(listing) = self.hub_listings().into_iter().find(|listing| listing.model == *model) else {
            return Ok(None);
        };
        let keys: HashSet<HubKey> = listing.files.iter().filter_map(HubFile::key).collect();
        let bytes = keys.into_iter().map(|key| Ok(self.hub_content(key)?.cached_bytes()));
        bytes.sum::<Result<u64, StoreError>>().map(Some)
    }

    /// Deletes the commit of a model, and the cached bytes of files that no other commit has. Returns whether there was one.
    pub fn forget_hub(self: &Arc<Self>, model: &ModelRef) -> Result<bool, StoreError> {
        let (gone, remaining): (Vec<_>, Vec<_>) =
            self.hub_listings().into_iter().partition(|listing| listing.model == *model);
        let keys = |listings: &[HubListing]| -> HashSet<HubKey> {
            listings.iter().flat_map(|listing| &listing.files).filter_map(HubFile::key).collect()
        };
        let used = keys(&remaining);
        for key in keys(&gone).difference(&used) {
            let content = self.hub_content(*key)?;
            content.start_over().map_err(|e| StoreError::io(&content.path(), e))?;
        }
        self.remove_hub_listing(model)
    }

    /// Deletes the commit of a model. Returns whether there was one.
    pub fn remove_hub_listing(&self, model: &ModelRef) -> Result<bool, StoreError> {
        let path = self.files.paths.hub_model(model);
        let removed = nofollow::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
        if removed {
            nofollow::remove_empty_parents(&path, &self.files.paths.hub_models());
        }
        Ok(removed)
    }
}

impl Content {
    /// Opens the file of a content that comes from a hub for writing, and creates it where it is missing. Bytes that are written
    /// to it count after [`Content::mark_verified_at`] with the returned number.
    pub fn open_from_hub(&self) -> io::Result<(File, u64)> {
        let writer = self.writer();
        let Location::Own(path) = self.location() else {
            return Err(io::Error::other("the content is not in the cache"));
        };
        nofollow::create_dir_all(fsutil::parent(&path))?;
        let file = nofollow::open(&path, OFlags::WRONLY | OFlags::CREATE, fsutil::MODE_PRIVATE)?;
        let moves = self.moves();
        drop(writer);
        Ok((file, moves))
    }

    /// The hashes of a complete content that comes from a hub, if it was hashed and is unchanged since.
    pub fn hub_proof(&self) -> Option<HubProof> {
        self.hub_key().filter(|_| self.is_complete())?;
        let path = self.own_path()?;
        let bytes = nofollow::read_capped(&mapfile::proof_path(&path), MAX_PROOF).ok()?;
        let proof: HubProof = serde_json::from_slice(&bytes).ok()?;
        Stamp::at(&path).is_ok_and(|now| now == proof.stamp).then_some(proof)
    }

    /// Records the hashes of a complete content that comes from a hub. `hashes` are those of its file, and match the hash that
    /// the hub lists. Does nothing if the file has changed since.
    pub fn set_hub_proof(&self, hashes: &FileHashes, piece_length: u32) -> io::Result<()> {
        let _writer = self.writer();
        let (Some(path), Some(proof)) = (self.own_path(), HubProof::of(hashes, piece_length)) else {
            return Ok(());
        };
        if !self.is_complete() || Stamp::at(&path)? != proof.stamp {
            return Ok(());
        }
        let json = serde_json::to_vec(&proof).map_err(io::Error::from)?;
        nofollow::write_atomic(&mapfile::proof_path(&path), &json, fsutil::MODE_PRIVATE)
    }

    /// The path of the file that holds the bytes that came from a hub.
    pub fn hub_path(&self) -> Option<PathBuf> {
        self.hub_key().and_then(|_| self.own_path())
    }
}
