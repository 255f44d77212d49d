//! Converts errors to error numbers, for all FUSE replies.

use rustix::io::Errno;

use super::tree_error::TreeError;
use crate::fetch::ReadError;

/// An error that a FUSE reply can carry.
pub trait ToErrno: std::fmt::Display {
    /// The number that the program receives.
    fn errno(&self) -> Errno;

    /// Whether the log gets a warning. Errors that programs cause in normal use, such as a missing name, get none.
    fn is_fault(&self) -> bool;
}

impl ToErrno for TreeError {
    fn errno(&self) -> Errno {
        match self {
            Self::Stale => Errno::STALE,
            Self::NotDir => Errno::NOTDIR,
            Self::IsDir => Errno::ISDIR,
            Self::NotLink => Errno::INVAL,
            Self::NoAttribute => Errno::NODATA,
            Self::Disputed | Self::Denied => Errno::ACCESS,
            Self::Interrupted => Errno::INTR,
            Self::Stopped => Errno::IO,
        }
    }

    fn is_fault(&self) -> bool {
        match self {
            Self::Stale
            | Self::NotDir
            | Self::IsDir
            | Self::NotLink
            | Self::NoAttribute
            | Self::Disputed
            | Self::Denied
            | Self::Interrupted
            | Self::Stopped => false,
        }
    }
}

impl ToErrno for ReadError {
    fn errno(&self) -> Errno {
        // Programs that read handle only EIO; a reader by mmap gets SIGBUS for any error.
        match self {
            Self::Denied(_) => Errno::ACCESS,
            Self::TimedOut(_)
            | Self::Stopped
            | Self::Left
            | Self::Disk(..)
            | Self::NoSpace
            | Self::Broken(_) => Errno::IO,
        }
    }

    fn is_fault(&self) -> bool {
        match self {
            Self::Stopped | Self::Left => false,
            Self::TimedOut(_) | Self::Denied(_) | Self::Disk(..) | Self::NoSpace | Self::Broken(_) => true,
        }
    }
}

/// Why the adapter itself refuses a request.
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
    fn errno(&self) -> Errno {
        match self {
            Self::ReadOnly => Errno::ROFS,
            Self::BadHandle => Errno::BADF,
            Self::SmallBuffer => Errno::RANGE,
            Self::Access => Errno::ACCESS,
            Self::Changed => Errno::IO,
        }
    }

    fn is_fault(&self) -> bool {
        match self {
            Self::BadHandle | Self::Changed => true,
            Self::ReadOnly | Self::SmallBuffer | Self::Access => false,
        }
    }
}
