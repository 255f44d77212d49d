//! The step that publishes one file: from the store to its path in a model directory.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::aside::{Kept, set_aside};
use super::copy::{ExtentSharing, crosses_devices, duplicate_unsynced};
use super::placement::Stamp;
use super::removable::Removable;
use crate::{fsutil, nofollow};

/// How a published file is made.
#[derive(Debug)]
pub(super) enum Method {
    /// It exists already.
    There,
    /// It is empty.
    Create,
    /// The store's own file is renamed.
    Move(PathBuf),
    /// It is made from another file; from a placed file only while that has the given stamp.
    Duplicate(PathBuf, ExtentSharing, Option<Stamp>),
}

/// The step for one file.
#[derive(Debug)]
pub(super) struct PublishStep {
    pub file: usize,
    pub target: PathBuf,
    pub method: Method,
    /// The prepared file, which is renamed to `target`.
    pub ready: Option<PathBuf>,
    /// The stamp of the file, taken where no other user could exchange it.
    pub stamp: Option<Stamp>,
    pub ours: bool,
    pub executable: bool,
    /// The stamps of the file at `target` that is replaced; none if no file may be replaced.
    pub replaces: Option<Vec<Stamp>>,
    /// The edited file that was at `target`.
    pub kept: Option<Kept>,
}

impl PublishStep {
    pub fn stamp(&self) -> io::Result<Stamp> {
        self.stamp.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes the file that will be renamed, with the mode of a file that all users may read. The caller makes it durable.
    pub fn prepare(&mut self, staging: &Path) -> io::Result<()> {
        let temporary = staging.join(format!("{}.new", self.file));
        let ready = match &self.method {
            Method::There => return Ok(()),
            Method::Create => {
                nofollow::remove_if_there(&temporary)?;
                self.set_mode(&nofollow::create_new(&temporary)?)?;
                temporary
            }
            Method::Move(data) => {
                self.set_mode(&nofollow::read(data)?)?;
                data.clone()
            }
            Method::Duplicate(from, sharing, stamp) => {
                let fits = is_executable(&nofollow::metadata(from)?) == self.executable;
                // Links of one file have one mode.
                let sharing = if fits { *sharing } else { ExtentSharing::Extents };
                let copied = Stamp::of(&duplicate_unsynced(from, &temporary, sharing)?);
                if stamp.is_some_and(|stamp| stamp != copied) {
                    let text = format!("{} has changed since it was verified", from.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                self.set_executable(&temporary)?;
                temporary
            }
        };
        self.stamp = Some(Stamp::at(&ready)?);
        self.ready = Some(ready);
        Ok(())
    }

    fn set_mode(&self, file: &File) -> io::Result<()> {
        let mode = if self.executable { 0o777 } else { 0o666 };
        file.set_permissions(Permissions::from_mode(mode & !fsutil::umask()))
    }

    /// Sets the mode of a copy whose executable bit is not that of the manifest.
    fn set_executable(&self, path: &Path) -> io::Result<()> {
        let file = nofollow::read(path)?;
        if is_executable(&file.metadata()?) == self.executable { Ok(()) } else { self.set_mode(&file) }
    }

    /// Renames a file to the target. A file that appeared there since the check stays, and is an error. An edited file that
    /// may be replaced is set aside.
    fn put(&mut self, ready: &Path) -> io::Result<()> {
        let Some(ours) = &self.replaces else { return nofollow::rename_new(ready, &self.target) };
        if Stamp::at(&self.target).is_ok_and(|now| !ours.contains(&now)) {
            self.kept = Some(set_aside(&self.target)?);
        }
        nofollow::rename(ready, &self.target)
    }

    /// Renames the prepared file to the target. Across file systems it is copied to `staging` first. Does nothing if the
    /// target already has the content.
    pub fn rename(&mut self, staging: &Path, removable: &Removable) -> io::Result<()> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        removable.clear(&self.target)?;
        nofollow::create_dir_all(fsutil::parent(&self.target))?;
        match self.put(&ready) {
            Err(e) if crosses_devices(&e) => {
                let copied = staging.join(format!("{}.new", self.file));
                if copied != ready {
                    duplicate_unsynced(&ready, &copied, ExtentSharing::Extents)?;
                    self.set_executable(&copied)?;
                    fsutil::flush(&nofollow::read(&copied)?)?;
                    self.stamp = Some(Stamp::at(&copied)?);
                    self.put(&copied)
                } else {
                    Err(e)
                }
            }
            // Renaming onto a hard link of itself leaves both.
            Ok(()) => nofollow::remove_if_there(&ready).map(drop),
            other => other,
        }
    }
}

fn is_executable(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o100 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn file_that_appeared_later_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (ready, target) = (dir.path().join("ready"), dir.path().join("target"));
        fs::write(&ready, b"new").unwrap();
        fs::write(&target, b"precious").unwrap();
        let mut step = PublishStep {
            file: 0,
            target: target.clone(),
            method: Method::Create,
            ready: None,
            stamp: None,
            ours: true,
            executable: false,
            replaces: None,
            kept: None,
        };
        assert_eq!(step.put(&ready).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        step.replaces = Some(vec![Stamp::at(&target).unwrap()]);
        step.put(&ready).unwrap();
        assert_eq!((fs::read(&target).unwrap().as_slice(), &step.kept), (&b"new"[..], &None));
        // An edited file is kept.
        for name in ["target.edited", "target.edited2"] {
            fs::write(&ready, b"newer").unwrap();
            fs::write(&target, b"edited").unwrap();
            step.put(&ready).unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"newer");
            assert_eq!(step.kept.take().unwrap().aside, dir.path().join(name));
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"edited");
        }
    }
}
