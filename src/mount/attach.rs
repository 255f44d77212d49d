//! Mounting: opens a connection to the kernel and attaches it to a mount point.
//!
//! Tries mount(2) first, which root and the root of a user namespace may call. If that is refused, uses the helper.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{getegid, geteuid};
use tracing::debug;

use super::error::MountError;
use super::helper;
use super::mountinfo::{MountEntry, SOURCE};

/// Each open file of this device is a connection.
const DEVICE: &str = "/dev/fuse";

/// The kernel's read-ahead for silmaril mounts, in KiB, where this process may set it. The default of 128 KiB limits a
/// sequential reader to 128 KiB per response time. Two requests of 1 MiB keep the copying busy; `fetch`, which knows
/// pieces and tensors, reads further ahead. A larger value would fetch bytes that no program reads: a page fault reads
/// half of it to either side, and that must not touch more than two pieces of 4 MiB.
const READ_AHEAD_KIB: u32 = 2048;

/// Mounts on an existing directory and returns the connection.
pub fn attach(path: &Path, allow_other: bool) -> Result<OwnedFd, MountError> {
    match direct(path, allow_other)? {
        Some(connection) => Ok(connection),
        None => helper::mount(path, allow_other),
    }
}

/// Mounts by mount(2); none if this process has no permission.
fn direct(path: &Path, allow_other: bool) -> Result<Option<OwnedFd>, MountError> {
    let io_error = |source| MountError::Io { what: "mounting on", path: path.to_owned(), source };
    let device = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => OwnedFd::from(device),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) if no_device(&e) => return Err(MountError::NoDevice),
        Err(source) => {
            return Err(MountError::Io { what: "opening", path: DEVICE.into(), source });
        }
    };
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid().as_raw(),
        getegid().as_raw()
    );
    if allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|e| io_error(e.into()))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match rustix::mount::mount(SOURCE, path, "fuse.silmaril", flags, Some(data.as_c_str())) {
        Ok(()) => Ok(Some(device)),
        Err(Errno::PERM) => Ok(None),
        Err(Errno::NODEV) => Err(MountError::NoDevice),
        Err(Errno::ACCESS) => Err(MountError::NoPermission(path.to_owned())),
        Err(e) => Err(io_error(e.into())),
    }
}

fn no_device(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NXIO | Errno::NODEV))
}

/// Whether this process can open the device, which it needs to open more queues of a connection.
pub fn can_clone() -> bool {
    OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

/// Sets the kernel's read-ahead for a mount to [`READ_AHEAD_KIB`], if that is permitted.
pub fn widen_read_ahead(mount: &MountEntry) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", mount.major, mount.minor);
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        debug!(path, %error, "could not change the kernel's read-ahead");
    }
}
