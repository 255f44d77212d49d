//! `node.lock`: one process per base directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::node::NodeError;
use crate::paths::Paths;

/// Holds the base directory until dropped. The kernel lets go of it when the process dies, however it dies, so
/// that a lock file left behind by `kill -9` is no obstacle.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

impl NodeLock {
    /// Takes the lock at once or says who holds it.
    pub fn take(paths: &Paths) -> Result<Self, NodeError> {
        let path = paths.lock();
        let io = |source| NodeError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(NodeError::Busy { base: paths.base.clone(), pid: holder(&mut file) });
            }
            Err(e) => return Err(io(e.into())),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(io)?;
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

/// The process id written in a lock file, or `?`.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text,
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
}
