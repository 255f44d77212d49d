//! The threads that send requests, and whether they are about to end.
//!
//! Signals, even SIGKILL, do not reach a thread that waits for a FUSE reply until the reply is sent. The kernel reports a
//! signal to the file system (`FUSE_INTERRUPT`), but `fuser` does not support that. Therefore the pending signals of the
//! thread are read from /proc ([`super::threads`]).
//!
//! A request carries the thread's number in the PID namespace of the process that mounted. A thread that is not visible
//! in that namespace has the number 0 and cannot be examined.

use std::io;
use std::sync::LazyLock;

use super::threads::{ThreadStatus, has_ended, is_exiting, is_of_kernel};

/// Whether /proc shows the PID namespace of this process. Only then thread numbers of requests can be looked up in it.
static PROC_IS_OURS: LazyLock<bool> = LazyLock::new(|| {
    let status = std::fs::read_to_string("/proc/self/status");
    status.is_ok_and(|status| has_one_number(&status))
});

/// The thread that sent a request; 0 is a thread that this process cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester(u32);

impl Requester {
    /// A thread that this process cannot see.
    pub const UNSEEN: Self = Self(0);

    /// The thread that the kernel named in a request.
    pub fn new(thread: u32) -> Self {
        Self(if *PROC_IS_OURS { thread } else { 0 })
    }

    /// Whether a signal is pending that ends the program or that the program handles. False if the thread is unknown.
    pub fn is_interrupted(self) -> bool {
        self.status().is_some_and(|status| status.is_interrupted())
    }

    /// The process of the thread; 0 if it is unknown.
    pub fn process(self) -> u32 {
        self.status().map_or(0, |status| status.process)
    }

    /// The thread and its process; none if they cannot be examined. Kernel threads (of a loop device or an NFS server)
    /// are none too: they read for unknown programs and may end while these programs still wait.
    pub fn reader(self) -> Option<Reader> {
        let reader = Reader { thread: self.0, process: self.status()?.process };
        let of_kernel = is_of_kernel(reader.process, reader.thread).ok()?;
        (!of_kernel).then_some(reader)
    }

    /// Whether the thread has ended already. The kernel's read-ahead for a killed program can arrive after the program
    /// has ended.
    pub fn is_gone(self) -> bool {
        self.0 != 0 && matches!(ThreadStatus::of(self.0), Ok(None))
    }

    fn status(self) -> Option<ThreadStatus> {
        (self.0 != 0).then(|| ThreadStatus::of(self.0).ok().flatten())?
    }
}

/// A thread that waits for bytes, and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reader {
    thread: u32,
    process: u32,
}

impl Reader {
    /// The smallest reader in their order.
    pub const FIRST: Self = Self { thread: 0, process: 0 };

    #[cfg(test)]
    pub fn numbered(thread: u32) -> Self {
        Self { thread, process: thread }
    }

    /// Whether only the missing reply keeps the reader from ending: a signal that ends its process is pending, or all
    /// threads of its process are exiting. In the second case the kernel still reads for the process (asynchronous direct
    /// reads, read-ahead), and the thread that sent the request may have ended.
    pub fn is_ending(self) -> bool {
        // A temporary failure (too many open files) proves nothing.
        self.check_ending().unwrap_or(false)
    }

    fn check_ending(self) -> io::Result<bool> {
        match ThreadStatus::of(self.thread)?.filter(|status| status.process == self.process) {
            Some(status) if !is_exiting(self.process, self.thread)? => Ok(status.is_ending()),
            _ => has_ended(self.process),
        }
    }
}

/// Whether a process, given by its `/proc/PID/status`, has only one number: then /proc shows its own PID namespace. A
/// kernel without PID namespaces has no `NSpid` line.
fn has_one_number(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_none_or(|numbers| numbers.split_ascii_whitespace().count() == 1)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn threads_of_other_pid_namespaces_are_unknown() {
        assert!(has_one_number("Pid:\t5\nNSpid:\t5\n"));
        assert!(!has_one_number("Pid:\t5\nNSpid:\t5\t1\n"));
        assert!(has_one_number("Pid:\t5\n"));
        let unseen = Requester(0);
        assert!(!unseen.is_interrupted() && unseen.reader().is_none());
    }

    /// Kills the child when dropped.
    struct KillOnDrop(Child);

    impl Drop for KillOnDrop {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn only_a_dead_process_is_ending() {
        let mut child = KillOnDrop(Command::new("sleep").arg("1000").spawn().unwrap());
        let reader = Requester::new(child.0.id()).reader().unwrap();
        assert!(!reader.is_ending() && !Requester::new(child.0.id()).is_interrupted());
        child.0.kill().unwrap();
        // The child is a zombie until `wait`.
        let zombie = || is_exiting(child.0.id(), child.0.id()).unwrap();
        while !zombie() {
            std::thread::yield_now();
        }
        assert!(reader.is_ending());
        child.0.wait().unwrap();
        assert!(reader.is_ending());
        assert_eq!(Requester::new(child.0.id()).reader(), None);
    }

    #[test]
    fn a_reader_whose_thread_ended_is_not_ending() {
        let thread = std::thread::spawn(|| {
            let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            Requester::new(thread).reader().unwrap()
        });
        let reader = thread.join().unwrap();
        assert_eq!(reader.process, std::process::id());
        assert!(!reader.is_ending());
    }
}
