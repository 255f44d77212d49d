//! Logging to standard error.
//!
//! `-v` and `-q` set the level. The variable `SILMARIL_LOG` overrides them, in the syntax of `tracing-subscriber`'s
//! `EnvFilter`, such as `debug` or `silmaril::fetch=trace`.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::model::text;

/// Removes misleading characters from lines of the log. Escape sequences remain: the subscriber has already escaped the
/// escape sequences in logged values, and adds its own for colours.
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
    /// Logging was started before in this process.
    #[error("logging has already been started")]
    Twice,
}

/// The level for a verbosity: `-qq` none, `-q` errors, warnings by default, `-v` information, `-vv` debugging, `-vvv`
/// everything.
fn level(verbosity: i8) -> LevelFilter {
    match verbosity {
        i8::MIN..=-2 => LevelFilter::OFF,
        -1 => LevelFilter::ERROR,
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        3.. => LevelFilter::TRACE,
    }
}

/// Starts logging on standard error, in colour if that is a terminal. `verbosity` is the number of `-v` minus the number of
/// `-q`; `SILMARIL_LOG` overrides it.
pub fn init(verbosity: i8) -> Result<(), TelemetryError> {
    let filter = match std::env::var("SILMARIL_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::builder().parse(text)?,
        // Dependencies log more than warnings only with `-vvv`.
        _ if verbosity < 3 => {
            let level = level(verbosity);
            EnvFilter::builder().parse(format!("{},silmaril={level}", level.min(LevelFilter::WARN)))?
        }
        _ => EnvFilter::builder().with_default_directive(LevelFilter::TRACE.into()).parse("")?,
    };
    // A failed write is ignored: reporting it would panic, so that a full disk would end the process.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    builder
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| Clean(io::stderr()))
        .try_init()
        .map_err(|_| TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
    fn each_v_adds_a_level_and_each_q_removes_one() {
        let levels: Vec<_> = (-3..=4).map(level).collect();
        use LevelFilter as L;
        assert_eq!(levels, [L::OFF, L::OFF, L::ERROR, L::WARN, L::INFO, L::DEBUG, L::TRACE, L::TRACE]);
        assert_eq!((level(i8::MIN), level(i8::MAX)), (L::OFF, L::TRACE));
    }
}
