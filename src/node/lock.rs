//! `node.lock`: one process per base directory; `node.next`: who is to have it when its holder lets go.
//!
//! Both are locks of the kernel, which lets go of them when a process dies, however it dies: a file left behind by
//! `kill -9` is no obstacle.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::node::NodeError;
use crate::paths::Paths;

/// A claim that was not renewed for so long counts for nothing: its process hangs.
const CLAIM_LAPSES_AFTER: Duration = Duration::from_secs(5);

/// Holds the base directory until dropped.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

impl NodeLock {
    /// Takes the lock at once or says who holds it, or has a [`Claim`] to it.
    pub fn take(paths: &Paths) -> Result<Self, NodeError> {
        let path = paths.lock();
        let busy = |pid| NodeError::Busy { base: paths.base.clone(), pid };
        let mut file = open(&path)?;
        if !lock(&file, &path)? {
            return Err(busy(holder(&mut file)));
        }
        if let Some(pid) = claimed_by_another(paths) {
            return Err(busy(pid));
        }
        sign(&mut file, &path)?;
        Ok(Self { _file: file })
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

/// The right to be the next to take the base directory. While a process has it, and renews it, no other takes the
/// lock, so that a node that was handed over goes to whoever asked for it. Dropping it gives it up.
#[derive(Debug)]
pub struct Claim {
    file: File,
    paths: Paths,
}

impl Claim {
    /// Claims; none where another process has a claim.
    pub fn stake(paths: &Paths) -> Result<Option<Self>, NodeError> {
        let path = paths.next();
        let mut file = open(&path)?;
        if !lock(&file, &path)? {
            return Ok(None);
        }
        sign(&mut file, &path)?;
        Ok(Some(Self { file, paths: paths.clone() }))
    }

    /// Shows that this process is alive.
    pub fn renew(&mut self) -> Result<(), NodeError> {
        sign(&mut self.file, &self.paths.next())
    }
}

/// The other process that has a claim, if there is one and it does not hang.
fn claimed_by_another(paths: &Paths) -> Option<String> {
    let mut file = File::open(paths.next()).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => {}
        _ => return None,
    }
    // A clock that was set back makes the claim one that has lapsed.
    let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
    let pid = holder(&mut file);
    (age < CLAIM_LAPSES_AFTER && pid != std::process::id().to_string()).then_some(pid)
}

fn open(path: &Path) -> Result<File, NodeError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|source| NodeError::Io { path: path.to_owned(), source })
}

/// Whether the file could be locked at once.
fn lock(file: &File, path: &Path) -> Result<bool, NodeError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(NodeError::Io { path: path.to_owned(), source: e.into() }),
    }
}

/// Writes this process's id into a file that it has locked. Whoever reads meanwhile sees the former text or this one:
/// it has always the same length, and is written at once. On a full disk the process is not named: the lock counts.
fn sign(file: &mut File, path: &Path) -> Result<(), NodeError> {
    let text = format!("{:\n<11}", std::process::id());
    let mut signed = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64));
    if signed.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
        signed = file.set_len(0).and_then(|()| file.set_modified(SystemTime::now()));
    }
    signed.map_err(|source| NodeError::Io { path: path.to_owned(), source })
}

/// The process id written in a lock file, or `?`.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    let text = text.trim();
    match read {
        Ok(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.to_owned(),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_learns_who_holds_it() {
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
    fn what_one_process_claims_no_other_takes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let claim = Claim::stake(&paths).unwrap().unwrap();
        assert!(Claim::stake(&paths).unwrap().is_none(), "two claims at once");
        drop(NodeLock::take(&paths).unwrap());
        // As if another process had it.
        std::fs::write(paths.next(), "1").unwrap();
        assert!(matches!(NodeLock::take(&paths), Err(NodeError::Busy { pid, .. }) if pid == "1"));
        assert_eq!(NodeLock::holder(&paths), None, "the refused one keeps the lock");
        // It hangs.
        let ages_ago = std::time::SystemTime::now() - 2 * CLAIM_LAPSES_AFTER;
        File::options().write(true).open(paths.next()).unwrap().set_modified(ages_ago).unwrap();
        drop(NodeLock::take(&paths).unwrap());
        // It is gone.
        std::fs::write(paths.next(), "1").unwrap();
        drop(claim);
        NodeLock::take(&paths).unwrap();
    }

    #[test]
    fn a_claim_that_is_renewed_does_not_lapse() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let mut claim = Claim::stake(&paths).unwrap().unwrap();
        let modified = || std::fs::metadata(paths.next()).unwrap().modified().unwrap();
        let ages_ago = std::time::SystemTime::now() - 2 * CLAIM_LAPSES_AFTER;
        claim.file.set_modified(ages_ago).unwrap();
        claim.renew().unwrap();
        assert!(modified().elapsed().unwrap() < CLAIM_LAPSES_AFTER);
    }
}
