//! The vocabulary between the gossip and its owner: connections, origins of records, notices and tasks.

use std::net::SocketAddr;

use super::answers::PeerRequest;
use crate::catalog::message::{Message, PeerAnswer};
use crate::catalog::record::SharedRecord;
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
        /// The answer; none if it did not arrive before the deadline, or if the peer has left.
        answer: Option<PeerAnswer>,
    },
}

/// A task for the owner of the gossip.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a message.
    Send(PeerId, Message),
    /// Answer a request from a [`RecordSource`](super::answers::RecordSource), send the answer, and report it by
    /// [`Gossip::answered`](super::Gossip::answered). This may take a while: do not hold a lock.
    Answer(PeerId, PeerRequest),
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
