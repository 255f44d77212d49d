//! Signals that end the program, and a watchdog that kills the process if a clean stop takes too long.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{self, SignalKind, signal};

use crate::cli::error::CommandError;
use crate::ffi::process::exit;
use crate::node::patience::RELEASED_WITHIN;

/// Time after which the watchdog kills a process that has not stopped.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

// A process that waits for a stopping process must wait until the watchdog has killed that process.
const _: () = assert!(STOP_DEADLINE.as_secs() < RELEASED_WITHIN.as_secs());

/// A signal that ends the program.
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
    /// The result of a command that runs until a signal: an error for Ctrl-C (exit code 130), otherwise success.
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
    /// Replaces the default action of the signals. Must run inside a tokio runtime.
    pub fn new() -> Result<Self, CommandError> {
        let listen = |kind| signal(kind).map_err(CommandError::internal);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal. The future may be dropped and created again.
    pub async fn wait(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.hangup.recv() => Stop::Hangup,
        }
    }

    /// Runs a future, and drops it when a signal arrives first.
    pub async fn unless<T>(
        &mut self,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        tokio::select! {
            result = work => result,
            _ = self.wait() => Err(CommandError::interrupted()),
        }
    }

    /// Runs a clean stop. A second signal or the deadline calls `last` and then ends the process immediately.
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

/// Kills the process unless it is dropped before the deadline.
struct Watchdog(#[expect(dead_code, reason = "dropping it is the signal")] mpsc::Sender<()>);

impl Watchdog {
    fn start(within: Duration, last: Arc<impl Fn() + Send + Sync + 'static>) -> Self {
        let (alive, gone) = mpsc::channel();
        std::thread::spawn(move || {
            if gone.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Timeout) {
                tracing::error!(seconds = within.as_secs(), "did not stop in time; killing this process");
                last();
                // Exit handlers may hang for the same reason as the stop.
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
    fn only_ctrl_c_is_a_failure() {
        assert_eq!(Stop::Interrupt.end_of_service().unwrap_err().exit_code(), 130);
        assert!(Stop::Terminate.end_of_service().is_ok());
        assert!(Stop::Hangup.end_of_service().is_ok());
    }
}
