//! Whether the process behind a mount still answers.
//!
//! `stat` is no evidence: the kernel answers it from its cache for as long as the attributes are valid, also after the
//! process has died. `statfs` always asks the file system, and fails immediately if the connection is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

/// The state of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It answers. The kernel answers for a mount of another user that this process may not use.
    Alive,
    /// Its process is gone.
    Dead,
    /// It did not answer within the deadline.
    Silent,
}

/// Asks the file system that is mounted at `path`, for at most so long.
pub fn liveness(path: &Path, within: Duration) -> Liveness {
    match answer_within(path, within, |path| rustix::fs::statfs(path).map_err(io::Error::from)) {
        Ok(_) => Liveness::Alive,
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Liveness::Silent,
        // ECONNABORTED: the process died after the question had reached it.
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOTCONN | Errno::CONNABORTED) => Liveness::Dead,
            _ => Liveness::Alive,
        },
    }
}

/// Calls a function that a hung file system may never return from. After the deadline the thread that runs it is
/// abandoned, and the error is `TimedOut`.
pub fn answer_within<T: Send + 'static>(
    path: &Path,
    within: Duration,
    ask: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = mpsc::channel();
    let path = path.to_owned();
    std::thread::Builder::new().name("mount-look".into()).spawn(move || {
        // After the deadline there is no receiver.
        let _ = send.send(ask(path));
    })?;
    receive.recv_timeout(within).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_hangs_is_abandoned() {
        let (keep, hang) = mpsc::channel::<()>();
        let answer =
            answer_within(Path::new("/"), Duration::from_millis(10), move |_| Ok(hang.recv().is_ok()));
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(keep);
        assert_eq!(answer_within(Path::new("/x"), Duration::from_secs(60), Ok).unwrap(), Path::new("/x"));
    }

    #[test]
    fn a_disk_is_alive() {
        assert_eq!(liveness(Path::new("/"), Duration::from_secs(60)), Liveness::Alive);
    }
}
