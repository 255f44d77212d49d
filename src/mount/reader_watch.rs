//! Checks the readers of parked reads regularly, and ends a read whose reader is about to end.
//!
//! One task checks all readers and runs while there are any. For each reader it reads a few small files of /proc, on a
//! thread for blocking work, and for at most [`MAX_CHECKS`] readers at a time.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::requester::{Reader, Requester};

/// Time between two checks. A killed program should end within about a second.
const CHECK_EVERY: Duration = Duration::from_millis(300);

/// How many readers are checked at a time. The next check continues after them.
const MAX_CHECKS: usize = 512;

/// The readers of one mount that wait.
pub struct ReaderWatch {
    runtime: Handle,
    table: Mutex<WaitingReads>,
}

struct WaitingReads {
    next: u64,
    /// By reader and number of the read. Dropping the sender ends the read.
    waiting: BTreeMap<(Reader, u64), oneshot::Sender<()>>,
    /// The reader that was checked last.
    last: Reader,
    /// Whether the task is running.
    is_running: bool,
}

impl ReaderWatch {
    /// The checking task runs on `runtime`.
    pub fn new(runtime: Handle) -> Arc<Self> {
        let table =
            WaitingReads { next: 0, waiting: BTreeMap::new(), last: Reader::FIRST, is_running: false };
        Arc::new(Self { runtime, table: Mutex::new(table) })
    }

    /// Watches the reader of one parked read; none if the reader is already about to end. If the reader is unknown,
    /// [`WatchedRead::ending`] never returns.
    pub fn admit(self: &Arc<Self>, requester: Requester) -> Option<WatchedRead> {
        let Some(reader) = requester.reader() else {
            return (!requester.is_gone()).then_some(WatchedRead(None));
        };
        if reader.is_ending() {
            return None;
        }
        let (sender, ending) = oneshot::channel();
        let table = &mut *self.table.lock();
        let key = (reader, table.next);
        table.next += 1;
        table.waiting.insert(key, sender);
        if !std::mem::replace(&mut table.is_running, true) {
            self.runtime.spawn(self.clone().run());
        }
        Some(WatchedRead(Some(WatchedReader { watch: self.clone(), key, ending })))
    }

    /// Runs until no read waits.
    async fn run(self: Arc<Self>) {
        let mut clock = tokio::time::interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let Some(readers) = self.due() else { return };
            let ending = move || readers.into_iter().filter(|reader| reader.is_ending()).collect();
            // An error means that the runtime stops, and all parked reads with it.
            let Ok(ending) = tokio::task::spawn_blocking(ending).await else { return };
            self.end(&ending);
        }
    }

    /// The readers to check now; none if no read waits and the task must end.
    fn due(&self) -> Option<Vec<Reader>> {
        let table = &mut *self.table.lock();
        if table.waiting.is_empty() {
            table.is_running = false;
            return None;
        }
        let last = (table.last, u64::MAX);
        let after = table.waiting.range((Bound::Excluded(last), Bound::Unbounded));
        let mut readers: Vec<Reader> =
            after.chain(table.waiting.range(..=last)).map(|((r, _), _)| *r).collect();
        readers.dedup();
        readers.truncate(MAX_CHECKS);
        table.last = readers.last().copied().unwrap_or(Reader::FIRST);
        Some(readers)
    }

    /// Ends all reads of these readers.
    fn end(&self, ending: &HashSet<Reader>) {
        if !ending.is_empty() {
            self.table.lock().waiting.retain(|(reader, _), _| !ending.contains(reader));
        }
    }
}

/// A parked read. Its reader is watched until this is dropped.
pub struct WatchedRead(Option<WatchedReader>);

struct WatchedReader {
    watch: Arc<ReaderWatch>,
    key: (Reader, u64),
    ending: oneshot::Receiver<()>,
}

impl WatchedRead {
    /// Waits until the reader is about to end; for ever if the reader is unknown.
    pub async fn ending(&mut self) {
        match &mut self.0 {
            Some(reader) => drop((&mut reader.ending).await),
            None => std::future::pending().await,
        }
    }
}

impl Drop for WatchedReader {
    fn drop(&mut self) {
        self.watch.table.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn sleeper() -> (std::process::Child, Requester) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let requester = Requester::new(child.id());
        (child, requester)
    }

    #[tokio::test]
    async fn a_read_of_an_ended_thread_does_not_wait() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let requester = Requester::new(child.id());
        child.wait().unwrap();
        let watch = ReaderWatch::new(Handle::current());
        assert!(watch.admit(requester).is_none());
        assert!(watch.admit(Requester::UNSEEN).is_some(), "an unknown reader may still wait");
    }

    #[tokio::test]
    async fn only_reads_of_an_ended_reader_end() {
        let watch = ReaderWatch::new(Handle::current());
        let ((mut dead, dying), (mut alive, living)) = (sleeper(), sleeper());
        let mut first = watch.admit(dying).unwrap();
        let mut second = watch.admit(dying).unwrap();
        let mut other = watch.admit(living).unwrap();
        let mut unseen = watch.admit(Requester::UNSEEN).unwrap();
        dead.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(60), async {
            tokio::join!(first.ending(), second.ending())
        })
        .await
        .unwrap();
        let waits = async {
            tokio::select! { () = other.ending() => (), () = unseen.ending() => () }
        };
        assert!(tokio::time::timeout(3 * CHECK_EVERY, waits).await.is_err());
        assert!(watch.admit(dying).is_none(), "a dead reader parks no further read");
        dead.wait().unwrap();
        alive.kill().unwrap();
        alive.wait().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_last_read_and_starts_again() {
        let watch = ReaderWatch::new(Handle::current());
        let requester = Requester::new(std::process::id());
        for _ in 0..2 {
            let watched = watch.admit(requester).unwrap();
            assert!(watch.table.lock().is_running);
            drop(watched);
            assert!(watch.table.lock().waiting.is_empty());
            tokio::time::sleep(3 * CHECK_EVERY).await;
            assert!(!watch.table.lock().is_running);
        }
    }

    #[tokio::test]
    async fn all_readers_are_checked_in_turn() {
        let watch = ReaderWatch::new(Handle::current());
        let (mut senders, count) = (Vec::new(), 3 * MAX_CHECKS / 2);
        for number in 0..count {
            let (sender, receiver) = oneshot::channel();
            senders.push(receiver);
            watch.table.lock().waiting.insert((Reader::numbered(number as u32 + 1), 0), sender);
        }
        let mut seen = HashSet::new();
        for _ in 0..2 {
            let readers = watch.due().unwrap();
            assert!(readers.len() <= MAX_CHECKS);
            seen.extend(readers);
        }
        assert_eq!(seen.len(), count);
    }
}
