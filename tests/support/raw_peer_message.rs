//! The messages between BitTorrent v2 peers (BEP 3, 6, 10, 52), including messages that no honest peer sends.

use silmaril::model::merkle::Hash;

/// A range of hashes of a file's tree, as in HASH_REQUEST, HASHES and HASH_REJECT. The fields are signed, as in
/// libtorrent, so that a test can send negative numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashRange {
    /// Root of the file.
    pub root: Hash,
    /// Levels above the leaves.
    pub base: i32,
    /// The first hash of the range.
    pub index: i32,
    /// Number of hashes.
    pub length: i32,
    /// Levels above `base` for which uncle hashes are included.
    pub proofs: i32,
}

/// A block of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub piece: u32,
    pub begin: u32,
    pub length: u32,
}

/// A complete message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    KeepAlive,
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    Have(u32),
    Bitfield(Vec<u8>),
    Request(Block),
    Piece(u32, u32, Vec<u8>),
    Cancel(Block),
    HaveAll,
    HaveNone,
    Reject(Block),
    Extended(u8, Vec<u8>),
    HashRequest(HashRange),
    Hashes(HashRange, Vec<Hash>),
    HashReject(HashRange),
    /// Any other message number, or a body of the wrong length.
    Other(u8, Vec<u8>),
}

fn numbers(bytes: &[u8]) -> Option<Vec<u32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| words.iter().map(|word| u32::from_be_bytes(*word)).collect())
}

impl HashRange {
    fn encode(&self) -> Vec<u8> {
        let fields = [self.base, self.index, self.length, self.proofs];
        [self.root.as_slice(), &fields.map(i32::to_be_bytes).concat()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (root, fields) = bytes.split_first_chunk::<32>()?;
        let [base, index, length, proofs] = *numbers(fields)?.as_slice() else { return None };
        let [base, index, length, proofs] = [base, index, length, proofs].map(|field| field as i32);
        Some(Self { root: *root, base, index, length, proofs })
    }
}

impl Block {
    fn encode(&self) -> Vec<u8> {
        [self.piece, self.begin, self.length].map(u32::to_be_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [piece, begin, length] = *numbers(bytes)?.as_slice() else { return None };
        Some(Self { piece, begin, length })
    }
}

impl Message {
    /// The message with its length prefix.
    pub fn encode(&self) -> Vec<u8> {
        let (number, body) = match self {
            Self::KeepAlive => return vec![0; 4],
            Self::Choke => (0, vec![]),
            Self::Unchoke => (1, vec![]),
            Self::Interested => (2, vec![]),
            Self::NotInterested => (3, vec![]),
            Self::Have(piece) => (4, piece.to_be_bytes().to_vec()),
            Self::Bitfield(bits) => (5, bits.clone()),
            Self::Request(block) => (6, block.encode()),
            Self::Piece(piece, begin, data) => {
                (7, [piece.to_be_bytes().as_slice(), &begin.to_be_bytes(), data].concat())
            }
            Self::Cancel(block) => (8, block.encode()),
            Self::HaveAll => (14, vec![]),
            Self::HaveNone => (15, vec![]),
            Self::Reject(block) => (16, block.encode()),
            Self::Extended(id, body) => (20, [&[*id], body.as_slice()].concat()),
            Self::HashRequest(range) => (21, range.encode()),
            Self::Hashes(range, hashes) => (22, [range.encode(), hashes.concat()].concat()),
            Self::HashReject(range) => (23, range.encode()),
            Self::Other(number, body) => (*number, body.clone()),
        };
        [&(body.len() as u32 + 1).to_be_bytes(), [number].as_slice(), &body].concat()
    }

    /// Parses a message without its length prefix.
    pub fn decode(bytes: &[u8]) -> Self {
        let Some((&number, body)) = bytes.split_first() else { return Self::KeepAlive };
        let known = match number {
            0 if body.is_empty() => Some(Self::Choke),
            1 if body.is_empty() => Some(Self::Unchoke),
            2 if body.is_empty() => Some(Self::Interested),
            3 if body.is_empty() => Some(Self::NotInterested),
            4 => numbers(body).and_then(|words| Some(Self::Have(*words.first()?))),
            5 => Some(Self::Bitfield(body.to_vec())),
            6 => Block::decode(body).map(Self::Request),
            7 => body.split_first_chunk::<8>().map(|(place, data)| {
                let place = numbers(place).expect("two numbers");
                Self::Piece(place[0], place[1], data.to_vec())
            }),
            8 => Block::decode(body).map(Self::Cancel),
            14 if body.is_empty() => Some(Self::HaveAll),
            15 if body.is_empty() => Some(Self::HaveNone),
            16 => Block::decode(body).map(Self::Reject),
            20 => body.split_first().map(|(id, body)| Self::Extended(*id, body.to_vec())),
            21 => HashRange::decode(body).map(Self::HashRequest),
            22 => body.split_first_chunk::<48>().and_then(|(range, hashes)| {
                let (hashes, rest) = hashes.as_chunks::<32>();
                rest.is_empty().then_some(())?;
                Some(Self::Hashes(HashRange::decode(range)?, hashes.to_vec()))
            }),
            23 => HashRange::decode(body).map(Self::HashReject),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other(number, body.to_vec()))
    }
}

#[test]
fn raw_messages_survive_a_round_trip() {
    let range = HashRange { root: [7; 32], base: -1, index: i32::MAX, length: 2, proofs: 3 };
    let block = Block { piece: 1, begin: 2, length: 3 };
    for message in [
        Message::KeepAlive,
        Message::Have(5),
        Message::Bitfield(vec![1, 2]),
        Message::Request(block),
        Message::Piece(1, 2, vec![3; 9]),
        Message::Reject(block),
        Message::Extended(3, vec![1]),
        Message::HashRequest(range),
        Message::Hashes(range, vec![[1; 32]; 3]),
        Message::HashReject(range),
        Message::Other(22, vec![0; 5]),
        Message::Other(99, vec![]),
    ] {
        assert_eq!(Message::decode(&message.encode()[4..]), message);
    }
    let wire = Message::HashRequest(range).encode();
    assert_eq!((wire.len(), &wire[..5], &wire[37..41]), (53, &[0, 0, 0, 49, 21][..], &[255; 4][..]));
}
