//! Peers made by hand that answer the daemon under test, honestly or in another way that a test defines.
//!
//! A [`RawSeed`] owns a thread for its listener and one for each connection. Dropping it closes all and joins the
//! threads.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::host::Host;
use super::private_net::in_namespace;
use super::raw_peer::RawPeer;
use super::raw_peer_content::Content;
use super::raw_peer_message::{Block, HashRange, Message};

type AnswerFn<T> = Arc<dyn Fn(&Content, T) -> Vec<Message> + Send + Sync>;

/// The behaviour of a peer. It is honest at first; each method changes one part.
#[derive(Clone)]
pub struct Conduct {
    blocks: AnswerFn<Block>,
    hashes: AnswerFn<HashRange>,
    opening: Vec<Message>,
    id: Option<[u8; 20]>,
}

impl Conduct {
    /// Has all pieces, uploads to any peer, and answers every request for hashes.
    pub fn honest() -> Self {
        Self {
            blocks: Arc::new(|content, block| {
                vec![match content.block(block, 0) {
                    Some(data) => Message::Piece(block.piece, block.begin, data),
                    None => Message::Reject(block),
                }]
            }),
            hashes: Arc::new(|content, range| {
                vec![match content.hashes(range) {
                    Some(hashes) => Message::Hashes(range, hashes),
                    None => Message::HashReject(range),
                }]
            }),
            opening: vec![Message::HaveAll, Message::Unchoke],
            id: None,
        }
    }

    /// Sets the messages after the handshakes, which otherwise announce all pieces and unchoke.
    pub fn with_opening(mut self, messages: Vec<Message>) -> Self {
        self.opening = messages;
        self
    }

    /// Sets the peer id of all connections, which otherwise have different ones.
    pub fn with_id(mut self, id: [u8; 20]) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the answers to requests for blocks.
    pub fn with_blocks(
        mut self,
        answer: impl Fn(&Content, Block) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        self.blocks = Arc::new(answer);
        self
    }

    /// Sets the answers to requests for hashes.
    pub fn with_hashes(
        mut self,
        answer: impl Fn(&Content, HashRange) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        self.hashes = Arc::new(answer);
        self
    }
}

/// Counts of the events that a peer has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections with complete handshakes.
    pub connections: AtomicU64,
    /// Connections that the daemon has closed after a request. (It closes a second connection to the same peer right
    /// after the handshakes.)
    pub disconnections: AtomicU64,
    /// Requests for blocks.
    pub blocks: AtomicU64,
    /// Requests for hashes.
    pub hashes: AtomicU64,
    /// Cancelled requests for blocks.
    pub cancels: AtomicU64,
}

impl Seen {
    /// A counter's value.
    pub fn count(of: &AtomicU64) -> u64 {
        of.load(Ordering::Relaxed)
    }
}

struct Shared {
    content: Arc<Content>,
    conduct: Conduct,
    seen: Seen,
    stopping: AtomicBool,
    open: Mutex<Vec<RawPeer>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A running peer on one host.
pub struct RawSeed {
    shared: Arc<Shared>,
    listener: Option<(TcpListener, SocketAddr)>,
}

impl RawSeed {
    /// Starts a peer that listens at `port` of all addresses of a host.
    pub fn listen(host: &Host, port: u16, content: &Arc<Content>, conduct: Conduct) -> Self {
        let listener =
            in_namespace(host.namespace(), move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        Self::accepting(listener, host.addr(), content, conduct)
    }

    /// Starts a peer that listens at the loopback address of the calling thread's namespace.
    pub fn listen_here(content: &Arc<Content>, conduct: Conduct) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self::accepting(listener, Ipv4Addr::LOCALHOST, content, conduct)
    }

    fn accepting(listener: TcpListener, address: Ipv4Addr, content: &Arc<Content>, conduct: Conduct) -> Self {
        let port = listener.local_addr().unwrap().port();
        let seed = Self {
            shared: Shared::new(content, conduct),
            listener: Some((listener.try_clone().unwrap(), SocketAddr::new(address.into(), port))),
        };
        let shared = seed.shared.clone();
        let accepting = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if let Ok(peer) =
                    RawPeer::accept(stream, &shared.content.info_hash, shared.conduct.id.as_ref())
                {
                    shared.serve(peer);
                }
            }
        });
        seed.shared.threads.lock().unwrap().push(accepting);
        seed
    }

    /// A peer on a connection that it has opened.
    pub fn over(peer: RawPeer, content: &Arc<Content>, conduct: Conduct) -> Self {
        let seed = Self { shared: Shared::new(content, conduct), listener: None };
        seed.shared.serve(peer);
        seed
    }

    /// The address for `--peer`.
    pub fn peer(&self) -> String {
        self.address().to_string()
    }

    /// The address at which the peer listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.as_ref().expect("it listens").1
    }

    /// The counts so far.
    pub fn seen(&self) -> &Seen {
        &self.shared.seen
    }
}

impl Drop for RawSeed {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some((listener, _)) = &self.listener {
            // Ends the accept call.
            let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
        }
        self.shared.open.lock().unwrap().iter().for_each(RawPeer::close);
        loop {
            let Some(thread) = self.shared.threads.lock().unwrap().pop() else { return };
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(content: &Arc<Content>, conduct: Conduct) -> Arc<Self> {
        Arc::new(Self {
            content: content.clone(),
            conduct,
            seen: Seen::default(),
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    /// Serves a connection on a thread until either end closes it.
    fn serve(self: &Arc<Self>, peer: RawPeer) {
        peer.wait_without_bound();
        let mut open = self.open.lock().unwrap();
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        open.push(peer.try_clone().unwrap());
        drop(open);
        self.seen.connections.fetch_add(1, Ordering::Relaxed);
        let shared = self.clone();
        let thread = std::thread::spawn(move || {
            let used = shared.converse(peer);
            if used && !shared.stopping.load(Ordering::Relaxed) {
                shared.seen.disconnections.fetch_add(1, Ordering::Relaxed);
            }
        });
        self.threads.lock().unwrap().push(thread);
    }

    /// Returns, when the connection has ended, whether the daemon had sent a request.
    fn converse(&self, mut peer: RawPeer) -> bool {
        let mut due = self.conduct.opening.clone();
        let mut used = false;
        loop {
            let sent: Result<(), _> = due.iter().try_for_each(|message| peer.send(message));
            let Ok(received) = sent.and_then(|()| peer.receive()) else { return used };
            used |= matches!(received, Message::Request(_) | Message::HashRequest(_));
            due = match received {
                Message::Request(block) => {
                    self.seen.blocks.fetch_add(1, Ordering::Relaxed);
                    (self.conduct.blocks)(&self.content, block)
                }
                Message::HashRequest(range) => {
                    self.seen.hashes.fetch_add(1, Ordering::Relaxed);
                    (self.conduct.hashes)(&self.content, range)
                }
                Message::Cancel(_) => {
                    self.seen.cancels.fetch_add(1, Ordering::Relaxed);
                    vec![]
                }
                _ => vec![],
            };
        }
    }
}

impl RawPeer {
    /// Closes the connection for all threads that use it.
    fn close(&self) {
        let _ = self.stream().shutdown(Shutdown::Both);
    }

    /// Makes reads wait until the connection is closed.
    fn wait_without_bound(&self) {
        self.stream().set_read_timeout(None).unwrap();
    }
}
