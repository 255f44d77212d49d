//! Checks whether a directory can be mounted on. Detaches dead silmaril mounts there.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::geteuid;
use tracing::info;

use super::detach::{detach, resolve};
use super::error::MountError;
use super::liveness::{Liveness, call_within, liveness};
use super::{helper, mountinfo};

/// How long a mounted file system may take to answer. If it takes longer, it counts as alive but hung.
const PROBE_WITHIN: Duration = Duration::from_secs(5);

/// How many dead mounts at one mount point are detached.
const MAX_STACKED: usize = 16;

/// Checks the mount point and returns its path without symbolic links. Takes at most some multiples of 5 s.
pub fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let resolved = resolve(path)?;
    for _ in 0..MAX_STACKED {
        let entry = mountinfo::at(&resolved).map_err(|source| MountError::Io {
            what: "reading",
            path: "/proc/self/mountinfo".into(),
            source,
        })?;
        let Some(entry) = entry else { break };
        if !entry.is_silmaril() {
            return Err(MountError::OtherMount { path: path.to_owned(), fs_type: entry.fs_type });
        }
        if liveness(&resolved, PROBE_WITHIN) != Liveness::Dead {
            return Err(MountError::Busy(path.to_owned()));
        }
        info!(path = %resolved.display(), "detaching a mount whose process has ended");
        detach(&resolved, true)?;
    }
    // Of mounts that contain each other, the deepest is the last.
    if let Some(outer) = mountinfo::above(&resolved).map_err(|source| MountError::Io {
        what: "reading",
        path: "/proc/self/mountinfo".into(),
        source,
    })? && outer.is_silmaril()
    {
        return Err(MountError::InsideMount { path: path.to_owned(), mount: outer.mount_point });
    }
    let metadata =
        call_within(&resolved, PROBE_WITHIN, std::fs::metadata).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => MountError::Missing(path.to_owned()),
            io::ErrorKind::NotADirectory => MountError::NotDirectory(path.to_owned()),
            io::ErrorKind::PermissionDenied => MountError::NoPermission(path.to_owned()),
            _ => MountError::Io { what: "reading", path: path.to_owned(), source },
        })?;
    if !metadata.is_dir() {
        return Err(MountError::NotDirectory(path.to_owned()));
    }
    let is_empty = |path| std::fs::read_dir(path).map(|mut dir| dir.next().is_none());
    match call_within(&resolved, PROBE_WITHIN, is_empty) {
        Ok(true) => {}
        Ok(false) => return Err(MountError::NotEmpty(path.to_owned())),
        Err(_) => return Err(MountError::NoPermission(path.to_owned())),
    }
    if !geteuid().is_root() {
        if access(&resolved, Access::WRITE_OK).is_err() {
            return Err(MountError::NoPermission(path.to_owned()));
        }
        if !helper::exists() {
            return Err(MountError::NoHelper);
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unusable_mount_point_has_its_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(prepare(&missing), Err(MountError::Missing(p)) if p == missing));
        assert!(matches!(prepare(&missing.join("deeper")), Err(MountError::Missing(_))));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(prepare(&file), Err(MountError::NotDirectory(_))));
        assert!(matches!(
            prepare(&file.join("below")),
            Err(MountError::NotDirectory(_) | MountError::Missing(_))
        ));
        assert!(matches!(prepare(dir.path()), Err(MountError::NotEmpty(_))));
        assert!(
            matches!(prepare(Path::new("/proc")), Err(MountError::OtherMount { fs_type, .. }) if fs_type == "proc")
        );
    }

    #[test]
    fn links_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(prepare(&link).unwrap(), target.canonicalize().unwrap());
        assert_eq!(prepare(&target.join("..").join("target")).unwrap(), target.canonicalize().unwrap());
    }
}
