//! Magnet links whose info dictionary is being asked of peers.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::torrent::TorrentId;

/// Who waits for which torrent's metadata.
#[derive(Debug, Default)]
pub struct MetadataWaiters {
    asked: Mutex<HashMap<TorrentId, Asked>>,
}

/// How far a question is.
#[derive(Debug)]
enum Asked {
    /// Somebody waits.
    Waiting(oneshot::Sender<Vec<u8>>),
    /// The answer came before the one who asked could wait for it.
    Answered(Vec<u8>),
}

impl MetadataWaiters {
    /// Waits for the metadata of a torrent; the receiver fails when it is forgotten.
    pub fn expect(&self, id: TorrentId) -> oneshot::Receiver<Vec<u8>> {
        let (found, receiver) = oneshot::channel();
        let mut asked = self.lock();
        match asked.remove(&id) {
            Some(Asked::Answered(info)) => {
                // The receiver is in our hands.
                let _ = found.send(info);
            }
            _ => {
                asked.insert(id, Asked::Waiting(found));
            }
        }
        receiver
    }

    /// Hands metadata to whoever waits for it, or will.
    pub fn found(&self, id: TorrentId, info: &[u8]) {
        let mut asked = self.lock();
        match asked.remove(&id) {
            Some(Asked::Waiting(waiter)) => {
                // The waiter may have given up meanwhile.
                let _ = waiter.send(info.to_vec());
            }
            _ => {
                asked.insert(id, Asked::Answered(info.to_vec()));
            }
        }
    }

    /// Nobody waits any longer, or nothing will come: who waits is told so.
    pub fn forget(&self, id: TorrentId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<TorrentId, Asked>> {
        self.asked.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_whether_it_comes_before_or_after_the_waiter() {
        let waiters = MetadataWaiters::default();
        waiters.found(TorrentId(1), b"early");
        assert_eq!(waiters.expect(TorrentId(1)).try_recv().unwrap(), b"early");
        let mut late = waiters.expect(TorrentId(2));
        waiters.found(TorrentId(2), b"late");
        assert_eq!(late.try_recv().unwrap(), b"late");
        let mut never = waiters.expect(TorrentId(3));
        waiters.forget(TorrentId(3));
        assert!(never.try_recv().is_err());
        assert!(waiters.lock().is_empty());
    }
}
