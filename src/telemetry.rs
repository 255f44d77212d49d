//! Logging to stderr or to a file.
//!
//! `-v` and `-q` set the level. The variable `SILMARIL_LOG` overrides them, in the syntax of `tracing-subscriber`'s
//! `EnvFilter`, such as `debug` or `silmaril::fetch=trace`.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::model::text;

/// The output of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, in colour if it is a terminal.
    Stderr,
    /// A file that is appended to. It is made with mode 0600.
    File(PathBuf),
}

/// Removes misleading characters from lines of the log. Escape sequences remain: the subscriber has already escaped those
/// of logged values, and the rest are its own, for colours.
struct Clean<W>(W);

impl<W: Write> Write for Clean<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text: String = text::clean_log(&String::from_utf8_lossy(line));
        self.0.write_all(text.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `SILMARIL_LOG` is not a valid filter.
    #[error("SILMARIL_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The log file cannot be opened.
    #[error("cannot open the log {}: {source}", path.display())]
    Open {
        /// The log file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Logging was started before in this process.
    #[error("logging has already been started")]
    Twice,
}

/// The level for a verbosity: `-qq` none, `-q` errors, warnings by default, `-v` information, `-vv` debugging, `-vvv`
/// everything. A file gets one level more than a terminal.
fn level(verbosity: i8, target: &LogTarget) -> LevelFilter {
    match verbosity.saturating_add(i8::from(*target != LogTarget::Stderr)) {
        i8::MIN..=-2 => LevelFilter::OFF,
        -1 => LevelFilter::ERROR,
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        3.. => LevelFilter::TRACE,
    }
}

/// Starts logging. `verbosity` is the number of `-v` minus the number of `-q`; `SILMARIL_LOG` overrides it.
pub fn init(verbosity: i8, target: LogTarget) -> Result<(), TelemetryError> {
    let filter = match std::env::var("SILMARIL_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::builder().parse(text)?,
        // Dependencies log more than warnings only with `-vvv`.
        _ if verbosity < 3 => {
            let level = level(verbosity, &target);
            EnvFilter::builder().parse(format!("{},silmaril={level}", level.min(LevelFilter::WARN)))?
        }
        _ => EnvFilter::builder().with_default_directive(LevelFilter::TRACE.into()).parse("")?,
    };
    // A failed write is ignored: reporting it would panic, so that a full disk would end the process.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    match target {
        LogTarget::Stderr => {
            builder.with_ansi(io::stderr().is_terminal()).with_writer(|| Clean(io::stderr())).try_init()
        }
        LogTarget::File(path) => {
            let failed = |source| TelemetryError::Open { path: path.clone(), source };
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
            }
            let file =
                OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
            builder.with_ansi(false).with_writer(Mutex::new(Clean(file))).try_init()
        }
    }
    .map_err(|_| TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_have_no_misleading_characters() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(true)
            .with_writer(Mutex::new(Clean(file.reopen().unwrap())))
            .finish();
        let name = "evil\u{1b}[2J\u{202e}txt\u{9b}31m\u{200b}";
        tracing::subscriber::with_default(subscriber, || tracing::error!(name, "refused {name}"));
        let log = std::fs::read_to_string(file.path()).unwrap();
        assert!(log.contains("evil") && log.ends_with('\n'), "{log:?}");
        for trick in ["\u{1b}[2J", "\u{202e}", "\u{9b}", "\u{200b}"] {
            assert!(!log.contains(trick), "{log:?}");
        }
    }

    #[test]
    fn log_file_has_one_level_more_than_stderr() {
        let file = LogTarget::File("/x".into());
        let levels: Vec<_> = (-3..=4).map(|v| level(v, &LogTarget::Stderr)).collect();
        use LevelFilter as L;
        assert_eq!(levels, [L::OFF, L::OFF, L::ERROR, L::WARN, L::INFO, L::DEBUG, L::TRACE, L::TRACE]);
        assert_eq!(level(0, &file), L::INFO);
        assert_eq!(level(i8::MAX, &file), L::TRACE);
    }
}
