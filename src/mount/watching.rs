//! The readers of parked reads, looked at from time to time: a read whose reader is about to end is answered.
//!
//! One task looks at all of them, as long as there are any. It reads a few small files of /proc for each, on a thread
//! for blocking work, and for at most [`MAX_LOOKS`] readers at a time.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::asker::{Asker, Reader};

/// How often: a killed program should end within about a second.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How many readers are looked at each time; the next look continues after them.
const MAX_LOOKS: usize = 512;

/// The readers of one mount that wait.
pub struct Watch {
    runtime: Handle,
    table: Mutex<Table>,
}

struct Table {
    next: u64,
    /// By reader, and a number for each of its reads.
    waiting: BTreeMap<(Reader, u64), oneshot::Sender<()>>,
    /// The reader that was looked at last.
    last: Reader,
    /// Whether the task runs.
    is_looking: bool,
}

impl Watch {
    /// Looks from a task on `runtime`.
    pub fn new(runtime: Handle) -> Arc<Self> {
        let table = Table { next: 0, waiting: BTreeMap::new(), last: Reader::FIRST, is_looking: false };
        Arc::new(Self { runtime, table: Mutex::new(table) })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Watches the reader of one parked read; none if the reader is about to end already. A reader that nothing is
    /// known of is watched in vain.
    pub fn admit(self: &Arc<Self>, asker: Asker) -> Option<Watched> {
        let Some(reader) = asker.reader() else { return (!asker.is_gone()).then_some(Watched(None)) };
        if reader.is_ending() {
            return None;
        }
        let (sender, ending) = oneshot::channel();
        let table = &mut *self.lock();
        let key = (reader, table.next);
        table.next += 1;
        table.waiting.insert(key, sender);
        if !std::mem::replace(&mut table.is_looking, true) {
            self.runtime.spawn(self.clone().look());
        }
        Some(Watched(Some(Seen { watch: self.clone(), key, ending })))
    }

    /// Runs until no read waits.
    async fn look(self: Arc<Self>) {
        let mut clock = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let Some(readers) = self.due() else { return };
            let ending = move || readers.into_iter().filter(|reader| reader.is_ending()).collect();
            // The runtime is going down, and all parked reads with it.
            let Ok(ending) = tokio::task::spawn_blocking(ending).await else { return };
            self.end(&ending);
        }
    }

    /// The readers to look at now; none if no read waits, and the task ends.
    fn due(&self) -> Option<Vec<Reader>> {
        let table = &mut *self.lock();
        if table.waiting.is_empty() {
            table.is_looking = false;
            return None;
        }
        let last = (table.last, u64::MAX);
        let after = table.waiting.range((Bound::Excluded(last), Bound::Unbounded));
        let mut readers: Vec<Reader> =
            after.chain(table.waiting.range(..=last)).map(|((r, _), _)| *r).collect();
        readers.dedup();
        readers.truncate(MAX_LOOKS);
        table.last = readers.last().copied().unwrap_or(Reader::FIRST);
        Some(readers)
    }

    /// Ends the waits of these readers.
    fn end(&self, ending: &HashSet<Reader>) {
        if !ending.is_empty() {
            // Dropping the sender is the message.
            self.lock().waiting.retain(|(reader, _), _| !ending.contains(reader));
        }
    }
}

/// A parked read whose reader is watched for as long as this lives.
pub struct Watched(Option<Seen>);

struct Seen {
    watch: Arc<Watch>,
    key: (Reader, u64),
    ending: oneshot::Receiver<()>,
}

impl Watched {
    /// Waits until the reader is about to end; without end if nothing is known of it.
    pub async fn ending(&mut self) {
        match &mut self.0 {
            Some(seen) => drop((&mut seen.ending).await),
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.watch.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn sleeper() -> (std::process::Child, Asker) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let asker = Asker::new(child.id());
        (child, asker)
    }

    #[tokio::test]
    async fn the_read_of_a_thread_that_has_ended_is_not_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let asker = Asker::new(child.id());
        child.wait().unwrap();
        let watch = Watch::new(Handle::current());
        assert!(watch.admit(asker).is_none());
        assert!(watch.admit(Asker::UNSEEN).is_some(), "one that is not seen may still wait");
    }

    #[tokio::test]
    async fn only_reads_of_an_ended_reader_end() {
        let watch = Watch::new(Handle::current());
        let ((mut dead, dying), (mut alive, living)) = (sleeper(), sleeper());
        let mut first = watch.admit(dying).unwrap();
        let mut second = watch.admit(dying).unwrap();
        let mut other = watch.admit(living).unwrap();
        let mut unseen = watch.admit(Asker::UNSEEN).unwrap();
        dead.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(60), async {
            tokio::join!(first.ending(), second.ending())
        })
        .await
        .unwrap();
        let waits = async {
            tokio::select! { () = other.ending() => (), () = unseen.ending() => () }
        };
        assert!(tokio::time::timeout(3 * LOOK_EVERY, waits).await.is_err());
        assert!(watch.admit(dying).is_none(), "a dead reader parks no further read");
        dead.wait().unwrap();
        alive.kill().unwrap();
        alive.wait().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_last_read_and_starts_again() {
        let watch = Watch::new(Handle::current());
        let asker = Asker::new(std::process::id());
        for _ in 0..2 {
            let watched = watch.admit(asker).unwrap();
            assert!(watch.lock().is_looking);
            drop(watched);
            assert!(watch.lock().waiting.is_empty());
            tokio::time::sleep(3 * LOOK_EVERY).await;
            assert!(!watch.lock().is_looking);
        }
    }

    #[tokio::test]
    async fn more_readers_than_one_look_takes_are_all_looked_at() {
        let watch = Watch::new(Handle::current());
        let (mut senders, count) = (Vec::new(), 3 * MAX_LOOKS / 2);
        for number in 0..count {
            let (sender, receiver) = oneshot::channel();
            senders.push(receiver);
            watch.lock().waiting.insert((Reader::numbered(number as u32 + 1), 0), sender);
        }
        let mut seen = HashSet::new();
        for _ in 0..2 {
            let readers = watch.due().unwrap();
            assert!(readers.len() <= MAX_LOOKS);
            seen.extend(readers);
        }
        assert_eq!(seen.len(), count);
    }
}
