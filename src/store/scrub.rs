//! What the background check of stored files has read, and whether the machine stopped while this program ran:
//! `scrub.json`.
//!
//! After such a stop files may lack what was written last, whatever their stamps say. Each part of a torrent is then
//! proved before it is uploaded, until a pass of the background check has read the torrent. Nothing else is read again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::content::{Content, ReadFault, now};
use super::placement::change_time;
use super::{Home, Store, StoreError, StoredRevision};
use crate::model::InfoHash;
use crate::{fsutil, nofollow};

/// Longest file read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// How far a torrent was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When the last pass that read all of it began, in seconds since 1970; 0 if there was none.
    pub at: u64,
    /// When the pass that is under way began; 0 if none is.
    #[serde(default)]
    pub began: u64,
    /// The next piece of the pass that is under way.
    #[serde(default)]
    pub next: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    /// The boot in which the store was opened last, in hexadecimal digits.
    boot: String,
    /// Whether it has not been closed since.
    open: bool,
    /// When the last boot after a stop of the machine was noticed, in seconds since 1970.
    #[serde(default)]
    unclean_at: Option<u64>,
    #[serde(default)]
    passes: BTreeMap<InfoHash, Pass>,
}

/// The state of the background check.
pub(super) struct Scrub {
    path: PathBuf,
    saved: Mutex<Saved>,
    /// Whether this process has the node's lock.
    locked: bool,
}

impl Scrub {
    /// Reads the state, and notices a stop of the machine since the store was opened last. A file that cannot be read
    /// counts as such a stop.
    pub fn open(path: PathBuf, boot: &[u8; 16], locked: bool) -> Self {
        let read = fsutil::read_capped(&path, MAX_FILE)
            .and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).map_err(io::Error::from));
        let boot = hex::encode(boot);
        let mut saved = match read {
            Ok(saved) => saved,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Saved { boot: boot.clone(), ..Saved::default() },
            Err(e) => {
                tracing::warn!("{} cannot be used: {e}; uploads are proved again.", path.display());
                Saved { open: true, ..Saved::default() }
            }
        };
        if saved.open && saved.boot != boot {
            saved.unclean_at = Some(now());
        }
        (saved.boot, saved.open) = (boot, true);
        let this = Self { path, saved: Mutex::new(saved), locked };
        this.save();
        this
    }

    /// The store is closed in order: what is in memory is on the disk.
    pub fn close(&self) {
        self.lock().open = false;
        self.save();
    }

    pub fn is_doubted(&self, info_hash: &InfoHash) -> bool {
        let saved = self.lock();
        let at = saved.passes.get(info_hash).map_or(0, |pass| pass.at);
        saved.unclean_at.is_some_and(|unclean_at| at < unclean_at)
    }

    fn update(&self, info_hash: &InfoHash, pass: Pass) {
        self.lock().passes.insert(*info_hash, pass);
        self.save();
    }

    /// It is no loss but time if that fails.
    fn save(&self) {
        if !self.locked {
            return;
        }
        let saved = self.lock();
        let written = serde_json::to_vec(&*saved)
            .map_err(io::Error::from)
            .and_then(|bytes| fsutil::write_atomic(&self.path, &bytes, fsutil::MODE_PRIVATE));
        if let Err(e) = written {
            tracing::warn!("{} could not be written: {e}.", self.path.display());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock()
    }
}

impl Store {
    /// How far a torrent was read by the background check.
    pub fn pass(&self, info_hash: &InfoHash) -> Pass {
        self.shared.scrub.lock().passes.get(info_hash).copied().unwrap_or_default()
    }

    /// Records how far a torrent was read.
    pub fn set_pass(&self, info_hash: &InfoHash, pass: Pass) {
        self.shared.scrub.update(info_hash, pass);
    }

    /// Forgets the passes over torrents that `known` does not hold for.
    pub fn retain_passes(&self, known: impl Fn(&InfoHash) -> bool) {
        self.shared.scrub.lock().passes.retain(|info_hash, _| known(info_hash));
    }

    /// Whether a torrent may have lost bytes when the machine stopped, and was not read since.
    pub fn is_doubted(&self, info_hash: &InfoHash) -> bool {
        self.shared.scrub.is_doubted(info_hash)
    }

    /// Records that all bytes of a content were read and are right, in a file with this change time.
    pub fn set_change_time(&self, content: &Content, changed_ns: i64) -> Result<(), StoreError> {
        let (Some(key), Home::Placed(file)) = (content.key(), content.home()) else { return Ok(()) };
        if file.changed_ns == Some(changed_ns) {
            return Ok(());
        }
        self.shared.placements.update_file(&key, &file.path, |entry| entry.changed_ns = Some(changed_ns))
    }
}

impl StoredRevision {
    /// Whether bytes of it may have been lost when the machine stopped, and were not read since.
    pub fn is_doubted(&self) -> bool {
        let shared = self.contents.first().map(|content| content.shared());
        shared.is_some_and(|shared| shared.scrub.is_doubted(&self.manifest.torrent.info_hash))
    }
}

impl Content {
    /// Reads verified bytes to compare them with their hash: not a use that keeps them from being evicted. None if some
    /// are not verified.
    pub fn read_to_prove(&self, range: std::ops::Range<u64>) -> io::Result<Option<Vec<u8>>> {
        let (home, moves, removals) = {
            let state = self.state();
            if !state.map.has(&range) {
                return Ok(None);
            }
            (state.home.clone(), state.moves, state.removals)
        };
        let read = self.read_at(&home, moves, &range);
        let is_as_before = {
            let state = self.state();
            (state.moves, state.removals) == (moves, removals)
        };
        match read {
            _ if !is_as_before => Ok(None),
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadFault::Lost(lost, error)) => {
                if self.take_back_lost(moves, lost, &error)? {
                    tracing::warn!("{}: {error}; what it lacks is fetched again.", self.path().display());
                }
                Err(error)
            }
            Err(ReadFault::Other(error)) => Err(error),
        }
    }

    /// The change time of the placed file that holds the bytes, nanoseconds since 1970; none if there is none.
    pub fn change_time(&self) -> Option<i64> {
        match self.home() {
            Home::Placed(file) => placed_change_time(&file.path),
            _ => None,
        }
    }
}

fn placed_change_time(path: &Path) -> Option<i64> {
    nofollow::metadata(path).ok().as_ref().map(change_time)
}
