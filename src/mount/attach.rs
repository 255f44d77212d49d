//! Mounting: a connection to the kernel, shown at a mount point.
//!
//! First by mount(2), which root may do and the root of a user namespace; where that is refused, by the helper.

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

/// The device that makes connections.
const DEVICE: &str = "/dev/fuse";

/// Read-ahead of the kernel for our mounts, in KiB, where we may set it. The default of 128 KiB limits a sequential
/// reader to 128 KiB per answer time. Two requests of 1 MiB keep the copying busy; what lies further ahead is for
/// `fetch`, which knows pieces and tensors. More would fetch for nothing: a page fault reads half of it to either
/// side, and that must not spread over more than two pieces of 4 MiB.
const READ_AHEAD_KIB: u32 = 2048;

/// Mounts on an existing directory and gives the connection.
pub fn attach(path: &Path, allow_other: bool) -> Result<OwnedFd, MountError> {
    match direct(path, allow_other)? {
        Some(connection) => Ok(connection),
        None => helper::mount(path, allow_other),
    }
}

/// Mounts by mount(2); none where this process may not.
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

/// Whether further queues of a connection can be opened, which needs the device itself.
pub fn can_clone() -> bool {
    OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

/// Widens the kernel's read-ahead for a mount, where that is allowed.
pub fn widen_read_ahead(mount: &MountEntry) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", mount.major, mount.minor);
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        debug!(path, %error, "The kernel's read-ahead stays as it is.");
    }
}
