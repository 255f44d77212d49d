//! The kernel's read-ahead for the files of a mount.
//!
//! The kernel copies the read-ahead of the mount to a file when the request to open it has been answered, so the value is set
//! before each answer. A value that is set before the first request is overwritten by the answer to `INIT`. Only root may set
//! it; otherwise it stays at the kernel's default of 128 KiB.

use std::path::PathBuf;

use parking_lot::Mutex;
use tracing::debug;

use crate::fetch::FileRef;

/// For a file of which all bytes are on this host, in KiB: two requests of 1 MiB keep the copying busy.
const COMPLETE: u32 = 2048;

/// For a file that comes from a swarm, in KiB. `fetch`, which knows pieces and tensors, reads further ahead.
const OF_SWARM: u32 = 128;

/// For a file that comes from a hub, in KiB. A page fault reads half of it before the page, and the kernel reads up to twice of it
/// past the end of what a program reads. Each of these bytes is requested from the hub.
const OF_HUB: u32 = 64;

/// Sets the read-ahead of one mount.
#[derive(Debug)]
pub struct ReadAhead {
    path: PathBuf,
    /// The value that was set last; `Err` once that was refused.
    current: Mutex<Result<Option<u32>, ()>>,
}

impl ReadAhead {
    /// For the mount with this device number, major and minor.
    pub fn of((major, minor): (u32, u32)) -> Self {
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb").into();
        Self { path, current: Mutex::new(Ok(None)) }
    }

    /// Sets it for a file that is being opened. If several files are opened at the same time, one may get the value of another:
    /// that costs time or bytes, and nothing else.
    pub fn set_for(&self, file: &FileRef) {
        let mut current = self.current.lock();
        let Ok(before) = *current else { return };
        let wanted = wanted(file);
        if before == Some(wanted) {
            return;
        }
        *current = match std::fs::write(&self.path, wanted.to_string()) {
            Ok(()) => Ok(Some(wanted)),
            Err(error) => {
                debug!(path = %self.path.display(), %error, "could not change the kernel's read-ahead");
                Err(())
            }
        };
    }
}

fn wanted(file: &FileRef) -> u32 {
    let present = file.present();
    let file = present.as_ref().unwrap_or(file);
    if file.revision.contents[file.file].is_complete() {
        COMPLETE
    } else if file.revision.hub.is_some() {
        OF_HUB
    } else {
        OF_SWARM
    }
}
