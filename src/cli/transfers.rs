//! Progress of many files: a total, and a bar for each large file under way.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar};
use parking_lot::Mutex;

use super::bar::Bar;
use super::output::{Output, Progress, bar_width, clean};

/// Files shorter than this, in bytes, come and go too fast for a bar of their own.
const LARGE: u64 = 8 << 20;

/// A running display. It disappears from a terminal when dropped; where there is no terminal, the total is a line now
/// and then.
#[derive(Debug)]
pub struct Transfers {
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
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
    pub fn transfers(&self, what: &str) -> Transfers {
        let what = clean(what);
        let shape = match !self.is_quiet() && std::io::stderr().is_terminal() {
            false => Shape::Plain(self.progress(&what)),
            true => {
                let all = MultiProgress::new();
                let total = all.add(ProgressBar::new(0));
                total.enable_steady_tick(Duration::from_millis(200));
                Shape::Bars(Bars { all, total: Bar::new(&what, total), files: Mutex::default() })
            }
        };
        Transfers { shape }
    }
}

impl Transfers {
    /// Shows what goes on before there is anything to count.
    pub fn say(&self, text: impl Display) {
        if let Shape::Bars(bars) = &self.shape {
            bars.total.say(&text.to_string(), bar_width());
        }
    }

    /// Shows that `done` of `total` bytes are done, and of the files under way path, bytes done, and size.
    pub fn set<'a>(
        &self,
        done: u64,
        total: u64,
        detail: impl Display,
        files: impl Iterator<Item = (&'a str, u64, u64)>,
    ) {
        match &self.shape {
            Shape::Plain(progress) => progress.set(done, total, detail),
            Shape::Bars(bars) => bars.set(done, total, &detail.to_string(), files),
        }
    }
}

impl Bars {
    fn set<'a>(
        &self,
        done: u64,
        total: u64,
        detail: &str,
        under_way: impl Iterator<Item = (&'a str, u64, u64)>,
    ) {
        let width = bar_width();
        self.total.set(done, total, detail, width);
        let mut files = self.files.lock();
        let mut former = std::mem::take(&mut *files);
        for (path, done, size) in under_way.filter(|&(_, _, size)| size >= LARGE) {
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

impl Drop for Transfers {
    fn drop(&mut self) {
        if let Shape::Bars(bars) = &self.shape {
            for bar in bars.files.lock().values() {
                bar.bar.finish_and_clear();
            }
            bars.total.bar.finish_and_clear();
        }
    }
}
