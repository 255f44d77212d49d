//! Requests for the info dictionaries of magnet links.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::torrent::TorrentId;

/// The requests in progress.
#[derive(Debug, Default)]
pub struct MetadataWaiters {
    asked: Mutex<HashMap<TorrentId, MetadataRequest>>,
}

/// The state of a request.
#[derive(Debug)]
enum MetadataRequest {
    /// A task waits for the answer.
    Waiting(oneshot::Sender<Vec<u8>>),
    /// The answer arrived before the task began to wait.
    Answered(Vec<u8>),
}

impl MetadataWaiters {
    /// Waits for the metadata of a torrent; the receiver fails when it is forgotten.
    pub fn expect(&self, id: TorrentId) -> oneshot::Receiver<Vec<u8>> {
        let (found, receiver) = oneshot::channel();
        let mut asked = self.asked.lock();
        match asked.remove(&id) {
            Some(MetadataRequest::Answered(info)) => {
                // The receiver exists: it is returned below.
                let _ = found.send(info);
            }
            _ => {
                asked.insert(id, MetadataRequest::Waiting(found));
            }
        }
        receiver
    }

    /// Passes metadata to the task that waits for it, or keeps it until one does.
    pub fn found(&self, id: TorrentId, info: &[u8]) {
        let mut asked = self.asked.lock();
        match asked.remove(&id) {
            Some(MetadataRequest::Waiting(waiter)) => {
                // The waiter may have given up meanwhile.
                let _ = waiter.send(info.to_vec());
            }
            _ => {
                asked.insert(id, MetadataRequest::Answered(info.to_vec()));
            }
        }
    }

    /// Ends a request: its receiver fails.
    pub fn forget(&self, id: TorrentId) {
        self.asked.lock().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_reaches_early_and_late_waiters() {
        let waiters = MetadataWaiters::default();
        waiters.found(TorrentId(1), b"early");
        assert_eq!(waiters.expect(TorrentId(1)).try_recv().unwrap(), b"early");
        let mut late = waiters.expect(TorrentId(2));
        waiters.found(TorrentId(2), b"late");
        assert_eq!(late.try_recv().unwrap(), b"late");
        let mut never = waiters.expect(TorrentId(3));
        waiters.forget(TorrentId(3));
        assert!(never.try_recv().is_err());
        assert!(waiters.asked.lock().is_empty());
    }
}
