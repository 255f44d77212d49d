//! What peers say, until it is read: a bounded line for each, served in turn.
//!
//! What a peer says is taken in order, one message at a time, but that what somebody may wait for overtakes what may
//! carry hundreds of records: else a manifest would come after all that peers push meanwhile. Of a peer that says more
//! than its budget, messages are dropped before anybody reads them. Taking something in never waits.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::catalog::gossip::Connection;
use crate::catalog::gossip::budget::{Intake, Verdict};
use crate::catalog::message;
use crate::torrent::PeerId;
use crate::torrent::overlay::MessageBytes;

/// Bytes of one peer that wait to be read: the answers to some questions, and what is pushed meanwhile.
const MAX_LINE: usize = 512 * 1024;

/// Bytes of all peers that wait to be read.
const MAX_ALL: usize = 16 * 1024 * 1024;

/// After so many urgent items in a row one that is not has its turn.
const MAX_URGENT_IN_A_ROW: u32 = 4;

/// Peers with a line; the gossip speaks to fewer.
const MAX_LINES: usize = 1000;

/// Something that happened to a peer.
#[derive(Debug)]
pub(super) enum Item {
    /// It can be spoken to.
    Speaks(Connection),
    /// It said something.
    Said(MessageBytes),
    /// It is gone.
    Left,
}

#[derive(Debug)]
struct Line {
    intake: Intake,
    /// By how urgent they are; that it speaks and that it is gone are urgent.
    items: [VecDeque<Item>; 2],
    bytes: usize,
    /// Whether it is among those whose turn comes.
    queued: [bool; 2],
    /// One of its items is being read.
    busy: bool,
    /// The first that it said was read: its greeting, before which nothing is taken out of order.
    greeted: bool,
    /// Nothing that it says is taken any more.
    mute: bool,
}

#[derive(Debug, Default)]
struct Lines {
    of: HashMap<PeerId, Line>,
    turns: [VecDeque<PeerId>; 2],
    urgent_in_a_row: u32,
    bytes: usize,
}

/// Indices of what is urgent and of what is not.
const URGENT: usize = 0;
const BULK: usize = 1;

/// All lines.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    lines: Mutex<Lines>,
    wake: Notify,
}

impl Inbox {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock()
    }

    /// A peer can be spoken to; `false` if there are too many.
    pub fn speaks(&self, now: Instant, peer: PeerId, connection: Connection) -> bool {
        let mut lines = self.lines();
        if lines.of.len() >= MAX_LINES {
            return false;
        }
        let line = Line {
            intake: Intake::new(now),
            items: [VecDeque::from([Item::Speaks(connection)]), VecDeque::new()],
            bytes: 0,
            queued: [false; 2],
            busy: false,
            greeted: false,
            mute: false,
        };
        lines.of.insert(peer, line);
        self.queue(&mut lines, peer);
        true
    }

    /// A peer has said something. After [`Verdict::Ban`], which is given once, it is to be hung up on.
    pub fn said(&self, now: Instant, peer: PeerId, bytes: MessageBytes) -> Verdict {
        let mut lines = self.lines();
        let full = lines.bytes + bytes.len() > MAX_ALL;
        let Some(line) = lines.of.get_mut(&peer).filter(|line| !line.mute) else { return Verdict::Drop };
        match line.intake.weigh(now, bytes.len()) {
            Verdict::Take if full || line.bytes + bytes.len() > MAX_LINE => Verdict::Drop,
            Verdict::Take => {
                line.bytes += bytes.len();
                lines.bytes += bytes.len();
                if let Some(line) = lines.of.get_mut(&peer) {
                    let kind = if message::is_urgent(&bytes) { URGENT } else { BULK };
                    line.items[kind].push_back(Item::Said(bytes));
                }
                self.queue(&mut lines, peer);
                Verdict::Take
            }
            Verdict::Drop => Verdict::Drop,
            Verdict::Ban => {
                lines.silence(peer);
                Verdict::Ban
            }
        }
    }

    /// A peer is gone: what it said and nobody has read is forgotten.
    pub fn left(&self, peer: PeerId) {
        let mut lines = self.lines();
        lines.silence(peer);
        if let Some(line) = lines.of.get_mut(&peer) {
            line.items[URGENT].push_back(Item::Left);
            self.queue(&mut lines, peer);
        }
    }

    /// Nothing more is taken from a peer that is being hung up on.
    pub fn mute(&self, peer: PeerId) {
        self.lines().silence(peer);
    }

    /// A peer was asked something: its answer is let in.
    pub fn asked(&self, now: Instant, peer: PeerId) {
        if let Some(line) = self.lines().of.get_mut(&peer) {
            line.intake.asked(now);
        }
    }

    /// The next item of a peer none of whose items is being read; [`done`](Self::done) is to follow.
    pub async fn next(&self) -> (PeerId, Item) {
        loop {
            let woken = self.wake.notified();
            if let Some(next) = self.lines().take() {
                return next;
            }
            woken.await;
        }
    }

    /// An item is read.
    pub fn done(&self, peer: PeerId, item_was_left: bool) {
        let mut lines = self.lines();
        if item_was_left {
            lines.of.remove(&peer);
        } else if let Some(line) = lines.of.get_mut(&peer) {
            line.busy = false;
            self.queue(&mut lines, peer);
        }
    }

    fn queue(&self, lines: &mut Lines, peer: PeerId) {
        let Some(line) = lines.of.get_mut(&peer) else { return };
        let greets = !line.greeted && !line.items[URGENT].is_empty();
        for kind in if greets { &[URGENT][..] } else { &[URGENT, BULK] } {
            let kind = *kind;
            if !line.queued[kind] && !line.busy && !line.items[kind].is_empty() {
                line.queued[kind] = true;
                lines.turns[kind].push_back(peer);
                self.wake.notify_one();
            }
        }
    }
}

impl Lines {
    fn take(&mut self) -> Option<(PeerId, Item)> {
        let urgent_first = self.urgent_in_a_row < MAX_URGENT_IN_A_ROW;
        let order = if urgent_first { [URGENT, BULK] } else { [BULK, URGENT] };
        order.into_iter().find_map(|kind| {
            let taken = self.take_of(kind)?;
            self.urgent_in_a_row = if kind == URGENT { self.urgent_in_a_row + 1 } else { 0 };
            Some(taken)
        })
    }

    fn take_of(&mut self, kind: usize) -> Option<(PeerId, Item)> {
        while let Some(peer) = self.turns[kind].pop_front() {
            let Some(line) = self.of.get_mut(&peer) else { continue };
            line.queued[kind] = false;
            // It is queued again when what is being read of it is done.
            if line.busy {
                continue;
            }
            // A peer that was silenced has nothing left to say; the turn is the next one's.
            let Some(item) = line.items[kind].pop_front() else { continue };
            line.busy = true;
            if let Item::Said(bytes) = &item {
                line.greeted = true;
                line.bytes -= bytes.len();
                self.bytes -= bytes.len();
            }
            return Some((peer, item));
        }
        None
    }

    fn silence(&mut self, peer: PeerId) {
        if let Some(line) = self.of.get_mut(&peer) {
            line.mute = true;
            line.items.iter_mut().for_each(|items| items.retain(|item| !matches!(item, Item::Said(_))));
            self.bytes -= std::mem::take(&mut line.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::message::Message;
    use crate::model::Sha256Digest;

    #[test]
    fn a_peer_that_is_silenced_does_not_take_the_turn_of_the_next() {
        let (inbox, now) = (Inbox::default(), Instant::now());
        let connection = Connection { of_catalog: true, address: ([10, 0, 0, 1], 1).into() };
        let (hostile, honest) = (PeerId(1), PeerId(2));
        for peer in [hostile, honest] {
            assert!(inbox.speaks(now, peer, connection));
            assert!(matches!(inbox.lines().take(), Some((_, Item::Speaks(_)))));
            inbox.done(peer, false);
        }
        for peer in [hostile, honest] {
            assert_eq!(inbox.said(now, peer, vec![1].into()), Verdict::Take);
        }
        inbox.mute(hostile);
        assert!(matches!(inbox.lines().take(), Some((peer, Item::Said(_))) if peer == honest));
        assert!(inbox.lines().take().is_none());
    }

    #[test]
    fn what_somebody_waits_for_overtakes_what_peers_push_and_does_not_starve_it() {
        let (inbox, now) = (Inbox::default(), Instant::now());
        let connection = Connection { of_catalog: true, address: ([10, 0, 0, 1], 1).into() };
        let peers: Vec<PeerId> = (0..8).map(PeerId).collect();
        let pushed = || Message::Records { query: None, records: vec![], complete: vec![], cursor: None };
        let part = || Message::Manifest { manifest: Sha256Digest([1; 32]), part: 0, bytes: vec![2; 10] };
        for peer in &peers {
            assert!(inbox.speaks(now, *peer, connection));
            for _ in 0..20 {
                inbox.said(now, *peer, pushed().encode().into());
            }
        }
        for _ in 0..20 {
            inbox.said(now, peers[7], part().encode().into());
        }
        let mut read = Vec::new();
        while let Some((peer, item)) = { inbox.lines().take() } {
            if let Item::Said(bytes) = item {
                read.push(Message::decode(&bytes).unwrap().unwrap() == part());
            }
            inbox.done(peer, false);
        }
        assert_eq!(read.len(), 8 * 20 + 20);
        let last = read.iter().rposition(|urgent| *urgent).unwrap();
        assert!(last < 20 + 20 / 4 + 8, "the last part is read only as number {last}");
        assert!(read[..last].contains(&false), "nothing else has a turn meanwhile");
    }
}
