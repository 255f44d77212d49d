//! The commands that wait beside this node to go on in its place when it ends, such as `daemon`.
//!
//! Each holds a job open on the control socket; the entry lives as long as the job.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Node, NodeError};

/// As many may wait at once; each is a process.
const MAX_ATTACHED: usize = 64;

/// A command that waits. Body of `POST /v1/attach`, and part of the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Companion {
    /// Its process.
    pub pid: u32,
    /// What it is, e.g. `daemon`.
    pub activity: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Attached {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, (Companion, oneshot::Sender<()>)>,
}

impl Attached {
    /// Keeps the command in the list until somebody asks it to end, the node ends, or the future is dropped. Refuses a second one of
    /// the same activity.
    pub async fn attend(&self, companion: Companion) -> Result<(), NodeError> {
        let (end, ended) = oneshot::channel();
        let _entry = self.enter(companion, end)?;
        ended.await.map_err(|_| NodeError::HostLost)
    }

    /// Lets all go: the node ends.
    pub fn release(&self) {
        self.lock().entries.clear();
    }

    fn enter(&self, companion: Companion, end: oneshot::Sender<()>) -> Result<Entry<'_>, NodeError> {
        let mut table = self.lock();
        if let Some((there, _)) = table.entries.values().find(|(c, _)| c.activity == companion.activity) {
            return Err(twice(there));
        }
        if table.entries.len() >= MAX_ATTACHED {
            return Err(NodeError::Request(format!("{MAX_ATTACHED} commands wait for this node already")));
        }
        let number = table.next;
        table.next += 1;
        table.entries.insert(number, (companion, end));
        Ok(Entry { attached: self, number })
    }

    /// Asks the command of that activity to end; tells which it was.
    pub fn end(&self, activity: &str) -> Option<Companion> {
        let mut table = self.lock();
        let number = table.entries.iter().find(|(_, (c, _))| c.activity == activity).map(|(&n, _)| n)?;
        let (companion, end) = table.entries.remove(&number)?;
        // One that is gone needs no asking.
        let _ = end.send(());
        Some(companion)
    }

    /// Those that wait now.
    pub fn list(&self) -> Vec<Companion> {
        self.lock().entries.values().map(|(companion, _)| companion.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Keeps a command in the status while it waits for the end of this node. Ends when somebody asks it to.
    pub(super) async fn attend(&self, companion: Companion) -> Result<(), NodeError> {
        if companion.activity == self.activity {
            return Err(twice(&Companion { pid: std::process::id(), ..companion }));
        }
        self.attached.attend(companion).await
    }

    /// Asks the command that waits as `activity` to end; tells which it was.
    pub(super) fn end_attached(&self, activity: &str) -> Result<Companion, NodeError> {
        let ended = self.attached.end(activity);
        ended.ok_or_else(|| NodeError::Request(format!("no {activity} waits here")))
    }
}

fn twice(there: &Companion) -> NodeError {
    NodeError::Request(format!("a {} runs already (process {})", there.activity, there.pid))
}

/// Takes its command off the list when it goes out of scope.
struct Entry<'a> {
    attached: &'a Attached,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.attached.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(pid: u32) -> Companion {
        Companion { pid, activity: "daemon".to_owned() }
    }

    #[tokio::test]
    async fn a_command_is_listed_until_it_ends_or_is_asked_to() {
        let attached = Attached::default();
        let mut first = Box::pin(attached.attend(daemon(1)));
        assert!(poll_once(&mut first).is_none());
        assert_eq!(attached.list(), [daemon(1)]);
        assert!(attached.attend(daemon(2)).await.unwrap_err().to_string().contains("process 1"));
        assert_eq!(attached.end("other"), None);
        assert_eq!(attached.end("daemon"), Some(daemon(1)));
        first.await.unwrap();
        assert!(attached.list().is_empty());
        let mut second = Box::pin(attached.attend(daemon(2)));
        assert!(poll_once(&mut second).is_none());
        drop(second);
        assert!(attached.list().is_empty(), "one that is gone is still listed");
        let mut third = Box::pin(attached.attend(daemon(3)));
        assert!(poll_once(&mut third).is_none());
        attached.release();
        assert!(matches!(third.await, Err(NodeError::HostLost)));
    }

    /// Polls once.
    fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }
}
