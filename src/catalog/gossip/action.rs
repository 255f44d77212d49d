//! The vocabulary between the gossip and its owner: connections, origins of records, questions and tasks.

use std::net::SocketAddr;

use super::answers::Question;
use crate::catalog::message::{HeldManifest, Message};
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::model::{ModelRef, Sha256Digest};
use crate::torrent::{AddressGroup, PeerId};

/// Identifies a run of a node.
pub type NodeId = [u8; 20];

/// The properties of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GossipConnection {
    /// Whether it belongs to the catalog's swarm.
    pub of_catalog: bool,
    /// The address of the peer.
    pub address: SocketAddr,
}

impl GossipConnection {
    /// The addresses that the peer can choose from freely.
    pub(super) fn group(&self) -> AddressGroup {
        AddressGroup::of(self.address.ip())
    }
}

/// The origin of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordOrigin {
    /// This node's publisher.
    Own,
    /// Pushed by a peer as new.
    Pushed(PeerId),
    /// Requested from a peer whose digest has them.
    Wanted(PeerId),
    /// Received as an answer to a question of this node.
    Found(PeerId),
    /// Read from the DHT.
    Dht,
}

impl RecordOrigin {
    pub(super) fn peer(self) -> Option<PeerId> {
        match self {
            Self::Pushed(peer) | Self::Wanted(peer) | Self::Found(peer) => Some(peer),
            Self::Own | Self::Dht => None,
        }
    }
}

/// Identifies the asking operation; returned with the answer.
pub type Tag = u64;

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Records of a model, and manifests that the peer holds.
    Lookup(ModelRef),
    /// A page of search results.
    Query(Query, Option<Vec<u8>>),
    /// A part of a manifest.
    Part(Sha256Digest, u32),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerAnswer {
    /// To a lookup.
    Holds {
        /// Records of the model.
        records: Vec<SharedRecord>,
        /// Manifests that the peer claims to hold.
        held: Vec<HeldManifest>,
    },
    /// To a query.
    Found {
        /// The records.
        records: Vec<SharedRecord>,
        /// Indices of the records whose models the peer claims to have completely.
        complete: Vec<u32>,
        /// Where the next page begins.
        cursor: Option<Vec<u8>>,
    },
    /// A part of a manifest; empty if the peer does not hold it.
    Part {
        /// SHA-256 of the manifest.
        manifest: Sha256Digest,
        /// The number of the part.
        part: u32,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// No answer arrived before the deadline, or the peer has left.
    Silence,
}

/// A notice to waiting operations.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A peer has sent its hello and can be asked.
    Ready(PeerId),
    /// A peer has left.
    Gone(PeerId),
    /// A question is answered.
    Answered {
        /// The asking operation.
        tag: Tag,
        /// The peer that was asked.
        peer: PeerId,
        /// The answer.
        answer: PeerAnswer,
    },
}

/// A task for the owner of the gossip.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a message.
    Send(PeerId, Message),
    /// Answer a question from a [`RecordSource`](super::answers::RecordSource), send the answer, and report it by [`Gossip::answered`](super::Gossip::answered). Answering may take a
    /// while: do not hold a lock.
    Answer(PeerId, Question),
    /// End a connection.
    Disconnect {
        /// The peer.
        peer: PeerId,
        /// Whether it misbehaved, so that it is refused for a while.
        hostile: bool,
        /// The reason, for the log.
        why: &'static str,
    },
    /// Store records, and report the outcomes by [`Gossip::stored`](super::Gossip::stored).
    Store(RecordOrigin, Vec<SharedRecord>),
    /// Send a notice to waiting operations.
    Notify(Notice),
}

/// A peer that has sent its hello, and can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaker {
    /// The connection.
    pub peer: PeerId,
    /// The node, as the peer claims.
    pub node: NodeId,
    /// The properties of the connection.
    pub connection: GossipConnection,
}
