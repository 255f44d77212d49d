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

use super::error::MountError;
use super::helper;
use super::mountinfo::SOURCE;

/// Each open file of this device is a connection.
const DEVICE: &str = "/dev/fuse";

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
