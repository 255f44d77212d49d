//! Staging directories, where `get` collects files until they are whole: next to the destination, on its file system, named
//! `.<name>.<start of the info hash>.silmaril-partial`, so that publishing is a rename. A later `get` of the same
//! torrent continues there; a `get` of another torrent does not use it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ContentKey, Store, StoreError, StoredRevision, mapfile};
use crate::fsutil::PARTIAL_SUFFIX;
use crate::model::{InfoHash, Manifest};
use crate::{fsutil, nofollow};

/// The staging directory of a resolved destination: next to it, or inside it if it is a mount point.
pub(super) fn staging_dir(dest: &Path, info_hash: &InfoHash) -> Result<PathBuf, StoreError> {
    // 64 bits, in hex: enough to distinguish torrents with one destination.
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

/// The directories where files are collected until a model is published.
pub struct Staging<'a> {
    pub(super) store: &'a Store,
}

impl Staging<'_> {
    /// Moves the files of a revision that are not complete to its staging directory next to `dest`, with the bytes that the
    /// cache has. The engine must not write to them while this runs: their paths change.
    pub fn stage(&self, revision: &StoredRevision, dest: &Path) -> Result<(), StoreError> {
        let _moving = self.store.moving.lock();
        let staging = staging_dir(&self.store.dirs.destination(dest)?, &revision.manifest.torrent.info_hash)?;
        let all: Vec<usize> = (0..revision.contents.len()).collect();
        let contents = revision.unique(&all);
        contents.values().try_for_each(|content| content.leave_if_changed())?;
        let contents = contents.into_iter().filter(|(_, c)| !c.is_complete());
        for (at, (key, content)) in contents.enumerate() {
            if at == 0 {
                self.open(&revision.manifest, &staging)?;
            }
            let new = staging.join(key.file_name());
            content.writer().relocate(&new).map_err(|e| StoreError::io(&new, e))?;
        }
        Ok(())
    }

    /// Removes the staging directory that [`Self::stage`] made next to `dest`, if it has no file.
    pub fn unstage_empty(&self, revision: &StoredRevision, dest: &Path) -> Result<(), StoreError> {
        let _moving = self.store.moving.lock();
        let info_hash = &revision.manifest.torrent.info_hash;
        let staging = staging_dir(&self.store.dirs.resolve(dest)?, info_hash)?;
        let entries =
            fsutil::existing(nofollow::read_dir(&staging)).map_err(|e| StoreError::io(&staging, e))?;
        if entries.is_some_and(|entries| entries.is_empty()) {
            self.close(info_hash, &staging)
        } else {
            Ok(())
        }
    }

    /// Removes a staging directory with all its files, and the directories above it that are empty then.
    pub fn remove(&self, staging: &Path) -> Result<(), StoreError> {
        let staging = self.store.dirs.resolve(staging)?;
        nofollow::remove_dir_all(&staging).map_err(|e| StoreError::io(&staging, e))?;
        nofollow::remove_empty_parents(&staging, &self.store.dirs.models);
        Ok(())
    }

    /// Creates a staging directory and records it, so that every later open finds its files.
    pub(super) fn open(&self, manifest: &Manifest, staging: &Path) -> Result<(), StoreError> {
        let known =
            self.store.parts.placements.record(&manifest.torrent.info_hash).inodes.get(staging).copied();
        let inode = nofollow::create_staging(staging, known)
            .map_err(|source| StoreError::Staging { path: staging.to_owned(), source })?;
        self.store.parts.placements.update(&manifest.torrent.info_hash, |record| {
            record.models.insert(manifest.model_ref());
            if !record.staging.iter().any(|s| s == staging) {
                record.staging.push(staging.to_owned());
            }
            record.inodes.insert(staging.to_owned(), inode);
        })
    }

    /// Removes a staging directory of a torrent: contents that another model may still use move to the cache, the other files
    /// of the torrent are removed. A directory that has any other file stays.
    pub(super) fn close(&self, info_hash: &InfoHash, staging: &Path) -> Result<(), StoreError> {
        let fail = |e| StoreError::io(staging, e);
        for content in self.store.live.all() {
            let (Some(key), Some(own)) = (content.key(), content.own_path()) else { continue };
            if own.parent() == Some(staging) {
                content.writer().relocate(&self.store.parts.files.cached(&key)).map_err(fail)?;
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
        self.store.parts.placements.update(info_hash, |record| {
            record.staging.retain(|s| s != staging);
            record.inodes.remove(staging);
        })
    }
}
