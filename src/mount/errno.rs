//! The one place where errors become error numbers.

use rustix::io::Errno;

use super::tree::TreeError;
use crate::fetch::ReadError;

/// An error that a FUSE reply can carry.
pub trait ToErrno: std::fmt::Display {
    /// The error number.
    fn errno(&self) -> Errno;

    /// Whether it deserves a warning in the log. Programs ask for what is not there all the time.
    fn is_trouble(&self) -> bool;
}

impl ToErrno for TreeError {
    fn errno(&self) -> Errno {
        match self {
            Self::Stale => Errno::STALE,
            Self::NotDir => Errno::NOTDIR,
            Self::IsDir => Errno::ISDIR,
            Self::NotLink => Errno::INVAL,
            Self::NoAttribute => Errno::NODATA,
            Self::Disputed => Errno::ACCESS,
            Self::Interrupted => Errno::INTR,
            Self::Stopped => Errno::IO,
        }
    }

    fn is_trouble(&self) -> bool {
        match self {
            Self::Stale
            | Self::NotDir
            | Self::IsDir
            | Self::NotLink
            | Self::NoAttribute
            | Self::Disputed
            | Self::Interrupted
            | Self::Stopped => false,
        }
    }
}

impl ToErrno for ReadError {
    fn errno(&self) -> Errno {
        // Readers know what to do about EIO only; an mmap reader gets SIGBUS for any of them.
        match self {
            Self::TimedOut(_)
            | Self::Stopped
            | Self::Left
            | Self::Disk(_)
            | Self::NoSpace
            | Self::Broken(_) => Errno::IO,
        }
    }

    fn is_trouble(&self) -> bool {
        match self {
            Self::Stopped | Self::Left => false,
            Self::TimedOut(_) | Self::Disk(_) | Self::NoSpace | Self::Broken(_) => true,
        }
    }
}

/// What the adapter itself refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The handle is not open.
    #[error("no such handle")]
    BadHandle,
    /// The caller's buffer is too small for the attribute.
    #[error("the buffer is too small")]
    SmallBuffer,
    /// Other permissions would be needed.
    #[error("no permission")]
    Access,
}

impl ToErrno for Refusal {
    fn errno(&self) -> Errno {
        match self {
            Self::ReadOnly => Errno::ROFS,
            Self::BadHandle => Errno::BADF,
            Self::SmallBuffer => Errno::RANGE,
            Self::Access => Errno::ACCESS,
        }
    }

    fn is_trouble(&self) -> bool {
        match self {
            Self::BadHandle => true,
            Self::ReadOnly | Self::SmallBuffer | Self::Access => false,
        }
    }
}
