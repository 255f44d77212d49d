//! Progress of many files: a total, and a bar for each large file that is being transferred.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar};
use parking_lot::Mutex;

use super::bar::Bar;
use super::format::clean;
use super::output::{Output, Progress, bar_width};

/// Size in bytes from which a file has its own bar; smaller files finish too fast.
const LARGE: u64 = 8 << 20;

/// A running display. It disappears from the terminal when dropped. Without a terminal it prints the total at intervals.
#[derive(Debug)]
pub struct TransferDisplay {
    shape: TransferShape,
}

#[derive(Debug)]
enum TransferShape {
    Bars(Bars),
    Plain(Progress),
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    total: Bar,
    files: Mutex<HashMap<String, Bar>>,
}

impl Output {
    /// Starts a display of many files on stderr.
    pub fn transfers(&self, what: &str) -> TransferDisplay {
        let what = clean(what);
        let shape = if self.is_quiet() || !std::io::stderr().is_terminal() {
            TransferShape::Plain(self.progress(&what))
        } else {
            let all = MultiProgress::new();
            let total = all.add(ProgressBar::new(0));
            total.enable_steady_tick(Duration::from_millis(200));
            TransferShape::Bars(Bars { all, total: Bar::new(&what, total), files: Mutex::default() })
        };
        TransferDisplay { shape }
    }
}

impl TransferDisplay {
    /// Shows a text while there is nothing to count.
    pub fn set_text(&self, text: impl Display) {
        if let TransferShape::Bars(bars) = &self.shape {
            bars.total.set_text(&text.to_string(), bar_width());
        }
    }

    /// Shows that `done` of `total` bytes are done. `files` has the path, the bytes done and the size of each file that is
    /// being transferred.
    pub fn set<'a>(
        &self,
        done: u64,
        total: u64,
        detail: impl Display,
        files: impl Iterator<Item = (&'a str, u64, u64)>,
    ) {
        match &self.shape {
            TransferShape::Plain(progress) => progress.set(done, total, detail),
            TransferShape::Bars(bars) => bars.set(done, total, &detail.to_string(), files),
        }
    }
}

impl Bars {
    fn set<'a>(
        &self,
        done: u64,
        total: u64,
        detail: &str,
        active: impl Iterator<Item = (&'a str, u64, u64)>,
    ) {
        let width = bar_width();
        self.total.set(done, total, detail, width);
        let mut files = self.files.lock();
        let mut former = std::mem::take(&mut *files);
        for (path, done, size) in active.filter(|&(_, _, size)| size >= LARGE) {
            let bar = former.remove(path).unwrap_or_else(|| {
                Bar::new(path, self.all.insert_before(&self.total.bar, ProgressBar::new(size)))
            });
            bar.set(done, size, "", width);
            files.insert(path.to_owned(), bar);
        }
        for bar in former.into_values() {
            bar.bar.finish_and_clear();
            self.all.remove(&bar.bar);
        }
    }
}

impl Drop for TransferDisplay {
    fn drop(&mut self) {
        if let TransferShape::Bars(bars) = &self.shape {
            for bar in bars.files.lock().values() {
                bar.bar.finish_and_clear();
            }
            bars.total.bar.finish_and_clear();
        }
    }
}
