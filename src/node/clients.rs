//! The jobs that other commands have this node do, for `status`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A job in progress, as `status` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// What it does: `get acme/minilm`.
    pub activity: String,
    /// Seconds since it began.
    pub seconds: u64,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do; 0 while that is not known.
    pub total: u64,
}

#[derive(Debug)]
struct Job {
    activity: String,
    since: Instant,
    done: u64,
    total: u64,
}

/// All jobs in progress, in the order in which they began.
#[derive(Debug, Clone, Default)]
pub struct Clients(Arc<Mutex<BTreeMap<u64, Job>>>);

impl Clients {
    /// Notes a job until what is returned is dropped.
    pub fn begin(&self, activity: String) -> Noted {
        let mut jobs = lock(&self.0);
        let id = jobs.last_key_value().map_or(0, |(id, _)| id + 1);
        jobs.insert(id, Job { activity, since: Instant::now(), done: 0, total: 0 });
        Noted { jobs: self.0.clone(), id }
    }

    /// Whether nothing is in progress.
    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// What is in progress now.
    pub fn status(&self) -> Vec<JobStatus> {
        let of = |job: &Job| JobStatus {
            activity: job.activity.clone(),
            seconds: job.since.elapsed().as_secs(),
            done: job.done,
            total: job.total,
        };
        lock(&self.0).values().map(of).collect()
    }
}

/// A job that is in progress while this lives.
#[derive(Debug)]
pub struct Noted {
    jobs: Arc<Mutex<BTreeMap<u64, Job>>>,
    id: u64,
}

impl Noted {
    /// Notes how far it is, in bytes.
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(job) = lock(&self.jobs).get_mut(&self.id) {
            (job.done, job.total) = (done, total);
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        lock(&self.jobs).remove(&self.id);
    }
}

fn lock(jobs: &Mutex<BTreeMap<u64, Job>>) -> parking_lot::MutexGuard<'_, BTreeMap<u64, Job>> {
    jobs.lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_while_it_lasts() {
        let clients = Clients::default();
        let get = clients.begin("get a/b".to_owned());
        let share = clients.begin("share a/c".to_owned());
        get.progress(3, 9);
        let told: Vec<_> = clients.status().into_iter().map(|j| (j.activity, j.done, j.total)).collect();
        assert_eq!(told, [("get a/b".to_owned(), 3, 9), ("share a/c".to_owned(), 0, 0)]);
        drop(get);
        assert_eq!(clients.status()[0].activity, "share a/c");
        drop(share);
        assert!(clients.status().is_empty());
    }
}
