//! The processes that have looked up more unknown names than one process may, for `status`.

use std::fs;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The most processes that are remembered.
const MAX_PROCESSES: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// How long a process is shown after its latest refused lookup.
const SHOWN: Duration = Duration::from_secs(3600);

/// A process that has used up its budget of `mount.max_lookups`, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitedProcess {
    /// Its process id; 0 for all processes that the daemon cannot see.
    pub pid: u32,
    /// The name of its program; empty if unknown.
    pub command: String,
    /// Lookups that were answered from local knowledge alone.
    pub lookups: u64,
    /// Seconds since the latest of them.
    pub seconds: u64,
}

/// The processes with the latest refused lookups.
#[derive(Debug)]
pub(super) struct Limited(Mutex<LruCache<u32, RefusedLookups>>);

#[derive(Debug)]
struct RefusedLookups {
    command: String,
    lookups: u64,
    when: Instant,
}

impl Default for Limited {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_PROCESSES)))
    }
}

impl Limited {
    /// Counts a refused lookup. Reads the name of the program from /proc the first time.
    pub fn note(&self, process: u32) {
        if let Some(entry) = self.0.lock().get_mut(&process) {
            (entry.lookups, entry.when) = (entry.lookups + 1, Instant::now());
            return;
        }
        let command = fs::read(format!("/proc/{process}/comm")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).trim_end().to_owned();
        tracing::warn!(
            process,
            command,
            "a process looks up more unknown names than mount.max_lookups allows"
        );
        self.0.lock().put(process, RefusedLookups { command, lookups: 1, when: Instant::now() });
    }

    /// The processes that `status` reports, the latest last.
    pub fn status(&self) -> Vec<LimitedProcess> {
        let entries = self.0.lock();
        let mut all: Vec<LimitedProcess> = entries
            .iter()
            .filter(|(_, entry)| entry.when.elapsed() < SHOWN)
            .map(|(&pid, entry)| LimitedProcess {
                pid,
                command: entry.command.clone(),
                lookups: entry.lookups,
                seconds: entry.when.elapsed().as_secs(),
            })
            .collect();
        all.reverse();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_lookups_are_counted_for_each_process() {
        let limited = Limited::default();
        for process in [u32::MAX, std::process::id(), std::process::id()] {
            limited.note(process);
        }
        let status = limited.status();
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(
            status.iter().map(|p| (p.pid, p.lookups)).collect::<Vec<_>>(),
            [(u32::MAX, 1), (std::process::id(), 2)]
        );
        assert_eq!((status[0].command.as_str(), status[1].command.as_str()), ("", comm.trim_end()));
        (1..100).for_each(|process| limited.note(u32::MAX - process));
        assert_eq!(limited.status().len(), MAX_PROCESSES.get());
    }
}
