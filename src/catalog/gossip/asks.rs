//! Questions of the service to peers. Each has a deadline, and one notice: the answer, or that there is none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Action, Gossip, Notice, RecordOrigin, Tag};
use crate::catalog::message::{Message, PeerAnswer, PeerQuestion, QuestionKey};
use crate::torrent::PeerId;

/// The most open questions to one peer.
const MAX_OPEN: usize = 64;

/// All open questions.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: HashMap<(PeerId, QuestionKey), (Tag, Instant)>,
    last_number: u32,
}

impl Asks {
    fn answered(&mut self, peer: PeerId, key: QuestionKey) -> Option<Tag> {
        self.open.remove(&(peer, key)).map(|(tag, _)| tag)
    }

    /// Ends the questions to a peer that has left.
    pub fn left(&mut self, gone: PeerId) -> Vec<Notice> {
        self.end_questions(|peer, _| peer == gone)
    }

    /// Ends the questions whose deadline has passed.
    pub fn overdue(&mut self, now: Instant) -> Vec<Notice> {
        self.end_questions(|_, due| due <= now)
    }

    fn end_questions(&mut self, is_over: impl Fn(PeerId, Instant) -> bool) -> Vec<Notice> {
        self.open
            .extract_if(|(peer, _), (_, due)| is_over(*peer, *due))
            .map(|((peer, _), (tag, _))| Notice::Answered { tag, peer, answer: None })
            .collect()
    }
}

impl Gossip {
    /// Asks a peer. The answer is a [`Notice`] with the tag, within `timeout`. Returns `false` if the peer cannot be asked
    /// now: it has left, or has too many open questions.
    pub fn ask(
        &mut self,
        now: Instant,
        peer: PeerId,
        question: PeerQuestion,
        tag: Tag,
        timeout: Duration,
    ) -> bool {
        let ready = self.peers.get(&peer).is_some_and(|p| p.node.is_some() && !p.closing);
        if !ready || self.asks.open.keys().filter(|(p, _)| *p == peer).count() >= MAX_OPEN {
            return false;
        }
        self.asks.last_number = self.asks.last_number % (u32::MAX / 2) + 1;
        let id = self.asks.last_number;
        let key = question.key(id);
        if self.asks.open.contains_key(&(peer, key)) {
            return false;
        }
        self.asks.open.insert((peer, key), (tag, now + timeout));
        self.send(peer, Message::Question(id, question));
        true
    }

    /// Processes an answer. The catalog stores its records, within the peer's budget, before the asking operation is notified.
    /// So the operation finds in the store what the answer contains about the publishers.
    pub(super) fn answered_by(&mut self, now: Instant, peer: PeerId, id: u32, answer: PeerAnswer) {
        let Some(tag) = self.asks.answered(peer, answer.key(id)) else { return };
        if !answer.records().is_empty() {
            self.learn(now, RecordOrigin::Found(peer), answer.records().to_vec());
        }
        self.actions.push_back(Action::Notify(Notice::Answered { tag, peer, answer: Some(answer) }));
    }
}
