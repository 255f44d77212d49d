//! Questions of the service to peers: each with a deadline, each answered once, or said to stay without an answer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Action, Gossip, Origin};
use crate::catalog::message::{HeldManifest, Message};
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::model::{ModelRef, Sha256Digest};
use crate::torrent::PeerId;

/// Who asks; given back with the answer.
pub type Tag = u64;

/// The most questions to one peer at once.
const MAX_OPEN: usize = 64;

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Who has a model.
    Lookup(ModelRef),
    /// A page of search results.
    Query(Query, Option<Vec<u8>>),
    /// A part of a manifest.
    Part(Sha256Digest, u32),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To a lookup.
    Holds {
        /// Records of the model.
        records: Vec<SharedRecord>,
        /// Manifests that the peer says it holds.
        held: Vec<HeldManifest>,
    },
    /// To a query.
    Found {
        /// The records.
        records: Vec<SharedRecord>,
        /// Indices of those whose model the peer says it has wholly.
        complete: Vec<u32>,
        /// Where the next page begins.
        cursor: Option<Vec<u8>>,
    },
    /// A part of a manifest; empty where the peer does not hold it.
    Part {
        /// Which manifest.
        manifest: Sha256Digest,
        /// Which part.
        part: u32,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// None has come within the deadline, or the peer is gone.
    Silence,
}

/// Something for those who wait.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A peer has said hello and can be asked.
    Ready(PeerId),
    /// A peer is gone.
    Gone(PeerId),
    /// A question is answered.
    Answered {
        /// Who asked.
        tag: Tag,
        /// Whom.
        peer: PeerId,
        /// The answer.
        answer: Answer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Number(u32),
    Part(Sha256Digest, u32),
}

/// All questions that are open.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: HashMap<(PeerId, Key), (Tag, Instant)>,
    last_number: u32,
}

impl Asks {
    fn answered(&mut self, peer: PeerId, key: Key) -> Option<Tag> {
        self.open.remove(&(peer, key)).map(|(tag, _)| tag)
    }

    /// The peer is gone: its questions stay without an answer.
    pub fn left(&mut self, gone: PeerId) -> Vec<Notice> {
        self.silent(|peer, _| peer == gone)
    }

    /// What is beyond its deadline stays without an answer.
    pub fn overdue(&mut self, now: Instant) -> Vec<Notice> {
        self.silent(|_, due| due <= now)
    }

    fn silent(&mut self, over: impl Fn(PeerId, Instant) -> bool) -> Vec<Notice> {
        self.open
            .extract_if(|(peer, _), (_, due)| over(*peer, *due))
            .map(|((peer, _), (tag, _))| Notice::Answered { tag, peer, answer: Answer::Silence })
            .collect()
    }
}

impl Gossip {
    /// Asks a peer. The answer is a [`Notice`] with the tag, within the patience; `false` if the peer cannot be asked
    /// now: it is gone, or has too many questions of ours.
    pub fn ask(&mut self, now: Instant, peer: PeerId, ask: Ask, tag: Tag, patience: Duration) -> bool {
        let ready = self.peers.get(&peer).is_some_and(|p| p.node.is_some() && !p.closing);
        if !ready || self.asks.open.keys().filter(|(p, _)| *p == peer).count() >= MAX_OPEN {
            return false;
        }
        self.asks.last_number = self.asks.last_number % (u32::MAX / 2) + 1;
        let id = self.asks.last_number;
        let (key, message) = match ask {
            Ask::Lookup(model) => (Key::Number(id), Message::Lookup { id, model }),
            Ask::Query(query, cursor) => (Key::Number(id), Message::Query { id, query, cursor }),
            Ask::Part(manifest, part) => (Key::Part(manifest, part), Message::GetManifest { manifest, part }),
        };
        if self.asks.open.contains_key(&(peer, key)) {
            return false;
        }
        self.asks.open.insert((peer, key), (tag, now + patience));
        self.send(peer, message);
        true
    }

    pub(super) fn found(&mut self, now: Instant, peer: PeerId, id: u32, answer: Answer) {
        self.answered_by(now, peer, Key::Number(id), answer);
    }

    pub(super) fn held(&mut self, now: Instant, peer: PeerId, id: u32, answer: Answer) {
        self.answered_by(now, peer, Key::Number(id), answer);
    }

    pub(super) fn part(&mut self, peer: PeerId, manifest: Sha256Digest, part: u32, bytes: Vec<u8>) {
        if let Some(tag) = self.asks.answered(peer, Key::Part(manifest, part)) {
            let answer = Answer::Part { manifest, part, bytes };
            self.actions.push_back(Action::Tell(Notice::Answered { tag, peer, answer }));
        }
    }

    /// An answer with records: the catalog learns them, within the peer's budget, and then whoever asked. So who knows
    /// the answer finds in the store what else it says of the publishers.
    fn answered_by(&mut self, now: Instant, peer: PeerId, key: Key, answer: Answer) {
        let Some(tag) = self.asks.answered(peer, key) else { return };
        let (Answer::Holds { records, .. } | Answer::Found { records, .. }) = &answer else { return };
        let learnt = records.clone();
        self.learn(now, Origin::Found(peer), learnt);
        self.actions.push_back(Action::Tell(Notice::Answered { tag, peer, answer }));
    }
}
