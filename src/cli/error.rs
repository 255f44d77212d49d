//! Turns errors into messages, hints and exit codes.
//!
//! Exit codes: 0 success (also if the reader closed stdout), 1 not found, refused or no network, 2 wrong usage or
//! configuration, 3 a fault of silmaril or of the system, 130 Ctrl-C.

use std::error::Error;
use std::io::{self, Write};

use crate::cli::format::clean;
use crate::config::ConfigError;
use crate::model::keys::KeyError;
use crate::mount::MountError;
use crate::node::{ErrorKind, NodeError, chain, is_disk_failure};
use crate::paths::PathsError;
use crate::store::StoreError;
use crate::telemetry::TelemetryError;
use crate::trust::TrustError;
use crate::trust::rotation::RotationError;

/// How a command ended if it did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With an error. Its kind decides the exit code.
    Failure(ErrorKind),
    /// By Ctrl-C or another signal.
    Interrupted,
    /// Because the reader of standard output has closed it.
    BrokenPipe,
    /// With the exit code of a background process, which has also rendered the error.
    Relayed(u8),
}

/// The error of a command, with its exit code and hints.
#[derive(Debug)]
pub struct CommandError {
    end: End,
    source: Box<dyn Error + Send + Sync>,
    hints: Vec<String>,
}

impl CommandError {
    fn new(end: End, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { end, source: source.into(), hints: Vec::new() }
    }

    /// An error with the exit code and the hints of its kind.
    fn of(kind: ErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let hints = kind.hints().iter().map(|&hint| hint.to_owned()).collect();
        Self { hints, ..Self::new(End::Failure(kind), source) }
    }

    /// The object was not found, the request was refused, or the network failed.
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        let kind = if is_disk_failure(source.as_ref()) { ErrorKind::Disk } else { ErrorKind::Failed };
        Self::of(kind, source)
    }

    /// The command line or the configuration is wrong.
    pub fn usage(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of(ErrorKind::Usage, source)
    }

    /// A fault of silmaril or of the system.
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::of(ErrorKind::Internal, source)
    }

    /// Ctrl-C or another signal ended the work.
    pub fn interrupted() -> Self {
        Self::new(End::Interrupted, "interrupted")
    }

    /// A background process has failed with exit code `code` and rendered its error as `text`.
    pub fn relayed(code: u8, text: &str) -> Self {
        Self::new(End::Relayed(code), text)
    }

    /// Writing to stdout failed.
    pub fn stdout(error: io::Error) -> Self {
        let text = format!("cannot write to standard output: {error}");
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(End::BrokenPipe, text),
            _ if is_disk_failure(&error) => Self::of(ErrorKind::Disk, text),
            _ => Self::failed(text),
        }
    }

    /// A file or directory could not be used.
    pub fn io(path: &std::path::Path, error: io::Error) -> Self {
        NodeError::Io { path: path.to_owned(), source: error }.into()
    }

    /// Adds a line of help.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the hint for a command that resumes its work when it is run again. Only the errors for Ctrl-C and for a daemon
    /// that has ended get it.
    pub fn resumable(self) -> Self {
        let resume = "received data is kept; run the same command again to resume".to_owned();
        match self.end {
            End::Interrupted | End::Failure(ErrorKind::HostLost | ErrorKind::Stopped) => {
                Self { hints: vec![resume], ..self }
            }
            _ => self,
        }
    }

    /// Whether the daemon ended or lost the connection during the work.
    pub fn is_host_lost(&self) -> bool {
        self.end == End::Failure(ErrorKind::HostLost)
    }

    /// Whether the user has stopped the daemon.
    pub fn is_stopped(&self) -> bool {
        self.end == End::Failure(ErrorKind::Stopped)
    }

    /// Whether another process has locked the base directory.
    pub fn is_busy(&self) -> bool {
        self.end == End::Failure(ErrorKind::Busy)
    }

    /// Whether the remaining items of a list cannot be processed after this error: the daemon has ended, or the user has
    /// interrupted the command.
    pub fn ends_all(&self) -> bool {
        matches!(
            self.end,
            End::Failure(ErrorKind::HostLost | ErrorKind::Stopped | ErrorKind::Internal)
                | End::Interrupted
                | End::BrokenPipe
        )
    }

    pub fn exit_code(&self) -> u8 {
        match self.end {
            End::BrokenPipe => 0,
            End::Failure(kind) => kind.exit_code(),
            End::Interrupted => 130,
            End::Relayed(code) => code,
        }
    }

    /// The `error:` line and the `help:` lines. Empty for a broken pipe, and for Ctrl-C without a hint.
    pub fn render(&self) -> String {
        if self.end == End::BrokenPipe || self.end == End::Interrupted && self.hints.is_empty() {
            return String::new();
        }
        if let End::Relayed(_) = self.end {
            return self.source.to_string();
        }
        let mut lines = format!("error: {}\n", clean(&chain(self.source.as_ref())));
        for hint in &self.hints {
            lines.push_str(&format!("help: {}\n", clean(hint)));
        }
        lines
    }

    /// Writes the error to stderr.
    pub fn print(&self) {
        // There is no other place to report that stderr is closed.
        let _ = io::stderr().lock().write_all(self.render().as_bytes());
    }
}

impl From<NodeError> for CommandError {
    fn from(error: NodeError) -> Self {
        Self::of(error.kind(), error)
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Value { .. } => Self::of(ErrorKind::Configuration, error),
            ConfigError::Read { .. } | ConfigError::NoHome | ConfigError::Absolute { .. } => {
                Self::usage(error)
            }
        }
    }
}

impl From<PathsError> for CommandError {
    fn from(error: PathsError) -> Self {
        NodeError::from(error).into()
    }
}

impl From<TrustError> for CommandError {
    fn from(error: TrustError) -> Self {
        NodeError::from(error).into()
    }
}

impl From<RotationError> for CommandError {
    fn from(error: RotationError) -> Self {
        NodeError::from(error).into()
    }
}

impl From<KeyError> for CommandError {
    fn from(error: KeyError) -> Self {
        Self::failed(error)
    }
}

impl From<TelemetryError> for CommandError {
    fn from(error: TelemetryError) -> Self {
        match error {
            TelemetryError::Filter(_) => Self::usage(error),
            TelemetryError::Twice => Self::internal(error),
        }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        NodeError::from(error).into()
    }
}

impl From<MountError> for CommandError {
    fn from(error: MountError) -> Self {
        match error {
            MountError::Io { .. } | MountError::Timeout { .. } => Self::internal(error),
            // The messages of these errors contain the remedy.
            _ => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_without_control_characters() {
        let error = CommandError::failed("a\nb\x1b[31m").hint("do\x07 this");
        assert_eq!(error.render(), "error: a b[31m\nhelp: do this\n");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn cause_is_printed_once() {
        let inner = io::Error::from_raw_os_error(2);
        let error: CommandError = NodeError::Io { path: "/x".into(), source: inner }.into();
        assert_eq!(error.render(), "error: /x: No such file or directory (os error 2)\n");
    }

    #[test]
    fn only_resumable_commands_promise_received_data() {
        for error in [NodeError::HostLost, NodeError::Stopped] {
            let error = CommandError::from(error);
            assert!(error.render().ends_with("help: run the command again\n"), "{}", error.render());
            let error = error.resumable().render();
            assert!(
                error.ends_with("help: received data is kept; run the same command again to resume\n"),
                "{error}"
            );
            assert_eq!(error.matches("help: ").count(), 1, "{error}");
        }
        assert_eq!(CommandError::interrupted().render(), "");
        assert!(CommandError::interrupted().resumable().render().contains("received data is kept"));
        assert!(!CommandError::failed("x").resumable().render().contains("received data"));
    }

    #[test]
    fn closed_pipe_is_silent_success() {
        let error = CommandError::stdout(io::ErrorKind::BrokenPipe.into());
        assert_eq!((error.exit_code(), error.render()), (0, String::new()));
    }

    #[test]
    fn full_and_read_only_disks_are_exit_code_3() {
        for code in [rustix::io::Errno::NOSPC, rustix::io::Errno::ROFS, rustix::io::Errno::DQUOT] {
            let error = || io::Error::from(code);
            let path = std::path::PathBuf::from("/x");
            let key = KeyError::Io { doing: "write", path: path.clone(), source: error() };
            let store = StoreError::Io { path: path.clone(), source: error() };
            for error in [
                CommandError::io(&path, error()),
                CommandError::stdout(error()),
                CommandError::from(key),
                CommandError::from(NodeError::from(store)),
                CommandError::from(NodeError::Io { path, source: error() }),
            ] {
                assert_eq!(error.exit_code(), 3, "{}", error.render());
                assert!(error.render().contains("\nhelp: free space on that disk"), "{}", error.render());
            }
        }
        let absent = CommandError::io("/x".as_ref(), rustix::io::Errno::NOENT.into());
        assert_eq!((absent.exit_code(), absent.render().matches("help").count()), (1, 0));
    }

    #[test]
    fn errors_of_the_daemon_are_shown_like_local_ones() {
        let of = |model: &str| NodeError::UnknownModel(model.parse().unwrap());
        let own: CommandError = of("a/b").into();
        let message = chain(&of("a/b"));
        let other: CommandError = NodeError::Remote { kind: of("a/b").kind(), message }.into();
        assert_eq!((own.render(), own.exit_code()), (other.render(), other.exit_code()));
    }

    #[test]
    fn every_kind_has_its_exit_code() {
        assert_eq!(CommandError::usage("x").exit_code(), 2);
        assert_eq!(CommandError::internal("x").exit_code(), 3);
        assert_eq!(CommandError::interrupted().exit_code(), 130);
        let unknown: CommandError = NodeError::UnknownModel("a/b".parse().unwrap()).into();
        assert_eq!(unknown.exit_code(), 1);
        assert!(unknown.render().starts_with("error: no such model is known: a/b\nhelp: "));
    }
}
