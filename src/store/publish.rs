//! Publishing: complete contents become the files of a model directory.
//!
//! No file is changed before the path of every file is known to be free. Then all files are prepared in the staging
//! directory and made durable, the placement is recorded, and the files are renamed to their paths. After a crash at any
//! point, each file either has its old path or is, recorded, at its destination. Files of a former state that have the path of
//! a directory are removed just before. Each step is done for all files before the disk is waited for, which costs the same
//! for one file and for thousands.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aside::Kept;
use super::content::{Content, Location};
use super::copy::{ExtentSharing, same_bytes};
use super::data::remove_data_unsynced;
use super::placement::{PlacedEntry, PlacedFile, Stamp};
use super::publish_step::{Method, PublishStep};
use super::removable::Removable;
use super::staging::{Staging, staging_dir};
use super::{ContentKey, StoreError, StoredRevision, registry};
use crate::model::Manifest;
use crate::paths::Paths;
use crate::{fsutil, nofollow};

impl Staging<'_> {
    /// Moves complete files of a revision (indices into its manifest) to their paths below `dest`, and writes the manifest
    /// next to them once all of its files are there. Refuses, changing no file, if a file is not complete or a file of the
    /// user has its path. An edited file that this program made is kept under another name next to the new one, and returned.
    /// The engine must not have the files open: their paths change.
    pub fn publish(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
    ) -> Result<Vec<Kept>, StoreError> {
        let _moving = self.store.moving.lock();
        let dest = self.store.dirs.destination(dest)?;
        let info_hash = &revision.manifest.torrent.info_hash;
        let staging = staging_dir(&dest, info_hash)?;
        let (mut steps, removable) = self.plan(revision, files, &dest)?;
        nofollow::create_dir_all(&dest).map_err(|e| StoreError::io(&dest, e))?;
        if steps.iter().any(|s| !matches!(s.method, Method::There)) {
            self.open(&revision.manifest, &staging)?;
        }
        for step in &mut steps {
            step.prepare(&staging).map_err(|e| StoreError::io(&step.target, e))?;
        }
        let ready = steps.iter().filter_map(|step| step.ready.as_ref());
        nofollow::sync_all(ready).map_err(|e| StoreError::io(&staging, e))?;
        // A reader may have found damage by now.
        for step in &steps {
            self.check_complete(revision, step.file)?;
        }
        // Recorded before the renames, which keep size, time and inode.
        self.record_steps(&revision.manifest, &dest, &steps)?;
        let mut dirs = BTreeSet::from([dest.clone(), fsutil::parent(&dest).to_owned()]);
        for step in &mut steps {
            let parent = fsutil::parent(&step.target).to_owned();
            let content = &revision.contents[step.file];
            // Held until the content has its new location: a thread that opens the old path before finds no file.
            let mut writer = content.writer();
            self.check_complete(revision, step.file)?;
            match step.rename(&staging, &removable) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // The file that appeared does not belong to this program, even if it has a record.
                    let path = &revision.manifest.files[step.file].path;
                    self.store.parts.placements.update(info_hash, |record| {
                        record.place_mut(&dest).files.retain(|f| f.path != *path);
                    })?;
                    return Err(StoreError::Occupied { path: step.target.clone() });
                }
                other => other.map_err(|e| StoreError::io(&step.target, e))?,
            }
            if let (Method::Move(data), Location::Own(own)) = (&step.method, content.location())
                && *data == own
            {
                let stamp = step.stamp().map_err(|e| StoreError::io(&step.target, e))?;
                let file = PlacedFile::whole(step.target.clone(), stamp, step.ours);
                writer.move_to_placed(file);
            }
            drop(writer);
            dirs.extend(parent.ancestors().take_while(|d| *d != dest).map(Path::to_owned));
        }
        nofollow::sync_all(dirs.iter().rev()).map_err(|e| StoreError::io(&dest, e))?;
        // Again, for files that had to be copied after all; other records do not change.
        self.record_steps(&revision.manifest, &dest, &steps)?;
        let mut left = BTreeSet::new();
        for step in &steps {
            let content = &revision.contents[step.file];
            left.extend(self.follow_to(content, step).map_err(|e| StoreError::io(&step.target, e))?);
        }
        nofollow::sync_all(&left).map_err(|e| StoreError::io(&staging, e))?;
        for step in &steps {
            self.check_complete(revision, step.file)?;
        }
        if self.store.placed().has_all_at(&revision.manifest, &dest) {
            registry::write_copy(&revision.manifest, &dest.join(Paths::MODEL_MANIFEST))?;
        }
        self.close(info_hash, &staging)?;
        Ok(steps.into_iter().filter_map(|step| step.kept).collect())
    }

    /// The step for each file, and the files that may be removed to make space for them.
    fn plan(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
    ) -> Result<(Vec<PublishStep>, Removable), StoreError> {
        let mut steps = Vec::with_capacity(files.len());
        // The first path of each content, from which further ones are made.
        let mut first: HashMap<ContentKey, (PathBuf, ExtentSharing)> = HashMap::new();
        let manifest = &revision.manifest;
        let new: HashSet<PathBuf> = files.iter().map(|&i| dest.join(&manifest.files[i].path)).collect();
        let (mut replaceable, removable) = self.replaceable_at(&manifest.model_ref(), dest, new);
        for &file in files {
            let content = &revision.contents[file];
            content.leave_memory().map_err(|e| StoreError::io(dest, e))?;
            content.leave_if_changed()?;
            self.check_complete(revision, file)?;
            let target = dest.join(&manifest.files[file].path);
            refuse_links(dest, &target)?;
            let stamp =
                self.existing_stamp(content, &target, replaceable.contains_key(&target), &removable)?;
            let there = stamp.is_some();
            let ours = !there || replaceable.contains_key(&target);
            let method = match (content.key(), content.location()) {
                _ if there => Method::There,
                (None, _) | (_, Location::Empty | Location::Memory(_)) => Method::Create,
                (Some(key), location) => match (first.get(&key), location) {
                    (Some((path, sharing)), _) => Method::Duplicate(path.clone(), *sharing, None),
                    (None, Location::Placed(placed)) => {
                        let models = &self.store.dirs.models;
                        let both_ours =
                            placed.ours && placed.path.starts_with(models) && dest.starts_with(models);
                        let sharing = if both_ours { ExtentSharing::Inode } else { ExtentSharing::Extents };
                        Method::Duplicate(placed.path, sharing, Some(placed.stamp))
                    }
                    (None, Location::Own(data)) => {
                        first.insert(key, (data.clone(), ExtentSharing::Inode));
                        Method::Move(data)
                    }
                    (None, Location::Empty | Location::Memory(_)) => Method::Create,
                },
            };
            let is_file = || nofollow::metadata(&target).is_ok_and(|meta| meta.is_file());
            let replaces = if !there && is_file() { replaceable.remove(&target) } else { None };
            let executable = manifest.files[file].executable;
            steps.push(PublishStep {
                file,
                target,
                method,
                ready: None,
                stamp,
                ours,
                executable,
                replaces,
                kept: None,
            });
        }
        Ok((steps, removable))
    }

    fn check_complete(&self, revision: &StoredRevision, file: usize) -> Result<(), StoreError> {
        if revision.contents[file].is_complete() {
            return Ok(());
        }
        Err(StoreError::Incomplete { path: revision.manifest.files[file].path.clone() })
    }

    /// The stamp of the file at `target` if it has the content already. An error if any other file has the path and may not
    /// be replaced.
    fn existing_stamp(
        &self,
        content: &Content,
        target: &Path,
        replaceable: bool,
        removable: &Removable,
    ) -> Result<Option<Stamp>, StoreError> {
        let occupied = || StoreError::Occupied { path: target.to_owned() };
        let meta = match nofollow::metadata(target) {
            Ok(meta) if meta.is_file() => meta,
            _ if removable.can_clear(target).map_err(|e| StoreError::io(target, e))? => return Ok(None),
            _ => return Err(occupied()),
        };
        if let Location::Placed(placed) = content.location()
            && placed.path == target
        {
            // A comparison of the file with itself would always succeed.
            return Ok(Some(placed.stamp).filter(|stamp| *stamp == Stamp::of(&meta)));
        }
        let same = if content.is_empty() {
            Some(meta).filter(|meta| meta.len() == 0)
        } else {
            same_bytes(&content.path(), target).map_err(|e| StoreError::io(target, e))?
        };
        if same.is_some() || replaceable { Ok(same.as_ref().map(Stamp::of)) } else { Err(occupied()) }
    }

    fn record_steps(
        &self,
        manifest: &Manifest,
        dest: &Path,
        steps: &[PublishStep],
    ) -> Result<(), StoreError> {
        let entries = steps
            .iter()
            .map(|step| {
                let stamp = step.stamp().map_err(|e| StoreError::io(&step.target, e))?;
                let file = &manifest.files[step.file];
                let (path, root) = (file.path.clone(), file.pieces_root);
                Ok(PlacedEntry::verified(path, root, file.size, stamp, step.ours))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        self.store.parts.placements.put(manifest, dest, entries)
    }

    /// Moves a content to its published file, unless a reader found damage since; then that file does not count. Returns
    /// the directory from which an own file was removed, which the caller syncs.
    fn follow_to(&self, content: &Arc<Content>, step: &PublishStep) -> io::Result<Option<PathBuf>> {
        let mut writer = content.writer();
        let own = match content.location() {
            Location::Own(_) if !content.is_complete() => {
                let Some(key) = content.key() else { return Ok(None) };
                drop(writer);
                if let Method::Move(_) = &step.method {
                    content.start_over()?;
                }
                self.store.parts.placements.distrust(&key, &step.target).map_err(io::Error::other)?;
                return Ok(None);
            }
            Location::Own(data) => {
                let file = PlacedFile::whole(step.target.clone(), step.stamp()?, step.ours);
                writer.move_to_placed(file);
                data
            }
            // A content in another placed file stays there, unless that file has just been replaced: both count.
            location @ (Location::Placed(_) | Location::Empty | Location::Memory(_)) => {
                if let Location::Placed(placed) = location
                    && content.is_complete()
                    && Stamp::at(&placed.path).ok() != Some(placed.stamp)
                {
                    let file = PlacedFile::whole(step.target.clone(), step.stamp()?, step.ours);
                    writer.move_to_placed(file);
                }
                // The maps stay until the new name is durable; the data stays if the file had to be copied.
                let Method::Move(data) = &step.method else { return Ok(None) };
                data.clone()
            }
        };
        let removed = remove_data_unsynced(&own)?;
        Ok(removed.then(|| fsutil::parent(&own).to_owned()))
    }
}

/// Refuses a path below `dest` that leads through a symbolic link.
pub(super) fn refuse_links(dest: &Path, target: &Path) -> Result<(), StoreError> {
    for dir in fsutil::parent(target).ancestors().take_while(|d| *d != dest) {
        if nofollow::metadata(dir).is_ok_and(|m| m.is_symlink()) {
            return Err(StoreError::Occupied { path: dir.to_owned() });
        }
    }
    Ok(())
}
