//! Reads: answered at once from the disk, or parked until the bytes have come.
//!
//! The thread that takes requests from the kernel never waits: what is not here becomes a task that owns the
//! reply, so that one dead swarm costs no thread. Every parked read is answered: by its bytes, by an error when
//! its deadline (kept by `fetch`) has passed or its reader is about to end, or by `EIO` when the runtime drops the task.
//!
//! An error to one reader is no error to another that waits for the same page: the kernel asks again for that one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::asker::Asker;
use super::errno::ToErrno;
use super::tree::TreeError;
use super::watching::Watch;
use crate::fetch::{Fetch, FileRef, ReadError};

/// Where the bytes of one read go. Dropping it unanswered must answer with an error.
pub trait Answer: Send + 'static {
    /// Answers with bytes.
    fn data(self, bytes: &[u8]);

    /// Answers with an error.
    fn fail(self, errno: Errno);
}

/// Figures of a mount's reads.
#[derive(Debug, Default)]
pub struct ReadCounters {
    reads: AtomicU64,
    parked: AtomicU64,
}

impl ReadCounters {
    /// Reads that the kernel has asked for so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Reads that wait for bytes now.
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }
}

/// Counts a read as parked for as long as it lives.
struct Parked(Arc<ReadCounters>);

impl Parked {
    fn new(counters: &Arc<ReadCounters>) -> Self {
        counters.parked.fetch_add(1, Ordering::Relaxed);
        Self(counters.clone())
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves the reads of one mount.
pub struct Reads {
    fetch: Arc<Fetch>,
    runtime: Handle,
    counters: Arc<ReadCounters>,
    watch: Arc<Watch>,
    closing: watch::Receiver<bool>,
}

impl Reads {
    /// Serves from `fetch`; parked reads run on `runtime` and fail when `closing` becomes true.
    pub fn new(
        fetch: Arc<Fetch>,
        runtime: Handle,
        counters: Arc<ReadCounters>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let watch = Watch::new(runtime.clone());
        Self { fetch, runtime, counters, watch, closing }
    }

    /// Answers a read of `len` bytes at `offset`, now or later. Shorter only at the end of the file: the kernel
    /// takes a short answer for the new end. Only a file that `is_shown` is waited for: an open file of a model that
    /// was taken out goes on as far as its bytes are here, but does not bring the model back. A parked read ends with
    /// `EINTR` when the asker is about to end.
    pub fn serve(
        &self,
        file: &FileRef,
        offset: u64,
        len: u64,
        asker: Asker,
        is_shown: impl FnOnce() -> bool,
        answer: impl Answer,
    ) {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        let size = file.revision.manifest.files[file.file].size;
        let len = len.min(size.saturating_sub(offset));
        if len == 0 {
            return answer.data(&[]);
        }
        // What the read sets off may start tasks and timers.
        let _inside = self.runtime.enter();
        if let Some(bytes) = self.fetch.try_read(file, offset, len) {
            return finish(file, offset, len, Ok(bytes), answer);
        }
        if !is_shown() {
            return answer.fail(TreeError::Stale.errno());
        }
        let parked = Parked::new(&self.counters);
        let (fetch, file, watch) = (self.fetch.clone(), file.clone(), self.watch.clone());
        let mut closing = self.closing.clone();
        self.runtime.spawn(async move {
            let ending = async {
                if let Some(mut watched) = watch.admit(asker) {
                    watched.ending().await;
                }
            };
            // In this order: the bytes are requested first.
            let result = tokio::select! {
                biased;
                result = fetch.read(&file, offset, len) => Some(result),
                () = ending => None,
                // An error means that the mount is gone.
                _ = closing.wait_for(|closing| *closing) => Some(Err(ReadError::Stopped)),
            };
            drop(parked);
            match result {
                Some(result) => finish(&file, offset, len, result, answer),
                None => answer.fail(TreeError::Interrupted.errno()),
            }
        });
    }

    /// Tells that nobody has the file open any more.
    pub fn released(&self, file: &FileRef) {
        let _inside = self.runtime.enter();
        self.fetch.released(file);
    }
}

fn finish(file: &FileRef, offset: u64, len: u64, result: Result<Vec<u8>, ReadError>, answer: impl Answer) {
    let manifest = &file.revision.manifest;
    let path = &manifest.files[file.file].path;
    match result {
        Ok(bytes) if bytes.len() as u64 == len => answer.data(&bytes),
        Ok(bytes) => {
            warn!(model = %manifest.name, path, offset, len, got = bytes.len(), "A read came back short.");
            answer.fail(Errno::IO);
        }
        Err(error) => {
            if error.is_trouble() {
                warn!(model = %manifest.name, path, offset, len, %error, "A read failed.");
            } else {
                debug!(model = %manifest.name, path, offset, len, %error, "A read was given up.");
            }
            answer.fail(error.errno());
        }
    }
}
