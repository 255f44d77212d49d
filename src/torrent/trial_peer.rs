//! The rules of coordinated reading for one peer (`cpp/trial_peer.h`) with a clock that the caller sets, for simulations.

use super::EngineError;
use super::trial::bad;
use crate::ffi;

/// The traffic of a peer: bytes received from it, and blocks requested from it (cpp/pace.h).
#[derive(Debug, Clone, Copy, Default)]
pub struct Flow {
    /// Blocks that were requested and have not arrived.
    pub requests: u32,
    /// Bytes that the peer has sent.
    pub received: u64,
    /// Bytes per second, averaged over a few seconds.
    pub rate: u64,
}

/// The claims and the pace of a peer, as a reader knows them. `now` is in microseconds since the simulation began, and never
/// less than in the call before. Times of pieces are in milliseconds.
pub struct TrialPeer(cxx::UniquePtr<ffi::TrialPeer>);

impl TrialPeer {
    /// A peer that has announced nothing.
    pub fn new() -> Result<Self, EngineError> {
        ffi::trial_peer().map(Self).map_err(bad)
    }

    /// Records that the peer has announced a piece, or that it lacks some.
    pub fn announced(&mut self, now: u64) -> Result<(), EngineError> {
        self.0.pin_mut().announced(now).map_err(bad)
    }

    /// Whether the peer, which lacks pieces, reads.
    pub fn reads(&self, now: u64) -> Result<bool, EngineError> {
        self.0.reads(now).map_err(bad)
    }

    /// Processes a message of claims of the peer.
    pub fn claim(&mut self, body: &[u8], piece_time: u64, now: u64) -> Result<(), EngineError> {
        self.0.pin_mut().claim(body, as_signed(piece_time), now).map_err(bad)
    }

    /// Records that the peer has announced a piece that it may have claimed.
    pub fn kept(&mut self, piece: u32, now: u64) -> Result<(), EngineError> {
        self.0.pin_mut().kept(piece, now).map_err(bad)
    }

    /// The pieces that the peer claims.
    pub fn claims(&mut self, now: u64) -> Result<Vec<u32>, EngineError> {
        self.0.pin_mut().claims(now).map_err(bad)
    }

    /// Must be called once a second. `round_trip` is in microseconds.
    pub fn tick(&mut self, flow: Flow, round_trip: u64, now: u64) -> Result<(), EngineError> {
        let (received, rate) = (as_signed(flow.received), as_signed(flow.rate));
        self.0.pin_mut().tick(flow.requests as i32, received, rate, as_signed(round_trip), now).map_err(bad)
    }

    /// How many more blocks are requested now.
    pub fn room(&self, flow: Flow, now: u64) -> Result<u32, EngineError> {
        let (received, rate) = (as_signed(flow.received), as_signed(flow.rate));
        let room = self.0.room(flow.requests as i32, received, rate, now).map_err(bad)?;
        Ok(u32::try_from(room).unwrap_or(0))
    }

    /// Whether the peer sends nothing, or takes too long for so many requests.
    pub fn is_silent_or_slow(&self, requests: u32, piece_time: u64) -> Result<bool, EngineError> {
        let is_silent = self.0.is_silent().map_err(bad)?;
        Ok(is_silent || self.0.is_slow(requests as i32, as_signed(piece_time)).map_err(bad)?)
    }

    /// Whether the peer is neither silent nor slow nor paused.
    pub fn keeps_up(&self, requests: u32, piece_time: u64, now: u64) -> Result<bool, EngineError> {
        self.0.keeps_up(requests as i32, as_signed(piece_time), now).map_err(bad)
    }

    /// Stops requests to the peer for a while.
    pub fn pause(&mut self, now: u64) -> Result<(), EngineError> {
        self.0.pin_mut().pause(now).map_err(bad)
    }

    /// Bytes received in the last second.
    pub fn came(&self) -> Result<u64, EngineError> {
        Ok(self.0.came().map_err(bad)?.max(0) as u64)
    }

    /// Ends the pause.
    pub fn resume(&mut self) -> Result<(), EngineError> {
        self.0.pin_mut().resume().map_err(bad)
    }
}

/// The supply of a simulated swarm by its readers and its seeds (cpp/supply.h).
pub struct TrialSupply(cxx::UniquePtr<ffi::TrialSupply>);

impl TrialSupply {
    /// A supply without any bytes so far.
    pub fn new() -> Result<Self, EngineError> {
        ffi::trial_supply().map(Self).map_err(bad)
    }

    /// Must be called once a second. `came` are the bytes of this second, `asked` is whether requests wait: first of readers,
    /// then of seeds.
    pub fn tick(&mut self, came: (u64, u64), asked: (bool, bool)) -> Result<(), EngineError> {
        let (readers, seeds) = (as_signed(came.0), as_signed(came.1));
        self.0.pin_mut().tick(readers, seeds, asked.0, asked.1).map_err(bad)
    }

    /// Whether blocks that readers have are requested from readers alone. Otherwise they are requested from seeds, too.
    pub fn readers_suffice(&self) -> Result<bool, EngineError> {
        self.0.readers_suffice().map_err(bad)
    }
}

fn as_signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The body of a message of claims.
pub fn trial_claims(number: u64, pieces: &[u32]) -> Result<Vec<u8>, EngineError> {
    ffi::trial_claims(number, pieces).map_err(bad)
}

/// For how many milliseconds a read leaves its piece to so many readers (cpp/choice.h).
pub fn trial_patience(readers: u32, piece_time: u64, random: u64) -> Result<u64, EngineError> {
    let patience = ffi::trial_patience(readers as i32, as_signed(piece_time), random).map_err(bad)?;
    Ok(patience.max(0) as u64)
}

/// The place of a reader in the order in which readers fetch a piece from a seed.
pub fn trial_place(number: u64, piece: u32) -> Result<u64, EngineError> {
    ffi::trial_place(number, piece).map_err(bad)
}
