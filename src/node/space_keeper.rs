//! Keeps the limits of the cache: bytes are deleted as soon as requests wait for space.
//!
//! Bytes are deleted in this order: files that no swarm uses, least recently read first; pieces that no reader needs
//! soon, of the least recently read file first; the remains of incomplete pieces; bytes for which reads wait, except
//! the read that has waited longest. If none of this makes space, the files that are being read continue in memory.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::space::of_hub_in_memory;
use super::{Node, NodeError, blocking};
use crate::fetch::{Fetch, Shedding};
use crate::model::PiecesRoot;
use crate::store::{CacheEntry, Content, ContentKey, Room, Rooms, Store, StoreError};

/// How often space is measured whether or not a request waits for some: other programs use and release space as well.
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// The pause after an attempt that made no space.
const RETRY: Duration = Duration::from_millis(100);

/// The number of failed attempts in a row before bytes are deleted for which reads wait.
const MAX_FAILED: u32 = 3;

/// How long the engine may take to remove torrents whose bytes are deleted or move.
const RELEASE_WITHIN: Duration = Duration::from_secs(20);

/// If a file has this many more allocated bytes than verified ones, they are remains of incomplete pieces.
const REMAINS: u64 = 256 << 10;

/// A file leaves memory when this much space is free, or a quarter of the cache if that is less.
const RETURN_AT: u64 = 16 << 20;

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<Node>, rooms: Arc<Rooms>) {
    let mut stuck = 0;
    let (mut measured, mut quiet) = (Instant::now(), true);
    loop {
        if stuck > 0 {
            tokio::time::sleep(RETRY).await;
        }
        // Other programs may have used or released space, also while files are read through memory.
        let next = measured + MEASURE_EVERY;
        quiet &= tokio::time::timeout_at(next, rooms.space_requested()).await.is_err();
        let leaving = (Instant::now() >= next).then_some(quiet);
        if leaving.is_some() {
            (measured, quiet) = (Instant::now(), true);
        }
        let Some(node) = node.upgrade() else { return };
        let keeper =
            SpaceKeeper { node: &node, fetch: &node.fetch, store: &node.library.store, rooms: &rooms };
        match keeper.make_room(stuck, leaving).await {
            Ok(true) => stuck = 0,
            Ok(false) => {
                stuck += 1;
                // The requests still wait for space.
                rooms.request_space();
            }
            Err(error) => {
                stuck += 1;
                tracing::error!(%error, "could not make space in the cache");
            }
        }
    }
}

/// One attempt to make space.
struct SpaceKeeper<'a> {
    node: &'a Node,
    fetch: &'a Arc<Fetch>,
    store: &'a Arc<Store>,
    rooms: &'a Arc<Rooms>,
}

impl SpaceKeeper<'_> {
    /// Makes space if requests wait for some. Returns false if they still wait and no space could be made. `leaving`: whether
    /// files leave memory, and whether bytes may be deleted for that.
    async fn make_room(&self, stuck: u32, leaving: Option<bool>) -> Result<bool, NodeError> {
        let in_memory = self.make_room_in_memory(stuck).await?;
        let in_cache = self.make_room_in_cache(stuck).await?;
        if let Some(may_delete) = leaving {
            self.leave_memory(may_delete).await?;
        }
        self.fetch.space_came();
        self.fetch.hub.space_came();
        Ok(in_memory && in_cache)
    }

    async fn make_room_in_memory(&self, stuck: u32) -> Result<bool, NodeError> {
        let room = &self.rooms.memory;
        let (fetch, rooms, shedding) = (self.fetch.clone(), self.rooms.clone(), shedding(room, stuck));
        let lacking = fetch.lacking_bytes(true) + fetch.hub.lacking_bytes(true);
        if lacking == 0 {
            return Ok(true);
        }
        let store = self.store.clone();
        let freed = blocking::run(move || {
            let room = &rooms.memory;
            let (contents, of_hub) = (fetch.in_memory(), of_hub_in_memory(&store));
            let all = contents.iter().map(|(content, _)| content).chain(&of_hub);
            room.measured(all.map(|content| content.bytes_in_memory()).sum());
            let need = room.excess(lacking);
            let target = if need == 0 { 0 } else { need.max(room.batch()) };
            let mut contents: Vec<Arc<Content>> = contents.into_iter().map(|(content, _)| content).collect();
            contents.sort_by_key(|content| content.last_used());
            let mut freed = shed(&fetch, contents, target, shedding)?;
            if freed < target {
                let from_hub = fetch.hub.shed(&of_hub, target - freed);
                freed += from_hub.map_err(|source| StoreError::io(&PathBuf::from("memory"), source))?;
            }
            room.freed(freed);
            Ok(need == 0 || freed > 0)
        });
        freed.await
    }

    async fn make_room_in_cache(&self, stuck: u32) -> Result<bool, NodeError> {
        let room = &self.rooms.cache;
        let lacking = self.fetch.lacking_bytes(false) + self.fetch.hub.lacking_bytes(false);
        let entries = self.measure().await?;
        let need = room.excess(lacking);
        if need == 0 {
            return Ok(true);
        }
        let target = need.max(room.batch());
        let mut freed = self.drop_unused(&entries, target).await?;
        if freed < target {
            freed += self.shed(&entries, target - freed, Shedding::Spare).await?;
        }
        if freed < target {
            freed += self.shed_from_hub(target - freed).await?;
        }
        if freed == 0 {
            freed = self.trim(&entries).await?;
        }
        if freed > 0 || (lacking == 0 && stuck > 0) {
            return Ok(true);
        }
        if shedding(room, stuck) == Shedding::AllButOldest && !self.starved().is_empty() {
            freed = self.shed(&entries, target, Shedding::AllButOldest).await?;
            if freed == 0 {
                self.enter_memory().await?;
                return Ok(true);
            }
        }
        Ok(freed > 0)
    }

    /// The files of the cache, least recently used first.
    async fn measure(&self) -> Result<Vec<CacheEntry>, NodeError> {
        let (store, rooms) = (self.store.clone(), self.rooms.clone());
        blocking::run(move || {
            let entries = store.cache().entries()?;
            rooms.cache.measured(entries.iter().map(CacheEntry::disk_bytes).sum());
            Ok(entries)
        })
        .await
    }

    /// Deletes bytes of files that no joined torrent uses.
    async fn drop_unused(&self, entries: &[CacheEntry], target: u64) -> Result<u64, NodeError> {
        let unused: Vec<ContentKey> = entries
            .iter()
            .map(|entry| entry.key)
            .filter(|key| !self.fetch.uses(key) && !self.fetch.hub.uses(key))
            .collect();
        if unused.is_empty() {
            return Ok(0);
        }
        // A torrent that is joined before this is done stays out of the engine until then.
        let held = self.held(&unused).await?;
        let roots: HashSet<PiecesRoot> = unused.iter().map(|key| key.root).collect();
        let (store, lock, rooms) = (self.store.clone(), self.node.lock.clone(), self.rooms.clone());
        blocking::run(move || {
            let _until_done = (held, lock);
            let evicted = store.cache().evict(target, &|root| !roots.contains(root))?;
            let freed = evicted.iter().map(|gone| gone.freed).sum();
            rooms.cache.freed(freed);
            Ok(freed)
        })
        .await
    }

    /// Deletes pieces of files while their torrents run.
    async fn shed(&self, entries: &[CacheEntry], target: u64, shedding: Shedding) -> Result<u64, NodeError> {
        let (fetch, store, rooms) = (self.fetch.clone(), self.store.clone(), self.rooms.clone());
        let keys: Vec<ContentKey> = entries.iter().map(|entry| entry.key).collect();
        let lock = self.node.lock.clone();
        blocking::run(move || {
            let _until_done = lock;
            let contents = keys.iter().filter(|key| fetch.uses(key)).filter_map(|key| store.live.get(key));
            let freed = shed(&fetch, contents.collect(), target, shedding)?;
            rooms.cache.freed(freed);
            Ok(freed)
        })
        .await
    }

    /// Deletes bytes behind the readers of models of the hub.
    async fn shed_from_hub(&self, target: u64) -> Result<u64, NodeError> {
        let (fetch, rooms, lock) = (self.fetch.clone(), self.rooms.clone(), self.node.lock.clone());
        blocking::run(move || {
            let _until_done = lock;
            let mut contents = fetch.hub.contents();
            contents.retain(|content| !content.is_in_memory());
            let freed = fetch.hub.shed(&contents, target);
            let freed = freed.map_err(|source| StoreError::io(&PathBuf::from("the cache"), source))?;
            rooms.cache.freed(freed);
            Ok(freed)
        })
        .await
    }

    /// Deletes the remains of incomplete pieces of files that receive no bytes now.
    async fn trim(&self, entries: &[CacheEntry]) -> Result<u64, NodeError> {
        let with_remains = |entry: &&CacheEntry| {
            self.store.live.get(&entry.key).is_some_and(|content| {
                let kept = content.cached_bytes() + content.unproved_bytes();
                entry.allocated > kept.saturating_add(REMAINS) && !self.fetch.receives(&entry.key)
            })
        };
        let keys: Vec<ContentKey> = entries.iter().filter(with_remains).map(|entry| entry.key).collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let held = self.held(&keys).await?;
        let (store, lock, rooms) = (self.store.clone(), self.node.lock.clone(), self.rooms.clone());
        blocking::run(move || {
            let _until_done = (held, lock);
            let mut freed = 0;
            for content in keys.iter().filter_map(|key| store.live.get(key)) {
                freed += content.trim().map_err(|source| io_error(&content, source))?;
            }
            rooms.cache.freed(freed);
            Ok(freed)
        })
        .await
    }

    /// The files of the cache for which reads wait that lack space.
    fn starved(&self) -> Vec<Arc<Content>> {
        [self.fetch.starved(), self.fetch.hub.starved()].concat()
    }

    /// Moves the files for which reads wait to memory.
    async fn enter_memory(&self) -> Result<(), NodeError> {
        let contents = self.starved();
        let (free, min_free) = self.rooms.cache.free();
        let files = contents.len();
        tracing::warn!(
            free,
            min_free,
            files,
            "the cache has no space and nothing to delete; files are read through memory"
        );
        self.moved(contents, Content::enter_memory).await
    }

    /// Moves files in memory back to the cache if it has space again. `may_delete`: whether bytes that no reader needs soon
    /// are deleted for that. While reads request space, they would only replace each other's bytes.
    async fn leave_memory(&self, may_delete: bool) -> Result<(), NodeError> {
        let of_swarms = self.fetch.in_memory().into_iter().map(|(content, _)| content);
        let contents: Vec<Arc<Content>> = of_swarms.chain(of_hub_in_memory(self.store)).collect();
        if contents.is_empty() {
            return Ok(());
        }
        let room = &self.rooms.cache;
        let entries = self.measure().await?;
        let need = room.excess(RETURN_AT.min(room.batch().saturating_mul(4)));
        if need > 0 && (!may_delete || self.shed(&entries, need, Shedding::Spare).await? < need) {
            return Ok(());
        }
        tracing::info!("the cache has space again");
        self.moved(contents, Content::leave_memory).await
    }

    /// Moves contents while their torrents are out of the engine.
    async fn moved(
        &self,
        contents: Vec<Arc<Content>>,
        how: fn(&Content) -> std::io::Result<()>,
    ) -> Result<(), NodeError> {
        let keys: Vec<ContentKey> = contents.iter().filter_map(|content| content.key()).collect();
        let held = self.held(&keys).await?;
        let lock = self.node.lock.clone();
        blocking::run(move || {
            let _until_done = (held, lock);
            contents.iter().try_for_each(|content| how(content).map_err(|source| io_error(content, source)))
        })
        .await
    }

    async fn held(&self, keys: &[ContentKey]) -> Result<crate::fetch::EvictionHold, NodeError> {
        Ok(self.fetch.release_for_eviction(keys, RELEASE_WITHIN).await?)
    }
}

/// Deletes bytes for which reads wait only if no waiting read receives bytes any more.
fn shedding(room: &Room, stuck: u32) -> Shedding {
    if stuck >= MAX_FAILED && !room.is_reserved() { Shedding::AllButOldest } else { Shedding::Spare }
}

/// Deletes pieces of contents, in the given order, until `target` bytes are free.
fn shed(
    fetch: &Fetch,
    contents: Vec<Arc<Content>>,
    target: u64,
    shedding: Shedding,
) -> Result<u64, NodeError> {
    let mut freed = 0u64;
    for content in contents {
        let mut ranges = fetch.deletable(&content, shedding).into_iter().peekable();
        while freed < target && ranges.peek().is_some() {
            let mut sum = 0;
            let enough = |range: &std::ops::Range<u64>| {
                let more = sum < target - freed;
                sum += range.end - range.start;
                more
            };
            let batch: Vec<_> = std::iter::from_fn(|| ranges.next()).take_while(enough).collect();
            freed += fetch.delete(&content, &batch, shedding).map_err(|source| io_error(&content, source))?;
        }
    }
    Ok(freed)
}

fn io_error(content: &Content, source: std::io::Error) -> NodeError {
    NodeError::Io { path: content.path(), source }
}
