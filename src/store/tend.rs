//! The check of files outside the cache: whether the verified files still exist and have not changed.
//!
//! A file that is absent or has changed does not count. Its record stays: when the unchanged file is found again, its content
//! moves back to it. A file that has changed is proved again.

use std::io;
use std::path::{Path, PathBuf};

use super::content::Location;
use super::placement::{PlacedDirId, PlacedEntry, PlacedFile, Stamp, change_time};
use super::verify::{Watch, cancelled, differing, merge};
use super::{ContentKey, PlacedFiles, StoreError, StoredRevision};
use crate::model::hash::{HashError, hash_file};
use crate::model::merkle::Hash;
use crate::nofollow;

/// The fault of a file that was verified once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Its metadata cannot be read, for this reason.
    Absent(String),
    /// Its modification time or inode is another one: its bytes must be proved again.
    Changed,
    /// Its length is another one.
    OtherLength,
    /// Only its change time is another one: it is served, and each part is proved before it is uploaded.
    Touched,
    /// This number of its bytes is wrong.
    Damaged(u64),
}

/// A file with a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultyFile {
    /// Its path in the manifest.
    pub path: String,
    /// Its real path.
    pub at: PathBuf,
    /// The fault.
    pub fault: Fault,
    /// Whether this program made it.
    pub ours: bool,
    /// Its present stamp; none if it is absent.
    pub stamp: Option<Stamp>,
}

/// The result of a check of files of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedFiles {
    /// The files with a fault.
    pub faulty: Vec<FaultyFile>,
    /// Whether contents left the directory or returned to it.
    pub moved: bool,
    /// The index of the first file of the directory that was not checked; 0 when all were.
    pub next: usize,
}

impl PlacedFiles<'_> {
    /// All directories outside the cache in which verified files were recorded.
    pub fn all(&self) -> Vec<PlacedDirId> {
        self.store.parts.placements.ids()
    }

    /// Checks `count` files of a directory, starting with index `from`. Contents leave files that are absent or have changed,
    /// and return to unchanged files. Reads no bytes, but may block on a file system that does not answer; no lock is held
    /// then. The content of a damaged file does not return to it while it is `wanted`: the missing bytes are being fetched.
    pub fn check(
        &self,
        place: &PlacedDirId,
        from: usize,
        count: usize,
        wanted: &dyn Fn(&ContentKey) -> bool,
    ) -> CheckedFiles {
        let (files, next) = self.store.parts.placements.files_of(place, from, count);
        let dir = match nofollow::metadata(&place.dir) {
            Ok(meta) if meta.is_dir() => None,
            Ok(_) => Some("not a directory".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let mut checked = CheckedFiles { next, ..CheckedFiles::default() };
        for file in &files {
            let seen = self.moves_of(file);
            let (fault, stamp) = match &dir {
                Some(why) if file.target.is_none() => (Some(Fault::Absent(why.clone())), None),
                _ => inspect(file, &file.real_path(&place.dir)),
            };
            let stays =
                matches!(fault, Some(Fault::Damaged(_))) && file.key().is_some_and(|key| wanted(&key));
            checked.moved |= !stays && self.follow(file, &place.dir, fault.as_ref(), seen);
            checked.faulty.extend(fault.map(|fault| FaultyFile {
                path: file.path.clone(),
                at: file.real_path(&place.dir),
                fault,
                ours: file.ours,
                stamp,
            }));
        }
        checked
    }

    /// Moves all contents away from a directory without a check, because its file system does not answer. Returns whether any
    /// content moved.
    pub fn leave(&self, place: &PlacedDirId) -> bool {
        let (files, _) = self.store.parts.placements.files_of(place, 0, usize::MAX);
        let absent = Fault::Absent(String::new());
        let leaves = |file: &&PlacedEntry| self.follow(file, &place.dir, Some(&absent), self.moves_of(file));
        files.iter().filter(leaves).count() > 0
    }

    /// How often the live content of a file has moved.
    fn moves_of(&self, file: &PlacedEntry) -> Option<u64> {
        file.key().and_then(|key| self.store.live.get(&key)).map(|content| content.moves())
    }

    /// Moves the live content of a file to it or away from it. Returns whether it moved. A fault does not count if
    /// the content has moved other than `seen` times, or is in a file that was verified after `file` was recorded: another
    /// file may have its path since.
    fn follow(&self, file: &PlacedEntry, dir: &Path, fault: Option<&Fault>, seen: Option<u64>) -> bool {
        let Some(key) = file.key() else { return false };
        let Some(content) = self.store.live.get(&key) else { return false };
        let path = file.real_path(dir);
        let is_there =
            |location: &Location| matches!(location, Location::Placed(placed) if placed.path == path);
        match fault {
            None | Some(Fault::Touched | Fault::Damaged(_)) => {
                if content.is_complete() || is_there(&content.location()) {
                    return false;
                }
                let _moving = self.store.moving.lock();
                self.store.move_if_placed(&key)
            }
            Some(Fault::Absent(_) | Fault::Changed | Fault::OtherLength) => {
                if !is_there(&content.location()) {
                    return false;
                }
                let _moving = self.store.moving.lock();
                let mut writer = content.writer();
                let is_known =
                    matches!(content.location(), Location::Placed(placed) if placed.stamp == file.stamp);
                if !is_there(&content.location()) || !is_known || Some(content.moves()) != seen {
                    return false;
                }
                match writer.move_to_cache() {
                    Ok(()) => drop(writer),
                    Err(error) => {
                        tracing::warn!(%error, file = %path.display(), "could not move the content to the cache");
                        return false;
                    }
                }
                tracing::warn!(file = %path.display(), "the file is absent or has changed; it is not served");
                // Another file may have the same bytes. This file is not checked again: its file system may not answer.
                self.store.parts.placements.ignore_for_a_while(&path);
                self.store.move_if_placed(&key);
                self.store.parts.placements.stop_ignoring(&path);
                true
            }
        }
    }

    /// Reads a placed file of a revision again, compares it with the hashes of its pieces in `layer`, and records the right
    /// pieces with its present stamp. Without `layer` one wrong byte makes all bytes wrong. Returns the number of wrong bytes,
    /// and whether the content moved. Uses all cores; call it from a thread of its own.
    pub fn prove(
        &self,
        revision: &StoredRevision,
        file: usize,
        at: &Path,
        layer: Option<&[Hash]>,
        watch: Watch<'_>,
    ) -> Result<(u64, bool), StoreError> {
        let content = &revision.contents[file];
        let Some(key) = content.key() else { return Ok((0, false)) };
        let piece_length = revision.layout.piece_length();
        let hashes = match hash_file(at, piece_length, watch) {
            Ok(hashes) => hashes,
            Err(HashError::Changed(path)) => {
                let changes = io::Error::other("the file changes while it is read");
                return Err(StoreError::io(&path, changes));
            }
            Err(HashError::Io { path, source }) => return Err(StoreError::Io { path, source }),
            Err(HashError::Cancelled) => return Err(cancelled(at)),
        };
        let stamp = Stamp::of(&hashes.metadata);
        if stamp.size != key.len {
            return Err(StoreError::io(at, io::Error::other("its length is not the shared one")));
        }
        let wrong = if hashes.pieces_root == Some(key.root) {
            self.store.parts.granules.save(&key, &hashes.granules);
            Vec::new()
        } else {
            merge(differing(&hashes, layer, key.len, piece_length))
        };
        let none_right = wrong.iter().map(|range| range.end - range.start).sum::<u64>() == key.len;
        let changed_ns = change_time(&hashes.metadata);
        let _moving = self.store.moving.lock();
        if Stamp::at(at).ok() != Some(stamp) {
            let replaced = io::Error::other("the file was replaced while it was read");
            return Err(StoreError::io(at, replaced));
        }
        self.store.parts.placements.update_file(&key, at, |entry| {
            entry.stamp = stamp;
            entry.changed_ns = Some(changed_ns);
            entry.damaged = none_right;
            entry.wrong = if none_right { Vec::new() } else { pairs(&wrong) };
        })?;
        self.store.parts.placements.stop_ignoring(at);
        let bytes = wrong.iter().map(|range| range.end - range.start).sum();
        let moved = match content.location() {
            Location::Placed(placed) if placed.path == at && none_right => {
                content.writer().move_to_cache().map_err(|e| StoreError::io(at, e))?;
                true
            }
            Location::Placed(placed) if placed.path == at && placed.stamp == stamp => {
                let differs = content.missing_ranges(0..key.len) != wrong;
                if differs {
                    content.writer().move_to_placed(PlacedFile { wrong, ..placed });
                }
                differs
            }
            _ => self.store.move_if_placed(&key),
        };
        Ok((bytes, moved))
    }
}

/// The start and end offsets of ranges.
pub(super) fn pairs(ranges: &[std::ops::Range<u64>]) -> Vec<(u64, u64)> {
    ranges.iter().map(|range| (range.start, range.end)).collect()
}

/// The fault of a file, and its present stamp.
fn inspect(file: &PlacedEntry, path: &Path) -> (Option<Fault>, Option<Stamp>) {
    let meta = match nofollow::metadata(path) {
        Ok(meta) if meta.is_file() => meta,
        Ok(_) => return (Some(Fault::Absent("not a regular file".to_owned())), None),
        Err(error) => return (Some(Fault::Absent(error.to_string())), None),
    };
    let stamp = Stamp::of(&meta);
    let wrong: u64 = file.wrong.iter().map(|(from, to)| to - from).sum();
    let fault = if stamp.size != file.stamp.size {
        Some(Fault::OtherLength)
    } else if stamp != file.stamp {
        Some(Fault::Changed)
    } else if file.damaged {
        Some(Fault::Damaged(stamp.size))
    } else if wrong > 0 {
        Some(Fault::Damaged(wrong))
    } else if file.changed_ns.is_some_and(|then| then != change_time(&meta)) {
        Some(Fault::Touched)
    } else {
        None
    };
    (fault, Some(stamp))
}
