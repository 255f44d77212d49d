//! Looking after files outside the cache: whether those recorded as verified are still there and as they were.
//!
//! A file that is absent or that has changed does not count while it is so. Its record stays: when the file returns as it
//! was, the content returns to it, and a file that has changed is proved again.

use std::io;
use std::path::{Path, PathBuf};

use super::content::Home;
use super::placement::{PlacedEntry, PlacedFile, Stamp, change_time};
use super::verify::{Watch, cancelled, differing, merge};
use super::{ContentKey, Store, StoreError, StoredRevision};
use crate::model::InfoHash;
use crate::model::hash::{HashError, hash_file};
use crate::model::merkle::Hash;
use crate::nofollow;

/// A directory with files of one torrent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaceId {
    /// Which torrent.
    pub info_hash: InfoHash,
    /// The directory.
    pub dir: PathBuf,
}

/// What is wrong with a file that was verified once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be looked at; the text says why.
    Absent(String),
    /// Its length, modification time or inode is another one: its bytes are to be proved again.
    Changed,
    /// Its length is another one.
    OtherLength,
    /// Its change time alone is another one: it is served, and each part is proved before it is uploaded.
    Touched,
    /// So many of its bytes are wrong.
    Damaged(u64),
}

/// A file with a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultyFile {
    /// Its path in the manifest.
    pub path: String,
    /// Its real path.
    pub at: PathBuf,
    /// What is wrong.
    pub fault: Fault,
    /// Whether this program put it there.
    pub ours: bool,
    /// How it looks now; none if it is absent.
    pub looks: Option<Stamp>,
}

/// What a look at files of a place showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tended {
    /// The files that are not as they should be.
    pub faulty: Vec<FaultyFile>,
    /// Whether contents left the place or returned to it.
    pub moved: bool,
    /// The index of the first file of the place that was not looked at; 0 when all were.
    pub next: usize,
}

impl Store {
    /// All directories outside the cache in which verified files were recorded.
    pub fn recorded_places(&self) -> Vec<PlaceId> {
        self.shared.placements.ids()
    }

    /// Looks at `count` files of a place, from the one with index `from` on. The contents of files that are absent or
    /// changed leave them; those of files that are as they were return. Reads no file, but may block on a file system
    /// that does not answer; no lock is held then.
    /// The content of a damaged file does not return to it while it is `wanted`: the bytes that lack are being fetched.
    pub fn tend(
        &self,
        place: &PlaceId,
        from: usize,
        count: usize,
        wanted: &dyn Fn(&ContentKey) -> bool,
    ) -> Tended {
        let (files, next) = self.shared.placements.files_of(place, from, count);
        let dir = match nofollow::metadata(&place.dir) {
            Ok(meta) if meta.is_dir() => None,
            Ok(_) => Some("it is not a directory".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let mut tended = Tended { next, ..Tended::default() };
        for file in &files {
            let seen = self.moves_of(file);
            let (fault, looks) = match &dir {
                Some(why) if file.target.is_none() => (Some(Fault::Absent(why.clone())), None),
                _ => look(file, &file.real_path(&place.dir)),
            };
            let stays =
                matches!(fault, Some(Fault::Damaged(_))) && file.key().is_some_and(|key| wanted(&key));
            tended.moved |= !stays && self.act_on(file, &place.dir, fault.as_ref(), seen);
            tended.faulty.extend(fault.map(|fault| FaultyFile {
                path: file.path.clone(),
                at: file.real_path(&place.dir),
                fault,
                ours: file.ours,
                looks,
            }));
        }
        tended
    }

    /// Has all contents leave a place without a look at it, because its file system does not answer. Returns whether any
    /// did.
    pub fn leave(&self, place: &PlaceId) -> bool {
        let (files, _) = self.shared.placements.files_of(place, 0, usize::MAX);
        let absent = Fault::Absent(String::new());
        let leaves = |file: &&PlacedEntry| self.act_on(file, &place.dir, Some(&absent), self.moves_of(file));
        files.iter().filter(leaves).count() > 0
    }

    /// How often the live content of a file has moved.
    fn moves_of(&self, file: &PlacedEntry) -> Option<u64> {
        file.key().and_then(|key| self.live_content(&key)).map(|content| content.moves())
    }

    /// Moves the live content of a file to it or away from it. Returns whether it moved. A fault does not count if
    /// the content has moved other than `seen` times, or is in a file that was verified after `file` was recorded: another
    /// file may have taken its place since.
    fn act_on(&self, file: &PlacedEntry, dir: &Path, fault: Option<&Fault>, seen: Option<u64>) -> bool {
        let Some(key) = file.key() else { return false };
        let Some(content) = self.live_content(&key) else { return false };
        let path = file.real_path(dir);
        let at_home = |home: &Home| matches!(home, Home::Placed(placed) if placed.path == path);
        match fault {
            None | Some(Fault::Touched | Fault::Damaged(_)) => {
                if content.is_complete() || at_home(&content.home()) {
                    return false;
                }
                let _moving = self.moving();
                self.settle_if_placed(&key)
            }
            Some(Fault::Absent(_) | Fault::Changed | Fault::OtherLength) => {
                if !at_home(&content.home()) {
                    return false;
                }
                let _moving = self.moving();
                let mut journal = content.journal();
                let is_known = matches!(content.home(), Home::Placed(placed) if placed.stamp == file.stamp);
                if !at_home(&content.home()) || !is_known || Some(content.moves()) != seen {
                    return false;
                }
                match content.leave_place(&mut journal) {
                    Ok(()) => drop(journal),
                    Err(error) => {
                        tracing::warn!("{} cannot be left: {error}.", path.display());
                        return false;
                    }
                }
                tracing::warn!("{} is not as it was; it is not served.", path.display());
                // Another file may have the same bytes. This one is not looked at again: it may not answer.
                self.shared.placements.leave_alone(&path);
                self.settle_if_placed(&key);
                self.shared.placements.expect_again(&path);
                true
            }
        }
    }

    /// Reads a placed file of a revision again, compares it with the hashes of its pieces in `layer`, and records what is
    /// right of it as it looks now. Without `layer` one wrong byte makes all wrong. Returns the number of wrong bytes,
    /// and whether the content moved. Uses all cores; call it from a thread of its own.
    pub fn prove_placed(
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
            return Err(StoreError::io(at, io::Error::other("its length is not the one that was shared")));
        }
        let wrong = match hashes.pieces_root == Some(key.root) {
            true => {
                self.save_granules(&key, &hashes.granules);
                Vec::new()
            }
            false => merge(differing(&hashes, layer, key.len, piece_length)),
        };
        let none_right = wrong.iter().map(|range| range.end - range.start).sum::<u64>() == key.len;
        let changed_ns = change_time(&hashes.metadata);
        let _moving = self.moving();
        if Stamp::at(at).ok() != Some(stamp) {
            let replaced = io::Error::other("the file was replaced while it was read");
            return Err(StoreError::io(at, replaced));
        }
        self.shared.placements.update_file(&key, at, |entry| {
            entry.stamp = stamp;
            entry.changed_ns = Some(changed_ns);
            entry.damaged = none_right;
            entry.wrong = if none_right { Vec::new() } else { pairs(&wrong) };
        })?;
        self.shared.placements.expect_again(at);
        let bytes = wrong.iter().map(|range| range.end - range.start).sum();
        let moved = match content.home() {
            Home::Placed(home) if home.path == at && none_right => {
                content.leave_place(&mut content.journal()).map_err(|e| StoreError::io(at, e))?;
                true
            }
            Home::Placed(home) if home.path == at && home.stamp == stamp => {
                let differs = content.missing_ranges(0..key.len) != wrong;
                if differs {
                    content.settle_placed(&mut content.journal(), PlacedFile { wrong, ..home });
                }
                differs
            }
            _ => self.settle_if_placed(&key),
        };
        Ok((bytes, moved))
    }
}

/// Offsets from and to.
pub(super) fn pairs(ranges: &[std::ops::Range<u64>]) -> Vec<(u64, u64)> {
    ranges.iter().map(|range| (range.start, range.end)).collect()
}

/// What is wrong with a file, and how it looks.
fn look(file: &PlacedEntry, path: &Path) -> (Option<Fault>, Option<Stamp>) {
    let meta = match nofollow::metadata(path) {
        Ok(meta) if meta.is_file() => meta,
        Ok(_) => return (Some(Fault::Absent("it is not a regular file".to_owned())), None),
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
