//! A BitTorrent v2 peer written byte by byte (BEP 3, 6, 10, 52): one connection, without any policy.
//!
//! A [`RawPeer`] is one connection. Its socket belongs to the network namespace of the host that opened it, so a test
//! can use it from any thread. [`super::raw_peer_content`] has the content of a torrent, [`super::raw_peer_seed`]
//! answers the requests of the daemon under test.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use silmaril::model::InfoHash;

use super::host::Host;
use super::private_net::in_namespace;
use super::raw_peer_message::{HashRange, Message};

/// The time that a peer waits for the daemon under test to read, or to send the next byte.
pub const WIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bits of the handshake: the extension protocol (BEP 10), fast messages (BEP 6) and BitTorrent v2 (BEP 52).
pub const FLAGS: [u8; 8] = [0, 0, 0, 0, 0, 0x10, 0, 0x14];

/// The body of a handshake of BEP 10 that names no extension.
const NO_EXTENSIONS: &[u8] = b"d1:mdee";

/// The longest message that is read. The daemon under test sends no longer ones.
const MAX_LENGTH: usize = 2 << 20;

/// One connection to a daemon. Dropping it closes it.
#[derive(Debug)]
pub struct RawPeer {
    stream: TcpStream,
}

impl RawPeer {
    /// Connects from a host to a daemon and exchanges the handshakes of BEP 3 and BEP 10. Each connection has a peer
    /// id of its own.
    pub fn connect(from: &Host, to: SocketAddr, swarm: &InfoHash) -> Result<Self> {
        let swarm = *swarm;
        in_namespace(from.namespace(), move || Self::dial(None, to, &swarm))
    }

    /// Like [`Self::connect`], in the namespace of the calling thread, from this local address if there is one.
    pub fn dial(from: Option<Ipv4Addr>, to: SocketAddr, swarm: &InfoHash) -> Result<Self> {
        Self::dial_as(from, to, swarm, FLAGS, NO_EXTENSIONS)
    }

    /// Like [`Self::dial`], with these flags in the handshake of BEP 3, and this body of the handshake of BEP 10.
    pub fn dial_as(
        from: Option<Ipv4Addr>,
        to: SocketAddr,
        swarm: &InfoHash,
        flags: [u8; 8],
        extensions: &[u8],
    ) -> Result<Self> {
        let mut hello = handshake(swarm);
        hello[20..28].copy_from_slice(&flags);
        Self::dial_with(from, to, &hello, extensions)
    }

    /// Like [`Self::dial`], with this peer id.
    pub fn dial_with_id(
        from: Option<Ipv4Addr>,
        to: SocketAddr,
        swarm: &InfoHash,
        id: &[u8; 20],
    ) -> Result<Self> {
        Self::dial_with(from, to, &handshake_of(swarm, id), NO_EXTENSIONS)
    }

    fn dial_with(from: Option<Ipv4Addr>, to: SocketAddr, hello: &[u8], extensions: &[u8]) -> Result<Self> {
        let mut peer = Self::over(dial(from, to)?)?;
        peer.stream.write_all(hello)?;
        peer.stream.read_exact(&mut [0; 68])?;
        peer.send(&Message::Extended(0, extensions.to_vec()))?;
        Ok(peer)
    }

    /// Accepts a connection that a daemon has opened, and exchanges the handshakes of BEP 3 and BEP 10. With `id`, the
    /// peer id is this one.
    pub fn accept(stream: TcpStream, swarm: &InfoHash, id: Option<&[u8; 20]>) -> Result<Self> {
        let hello = id.map_or_else(|| handshake(swarm), |id| handshake_of(swarm, id));
        let mut peer = Self::accept_as(stream, &hello)?;
        peer.send(&Message::Extended(0, NO_EXTENSIONS.to_vec()))?;
        Ok(peer)
    }

    /// Like [`Self::accept`], with this handshake of BEP 3, which contains the peer id, and without the handshake of
    /// BEP 10.
    pub fn accept_as(stream: TcpStream, handshake: &[u8]) -> Result<Self> {
        let mut peer = Self::over(stream)?;
        let mut theirs = [0; 68];
        peer.stream.read_exact(&mut theirs)?;
        if !theirs.starts_with(b"\x13BitTorrent protocol") {
            return Err(Error::new(ErrorKind::InvalidData, "not a plain BitTorrent handshake"));
        }
        peer.stream.write_all(handshake)?;
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

    /// A second handle of the connection, for another thread.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    /// The address and port of this end.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sets the timeout of reads and writes on this connection.
    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
        self.stream.set_write_timeout(Some(timeout)).unwrap();
    }

    /// Makes the system keep, and acknowledge, about this many bytes that are not read.
    pub fn keep_bytes(&self, bytes: usize) {
        sockopt::set_socket_recv_buffer_size(&self.stream, bytes).unwrap();
    }

    /// Whether the daemon has closed the connection. Does not wait, and consumes no bytes.
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

    /// Sends bytes in segments of these lengths, which repeat as needed. Nagle's algorithm is off.
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

    /// The next message. Fails with [`ErrorKind::WouldBlock`] if none arrives within [`WIRE_TIMEOUT`].
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

    /// The first message for which `pick` returns a value. Earlier messages are dropped.
    pub fn receive_until<T>(&mut self, mut pick: impl FnMut(Message) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = pick(self.receive()?) {
                return Ok(found);
            }
        }
    }

    /// Waits until the daemon has handled all messages so far. `range` must be one that an honest peer may request.
    pub fn wait_for_answer(&mut self, range: HashRange) -> Result<()> {
        self.send(&Message::HashRequest(range))?;
        self.receive_until(|message| match message {
            Message::Hashes(of, _) | Message::HashReject(of) if of == range => Some(()),
            _ => None,
        })
    }

    /// Whether the connection is still open after the daemon has handled all messages so far.
    pub fn is_answered(&mut self, range: HashRange) -> bool {
        match self.wait_for_answer(range) {
            Ok(()) => true,
            Err(error) if is_disconnect(&error) => false,
            Err(error) => panic!("the node neither answered nor hung up: {error}"),
        }
    }
}

/// Whether an error means that the other end has closed the connection.
pub fn is_disconnect(error: &Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// The handshake of BEP 3 with the truncated v2 info hash, and a peer id that no other connection has.
pub fn handshake(swarm: &InfoHash) -> Vec<u8> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = format!("-XX0000-{number:012x}");
    handshake_of(swarm, id.as_bytes().try_into().expect("20 characters"))
}

fn handshake_of(swarm: &InfoHash, id: &[u8; 20]) -> Vec<u8> {
    [b"\x13BitTorrent protocol".as_slice(), &FLAGS, &swarm.0[..20], id].concat()
}

/// Opens a TCP connection in the calling thread's namespace.
fn dial(from: Option<Ipv4Addr>, to: SocketAddr) -> Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect_timeout(&to, WIRE_TIMEOUT) };
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // The timeout also limits the connect.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(WIRE_TIMEOUT))?;
    rustix::net::bind(&socket, &SocketAddr::new(IpAddr::V4(from), 0))?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}
