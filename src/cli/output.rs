//! What reaches the terminal: results on stdout, everything else on stderr.
//!
//! Nothing else in the program prints. Text that came from outside passes [`clean`] first; lines are cleaned again where
//! they are written, and JSON is escaped. A reader that closes
//! stdout early is told as an [`std::io::Error`], which [`super::error`] turns into success.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::bar::{Bar, Pace, short_time};
use crate::cli::error::CommandError;
use crate::cli::table::{self, Column};
use crate::model::text;

/// How often a line of progress is written where there is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Removes what could move the cursor, hide text or turn its direction; line ends become spaces.
pub fn clean(text: &str) -> String {
    text::clean(&text.replace(['\n', '\r', '\t'], " "))
}

/// Bytes for people: `82.9 MiB`.
pub fn size(bytes: u64) -> String {
    text::format_size(bytes)
}

/// A number of things: `1 peer`, `2 peers`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// How much of a whole is here, rounded down so that 100 % means all of it.
pub fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 100 } else { u128::from(part) * 100 / u128::from(whole) };
    format!("{share}%")
}

/// The width of the terminal that standard output is, in columns; none where it is no terminal.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|&width| width > 0)
}

/// The width of the terminal that standard error is, in columns.
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
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Writes a warning to stderr.
    pub fn warn(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "warning: {}", clean(&text.to_string()));
    }

    /// Starts a line on stderr that says what goes on; nothing where there is no terminal.
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

    /// Starts a progress display on stderr: a bar on a terminal, a line now and then elsewhere.
    pub fn progress(&self, what: &str) -> Progress {
        let shape = if self.quiet {
            Shape::Silent
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            bar.enable_steady_tick(Duration::from_millis(200));
            Shape::Bar(Bar::new(what, bar))
        } else {
            Shape::Plain(Mutex::new((Instant::now(), Pace::default())))
        };
        Progress { what: clean(what), shape }
    }
}

/// A line that says what goes on, while there is no telling how long. It disappears when dropped.
#[derive(Debug)]
pub struct Activity(ProgressBar);

impl Activity {
    /// Shows a text.
    pub fn say(&self, text: impl Display) {
        self.0.set_message(clean(&text.to_string()));
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[derive(Debug)]
enum Shape {
    Silent,
    Bar(Bar),
    /// When the last line was written, and how fast bytes come.
    Plain(Mutex<(Instant, Pace)>),
}

/// A running progress display. It disappears from a terminal when dropped.
#[derive(Debug)]
pub struct Progress {
    what: String,
    shape: Shape,
}

impl Progress {
    /// Shows that `done` of `total` bytes are done; `detail` stands behind the figures.
    pub fn set(&self, done: u64, total: u64, detail: impl Display) {
        match &self.shape {
            Shape::Silent => {}
            Shape::Bar(bar) => bar.set(done, total, &detail.to_string(), bar_width()),
            Shape::Plain(last) => {
                let (last, pace) = &mut *last.lock().unwrap_or_else(|e| e.into_inner());
                pace.record(Instant::now(), done);
                if last.elapsed() < PLAIN_INTERVAL {
                    return;
                }
                *last = Instant::now();
                let remaining = pace.remaining(total.saturating_sub(done));
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
        if let Shape::Bar(bar) = &self.shape {
            bar.bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_steer_a_terminal() {
        assert_eq!(clean("a\x1b[2Jb\u{202e}c\nd\u{200b}\x07"), "a[2Jbc d");
        assert_eq!(clean("Grüße 模型"), "Grüße 模型");
    }

    #[test]
    fn one_of_a_kind_is_singular() {
        assert_eq!([0, 1, 2].map(|n| count(n, "peer")), ["0 peers", "1 peer", "2 peers"]);
    }

    #[test]
    fn a_hundred_percent_means_all_of_it() {
        assert_eq!(percent(999, 1000), "99%");
        assert_eq!(percent(1000, 1000), "100%");
        assert_eq!(percent(0, 0), "100%");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
    }
}
