//! `node.lock`: one process per base directory.
//!
//! It is a lock of the kernel, which releases it when the process ends in any way: a file that remains after `kill -9`
//! does not block the next process. Its first line is the process, its second line the host.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::node::NodeError;
use crate::paths::Paths;

/// Holds the base directory until dropped.
#[derive(Debug)]
pub struct NodeLock {
    file: File,
    path: PathBuf,
}

impl NodeLock {
    /// Takes the lock; `Busy` with the process that holds it.
    pub fn take(paths: &Paths) -> Result<Self, NodeError> {
        let path = paths.lock();
        let busy = |pid| NodeError::Busy { base: paths.base.clone(), pid };
        let mut file = open(&path)?;
        if !lock(&file, &path)? {
            return Err(busy(holder(&mut file)));
        }
        sign(&mut file, &path)?;
        Ok(Self { file, path })
    }

    /// Whether the file is still the one at its path: the base directory was not deleted or replaced.
    pub fn is_in_place(&self) -> bool {
        let number = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let here = self.file.metadata().map(number);
        std::fs::metadata(&self.path).map(number).is_ok_and(|there| here.is_ok_and(|here| here == there))
    }

    /// The process that holds the lock now, if any.
    pub fn holder(paths: &Paths) -> Option<String> {
        let mut file = File::open(paths.lock()).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Some(holder(&mut file)),
            _ => None,
        }
    }
}

fn open(path: &Path) -> Result<File, NodeError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|source| NodeError::Io { path: path.to_owned(), source })
}

/// Locks the file; false if another process has locked it.
fn lock(file: &File, path: &Path) -> Result<bool, NodeError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(NodeError::Io { path: path.to_owned(), source: e.into() }),
    }
}

/// Writes this process and this host into the file that it has locked. On a full disk the text is left out: the lock is
/// valid without it.
fn sign(file: &mut File, path: &Path) -> Result<(), NodeError> {
    let text = format!("{}\n{}\n", std::process::id(), host());
    // Truncated first, so that a reader never sees a mixture of the former and the new text.
    let mut signed = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
    if signed.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
        signed = file.set_len(0).and_then(|()| file.set_modified(SystemTime::now()));
    }
    signed.map_err(|source| NodeError::Io { path: path.to_owned(), source })
}

/// The name of this host.
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.chars().filter(|c| !c.is_control()).collect()
}

/// The process in a lock file, `PID`, or `PID on HOST` if it runs on another host; `?` if there is none.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(300).read_to_string(&mut text));
    let mut lines = text.lines();
    let pid = lines.next().unwrap_or_default();
    match read {
        Ok(_) if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) => {
            match lines.next().filter(|there| !there.is_empty() && *there != host()) {
                Some(there) => format!("{pid} on {there}"),
                None => pid.to_owned(),
            }
        }
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_process_learns_which_one_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let held = NodeLock::take(&paths).unwrap();
        let me = std::process::id().to_string();
        assert_eq!(NodeLock::holder(&paths), Some(me.clone()));
        match NodeLock::take(&paths) {
            Err(NodeError::Busy { pid, .. }) => assert_eq!(pid, me),
            other => panic!("{other:?}"),
        }
        drop(held);
        assert_eq!(NodeLock::holder(&paths), None);
        NodeLock::take(&paths).unwrap();
    }

    #[test]
    fn a_holder_on_another_host_is_reported_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let held = NodeLock::take(&paths).unwrap();
        std::fs::write(paths.lock(), "17\nlab-3\n").unwrap();
        assert_eq!(NodeLock::holder(&paths).as_deref(), Some("17 on lab-3"));
        std::fs::write(paths.lock(), "nothing\n").unwrap();
        assert_eq!(NodeLock::holder(&paths).as_deref(), Some("?"));
        assert!(held.is_in_place());
        std::fs::remove_file(paths.lock()).unwrap();
        assert!(!held.is_in_place());
        std::fs::write(paths.lock(), "").unwrap();
        assert!(!held.is_in_place(), "another file is at its path");
    }
}
