//! Converts errors to error numbers, for all FUSE replies.

use rustix::io::Errno;

use super::tree_error::TreeError;
use crate::fetch::ReadError;

/// An error that a FUSE reply can carry.
pub trait ToErrno: std::fmt::Display {
    /// The number that the program receives, and whether the log gets a warning. Errors that programs cause in normal use,
    /// such as a missing name, get none.
    fn outcome(&self) -> (Errno, bool);

    /// The number that the program receives.
    fn errno(&self) -> Errno {
        self.outcome().0
    }

    /// Whether the log gets a warning.
    fn is_fault(&self) -> bool {
        self.outcome().1
    }
}

impl ToErrno for TreeError {
    fn outcome(&self) -> (Errno, bool) {
        let errno = match self {
            Self::Stale => Errno::STALE,
            Self::NotDir => Errno::NOTDIR,
            Self::IsDir => Errno::ISDIR,
            Self::NotLink => Errno::INVAL,
            Self::NoAttribute => Errno::NODATA,
            Self::Disputed | Self::Denied => Errno::ACCESS,
            Self::Interrupted => Errno::INTR,
            Self::Stopped => Errno::IO,
        };
        (errno, false)
    }
}

impl ToErrno for ReadError {
    fn outcome(&self) -> (Errno, bool) {
        // Programs that read handle only EIO; a reader by mmap gets SIGBUS for any error.
        match self {
            Self::Denied(_) => (Errno::ACCESS, true),
            Self::Stopped | Self::Left => (Errno::IO, false),
            Self::TimedOut(_) | Self::Disk(..) | Self::NoSpace | Self::Broken(_) => (Errno::IO, true),
        }
    }
}

/// The reason why the adapter itself refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The handle is not open.
    #[error("the handle is not open")]
    BadHandle,
    /// The caller's buffer is too small for the extended attribute.
    #[error("the buffer is too small")]
    SmallBuffer,
    /// The caller asks for a permission that the file does not have.
    #[error("no permission")]
    Access,
    /// Another program has changed the file, and a handle is open that was opened before.
    #[error(
        "another program has changed the file on the disk; close the programs that have it open, then `silmaril verify` its model"
    )]
    Changed,
}

impl ToErrno for RequestError {
    fn outcome(&self) -> (Errno, bool) {
        match self {
            Self::ReadOnly => (Errno::ROFS, false),
            Self::BadHandle => (Errno::BADF, true),
            Self::SmallBuffer => (Errno::RANGE, false),
            Self::Access => (Errno::ACCESS, false),
            Self::Changed => (Errno::IO, true),
        }
    }
}
