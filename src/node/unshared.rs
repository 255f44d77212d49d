//! Models that the user put into the models directory by other means: copied, cloned, downloaded by another program.
//!
//! Such a directory is known by its place alone, `models/org/name`. It is whole when nothing in it has changed for
//! [`SETTLES_AFTER`], no remains of a download are in it, each header fits its file, and each file that an index names
//! is present. A mount shows whole ones; nothing is sent to any peer until the user shares them.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::scan::{OutsideLinks, ScanError, ScannedFile, scan};
use crate::model::{ModelName, complete, describe, text};
use crate::store::{Stamp, Store};
use crate::{fsutil, nofollow};

/// A directory counts as still changing for this long after its latest change.
pub const SETTLES_AFTER: Duration = Duration::from_secs(10);

/// A model in the models directory that is not shared.
#[derive(Debug, Clone)]
pub struct Unshared {
    /// Its name, by its place.
    pub name: ModelName,
    /// Its directory.
    pub path: PathBuf,
    /// Its files, without helper files of other programs; none where they could not be listed.
    pub files: Vec<ScannedFile>,
    /// The licence that its model card names.
    pub license: Option<String>,
    /// Whether all of it is present.
    pub state: Wholeness,
}

impl Unshared {
    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.metadata.len()).sum()
    }

    /// Whether all of it is present.
    pub fn is_whole(&self) -> bool {
        self.state == Wholeness::Whole
    }

    /// The stamp of each file.
    fn stamps(&self) -> Stamps {
        stamps(&self.files)
    }
}

/// Whether an unshared model is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wholeness {
    /// All of it is present.
    Whole,
    /// It changed a moment ago; it is checked again after this time.
    Changing(Duration),
    /// A part is missing, or cannot be shared; the text is the reason.
    Incomplete(String),
}

impl fmt::Display for Wholeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("complete"),
            Self::Changing(_) => f.write_str("still changing"),
            Self::Incomplete(reason) => f.write_str(reason),
        }
    }
}

/// The paths and stamps of files.
type Stamps = Vec<(String, Stamp)>;

fn stamps(files: &[ScannedFile]) -> Stamps {
    files.iter().map(|file| (file.path.clone(), Stamp::of(&file.metadata))).collect()
}

/// The results of reading the headers of directories, kept while the files are unchanged.
#[derive(Debug, Default)]
pub struct Memory(HashMap<PathBuf, (Stamps, Wholeness, Option<String>)>);

/// The unshared models in the models directory, by name. Reads the disk. `memory` keeps results between calls.
pub fn find_all(store: &Store, memory: &mut Memory) -> Vec<Unshared> {
    let models = &store.dirs.models;
    let recorded = store.placed().recorded_dirs();
    let mut found: Vec<Unshared> = directories(models)
        .into_iter()
        .filter(|(_, dir)| !is_recorded(&recorded, dir))
        .filter_map(|(name, dir)| check(name, dir, memory, SystemTime::now()))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    memory.0.retain(|dir, _| found.iter().any(|model| model.path == *dir));
    found
}

/// One unshared model, by its name.
pub fn find(store: &Store, name: &ModelName) -> Option<Unshared> {
    let dir = store.dirs.models.join(name.to_string());
    if is_recorded(&store.placed().recorded_dirs(), &dir) {
        return None;
    }
    check(name.clone(), dir, &mut Memory::default(), SystemTime::now())
}

/// Whether a directory holds, or is inside, a directory that a record has.
pub(super) fn is_recorded(recorded: &BTreeSet<PathBuf>, dir: &Path) -> bool {
    let below = recorded.range(dir.to_owned()..).next().is_some_and(|first| first.starts_with(dir));
    below || dir.ancestors().any(|above| recorded.contains(above))
}

/// The directories at the places of models: `org/name` and `datasets/org/name`.
fn directories(models: &Path) -> Vec<(ModelName, PathBuf)> {
    let mut found = Vec::new();
    for (org, dir) in subdirectories(models) {
        if org == "datasets" {
            for (org, dir) in subdirectories(&dir) {
                collect(&format!("datasets/{org}"), &dir, &mut found);
            }
        } else {
            collect(&org, &dir, &mut found);
        }
    }
    found
}

fn collect(org: &str, dir: &Path, found: &mut Vec<(ModelName, PathBuf)>) {
    let named = subdirectories(dir).into_iter();
    found.extend(named.filter_map(|(name, dir)| Some((format!("{org}/{name}").parse().ok()?, dir))));
}

/// The directories in a directory, without links. One that cannot be read counts as empty.
pub(super) fn subdirectories(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = nofollow::read_dir(dir).unwrap_or_else(|error| {
        tracing::debug!(%error, path = %dir.display(), "could not list a directory");
        Vec::new()
    });
    let dirs = entries.into_iter().filter(|(_, kind)| kind.is_dir());
    dirs.filter_map(|(name, _)| Some((name.to_str()?.to_owned(), dir.join(&name)))).collect()
}

/// Checks one directory. None if it has no files.
fn check(name: ModelName, dir: PathBuf, memory: &mut Memory, now: SystemTime) -> Option<Unshared> {
    let files = match scan(&dir, &OutsideLinks::new()) {
        Ok(files) => files,
        Err(ScanError::Empty(_) | ScanError::NotADirectory(_)) => return None,
        Err(ScanError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            let state = Wholeness::Incomplete(reason(&error));
            return Some(Unshared { name, path: dir, files: Vec::new(), license: None, state });
        }
    };
    let mut model = Unshared { name, path: dir, files, license: None, state: Wholeness::Whole };
    let stamps = model.stamps();
    match memory.0.get(&model.path) {
        Some((before, state, license)) if *before == stamps => {
            model.state.clone_from(state);
            model.license.clone_from(license);
        }
        _ => {
            model.state = wholeness(&model.files);
            model.license = describe::license_of(&model.files);
            let kept = (stamps, model.state.clone(), model.license.clone());
            memory.0.insert(model.path.clone(), kept);
        }
    }
    if let (Wholeness::Whole, Some(left)) = (&model.state, settles_in(&model, now)) {
        model.state = Wholeness::Changing(left);
    }
    Some(model)
}

/// The reason without the directory, which is shown next to it.
fn reason(error: &ScanError) -> String {
    match error {
        ScanError::Unfinished { files, .. } => format!("unfinished downloads: {}", text::listed(files)),
        error => error.to_string(),
    }
}

fn wholeness(files: &[ScannedFile]) -> Wholeness {
    if files.iter().all(|file| file.metadata.len() == 0) {
        return Wholeness::Incomplete("all files are empty".to_owned());
    }
    if let Err(error) = describe::refuse_pointers(files) {
        return Wholeness::Incomplete(error.to_string());
    }
    let gaps: Vec<String> = complete::survey(files).gaps.iter().map(ToString::to_string).collect();
    if gaps.is_empty() { Wholeness::Whole } else { Wholeness::Incomplete(text::listed(&gaps)) }
}

/// The time until the latest change of a file or directory is [`SETTLES_AFTER`] ago; none if it is.
fn settles_in(model: &Unshared, now: SystemTime) -> Option<Duration> {
    let mut dirs: BTreeSet<&Path> = model.files.iter().map(|file| fsutil::parent(&file.source)).collect();
    dirs.insert(&model.path);
    let dirs = dirs.into_iter().filter_map(|dir| Some(changed_at(&nofollow::metadata(dir).ok()?)));
    let latest = model.files.iter().map(|file| changed_at(&file.metadata)).chain(dirs).max()?;
    // A change in the future counts as a change now: the clocks of a network file system differ.
    let age = now.duration_since(latest).unwrap_or_default();
    SETTLES_AFTER.checked_sub(age).filter(|left| !left.is_zero())
}

fn changed_at(metadata: &std::fs::Metadata) -> SystemTime {
    let seconds = u64::try_from(metadata.ctime()).unwrap_or_default();
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or_default();
    UNIX_EPOCH + Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::config::Config;
    use crate::node::Library;

    fn put(dir: &Path, path: &str, bytes: &[u8]) {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), bytes).unwrap();
    }

    fn library(dir: &Path) -> Library {
        Library::open(Config::defaults(&dir.join("base"))).unwrap()
    }

    fn states(library: &Library, later: Duration) -> Vec<(String, String)> {
        let models = &library.store.dirs.models;
        let found = directories(models).into_iter();
        let now = SystemTime::now() + later;
        let found = found.filter_map(|(name, dir)| check(name, dir, &mut Memory::default(), now));
        let mut states: Vec<_> =
            found.map(|model| (model.name.to_string(), model.state.to_string())).collect();
        states.sort();
        states
    }

    #[test]
    fn directories_at_the_places_of_models_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let library = library(dir.path());
        let models = library.paths.models.clone();
        for path in ["org/m/a.bin", "datasets/org/d/a.txt", "org/file", ".hidden/m/a", "org/.m/a", "a/b c/d"]
        {
            put(&models, path, b"x");
        }
        fs::create_dir_all(models.join("org/empty")).unwrap();
        put(&models, "org/only-helpers/.DS_Store", b"x");
        std::os::unix::fs::symlink(models.join("org/m"), models.join("org/link")).unwrap();
        let found: Vec<_> = states(&library, SETTLES_AFTER).into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, ["datasets/org/d", "org/m"]);
    }

    #[test]
    fn a_directory_is_whole_when_it_has_settled_and_nothing_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let library = library(dir.path());
        let models = library.paths.models.clone();
        put(&models, "a/whole/w.bin", b"x");
        put(&models, "a/partial/w.bin.aria2", b"x");
        put(&models, "a/cut/model.safetensors", &[9, 0, 0, 0, 0, 0, 0, 0, b'{']);
        put(&models, "a/missing/m.safetensors.index.json", br#"{"weight_map":{"a":"m-1.safetensors"}}"#);
        put(&models, "a/pointer/w.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n");
        let state = |name: &str, later| {
            let states = states(&library, later);
            states.into_iter().find(|(found, _)| found == name).unwrap().1
        };
        assert_eq!(state("a/whole", Duration::ZERO), "still changing");
        assert_eq!(state("a/whole", SETTLES_AFTER), "complete");
        for (name, part) in [
            ("a/partial", "w.bin.aria2 (aria2)"),
            ("a/cut", "model.safetensors is not whole"),
            ("a/missing", "m-1.safetensors is missing"),
            ("a/pointer", "Git LFS"),
        ] {
            let state = state(name, SETTLES_AFTER);
            assert!(state.contains(part), "{name}: {state}");
        }
        // Modification times can be set; the time of the change cannot.
        let file = File::options().write(true).open(models.join("a/whole/w.bin")).unwrap();
        file.set_modified(UNIX_EPOCH).unwrap();
        assert_eq!(state("a/whole", Duration::ZERO), "still changing");
    }

    #[test]
    fn recorded_directories_and_those_around_them_are_not_unshared() {
        let recorded = BTreeSet::from([PathBuf::from("/m/a/b"), PathBuf::from("/m/c/d/sub")]);
        for (dir, expected) in [("/m/a/b", true), ("/m/a/b/x", true), ("/m/c/d", true), ("/m/a/bb", false)] {
            assert_eq!(is_recorded(&recorded, Path::new(dir)), expected, "{dir}");
        }
    }

    #[test]
    fn headers_are_read_again_only_when_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let library = library(dir.path());
        let models = library.paths.models.clone();
        put(&models, "a/m/README.md", b"---\nlicense: mit\n---\n");
        put(&models, "a/m/w.bin", b"x");
        let mut memory = Memory::default();
        assert_eq!(find_all(&library.store, &mut memory)[0].license.as_deref(), Some("mit"));
        let kept = memory.0.values_mut().next().unwrap();
        kept.2 = Some("kept".to_owned());
        assert_eq!(find_all(&library.store, &mut memory)[0].license.as_deref(), Some("kept"));
        put(&models, "a/m/README.md", b"---\nlicense: apache-2.0\n---\n");
        assert_eq!(find_all(&library.store, &mut memory)[0].license.as_deref(), Some("apache-2.0"));
        fs::remove_dir_all(models.join("a/m")).unwrap();
        assert!(find_all(&library.store, &mut memory).is_empty() && memory.0.is_empty());
    }
}
