//! State of threads from proc(5): their pending signals, and whether they are exiting.
//!
//! `None` means that the thread has ended. Any other failure is an error and proves nothing about the thread.

use std::io;

use rustix::io::Errno;
use rustix::process::Signal;

/// Signals that end a program or that it handles immediately.
const INTERRUPTING: u64 = mask(&[Signal::KILL, Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT]);

/// Signals that do not end a program without a handler (signal(7)).
const HARMLESS: u64 = mask(&[
    Signal::CHILD,
    Signal::CONT,
    Signal::STOP,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::URG,
    Signal::WINCH,
]);

/// The kernel's flag of a thread that is exiting and receives no more signals (`PF_EXITING`).
const EXITING: u32 = 0x4;

/// The kernel's flag of a kernel thread (`PF_KTHREAD`).
const KERNEL: u32 = 0x0020_0000;

/// The set of these signals. Bit 0 is signal 1, as in proc(5).
const fn mask(signals: &[Signal]) -> u64 {
    let (mut mask, mut at) = (0, 0);
    while at < signals.len() {
        mask |= 1 << (signals[at].as_raw() - 1);
        at += 1;
    }
    mask
}

/// Whether all threads of a process are exiting or have ended.
pub fn has_ended(process: u32) -> io::Result<bool> {
    let Some(threads) = unless_gone(std::fs::read_dir(format!("/proc/{process}/task")))? else {
        return Ok(true);
    };
    for entry in threads {
        let name = entry?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        if !is_exiting(process, thread)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a thread is exiting or has ended.
pub fn is_exiting(process: u32, thread: u32) -> io::Result<bool> {
    Ok(flags_of(process, thread)?.is_none_or(|flags| flags & EXITING != 0))
}

/// Whether a thread is a kernel thread, which may read for a program.
pub fn is_of_kernel(process: u32, thread: u32) -> io::Result<bool> {
    Ok(flags_of(process, thread)?.is_some_and(|flags| flags & KERNEL != 0))
}

fn flags_of(process: u32, thread: u32) -> io::Result<Option<u32>> {
    let stat = unless_gone(std::fs::read(format!("/proc/{process}/task/{thread}/stat")))?;
    stat.map(|stat| flags(&stat).ok_or(io::ErrorKind::InvalidData.into())).transpose()
}

/// Turns the errors for an ended process or thread into none.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::SRCH)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The kernel's flags in `/proc/PID/stat`: the seventh field after the name. The name may contain any bytes.
fn flags(stat: &[u8]) -> Option<u32> {
    let name_ends = stat.iter().rposition(|&byte| byte == b')')?;
    std::str::from_utf8(&stat[name_ends + 1..]).ok()?.split_ascii_whitespace().nth(6)?.parse().ok()
}

/// The process and the signal sets of a thread, from `/proc/PID/status`.
#[derive(Debug, Clone, Copy)]
pub struct ThreadStatus {
    /// The process of the thread.
    pub process: u32,
    is_traced: bool,
    pending: u64,
    blocked: u64,
    ignored: u64,
    handled: u64,
}

impl ThreadStatus {
    /// Reads the status of a thread; none if it has ended.
    pub fn of(thread: u32) -> io::Result<Option<Self>> {
        let Some(status) = unless_gone(std::fs::read(format!("/proc/{thread}/status")))? else {
            return Ok(None);
        };
        // The name need not be UTF-8.
        let status = Self::parse(&String::from_utf8_lossy(&status));
        status.map(Some).ok_or(io::ErrorKind::InvalidData.into())
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let signals = |name| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self {
            process: field("Tgid")?.parse().ok()?,
            is_traced: field("TracerPid")? != "0",
            pending: signals("SigPnd")? | signals("ShdPnd")?,
            blocked: signals("SigBlk")?,
            ignored: signals("SigIgn")?,
            handled: signals("SigCgt")?,
        })
    }

    /// Whether a signal of [`INTERRUPTING`] is pending that the process neither blocks nor ignores.
    pub fn is_interrupted(&self) -> bool {
        self.pending & !self.blocked & !self.ignored & INTERRUPTING != 0
    }

    /// Whether a signal is pending that certainly ends the process: SIGKILL, or a signal without a handler. (For most of
    /// the latter the kernel adds SIGKILL itself.) A debugger can remove any signal except SIGKILL, so a traced process
    /// ends by SIGKILL only.
    pub fn is_ending(&self) -> bool {
        let unhandled = self.pending & !self.blocked & !self.ignored & !self.handled & !HARMLESS;
        self.pending & mask(&[Signal::KILL]) != 0 || (!self.is_traced && unhandled != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "0000000000000000";
    const KILL: &str = "0000000000000100";
    const INT: &str = "0000000000000002";
    const CHILD: &str = "0000000000010000";

    fn status([pending, shared, blocked, ignored, handled]: [&str; 5], tracer: u32) -> ThreadStatus {
        let text = format!(
            "Name:\tx\nTgid:\t7\nTracerPid:\t{tracer}\nSigQ:\t1/2\nSigPnd:\t{pending}\nShdPnd:\t{shared}\n\
             SigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{handled}\n"
        );
        ThreadStatus::parse(&text).unwrap()
    }

    #[test]
    fn handled_signals_interrupt_a_lookup() {
        let interrupted = |signals| status(signals, 0).is_interrupted();
        assert!(!interrupted([NONE, NONE, NONE, NONE, NONE]));
        assert!(interrupted([KILL, NONE, NONE, NONE, NONE]));
        assert!(interrupted([NONE, INT, NONE, NONE, NONE]));
        assert!(interrupted([NONE, INT, NONE, NONE, INT]));
        assert!(!interrupted([NONE, INT, INT, NONE, NONE]), "it is blocked");
        assert!(!interrupted([NONE, INT, NONE, INT, NONE]), "it is ignored");
        assert!(!interrupted([NONE, CHILD, NONE, NONE, NONE]));
        assert!(ThreadStatus::parse("nonsense").is_none());
    }

    #[test]
    fn only_unhandled_signals_end_a_read() {
        let ending = |signals| status(signals, 0).is_ending();
        assert!(!ending([NONE, NONE, NONE, NONE, NONE]));
        assert!(ending([KILL, NONE, NONE, NONE, NONE]));
        assert!(ending([NONE, INT, NONE, NONE, NONE]));
        assert!(!ending([NONE, INT, NONE, NONE, INT]), "it is handled");
        assert!(!ending([NONE, INT, INT, NONE, NONE]), "it is blocked");
        assert!(!ending([NONE, INT, NONE, INT, NONE]), "it is ignored");
        assert!(!ending([NONE, CHILD, NONE, NONE, NONE]));
        assert!(!status([NONE, INT, NONE, NONE, NONE], 9).is_ending(), "a debugger decides");
        assert!(status([KILL, NONE, NONE, NONE, NONE], 9).is_ending());
    }

    #[test]
    fn flags_follow_a_name_with_brackets_and_blanks() {
        assert_eq!(flags(b"7 (a) b (c\xff) D 1 2 3 4 5 4194308 0 0"), Some(4_194_308));
        assert_eq!(flags(b"nonsense"), None);
    }

    #[test]
    fn threads_of_the_kernel_are_recognized() {
        let this = std::process::id();
        assert!(!is_of_kernel(this, this).unwrap());
        // Process 2 is the parent of all kernel threads. A container does not show it.
        if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
            assert!(is_of_kernel(2, 2).unwrap());
        }
    }
}
