//! Writes to the terminal: results to stdout, everything else to stderr.
//!
//! No other module prints. Text from outside passes [`clean`] first; lines are cleaned again when they are written, and
//! JSON is escaped. If the reader closes stdout early, the write returns an error that [`super::error`] turns into
//! success.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::cli::bar::{Bar, RateMeter, short_time};
use crate::cli::error::CommandError;
use crate::cli::format::{clean, percent, size};
use crate::cli::table::{self, Column};
use crate::model::text;

/// Interval between two lines of progress if stderr is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The width in columns of the terminal at standard output; none if standard output is no terminal.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|&width| width > 0)
}

/// The width in columns of the terminal at standard error; 80 if it is unknown.
pub(super) fn bar_width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|&width| width > 0).unwrap_or(80)
}

/// Writes results and remarks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    quiet: bool,
}

impl Output {
    /// `quiet` silences remarks and progress, never results, warnings or errors.
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Whether remarks and progress are silenced.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes one line of result to stdout.
    pub fn line(&self, line: impl Display) -> Result<(), CommandError> {
        let text = text::clean_lines(&line.to_string());
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(CommandError::stdout)
    }

    /// Writes bytes to stdout as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CommandError::stdout)
    }

    /// Writes a value as indented JSON to stdout.
    pub fn json(&self, value: &impl serde::Serialize) -> Result<(), CommandError> {
        let json = serde_json::to_string_pretty(value).map_err(CommandError::internal)?;
        self.line(text::escape_json(&json))
    }

    /// Writes a table with a heading to stdout, within the width of a terminal.
    pub fn table(&self, columns: &[Column], rows: &[Vec<String>]) -> Result<(), CommandError> {
        table::render(columns, rows, terminal_width()).iter().try_for_each(|line| self.line(line))
    }

    /// Writes a remark to stderr, unless quiet.
    pub fn note(&self, note: impl Display) {
        if !self.quiet {
            let text = text::clean_lines(&note.to_string());
            // There is no other place to report that stderr is closed.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Writes a warning to stderr.
    pub fn warn(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "warning: {}", clean(&text.to_string()));
    }

    /// Starts a line on stderr that shows the current activity. Without a terminal it shows nothing.
    pub fn activity(&self, text: &str) -> Activity {
        let visible = !self.quiet && io::stderr().is_terminal();
        let bar = if visible { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(
            ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is a constant"),
        );
        bar.set_message(clean(text));
        bar.enable_steady_tick(Duration::from_millis(200));
        Activity(bar)
    }

    /// Starts a progress display on stderr: a bar on a terminal, otherwise a line every [`PLAIN_INTERVAL`].
    pub fn progress(&self, what: &str) -> Progress {
        let shape = if self.quiet {
            ProgressShape::Silent
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            bar.enable_steady_tick(Duration::from_millis(200));
            ProgressShape::Bar(Bar::new(what, bar))
        } else {
            ProgressShape::Plain(Mutex::new((Instant::now(), RateMeter::default())))
        };
        Progress { what: clean(what), shape }
    }
}

/// A line that shows an activity of unknown length. It disappears when dropped.
#[derive(Debug)]
pub struct Activity(ProgressBar);

impl Activity {
    pub fn set_text(&self, text: impl Display) {
        self.0.set_message(clean(&text.to_string()));
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[derive(Debug)]
enum ProgressShape {
    Silent,
    Bar(Bar),
    /// The time of the last line, and the rate.
    Plain(Mutex<(Instant, RateMeter)>),
}

/// A running progress display. It disappears from a terminal when dropped.
#[derive(Debug)]
pub struct Progress {
    what: String,
    shape: ProgressShape,
}

impl Progress {
    /// Shows that `done` of `total` bytes are done, followed by `detail`.
    pub fn set(&self, done: u64, total: u64, detail: impl Display) {
        match &self.shape {
            ProgressShape::Silent => {}
            ProgressShape::Bar(bar) => bar.set(done, total, &detail.to_string(), bar_width()),
            ProgressShape::Plain(last) => {
                let (last, rate) = &mut *last.lock();
                rate.record(Instant::now(), done);
                if last.elapsed() < PLAIN_INTERVAL {
                    return;
                }
                *last = Instant::now();
                let remaining = rate.remaining(total.saturating_sub(done));
                let line = format!(
                    "{} {} of {} ({}{}) {}",
                    self.what,
                    size(done),
                    size(total),
                    percent(done, total),
                    remaining.map(|time| format!(", {} left", short_time(time))).unwrap_or_default(),
                    clean(&detail.to_string())
                );
                let _ = writeln!(io::stderr().lock(), "{}", line.trim_end());
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let ProgressShape::Bar(bar) = &self.shape {
            bar.bar.finish_and_clear();
        }
    }
}
