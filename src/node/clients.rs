//! The jobs that this node does for commands, for `status`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A job in progress, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its work, such as `get acme/minilm`.
    pub activity: String,
    /// Seconds since it began.
    pub seconds: u64,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do; 0 while that is not known.
    pub total: u64,
}

#[derive(Debug)]
struct RunningJob {
    activity: String,
    since: Instant,
    done: u64,
    total: u64,
}

/// All jobs in progress, in the order in which they began.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<Mutex<BTreeMap<u64, RunningJob>>>);

impl Clients {
    /// Lists a job until the returned guard is dropped.
    pub fn begin(&self, activity: String) -> ListedJob {
        let mut jobs = self.0.lock();
        let id = jobs.last_key_value().map_or(0, |(id, _)| id + 1);
        jobs.insert(id, RunningJob { activity, since: Instant::now(), done: 0, total: 0 });
        ListedJob { jobs: self.0.clone(), id }
    }

    /// Whether no job is in progress.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// The jobs in progress now.
    pub fn status(&self) -> Vec<JobStatus> {
        let of = |job: &RunningJob| JobStatus {
            activity: job.activity.clone(),
            seconds: job.since.elapsed().as_secs(),
            done: job.done,
            total: job.total,
        };
        self.0.lock().values().map(of).collect()
    }
}

/// A job that is in progress while this lives.
#[derive(Debug)]
pub struct ListedJob {
    jobs: Arc<Mutex<BTreeMap<u64, RunningJob>>>,
    id: u64,
}

impl ListedJob {
    /// Sets the bytes done and the bytes to do.
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(job) = self.jobs.lock().get_mut(&self.id) {
            (job.done, job.total) = (done, total);
        }
    }
}

impl Drop for ListedJob {
    fn drop(&mut self) {
        self.jobs.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_reported_while_it_runs() {
        let clients = Clients::default();
        let get = clients.begin("get a/b".to_owned());
        let share = clients.begin("share a/c".to_owned());
        get.progress(3, 9);
        let reported: Vec<_> = clients.status().into_iter().map(|j| (j.activity, j.done, j.total)).collect();
        assert_eq!(reported, [("get a/b".to_owned(), 3, 9), ("share a/c".to_owned(), 0, 0)]);
        drop(get);
        assert_eq!(clients.status()[0].activity, "share a/c");
        drop(share);
        assert!(clients.status().is_empty());
    }
}
