//! Files of a mirror that left its large files out: they are in the directory of a model and are no model.
//!
//! `resume/laid-out/<model>.json` has their paths and stamps. A file with an unchanged stamp belongs to this program and may be
//! replaced; a file that was edited belongs to its editor. A file that a model has on record belongs to that model.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::copy::{ExtentSharing, crosses_devices, duplicate, same_bytes};
use super::publish::refuse_links;
use super::removable::Removable;
use super::remove::remove_files;
use super::{Stamp, Store, StoreError, registry};
use crate::model::ModelRef;
use crate::{fsutil, nofollow};

/// Longest record read; 100 000 files of long paths fit.
const MAX_RECORD: u64 = 64 << 20;

/// The files that were laid out in one directory: relative paths and stamps. A file has two stamps while it is being
/// replaced.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LaidOut {
    files: BTreeMap<String, Vec<Stamp>>,
}

/// The files of mirrors that left their large files out.
pub struct PartialMirrors<'a> {
    pub(super) store: &'a Store,
}

impl PartialMirrors<'_> {
    /// Moves files from below `tree` to the same paths in the model's directory, and replaces the files that an earlier call
    /// has put there and that were not edited. A file with the same bytes stays. If any other file has one of the paths, the
    /// call fails with `Occupied` and no file is moved.
    pub fn lay_out(&self, tree: &Path, model: &ModelRef, paths: &[&str]) -> Result<(), StoreError> {
        let _moving = self.store.moving.lock();
        let dest = self.store.dirs.resolve(&self.store.dirs.of(model))?;
        let tree = self.store.dirs.resolve(tree)?;
        let tree = tree.as_path();
        let before = self.read_record(model);
        let ours = self.unedited(&before, &dest);
        let new: HashSet<PathBuf> = paths.iter().map(|path| dest.join(path)).collect();
        let removable = ours.iter().filter(|(path, _)| !new.contains(*path));
        let removable = Removable::new(&dest, removable.map(|(path, stamp)| (path.clone(), *stamp)));
        let (mut after, mut steps) = (LaidOut::default(), Vec::new());
        let stamp = |of: &Path| Stamp::at(of).map_err(|e| StoreError::io(of, e));
        for &path in paths {
            let (from, to) = (tree.join(path), dest.join(path));
            refuse_links(&dest, &to)?;
            if is_same(&from, &to).map_err(|e| StoreError::io(&to, e))? {
                if before.files.contains_key(path) {
                    after.files.insert(path.to_owned(), vec![stamp(&to)?]);
                }
                continue;
            }
            let replaces = ours.contains_key(&to);
            if !replaces && !removable.can_clear(&to).map_err(|e| StoreError::io(&to, e))? {
                return Err(StoreError::Occupied { path: to });
            }
            steps.push((path, from, to, replaces));
        }
        if !steps.is_empty() {
            let files = steps.iter_mut().map(|(_, from, ..)| from);
            let copied = nofollow::create_dir_all(&dest).and_then(|()| copy_near(files, tree, &dest));
            copied.map_err(|e| StoreError::io(&dest, e))?;
        }
        for (path, from, ..) in &steps {
            after.files.insert((*path).to_owned(), vec![stamp(from)?]);
        }
        // Recorded before any file moves; a rename keeps size, time and inode.
        let mut both = after.files.clone();
        for (path, stamps) in before.files {
            both.entry(path).or_default().extend(stamps);
        }
        self.write_record(model, &LaidOut { files: both })?;
        remove_files(removable.paths(), &dest)?;
        let mut dirs = BTreeSet::new();
        for (_, from, to, replaces) in steps {
            let parent = fsutil::parent(&to);
            let put =
                || if replaces { nofollow::rename(&from, &to) } else { nofollow::rename_new(&from, &to) };
            match removable.clear(&to).and_then(|()| nofollow::create_dir_all(parent)).and_then(|()| put()) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::Occupied { path: to });
                }
                other => other.map_err(|e| StoreError::io(&to, e))?,
            }
            dirs.extend(parent.ancestors().take_while(|dir| dir.starts_with(&dest)).map(Path::to_owned));
        }
        for dir in dirs.iter().rev() {
            nofollow::sync_dir(dir).map_err(|e| StoreError::io(dir, e))?;
        }
        self.write_record(model, &after)
    }

    /// Removes the files that were laid out for a model, except edited files and files that a model has on record, and their
    /// record. Returns whether there was a record.
    pub fn clear(&self, model: &ModelRef) -> Result<bool, StoreError> {
        let _moving = self.store.moving.lock();
        let record = self.store.parts.files.paths.laid_out(model);
        if !record.exists() {
            return Ok(false);
        }
        let dest = self.store.dirs.of(model);
        if let Ok(resolved) = self.store.dirs.resolve(&dest) {
            remove_files(self.files(model, &resolved).keys(), &resolved)?;
        }
        fsutil::remove_if_there(&record).map_err(|e| StoreError::io(&record, e))?;
        registry::remove_empty_parents(
            &record,
            fsutil::parent(&self.store.parts.files.paths.laid_out_records()),
        );
        // A directory behind a link belongs to the user.
        let is_link = dest.symlink_metadata().is_ok_and(|found| found.is_symlink());
        if let Some(dest) = self.store.dirs.resolve(&dest).ok().filter(|_| !is_link) {
            let _ = nofollow::remove_dir(&dest);
            nofollow::remove_empty_parents(&dest, &self.store.dirs.models);
        }
        Ok(true)
    }

    /// Bytes of the files that [`PartialMirrors::clear`] would remove; none if no file was laid out for the model.
    pub fn bytes(&self, model: &ModelRef) -> Option<u64> {
        self.store.parts.files.paths.laid_out(model).exists().then(|| {
            let dest = self.store.dirs.resolve(&self.store.dirs.of(model));
            dest.map_or(0, |dest| self.files(model, &dest).values().map(|stamp| stamp.size).sum())
        })
    }

    /// The files laid out for a model that were not edited and that no model has on record; none if `dest`, resolved, is
    /// not the model's own directory.
    pub(super) fn files(&self, model: &ModelRef, dest: &Path) -> HashMap<PathBuf, Stamp> {
        if !self.store.dirs.is_own(model, dest) {
            return HashMap::new();
        }
        self.unedited(&self.read_record(model), dest)
    }

    fn unedited(&self, record: &LaidOut, dest: &Path) -> HashMap<PathBuf, Stamp> {
        if record.files.is_empty() {
            return HashMap::new();
        }
        let models = self.store.parts.placements.placed_below(dest);
        let files = record.files.iter().filter_map(|(path, stamps)| {
            let path = dest.join(path);
            refuse_links(dest, &path).ok()?;
            let now = nofollow::metadata(&path).ok().filter(|meta| meta.is_file())?;
            let now = Stamp::of(&now);
            (stamps.contains(&now) && !models.contains(&path)).then_some((path, now))
        });
        files.collect()
    }

    /// The files of [`PartialMirrors::files`] of all models.
    pub(super) fn all_files(&self) -> Vec<PathBuf> {
        let records = self.store.parts.files.paths.laid_out_records();
        let mut found = Vec::new();
        if let Err(e) = registry::collect(&records, 3, &mut found) {
            tracing::warn!(error = %e, "could not list the files of mirrors without their large files");
        }
        let models = found.iter().filter_map(|record| {
            let name = record.strip_prefix(&records).ok()?.to_str()?.strip_suffix(".json")?;
            name.parse::<ModelRef>().ok()
        });
        let files = models.filter_map(|model| {
            let dest = self.store.dirs.resolve(&self.store.dirs.of(&model)).ok()?;
            Some(self.files(&model, &dest).into_keys())
        });
        files.flatten().collect()
    }

    /// The record of a model. A record that cannot be used is logged and skipped: its files belong to the user then.
    fn read_record(&self, model: &ModelRef) -> LaidOut {
        let path = self.store.parts.files.paths.laid_out(model);
        let read = fsutil::read_capped(&path, MAX_RECORD)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        read.unwrap_or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!(error = %e, file = %path.display(), "skipping the damaged record of a mirror");
            }
            LaidOut::default()
        })
    }

    fn write_record(&self, model: &ModelRef, record: &LaidOut) -> Result<(), StoreError> {
        let path = self.store.parts.files.paths.laid_out(model);
        serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|bytes| fsutil::write_atomic(&path, &bytes, fsutil::MODE_PRIVATE))
            .map_err(|e| StoreError::io(&path, e))
    }
}

/// Whether `to` is a regular file with the bytes of `from`.
fn is_same(from: &Path, to: &Path) -> io::Result<bool> {
    match nofollow::metadata(to) {
        Ok(meta) => Ok(meta.is_file() && same_bytes(from, to)?.is_some()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Copies files from below `tree` into a directory that is on another file system, so that they can be renamed there, and
/// replaces their paths by the paths of the copies. On the same file system they stay. Copies of an earlier call are
/// removed, and on an error all copies.
fn copy_near<'a>(files: impl Iterator<Item = &'a mut PathBuf>, tree: &Path, dest: &Path) -> io::Result<()> {
    nofollow::remove_temporary(dest)?;
    // Device numbers do not show it, because a bind mount has the device number of its source.
    let name = format!("{}probe", fsutil::TEMP_PREFIX);
    let (probe, there) = (tree.join(&name), dest.join(&name));
    nofollow::create_new(&probe)?;
    match nofollow::rename(&probe, &there) {
        Ok(()) => return nofollow::remove_if_there(&there).map(drop),
        Err(e) => {
            nofollow::remove_if_there(&probe)?;
            if !crosses_devices(&e) {
                return Err(e);
            }
        }
    }
    for (at, file) in files.enumerate() {
        let copy = dest.join(format!("{}{at}", fsutil::TEMP_PREFIX));
        if let Err(e) = duplicate(file, &copy, ExtentSharing::Extents) {
            nofollow::remove_temporary(dest)?;
            return Err(e);
        }
        *file = copy;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{arrive, home, manifest};
    use std::fs;

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// Lays out files with these bytes.
    fn lay_out(
        store: &Store,
        tree: &Path,
        model: &ModelRef,
        files: &[(&str, &str)],
    ) -> Result<(), StoreError> {
        for (path, text) in files {
            put(&tree.join(path), text);
        }
        let paths: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
        let done = store.partial_mirrors().lay_out(tree, model, &paths);
        let _ = fs::remove_dir_all(tree);
        done
    }

    #[test]
    fn laid_out_files_are_replaced_and_edited_ones_stay() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m@v1.0".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join(model.to_string()));
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1"), ("c/d", "1"), ("e", "1")]).unwrap();
        // A file that changes, an edited file that is gone, a file for a directory and a directory for a file.
        put(&dest.join("b"), "mine");
        let next = [("a", "2"), ("c", "2"), ("e/f", "2")];
        lay_out(&store, &tree, &model, &next).unwrap();
        for (path, text) in next.into_iter().chain([("b", "mine")]) {
            assert_eq!(read(&dest.join(path)), text, "{path}");
        }
        put(&dest.join("a"), "mine");
        let error = lay_out(&store, &tree, &model, &[("a", "3"), ("c", "3")]).unwrap_err();
        assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("a")), "{error}");
        assert_eq!((read(&dest.join("a")), read(&dest.join("c"))), ("mine".into(), "2".into()));
        // A file does not replace a directory with a file of the user.
        put(&dest.join("e/mine"), "mine");
        lay_out(&store, &tree, &model, &[("e", "3")]).unwrap_err();
        assert_eq!(read(&dest.join("e/f")), "2");

        assert_eq!(store.partial_mirrors().all_files().len(), 2);
        assert_eq!(store.partial_mirrors().bytes(&model), Some(2));
        assert!(store.partial_mirrors().clear(&model).unwrap());
        assert!(!dest.join("c").exists() && !dest.join("e/f").exists());
        assert_eq!((read(&dest.join("a")), read(&dest.join("e/mine"))), ("mine".into(), "mine".into()));
        assert!(!store.partial_mirrors().clear(&model).unwrap());
        assert!(store.partial_mirrors().all_files().is_empty() && !home.paths.laid_out_records().exists());
        // No directory is made for an unknown model.
        assert!(!store.partial_mirrors().clear(&"p/q".parse().unwrap()).unwrap());
        assert!(!home.paths.models.join("p").exists());
    }

    #[test]
    fn interrupted_replacement_is_completed_later() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1")]).unwrap();
        // The process ends in the middle: recorded, and one of two moved.
        let dir = fs::canonicalize(&dest).unwrap();
        let mut record = store.partial_mirrors().read_record(&model);
        for path in ["a", "b"] {
            put(&tree.join(path), "2");
            let stamp = Stamp::at(&tree.join(path)).unwrap();
            record.files.get_mut(path).unwrap().push(stamp);
        }
        store.partial_mirrors().write_record(&model, &record).unwrap();
        fs::rename(tree.join("a"), dest.join("a")).unwrap();
        assert_eq!(store.partial_mirrors().files(&model, &dir).len(), 2);
        lay_out(&store, &tree, &model, &[("a", "3"), ("b", "2")]).unwrap();
        assert_eq!((read(&dest.join("a")), read(&dest.join("b"))), ("3".into(), "2".into()));
    }

    #[test]
    fn model_replaces_laid_out_files_and_directories() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        lay_out(&store, &tree, &model, &[("a", "1"), ("b/c", "1")]).unwrap();
        let revision = store.revision(manifest("o/m", &[("a/d", b"2"), ("b", b"3")])).unwrap();
        for (content, bytes) in revision.contents.iter().zip([b"2", b"3"]) {
            arrive(content, bytes, 0..1);
        }
        put(&dest.join("b/c"), "mine");
        store.staging().publish(&revision, &[0, 1], &dest).unwrap_err();
        assert_eq!(read(&dest.join("b/c")), "mine");
        fs::remove_file(dest.join("b/c")).unwrap();
        store.staging().publish(&revision, &[0, 1], &dest).unwrap();
        assert_eq!((read(&dest.join("a/d")), read(&dest.join("b"))), ("2".into(), "3".into()));
    }

    #[test]
    fn damaged_record_blocks_no_operation() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1")]).unwrap();
        fs::write(home.paths.laid_out(&model), "{").unwrap();
        assert_eq!(store.partial_mirrors().bytes(&model), Some(0));
        let present = manifest("o/m", &[("c", b"1")]);
        let revision = store.revision(present).unwrap();
        arrive(&revision.contents[0], b"1", 0..1);
        store.staging().publish(&revision, &[0], &dest).unwrap();
        // The owner of the file is not known.
        lay_out(&store, &tree, &model, &[("a", "2")]).unwrap_err();
        lay_out(&store, &tree, &model, &[("a", "1"), ("d", "1")]).unwrap();
        fs::write(home.paths.laid_out(&model), "{").unwrap();
        assert!(store.partial_mirrors().clear(&model).unwrap());
        assert!(!home.paths.laid_out(&model).exists());
        assert_eq!((read(&dest.join("a")), read(&dest.join("d"))), ("1".into(), "1".into()));
    }

    #[test]
    fn models_behind_a_link_are_laid_out() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let linked = home.dir.path().join("linked");
        fs::create_dir(&linked).unwrap();
        std::os::unix::fs::symlink(&linked, home.paths.models.join("o")).unwrap();
        let tree = linked.join(".tree");
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1")]).unwrap();
        lay_out(&store, &tree, &model, &[("a", "2")]).unwrap();
        assert_eq!(read(&linked.join("m/a")), "2");
        assert_eq!(store.partial_mirrors().bytes(&model), Some(1));
        assert!(store.partial_mirrors().clear(&model).unwrap());
        assert!(!linked.join("m").exists(), "it is still there");
        assert!(home.paths.models.join("o").exists(), "the link is the user's");
    }

    #[test]
    fn files_are_laid_out_on_another_file_system() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        fs::create_dir_all(home.paths.models.join("o")).unwrap();
        std::os::unix::fs::symlink(other.path(), &dest).unwrap();
        lay_out(&store, &tree, &model, &[("a", "1"), ("b/c", "1")]).unwrap();
        lay_out(&store, &tree, &model, &[("a", "2"), ("b", "2")]).unwrap();
        assert_eq!((read(&dest.join("a")), read(&dest.join("b"))), ("2".into(), "2".into()));
        assert_eq!(store.partial_mirrors().bytes(&model), Some(2));
        assert!(store.partial_mirrors().clear(&model).unwrap());
        assert_eq!(fs::read_dir(&dest).unwrap().count(), 0, "files are left");
    }
}
