//! The progress of the background check of stored files, and whether the machine stopped while this program ran:
//! `scrub.json`.
//!
//! After such a stop files may lack the bytes that were written last, even if their stamps have not changed. Each part of a
//! torrent is then proved before it is uploaded, until a pass of the background check has read the torrent. No other bytes
//! are read again.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::record::now;
use crate::fsutil;
use crate::model::InfoHash;

/// Longest file read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The progress of the check of one torrent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When the last pass that read all of it began, in seconds since 1970; 0 if there was none.
    pub at: u64,
    /// When the present pass began; 0 if there is none.
    #[serde(default)]
    pub began: u64,
    /// The next piece of the present pass.
    #[serde(default)]
    pub next: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    /// The boot in which the store was opened last, in hexadecimal digits.
    boot: String,
    /// Whether the store was not closed since it was opened last.
    open: bool,
    /// When the last boot after a stop of the machine was noticed, in seconds since 1970.
    #[serde(default)]
    unclean_at: Option<u64>,
    #[serde(default)]
    passes: BTreeMap<InfoHash, Pass>,
}

/// The state of the background check.
pub(crate) struct Scrub {
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
                tracing::warn!(error = %e, file = %path.display(), "the file cannot be used; uploads are proved again");
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

    /// Records that the store is closed in order: all its bytes are on the disk.
    pub fn close(&self) {
        self.saved.lock().open = false;
        self.save();
    }

    /// Whether a torrent may have lost bytes when the machine stopped, and was not read since.
    pub fn is_doubted(&self, info_hash: &InfoHash) -> bool {
        let saved = self.saved.lock();
        let at = saved.passes.get(info_hash).map_or(0, |pass| pass.at);
        saved.unclean_at.is_some_and(|unclean_at| at < unclean_at)
    }

    /// The progress of the check of a torrent.
    pub fn pass(&self, info_hash: &InfoHash) -> Pass {
        self.saved.lock().passes.get(info_hash).copied().unwrap_or_default()
    }

    /// Records the progress of the check of a torrent.
    pub fn set_pass(&self, info_hash: &InfoHash, pass: Pass) {
        self.saved.lock().passes.insert(*info_hash, pass);
        self.save();
    }

    /// Forgets the passes over torrents for which `known` is false.
    pub fn retain(&self, known: impl Fn(&InfoHash) -> bool) {
        self.saved.lock().passes.retain(|info_hash, _| known(info_hash));
    }

    /// Saves the state. A failure is logged: the next process proves more bytes again than it must.
    fn save(&self) {
        if !self.locked {
            return;
        }
        let saved = self.saved.lock();
        let written = serde_json::to_vec(&*saved)
            .map_err(io::Error::from)
            .and_then(|bytes| fsutil::write_atomic(&self.path, &bytes, fsutil::MODE_PRIVATE));
        if let Err(e) = written {
            tracing::warn!(error = %e, file = %self.path.display(), "could not save the progress of the check");
        }
    }
}
