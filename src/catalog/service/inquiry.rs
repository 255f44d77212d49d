//! Asking peers: the loop that every operation runs that needs answers of peers.
//!
//! [`run`] alternates between [`Inquiry::ask`], which sends questions, and [`Inquiry::on_event`], which handles one
//! event. [`AskedPeers`] remembers which nodes were asked, and which answers are awaited.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{CatalogEvent, Core, EventListener};
use super::types::CatalogError;
use crate::catalog::gossip::{NodeId, Speaker};
use crate::catalog::message::PeerQuestion;
use crate::torrent::PeerId;

/// An operation that asks peers.
pub(super) trait Inquiry {
    /// Sends the next questions. Returns when to call this again although no event has come, later than `now`; `None`
    /// ends the loop.
    fn ask(&mut self, peers: &mut AskedPeers, now: Instant) -> Option<Instant>;

    /// Handles an event. Each question has one [`CatalogEvent::Answered`], without an answer when its time has passed or the
    /// peer has left.
    fn on_event(&mut self, peers: &mut AskedPeers, event: CatalogEvent);
}

/// The peers that one operation asks.
pub(super) struct AskedPeers {
    core: Arc<Core>,
    listener: EventListener,
    asked: HashSet<(NodeId, IpAddr)>,
    awaited: HashSet<PeerId>,
}

/// Runs an inquiry until it ends. Fails when the catalog stops.
pub(super) async fn run(peers: &mut AskedPeers, inquiry: &mut impl Inquiry) -> Result<(), CatalogError> {
    let mut stopped = peers.core.stopped.subscribe();
    while let Some(wake) = inquiry.ask(peers, Instant::now()) {
        let event = tokio::select! {
            event = peers.listener.until(wake) => event,
            _ = stopped.wait_for(|stopped| *stopped) => return Err(CatalogError::Stopped),
        };
        let Some(event) = event else { continue };
        if let CatalogEvent::Answered(peer, _) = &event {
            peers.awaited.remove(peer);
        }
        inquiry.on_event(peers, event);
    }
    Ok(())
}

impl AskedPeers {
    /// Listens to events from now on.
    pub fn new(core: &Arc<Core>) -> Self {
        let (asked, awaited) = (HashSet::new(), HashSet::new());
        Self { core: Arc::clone(core), listener: core.listen(), asked, awaited }
    }

    /// Asks a peer; `false` if the peer cannot be asked now.
    pub fn ask(&mut self, peer: PeerId, question: PeerQuestion, timeout: Duration) -> bool {
        let asked = self.listener.ask(peer, question, timeout);
        if asked {
            self.awaited.insert(peer);
        }
        asked
    }

    /// Asks at most `limit` of the peers that were not asked before and are `wanted`. Returns the peers asked.
    pub fn ask_new(
        &mut self,
        limit: usize,
        question: &PeerQuestion,
        timeout: Duration,
        wanted: impl Fn(&Speaker) -> bool,
    ) -> Vec<Speaker> {
        let mut asked = Vec::new();
        for speaker in self.core.speakers() {
            if asked.len() >= limit {
                break;
            }
            if !self.asked.contains(&node_of(&speaker))
                && wanted(&speaker)
                && self.ask(speaker.peer, question.clone(), timeout)
            {
                self.asked.insert(node_of(&speaker));
                asked.push(speaker);
            }
        }
        asked
    }

    /// Lets [`ask_new`](Self::ask_new) ask all peers once more.
    pub fn forget_asked(&mut self) {
        self.asked.clear();
    }

    /// The peers whose answer is awaited.
    pub fn awaited(&self) -> &HashSet<PeerId> {
        &self.awaited
    }

    /// Whether no peer was asked yet.
    pub fn none_asked(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whether every peer that can be asked was asked.
    pub fn all_asked(&self) -> bool {
        self.core.speakers().iter().all(|speaker| self.asked.contains(&node_of(speaker)))
    }
}

fn node_of(speaker: &Speaker) -> (NodeId, IpAddr) {
    (speaker.node, speaker.connection.address.ip())
}
