//! Reports changes in directories, through inotify. The kind of change is ignored: the caller scans again.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::ffi;

/// Events that add, remove or complete a file. Writes are excluded: a large download would report millions.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);

/// Watches directories until dropped.
#[derive(Debug)]
pub(super) struct DirWatch(AsyncFd<OwnedFd>);

impl DirWatch {
    /// Fails if the user has as many watchers as the kernel permits. Must run inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self(ffi::process::pollable(fd)?))
    }

    /// Watches directories from now on. A directory that is watched already costs nothing; an absent one is skipped.
    /// Returns false if another one cannot be watched: the kernel permits a limited number for each user.
    pub fn watch(&self, dirs: &BTreeSet<PathBuf>) -> bool {
        dirs.iter().all(|dir| match inotify::add_watch(self.0.get_ref(), dir, CHANGES) {
            Ok(_) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => true,
            Err(error) => {
                tracing::debug!(%error, path = %dir.display(), "could not watch a directory");
                false
            }
        })
    }

    /// Waits for a change since the last call. Fails if the kernel no longer reports changes.
    pub async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut events = [0; 4096];
        loop {
            match rustix::io::read(self.0.get_ref(), &mut events) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn changes_in_watched_directories_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        fs::create_dir(&sub).unwrap();
        let watch = DirWatch::new().unwrap();
        assert!(watch.watch(&BTreeSet::from([sub.clone(), dir.path().join("gone")])));
        let changed = async || {
            tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.unwrap().unwrap();
        };
        fs::write(sub.join("a"), "x").unwrap();
        changed().await;
        fs::rename(sub.join("a"), sub.join("b")).unwrap();
        changed().await;
        fs::remove_file(sub.join("b")).unwrap();
        changed().await;
        fs::remove_dir(&sub).unwrap();
        changed().await;
    }
}
