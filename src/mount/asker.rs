//! The threads that ask, and whether they are about to end.
//!
//! A thread that waits for an answer is not reached by signals, not even by SIGKILL, until the answer comes: the kernel
//! reports a signal to the file system (`FUSE_INTERRUPT`), but `fuser` does not support that. Therefore the signals that
//! are pending for the thread are read from /proc ([`super::threads`]).
//!
//! The kernel numbers threads as the PID namespace of the process that mounted sees them; that is this process. A thread
//! that is not visible in that namespace has the number 0, and nothing is known of it.

use std::io;
use std::sync::LazyLock;

use super::threads::{Status, has_ended, is_exiting, is_of_kernel};

/// Whether /proc shows the threads of this process's own PID namespace, so that the kernel's numbers mean the same there.
static PROC_IS_OURS: LazyLock<bool> = LazyLock::new(|| {
    let status = std::fs::read_to_string("/proc/self/status");
    status.is_ok_and(|status| has_one_number(&status))
});

/// The thread that asked; 0 is a thread that this process cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker(u32);

impl Asker {
    /// A thread that nothing is known of.
    #[cfg(test)]
    pub const UNSEEN: Self = Self(0);

    /// The thread that the kernel named in a request.
    pub fn new(thread: u32) -> Self {
        Self(if *PROC_IS_OURS { thread } else { 0 })
    }

    /// Whether a signal is pending that ends the program, or that it handles and wants to react to. False if unknown.
    pub fn is_interrupted(self) -> bool {
        self.status().is_some_and(|status| status.is_interrupted())
    }

    /// The process of the thread; 0 if it is not known.
    pub fn process(self) -> u32 {
        self.status().map_or(0, |status| status.process)
    }

    /// The reader that waits; none if nothing is known of it. A thread of the kernel (of a loop device, or an NFS
    /// server) reads for programs that are not known, and may end while they wait.
    pub fn reader(self) -> Option<Reader> {
        let reader = Reader { thread: self.0, process: self.status()?.process };
        let of_kernel = is_of_kernel(reader.process, reader.thread).ok()?;
        (!of_kernel).then_some(reader)
    }

    /// Whether the thread has ended already: read-ahead that the kernel requests for a program that was killed arrives when
    /// the program is gone.
    pub fn is_gone(self) -> bool {
        self.0 != 0 && matches!(Status::of(self.0), Ok(None))
    }

    fn status(self) -> Option<Status> {
        (self.0 != 0).then(|| Status::of(self.0).ok().flatten())?
    }
}

/// A thread that waits for bytes, and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reader {
    thread: u32,
    process: u32,
}

impl Reader {
    /// The first in the order of readers.
    pub const FIRST: Self = Self { thread: 0, process: 0 };

    /// One that exists in tests only.
    #[cfg(test)]
    pub fn numbered(thread: u32) -> Self {
        Self { thread, process: thread }
    }

    /// Whether nothing but the answer keeps the reader from ending: a signal that ends its process is pending, or all
    /// of its process is exiting. The second case is a process that exits while the kernel still reads on its behalf
    /// (asynchronous direct reads, read-ahead); the thread that asked may be gone then.
    pub fn is_ending(self) -> bool {
        // A failure of the moment (too many open files) proves nothing.
        self.look().unwrap_or(false)
    }

    fn look(self) -> io::Result<bool> {
        match Status::of(self.thread)?.filter(|status| status.process == self.process) {
            Some(status) if !is_exiting(self.process, self.thread)? => Ok(status.is_ending()),
            _ => has_ended(self.process),
        }
    }
}

/// Whether the process of this status has one number only in the namespaces from that of /proc down to its own. A kernel
/// without namespaces shows none.
fn has_one_number(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_none_or(|numbers| numbers.split_ascii_whitespace().count() == 1)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn numbers_of_another_pid_namespace_are_not_looked_up() {
        assert!(has_one_number("Pid:\t5\nNSpid:\t5\n"));
        assert!(!has_one_number("Pid:\t5\nNSpid:\t5\t1\n"));
        assert!(has_one_number("Pid:\t5\n"));
        let unseen = Asker(0);
        assert!(!unseen.is_interrupted() && unseen.reader().is_none());
    }

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_that_runs_is_not_ending_and_a_dead_one_is() {
        let mut child = Ended(Command::new("sleep").arg("1000").spawn().unwrap());
        let reader = Asker::new(child.0.id()).reader().unwrap();
        assert!(!reader.is_ending() && !Asker::new(child.0.id()).is_interrupted());
        child.0.kill().unwrap();
        // It is a zombie until it is waited for.
        let zombie = || is_exiting(child.0.id(), child.0.id()).unwrap();
        while !zombie() {
            std::thread::yield_now();
        }
        assert!(reader.is_ending());
        child.0.wait().unwrap();
        assert!(reader.is_ending());
        assert_eq!(Asker::new(child.0.id()).reader(), None);
    }

    #[test]
    fn a_reader_whose_thread_ended_lives_on_in_its_process() {
        let thread = std::thread::spawn(|| {
            let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            Asker::new(thread).reader().unwrap()
        });
        let reader = thread.join().unwrap();
        assert_eq!(reader.process, std::process::id());
        assert!(!reader.is_ending());
    }
}
