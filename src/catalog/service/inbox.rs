//! Messages of peers that wait to be read: a bounded queue for each peer, served in turn.
//!
//! The messages of a peer are read in order, one at a time. An exception: urgent messages, which an operation may wait for,
//! overtake messages that may carry hundreds of records. Otherwise a manifest would wait for all records that peers push.
//! Messages beyond a peer's budget are dropped before they are decoded. Adding a message never waits.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::catalog::gossip::GossipConnection;
use crate::catalog::gossip::budget::{Intake, Verdict};
use crate::catalog::message;
use crate::torrent::PeerId;
use crate::torrent::overlay::MessageBytes;

/// Bytes of one peer that wait to be read: the answers to some questions, and records pushed in between.
const MAX_QUEUE: usize = 512 * 1024;

/// Bytes of all peers that wait to be read.
const MAX_ALL: usize = 16 * 1024 * 1024;

/// After this many urgent items in a row, another item is read.
const MAX_URGENT_IN_A_ROW: u32 = 4;

/// Peers with a queue; gossip has fewer.
const MAX_PEERS: usize = 1000;

/// An event of a peer.
#[derive(Debug)]
pub(super) enum InboxItem {
    /// The peer is connected and supports gossip.
    Connected(GossipConnection),
    /// The peer has sent a message.
    Message(MessageBytes),
    /// The peer has left.
    Left,
}

#[derive(Debug)]
struct Queue {
    intake: Intake,
    /// Urgent items, then bulk items. Arrival and departure of the peer are urgent.
    items: [VecDeque<InboxItem>; 2],
    bytes: usize,
    /// For each kind: whether the peer waits for its turn.
    queued: [bool; 2],
    /// One of its items is being read.
    busy: bool,
    /// Whether the first message was read: the greeting, which no other message may overtake.
    greeted: bool,
    /// Whether messages are dropped from now on.
    mute: bool,
}

#[derive(Debug, Default)]
struct Queues {
    of: HashMap<PeerId, Queue>,
    turns: [VecDeque<PeerId>; 2],
    urgent_in_a_row: u32,
    bytes: usize,
}

/// Indices of urgent and bulk items.
const URGENT: usize = 0;
const BULK: usize = 1;

/// The queues of all peers.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queues: Mutex<Queues>,
    wake: Notify,
}

impl Inbox {
    /// A peer is connected; `false` if there are too many.
    pub fn connected(&self, now: Instant, peer: PeerId, connection: GossipConnection) -> bool {
        let mut queues = self.queues.lock();
        if queues.of.len() >= MAX_PEERS {
            return false;
        }
        let queue = Queue {
            intake: Intake::new(now),
            items: [VecDeque::from([InboxItem::Connected(connection)]), VecDeque::new()],
            bytes: 0,
            queued: [false; 2],
            busy: false,
            greeted: false,
            mute: false,
        };
        queues.of.insert(peer, queue);
        self.enqueue(&mut queues, peer);
        true
    }

    /// A peer has sent a message. [`Verdict::Hostile`] is returned once; the caller must then close the connection.
    pub fn push(&self, now: Instant, peer: PeerId, bytes: MessageBytes) -> Verdict {
        let queues = &mut *self.queues.lock();
        let full = queues.bytes + bytes.len() > MAX_ALL;
        let Some(queue) = queues.of.get_mut(&peer).filter(|queue| !queue.mute) else { return Verdict::Drop };
        match queue.intake.weigh(now, bytes.len()) {
            Verdict::Accept if full || queue.bytes + bytes.len() > MAX_QUEUE => Verdict::Drop,
            Verdict::Accept => {
                queue.bytes += bytes.len();
                queues.bytes += bytes.len();
                let kind = if message::is_urgent(&bytes) { URGENT } else { BULK };
                queue.items[kind].push_back(InboxItem::Message(bytes));
                self.enqueue(queues, peer);
                Verdict::Accept
            }
            Verdict::Drop => Verdict::Drop,
            Verdict::Hostile => {
                queues.mute(peer);
                Verdict::Hostile
            }
        }
    }

    /// A peer has left: its unread messages are dropped.
    pub fn left(&self, peer: PeerId) {
        let mut queues = self.queues.lock();
        queues.mute(peer);
        if let Some(queue) = queues.of.get_mut(&peer) {
            queue.items[URGENT].push_back(InboxItem::Left);
            self.enqueue(&mut queues, peer);
        }
    }

    /// Drops all messages of a peer whose connection is being closed.
    pub fn mute(&self, peer: PeerId) {
        self.queues.lock().mute(peer);
    }

    /// A peer was asked: its answer is accepted.
    pub fn asked(&self, now: Instant, peer: PeerId) {
        if let Some(queue) = self.queues.lock().of.get_mut(&peer) {
            queue.intake.asked(now);
        }
    }

    /// The next item of a peer that has no item being read. The caller must call [`done`](Self::done) after it.
    pub async fn next(&self) -> (PeerId, InboxItem) {
        loop {
            let woken = self.wake.notified();
            if let Some(next) = self.queues.lock().next() {
                return next;
            }
            woken.await;
        }
    }

    /// The item was read.
    pub fn done(&self, peer: PeerId, item_was_left: bool) {
        let mut queues = self.queues.lock();
        if item_was_left {
            queues.of.remove(&peer);
        } else if let Some(queue) = queues.of.get_mut(&peer) {
            queue.busy = false;
            self.enqueue(&mut queues, peer);
        }
    }

    fn enqueue(&self, queues: &mut Queues, peer: PeerId) {
        let Some(queue) = queues.of.get_mut(&peer) else { return };
        let greets = !queue.greeted && !queue.items[URGENT].is_empty();
        for kind in if greets { &[URGENT][..] } else { &[URGENT, BULK] } {
            let kind = *kind;
            if !queue.queued[kind] && !queue.busy && !queue.items[kind].is_empty() {
                queue.queued[kind] = true;
                queues.turns[kind].push_back(peer);
                self.wake.notify_one();
            }
        }
    }
}

impl Queues {
    fn next(&mut self) -> Option<(PeerId, InboxItem)> {
        let urgent_first = self.urgent_in_a_row < MAX_URGENT_IN_A_ROW;
        let order = if urgent_first { [URGENT, BULK] } else { [BULK, URGENT] };
        order.into_iter().find_map(|kind| {
            let taken = self.next_of(kind)?;
            self.urgent_in_a_row = if kind == URGENT { self.urgent_in_a_row + 1 } else { 0 };
            Some(taken)
        })
    }

    fn next_of(&mut self, kind: usize) -> Option<(PeerId, InboxItem)> {
        while let Some(peer) = self.turns[kind].pop_front() {
            let Some(queue) = self.of.get_mut(&peer) else { continue };
            queue.queued[kind] = false;
            // The peer is queued again when its present item is done.
            if queue.busy {
                continue;
            }
            // A muted peer has no items left; the next peer has its turn.
            let Some(item) = queue.items[kind].pop_front() else { continue };
            queue.busy = true;
            if let InboxItem::Message(bytes) = &item {
                queue.greeted = true;
                queue.bytes -= bytes.len();
                self.bytes -= bytes.len();
            }
            return Some((peer, item));
        }
        None
    }

    fn mute(&mut self, peer: PeerId) {
        if let Some(queue) = self.of.get_mut(&peer) {
            queue.mute = true;
            queue
                .items
                .iter_mut()
                .for_each(|items| items.retain(|item| !matches!(item, InboxItem::Message(_))));
            self.bytes -= std::mem::take(&mut queue.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::message::{Message, PeerAnswer};
    use crate::model::Sha256Digest;

    #[test]
    fn muted_peer_does_not_use_up_a_turn() {
        let (inbox, now) = (Inbox::default(), Instant::now());
        let connection = GossipConnection { of_catalog: true, address: ([10, 0, 0, 1], 1).into() };
        let (hostile, honest) = (PeerId(1), PeerId(2));
        for peer in [hostile, honest] {
            assert!(inbox.connected(now, peer, connection));
            assert!(matches!(inbox.queues.lock().next(), Some((_, InboxItem::Connected(_)))));
            inbox.done(peer, false);
        }
        for peer in [hostile, honest] {
            assert_eq!(inbox.push(now, peer, vec![1].into()), Verdict::Accept);
        }
        inbox.mute(hostile);
        assert!(matches!(inbox.queues.lock().next(), Some((peer, InboxItem::Message(_))) if peer == honest));
        assert!(inbox.queues.lock().next().is_none());
    }

    #[test]
    fn urgent_messages_overtake_bulk_without_starving_it() {
        let (inbox, now) = (Inbox::default(), Instant::now());
        let connection = GossipConnection { of_catalog: true, address: ([10, 0, 0, 1], 1).into() };
        let peers: Vec<PeerId> = (0..8).map(PeerId).collect();
        let pushed = || Message::Pushed(vec![]);
        let part = || {
            let manifest = Sha256Digest([1; 32]);
            Message::Answer(0, PeerAnswer::Part { manifest, part: 0, bytes: vec![2; 10] })
        };
        for peer in &peers {
            assert!(inbox.connected(now, *peer, connection));
            for _ in 0..20 {
                inbox.push(now, *peer, pushed().encode().into());
            }
        }
        for _ in 0..20 {
            inbox.push(now, peers[7], part().encode().into());
        }
        let mut read = Vec::new();
        while let Some((peer, item)) = { inbox.queues.lock().next() } {
            if let InboxItem::Message(bytes) = item {
                read.push(Message::decode(&bytes).unwrap().unwrap() == part());
            }
            inbox.done(peer, false);
        }
        assert_eq!(read.len(), 8 * 20 + 20);
        let last = read.iter().rposition(|urgent| *urgent).unwrap();
        assert!(last < 20 + 20 / 4 + 8, "the last part is read only as number {last}");
        assert!(read[..last].contains(&false), "no bulk message was read in between");
    }
}
