//! `fusermount3`, the set-uid helper that mounts and unmounts for users without privileges.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::MountError;
use super::mountinfo::SOURCE;
use crate::ffi::process::inherit_streams_only;

/// The names of the helper program. The second is its FUSE 2 name, often a link to the first.
const NAMES: [&str; 2] = ["fusermount3", "fusermount"];

/// How long the helper may take. It makes a few system calls, so it takes longer only on a broken system.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mounts, and returns the connection to the kernel.
pub fn mount(path: &Path, allow_other: bool) -> Result<OwnedFd, MountError> {
    let io_error = |source| MountError::Io { what: "mounting on", path: path.to_owned(), source };
    let mut options = format!("ro,nosuid,nodev,default_permissions,fsname={SOURCE},subtype={SOURCE}");
    if allow_other {
        options.push_str(",allow_other");
    }
    let (ours, theirs) = UnixStream::pair().map_err(io_error)?;
    // The helper sends the connection over the socket that the variable names by descriptor number. As standard input
    // the socket has the number 0 in the helper only. An inheritable descriptor of this process could also reach a
    // child that another thread starts meanwhile.
    let child = spawn(|command| {
        command.arg("-o").arg(&options).arg("--").arg(path).env("_FUSE_COMMFD", "0");
        Ok(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
    })
    .map_err(io_error)?
    .ok_or(MountError::NoHelper)?;
    drop(theirs);
    let (status, stderr) = finish(child)?;
    if !status.success() {
        return Err(if stderr.contains("user_allow_other") {
            MountError::AllowOtherRefused
        } else if stderr.contains("/dev/fuse") && stderr.contains("denied") {
            MountError::DeviceClosed
        } else if stderr.contains("/dev/fuse") {
            MountError::NoDevice
        } else if stderr.contains("no write access") || stderr.contains("not owned by") {
            MountError::NoPermission(path.to_owned())
        } else {
            MountError::Helper(stderr)
        });
    }
    // The helper sends before it exits, so this does not wait.
    ours.set_nonblocking(true).map_err(io_error)?;
    receive(&ours).map_err(io_error)
}

/// Unmounts; `lazy` detaches a busy mount.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let io_error = |source| MountError::Io { what: "unmounting", path: path.to_owned(), source };
    let child = spawn(|command| {
        command.arg("-u");
        if lazy {
            command.arg("-z");
        }
        command.arg("--").arg(path);
        Ok(Stdio::null())
    })
    .map_err(io_error)?
    .ok_or(MountError::NoHelper)?;
    let (status, stderr) = finish(child)?;
    if status.success() {
        Ok(())
    } else if stderr.contains("busy") {
        Err(MountError::InUse(path.to_owned()))
    } else {
        Err(MountError::Helper(stderr))
    }
}

/// Whether a helper is installed in one of the directories of `PATH`.
pub fn exists() -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).any(|dir| NAMES.iter().any(|name| dir.join(name).is_file()))
}

/// Starts the helper under the first of its names that exists; none if no name exists.
fn spawn(prepare: impl Fn(&mut Command) -> io::Result<Stdio>) -> io::Result<Option<Child>> {
    for name in NAMES {
        let mut command = Command::new(name);
        let stdin = prepare(&mut command)?;
        // The helper is set-uid, so it must not inherit the sockets of the engine.
        inherit_streams_only(&mut command);
        match command.env("LC_ALL", "C").stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => return other.map(Some),
        }
    }
    Ok(None)
}

/// Waits for the helper, at most [`PATIENCE`], and returns the first line of its standard error.
fn finish(mut child: Child) -> Result<(ExitStatus, String), MountError> {
    let io_error = |source| MountError::Io { what: "running", path: NAMES[0].into(), source };
    let ended = Pid::from_raw(child.id() as i32)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .and_then(|pidfd| wait_readable(&pidfd))
        .map_err(|e| io_error(e.into()))?;
    if !ended {
        child.kill().map_err(io_error)?;
        child.wait().map_err(io_error)?;
        return Err(MountError::Timeout { what: "fusermount3", seconds: PATIENCE.as_secs() });
    }
    let status = child.wait().map_err(io_error)?;
    let mut stderr = String::new();
    if let Some(pipe) = child.stderr.take() {
        // Bounded, because only the first line is used.
        pipe.take(4096).read_to_string(&mut stderr).map_err(io_error)?;
    }
    let line = stderr.lines().next().unwrap_or_default();
    Ok((status, line.trim_start_matches("fusermount3: ").trim_start_matches("fusermount: ").to_owned()))
}

fn wait_readable(fd: &OwnedFd) -> Result<bool, rustix::io::Errno> {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout))? > 0)
}

fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("fusermount3 sent no connection"))
}
