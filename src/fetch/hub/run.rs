//! One request to a hub, from its start to the last granule.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::{HubOrigin, HubReads, OPEN_WITHIN, SILENT_WITHIN};
use crate::fetch::FileRef;
use crate::fetch::web::{WebBody, WebError};
use crate::model::GRANULE_LEN;
use crate::store::{Content, ContentKey, OpenHubFile, Rooms, SpaceClass};

/// Bytes that are collected before they are written.
const WRITE: u64 = 4 * GRANULE_LEN;

/// Space for a request. Dropping it ends the reservation.
pub(super) struct Reserved {
    pub rooms: Arc<Rooms>,
    pub class: SpaceClass,
    pub bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.rooms.end_reservation(self.class, self.bytes);
    }
}

/// A request for bytes of a file.
pub(super) struct RangeRequest {
    pub reads: Weak<HubReads>,
    pub key: ContentKey,
    pub id: u64,
    pub file: FileRef,
    pub origin: Arc<dyn HubOrigin>,
    /// Begins and ends at granules, or at the end of the file.
    pub range: Range<u64>,
    pub reserved: Reserved,
    pub _permit: OwnedSemaphorePermit,
}

impl RangeRequest {
    /// Runs to the end; the result is recorded.
    pub async fn run(self) {
        let result = self.receive().await;
        let Self { reads, key, id, file, reserved, _permit: permit, .. } = self;
        // Before the next request is chosen.
        drop((reserved, permit));
        if let Some(reads) = reads.upgrade() {
            reads.ended(&key, id, &file, result);
        }
    }

    async fn receive(&self) -> Result<(), WebError> {
        let Some(hub) = &self.file.revision.hub else { return Ok(()) };
        let path = &self.file.revision.manifest.files[self.file.file].path;
        let opening = self.origin.open(&hub.listing, self.file.file, self.range.clone());
        let late = |what: &str| WebError::Unreachable(format!("the hub {what} for {path}"));
        let body = timeout(OPEN_WITHIN, opening).await.map_err(|_| late("sent no answer"))??;
        let mut incoming = IncomingRange { body, rest: Bytes::new() };
        let content = self.file.content();
        let mut out = None;
        let mut at = self.range.start;
        while at < self.range.end {
            let len = WRITE.min(self.range.end - at);
            let bytes = incoming.next(len, &late).await?;
            at = self.write(content, &mut out, at, bytes).await?;
        }
        Ok(())
    }

    /// Writes bytes and records them. Returns the offset after them.
    async fn write(
        &self,
        content: &Arc<Content>,
        out: &mut Option<OpenHubFile>,
        at: u64,
        bytes: Vec<u8>,
    ) -> Result<u64, WebError> {
        let range = at..at + bytes.len() as u64;
        let (content, opened, written) = (content.clone(), out.take(), range.clone());
        let writing = tokio::task::spawn_blocking(move || match content.of_hub() {
            Some(of_hub) => of_hub.write(opened, written.start, &bytes),
            None => Err(io::Error::other("the content does not come from a hub")),
        });
        let disk = |error: io::Error| WebError::Unreachable(format!("disk: {error}"));
        let opened = writing.await.map_err(|error| disk(io::Error::other(error)))?.map_err(|error| {
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                self.reserved.rooms.cache.refused();
            }
            disk(error)
        })?;
        *out = Some(opened);
        if let Some(reads) = self.reads.upgrade() {
            reads.arrived(&self.key, self.id, &range, &self.file);
        }
        Ok(range.end)
    }
}

/// The bytes of a response.
struct IncomingRange {
    body: WebBody,
    /// Received, and not used yet.
    rest: Bytes,
}

impl IncomingRange {
    /// The next `len` bytes. A response may be longer than the request; the rest is not read.
    async fn next(
        &mut self,
        len: u64,
        late: &(dyn Fn(&str) -> WebError + Sync),
    ) -> Result<Vec<u8>, WebError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            if self.rest.is_empty() {
                let next = timeout(SILENT_WITHIN, self.body.next()).await;
                let next = next.map_err(|_| late("stopped sending"))?;
                self.rest = next.ok_or_else(|| late("sent less than requested"))??;
            }
            let part = self.rest.split_to(self.rest.len().min(len - bytes.len()));
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }
}

impl HubReads {
    fn arrived(self: &Arc<Self>, key: &ContentKey, id: u64, range: &Range<u64>, file: &FileRef) {
        {
            let mut state = self.state.lock();
            let model = file.revision.manifest.model_ref();
            *state.received.entry(model.clone()).or_default() += range.end - range.start;
            state.troubles.remove(&model);
            if let Some(reading) = state.files.get_mut(key) {
                if let Some(running) = reading.running.iter_mut().find(|running| running.id == id) {
                    running.rest.start = range.end;
                }
                reading.arrived();
            }
        }
        if file.content().is_complete()
            && let Some(call) = self.on_complete.get()
        {
            call(file.clone());
        }
    }

    fn ended(self: &Arc<Self>, key: &ContentKey, id: u64, file: &FileRef, result: Result<(), WebError>) {
        let pause = {
            let mut state = self.state.lock();
            let Some(reading) = state.files.get_mut(key) else { return };
            let before = reading.running.len();
            reading.running.retain(|running| running.id != id);
            if reading.running.len() == before {
                return;
            }
            if let Err(error) = &result {
                let model = file.revision.manifest.model_ref();
                tracing::warn!(%model, %error, "a request to the hub failed");
                reading.failed(error);
                let trouble = error.to_string();
                state.troubles.insert(model, trouble);
            }
            let pause = state.files.get(key).and_then(|r| r.pause(tokio::time::Instant::now()));
            state.forget_idle();
            pause
        };
        if let Some(pause) = pause {
            let reads = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                if let Some(reads) = reads.upgrade() {
                    reads.pump();
                }
            });
        }
        self.pump();
    }
}
