//! Why mounting or unmounting failed, each with its remedy.

use std::io;
use std::path::PathBuf;

/// Why mounting or unmounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory does not exist.
    #[error("mount point {} does not exist; make it with: mkdir -p {}", .0.display(), .0.display())]
    Missing(PathBuf),
    /// It is not a directory.
    #[error("mount point {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// It has files in it, which the mount would hide.
    #[error("mount point {} is not empty; choose an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// A live silmaril mount is there.
    #[error("silmaril is already mounted at {}; unmount it with: silmaril unmount {}", .0.display(), .0.display())]
    Busy(PathBuf),
    /// Something else is mounted there.
    #[error("{} is already a mount point ({fs_type}); choose an empty directory", path.display())]
    OtherMount {
        /// Where.
        path: PathBuf,
        /// Of what type.
        fs_type: String,
    },
    /// This user may not mount there.
    #[error("no permission to mount on {}; choose a directory that you own", .0.display())]
    NoPermission(PathBuf),
    /// There is no FUSE on this machine, or not in this container.
    #[error("there is no usable /dev/fuse; load it with: modprobe fuse (in a container: --device /dev/fuse)")]
    NoDevice,
    /// The device is there, but not for this user.
    #[error("/dev/fuse is closed to this user; open it as root with: chmod 666 /dev/fuse")]
    DeviceClosed,
    /// Mounting without root needs the helper.
    #[error("fusermount3 is needed to mount without root; install it with: apt install fuse3")]
    NoHelper,
    /// The system does not allow `allow_other`.
    #[error("--allow-other needs the line user_allow_other in /etc/fuse.conf (or root)")]
    AllowOtherRefused,
    /// The helper refused.
    #[error("fusermount3 refused: {0}")]
    Helper(String),
    /// Nothing is mounted there.
    #[error("nothing is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// What is mounted there is not ours.
    #[error("{} is not a silmaril mount ({fs_type})", path.display())]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// Of what type.
        fs_type: String,
    },
    /// Programs have files open there.
    #[error("{} is in use; close what reads there (lsof {}) or unmount lazily", .0.display(), .0.display())]
    InUse(PathBuf),
    /// It did not happen in time.
    #[error("{what} took longer than {seconds} s")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        seconds: u64,
    },
    /// The system refused otherwise.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
