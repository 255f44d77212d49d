//! The manifests this node holds: `registry/[datasets/]org/name/revision.json`.
//!
//! A file counts only at the path of its own name and revision; other files below `registry/` are ignored. All manifests are
//! in memory; files are read by `open` and `reload` only.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use rayon::prelude::*;

use super::StoreError;
use crate::fsutil::{self, FileVersion};
use crate::model::{Manifest, ModelRef};
use crate::nofollow;
use crate::paths::{Paths, manifest_below};

/// Longest manifest file read, in bytes: 16 MiB of compact JSON, and room for indentation.
const MAX_FILE: u64 = 64 << 20;

type Manifests = BTreeMap<ModelRef, Registered>;

/// One manifest in memory.
#[derive(Clone)]
struct Registered {
    manifest: Arc<Manifest>,
    /// The version of the file that was read. None if the file has to be read again by the next `reload`.
    version: Option<FileVersion>,
    /// Whether it is only in memory, because the disk was full.
    unsaved: bool,
}

impl Registered {
    fn written(manifest: Arc<Manifest>) -> Self {
        Self { manifest, version: None, unsaved: false }
    }
}

/// All known manifests, by model and revision. A damaged file is logged and skipped.
pub struct Registry {
    root: PathBuf,
    manifests: RwLock<Manifests>,
    generation: AtomicU64,
    /// Held while files and memory are changed together; taken before `manifests`.
    writing: Mutex<()>,
}

impl Registry {
    /// Reads `registry/`.
    pub fn open(paths: &Paths) -> Result<Self, StoreError> {
        Self::open_at(paths.registry())
    }

    /// Reads manifests below another directory.
    pub(super) fn open_at(root: PathBuf) -> Result<Self, StoreError> {
        let manifests = scan(&root, &BTreeMap::new())?;
        Ok(Self {
            root,
            manifests: RwLock::new(manifests),
            generation: AtomicU64::new(0),
            writing: Mutex::new(()),
        })
    }

    /// Stores a checked manifest atomically, replacing the one of the same revision.
    pub fn insert(&self, manifest: Manifest) -> Result<Arc<Manifest>, StoreError> {
        let _writing = self.writing.lock();
        let model = manifest.model_ref();
        let path = manifest_below(&self.root, &model);
        write_manifest(&manifest, &path)?;
        let manifest = Arc::new(manifest);
        self.replace(|all| {
            all.insert(model, Registered::written(manifest.clone()));
        });
        Ok(manifest)
    }

    /// Stores a checked manifest that is only read: if the disk is full or read-only, the manifest is in memory alone, and in
    /// [`unsaved`](Self::unsaved).
    pub fn insert_to_read(&self, manifest: Manifest) -> Result<Arc<Manifest>, StoreError> {
        match self.insert(manifest.clone()) {
            Err(error) if error.is_full_or_read_only() => {
                let manifest = Arc::new(manifest);
                let registered = Registered { unsaved: true, ..Registered::written(manifest.clone()) };
                self.replace(|all| {
                    all.insert(manifest.model_ref(), registered);
                });
                Ok(manifest)
            }
            stored => stored,
        }
    }

    /// The manifests that are only in memory, because the disk was full. [`insert`](Self::insert) saves them.
    pub fn unsaved(&self) -> Vec<Arc<Manifest>> {
        self.manifests.read().values().filter(|one| one.unsaved).map(|one| one.manifest.clone()).collect()
    }

    /// Replaces a known manifest by the result of `change`, if there is one. Returns whether the manifest was replaced.
    pub fn revise(
        &self,
        model: &ModelRef,
        change: impl FnOnce(&Manifest) -> Option<Manifest>,
    ) -> Result<bool, StoreError> {
        let _writing = self.writing.lock();
        let Some(manifest) = self.get(model).and_then(|known| change(&known)) else { return Ok(false) };
        write_manifest(&manifest, &manifest_below(&self.root, model))?;
        self.replace(|all| {
            all.insert(model.clone(), Registered::written(Arc::new(manifest)));
        });
        Ok(true)
    }

    /// The manifest of a revision.
    pub fn get(&self, model: &ModelRef) -> Option<Arc<Manifest>> {
        self.manifests.read().get(model).map(|registered| registered.manifest.clone())
    }

    /// When the manifest of a revision was stored, and whether it is only in memory, because the disk was full.
    pub fn since(&self, model: &ModelRef) -> (Option<SystemTime>, bool) {
        let is_unsaved = self.manifests.read().get(model).is_some_and(|one| one.unsaved);
        let file = nofollow::metadata(&manifest_below(&self.root, model)).ok();
        (file.filter(|_| !is_unsaved).and_then(|file| file.modified().ok()), is_unsaved)
    }

    /// All manifests, by name and revision.
    pub fn all(&self) -> Vec<Arc<Manifest>> {
        self.manifests.read().values().map(|registered| registered.manifest.clone()).collect()
    }

    /// Forgets a revision. Returns whether it was known.
    pub fn remove(&self, model: &ModelRef) -> Result<bool, StoreError> {
        let _writing = self.writing.lock();
        let path = manifest_below(&self.root, model);
        let there = fsutil::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
        if there {
            remove_empty_parents(&path, &self.root);
        }
        let mut known = false;
        self.replace(|all| known = all.remove(model).is_some());
        Ok(known || there)
    }

    /// Reads the changed files of `registry/` again, after another process wrote there. Unchanged manifests keep their `Arc`.
    /// Returns whether any manifest changed.
    pub fn reload(&self) -> Result<bool, StoreError> {
        let _writing = self.writing.lock();
        let old = self.manifests.read().clone();
        let mut new = scan(&self.root, &old)?;
        for (model, registered) in old.iter().filter(|(_, registered)| registered.unsaved) {
            new.entry(model.clone()).or_insert_with(|| registered.clone());
        }
        let same = old.len() == new.len()
            && (old.iter().zip(&new)).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(&x.manifest, &y.manifest));
        if same {
            // The versions may be known now.
            *self.manifests.write() = new;
        } else {
            self.replace(|all| *all = new);
        }
        Ok(!same)
    }

    /// A number that grows with every change, so that a mount knows when to read the manifests again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn replace(&self, change: impl FnOnce(&mut Manifests)) {
        change(&mut self.manifests.write());
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// Writes a manifest atomically as indented JSON.
fn write_manifest(manifest: &Manifest, path: &Path) -> Result<(), StoreError> {
    fsutil::write_atomic(path, &manifest.to_json(), fsutil::MODE_SHARED).map_err(|e| StoreError::io(path, e))
}

/// Writes the copy of a manifest in a model's directory, at a real path.
pub(super) fn write_copy(manifest: &Manifest, path: &Path) -> Result<(), StoreError> {
    nofollow::write_atomic(path, &manifest.to_json(), fsutil::MODE_SHARED)
        .map_err(|e| StoreError::io(path, e))
}

/// Reads and checks the copy of a manifest in a model's directory, at a real path.
pub(super) fn read_copy(path: &Path) -> Result<Manifest, StoreError> {
    parse(path, nofollow::read_capped(path, MAX_FILE))
}

/// Reads and checks one manifest file.
fn read_manifest(path: &Path) -> Result<Manifest, StoreError> {
    parse(path, fsutil::read_capped(path, MAX_FILE))
}

fn parse(path: &Path, bytes: io::Result<Vec<u8>>) -> Result<Manifest, StoreError> {
    let bytes = bytes.map_err(|e| StoreError::io(path, e))?;
    Manifest::from_json(&bytes)
        .map_err(|e| StoreError::Damaged { path: path.to_owned(), reason: e.to_string() })
}

/// Removes the directories above `path` while they are empty, up to and without `top`.
pub fn remove_empty_parents(path: &Path, top: &Path) {
    let mut dir = path.parent();
    while let Some(d) = dir.filter(|d| *d != top && d.starts_with(top)) {
        if fs::remove_dir(d).is_err() {
            return;
        }
        dir = d.parent();
    }
}

/// Reads all manifests, except those whose file has the version that is in `old`. A manifest that equals the one in `old` keeps
/// that `Arc`.
fn scan(root: &Path, old: &Manifests) -> Result<Manifests, StoreError> {
    let mut files = Vec::new();
    collect(root, 4, &mut files)?;
    let old_files: HashMap<PathBuf, (&ModelRef, &Registered)> =
        old.iter().map(|(model, registered)| (manifest_below(root, model), (model, registered))).collect();
    // Most of the time is spent on parsing and on checking signatures.
    let found = files.into_par_iter().filter_map(|path| {
        let old = old_files.get(&path);
        let version = fs::symlink_metadata(&path).ok().map(|meta| FileVersion::of(&meta));
        if let Some((model, registered)) = old
            && version.is_some()
            && registered.version == version
        {
            return Some(((*model).clone(), (*registered).clone()));
        }
        let manifest = match read_manifest(&path) {
            Ok(manifest) => manifest,
            Err(e) => {
                tracing::warn!(error = %e, "skipping a manifest that cannot be used");
                return None;
            }
        };
        let model = manifest.model_ref();
        if manifest_below(root, &model) != path {
            tracing::warn!(file = %path.display(), %model, "skipping a manifest of another model");
            return None;
        }
        let manifest = match old {
            Some((_, same)) if *same.manifest == manifest => same.manifest.clone(),
            _ => Arc::new(manifest),
        };
        // The version is from before the reading: a later change is noticed.
        let version = version.filter(FileVersion::is_settled);
        Some((model, Registered { manifest, version, unsaved: false }))
    });
    Ok(found.collect::<Vec<_>>().into_iter().collect())
}

/// Collects `*.json` files at most `depth` directories down, leaving out hidden names and symbolic links.
pub(super) fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), StoreError> {
    let entries = fsutil::existing(fs::read_dir(dir)).map_err(|e| StoreError::io(dir, e))?;
    for entry in entries.into_iter().flatten() {
        let entry = entry.map_err(|e| StoreError::io(dir, e))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(|e| StoreError::io(&path, e))?;
        if kind.is_dir() && depth > 1 {
            collect(&path, depth - 1, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "json") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{home, manifest};

    #[test]
    fn manifests_survive_a_restart_and_bad_files_are_skipped() {
        let home = home();
        let registry = Registry::open(&home.paths).unwrap();
        let stored = registry.insert((*manifest("o/m", &[("a", b"x")])).clone()).unwrap();
        registry.insert((*manifest("datasets/o/m", &[("a", b"x")])).clone()).unwrap();
        let path = home.paths.manifest(&stored.model_ref());
        fs::write(path.with_file_name("damaged.json"), b"{").unwrap();
        fs::copy(&path, path.with_file_name("other.json")).unwrap();
        let lie = fs::read_to_string(&path).unwrap().replace("\"size\": 1", "\"size\": 2");
        fs::write(path.with_file_name("lie.json"), lie.replace("\"main\"", "\"lie\"")).unwrap();
        fs::write(path.with_file_name(".silmaril-tmp-1"), b"{").unwrap();
        fs::write(home.paths.registry().join("notes.txt"), b"stray").unwrap();

        let again = Registry::open(&home.paths).unwrap();
        let names: Vec<_> = again.all().iter().map(|m| m.model_ref().to_string()).collect();
        assert_eq!(names, ["o/m", "datasets/o/m"]);
        assert_eq!(again.get(&stored.model_ref()).unwrap(), stored);
        assert_eq!(again.get(&"O/m".parse().unwrap()), None);
    }

    #[test]
    fn manifests_for_which_the_disk_had_no_space_stay_until_they_are_saved() {
        let home = home();
        let registry = Registry::open(&home.paths).unwrap();
        let read = (*manifest("o/m", &[("a", b"x")])).clone();
        assert!(fsutil::without_space(|| registry.insert(read.clone())).is_err());
        assert_eq!(registry.get(&read.model_ref()), None);
        fsutil::without_space(|| registry.insert_to_read(read.clone())).unwrap();
        registry.reload().unwrap();
        assert_eq!(*registry.get(&read.model_ref()).unwrap(), read);
        assert_eq!(registry.unsaved().len(), 1);
        assert!(!home.paths.manifest(&read.model_ref()).exists());
        registry.insert(read.clone()).unwrap();
        assert!(registry.unsaved().is_empty() && home.paths.manifest(&read.model_ref()).exists());
    }

    #[test]
    fn reload_reads_only_files_that_changed() {
        let home = home();
        let writer = Registry::open(&home.paths).unwrap();
        let kept = writer.insert((*manifest("o/m", &[("a", b"x")])).clone()).unwrap();
        let changed = writer.insert((*manifest("o/n", &[("a", b"x")])).clone()).unwrap();
        let kept_path = home.paths.manifest(&kept.model_ref());
        let changed_path = home.paths.manifest(&changed.model_ref());
        let reader = Registry::open(&home.paths).unwrap();
        // Their files are too new: a second change within the same tick of the clock could not be seen.
        assert!(reader.manifests.read().values().all(|registered| registered.version.is_none()));
        let version = |path| Some(FileVersion::of(&fs::symlink_metadata(path).unwrap()));
        for registered in reader.manifests.write().values_mut() {
            registered.version = version(home.paths.manifest(&registered.manifest.model_ref()));
        }
        // A reload that opened this file would lose the manifest: the version is compared, not the content.
        let other = fs::read_to_string(&changed_path).unwrap().replace("\"a\"", "\"b\"");
        fs::write(&changed_path, other).unwrap();
        fs::write(&kept_path, b"{").unwrap();
        if let Some(registered) = reader.manifests.write().get_mut(&kept.model_ref()) {
            registered.version = version(kept_path);
        }
        assert!(reader.reload().unwrap());
        assert!(reader.get(&kept.model_ref()).is_some());
        assert_eq!(reader.get(&changed.model_ref()), None, "its torrent does not have these files");
    }

    #[test]
    fn reload_reads_changes_of_other_processes() {
        let home = home();
        let (ours, theirs) = (Registry::open(&home.paths).unwrap(), Registry::open(&home.paths).unwrap());
        let kept = ours.insert((*manifest("o/m", &[("a", b"x")])).clone()).unwrap();
        let before = ours.generation();
        assert!(!ours.reload().unwrap());
        assert_eq!(ours.generation(), before);
        theirs.insert((*manifest("o/n", &[("a", b"x")])).clone()).unwrap();
        assert!(ours.reload().unwrap() && ours.generation() > before);
        assert!(Arc::ptr_eq(&ours.get(&kept.model_ref()).unwrap(), &kept));

        assert!(theirs.remove(&"o/n".parse().unwrap()).unwrap());
        assert!(!theirs.remove(&"o/n".parse().unwrap()).unwrap());
        assert!(ours.reload().unwrap());
        assert_eq!(ours.all().len(), 1);
        ours.remove(&kept.model_ref()).unwrap();
        assert!(!home.paths.registry().join("o").exists(), "empty directories go with the last revision");
    }
}
