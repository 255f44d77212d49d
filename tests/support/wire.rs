//! A BitTorrent peer written byte by byte (BEP 3, BEP 9, BEP 10, BEP 52), for messages that no real client sends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use silmaril::model::InfoHash;

/// Types of messages.
pub const UNCHOKE: u8 = 1;
pub const INTERESTED: u8 = 2;
pub const REQUEST: u8 = 6;
pub const PIECE: u8 = 7;
pub const EXTENDED: u8 = 20;
pub const HASH_REQUEST: u8 = 21;
pub const HASHES: u8 = 22;

/// This peer's number of `ut_metadata`; libtorrent's is [`ITS_METADATA`].
pub const OUR_METADATA: u8 = 9;
pub const ITS_METADATA: u8 = 2;

/// This peer's number of `silmaril_catalog`; silmaril's is [`ITS_CATALOG`].
pub const OUR_CATALOG: u8 = 10;
pub const ITS_CATALOG: u8 = 20;

/// Longer than any answer takes. A passing test never waits this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection. Dropping it closes it.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    fn hello(&mut self, info_hash: &InfoHash) -> io::Result<()> {
        // Bits of the handshake: extension protocol (BEP 10), v2 (BEP 52).
        let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x10".to_vec();
        hello.extend(&info_hash.0[..20]);
        hello.extend(b"-XX0000-");
        hello.extend(self.stream.local_addr()?.port().to_be_bytes());
        hello.extend([7; 10]);
        self.stream.write_all(&hello)
    }

    fn read_hello(&mut self) -> io::Result<()> {
        let mut hello = [0; 68];
        self.stream.read_exact(&mut hello)?;
        assert!(hello.starts_with(b"\x13BitTorrent protocol"));
        Ok(())
    }

    /// Connects and exchanges handshakes. Fails if the other side closes the connection before its handshake is
    /// complete.
    pub fn connect(address: SocketAddr, info_hash: &InfoHash) -> io::Result<Self> {
        let mut wire = Self::new(TcpStream::connect(address)?)?;
        wire.hello(info_hash)?;
        wire.read_hello()?;
        Ok(wire)
    }

    /// Connects, sends all messages that a connection may send, and returns every byte of the answer until the other
    /// side closes.
    pub fn bytes_for(address: SocketAddr, info_hash: &InfoHash) -> io::Result<Vec<u8>> {
        let mut wire = Self::new(TcpStream::connect(address)?)?;
        // The other side may close between two messages.
        let _ = wire.hello(info_hash).and_then(|()| wire.ask_for_everything(&[0; 32]));
        let mut bytes = Vec::new();
        match wire.stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(bytes),
            Err(error) => Err(error),
        }
    }

    /// Accepts a connection and exchanges handshakes.
    pub fn accept(listener: &TcpListener, info_hash: &InfoHash) -> io::Result<Self> {
        let mut wire = Self::new(listener.accept()?.0)?;
        wire.read_hello()?;
        wire.hello(info_hash)?;
        Ok(wire)
    }

    pub fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut frame = (body.len() as u32 + 1).to_be_bytes().to_vec();
        frame.push(kind);
        frame.extend(body);
        self.stream.write_all(&frame)
    }

    pub fn send_extended(&mut self, id: u8, body: &[u8]) -> io::Result<()> {
        let mut message = vec![id];
        message.extend(body);
        self.send(EXTENDED, &message)
    }

    /// Announces all extensions and requests data, metadata and the hashes of a file of five to eight pieces of 64
    /// KiB. The last message is one to the catalog, which shows the test that all earlier messages were read.
    pub fn ask_for_everything(&mut self, root: &[u8; 32]) -> io::Result<()> {
        let extensions = format!("d1:md11:ut_metadatai{OUR_METADATA}e16:silmaril_catalogi{OUR_CATALOG}eee");
        self.send_extended(0, extensions.as_bytes())?;
        self.send(INTERESTED, &[])?;
        let [piece, start, length] = [0u32, 0, 16 * 1024].map(u32::to_be_bytes);
        self.send(REQUEST, &[piece, start, length].concat())?;
        self.send_extended(ITS_METADATA, b"d8:msg_typei0e5:piecei0ee")?;
        // Requests the hashes of eight pieces of four blocks, without a proof.
        let numbers = [2u32, 0, 8, 0].map(u32::to_be_bytes).concat();
        self.send(HASH_REQUEST, &[&root[..], &numbers].concat())?;
        self.send_extended(ITS_CATALOG, b"all was read")
    }

    /// The next message that is no keep-alive, as its type and body. `None` when the other side closes.
    pub fn message(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            let mut length = [0; 4];
            match self.stream.read_exact(&mut length) {
                Ok(()) => {}
                Err(error) => return closed(error),
            }
            let mut message = vec![0; u32::from_be_bytes(length) as usize];
            if let Err(error) = self.stream.read_exact(&mut message) {
                return closed(error);
            }
            if !message.is_empty() {
                return Ok(Some((message.remove(0), message)));
            }
        }
    }

    /// All messages until the other side closes.
    pub fn messages(mut self) -> io::Result<Vec<(u8, Vec<u8>)>> {
        std::iter::from_fn(|| self.message().transpose()).collect()
    }
}

fn closed<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Ok(None),
        _ => Err(error),
    }
}

/// Whether a message is about the metadata: an answer to the request of [`Wire::ask_for_everything`].
pub fn is_metadata((kind, body): &(u8, Vec<u8>)) -> bool {
    *kind == EXTENDED && body.first() == Some(&OUR_METADATA)
}
