//! What a sender sends next: among the requested pieces, the one it has sent least often.

use super::Time;

/// Every so many blocks the request that has waited longest comes first, so that no peer starves.
const FAIR_EVERY: u64 = 4;

/// A piece that so many other peers have is not rare.
const ENOUGH: u32 = 2;

/// The order of a sender's blocks.
#[derive(Debug)]
pub struct Sender {
    /// Bytes sent of each piece.
    sent: Vec<u64>,
    piece_length: u64,
    blocks: u64,
    /// The connection and piece of the last block.
    last: (u64, u32),
}

/// The first request of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// A number of the connection.
    pub connection: u64,
    pub piece: u32,
    /// Other peers that have the piece.
    pub copies: u32,
    /// The piece is the first one that the peer wants to read.
    pub waited: bool,
    /// When the block was requested.
    pub since: Time,
    /// When the connection first requested a block of the piece.
    pub piece_since: Time,
}

impl Sender {
    pub fn new(pieces: u32, piece_length: u64) -> Self {
        Self { sent: vec![0; pieces as usize], piece_length, blocks: 0, last: (0, u32::MAX) }
    }

    /// The index of the request that a reader sends next: of a piece that few peers have, then of one that is waited for, then the
    /// one that was begun first, so that a piece is complete soon.
    pub fn first(requests: &[Request]) -> Option<usize> {
        (0..requests.len()).min_by_key(|&i| {
            let request = &requests[i];
            (request.copies.min(ENOUGH), !request.waited, request.piece_since, request.connection)
        })
    }

    /// The index of the request that a seed sends next.
    pub fn next(&self, requests: &[Request]) -> Option<usize> {
        let indexes = 0..requests.len();
        if self.blocks % FAIR_EVERY == FAIR_EVERY - 1 {
            return indexes.min_by_key(|&i| requests[i].since);
        }
        indexes.min_by_key(|&i| {
            let request = &requests[i];
            let copies = self.sent[request.piece as usize] / self.piece_length;
            (copies, request.piece_since, (request.connection, request.piece) != self.last)
        })
    }

    pub fn sent(&mut self, request: &Request, bytes: u64) {
        self.blocks += 1;
        self.sent[request.piece as usize] += bytes;
        self.last = (request.connection, request.piece);
    }
}
