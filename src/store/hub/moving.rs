//! Moves bytes that came from a hub to the contents of a manifest.

use std::io;
use std::sync::Arc;

use super::{HubProof, HubStore};
use crate::store::blockmap::{BlockMap, MapKind};
use crate::store::content::{Content, Location};
use crate::store::data::{record_stamp, remove_data};
use crate::store::mapfile::Loaded;
use crate::store::{Stamp, mapfile};
use crate::{fsutil, nofollow};

impl HubStore<'_> {
    /// Moves the bytes of a content that comes from a hub to the content of a file of a manifest with the same length. They
    /// count as verified if `proof` has their pieces root and the file is unchanged, otherwise they are proved before a reader
    /// gets them. If the other content has more bytes already, the bytes of the hub are deleted. If the hashes show that both
    /// are the same bytes, other models with this file of the hub read it at its new place. Returns whether the bytes moved.
    pub fn hand_over(&self, from: &Content, to: &Arc<Content>, proof: Option<HubProof>) -> io::Result<bool> {
        let moved = self.move_bytes(from, to, proof.as_ref())?;
        if let Some(proof) = proof.filter(|proof| Some(proof.pieces_root) == to.root())
            && to.is_complete()
            && let Some(of_hub) = from.of_hub()
        {
            let stamp = Stamp::at(&to.path())?;
            of_hub.set_twin(to, proof.of_other_file(stamp))?;
        }
        Ok(moved)
    }

    fn move_bytes(&self, from: &Content, to: &Content, proof: Option<&HubProof>) -> io::Result<bool> {
        let _moving = self.store.moving.lock();
        let (Some(hub), Some(key)) = (from.hub_key(), to.key()) else { return Ok(false) };
        let mut leaving = from.writer();
        let mut entering = to.writer();
        // Bytes in memory are not moved.
        leaving.leave_memory()?;
        let old = self.store.parts.files.cached_from_hub(&hub);
        let map = from.state().map.of_kind(MapKind::Proved);
        let new = self.store.parts.files.cached(&key);
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
        let boot = &self.store.parts.files.boot;
        let none = BlockMap::none(key.len);
        let (proved, unproved) = if is_proved { (map, none) } else { (none, map) };
        // The maps first: until the data is there, they claim nothing.
        mapfile::write_live(&new, &proved, boot)?;
        mapfile::write_synced(&new, &proved, boot)?;
        mapfile::write_unproved(&new, &unproved, boot)?;
        nofollow::rename(&old, &new)?;
        nofollow::sync_dir(fsutil::parent(&new))?;
        if is_proved {
            record_stamp(&new)?;
        }
        entering.move_to(Location::Own(new), Loaded { map: proved, unproved, live: true, synced: true });
        leaving.move_to_empty(Location::Own(old.clone()));
        mapfile::remove(&old)?;
        Ok(true)
    }
}
