//! What a mirror says of itself while it goes on: written by those who work, read whenever somebody looks.

use std::collections::BTreeMap;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

/// A pause before something is asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// When it ends.
    pub until: SystemTime,
    /// Whether the server wants it, rather than that something failed.
    pub rate_limited: bool,
}

/// What git has fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GitProgress {
    /// Objects received.
    pub objects: u64,
    /// Objects in all, as the server says.
    pub total_objects: u64,
    /// Bytes received.
    pub bytes: u64,
}

/// One file on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProgress {
    /// Its path in the repository.
    pub path: String,
    /// Bytes here.
    pub done: u64,
    /// Bytes in all.
    pub size: u64,
}

/// How far a mirror is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What git has fetched, where git is used.
    pub git: Option<GitProgress>,
    /// Bytes of files that are here.
    pub done: u64,
    /// Bytes of files in all; 0 until they are listed.
    pub total: u64,
    /// Files that are on their way.
    pub files: Vec<FileProgress>,
    /// The longest of the pauses that are being made.
    pub waiting: Option<Waiting>,
}

#[derive(Debug, Default)]
struct State {
    git: Option<GitProgress>,
    done: u64,
    total: u64,
    files: BTreeMap<u64, FileProgress>,
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
}

impl State {
    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Where progress is written down.
#[derive(Debug, Default)]
pub struct Board(Mutex<State>);

impl Board {
    /// How far it is now.
    pub fn now(&self) -> Progress {
        let state = self.state();
        let in_flight: u64 = state.files.values().map(|file| file.done).sum();
        Progress {
            git: state.git,
            done: state.done + in_flight,
            total: state.total,
            files: state.files.values().cloned().collect(),
            waiting: state.waiting.values().copied().max_by_key(|waiting| waiting.until),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub(super) fn set_git(&self, progress: GitProgress) {
        self.state().git = Some(progress);
    }

    pub(super) fn begin(&self, total: u64) {
        let mut state = self.state();
        (state.done, state.total) = (0, total);
    }

    /// Counts bytes of a file that was not on its way.
    pub(super) fn add_done(&self, bytes: u64) {
        self.state().done += bytes;
    }

    /// Shows a file until the guard goes.
    pub(super) fn file(&self, path: &str, size: u64) -> FileGuard<'_> {
        let mut state = self.state();
        let id = state.next();
        state.files.insert(id, FileProgress { path: path.to_owned(), done: 0, size });
        FileGuard { board: self, id }
    }

    /// Shows a pause until the guard goes.
    pub(super) fn wait(&self, waiting: Waiting) -> WaitGuard<'_> {
        let mut state = self.state();
        let id = state.next();
        state.waiting.insert(id, waiting);
        WaitGuard { board: self, id }
    }
}

/// Shows one file.
pub(super) struct FileGuard<'a> {
    board: &'a Board,
    id: u64,
}

impl FileGuard<'_> {
    /// Says how many of its bytes are here.
    pub fn at(&self, done: u64) {
        if let Some(file) = self.board.state().files.get_mut(&self.id) {
            file.done = done;
        }
    }

    /// Counts the file as done.
    pub fn finish(self, size: u64) {
        let mut state = self.board.state();
        state.files.remove(&self.id);
        state.done += size;
    }
}

impl Drop for FileGuard<'_> {
    fn drop(&mut self) {
        self.board.state().files.remove(&self.id);
    }
}

/// Shows one pause.
pub(super) struct WaitGuard<'a> {
    board: &'a Board,
    id: u64,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.board.state().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_shown_adds_up() {
        let board = Board::default();
        board.begin(100);
        board.add_done(10);
        let file = board.file("a", 50);
        file.at(20);
        assert_eq!((board.now().done, board.now().total, board.now().files.len()), (30, 100, 1));
        file.finish(50);
        assert_eq!((board.now().done, board.now().files.len()), (60, 0));
        drop(board.file("b", 40));
        let until = |seconds| Waiting {
            until: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            rate_limited: true,
        };
        let (short, long) = (board.wait(until(5)), board.wait(until(9)));
        assert_eq!((board.now().done, board.now().waiting), (60, Some(until(9))));
        drop(long);
        assert_eq!(board.now().waiting, Some(until(5)));
        drop(short);
        assert_eq!(board.now().waiting, None);
    }
}
