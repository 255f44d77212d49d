//! Determines which files of a snapshot are already stored locally, and the tasks for all other files. All functions block.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::job::{DownloadJob, LocalCopy, PlannedFile};
use crate::mirror::journal::{CompleteFile, JournalContent, StagingJournal, part_path};
use crate::mirror::{Identity, MirrorError, RemoteFile};
use crate::model::hash::FileHashes;
use crate::store::copy::{ExtentSharing, duplicate};
use crate::{fsutil, nofollow};

/// Files up to this size, in bytes, are fetched first: they describe the model, and take little time.
const SMALL: u64 = 1 << 20;

/// One content to obtain, and the paths that have it.
#[derive(Debug)]
pub(super) struct ContentTask {
    pub file: PlannedFile,
    /// Every path that has this content.
    pub paths: Vec<String>,
    /// The path and hashes of a complete copy in the staging directory.
    pub ready: Option<(PathBuf, FileHashes)>,
}

/// The state of the staging directory, and the remaining tasks.
pub(super) struct DownloadPlan {
    pub journal: StagingJournal,
    /// Entity tags of parts.
    pub etags: HashMap<Identity, String>,
    /// Hashes of the files that are complete at their paths.
    pub done: HashMap<String, FileHashes>,
    pub tasks: VecDeque<ContentTask>,
}

impl DownloadPlan {
    /// Reads the staging directory, and deletes the files that `files` does not need.
    pub fn make(staging: &Path, files: Vec<PlannedFile>, piece_length: u32) -> Result<Self, MirrorError> {
        let fail = |path: &Path| MirrorError::io(path.to_owned());
        for dir in ["tree", "parts"] {
            let dir = staging.join(dir);
            nofollow::create_dir_all(&dir).map_err(fail(&dir))?;
        }
        let (journal, known) = StagingJournal::open(staging).map_err(fail(staging))?;
        let etags = known.etags.clone();
        let wanted: HashMap<PathBuf, Identity> =
            files.iter().map(|file| (place_of(staging, &file.remote.path), file.remote.identity)).collect();
        let identities: HashSet<Identity> = wanted.values().copied().collect();
        let mut done = HashMap::new();
        let mut ready = HashMap::new();
        sort_known_files(staging, known, &wanted, &identities, piece_length, &mut done, &mut ready)
            .map_err(fail(staging))?;
        remove_unneeded(&staging.join("tree"), &|path| done.contains_key(path)).map_err(fail(staging))?;
        let parts: HashSet<PathBuf> =
            identities.iter().map(|identity| part_path(staging, identity)).collect();
        remove_unneeded(&staging.join("parts"), &|path| parts.contains(path)).map_err(fail(staging))?;

        let mut tasks = BTreeMap::<Identity, ContentTask>::new();
        let mut in_place = HashMap::new();
        for file in files {
            if let Some(hashes) = done.get(&place_of(staging, &file.remote.path)) {
                in_place.insert(file.remote.path, hashes.clone());
                continue;
            }
            let identity = file.remote.identity;
            let task = tasks.entry(identity).or_insert_with(|| ContentTask {
                ready: ready.get(&identity).cloned(),
                paths: Vec::new(),
                file: file.clone(),
            });
            task.paths.push(file.remote.path);
        }
        let mut tasks: Vec<ContentTask> = tasks.into_values().collect();
        // After the small files, the largest first, so that no large file starts when all other workers are done.
        tasks.sort_by_key(|task| {
            let size = task.file.remote.size;
            (size > SMALL, std::cmp::Reverse(size))
        });
        Ok(Self { journal, etags, done: in_place, tasks: tasks.into() })
    }
}

fn place_of(staging: &Path, path: &str) -> PathBuf {
    staging.join("tree").join(path)
}

/// Sorts complete files: those at a wanted path are added to `done`, those that are needed at another path are moved to the
/// parts. Both are added to `ready`.
fn sort_known_files(
    staging: &Path,
    known: JournalContent,
    wanted: &HashMap<PathBuf, Identity>,
    identities: &HashSet<Identity>,
    piece_length: u32,
    done: &mut HashMap<PathBuf, FileHashes>,
    ready: &mut HashMap<Identity, (PathBuf, FileHashes)>,
) -> io::Result<()> {
    for (identity, places) in known.files {
        if !identities.contains(&identity) {
            continue;
        }
        let part = part_path(staging, &identity);
        let mut misplaced = None;
        for (place, hashes) in places {
            // Hashes for another piece length cannot be used, but the bytes can.
            let fits = hashes.hold_for(&hashes.metadata, piece_length);
            if fits && wanted.get(&place) == Some(&identity) {
                ready.entry(identity).or_insert_with(|| (place.clone(), hashes.clone()));
                done.insert(place, hashes);
            } else {
                misplaced = Some((place, hashes, fits));
            }
        }
        if let Some((place, hashes, fits)) = misplaced.filter(|_| !ready.contains_key(&identity)) {
            if place != part {
                nofollow::rename(&place, &part)?;
            }
            if fits {
                ready.insert(identity, (part, hashes));
            }
        }
    }
    Ok(())
}

/// Deletes all files below a directory except those that `keep` accepts, and all directories that are then empty.
fn remove_unneeded(dir: &Path, keep: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    let mut dirs = vec![dir.to_owned()];
    let mut seen = Vec::new();
    while let Some(here) = dirs.pop() {
        for (name, kind) in nofollow::read_dir(&here)? {
            let path = here.join(name);
            if kind.is_dir() {
                dirs.push(path.clone());
                seen.push(path);
            } else if !keep(&path) {
                nofollow::remove_if_there(&path)?;
            }
        }
    }
    for dir in seen.into_iter().rev() {
        match nofollow::remove_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Bytes that remain to be written for incomplete files. A local copy that will share its inode needs no bytes.
pub(super) fn needed<'a>(job: &DownloadJob<'_>, files: impl IntoIterator<Item = &'a RemoteFile>) -> u64 {
    let linked = |file: &RemoteFile| (job.have)(file).is_some_and(|local| is_linked(&local, file, job));
    let missing = files.into_iter().filter(|file| !linked(file)).map(|file| {
        let here = nofollow::metadata(&part_path(job.staging, &file.identity)).map_or(0, |meta| meta.len());
        file.size.saturating_sub(here)
    });
    missing.sum()
}

/// Whether [`copy_local`] will link a copy, without writing its bytes.
fn is_linked(local: &LocalCopy, file: &RemoteFile, job: &DownloadJob<'_>) -> bool {
    let (Ok(copy), Ok(staging)) = (nofollow::metadata(&local.path), nofollow::metadata(job.staging)) else {
        return false;
    };
    local.ours
        && file.identity == Identity::Lfs(local.hashes.sha256)
        && copy.len() == file.size
        && copy.dev() == staging.dev()
        && local.hashes.hold_for(&copy, job.piece_length)
}

/// Moves or copies a complete content to every path of its task. Returns the hashes by path.
pub(super) fn place_content(
    journal: &StagingJournal,
    staging: &Path,
    task: &ContentTask,
    mut at: PathBuf,
    hashes: FileHashes,
) -> Result<HashMap<String, FileHashes>, MirrorError> {
    let identity = task.file.remote.identity;
    let part = part_path(staging, &identity);
    let mut placed = HashMap::new();
    for path in &task.paths {
        let target = place_of(staging, path);
        let put = || -> io::Result<FileHashes> {
            let mut hashes = hashes.clone();
            let mut from = at.clone();
            if from != part {
                from = part.with_extension("copy");
                duplicate(&at, &from, ExtentSharing::Inode)?;
                hashes.metadata = nofollow::metadata(&from)?;
            }
            journal.complete(CompleteFile::new(identity, format!("tree/{path}"), &hashes))?;
            let parent = fsutil::parent(&target);
            nofollow::create_dir_all(parent)?;
            nofollow::rename(&from, &target)?;
            // Renaming to another link of the same inode does nothing, so `from` remains.
            nofollow::remove_if_there(&from)?;
            nofollow::sync_dir(parent)?;
            Ok(hashes)
        };
        let put = put().map_err(MirrorError::io(&target))?;
        at = target;
        placed.insert(path.clone(), put);
    }
    Ok(placed)
}

/// Copies or links a verified local copy to `target`. Returns none if the copy has another content or has changed.
pub(super) fn copy_local(
    local: &LocalCopy,
    target: &Path,
    identity: Identity,
    size: u64,
    piece_length: u32,
) -> io::Result<Option<FileHashes>> {
    let same = |metadata: &Metadata| metadata.is_file() && metadata.len() == size;
    let Ok(before) = nofollow::metadata(&local.path) else { return Ok(None) };
    let fits = local.hashes.hold_for(&before, piece_length);
    if !same(&before) {
        return Ok(None);
    }
    let copy = |sharing| -> io::Result<(Metadata, Metadata)> {
        nofollow::create_dir_all(fsutil::parent(target))?;
        // A file with the name of a part must be complete, so the copy has a temporary name first.
        let temporary = target.with_extension("copy");
        let after = duplicate(&local.path, &temporary, sharing).inspect_err(|_| {
            // An incomplete copy would only take space.
            let _ = nofollow::remove_if_there(&temporary);
        })?;
        nofollow::rename(&temporary, target)?;
        nofollow::remove_if_there(&temporary)?;
        Ok((after, nofollow::metadata(target)?))
    };
    match identity {
        Identity::Lfs(sha256) if sha256 == local.hashes.sha256 && fits => {
            let sharing = if local.ours { ExtentSharing::Inode } else { ExtentSharing::Extents };
            let (after, metadata) = copy(sharing)?;
            if !local.hashes.hold_for(&after, piece_length) || !same(&metadata) {
                nofollow::remove_if_there(target)?;
                return Ok(None);
            }
            Ok(Some(FileHashes { metadata, ..local.hashes.clone() }))
        }
        Identity::Lfs(_) => Ok(None),
        // The git hash is unknown until the bytes are read. The copy becomes a full part, which is then verified and not
        // fetched.
        Identity::Git(_) => {
            copy(ExtentSharing::Extents)?;
            Ok(None)
        }
    }
}
