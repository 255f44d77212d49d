//! Programs that wait for an answer and are to end.
//!
//! A program that waits for a lookup is not reached by signals, not even by SIGKILL, until we answer: the kernel would
//! tell us of them (`FUSE_INTERRUPT`), but `fuser` refuses to hear it. So we look at the signals that wait for it.

use rustix::process::Signal;

/// Signals that end a program, or that it wants to hear of at once.
const ENDING: [Signal; 5] = [Signal::KILL, Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The thread that asked; 0 is one that this process cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker(pub u32);

impl Asker {
    /// Whether a signal waits for it that is to end it. Where that cannot be told, it goes on.
    pub fn is_ending(self) -> bool {
        if self.0 == 0 {
            return false;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0));
        status.is_ok_and(|status| is_ending(&status))
    }
}

/// Reads the masks of signals as proc(5) describes them: bit 0 is signal 1.
fn is_ending(status: &str) -> bool {
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn");
    ENDING.iter().any(|signal| pending & (1 << (signal.as_raw() - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_end_a_program_are_told_from_others() {
        let status = |pending: &str, shared: &str, blocked: &str, ignored: &str| {
            format!(
                "Name:\tx\nSigQ:\t1/2\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\n"
            )
        };
        let none = "0000000000000000";
        let (kill, int, child) = ("0000000000000100", "0000000000000002", "0000000000010000");
        assert!(!is_ending(&status(none, none, none, none)));
        assert!(is_ending(&status(kill, none, none, none)));
        assert!(is_ending(&status(none, int, none, none)));
        assert!(!is_ending(&status(none, int, int, none)), "it is blocked");
        assert!(!is_ending(&status(none, int, none, int)), "it is ignored");
        assert!(!is_ending(&status(none, child, none, none)));
        assert!(!is_ending("nonsense"));
    }

    #[test]
    fn a_thread_that_runs_or_cannot_be_seen_goes_on() {
        assert!(!Asker(std::process::id()).is_ending());
        assert!(!Asker(0).is_ending());
        assert!(!Asker(u32::MAX).is_ending());
    }
}
