//! Moving a content's own file to another path.

use std::io;
use std::path::Path;

use super::{ContentWriter, Location};
use crate::store::copy::{copy_verified, crosses_devices};
use crate::store::data::{remove_data, remove_data_unsynced};
use crate::store::mapfile::{self, Loaded};
use crate::{fsutil, nofollow};

impl ContentWriter<'_> {
    /// See [`Content::start_over`](super::Content::start_over).
    pub(in crate::store) fn start_over(&mut self) -> io::Result<()> {
        match self.content.location() {
            Location::Empty => Ok(()),
            Location::Own(_) => self.discard(),
            Location::Memory(_) => self.leave_memory(),
            Location::Placed(_) => self.remove_blocks(0..self.content.len()),
        }
    }

    /// See [`Content::leave_memory`](super::Content::leave_memory).
    pub fn leave_memory(&mut self) -> io::Result<()> {
        let content = self.content;
        let (Some(key), Location::Memory(_)) = (content.key(), content.location()) else { return Ok(()) };
        let (data, files) = (content.cache_path(&key), &content.parts.files);
        let loaded = match content.hub_key() {
            Some(_) => files.load_hub_map(&data, key.len)?,
            None => files.load_map(&data, key.len)?,
        };
        self.move_to(Location::Own(data), loaded);
        Ok(())
    }

    /// Moves a content's own file and its maps to another path. If an earlier run left more bytes at the new path, these
    /// count instead. A content in memory moves to the new path without its bytes. Placed contents stay.
    pub fn relocate(&mut self, new: &Path) -> io::Result<()> {
        let content = self.content;
        let old = match content.location() {
            Location::Own(old) if old != new => old,
            Location::Memory(_) => {
                let loaded = content.parts.files.load_map(new, content.len())?;
                self.move_to(Location::Own(new.to_owned()), loaded);
                return Ok(());
            }
            Location::Own(_) | Location::Empty | Location::Placed(_) => return Ok(()),
        };
        let len = content.len();
        nofollow::create_dir_all(fsutil::parent(new))?;
        let there = content.parts.files.load_map(new, len)?;
        let (map, unproved) = {
            let state = content.state();
            (state.map.clone(), state.unproved.clone())
        };
        let location = Location::Own(new.to_owned());
        if there.bytes() >= map.bytes() + unproved.bytes() {
            self.move_to(location, there);
            if remove_data_unsynced(&old)? {
                nofollow::sync_dir(fsutil::parent(&old))?;
            }
            return Ok(());
        }
        remove_data(new)?;
        // The maps first: until the data is there, they claim nothing.
        let synced = mapfile::copy_synced(&old, new, len).is_ok_and(|copied| copied);
        mapfile::write_live(new, &map, self.boot())?;
        mapfile::write_unproved(new, &unproved, self.boot())?;
        let before = nofollow::metadata(&old).ok().filter(|_| map.is_full());
        match nofollow::rename(&old, new) {
            Err(e) if crosses_devices(&e) => {
                let mut both = map.clone();
                both.insert_all(&unproved);
                copy_verified(&old, new, &both, len)?;
                mapfile::write_synced(new, &map, self.boot())?;
                before.map_or(Ok(()), |before| mapfile::move_stamp(&old, &before, new))?;
                self.move_to(location, Loaded { map, unproved, live: true, synced: true });
                return remove_data(&old);
            }
            // Another program removed the data.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                remove_data(new)?;
                self.move_to_empty(location);
                return mapfile::remove(&old).map(drop);
            }
            other => other?,
        }
        nofollow::sync_dir(fsutil::parent(new))?;
        before.map_or(Ok(()), |before| mapfile::move_stamp(&old, &before, new))?;
        let synced = synced && content.is_synced();
        self.move_to(location, Loaded { map, unproved, live: true, synced });
        mapfile::remove(&old).map(drop)
    }
}
