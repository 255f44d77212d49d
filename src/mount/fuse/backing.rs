//! Passthrough: complete files that the kernel reads without asking this process.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use fuser::{BackingId, ReplyOpen};
use tracing::debug;

use crate::fetch::FileRef;
use crate::fsutil::FileVersion;
use crate::store::ContentPin;

/// A complete file that is as it was verified, opened for direct reads by the kernel.
pub(super) struct UnchangedFile {
    file: File,
    path: PathBuf,
    pin: ContentPin,
}

impl UnchangedFile {
    /// None for a file that is not complete or has changed. Called for each open, even without passthrough, because this
    /// detects files that another program changed.
    pub fn open(file: &FileRef) -> Option<Self> {
        // The bytes of a hub move to another content later, where this pin does not keep them.
        // The kernel would read bytes that must be compared with the hub's list first.
        if file.revision.hub.is_some() || file.is_unchecked() {
            return None;
        }
        let content = &file.revision.contents[file.file];
        let pin = content.pin();
        Some(Self { file: content.open_for_passthrough()?, path: content.path(), pin })
    }

    /// Registers the file with the kernel; none if the kernel refuses.
    pub fn register(self, reply: &ReplyOpen) -> Option<BackingFile> {
        let opened = self.file.metadata().ok()?;
        let id = reply.open_backing(&self.file);
        let id = id.inspect_err(|error| debug!(%error, "the kernel refused to read a file directly")).ok()?;
        Some(BackingFile { id, path: self.path, opened, _pin: self.pin })
    }
}

/// A file that the kernel reads directly: its registration, and the pin that keeps its bytes in the store.
pub(super) struct BackingFile {
    pub id: BackingId,
    /// Where the file was when it was opened. No descriptor is kept: a program may open any number of files.
    path: PathBuf,
    opened: Metadata,
    _pin: ContentPin,
}

impl BackingFile {
    /// Whether no program has changed the file since it was opened. A file that was deleted, moved or replaced keeps its bytes.
    pub fn is_unchanged(&self) -> bool {
        let then = &self.opened;
        let Ok(now) = std::fs::symlink_metadata(&self.path) else { return true };
        (now.dev(), now.ino()) != (then.dev(), then.ino()) || FileVersion::of(&now) == FileVersion::of(then)
    }
}
