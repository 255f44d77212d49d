//! One line of progress that fits the terminal and shows the remaining time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::cli::format::{clean, percent, size};

/// Time over which the rate is measured: long enough for pieces of some megabytes, short enough to follow a change.
const RATE_WINDOW: Duration = Duration::from_secs(15);
/// Interval between two samples of the rate.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// Shortest time between the first and the last sample from which a rate is computed.
const MIN_SPAN: Duration = Duration::from_secs(1);
/// Longest remaining time that is shown: the estimate of a longer one is too rough.
const MAX_REMAINING: Duration = Duration::from_secs(100 * 3600);
/// Columns to which a name may be cut only after all other parts of the line are left out.
const MIN_NAME: usize = 16;
/// Columns of the bar itself, between its brackets.
const BAR: std::ops::RangeInclusive<usize> = 8..=30;

/// Measures the rate at which bytes arrive.
#[derive(Debug, Default)]
pub(super) struct RateMeter(VecDeque<(Instant, u64)>);

impl RateMeter {
    /// Records that `done` bytes are done in total. Bytes of the first call do not count for the rate.
    pub(super) fn record(&mut self, now: Instant, done: u64) {
        if self.0.back().is_some_and(|&(_, former)| done < former) {
            self.0.clear();
        }
        if self.0.back().is_none_or(|&(at, _)| now.duration_since(at) >= SAMPLE_EVERY) {
            self.0.push_back((now, done));
        }
        while self.0.front().is_some_and(|&(at, _)| now.duration_since(at) > RATE_WINDOW) {
            self.0.pop_front();
        }
    }

    /// The time that `left` bytes take at this rate. None while the rate is unknown or zero.
    pub(super) fn remaining(&self, left: u64) -> Option<Duration> {
        let (&(start, first), &(end, last)) = (self.0.front()?, self.0.back()?);
        let span = end.duration_since(start);
        if span < MIN_SPAN || last <= first {
            return None;
        }
        let seconds = span.as_secs_f64() * left as f64 / (last - first) as f64;
        Duration::try_from_secs_f64(seconds).ok().filter(|time| *time < MAX_REMAINING)
    }
}

/// A duration in its two largest units: `1h 5m`, `1m 5s`, `12s`.
pub(super) fn short_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Content of one line of progress.
#[derive(Debug, Clone, Copy)]
struct BarFigures<'a> {
    name: &'a str,
    done: u64,
    total: u64,
    remaining: Option<Duration>,
    detail: &'a str,
}

/// The line for a terminal of `width` columns. Parts that do not fit are left out in this order: the bar, the detail,
/// the bytes, the remaining time. After that the name is cut.
fn line(figures: &BarFigures<'_>, width: usize) -> String {
    let BarFigures { name, done, total, remaining, detail } = *figures;
    let remaining = remaining.map(|time| format!("{} left", short_time(time))).unwrap_or_default();
    let parts =
        [percent(done, total), remaining, format!("{}/{}", size(done), size(total)), detail.to_owned()];
    // The last column stays free, because some terminals wrap after it.
    let mut room = width.saturating_sub(1 + name.width().min(MIN_NAME));
    let mut shown = [false; 4];
    for (part, shown) in parts.iter().zip(&mut shown) {
        if part.is_empty() {
            continue;
        }
        if part.width() + 1 > room {
            break;
        }
        room -= part.width() + 1;
        *shown = true;
    }
    let name = cut(name, (room + name.width().min(MIN_NAME)).min(width.saturating_sub(1)));
    let room = width.saturating_sub(1 + name.width());
    let text = |part: usize| if shown[part] { format!(" {}", parts[part]) } else { String::new() };
    let tail: String = [text(0), text(2), text(1), text(3)].concat();
    let bar = room.saturating_sub(tail.width() + 3).min(*BAR.end());
    if bar < *BAR.start() {
        return format!("{name}{tail}");
    }
    let filled = u64::try_from(bar).unwrap_or(0).saturating_mul(done.min(total)).checked_div(total);
    let filled = filled.map_or(bar, |filled| filled as usize);
    format!("{name} [{}{}]{tail}", "=".repeat(filled), " ".repeat(bar - filled))
}

/// Shortens a name to at most `width` columns by removing its middle.
fn cut(name: &str, width: usize) -> String {
    if name.width() <= width {
        return name.to_owned();
    }
    let Some(kept) = width.checked_sub(1) else { return String::new() };
    let fitting = |chars: &mut dyn Iterator<Item = char>, mut room: usize| -> String {
        chars
            .take_while(|c| {
                let fits = c.width().unwrap_or(0) <= room;
                room = room.saturating_sub(c.width().unwrap_or(0));
                fits
            })
            .collect()
    };
    let start = fitting(&mut name.chars(), kept / 2);
    let end = fitting(&mut name.chars().rev(), kept - kept / 2);
    format!("{start}…{}", end.chars().rev().collect::<String>())
}

/// A bar on a terminal.
#[derive(Debug)]
pub(super) struct Bar {
    name: String,
    pub(super) bar: ProgressBar,
    rate: Mutex<RateMeter>,
}

impl Bar {
    /// Shows `name` in a line that `bar` draws.
    pub(super) fn new(name: &str, bar: ProgressBar) -> Self {
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is a constant"));
        Self { name: clean(name), bar, rate: Mutex::default() }
    }

    /// Shows a text while there is nothing to count.
    pub(super) fn set_text(&self, text: &str, width: usize) {
        let text = format!("{}: {}", self.name, clean(text));
        self.bar.set_message(cut(&text, width.saturating_sub(1)));
    }

    /// Shows that `done` of `total` bytes are done.
    pub(super) fn set(&self, done: u64, total: u64, detail: &str, width: usize) {
        let mut rate = self.rate.lock();
        rate.record(Instant::now(), done);
        let remaining = rate.remaining(total.saturating_sub(done));
        let figures = BarFigures { name: &self.name, done, total, remaining, detail: &clean(detail) };
        self.bar.set_message(line(&figures, width));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: &str = "model-00001-of-00008.safetensors";

    fn figures(name: &str) -> BarFigures<'_> {
        let remaining = Some(Duration::from_secs(65));
        BarFigures { name, done: 8 << 20, total: 80 << 20, remaining, detail: "12.0 MiB/s, 3 peers" }
    }

    #[test]
    fn parts_that_do_not_fit_are_left_out() {
        let of = |width| line(&figures("acme/minilm"), width);
        assert_eq!(
            of(100),
            "acme/minilm [===                           ] 10% 8.00 MiB/80.0 MiB 1m 5s left 12.0 MiB/s, 3 peers"
        );
        assert_eq!(of(80), "acme/minilm [=           ] 10% 8.00 MiB/80.0 MiB 1m 5s left 12.0 MiB/s, 3 peers");
        assert_eq!(of(60), "acme/minilm [=           ] 10% 8.00 MiB/80.0 MiB 1m 5s left");
        assert_eq!(of(30), "acme/minilm 10% 1m 5s left");
        assert_eq!(of(20), "acme/minilm 10%");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let long = format!("some/deep/directory/模型/{SHARD}");
        for width in 1..200 {
            for name in [&long, "a/b", ""] {
                let line = line(&figures(name), width);
                assert!(line.width() < width, "{width}: {line:?}");
            }
        }
        assert_eq!(
            line(&figures(&long), 80),
            "some/deep/di…8.safetensors 10% 8.00 MiB/80.0 MiB 1m 5s left 12.0 MiB/s, 3 peers"
        );
    }

    #[test]
    fn remaining_time_follows_the_rate_of_new_bytes() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = RateMeter::default();
        // Fetched by an earlier call.
        pace.record(start, 5_000);
        assert_eq!(pace.remaining(100), None);
        for n in 1..=40 {
            pace.record(start + n * second, 5_000 + u64::from(n) * 10);
        }
        assert_eq!(pace.remaining(1_000), Some(100 * second));
        pace.record(start + 41 * second, 0);
        assert_eq!(pace.remaining(1_000), None, "another count began");
        pace.record(start + 43 * second, 200);
        assert_eq!(pace.remaining(1_000), Some(10 * second));
        pace.record(start + 100 * second, 200);
        pace.record(start + 102 * second, 200);
        assert_eq!(pace.remaining(1_000), None, "no bytes arrive");
    }

    #[test]
    fn durations_have_two_units() {
        let of = |seconds| short_time(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(65), of(3900)], ["0s", "59s", "1m 5s", "1h 5m"]);
    }
}
