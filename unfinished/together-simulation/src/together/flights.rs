//! The pieces that are being fetched.

use super::{PeerId, Time};

#[derive(Debug, Clone, Copy)]
pub struct FlightSender {
    pub peer: PeerId,
    pub since: Time,
    pub last: Time,
    /// Bytes that were requested and have not come.
    pub outstanding: u64,
}

/// A piece of which blocks are requested.
#[derive(Debug)]
pub struct Flight {
    pub since: Time,
    pub senders: Vec<FlightSender>,
    /// There are blocks that were not requested.
    pub free: bool,
    pub got: u64,
}

impl Flight {
    pub fn new(now: Time) -> Self {
        Self { since: now, senders: Vec::new(), free: true, got: 0 }
    }

    pub fn add(&mut self, peer: PeerId, bytes: u64, now: Time) {
        match self.senders.iter_mut().find(|sender| sender.peer == peer) {
            Some(sender) => {
                if sender.outstanding == 0 {
                    sender.last = now;
                }
                sender.outstanding += bytes;
            }
            None => self.senders.push(FlightSender { peer, since: now, last: now, outstanding: bytes }),
        }
    }

    pub fn cancelled(&mut self, peer: PeerId, bytes: u64) {
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.peer == peer) {
            sender.outstanding = sender.outstanding.saturating_sub(bytes);
        }
    }

    pub fn got(&mut self, peer: PeerId, bytes: u64, now: Time) {
        self.got += bytes;
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.peer == peer) {
            sender.last = now;
            sender.outstanding = sender.outstanding.saturating_sub(bytes);
        }
    }

    pub fn is_from(&self, peer: PeerId) -> bool {
        self.senders.iter().any(|sender| sender.peer == peer)
    }
}
