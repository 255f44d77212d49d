//! The rules for hostile peers (`cpp/`) without connections, for tests.

use std::net::{IpAddr, SocketAddr};

use super::{EngineError, TorrentId};
use crate::ffi::{
    self, RawChoice, RawClaimStep, RawOfferMessage, RawRoom, RawRumour, RawTrial, RawVisitor, RawWantedPiece,
};

pub(super) fn bad(error: cxx::Exception) -> EngineError {
    EngineError::BadTorrent(error.what().to_owned())
}

/// Passes framed messages (BEP 3: length, type, body) of one peer through the gate (cpp/gate.h), for a torrent with this
/// metainfo. A message whose length has the top bit set is one that this node sends: a HASH_REQUEST or a REQUEST. Returns how
/// many incoming messages passed; reading ends at the first message that is refused or incomplete.
pub fn try_gate(metainfo: &[u8], messages: &[u8]) -> Result<u32, EngineError> {
    ffi::try_gate(metainfo, messages).map_err(bad)
}

/// A connection of [`try_group`].
#[derive(Debug, Clone)]
pub struct Trial {
    /// The peer's address.
    pub address: IpAddr,
    /// The message that it sends, type and body, without the length.
    pub message: Vec<u8>,
    /// How often it sends the message.
    pub times: u32,
    /// Whether it reads the answers.
    pub reads: bool,
    /// Bytes of the answer to each message that passes.
    pub answer: u32,
}

/// Passes messages of several connections through their gates, one after another, without time in between. Returns for each
/// connection how many messages passed; it ends at the first message that disconnects it.
pub fn try_group(metainfo: &[u8], connections: &[Trial]) -> Result<Vec<u32>, EngineError> {
    let raw = connections.iter().map(|connection| RawTrial {
        address: connection.address.to_string(),
        message: connection.message.clone(),
        times: connection.times,
        reads: connection.reads,
        answer: connection.answer.into(),
    });
    ffi::try_group(metainfo, &raw.collect()).map_err(bad)
}

/// The value of a connection for this node, the least first (cpp/slots.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// No data in either direction so far.
    Silent,
    /// Little data lately, and never verified data.
    Idle,
    /// The peer fetches data.
    Served,
    /// The peer sends data that is not verified yet.
    Sends,
    /// The peer has sent verified data.
    Verified,
    /// The peer has sent verified data lately.
    Active,
}

/// A peer of [`try_slots`].
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// The peer's address.
    pub address: IpAddr,
    /// The value of its connection.
    pub worth: Worth,
    /// Whether the host is on the local network.
    pub exempt: bool,
    /// Whether the user named the host.
    pub named: bool,
    /// Whether this node opened the connection.
    pub called: bool,
    /// The time of its connection, in seconds after the first one.
    pub at: u32,
}

/// The slots of [`try_slots`].
#[derive(Debug, Clone, Copy)]
pub struct TriedSlots {
    /// Their number.
    pub limit: u16,
    /// Whether pieces are missing, so that strangers get no reserved slot.
    pub incomplete: bool,
    /// Offences of the address group of each peer.
    pub offences: u16,
    /// Whether the connections that need not be closed immediately stay open.
    pub ends_late: bool,
}

/// Connects peers to the slots of a torrent (cpp/slots.h), one after another. Returns for each the index of the peer that was
/// disconnected because of it.
pub fn try_slots(room: TriedSlots, visitors: &[Visitor]) -> Result<Vec<Option<usize>>, EngineError> {
    let raw = visitors.iter().map(|visitor| RawVisitor {
        address: visitor.address.to_string(),
        worth: visitor.worth as i32,
        exempt: visitor.exempt,
        named: visitor.named,
        called: visitor.called,
        seconds: visitor.at,
    });
    let room = RawRoom {
        limit: room.limit.into(),
        incomplete: room.incomplete,
        offences: room.offences.into(),
        ends_late: room.ends_late,
    };
    let ended = ffi::try_slots(&room, &raw.collect()).map_err(bad)?;
    Ok(ended.into_iter().map(|index| usize::try_from(index).ok()).collect())
}

/// A step of the upload of a block, for [`try_waste`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// This block of the torrent is sent.
    Sent(u32),
    /// The peer cancels a block that is on the way.
    CancelledLate,
}

/// Uploads to one peer of a torrent (cpp/waste.h). Returns the indexes of the uploads at which the peer is found to waste.
pub fn try_waste(blocks_of_torrent: u32, uploads: &[Upload]) -> Vec<usize> {
    let raw = uploads.iter().map(|upload| match upload {
        Upload::Sent(block) => i64::from(*block),
        Upload::CancelledLate => -1,
    });
    ffi::try_waste(blocks_of_torrent.into(), &raw.collect())
}

/// A peer at this address sends wrong data at these moments, in seconds (cpp/guard.h). Returns for each moment for how many
/// seconds the hosts of its address group may not connect.
pub fn try_lies(address: IpAddr, moments: &[u32]) -> Result<Vec<u32>, EngineError> {
    ffi::try_lies(&address.to_string(), &moments.to_vec()).map_err(bad)
}

/// A call that [`try_rumours`] makes if it may.
#[derive(Debug, Clone, Copy)]
pub struct Rumour {
    /// The torrent that makes the call.
    pub torrent: TorrentId,
    /// The host that a stranger has named.
    pub to: SocketAddr,
    /// When the call is due, in seconds. Not earlier than that of the call before.
    pub at: u32,
    /// Whether the host answers.
    pub answers: bool,
}

/// Calls hosts that only strangers have named (cpp/rumours.h). Returns which of the calls are made.
pub fn try_rumours(rumours: &[Rumour]) -> Result<Vec<bool>, EngineError> {
    let raw = rumours.iter().map(|rumour| RawRumour {
        torrent: rumour.torrent.0,
        address: rumour.to.ip().to_string(),
        port: rumour.to.port(),
        seconds: rumour.at,
        answers: rumour.answers,
    });
    ffi::try_rumours(&raw.collect()).map_err(bad)
}

/// A step of a peer, for [`try_claims`].
#[derive(Debug, Clone)]
pub enum ClaimStep {
    /// It sends a message of `silmaril_claims` with this body.
    Sends(Vec<u8>),
    /// It announces this piece.
    Gets(u32),
}

/// Passes messages of claims of one peer (cpp/claims.h), each at a moment in milliseconds that is not earlier than the one
/// before. Returns the pieces whose claims count after each step. A piece is expected to take a second.
pub fn try_claims(steps: &[(u64, ClaimStep)]) -> Result<Vec<Vec<u32>>, EngineError> {
    let raw = steps.iter().map(|(milliseconds, step)| match step {
        ClaimStep::Sends(message) => {
            RawClaimStep { milliseconds: *milliseconds, got: -1, message: message.clone() }
        }
        ClaimStep::Gets(piece) => {
            RawClaimStep { milliseconds: *milliseconds, got: (*piece).into(), message: vec![] }
        }
    });
    let claimed = ffi::try_claims(&raw.collect()).map_err(bad)?;
    Ok(claimed.into_iter().map(|after| after.pieces).collect())
}

/// Passes messages of offers of one peer (cpp/offers.h), in a torrent of so many pieces of `piece_length` bytes. Returns what
/// counts after the last one: pieces, and which of their granules the peer offers.
pub fn try_offers(
    pieces: u32,
    piece_length: u32,
    messages: &[Vec<u8>],
) -> Result<Vec<(u32, Vec<bool>)>, EngineError> {
    let messages = messages.iter().map(|body| RawOfferMessage { body: body.clone() }).collect();
    let offers = ffi::try_offers(pieces.cast_signed(), piece_length.cast_signed(), &messages).map_err(bad)?;
    Ok(offers.into_iter().map(|offer| (offer.piece.cast_unsigned(), offer.granules)).collect())
}

/// A piece of [`try_choose`], see cpp/choice.h.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChoicePiece {
    /// Its index.
    pub piece: u32,
    /// Whether this peer sends blocks of it.
    pub begun: bool,
    /// Whether another peer sends blocks of it.
    pub requested: bool,
    /// Whether a claim of another reader counts.
    pub claimed: bool,
    /// Whether another reader has a claim that does not count.
    pub hinted: bool,
    /// Other readers that have it and can be asked.
    pub holders: u32,
    /// Other readers that should fetch it rather than this one.
    pub before: u32,
    /// For how many milliseconds a read has waited for it.
    pub overdue: Option<u32>,
}

/// The peer that is asked in [`try_choose`], and the reader.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChosenPeer {
    /// Whether the peer has every piece.
    pub seed: bool,
    /// Whether the peer has sent nothing so far, and other peers have.
    pub untested: bool,
    /// The number of this reader.
    pub number: u64,
    /// For how many milliseconds a piece is left to the other readers.
    pub patience: u32,
}

/// Chooses the piece of which blocks are requested next (cpp/choice.h): its index in `pieces`.
pub fn try_choose(choice: ChosenPeer, pieces: &[ChoicePiece]) -> Result<Option<usize>, EngineError> {
    let raw = pieces.iter().map(|one| RawWantedPiece {
        piece: one.piece,
        begun: one.begun,
        requested: one.requested,
        claimed: one.claimed,
        hinted: one.hinted,
        holders: one.holders.min(i32::MAX as u32) as i32,
        before: one.before.min(i32::MAX as u32) as i32,
        overdue: one.overdue.map_or(-1, i64::from),
    });
    let choice = RawChoice {
        seed: choice.seed,
        untested: choice.untested,
        number: choice.number,
        patience: choice.patience.into(),
    };
    ffi::try_choose(&choice, &raw.collect()).map_err(bad).map(|at| usize::try_from(at).ok())
}
