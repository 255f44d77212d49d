//! Files that stand in a model directory without being a model: a mirror that left its large files out.
//!
//! `resume/laid-out/<model>.json` has what was put there, with its stamps: what still looks so is ours, and gives way
//! to what comes next; what does not was edited, and is its editor's. A file that is recorded as a model's is that
//! model's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::copy::{Sharing, crosses_devices, duplicate, same_bytes};
use super::publish::refuse_links;
use super::yielding::Yielding;
use super::{Stamp, Store, StoreError, registry};
use crate::model::ModelRef;
use crate::{fsutil, nofollow};

/// Longest record read; 100 000 files of long paths fit.
const MAX_RECORD: u64 = 64 << 20;

/// What was laid out in one directory: paths relative to it, and how the files looked. Two stamps while one file is
/// about to take the place of another.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LaidOut {
    files: BTreeMap<String, Vec<Stamp>>,
}

impl Store {
    /// Moves files from below `tree` to the same paths in the model's directory, in place of those that this has put
    /// there before and nobody has edited. Where a file stands with the same bytes, that stays. Refuses, moving
    /// nothing, where something else stands in the way.
    pub fn lay_out(&self, tree: &Path, model: &ModelRef, paths: &[&str]) -> Result<(), StoreError> {
        let _moving = self.moving();
        let dest = self.resolve(&self.dir_of(model))?;
        let tree = self.resolve(tree)?;
        let tree = tree.as_path();
        let before = self.read_laid_out(model);
        let ours = self.still_laid_out(&before, &dest);
        let comes: HashSet<PathBuf> = paths.iter().map(|path| dest.join(path)).collect();
        let goes = ours.iter().filter(|(path, _)| !comes.contains(*path));
        let goes = Yielding::new(&dest, goes.map(|(path, stamp)| (path.clone(), *stamp)));
        let (mut after, mut steps) = (LaidOut::default(), Vec::new());
        let stamp = |of: &Path| Stamp::at(of).map_err(|e| StoreError::io(of, e));
        for &path in paths {
            let (from, to) = (tree.join(path), dest.join(path));
            refuse_links(&dest, &to)?;
            if stands(&from, &to).map_err(|e| StoreError::io(&to, e))? {
                if before.files.contains_key(path) {
                    after.files.insert(path.to_owned(), vec![stamp(&to)?]);
                }
                continue;
            }
            let replaces = ours.contains_key(&to);
            if !replaces && !goes.gives_way(&to).map_err(|e| StoreError::io(&to, e))? {
                return Err(StoreError::Occupied { path: to });
            }
            steps.push((path, from, to, replaces));
        }
        if !steps.is_empty() {
            let files = steps.iter_mut().map(|(_, from, ..)| from);
            let brought = nofollow::create_dir_all(&dest).and_then(|()| bring(files, tree, &dest));
            brought.map_err(|e| StoreError::io(&dest, e))?;
        }
        for (path, from, ..) in &steps {
            after.files.insert((*path).to_owned(), vec![stamp(from)?]);
        }
        // Recorded before anything moves; a rename keeps size, time and inode.
        let mut meanwhile = after.files.clone();
        for (path, stamps) in before.files {
            meanwhile.entry(path).or_default().extend(stamps);
        }
        self.write_laid_out(model, &LaidOut { files: meanwhile })?;
        remove(goes.paths(), &dest)?;
        let mut dirs = BTreeSet::new();
        for (_, from, to, replaces) in steps {
            let parent = fsutil::parent(&to);
            let put = || match replaces {
                true => nofollow::rename(&from, &to),
                false => nofollow::rename_new(&from, &to),
            };
            match goes.make_way(&to).and_then(|()| nofollow::create_dir_all(parent)).and_then(|()| put()) {
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
        self.write_laid_out(model, &after)
    }

    /// Removes what was laid out for a model in its directory, as far as it is no model's now and nobody has edited it,
    /// and forgets it. Tells whether anything had been laid out.
    pub fn clear_laid_out(&self, model: &ModelRef) -> Result<bool, StoreError> {
        let _moving = self.moving();
        let record = self.shared.paths.laid_out(model);
        if !record.exists() {
            return Ok(false);
        }
        let dest = self.dir_of(model);
        if let Ok(resolved) = self.resolve(&dest) {
            remove(self.laid_out(model, &resolved).keys(), &resolved)?;
        }
        fsutil::remove_if_there(&record).map_err(|e| StoreError::io(&record, e))?;
        registry::remove_empty_parents(&record, fsutil::parent(&self.shared.paths.laid_out_records()));
        // A directory behind a link is the user's.
        let is_link = dest.symlink_metadata().is_ok_and(|found| found.is_symlink());
        if let Some(dest) = self.resolve(&dest).ok().filter(|_| !is_link) {
            let _ = nofollow::remove_dir(&dest);
            nofollow::remove_empty_parents(&dest, &self.shared.paths.models);
        }
        Ok(true)
    }

    /// Bytes of what [`Store::clear_laid_out`] would remove; none where nothing was laid out for the model.
    pub fn laid_out_bytes(&self, model: &ModelRef) -> Option<u64> {
        self.shared.paths.laid_out(model).exists().then(|| {
            let dest = self.resolve(&self.dir_of(model));
            dest.map_or(0, |dest| self.laid_out(model, &dest).values().map(|stamp| stamp.size).sum())
        })
    }

    /// A model's own directory.
    fn dir_of(&self, model: &ModelRef) -> PathBuf {
        self.shared.paths.models.join(model.to_string())
    }

    /// Whether a directory is the one that a model has below the models directory.
    pub fn is_own(&self, model: &ModelRef, dir: &Path) -> bool {
        self.resolve(&self.dir_of(model)).is_ok_and(|own| self.resolve(dir).is_ok_and(|dir| dir == own))
    }

    /// The files laid out for a model that look as they did then and are no model's; none where `dest`, resolved, is
    /// not the model's own directory.
    pub(super) fn laid_out(&self, model: &ModelRef, dest: &Path) -> HashMap<PathBuf, Stamp> {
        match self.is_own(model, dest) {
            true => self.still_laid_out(&self.read_laid_out(model), dest),
            false => HashMap::new(),
        }
    }

    fn still_laid_out(&self, record: &LaidOut, dest: &Path) -> HashMap<PathBuf, Stamp> {
        if record.files.is_empty() {
            return HashMap::new();
        }
        let models = self.shared.placements.placed_below(dest);
        let files = record.files.iter().filter_map(|(path, stamps)| {
            let path = dest.join(path);
            refuse_links(dest, &path).ok()?;
            let now = nofollow::metadata(&path).ok().filter(|meta| meta.is_file())?;
            let now = Stamp::of(&now);
            (stamps.contains(&now) && !models.contains(&path)).then_some((path, now))
        });
        files.collect()
    }

    /// All files that [`Store::laid_out`] tells of, of all models.
    pub(super) fn all_laid_out(&self) -> Vec<PathBuf> {
        let records = self.shared.paths.laid_out_records();
        let mut found = Vec::new();
        if let Err(e) = registry::collect(&records, 3, &mut found) {
            tracing::warn!("Skipping what mirrors without their large files have left: {e}.");
        }
        let models = found.iter().filter_map(|record| {
            let name = record.strip_prefix(&records).ok()?.to_str()?.strip_suffix(".json")?;
            name.parse::<ModelRef>().ok()
        });
        let files = models.filter_map(|model| {
            let dest = self.resolve(&self.dir_of(&model)).ok()?;
            Some(self.laid_out(&model, &dest).into_keys())
        });
        files.flatten().collect()
    }

    /// What was laid out for a model. A record that cannot be used is skipped and said: what it told of is its user's
    /// then.
    fn read_laid_out(&self, model: &ModelRef) -> LaidOut {
        let path = self.shared.paths.laid_out(model);
        let read = fsutil::read_capped(&path, MAX_RECORD)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        read.unwrap_or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!("Skipping the damaged record {} of a mirror: {e}.", path.display());
            }
            LaidOut::default()
        })
    }

    fn write_laid_out(&self, model: &ModelRef, record: &LaidOut) -> Result<(), StoreError> {
        let path = self.shared.paths.laid_out(model);
        serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|bytes| fsutil::write_atomic(&path, &bytes, fsutil::MODE_PRIVATE))
            .map_err(|e| StoreError::io(&path, e))
    }
}

/// Whether a regular file stands at `to` with the bytes of `from`.
fn stands(from: &Path, to: &Path) -> io::Result<bool> {
    match nofollow::metadata(to) {
        Ok(meta) => Ok(meta.is_file() && same_bytes(from, to)?.is_some()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Copies files from below `tree` into a directory that is on another file system, so that they can be renamed there,
/// and tells where they are then; on the same one they stay. What an earlier call has left there goes, and on an error
/// all.
fn bring<'a>(files: impl Iterator<Item = &'a mut PathBuf>, tree: &Path, dest: &Path) -> io::Result<()> {
    nofollow::remove_temporary(dest)?;
    // Nothing else tells: a bind mount has the device number of its source.
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
        if let Err(e) = duplicate(file, &copy, Sharing::Extents) {
            nofollow::remove_temporary(dest)?;
            return Err(e);
        }
        *file = copy;
    }
    Ok(())
}

/// Removes files below a directory, and the directories that are empty then.
fn remove<'a>(files: impl Iterator<Item = &'a PathBuf>, dir: &Path) -> Result<(), StoreError> {
    for path in files {
        nofollow::remove_if_there(path).map_err(|e| StoreError::io(path, e))?;
        nofollow::remove_empty_parents(path, dir);
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

    /// Lays out files that come with these bytes.
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
        let done = store.lay_out(tree, model, &paths);
        let _ = fs::remove_dir_all(tree);
        done
    }

    #[test]
    fn what_was_laid_out_gives_way_and_what_was_edited_stays() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m@v1.0".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join(model.to_string()));
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1"), ("c/d", "1"), ("e", "1")]).unwrap();
        // Changed, edited by somebody and gone, a file for a directory and the other way round.
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
        // A directory with a file of somebody's is no place for a file.
        put(&dest.join("e/mine"), "mine");
        lay_out(&store, &tree, &model, &[("e", "3")]).unwrap_err();
        assert_eq!(read(&dest.join("e/f")), "2");

        assert_eq!(store.all_laid_out().len(), 2);
        assert_eq!(store.laid_out_bytes(&model), Some(2));
        assert!(store.clear_laid_out(&model).unwrap());
        assert!(!dest.join("c").exists() && !dest.join("e/f").exists());
        assert_eq!((read(&dest.join("a")), read(&dest.join("e/mine"))), ("mine".into(), "mine".into()));
        assert!(!store.clear_laid_out(&model).unwrap());
        assert!(store.all_laid_out().is_empty() && !home.paths.laid_out_records().exists());
        // Nothing is made where nothing is known.
        assert!(!store.clear_laid_out(&"p/q".parse().unwrap()).unwrap());
        assert!(!home.paths.models.join("p").exists());
    }

    #[test]
    fn files_laid_out_half_are_still_ours() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1")]).unwrap();
        // It ends in the middle: recorded, and one of two moved.
        let dir = fs::canonicalize(&dest).unwrap();
        let mut record = store.read_laid_out(&model);
        for path in ["a", "b"] {
            put(&tree.join(path), "2");
            let stamp = Stamp::at(&tree.join(path)).unwrap();
            record.files.get_mut(path).unwrap().push(stamp);
        }
        store.write_laid_out(&model, &record).unwrap();
        fs::rename(tree.join("a"), dest.join("a")).unwrap();
        assert_eq!(store.laid_out(&model, &dir).len(), 2);
        lay_out(&store, &tree, &model, &[("a", "3"), ("b", "2")]).unwrap();
        assert_eq!((read(&dest.join("a")), read(&dest.join("b"))), ("3".into(), "2".into()));
    }

    #[test]
    fn a_model_takes_the_place_of_files_and_directories_that_were_laid_out() {
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
        store.publish(&revision, &[0, 1], &dest).unwrap_err();
        assert_eq!(read(&dest.join("b/c")), "mine");
        fs::remove_file(dest.join("b/c")).unwrap();
        store.publish(&revision, &[0, 1], &dest).unwrap();
        assert_eq!((read(&dest.join("a/d")), read(&dest.join("b"))), ("2".into(), "3".into()));
    }

    #[test]
    fn a_damaged_record_is_in_nobodys_way() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1")]).unwrap();
        fs::write(home.paths.laid_out(&model), "{").unwrap();
        assert_eq!(store.laid_out_bytes(&model), Some(0));
        let present = manifest("o/m", &[("c", b"1")]);
        let revision = store.revision(present).unwrap();
        arrive(&revision.contents[0], b"1", 0..1);
        store.publish(&revision, &[0], &dest).unwrap();
        // What stands there is nobody's that we know.
        lay_out(&store, &tree, &model, &[("a", "2")]).unwrap_err();
        lay_out(&store, &tree, &model, &[("a", "1"), ("d", "1")]).unwrap();
        fs::write(home.paths.laid_out(&model), "{").unwrap();
        assert!(store.clear_laid_out(&model).unwrap());
        assert!(!home.paths.laid_out(&model).exists());
        assert_eq!((read(&dest.join("a")), read(&dest.join("d"))), ("1".into(), "1".into()));
    }

    #[test]
    fn models_that_are_kept_elsewhere_behind_a_link_are_laid_out_like_others() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let elsewhere = home.dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, home.paths.models.join("o")).unwrap();
        let tree = elsewhere.join(".tree");
        lay_out(&store, &tree, &model, &[("a", "1"), ("b", "1")]).unwrap();
        lay_out(&store, &tree, &model, &[("a", "2")]).unwrap();
        assert_eq!(read(&elsewhere.join("m/a")), "2");
        assert_eq!(store.laid_out_bytes(&model), Some(1));
        assert!(store.clear_laid_out(&model).unwrap());
        assert!(!elsewhere.join("m").exists(), "it is still there");
        assert!(home.paths.models.join("o").exists(), "the link is the user's");
    }

    #[test]
    fn files_are_laid_out_where_the_models_directory_is_on_another_file_system() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m".parse().unwrap();
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        fs::create_dir_all(home.paths.models.join("o")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &dest).unwrap();
        lay_out(&store, &tree, &model, &[("a", "1"), ("b/c", "1")]).unwrap();
        lay_out(&store, &tree, &model, &[("a", "2"), ("b", "2")]).unwrap();
        assert_eq!((read(&dest.join("a")), read(&dest.join("b"))), ("2".into(), "2".into()));
        assert_eq!(store.laid_out_bytes(&model), Some(2));
        assert!(store.clear_laid_out(&model).unwrap());
        assert_eq!(fs::read_dir(&dest).unwrap().count(), 0, "something is left");
    }
}
