//! What a sender sends next: among the requested pieces, the one it has sent least often.

use super::Time;

/// Every so many blocks the request that has waited longest comes first, so that no peer starves.
const FAIR_EVERY: u64 = 4;

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

    /// The index of the request that a reader sends next: the one that was begun first.
    pub fn first(&self, requests: &[Request]) -> Option<usize> {
        (0..requests.len()).min_by_key(|&i| self.order(&requests[i]))
    }

    fn order(&self, r: &Request) -> (u64, bool, Time, u64) {
        let copies = self.sent[r.piece as usize] / self.piece_length;
        match std::env::var("SEND").as_deref() { Ok("1") => (copies.min(1), !r.waited, r.piece_since, r.connection), Ok("2") => (copies, !r.waited, r.piece_since, r.connection), Ok("4") => (u64::from(r.copies), false, r.piece_since, r.connection), Ok("5") => (u64::from(r.copies.min(4)), !r.waited, r.piece_since, r.connection), Ok("6") => (u64::from(r.copies.min(2)), !r.waited, r.piece_since, r.connection), Ok("7") => (u64::from(r.copies.min(8)), !r.waited, r.piece_since, r.connection), Ok("3") => (0, false, r.piece_since, r.connection), _ => (0, !r.waited, r.piece_since, r.connection) }
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
