//! What of a snapshot is here already, and what is to be done for the rest. All of this blocks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Job, Local, Want};
use crate::mirror::journal::{Complete, Journal, Known, part_path};
use crate::mirror::{Identity, MirrorError, RemoteFile};
use crate::model::hash::FileHashes;
use crate::store::copy::{Sharing, duplicate};
use crate::{fsutil, nofollow};

/// Files up to this size come first: they make a model readable, and are soon done.
const SMALL: u64 = 1 << 20;

/// One content to bring, and where to put it.
#[derive(Debug)]
pub(super) struct Task {
    pub want: Want,
    /// Every path that has this content.
    pub paths: Vec<String>,
    /// Where it is complete already, with its hashes.
    pub ready: Option<(PathBuf, FileHashes)>,
}

/// What there is, and what there is to do.
pub(super) struct Plan {
    pub journal: Journal,
    /// The states of the server's that parts are of.
    pub etags: HashMap<Identity, String>,
    /// Files in their places.
    pub done: HashMap<String, FileHashes>,
    pub tasks: VecDeque<Task>,
}

impl Plan {
    /// Reads the staging directory, and removes from it what the wanted files do not need.
    pub fn make(staging: &Path, wants: Vec<Want>, piece_length: u32) -> Result<Self, MirrorError> {
        let fail = |path: &Path| MirrorError::io(path.to_owned());
        for dir in ["tree", "parts"] {
            let dir = staging.join(dir);
            nofollow::create_dir_all(&dir).map_err(fail(&dir))?;
        }
        let (journal, known) = Journal::open(staging).map_err(fail(staging))?;
        let etags = known.etags.clone();
        let wanted: HashMap<PathBuf, Identity> =
            wants.iter().map(|want| (place_of(staging, &want.file.path), want.file.identity)).collect();
        let identities: HashSet<Identity> = wanted.values().copied().collect();
        let mut done = HashMap::new();
        let mut ready = HashMap::new();
        sort_out(staging, known, &wanted, &identities, piece_length, &mut done, &mut ready)
            .map_err(fail(staging))?;
        sweep(&staging.join("tree"), &|path| done.contains_key(path)).map_err(fail(staging))?;
        let parts: HashSet<PathBuf> =
            identities.iter().map(|identity| part_path(staging, identity)).collect();
        sweep(&staging.join("parts"), &|path| parts.contains(path)).map_err(fail(staging))?;

        let mut tasks = BTreeMap::<Identity, Task>::new();
        let mut in_place = HashMap::new();
        for want in wants {
            if let Some(hashes) = done.get(&place_of(staging, &want.file.path)) {
                in_place.insert(want.file.path, hashes.clone());
                continue;
            }
            let identity = want.file.identity;
            let task = tasks.entry(identity).or_insert_with(|| Task {
                ready: ready.get(&identity).cloned(),
                paths: Vec::new(),
                want: want.clone(),
            });
            task.paths.push(want.file.path);
        }
        let mut tasks: Vec<Task> = tasks.into_values().collect();
        // Then the longest first, so that none of them begins when all others are done.
        tasks.sort_by_key(|task| {
            let size = task.want.file.size;
            (size > SMALL, std::cmp::Reverse(size))
        });
        Ok(Self { journal, etags, done: in_place, tasks: tasks.into() })
    }
}

fn place_of(staging: &Path, path: &str) -> PathBuf {
    staging.join("tree").join(path)
}

/// Tells complete files that are in their places from those that are needed elsewhere, which go among the parts.
fn sort_out(
    staging: &Path,
    known: Known,
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
        let mut elsewhere = None;
        for (place, hashes) in places {
            // Hashes for another piece length are no use, but the bytes are.
            let fits = hashes.hold_for(&hashes.metadata, piece_length);
            if fits && wanted.get(&place) == Some(&identity) {
                ready.entry(identity).or_insert_with(|| (place.clone(), hashes.clone()));
                done.insert(place, hashes);
            } else {
                elsewhere = Some((place, hashes, fits));
            }
        }
        if let Some((place, hashes, fits)) = elsewhere.filter(|_| !ready.contains_key(&identity)) {
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

/// Removes all files below a directory but those to keep, and directories left empty.
fn sweep(dir: &Path, keep: &dyn Fn(&Path) -> bool) -> io::Result<()> {
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

/// Bytes that have to be written for files that are not complete: not those of a copy that becomes one file with them.
pub(super) fn needed<'a>(job: &Job<'_>, files: impl IntoIterator<Item = &'a RemoteFile>) -> u64 {
    let linked = |file: &RemoteFile| (job.have)(file).is_some_and(|local| is_linked(&local, file, job));
    let missing = files.into_iter().filter(|file| !linked(file)).map(|file| {
        let here = nofollow::metadata(&part_path(job.staging, &file.identity)).map_or(0, |meta| meta.len());
        file.size.saturating_sub(here)
    });
    missing.sum()
}

/// Whether [`take_local`] will take a copy, and write nothing for it.
fn is_linked(local: &Local, file: &RemoteFile, job: &Job<'_>) -> bool {
    let (Ok(copy), Ok(staging)) = (nofollow::metadata(&local.path), nofollow::metadata(job.staging)) else {
        return false;
    };
    local.ours
        && file.identity == Identity::Lfs(local.hashes.sha256)
        && copy.len() == file.size
        && copy.dev() == staging.dev()
        && local.hashes.hold_for(&copy, job.piece_length)
}

/// Puts a complete content to every path of its task; returns their hashes.
pub(super) fn place(
    journal: &Journal,
    staging: &Path,
    task: &Task,
    mut at: PathBuf,
    hashes: FileHashes,
) -> Result<HashMap<String, FileHashes>, MirrorError> {
    let identity = task.want.file.identity;
    let part = part_path(staging, &identity);
    let mut placed = HashMap::new();
    for path in &task.paths {
        let target = place_of(staging, path);
        let put = || -> io::Result<FileHashes> {
            let mut hashes = hashes.clone();
            let mut from = at.clone();
            if from != part {
                from = part.with_extension("copy");
                duplicate(&at, &from, Sharing::Inode)?;
                hashes.metadata = nofollow::metadata(&from)?;
            }
            journal.complete(Complete::new(identity, format!("tree/{path}"), &hashes))?;
            let parent = fsutil::parent(&target);
            nofollow::create_dir_all(parent)?;
            nofollow::rename(&from, &target)?;
            // Renaming onto another name of the same file leaves both.
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

/// Has a verified copy stand at `target`; none where it is not, or no longer, what is wanted.
pub(super) fn take_local(
    local: &Local,
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
        // Only what is whole stands under the name of a part.
        let temporary = target.with_extension("copy");
        let after = duplicate(&local.path, &temporary, sharing).inspect_err(|_| {
            // What came of it is of no use, and takes space.
            let _ = nofollow::remove_if_there(&temporary);
        })?;
        nofollow::rename(&temporary, target)?;
        nofollow::remove_if_there(&temporary)?;
        Ok((after, nofollow::metadata(target)?))
    };
    match identity {
        Identity::Lfs(sha256) if sha256 == local.hashes.sha256 && fits => {
            let sharing = if local.ours { Sharing::Inode } else { Sharing::Extents };
            let (after, metadata) = copy(sharing)?;
            if !local.hashes.hold_for(&after, piece_length) || !same(&metadata) {
                nofollow::remove_if_there(target)?;
                return Ok(None);
            }
            Ok(Some(FileHashes { metadata, ..local.hashes.clone() }))
        }
        Identity::Lfs(_) => Ok(None),
        // Only reading it tells its name in git; a part that is whole is read and not fetched.
        Identity::Git(_) => {
            copy(Sharing::Extents)?;
            Ok(None)
        }
    }
}
