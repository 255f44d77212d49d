//! Whether the process that serves a mount still answers.
//!
//! `stat` proves nothing: the kernel answers it from its cache while the attributes are valid, even after the process
//! has died. `statfs` always sends a request, and fails immediately if the connection is closed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

/// The state of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// The process answers. Also returned for a mount of another user that this process may not use: there the kernel
    /// answers.
    Alive,
    /// The process has ended.
    Dead,
    /// The process did not answer in time.
    Silent,
}

/// Sends a request to the file system that is mounted at `path`, and waits for the reply at most `within`.
pub fn liveness(path: &Path, within: Duration) -> Liveness {
    match call_within(path, within, |path| rustix::fs::statfs(path).map_err(io::Error::from)) {
        Ok(_) => Liveness::Alive,
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Liveness::Silent,
        // ECONNABORTED: the process died after it received the request.
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOTCONN | Errno::CONNABORTED) => Liveness::Dead,
            _ => Liveness::Alive,
        },
    }
}

/// Calls, on its own thread, a function that may hang because of the file system at `path`. After the deadline the thread
/// is abandoned, and the error is `TimedOut`.
pub fn call_within<T: Send + 'static>(
    path: &Path,
    within: Duration,
    call: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = mpsc::channel();
    let path = path.to_owned();
    std::thread::Builder::new().name("mount-probe".into()).spawn(move || {
        // After the deadline there is no receiver.
        let _ = send.send(call(path));
    })?;
    receive.recv_timeout(within).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_hangs_is_abandoned() {
        let (keep, hang) = mpsc::channel::<()>();
        let answer = call_within(Path::new("/"), Duration::from_millis(10), move |_| Ok(hang.recv().is_ok()));
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(keep);
        assert_eq!(call_within(Path::new("/x"), Duration::from_secs(60), Ok).unwrap(), Path::new("/x"));
    }

    #[test]
    fn a_disk_is_alive() {
        assert_eq!(liveness(Path::new("/"), Duration::from_secs(60)), Liveness::Alive);
    }
}
