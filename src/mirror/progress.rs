//! The progress of a mirror: updated by the tasks that work, and read at any time.

use std::collections::BTreeMap;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

/// A pause before a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPause {
    /// The end of the pause.
    pub until: SystemTime,
    /// Whether the server requests the pause; otherwise it follows a failure.
    pub rate_limited: bool,
}

/// The progress of git.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GitProgress {
    /// Objects received.
    pub objects: u64,
    /// Number of all objects, as the server reports it.
    pub total_objects: u64,
    /// Bytes received.
    pub bytes: u64,
}

/// One file that is being received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProgress {
    /// The path in the repository.
    pub path: String,
    /// Bytes received.
    pub done: u64,
    /// Bytes of the whole file.
    pub size: u64,
}

/// The progress of a mirror at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DownloadProgress {
    /// The progress of git, if git is used.
    pub git: Option<GitProgress>,
    /// Bytes of files that are stored locally.
    pub done: u64,
    /// Bytes of all files; 0 until they are listed.
    pub total: u64,
    /// Files that are being received.
    pub files: Vec<FileProgress>,
    /// The current pause that ends last.
    pub waiting: Option<RetryPause>,
}

#[derive(Debug, Default)]
struct BoardState {
    git: Option<GitProgress>,
    done: u64,
    total: u64,
    files: BTreeMap<u64, FileProgress>,
    waiting: BTreeMap<u64, RetryPause>,
    next: u64,
}

impl BoardState {
    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// The progress that tasks share.
#[derive(Debug, Default)]
pub struct ProgressBoard(Mutex<BoardState>);

impl ProgressBoard {
    /// The progress at this moment.
    pub fn now(&self) -> DownloadProgress {
        let state = self.state();
        let in_flight: u64 = state.files.values().map(|file| file.done).sum();
        DownloadProgress {
            git: state.git,
            done: state.done + in_flight,
            total: state.total,
            files: state.files.values().cloned().collect(),
            waiting: state.waiting.values().copied().max_by_key(|waiting| waiting.until),
        }
    }

    fn state(&self) -> MutexGuard<'_, BoardState> {
        self.0.lock()
    }

    pub(super) fn set_git(&self, progress: GitProgress) {
        self.state().git = Some(progress);
    }

    pub(super) fn begin(&self, total: u64) {
        let mut state = self.state();
        (state.done, state.total) = (0, total);
    }

    /// Counts bytes of a file that was not shown by [`Self::file`].
    pub(super) fn add_done(&self, bytes: u64) {
        self.state().done += bytes;
    }

    /// Shows a file until the guard is dropped.
    pub(super) fn file(&self, path: &str, size: u64) -> FileGuard<'_> {
        let mut state = self.state();
        let id = state.next();
        state.files.insert(id, FileProgress { path: path.to_owned(), done: 0, size });
        FileGuard { board: self, id }
    }

    /// Shows a pause until the guard is dropped.
    pub(super) fn wait(&self, waiting: RetryPause) -> WaitGuard<'_> {
        let mut state = self.state();
        let id = state.next();
        state.waiting.insert(id, waiting);
        WaitGuard { board: self, id }
    }
}

/// Shows one file.
pub(super) struct FileGuard<'a> {
    board: &'a ProgressBoard,
    id: u64,
}

impl FileGuard<'_> {
    /// Sets the number of received bytes.
    pub fn set(&self, done: u64) {
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
    board: &'a ProgressBoard,
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
    fn finished_and_running_files_are_added_up() {
        let board = ProgressBoard::default();
        board.begin(100);
        board.add_done(10);
        let file = board.file("a", 50);
        file.set(20);
        assert_eq!((board.now().done, board.now().total, board.now().files.len()), (30, 100, 1));
        file.finish(50);
        assert_eq!((board.now().done, board.now().files.len()), (60, 0));
        drop(board.file("b", 40));
        let until = |seconds| RetryPause {
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
