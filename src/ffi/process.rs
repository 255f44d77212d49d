//! The end of the process, descriptors that child processes inherit, and descriptors that tokio polls.

use std::ffi::{c_int, c_long, c_uint};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tokio::io::unix::AsyncFd;

unsafe extern "C" {
    /// POSIX `_exit`.
    safe fn _exit(status: c_int) -> !;
    /// A system call by its number.
    fn syscall(number: c_long, ...) -> c_long;
}

/// `close_range(2)`; the number is the same on every architecture.
const CLOSE_RANGE: c_long = 436;

/// `CLOSE_RANGE_CLOEXEC`: the descriptors are marked to be closed by `execve`, and not closed yet.
const CLOEXEC: c_uint = 4;

/// Makes the child of a command inherit its three standard streams and no other descriptor. The sockets of the engine, and
/// descriptors that this process inherited itself, have no close-on-exec flag.
///
/// Before Linux 5.11 the child inherits all descriptors.
pub(crate) fn inherit_streams_only(command: &mut Command) -> &mut Command {
    let mark = || {
        // SAFETY: the call takes three integers and touches no memory.
        unsafe { syscall(CLOSE_RANGE, 3 as c_uint, c_uint::MAX, CLOEXEC) };
        Ok(())
    };
    // SAFETY: the closure makes one system call, so it may run between fork and execve: it takes no lock and
    // allocates nothing. The standard library's pipe that reports a failed execve has the flag already.
    unsafe { command.pre_exec(mark) }
}

/// [`inherit_streams_only`]; in addition the child leads a session of its own, so that no terminal sends signals to it.
pub(crate) fn start_alone(command: &mut Command) -> &mut Command {
    let lead = || {
        // It cannot fail: a new child is not a group leader.
        let _ = rustix::process::setsid();
        Ok(())
    };
    // SAFETY: the closure makes one system call, so it may run between fork and execve.
    inherit_streams_only(unsafe { command.pre_exec(lead) })
}

/// `ioprio_set(2)`, where its number is known.
#[cfg(target_arch = "x86_64")]
const IOPRIO_SET: Option<c_long> = Some(251);
#[cfg(target_arch = "aarch64")]
const IOPRIO_SET: Option<c_long> = Some(30);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const IOPRIO_SET: Option<c_long> = None;

/// Makes the calling thread use the processor and the disk only while no other thread needs them, as far as the kernel and the
/// scheduler of the disk support that.
pub(crate) fn lowest_priority() {
    // On Linux the value is per thread. A refusal is harmless.
    let _ = rustix::process::nice(19);
    if let Some(number) = IOPRIO_SET {
        // IOPRIO_WHO_PROCESS, this thread, IOPRIO_CLASS_IDLE.
        // SAFETY: the call takes three integers and touches no memory.
        unsafe { syscall(number, 1 as c_int, 0 as c_int, (3 << 13) as c_int) };
    }
}

/// Writes standard output and ends the process with an exit code, without waiting for its threads. No exit handler and no
/// destructor runs: OpenSSL's would free memory that threads which end meanwhile free too.
pub(crate) fn exit(code: u8) -> ! {
    // A failed write was reported by the writer.
    let _ = std::io::stdout().flush();
    _exit(code.into())
}

/// Makes the current tokio runtime wait for events of a descriptor.
pub(crate) fn pollable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and remains the same descriptor, until it is dropped with the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    #[test]
    fn child_inherits_its_streams_only() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // Without the flag, as the sockets of the engine are.
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let fd = file.as_raw_fd().to_string();
        let script = "test -e /proc/self/fd/$0 && echo inherited; exit 0";
        let run = |tame: bool| {
            let mut command = super::Command::new("sh");
            command.args(["-c", script, &fd]);
            if tame {
                super::inherit_streams_only(&mut command);
            }
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert_eq!((run(false).as_str(), run(true).as_str()), ("inherited\n", ""));
    }
}
