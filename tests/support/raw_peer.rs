//! A BitTorrent v2 peer written byte by byte (BEP 3, 6, 10, 52): the wire and its messages, without any policy.
//!
//! A [`RawPeer`] is one connection. Its socket belongs to the network namespace of the host that opened it, so the test
//! may use it from any thread. [`super::raw_peer_content`] knows the content of a torrent, [`super::raw_peer_seed`]
//! answers the requests of the node under test.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use silmaril::model::InfoHash;
use silmaril::model::merkle::Hash;

use super::host::Host;
use super::private_net::in_namespace;

/// How long a peer waits for the node under test to read, or to send the next byte.
pub const WIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// The extension protocol (BEP 10), fast messages (BEP 6) and BitTorrent v2 (BEP 52).
pub const FLAGS: [u8; 8] = [0, 0, 0, 0, 0, 0x10, 0, 0x14];

/// Messages longer than this are not read: the node under test sends none.
const MAX_LENGTH: usize = 2 << 20;

/// A range of hashes of one file's tree, as HASH_REQUEST, HASHES and HASH_REJECT name it. The fields are signed, as in
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

/// A message, complete.
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
    /// Any other number, or a body of the wrong length.
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
    /// The message with its length before it.
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

    /// A message without its length.
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

/// One connection to a node. Dropping it closes it.
#[derive(Debug)]
pub struct RawPeer {
    stream: TcpStream,
}

impl RawPeer {
    /// Connects from a host to a node and exchanges the handshakes of BEP 3 and BEP 10. Each connection has a peer id of
    /// its own.
    pub fn connect(from: &Host, to: SocketAddr, swarm: &InfoHash) -> Result<Self> {
        let swarm = *swarm;
        in_namespace(from.namespace(), move || Self::dial(None, to, &swarm))
    }

    /// The same in the namespace of the calling thread, from one of several addresses.
    pub fn dial(from: Option<Ipv4Addr>, to: SocketAddr, swarm: &InfoHash) -> Result<Self> {
        let mut peer = Self::over(dial(from, to)?)?;
        peer.stream.write_all(&handshake(swarm))?;
        peer.stream.read_exact(&mut [0; 68])?;
        peer.send(&Message::Extended(0, b"d1:mdee".to_vec()))?;
        Ok(peer)
    }

    /// Accepts a connection that a node has opened.
    pub fn accept(stream: TcpStream, swarm: &InfoHash) -> Result<Self> {
        let mut peer = Self::over(stream)?;
        let mut theirs = [0; 68];
        peer.stream.read_exact(&mut theirs)?;
        if !theirs.starts_with(b"\x13BitTorrent protocol") {
            return Err(Error::new(ErrorKind::InvalidData, "not a plain BitTorrent handshake"));
        }
        peer.stream.write_all(&handshake(swarm))?;
        peer.send(&Message::Extended(0, b"d1:mdee".to_vec()))?;
        Ok(peer)
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(WIRE_TIMEOUT))?;
        stream.set_write_timeout(Some(WIRE_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The same connection for another thread.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    /// The address and port of this end.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Bounds how long reads and writes of this connection wait.
    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
        self.stream.set_write_timeout(Some(timeout)).unwrap();
    }

    /// Whether the node has closed the connection. Does not wait, and takes nothing that has arrived.
    pub fn is_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    pub fn send(&mut self, message: &Message) -> Result<()> {
        self.stream.write_all(&message.encode())
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes in segments of the given lengths (repeated as needed); Nagle's algorithm is off.
    pub fn send_split(&mut self, mut bytes: &[u8], lengths: &[usize]) -> Result<()> {
        for length in lengths.iter().cycle() {
            let (segment, rest) = bytes.split_at((*length).clamp(1, bytes.len().max(1)).min(bytes.len()));
            self.stream.write_all(segment)?;
            bytes = rest;
            if bytes.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The next message. [`ErrorKind::WouldBlock`] after [`WIRE_TIMEOUT`] without one.
    pub fn receive(&mut self) -> Result<Message> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_LENGTH {
            return Err(Error::new(ErrorKind::InvalidData, format!("a message of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Message::decode(&body))
    }

    /// The first message for which `pick` returns something; the messages before it are dropped.
    pub fn receive_until<T>(&mut self, mut pick: impl FnMut(Message) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = pick(self.receive()?) {
                return Ok(found);
            }
        }
    }

    /// Waits until the node has handled all that was sent before. `range` must be one that an honest peer may ask for.
    pub fn wait_for_answer(&mut self, range: HashRange) -> Result<()> {
        self.send(&Message::HashRequest(range))?;
        self.receive_until(|message| match message {
            Message::Hashes(of, _) | Message::HashReject(of) if of == range => Some(()),
            _ => None,
        })
    }

    /// Whether the connection is still open when the node has handled all that was sent before.
    pub fn is_answered(&mut self, range: HashRange) -> bool {
        match self.wait_for_answer(range) {
            Ok(()) => true,
            Err(error) if is_hang_up(&error) => false,
            Err(error) => panic!("the node neither answered nor hung up: {error}"),
        }
    }
}

/// Whether an error means that the other end has closed the connection.
pub fn is_hang_up(error: &Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// The handshake of BEP 3 with the truncated v2 info hash, and a peer id that no other connection has.
pub fn handshake(swarm: &InfoHash) -> Vec<u8> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = format!("-XX0000-{number:012x}");
    [b"\x13BitTorrent protocol".as_slice(), &FLAGS, &swarm.0[..20], id.as_bytes()].concat()
}

/// Opens a TCP connection in the calling thread's namespace.
fn dial(from: Option<Ipv4Addr>, to: SocketAddr) -> Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect_timeout(&to, WIRE_TIMEOUT) };
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // Bounds the connect as well.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(WIRE_TIMEOUT))?;
    rustix::net::bind(&socket, &SocketAddr::new(IpAddr::V4(from), 0))?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
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
