//! The limits of the requests of all torrents: their number, and the bytes that they hold.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::sources::Servers;
use super::{FOR_READERS, MEMORY_BLOCKS, PER_NODE};

/// The limits, and the servers that asked for a pause.
#[derive(Debug)]
pub(in crate::fetch) struct WebShared {
    slots: Arc<Semaphore>,
    /// Bytes on their way to the engine, in blocks: from the web, and cached bytes that are being proved.
    pub(in crate::fetch) memory: Arc<Semaphore>,
    pub(super) servers: Servers,
    /// Wakes the timer task, which uses a slot that became free.
    freed: Arc<Notify>,
}

impl WebShared {
    pub(in crate::fetch) fn new(freed: Arc<Notify>) -> Self {
        let (slots, memory) = (Semaphore::new(PER_NODE), Semaphore::new(MEMORY_BLOCKS));
        Self { slots: Arc::new(slots), memory: Arc::new(memory), servers: Servers::default(), freed }
    }

    /// A slot, if one is free. The last slots are for readers.
    pub(super) fn slot(&self, for_reader: bool) -> Option<Slot> {
        if !for_reader && self.slots.available_permits() <= 2 * FOR_READERS {
            return None;
        }
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        Some(Slot { permit: Some(permit), freed: self.freed.clone() })
    }
}

/// The right to one of the node's requests.
#[derive(Debug)]
pub(super) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit = None;
        self.freed.notify_one();
    }
}
