//! The space of the cache: what is missing, for `status`, and whether files fit before they are fetched.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::text;
use super::{Library, NodeError};
use crate::fetch::{Fetch, ReadError};
use crate::store::eviction::disk_space;
use crate::store::{Content, Rooms, SpaceClass, Store, StoredRevision, kept_free};

/// Files that are read through memory, as `status` reports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackOfSpace {
    /// How many files.
    pub files: usize,
    /// Bytes that are free on the file system of the cache.
    pub free: u64,
    /// Bytes that stay free: `cache.min_free`.
    pub min_free: u64,
}

/// The files that are read through memory, if there are any.
pub(super) fn lack(fetch: &Fetch, store: &Store, rooms: &Rooms) -> Option<LackOfSpace> {
    let files = fetch.in_memory().len() + of_hub_in_memory(store).len();
    let (free, min_free) = rooms.cache.free();
    (files > 0).then_some(LackOfSpace { files, free, min_free })
}

/// Fails if the missing bytes of files of a revision do not fit below a directory, or into the cache without one. Bytes
/// in the cache count as free, since the cache deletes them for new ones.
pub(super) fn check(
    library: &Library,
    revision: &StoredRevision,
    files: &[usize],
    dest: Option<&Path>,
) -> Result<(), NodeError> {
    let missing = files
        .iter()
        .map(|&i| &revision.contents[i])
        .filter(|content| content.space_class() != SpaceClass::Unlimited || !content.is_placed());
    let need = missing.map(|content| content.len() - content.cached_bytes()).sum();
    let store = &library.store;
    let cache = library.paths.cache();
    let config = &library.config.cache;
    let at = dest.unwrap_or(&cache);
    let at = at.ancestors().find(|dir| dir.exists()).unwrap_or(at);
    let (_, mut free) = disk_space(at)?;
    let mut limit = String::new();
    if store.is_on_cache_disk(at) {
        free = free.saturating_add(store.cache().usage()?).saturating_sub(kept_free(config.min_free));
        limit = format!(" ({} stay free: cache.min_free)", text(config.min_free));
    }
    let bound = store.cache().bound(config)?;
    if dest.is_none() && bound < free {
        (free, limit) = (bound, " (cache.max_size)".to_owned());
    }
    if need <= free { Ok(()) } else { Err(NodeError::Space { path: at.to_owned(), need, free, limit }) }
}

/// Fetches files of a revision. If the space is not sufficient, the error has the needed and the free bytes.
pub(super) async fn fetch_files(
    (library, fetch): (&Library, &Arc<Fetch>),
    revision: &Arc<StoredRevision>,
    files: &[usize],
    dest: Option<&Path>,
) -> Result<(), NodeError> {
    let stall = library.config.torrent.download_timeout;
    let fetched = fetch.fetch_files(revision, files, stall).await;
    if let Err(ReadError::NoSpace) = &fetched {
        check(library, revision, files, dest)?;
    }
    fetched.map_err(|source| NodeError::Fetch { model: revision.manifest.model_ref(), source })
}

/// The files in memory that come from the hub, read or not.
pub(super) fn of_hub_in_memory(store: &Store) -> Vec<Arc<Content>> {
    let is_one = |content: &Arc<Content>| content.hub_key().is_some() && content.is_in_memory();
    store.live.all().into_iter().filter(is_one).collect()
}
