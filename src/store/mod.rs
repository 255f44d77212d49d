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
pub mod content;
mod content_key;
pub(crate) mod copy;
mod data;
mod dirs;
mod error;
pub mod eviction;
mod former_states;
mod granules;
pub mod hub;
mod listed;
mod live;
mod mapfile;
pub mod partial_mirrors;
mod parts;
pub mod placed;
pub mod placement;
mod placement_index;
mod publish;
mod publish_step;
mod record;
mod recordfile;
pub mod registry;
mod removable;
mod remove;
mod revision;
pub mod room;
mod scrub;
pub mod staging;
pub mod states;
mod syncing;
pub mod tend;
#[cfg(test)]
mod tests;
mod torrents;
pub mod vacant;
pub mod verify;
mod withheld;
pub mod witnessed;

use std::sync::Arc;

pub use aside::Kept;
pub use base::Store;
pub use by_publisher::ByPublisher;
pub(crate) use content::ContentVersion;
pub use content::{Content, ContentPin, SpaceClass, open_memory};
pub use content_key::ContentKey;
pub use error::StoreError;
pub use eviction::{Cache, CacheEntry};
pub use former_states::{FormerState, FormerStates};
pub use hub::{HubFile, HubKey, HubListing, HubProof, HubStore, OpenHubFile};
pub use listed::ListedFiles;
pub use partial_mirrors::PartialMirrors;
pub use placed::PlacedFiles;
pub use placement::Stamp;
pub use registry::Registry;
pub use revision::{HubModel, Refutation, StoredRevision};
pub use room::{Room, Rooms, kept_free};
pub use scrub::Pass;
pub use staging::Staging;
pub use states::{Announced, SignedState, SignedStates};
pub use witnessed::{Judgement, RefutedManifest, Verdict, Witnessed};

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
