//! The store of bytes: the registry of manifests, complete models, and the cache of partly read ones.
//!
//! The unit is the *content*: the bytes of one file, named by its pieces root and length, in whichever models and
//! revisions. A content has one path on disk and a map of verified 16 KiB blocks; bytes outside that map
//! are never returned. Blocks that an older version recorded are *unproved*: they count as missing until they are
//! proved (see `content::marks`). Verified blocks are recorded in a small file next to the data as they come, with plain
//! `pwrite`, so that a killed process loses at most the pieces in flight; [`Store::sync`] makes them survive a
//! power cut.
//!
//! The [`Store`] owns one part for each kind of file and state (`parts`, `base`).
//! Operations on several parts are grouped in views that borrow the store: [`Store::cache`], [`Store::placed`],
//! [`Store::staging`], [`Store::former_states`] and [`Store::partial_mirrors`].
//!
//! All functions block on the disk: async callers use a blocking thread. Only the holder of the node's lock calls functions
//! that write; `open`, `revision` and the reading functions may run in other processes at the same time.

mod adopt;
mod aside;
mod base;
mod blockmap;
mod by_publisher;
pub(crate) mod content;
mod content_key;
pub(crate) mod copy;
mod data;
mod dirs;
mod error;
pub(crate) mod eviction;
mod former_states;
mod granules;
pub(crate) mod hub;
mod listed;
mod live;
mod mapfile;
pub(crate) mod partial_mirrors;
mod parts;
pub(crate) mod placed;
pub(crate) mod placement;
mod placement_index;
mod publish;
mod publish_step;
mod record;
mod recordfile;
pub(crate) mod registry;
mod removable;
mod remove;
mod revision;
pub(crate) mod room;
mod scrub;
pub(crate) mod staging;
pub(crate) mod states;
mod syncing;
pub(crate) mod tend;
#[cfg(test)]
mod tests;
mod torrents;
pub(crate) mod vacant;
pub(crate) mod verify;
mod withheld;
pub(crate) mod witnessed;

use std::sync::Arc;

pub(crate) use aside::Kept;
pub use base::Store;
pub(crate) use by_publisher::ByPublisher;
pub use content::Content;
pub(crate) use content::ContentVersion;
pub(crate) use content::{ContentPin, SpaceClass, open_memory};
pub(crate) use content_key::ContentKey;
pub(crate) use error::StoreError;
pub(crate) use eviction::{Cache, CacheEntry};
pub(crate) use former_states::{FormerState, FormerStates};
pub(crate) use hub::{HubFile, HubKey, HubListing, HubProof, HubStore, OpenHubFile};
pub(crate) use listed::ListedFiles;
pub(crate) use partial_mirrors::PartialMirrors;
pub(crate) use placed::PlacedFiles;
pub use placement::Stamp;
pub(crate) use registry::Registry;
pub use revision::StoredRevision;
pub(crate) use revision::{HubModel, ListedState, Refutation};
pub use room::Rooms;
pub(crate) use room::{Room, kept_free};
pub(crate) use scrub::Pass;
pub(crate) use staging::Staging;
pub(crate) use states::{Announced, SignedState, SignedStates};
pub(crate) use witnessed::{Judgement, RefutedManifest, Verdict};

impl Store {
    /// The cache of partly read files.
    pub fn cache(self: &Arc<Self>) -> Cache<'_> {
        Cache { store: self }
    }

    /// The models that are read from a hub.
    pub fn hub(self: &Arc<Self>) -> HubStore<'_> {
        HubStore { store: self }
    }

    /// The files outside the cache.
    pub fn placed(&self) -> PlacedFiles<'_> {
        PlacedFiles { store: self }
    }

    /// The files that are collected until a model is published.
    pub fn staging(&self) -> Staging<'_> {
        Staging { store: self }
    }

    /// Former states of models.
    pub fn former_states(self: &Arc<Self>) -> FormerStates<'_> {
        FormerStates { store: self }
    }

    /// The files of mirrors that left their large files out.
    pub fn partial_mirrors(&self) -> PartialMirrors<'_> {
        PartialMirrors { store: self }
    }
}
