//! Magnet links whose info dictionary is being asked of peers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::torrent::TorrentId;

/// Who waits for which torrent's metadata.
#[derive(Debug, Default)]
pub struct MetadataWaiters {
    waiting: Mutex<HashMap<TorrentId, oneshot::Sender<Vec<u8>>>>,
}

impl MetadataWaiters {
    /// Waits for the metadata of a torrent; the receiver fails when it is forgotten.
    pub fn expect(&self, id: TorrentId) -> oneshot::Receiver<Vec<u8>> {
        let (found, receiver) = oneshot::channel();
        self.lock().insert(id, found);
        receiver
    }

    /// Hands metadata to whoever waits for it.
    pub fn found(&self, id: TorrentId, info: &[u8]) {
        if let Some(waiter) = self.lock().remove(&id) {
            // The waiter may have given up meanwhile.
            let _ = waiter.send(info.to_vec());
        }
    }

    /// Nobody waits any longer.
    pub fn forget(&self, id: TorrentId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TorrentId, oneshot::Sender<Vec<u8>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
