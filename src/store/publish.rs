//! Publishing: complete contents become the files of a model directory.
//!
//! Nothing is touched before every file is known to have its place. Then all files are prepared in the staging
//! directory and made durable, the placement is recorded, and the files are renamed into place; whichever step a crash falls
//! between, each file is either still where it was or stands, recorded, at its destination. Files of a former state that are
//! in the way as a file is in that of a directory go just before. Each step is done for all files before the disk is waited
//! for, which costs the same for one file and for thousands.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aside::{Kept, set_aside};
use super::content::{Content, Home, remove_data_unsynced};
use super::copy::{Sharing, crosses_devices, duplicate_unsynced, same_bytes};
use super::placement::{PlacedEntry, PlacedFile, Stamp};
use super::staging::staging_dir;
use super::yielding::Yielding;
use super::{ContentKey, Store, StoreError, StoredRevision, registry};
use crate::model::Manifest;
use crate::paths::Paths;
use crate::{fsutil, nofollow};

/// How one file gets to its place.
#[derive(Debug)]
enum Way {
    /// It stands there already.
    There,
    /// It is empty.
    Create,
    /// The store's own file becomes it.
    Move(PathBuf),
    /// It is made from another file; from a placed one only while that looks as it did when verified.
    Duplicate(PathBuf, Sharing, Option<Stamp>),
}

/// One file on its way.
#[derive(Debug)]
struct Step {
    file: usize,
    target: PathBuf,
    way: Way,
    /// What is renamed to `target`.
    ready: Option<PathBuf>,
    /// How the file looks, taken where nobody else could exchange it.
    stamp: Option<Stamp>,
    ours: bool,
    executable: bool,
    /// How a file of ours that stands at `target` looked, which is replaced. Otherwise nothing does.
    replaces: Option<Vec<Stamp>>,
    /// What stood there and was not as it had looked.
    kept: Option<Kept>,
}

impl Store {
    /// Puts complete files of a revision (indices into its manifest) at their paths below `dest`, and the manifest
    /// beside them once all of its files are there. Refuses, changing nothing, if a file is not complete or something
    /// else stands in its place. A file of ours that somebody has changed there is kept beside the new one, and told
    /// of. The engine must not have the files open: their paths change.
    pub fn publish(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
    ) -> Result<Vec<Kept>, StoreError> {
        let _moving = self.moving();
        let dest = self.destination(dest)?;
        let info_hash = &revision.manifest.torrent.info_hash;
        let staging = staging_dir(&dest, info_hash)?;
        let (mut steps, goes) = self.plan(revision, files, &dest)?;
        nofollow::create_dir_all(&dest).map_err(|e| StoreError::io(&dest, e))?;
        if steps.iter().any(|s| !matches!(s.way, Way::There)) {
            self.open_staging(&revision.manifest, &staging)?;
        }
        for step in &mut steps {
            step.prepare(&staging).map_err(|e| StoreError::io(&step.target, e))?;
        }
        let ready = steps.iter().filter_map(|step| step.ready.as_ref());
        nofollow::sync_all(ready).map_err(|e| StoreError::io(&staging, e))?;
        // A reader may have found damage meanwhile.
        for step in &steps {
            self.check_complete(revision, step.file)?;
        }
        // Recorded before the renames, which keep size, time and inode. Until then nothing stands there.
        self.record_steps(&revision.manifest, &dest, &steps)?;
        let mut dirs = BTreeSet::from([dest.clone(), fsutil::parent(&dest).to_owned()]);
        for step in &mut steps {
            let parent = fsutil::parent(&step.target).to_owned();
            let content = &revision.contents[step.file];
            // Held until the content has its new home: who looks at the old path meanwhile finds nothing there.
            let mut journal = content.journal();
            self.check_complete(revision, step.file)?;
            match step.rename(&staging, &goes) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // What appeared is not ours, whatever was recorded for it.
                    let path = &revision.manifest.files[step.file].path;
                    self.shared.placements.update(info_hash, |record| {
                        record.place_mut(&dest).files.retain(|f| f.path != *path);
                    })?;
                    return Err(StoreError::Occupied { path: step.target.clone() });
                }
                other => other.map_err(|e| StoreError::io(&step.target, e))?,
            }
            if let (Way::Move(data), Home::Own(own)) = (&step.way, content.home())
                && *data == own
            {
                let stamp = step.seen().map_err(|e| StoreError::io(&step.target, e))?;
                let file = PlacedFile::whole(step.target.clone(), stamp, step.ours);
                content.settle_placed(&mut journal, file);
            }
            drop(journal);
            dirs.extend(parent.ancestors().take_while(|d| *d != dest).map(Path::to_owned));
        }
        nofollow::sync_all(dirs.iter().rev()).map_err(|e| StoreError::io(&dest, e))?;
        // Again, for files that had to be copied after all; otherwise nothing changes.
        self.record_steps(&revision.manifest, &dest, &steps)?;
        let mut left = BTreeSet::new();
        for step in &steps {
            let content = &revision.contents[step.file];
            left.extend(self.go_on_at(content, step).map_err(|e| StoreError::io(&step.target, e))?);
        }
        nofollow::sync_all(&left).map_err(|e| StoreError::io(&staging, e))?;
        for step in &steps {
            self.check_complete(revision, step.file)?;
        }
        if self.stands_whole(&revision.manifest, &dest) {
            registry::write_copy(&revision.manifest, &dest.join(Paths::MODEL_MANIFEST))?;
        }
        self.close_staging(info_hash, &staging)?;
        Ok(steps.into_iter().filter_map(|step| step.kept).collect())
    }

    /// What is to be done with each file, and which files may go where they are in the way.
    fn plan(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
    ) -> Result<(Vec<Step>, Yielding), StoreError> {
        let mut steps = Vec::with_capacity(files.len());
        // The first path that is to hold each content, from which further ones are made.
        let mut first: HashMap<ContentKey, (PathBuf, Sharing)> = HashMap::new();
        let manifest = &revision.manifest;
        let comes: HashSet<PathBuf> = files.iter().map(|&i| dest.join(&manifest.files[i].path)).collect();
        let (mut replaceable, goes) = self.gives_way_at(&manifest.model_ref(), dest, comes);
        for &file in files {
            let content = &revision.contents[file];
            content.leave_memory().map_err(|e| StoreError::io(dest, e))?;
            leave_if_changed(content)?;
            self.check_complete(revision, file)?;
            let target = dest.join(&manifest.files[file].path);
            refuse_links(dest, &target)?;
            let stamp = self.stands_already(content, &target, replaceable.contains_key(&target), &goes)?;
            let there = stamp.is_some();
            let ours = !there || replaceable.contains_key(&target);
            let way = match (content.key(), content.home()) {
                _ if there => Way::There,
                (None, _) | (_, Home::Empty | Home::Memory(_)) => Way::Create,
                (Some(key), home) => match (first.get(&key), home) {
                    (Some((path, sharing)), _) => Way::Duplicate(path.clone(), *sharing, None),
                    (None, Home::Placed(placed)) => {
                        let models = &self.shared.paths.models;
                        let both_ours =
                            placed.ours && placed.path.starts_with(models) && dest.starts_with(models);
                        let sharing = if both_ours { Sharing::Inode } else { Sharing::Extents };
                        Way::Duplicate(placed.path, sharing, Some(placed.stamp))
                    }
                    (None, Home::Own(data)) => {
                        first.insert(key, (data.clone(), Sharing::Inode));
                        Way::Move(data)
                    }
                    (None, Home::Empty | Home::Memory(_)) => Way::Create,
                },
            };
            let is_file = || nofollow::metadata(&target).is_ok_and(|meta| meta.is_file());
            let replaces = if !there && is_file() { replaceable.remove(&target) } else { None };
            let executable = manifest.files[file].executable;
            steps.push(Step {
                file,
                target,
                way,
                ready: None,
                stamp,
                ours,
                executable,
                replaces,
                kept: None,
            });
        }
        Ok((steps, goes))
    }

    fn check_complete(&self, revision: &StoredRevision, file: usize) -> Result<(), StoreError> {
        match revision.contents[file].is_complete() {
            true => Ok(()),
            false => Err(StoreError::Incomplete { path: revision.manifest.files[file].path.clone() }),
        }
    }

    /// How the content that stands at `target` already looks; none where it does not. An error if something else does
    /// and may not be replaced.
    fn stands_already(
        &self,
        content: &Content,
        target: &Path,
        replaceable: bool,
        goes: &Yielding,
    ) -> Result<Option<Stamp>, StoreError> {
        let occupied = || StoreError::Occupied { path: target.to_owned() };
        let meta = match nofollow::metadata(target) {
            Ok(meta) if meta.is_file() => meta,
            _ => match goes.gives_way(target).map_err(|e| StoreError::io(target, e))? {
                true => return Ok(None),
                false => return Err(occupied()),
            },
        };
        if let Home::Placed(placed) = content.home()
            && placed.path == target
        {
            // Compared with itself it would always be right.
            return Ok(Some(placed.stamp).filter(|stamp| *stamp == Stamp::of(&meta)));
        }
        let same = match content.is_empty() {
            true => Some(meta).filter(|meta| meta.len() == 0),
            false => same_bytes(&content.path(), target).map_err(|e| StoreError::io(target, e))?,
        };
        if same.is_some() || replaceable { Ok(same.as_ref().map(Stamp::of)) } else { Err(occupied()) }
    }

    fn record_steps(&self, manifest: &Manifest, dest: &Path, steps: &[Step]) -> Result<(), StoreError> {
        let entries = steps
            .iter()
            .map(|step| {
                let stamp = step.seen().map_err(|e| StoreError::io(&step.target, e))?;
                let file = &manifest.files[step.file];
                let (path, root) = (file.path.clone(), file.pieces_root);
                Ok(PlacedEntry::verified(path, root, file.size, stamp, step.ours))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        self.shared.placements.put(manifest, dest, entries)
    }

    /// Has a content read from its new place, unless a reader found damage since; then that place does not count. Returns
    /// the directory of the store's own files that were removed, which the caller syncs.
    fn go_on_at(&self, content: &Arc<Content>, step: &Step) -> io::Result<Option<PathBuf>> {
        let mut journal = content.journal();
        let own = match content.home() {
            Home::Own(_) if !content.is_complete() => {
                let Some(key) = content.key() else { return Ok(None) };
                drop(journal);
                if let Way::Move(_) = &step.way {
                    content.start_over()?;
                }
                self.shared.placements.distrust(&key, &step.target).map_err(io::Error::other)?;
                return Ok(None);
            }
            Home::Own(data) => {
                let file = PlacedFile::whole(step.target.clone(), step.seen()?, step.ours);
                content.settle_placed(&mut journal, file);
                data
            }
            // What is placed elsewhere stays, unless it has just given way: both count.
            home @ (Home::Placed(_) | Home::Empty | Home::Memory(_)) => {
                if let Home::Placed(placed) = home
                    && content.is_complete()
                    && Stamp::at(&placed.path).ok() != Some(placed.stamp)
                {
                    let file = PlacedFile::whole(step.target.clone(), step.seen()?, step.ours);
                    content.settle_placed(&mut journal, file);
                }
                // The maps stay until the new name is durable; data stays where the file had to be copied.
                let Way::Move(data) = &step.way else { return Ok(None) };
                data.clone()
            }
        };
        let removed = remove_data_unsynced(&own)?;
        Ok(removed.then(|| fsutil::parent(&own).to_owned()))
    }
}

impl Step {
    fn seen(&self) -> io::Result<Stamp> {
        self.stamp.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes the file that will be renamed, with the mode of a file that anybody may read. The caller makes it durable.
    fn prepare(&mut self, staging: &Path) -> io::Result<()> {
        let temporary = staging.join(format!("{}.new", self.file));
        let ready = match &self.way {
            Way::There => return Ok(()),
            Way::Create => {
                nofollow::remove_if_there(&temporary)?;
                self.set_mode(&nofollow::create_new(&temporary)?)?;
                temporary
            }
            Way::Move(data) => {
                self.set_mode(&nofollow::read(data)?)?;
                data.clone()
            }
            Way::Duplicate(from, sharing, stamp) => {
                let fits = is_executable(&nofollow::metadata(from)?) == self.executable;
                // Links of one file have one mode.
                let sharing = if fits { *sharing } else { Sharing::Extents };
                let copied = Stamp::of(&duplicate_unsynced(from, &temporary, sharing)?);
                if stamp.is_some_and(|stamp| stamp != copied) {
                    let text = format!("{} has changed since it was verified", from.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                self.set_executable(&temporary)?;
                temporary
            }
        };
        self.stamp = Some(Stamp::at(&ready)?);
        self.ready = Some(ready);
        Ok(())
    }

    fn set_mode(&self, file: &File) -> io::Result<()> {
        let mode = if self.executable { 0o777 } else { 0o666 };
        file.set_permissions(Permissions::from_mode(mode & !fsutil::umask()))
    }

    /// Sets the mode of a copy whose executable bit is not that of the manifest.
    fn set_executable(&self, path: &Path) -> io::Result<()> {
        let file = nofollow::read(path)?;
        if is_executable(&file.metadata()?) == self.executable { Ok(()) } else { self.set_mode(&file) }
    }

    /// Renames a file to the target; one that appeared there since we looked stays, and is an error. One of ours that
    /// has been changed is set aside.
    fn put(&mut self, ready: &Path) -> io::Result<()> {
        let Some(ours) = &self.replaces else { return nofollow::rename_new(ready, &self.target) };
        if Stamp::at(&self.target).is_ok_and(|now| !ours.contains(&now)) {
            self.kept = Some(set_aside(&self.target)?);
        }
        nofollow::rename(ready, &self.target)
    }

    fn rename(&mut self, staging: &Path, goes: &Yielding) -> io::Result<()> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        goes.make_way(&self.target)?;
        nofollow::create_dir_all(fsutil::parent(&self.target))?;
        match self.put(&ready) {
            Err(e) if crosses_devices(&e) => {
                let copied = staging.join(format!("{}.new", self.file));
                if copied != ready {
                    duplicate_unsynced(&ready, &copied, Sharing::Extents)?;
                    self.set_executable(&copied)?;
                    fsutil::flush(&nofollow::read(&copied)?)?;
                    self.stamp = Some(Stamp::at(&copied)?);
                    self.put(&copied)
                } else {
                    Err(e)
                }
            }
            // Renaming onto a hard link of itself leaves both.
            Ok(()) => nofollow::remove_if_there(&ready).map(drop),
            other => other,
        }
    }
}

/// Has a content leave a placed file that is not as it was verified: no reader may have noticed yet. With `moving` held.
pub(super) fn leave_if_changed(content: &Content) -> Result<(), StoreError> {
    match content.home() {
        Home::Placed(placed) if Stamp::at(&placed.path).ok() != Some(placed.stamp) => {
            content.start_over().map_err(|e| StoreError::io(&placed.path, e))
        }
        _ => Ok(()),
    }
}

fn is_executable(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o100 != 0
}

/// Refuses a path below `dest` that leads through a symbolic link: it may end anywhere.
pub(super) fn refuse_links(dest: &Path, target: &Path) -> Result<(), StoreError> {
    for dir in fsutil::parent(target).ancestors().take_while(|d| *d != dest) {
        if nofollow::metadata(dir).is_ok_and(|m| m.is_symlink()) {
            return Err(StoreError::Occupied { path: dir.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_appeared_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (ready, target) = (dir.path().join("ready"), dir.path().join("target"));
        fs::write(&ready, b"new").unwrap();
        fs::write(&target, b"precious").unwrap();
        let mut step = Step {
            file: 0,
            target: target.clone(),
            way: Way::Create,
            ready: None,
            stamp: None,
            ours: true,
            executable: false,
            replaces: None,
            kept: None,
        };
        assert_eq!(step.put(&ready).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        step.replaces = Some(vec![Stamp::at(&target).unwrap()]);
        step.put(&ready).unwrap();
        assert_eq!((fs::read(&target).unwrap().as_slice(), &step.kept), (&b"new"[..], &None));
        // Nor is one that was changed meanwhile.
        for name in ["target.edited", "target.edited2"] {
            fs::write(&ready, b"newer").unwrap();
            fs::write(&target, b"edited").unwrap();
            step.put(&ready).unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"newer");
            assert_eq!(step.kept.take().unwrap().aside, dir.path().join(name));
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"edited");
        }
    }
}
