//! Reads: answered immediately from the disk, or parked until the bytes have arrived.
//!
//! The thread that handles the request never waits. A read of bytes that are not cached becomes a task that owns the
//! reply, so a swarm that sends nothing occupies no thread. Every parked read gets a reply: its bytes, an error when its
//! deadline (kept by `fetch`) has passed or its reader is about to end, or `EIO` when the runtime drops the task.
//!
//! If one reader gets an error, another reader that waits for the same page does not: the kernel requests the page again
//! for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{Instrument as _, debug, warn};

use super::errno::ToErrno;
use super::reader_watch::ReaderWatch;
use super::requester::Requester;
use super::tree_error::TreeError;
use crate::fetch::{Fetch, FileRef, ReadError};

/// The reply of one read. If it is dropped without a reply, it must send an error.
pub trait ReadReply: Send + 'static {
    /// Sends the bytes.
    fn data(self, bytes: &[u8]);

    /// Sends an error.
    fn fail(self, errno: Errno);
}

/// Counters of a mount's reads.
#[derive(Debug, Default)]
pub struct ReadCounters {
    reads: AtomicU64,
    parked: AtomicU64,
}

impl ReadCounters {
    /// Reads that the kernel has requested so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Reads that wait for bytes now.
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }
}

/// Counts a read as parked until it is dropped.
struct ParkedRead(Arc<ReadCounters>);

impl ParkedRead {
    fn new(counters: &Arc<ReadCounters>) -> Self {
        counters.parked.fetch_add(1, Ordering::Relaxed);
        Self(counters.clone())
    }
}

impl Drop for ParkedRead {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers the reads of one mount.
pub struct Reads {
    fetch: Arc<Fetch>,
    runtime: Handle,
    counters: Arc<ReadCounters>,
    watch: Arc<ReaderWatch>,
    closing: watch::Receiver<bool>,
    /// Whether bytes that are not cached may be requested from a hub.
    asks_hub: bool,
}

impl Reads {
    /// Reads from `fetch`; with `asks_hub` also bytes of models of which no manifest is known. Parked reads run on `runtime` and fail when `closing` becomes true.
    pub fn new(
        fetch: Arc<Fetch>,
        runtime: Handle,
        counters: Arc<ReadCounters>,
        closing: watch::Receiver<bool>,
        asks_hub: bool,
    ) -> Self {
        let watch = ReaderWatch::new(runtime.clone());
        Self { fetch, runtime, counters, watch, closing, asks_hub }
    }

    /// Replies to a read of `len` bytes at `offset`, now or later. The reply is shorter only at the end of the file,
    /// because the kernel treats a short reply as the end of the file. If `is_shown` returns false, the model was removed
    /// from the mount: its cached bytes can still be read, but other bytes are not fetched. A parked read ends with
    /// `EINTR` when the requester is about to end.
    pub fn serve(
        &self,
        file: &FileRef,
        offset: u64,
        len: u64,
        requester: Requester,
        is_shown: impl Fn() -> bool + Send + Sync + 'static,
        reply: impl ReadReply,
    ) {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        let size = file.revision.manifest.files[file.file].size;
        let len = len.min(size.saturating_sub(offset));
        if len == 0 {
            return reply.data(&[]);
        }
        // `fetch` may start tasks and timers.
        let _inside = self.runtime.enter();
        let is_of_hub = || file.present().is_some_and(|file| file.revision.hub.is_some());
        let only_cached = !self.asks_hub && is_of_hub();
        let cached = if only_cached {
            self.fetch.try_read_only(file, offset, len)
        } else {
            self.fetch.try_read(file, offset, len)
        };
        if let Some(bytes) = cached {
            return finish(file, offset, len, Ok(bytes), reply);
        }
        // A refuted manifest is not shown, and its readers continue at the hub.
        if !is_shown() && !file.is_refuted() {
            return reply.fail(TreeError::Stale.errno());
        }
        if only_cached {
            let error =
                ReadError::Broken("this mount does not ask the hub, and the bytes are not cached".to_owned());
            return finish(file, offset, len, Err(error), reply);
        }
        let parked = ParkedRead::new(&self.counters);
        let (fetch, file, watch) = (self.fetch.clone(), file.clone(), self.watch.clone());
        let mut closing = self.closing.clone();
        let read = async move {
            let ending = async {
                if let Some(mut watched) = watch.admit(requester) {
                    watched.ending().await;
                }
            };
            // `biased`, so that the bytes are requested first.
            let result = tokio::select! {
                biased;
                result = fetch.read_while(&file, offset, len, &is_shown) => Some(result),
                () = ending => None,
                // An error means that the mount is gone.
                _ = closing.wait_for(|closing| *closing) => Some(Err(ReadError::Stopped)),
            };
            drop(parked);
            match result {
                Some(result) => finish(&file, offset, len, result, reply),
                None => reply.fail(TreeError::Interrupted.errno()),
            }
        };
        self.runtime.spawn(read.in_current_span());
    }

    /// Reports that a program has opened the file.
    pub fn opened(&self, file: &FileRef) {
        let _inside = self.runtime.enter();
        self.fetch.opened(file);
    }

    /// Reports that the last handle of the file was closed.
    pub fn released(&self, file: &FileRef) {
        let _inside = self.runtime.enter();
        self.fetch.released(file);
    }
}

fn finish(file: &FileRef, offset: u64, len: u64, result: Result<Vec<u8>, ReadError>, reply: impl ReadReply) {
    let manifest = &file.revision.manifest;
    let path = &manifest.files[file.file].path;
    match result {
        Ok(bytes) if bytes.len() as u64 == len => reply.data(&bytes),
        Ok(bytes) => {
            warn!(model = %manifest.name, path, offset, len, got = bytes.len(), "a read returned too few bytes");
            reply.fail(Errno::IO);
        }
        Err(error) => {
            if error.is_fault() {
                warn!(model = %manifest.name, path, offset, len, %error, "a read failed");
            } else {
                debug!(model = %manifest.name, path, offset, len, %error, "a read was cancelled");
            }
            reply.fail(error.errno());
        }
    }
}
