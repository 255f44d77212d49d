//! Unmounting, and the list of silmaril mounts.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::MountLocation;
use super::error::MountError;
use super::helper;
use super::mountinfo::{self, MountEntry};

/// How long `unmount` waits until the mount has disappeared.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A silmaril mount of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRecord {
    /// The mount point.
    pub mountpoint: PathBuf,
    /// The user who mounted it, if the kernel shows it.
    pub user_id: Option<u32>,
}

/// All silmaril mounts that this process sees, oldest first.
pub fn list_mounts() -> Result<Vec<MountRecord>, MountError> {
    let mounts = mountinfo::read().map_err(mountinfo_error)?;
    let ours = mounts.into_iter().filter(MountEntry::is_silmaril);
    Ok(ours.map(|m| MountRecord { user_id: m.user_id(), mountpoint: m.mount_point }).collect())
}

/// Unmounts the silmaril mount at `path` and waits until it is gone, at most 10 s. `lazy` detaches it even if it is in
/// use: no path leads to it any more, and it ends when the last file is closed.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let resolved = resolve_mounted(path)?;
    let entry = mountinfo::at(&resolved).map_err(mountinfo_error)?;
    let entry = entry.ok_or_else(|| MountError::NotMounted(path.to_owned()))?;
    if !entry.is_silmaril() {
        return Err(MountError::NotOurs { path: path.to_owned(), fs_type: entry.fs_type });
    }
    detach(&entry.mount_point, lazy)?;
    wait_gone(entry.id)
}

/// Resolves the path of a mount point without any request to the file system that is mounted there.
pub fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    mountinfo::resolve(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MountError::Missing(path.to_owned()),
        io::ErrorKind::NotADirectory => MountError::NotDirectory(path.to_owned()),
        io::ErrorKind::PermissionDenied => MountError::NoPermission(path.to_owned()),
        _ => MountError::Io { what: "resolving", path: path.to_owned(), source },
    })
}

/// Like [`resolve`], for a path where something should be mounted.
pub fn resolve_mounted(path: &Path) -> Result<PathBuf, MountError> {
    resolve(path).map_err(|error| match error {
        MountError::Missing(path) => MountError::NotMounted(path),
        error => error,
    })
}

/// Unmounts the topmost mount at the path: by umount2(2), or by the helper if that is refused.
pub fn detach(path: &Path, lazy: bool) -> Result<(), MountError> {
    let lazily = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | lazily) {
        // EINVAL: not a mount point any more, because another process has unmounted it.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::InUse(path.to_owned())),
        Err(Errno::PERM) => helper::unmount(path, lazy),
        Err(e) => Err(MountError::Io { what: "unmounting", path: path.to_owned(), source: e.into() }),
    }
}

/// Unmounts a busy mount and closes its connection, so that requests in flight fail immediately. Root only.
pub fn force(path: &Path) -> Result<(), MountError> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::FORCE | UnmountFlags::DETACH;
    rustix::mount::unmount(path, flags).map_err(|e| MountError::Io {
        what: "unmounting",
        path: path.to_owned(),
        source: e.into(),
    })
}

/// Closes a connection through the control file system of FUSE, which has an entry for it even after it is detached.
/// That file system must be mounted. Permitted to the owner of the connection and to root.
pub fn abort(place: &MountLocation) -> Result<(), MountError> {
    let control = PathBuf::from(format!("/sys/fs/fuse/connections/{}/abort", place.device.1));
    std::fs::write(&control, "1").map_err(|source| MountError::Io { what: "aborting", path: control, source })
}

/// Waits until the mount with that number is gone.
fn wait_gone(id: u32) -> Result<(), MountError> {
    let deadline = Instant::now() + GONE_WITHIN;
    // `poll` reports POLLPRI when the mounts have changed since the file was opened or last polled.
    let watch = File::open("/proc/self/mountinfo").map_err(mountinfo_error)?;
    while mountinfo::read().map_err(mountinfo_error)?.iter().any(|m| m.id == id) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = GONE_WITHIN.as_secs();
            return Err(MountError::Timeout { what: "unmounting", seconds });
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut [PollFd::new(&watch, PollFlags::PRI)], Some(&timeout))
            .map_err(|e| mountinfo_error(e.into()))?;
    }
    Ok(())
}

fn mountinfo_error(source: io::Error) -> MountError {
    MountError::Io { what: "reading", path: "/proc/self/mountinfo".into(), source }
}
