//! What the requests of all torrents share: how many there may be, and how much they may hold.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::sources::Servers;
use super::{FOR_READERS, MEMORY_BLOCKS, PER_NODE};

/// What all torrents share.
#[derive(Debug)]
pub(in crate::fetch) struct WebShared {
    slots: Arc<Semaphore>,
    /// Bytes on their way to the engine, in blocks: from the web, and cached ones that are proved.
    pub(in crate::fetch) memory: Arc<Semaphore>,
    pub(super) servers: Servers,
    /// Wakes the timer task, which looks who can use a slot that became free.
    freed: Arc<Notify>,
}

impl WebShared {
    pub(in crate::fetch) fn new(freed: Arc<Notify>) -> Self {
        let (slots, memory) = (Semaphore::new(PER_NODE), Semaphore::new(MEMORY_BLOCKS));
        Self { slots: Arc::new(slots), memory: Arc::new(memory), servers: Servers::default(), freed }
    }

    /// A slot, if one is free: of the last ones readers get each.
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
