//! Files that stand in a model directory without being a model: a mirror that left its large files out.
//!
//! `resume/laid-out/<model>.json` has what was put there, with its stamps: what still looks so is ours, and gives way to
//! what comes next; what does not was edited, and is its editor's. A file that is recorded as a model's is that model's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::copy::same_bytes;
use super::publish::{put_where_nothing_is, refuse_links};
use super::staging::resolve;
use super::{Stamp, Store, StoreError, registry};
use crate::fsutil;
use crate::model::ModelRef;

/// Longest record read; 100 000 files of long paths fit.
const MAX_RECORD: u64 = 64 << 20;

/// What was laid out in one directory: paths relative to it, and how the files looked. Two stamps while one file is about to
/// take the place of another.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LaidOut {
    files: BTreeMap<String, Vec<Stamp>>,
}

impl Store {
    /// Moves files from below `tree` to the same paths below `dest`, on the same file system, in place of those that this
    /// has put there before and nobody has edited. Where a file stands with the same bytes, that stays. Refuses, moving
    /// nothing, where something else stands in the way.
    pub fn lay_out(&self, tree: &Path, dest: &Path, paths: &[&str]) -> Result<(), StoreError> {
        let _moving = self.moving();
        let dest = resolve(dest)?;
        let ours = self.laid_out(&dest)?;
        let comes: HashSet<PathBuf> = paths.iter().map(|path| dest.join(path)).collect();
        let goes: BTreeSet<PathBuf> = ours.keys().filter(|path| !comes.contains(*path)).cloned().collect();
        let before = self.read_laid_out(&dest)?;
        let (mut after, mut steps) = (LaidOut::default(), Vec::new());
        for &path in paths {
            let (from, to) = (tree.join(path), dest.join(path));
            refuse_links(&dest, &to)?;
            let stamp = |of: &Path| Stamp::read(of).map_err(|e| StoreError::io(of, e));
            if stands(&from, &to).map_err(|e| StoreError::io(&to, e))? {
                if before.files.contains_key(path) {
                    after.files.insert(path.to_owned(), vec![stamp(&to)?]);
                }
                continue;
            }
            let replaces = ours.contains_key(&to);
            if !replaces && !gives_way(&dest, &to, &goes).map_err(|e| StoreError::io(&to, e))? {
                return Err(StoreError::Occupied { path: to });
            }
            after.files.insert(path.to_owned(), vec![stamp(&from)?]);
            steps.push((from, to, replaces));
        }
        // Recorded before anything moves; a rename keeps size, time and inode.
        let mut meanwhile = after.files.clone();
        for (path, stamps) in before.files {
            meanwhile.entry(path).or_default().extend(stamps);
        }
        self.write_laid_out(&dest, &LaidOut { files: meanwhile })?;
        remove(&goes, &dest)?;
        let mut dirs = BTreeSet::new();
        for (from, to, replaces) in steps {
            let parent = fsutil::parent(&to);
            fs::create_dir_all(parent).map_err(|e| StoreError::io(parent, e))?;
            let put = if replaces { fs::rename(&from, &to) } else { put_where_nothing_is(&from, &to) };
            match put {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::Occupied { path: to });
                }
                other => other.map_err(|e| StoreError::io(&to, e))?,
            }
            dirs.extend(parent.ancestors().take_while(|dir| dir.starts_with(&dest)).map(Path::to_owned));
        }
        for dir in dirs.iter().rev() {
            fsutil::sync_dir(dir).map_err(|e| StoreError::io(dir, e))?;
        }
        self.write_laid_out(&dest, &after)
    }

    /// Removes what was laid out for a model in its directory, as far as it is no model's now and nobody has edited it, and
    /// forgets it. Tells whether anything had been laid out.
    pub fn clear_laid_out(&self, model: &ModelRef) -> Result<bool, StoreError> {
        let _moving = self.moving();
        let Some((models, dest, record)) = self.laid_out_for(model) else { return Ok(false) };
        remove(&self.laid_out(&dest)?.into_keys().collect(), &dest)?;
        fsutil::remove_if_there(&record).map_err(|e| StoreError::io(&record, e))?;
        registry::remove_empty_parents(&record, fsutil::parent(&self.laid_out_records()));
        registry::remove_empty_parents(&dest.join("file"), &models);
        Ok(true)
    }

    /// Bytes of what [`Store::clear_laid_out`] would remove; none where nothing was laid out for the model.
    pub fn laid_out_bytes(&self, model: &ModelRef) -> Result<Option<u64>, StoreError> {
        let Some((_, dest, _)) = self.laid_out_for(model) else { return Ok(None) };
        Ok(Some(self.laid_out(&dest)?.values().map(|stamp| stamp.size).sum()))
    }

    /// The models directory, the one in it where something was laid out for a model, and its record.
    fn laid_out_for(&self, model: &ModelRef) -> Option<(PathBuf, PathBuf, PathBuf)> {
        let models = fs::canonicalize(&self.shared.paths.models).ok()?;
        let dest = models.join(model.to_string());
        let record = self.laid_out_record(&dest).filter(|record| record.exists())?;
        Some((models, dest, record))
    }

    /// The files laid out in a resolved directory that look as they did then and are no model's.
    pub(super) fn laid_out(&self, dest: &Path) -> Result<HashMap<PathBuf, Stamp>, StoreError> {
        let record = self.read_laid_out(dest)?;
        if record.files.is_empty() {
            return Ok(HashMap::new());
        }
        let models = self.shared.placements.placed_below(dest);
        let files = record.files.into_iter().filter_map(|(path, stamps)| {
            let path = dest.join(path);
            refuse_links(dest, &path).ok()?;
            let now = fs::symlink_metadata(&path).ok().filter(|meta| meta.is_file())?;
            let now = Stamp::of(&now);
            (stamps.contains(&now) && !models.contains(&path)).then_some((path, now))
        });
        Ok(files.collect())
    }

    /// All files that [`Store::laid_out`] tells of, in all directories. A record that cannot be used is skipped and said.
    pub(super) fn all_laid_out(&self) -> Vec<PathBuf> {
        let records = self.laid_out_records();
        let mut found = Vec::new();
        let listed = registry::collect(&records, 3, &mut found);
        let (Ok(models), Ok(())) = (fs::canonicalize(&self.shared.paths.models), listed) else {
            return Vec::new();
        };
        let files = found.iter().flat_map(|record| {
            let model = record.strip_prefix(&records).unwrap_or(record).with_extension("");
            self.laid_out(&models.join(model)).unwrap_or_else(|e| {
                tracing::warn!("Skipping the record of a mirror without its large files: {e}.");
                HashMap::new()
            })
        });
        files.map(|(path, _)| path).collect()
    }

    fn laid_out_records(&self) -> PathBuf {
        self.shared.paths.base.join("resume").join("laid-out")
    }

    /// Where what was laid out in a resolved directory is recorded; none for one that is not below the models directory.
    fn laid_out_record(&self, dest: &Path) -> Option<PathBuf> {
        let models = fs::canonicalize(&self.shared.paths.models).ok()?;
        let mut name = dest.strip_prefix(models).ok()?.to_owned().into_os_string();
        if name.is_empty() {
            return None;
        }
        name.push(".json");
        Some(self.laid_out_records().join(name))
    }

    fn read_laid_out(&self, dest: &Path) -> Result<LaidOut, StoreError> {
        let Some(path) = self.laid_out_record(dest) else { return Ok(LaidOut::default()) };
        match fsutil::read_capped(&path, MAX_RECORD) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| StoreError::Damaged { path, reason: e.to_string() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(LaidOut::default()),
            Err(e) => Err(StoreError::io(&path, e)),
        }
    }

    fn write_laid_out(&self, dest: &Path, record: &LaidOut) -> Result<(), StoreError> {
        let Some(path) = self.laid_out_record(dest) else { return Ok(()) };
        serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|bytes| fsutil::write_atomic(&path, &bytes, fsutil::MODE_PRIVATE))
            .map_err(|e| StoreError::io(&path, e))
    }
}

/// Whether a regular file stands at `to` with the bytes of `from`.
fn stands(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(to) {
        Ok(meta) => Ok(meta.is_file() && same_bytes(from, to)?),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether nothing is in the way of a new file at `to` once the files `goes` are gone.
fn gives_way(dest: &Path, to: &Path, goes: &BTreeSet<PathBuf>) -> io::Result<bool> {
    match fs::symlink_metadata(to) {
        Ok(meta) => Ok(meta.is_dir() && holds_only(to, goes)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        // A file where a directory is to be.
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            Ok(to.ancestors().skip(1).take_while(|dir| *dir != dest).any(|dir| goes.contains(dir)))
        }
        Err(e) => Err(e),
    }
}

/// Whether a directory goes with these files.
fn holds_only(dir: &Path, goes: &BTreeSet<PathBuf>) -> io::Result<bool> {
    let mut empty = true;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let gone = if entry.file_type()?.is_dir() { holds_only(&path, goes)? } else { goes.contains(&path) };
        if !gone {
            return Ok(false);
        }
        empty = false;
    }
    Ok(!empty)
}

/// Removes files below a directory, and the directories that are empty then.
fn remove(files: &BTreeSet<PathBuf>, dir: &Path) -> Result<(), StoreError> {
    for path in files {
        fsutil::remove_if_there(path).map_err(|e| StoreError::io(path, e))?;
        registry::remove_empty_parents(path, dir);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::home;

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// Lays out files that come with these bytes.
    fn lay_out(store: &Store, tree: &Path, dest: &Path, files: &[(&str, &str)]) -> Result<(), StoreError> {
        for (path, text) in files {
            put(&tree.join(path), text);
        }
        let paths: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
        let done = store.lay_out(tree, dest, &paths);
        let _ = fs::remove_dir_all(tree);
        done
    }

    #[test]
    fn what_was_laid_out_gives_way_and_what_was_edited_stays() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let model: ModelRef = "o/m@v1.0".parse().unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join(model.to_string()));
        lay_out(&store, &tree, &dest, &[("a", "1"), ("b", "1"), ("c/d", "1"), ("e", "1")]).unwrap();
        // Changed, edited by somebody and gone, a file for a directory and the other way round.
        put(&dest.join("b"), "mine");
        let next = [("a", "2"), ("c", "2"), ("e/f", "2")];
        lay_out(&store, &tree, &dest, &next).unwrap();
        for (path, text) in next.into_iter().chain([("b", "mine")]) {
            assert_eq!(read(&dest.join(path)), text, "{path}");
        }
        put(&dest.join("a"), "mine");
        let error = lay_out(&store, &tree, &dest, &[("a", "3"), ("c", "3")]).unwrap_err();
        assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("a")), "{error}");
        assert_eq!((read(&dest.join("a")), read(&dest.join("c"))), ("mine".into(), "2".into()));
        // A directory with a file of somebody's is no place for a file.
        put(&dest.join("e/mine"), "mine");
        lay_out(&store, &tree, &dest, &[("e", "3")]).unwrap_err();
        assert_eq!(read(&dest.join("e/f")), "2");

        assert_eq!(store.all_laid_out().len(), 2);
        assert_eq!(store.laid_out_bytes(&model).unwrap(), Some(2));
        assert!(store.clear_laid_out(&model).unwrap());
        assert!(!dest.join("c").exists() && !dest.join("e/f").exists());
        assert_eq!((read(&dest.join("a")), read(&dest.join("e/mine"))), ("mine".into(), "mine".into()));
        assert!(!store.clear_laid_out(&model).unwrap());
        assert!(store.all_laid_out().is_empty() && !store.laid_out_records().exists());
        // Nothing is made where nothing is known.
        assert!(!store.clear_laid_out(&"p/q".parse().unwrap()).unwrap());
        assert!(!home.paths.models.join("p").exists());
    }

    #[test]
    fn files_laid_out_half_are_still_ours() {
        let home = home();
        let store = Store::open(&home.paths).unwrap();
        let (tree, dest) = (home.paths.models.join("o/.tree"), home.paths.models.join("o/m"));
        lay_out(&store, &tree, &dest, &[("a", "1"), ("b", "1")]).unwrap();
        // It ends in the middle: recorded, and one of two moved.
        let dir = fs::canonicalize(&dest).unwrap();
        let mut record = store.read_laid_out(&dir).unwrap();
        for path in ["a", "b"] {
            put(&tree.join(path), "2");
            let stamp = Stamp::read(&tree.join(path)).unwrap();
            record.files.get_mut(path).unwrap().push(stamp);
        }
        store.write_laid_out(&dir, &record).unwrap();
        fs::rename(tree.join("a"), dest.join("a")).unwrap();
        assert_eq!(store.laid_out(&dir).unwrap().len(), 2);
        lay_out(&store, &tree, &dest, &[("a", "3"), ("b", "2")]).unwrap();
        assert_eq!((read(&dest.join("a")), read(&dest.join("b"))), ("3".into(), "2".into()));
    }
}
