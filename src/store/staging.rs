//! Where `get` collects files until they are whole: a directory beside the destination, on its file system, named
//! `.<name>.<start of the info hash>.silmaril-partial`, so that publishing is a rename. A later `get` of the same
//! torrent goes on there; no other touches it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blockmap::BlockMap;
use super::content::{Content, Home, Journal, remove_data, remove_data_unsynced};
use super::mapfile::Loaded;
use super::publish::leave_if_changed;
use super::{ContentKey, Store, StoreError, StoredRevision, copy, mapfile};
use crate::model::path::PARTIAL_SUFFIX;
use crate::model::{InfoHash, Manifest};
use crate::{fsutil, nofollow};

/// The staging directory of a resolved destination: beside it, or inside it where it is a mount point.
pub(super) fn staging_dir(dest: &Path, info_hash: &InfoHash) -> Result<PathBuf, StoreError> {
    // 64 bits, in hex: enough to tell torrents apart that go to one place.
    let suffix = format!(".{:.16}{PARTIAL_SUFFIX}", info_hash.to_string());
    let inside = dest.join(&suffix);
    let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else { return Ok(inside) };
    let device = |path: &Path| nofollow::metadata(path).map(|m| m.dev());
    match device(dest) {
        Ok(dev) if dev != device(parent).map_err(|e| StoreError::io(parent, e))? => Ok(inside),
        _ => {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(suffix);
            Ok(parent.join(hidden))
        }
    }
}

/// Whether a file of a staging directory is a content, one of its maps, or a temporary file.
fn is_left_over(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    let prepared = name.strip_suffix(".new").is_some_and(|n| n.parse::<usize>().is_ok());
    let is_content = || ContentKey::parse(mapfile::data_name(name)).is_some();
    prepared || name.starts_with(fsutil::TEMP_PREFIX) || is_content()
}

impl Store {
    /// The real path of a directory in which files of a model are or may be (see [`nofollow::real_path`]). The user has
    /// named the models directory, or `dest` itself.
    pub(super) fn resolve(&self, dest: &Path) -> Result<PathBuf, StoreError> {
        let real = match self.below_models(dest) {
            Some(below) => nofollow::real_path(&self.shared.paths.models, below),
            None => nofollow::real_path(dest, Path::new("")),
        };
        real.map_err(|e| StoreError::io(dest, e))
    }

    /// [`Self::resolve`] for a directory where files are to be put. The directory above the one that the user has named
    /// is made where it is missing.
    pub(super) fn destination(&self, dest: &Path) -> Result<PathBuf, StoreError> {
        if self.below_models(dest).is_none() {
            let parent = fsutil::parent(dest);
            fs::create_dir_all(parent).map_err(|e| StoreError::io(parent, e))?;
        }
        self.resolve(dest)
    }

    fn below_models<'a>(&self, dest: &'a Path) -> Option<&'a Path> {
        let named = [&self.shared.paths.models, &self.shared.named_models];
        named.into_iter().find_map(|models| dest.strip_prefix(models).ok())
    }

    /// Has the files of a revision that are not complete collected beside `dest`, with what the cache has of them.
    /// The engine must not write to them meanwhile: their paths change.
    pub fn stage(&self, revision: &StoredRevision, dest: &Path) -> Result<(), StoreError> {
        let _moving = self.moving();
        let staging = staging_dir(&self.destination(dest)?, &revision.manifest.torrent.info_hash)?;
        let all: Vec<usize> = (0..revision.contents.len()).collect();
        let contents = self.unique(revision, &all);
        contents.values().try_for_each(|content| leave_if_changed(content))?;
        let contents = contents.into_iter().filter(|(_, c)| !c.is_complete());
        for (at, (key, content)) in contents.enumerate() {
            if at == 0 {
                self.open_staging(&revision.manifest, &staging)?;
            }
            self.move_own(&content, &staging.join(key.file_name()))?;
        }
        Ok(())
    }

    /// Removes the staging directory that [`Self::stage`] made next to `dest`, if it has no file.
    pub fn unstage_empty(&self, revision: &StoredRevision, dest: &Path) -> Result<(), StoreError> {
        let _moving = self.moving();
        let info_hash = &revision.manifest.torrent.info_hash;
        let staging = staging_dir(&self.resolve(dest)?, info_hash)?;
        match nofollow::read_dir(&staging) {
            Ok(entries) if entries.is_empty() => self.close_staging(info_hash, &staging),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(&staging, error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Removes a directory beside a model's with all that is in it, and the directories around it that are empty then.
    pub fn remove_staging(&self, staging: &Path) -> Result<(), StoreError> {
        let staging = self.resolve(staging)?;
        nofollow::remove_dir_all(&staging).map_err(|e| StoreError::io(&staging, e))?;
        nofollow::remove_empty_parents(&staging, &self.shared.paths.models);
        Ok(())
    }

    /// The contents of some files of a revision, each once, empty ones left out.
    pub(super) fn unique(
        &self,
        revision: &StoredRevision,
        files: &[usize],
    ) -> BTreeMap<ContentKey, Arc<Content>> {
        let contents = files.iter().map(|&file| revision.contents[file].clone());
        contents.filter_map(|c| Some((c.key()?, c))).collect()
    }

    /// Creates a staging directory and remembers it, so that every later open finds what is there.
    pub(super) fn open_staging(&self, manifest: &Manifest, staging: &Path) -> Result<(), StoreError> {
        let known = self.shared.placements.record(&manifest.torrent.info_hash).inodes.get(staging).copied();
        let inode = nofollow::create_staging(staging, known)
            .map_err(|source| StoreError::Staging { path: staging.to_owned(), source })?;
        self.shared.placements.update(&manifest.torrent.info_hash, |record| {
            record.models.insert(manifest.model_ref());
            if !record.staging.iter().any(|s| s == staging) {
                record.staging.push(staging.to_owned());
            }
            record.inodes.insert(staging.to_owned(), inode);
        })
    }

    /// Ends a staging directory of a torrent: what others may still use goes back to the cache, what is left of
    /// the torrent goes. A directory that holds anything else stays.
    pub(super) fn close_staging(&self, info_hash: &InfoHash, staging: &Path) -> Result<(), StoreError> {
        let fail = |e| StoreError::io(staging, e);
        for content in self.live_contents() {
            let (Some(key), Some(own)) = (content.key(), content.own_path()) else { continue };
            if own.parent() == Some(staging) {
                self.move_own(&content, &self.shared.cached(&key))?;
            }
        }
        match nofollow::read_dir(staging) {
            Ok(entries) => {
                for path in entries.into_iter().map(|(name, _)| staging.join(name)) {
                    if is_left_over(&path) {
                        nofollow::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
                    }
                }
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            Err(_) => {}
        }
        match nofollow::remove_dir(staging) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                return Err(fail(e));
            }
            _ => {}
        }
        self.shared.placements.update(info_hash, |record| {
            record.staging.retain(|s| s != staging);
            record.inodes.remove(staging);
        })
    }

    /// Moves a content's own file and its maps to another path. Where an earlier run left more at the new path,
    /// that counts instead. Placed contents stay.
    pub(super) fn move_own(&self, content: &Content, new: &Path) -> Result<(), StoreError> {
        let mut journal = content.journal();
        let old = match content.home() {
            Home::Own(old) => old,
            Home::Memory(_) => {
                let there = self.shared.load_map(new, content.len()).map_err(|e| StoreError::io(new, e))?;
                content.settle_loaded(&mut journal, Home::Own(new.to_owned()), there);
                return Ok(());
            }
            Home::Empty | Home::Placed(_) => return Ok(()),
        };
        if old == new {
            return Ok(());
        }
        self.move_file(content, &mut journal, &old, new).map_err(|e| StoreError::io(new, e))
    }

    fn move_file(&self, content: &Content, journal: &mut Journal, old: &Path, new: &Path) -> io::Result<()> {
        let (len, boot) = (content.len(), &self.shared.boot);
        nofollow::create_dir_all(fsutil::parent(new))?;
        let there = self.shared.load_map(new, len)?;
        let (map, unproved) = (content.map(), content.unproved());
        if there.bytes() >= map.bytes() + unproved.bytes() {
            content.settle_loaded(journal, Home::Own(new.to_owned()), there);
            return match remove_data_unsynced(old)? {
                true => nofollow::sync_dir(fsutil::parent(old)),
                false => Ok(()),
            };
        }
        remove_data(new)?;
        // The maps first: until the data is there, they claim nothing.
        let synced = mapfile::copy_synced(old, new, len).is_ok_and(|copied| copied);
        mapfile::write_live(new, &map, boot)?;
        mapfile::write_unproved(new, &unproved, boot)?;
        match nofollow::rename(old, new) {
            Err(e) if copy::crosses_devices(&e) => {
                let mut both = map.clone();
                both.insert_all(&unproved);
                copy::copy_verified(old, new, &both, len)?;
                mapfile::write_synced(new, &map, boot)?;
                let loaded = Loaded { map, unproved, live: true, synced: true };
                content.settle_loaded(journal, Home::Own(new.to_owned()), loaded);
                return remove_data(old);
            }
            // Somebody removed the data.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                remove_data(new)?;
                content.settle(journal, Home::Own(new.to_owned()), BlockMap::none(len), false, true);
                return mapfile::remove(old).map(drop);
            }
            other => other?,
        }
        nofollow::sync_dir(fsutil::parent(new))?;
        let loaded = Loaded { map, unproved, live: true, synced: synced && content.is_synced() };
        content.settle_loaded(journal, Home::Own(new.to_owned()), loaded);
        mapfile::remove(old).map(drop)
    }
}
