//! Errors of mounting and unmounting.

use std::io;
use std::path::PathBuf;

/// The reason why mounting or unmounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory does not exist.
    #[error("mount point {} does not exist; make it with: mkdir -p {}", .0.display(), .0.display())]
    Missing(PathBuf),
    /// It is not a directory.
    #[error("mount point {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// The directory has files in it, which the mount would hide.
    #[error("mount point {} is not empty; choose an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// A silmaril mount whose process answers is there.
    #[error("silmaril is already mounted at {}; unmount it with: silmaril unmount {}", .0.display(), .0.display())]
    Busy(PathBuf),
    /// It is inside a silmaril mount.
    #[error("{} is inside the silmaril mount {}; choose a directory outside it", path.display(), mount.display())]
    InsideMount {
        /// The mount point.
        path: PathBuf,
        /// The mount that it is inside.
        mount: PathBuf,
    },
    /// Another file system is mounted there.
    #[error("{} is already a mount point ({fs_type}); choose an empty directory", path.display())]
    OtherMount {
        /// The mount point.
        path: PathBuf,
        /// The type of the mounted file system.
        fs_type: String,
    },
    /// This user has no permission to mount there.
    #[error("no permission to mount on {}; choose a directory that you own", .0.display())]
    NoPermission(PathBuf),
    /// This machine or container has no FUSE.
    #[error("there is no usable /dev/fuse; load it with: modprobe fuse (in a container: --device /dev/fuse)")]
    NoDevice,
    /// This user has no permission to open the device.
    #[error("/dev/fuse is closed to this user; open it as root with: chmod 666 /dev/fuse")]
    DeviceClosed,
    /// Mounting without root needs the helper.
    #[error("fusermount3 is needed to mount without root; install it with: apt install fuse3")]
    NoHelper,
    /// The system does not permit `allow_other`.
    #[error("--allow-other needs the line user_allow_other in /etc/fuse.conf (or root)")]
    AllowOtherRefused,
    /// The helper failed with this message.
    #[error("fusermount3 refused: {0}")]
    Helper(String),
    /// Nothing is mounted there.
    #[error("nothing is mounted at {}; list the mounts with: silmaril status", .0.display())]
    NotMounted(PathBuf),
    /// Another file system than silmaril's is mounted there.
    #[error("{} is not a silmaril mount ({fs_type})", path.display())]
    NotOurs {
        /// The mount point.
        path: PathBuf,
        /// The type of the mounted file system.
        fs_type: String,
    },
    /// Programs have files open there.
    #[error("{} is in use; end the programs that read there (lsof {}) or unmount lazily", .0.display(), .0.display())]
    InUse(PathBuf),
    /// An operation took too long.
    #[error("{what} took longer than {seconds} s")]
    Timeout {
        /// The operation.
        what: &'static str,
        /// The time limit.
        seconds: u64,
    },
    /// A system call failed for another reason.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// The operation, as a participle: `mounting on`.
        what: &'static str,
        /// The path that it was applied to.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}
