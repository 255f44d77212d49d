//! Logging to stderr or to a file.
//!
//! What is logged is chosen by `-v`/`-q`, or by `SILMARIL_LOG` in the syntax of `tracing-subscriber`'s
//! `EnvFilter`, such as `debug` or `silmaril::fetch=trace`.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::model::text;

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard error, in colour when it is a terminal.
    Stderr,
    /// A file that is appended to, made with mode 0600.
    File(PathBuf),
}

/// Removes what could mislead a terminal from lines of the log. The subscriber escapes strangers' escape sequences itself;
/// its own make the colours.
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

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `SILMARIL_LOG` is not a filter.
    #[error("SILMARIL_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The log file cannot be opened.
    #[error("cannot open the log {}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Logging was started before.
    #[error("logging has already been started")]
    Twice,
}

/// The level that flags ask for: `-qq` none, `-q` errors, warnings by default, `-v` information, `-vv` debugging,
/// `-vvv` everything. A file, which nobody watches, gets one level more.
fn level(verbosity: i8, target: &Target) -> LevelFilter {
    match verbosity.saturating_add(i8::from(*target != Target::Stderr)) {
        i8::MIN..=-2 => LevelFilter::OFF,
        -1 => LevelFilter::ERROR,
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        3.. => LevelFilter::TRACE,
    }
}

/// Starts logging. `verbosity` is the number of `-v` less the number of `-q`; `SILMARIL_LOG` comes first.
pub fn init(verbosity: i8, target: Target) -> Result<(), TelemetryError> {
    let filter = match std::env::var("SILMARIL_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::builder().parse(text)?,
        // Dependencies speak of their own inner life only when everything is asked for.
        _ if verbosity < 3 => {
            let level = level(verbosity, &target);
            EnvFilter::builder().parse(format!("{},silmaril={level}", level.min(LevelFilter::WARN)))?
        }
        _ => EnvFilter::builder().with_default_directive(LevelFilter::TRACE.into()).parse("")?,
    };
    // What cannot be written is lost: a report of it would end the process on a full disk.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    match target {
        Target::Stderr => {
            builder.with_ansi(io::stderr().is_terminal()).with_writer(|| Clean(io::stderr())).try_init()
        }
        Target::File(path) => {
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
    fn log_lines_hold_no_terminal_tricks() {
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
    fn flags_choose_the_level_and_a_file_gets_one_more() {
        let file = Target::File("/x".into());
        let levels: Vec<_> = (-3..=4).map(|v| level(v, &Target::Stderr)).collect();
        use LevelFilter as L;
        assert_eq!(levels, [L::OFF, L::OFF, L::ERROR, L::WARN, L::INFO, L::DEBUG, L::TRACE, L::TRACE]);
        assert_eq!(level(0, &file), L::INFO);
        assert_eq!(level(i8::MAX, &file), L::TRACE);
    }
}
