//! Signals that end the program, and the watchdog that ends it when a clean stop does not.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{self, SignalKind, signal};

use crate::cli::error::CommandError;
use crate::ffi::process::exit;
use crate::node::patience::RELEASED_WITHIN;

/// How long a clean stop may take before the process ends itself.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

// Whoever waits for a process that stops waits until it has ended, one way or the other.
const _: () = assert!(STOP_DEADLINE.as_secs() < RELEASED_WITHIN.as_secs());

/// Which signal came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    Hangup,
}

impl Stop {
    /// What a command that runs until it is stopped returns: Ctrl-C is 130, a request to end is success.
    pub fn end_of_service(self) -> Result<(), CommandError> {
        match self {
            Self::Interrupt => Err(CommandError::interrupted()),
            Self::Terminate | Self::Hangup => Ok(()),
        }
    }
}

/// Listens for the signals that end the program, from its creation on.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl StopSignals {
    /// Takes the signals over from their default action. Must run inside a tokio runtime.
    pub fn new() -> Result<Self, CommandError> {
        let listen = |kind| signal(kind).map_err(CommandError::internal);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them. May be dropped and called again.
    pub async fn wait(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.hangup.recv() => Stop::Hangup,
        }
    }

    /// Runs a future, or ends it by dropping it when a signal comes first.
    pub async fn unless<T>(
        &mut self,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        tokio::select! {
            result = work => result,
            _ = self.wait() => Err(CommandError::interrupted()),
        }
    }

    /// Runs a clean stop. A second signal, or the deadline, ends the process at once, after `last`.
    pub async fn stopping(
        &mut self,
        work: impl Future<Output = ()>,
        last: impl Fn() + Send + Sync + 'static,
    ) {
        let last = Arc::new(last);
        let _watchdog = Watchdog::start(STOP_DEADLINE, last.clone());
        tokio::select! {
            () = work => {}
            _ = self.wait() => {
                last();
                exit(CommandError::interrupted().exit_code());
            }
        }
    }
}

/// Ends the process unless dropped within its deadline.
struct Watchdog(#[expect(dead_code, reason = "dropping it is the signal")] mpsc::Sender<()>);

impl Watchdog {
    fn start(within: Duration, last: Arc<impl Fn() + Send + Sync + 'static>) -> Self {
        let (alive, gone) = mpsc::channel();
        std::thread::spawn(move || {
            if gone.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Timeout) {
                tracing::error!("did not stop within {} s, ending hard", within.as_secs());
                last();
                // Exit handlers may hang on the very thing that did.
                let _ = kill_process(getpid(), Signal::KILL);
            }
        });
        Self(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ctrl_c_makes_a_service_fail() {
        assert_eq!(Stop::Interrupt.end_of_service().unwrap_err().exit_code(), 130);
        assert!(Stop::Terminate.end_of_service().is_ok());
        assert!(Stop::Hangup.end_of_service().is_ok());
    }
}
