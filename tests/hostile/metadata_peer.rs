//! Simulated peers that send the info dictionary of a magnet link (BEP 9), honestly or falsely.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use silmaril::model::InfoHash;

use crate::support::raw_peer::{RawPeer, handshake};
use crate::support::raw_peer_message::Message;

/// Number of the extension `ut_metadata`, the same for libtorrent and for these peers.
pub const METADATA: u8 = 2;

/// Bytes of a block of metadata.
pub const BLOCK: usize = 16 * 1024;

/// Returns the answer to a request for a block, from the dictionary and the number of the block.
pub type AnswerBlock = Arc<dyn Fn(&[u8], usize) -> Vec<Message> + Send + Sync>;

/// How a peer behaves.
#[derive(Clone)]
pub struct Manner {
    pub what: &'static str,
    /// The sizes that it announces, each in its own handshake.
    pub sizes: Vec<i64>,
    /// Whether it announces the sizes again with each request.
    pub repeats: bool,
    pub answer: AnswerBlock,
}

impl Manner {
    /// Announces these sizes, and answers every request by the function.
    pub fn new(
        what: &'static str,
        sizes: Vec<i64>,
        answer: impl Fn(&[u8], usize) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        Self { what, sizes, repeats: false, answer: Arc::new(answer) }
    }

    /// Sends the right dictionary.
    pub fn honest(info: &[u8]) -> Self {
        Self::new("honest", vec![info.len() as i64], |info, block| vec![data(info, block, info.len())])
    }
}

/// The message with a block of `info` as part of a dictionary of `total` bytes, padded with zeros.
pub fn data(info: &[u8], block: usize, total: usize) -> Message {
    let from = (block * BLOCK).min(info.len());
    let mut bytes = info[from..(from + BLOCK).min(info.len())].to_vec();
    bytes.resize(BLOCK.min(total.saturating_sub(block * BLOCK)), 0);
    let head = format!("d8:msg_typei1e5:piecei{block}e10:total_sizei{total}ee");
    Message::Extended(METADATA, [head.as_bytes(), &bytes].concat())
}

/// The message that refuses a block.
pub fn reject(block: usize) -> Message {
    Message::Extended(METADATA, format!("d8:msg_typei2e5:piecei{block}ee").into_bytes())
}

#[derive(Debug, Default)]
pub struct Counts {
    /// Connections with a complete handshake.
    pub connections: AtomicUsize,
    /// Requests for a block.
    pub requests: AtomicUsize,
    /// Connections that ended.
    pub ends: AtomicUsize,
}

struct Shared {
    info: Vec<u8>,
    handshake: Vec<u8>,
    manner: Manner,
    counts: Counts,
    stopping: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A peer that listens. It has the same peer id on all its connections.
pub struct MetadataPeer {
    shared: Arc<Shared>,
    listener: TcpListener,
    pub address: SocketAddr,
}

impl MetadataPeer {
    /// Listens on the loopback address of the calling thread's namespace.
    pub fn listen(swarm: &InfoHash, info: &[u8], manner: Manner) -> Self {
        Self::listen_at(Ipv4Addr::LOCALHOST, swarm, info, manner)
    }

    /// Listens on another address.
    pub fn listen_at(address: Ipv4Addr, swarm: &InfoHash, info: &[u8], manner: Manner) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let shared = Arc::new(Shared {
            info: info.to_vec(),
            handshake: handshake(swarm),
            manner,
            counts: Counts::default(),
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            threads: Mutex::default(),
        });
        let (accepting, at) = (listener.try_clone().unwrap(), shared.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                at.open.lock().unwrap().push(stream.try_clone().unwrap());
                if at.stopping.load(Ordering::Relaxed) {
                    return;
                }
                let serving = at.clone();
                let thread = std::thread::spawn(move || serving.serve(stream));
                at.threads.lock().unwrap().push(thread);
            }
        });
        shared.threads.lock().unwrap().push(thread);
        let address = listener.local_addr().unwrap();
        Self { shared, listener, address }
    }

    pub fn what(&self) -> &'static str {
        self.shared.manner.what
    }

    pub fn connections(&self) -> usize {
        self.shared.counts.connections.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> usize {
        self.shared.counts.requests.load(Ordering::Relaxed)
    }

    pub fn ends(&self) -> usize {
        self.shared.counts.ends.load(Ordering::Relaxed)
    }
}

impl Drop for MetadataPeer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // Makes `accept` return.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for stream in self.shared.open.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        loop {
            let Some(thread) = self.shared.threads.lock().unwrap().pop() else { return };
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Serves a connection until either end closes it.
    fn serve(&self, stream: TcpStream) {
        let Ok(mut peer) = RawPeer::accept_as(stream, &self.handshake) else { return };
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let _ = self.converse(&mut peer);
        self.counts.ends.fetch_add(1, Ordering::Relaxed);
    }

    fn announce(&self, peer: &mut RawPeer) -> std::io::Result<()> {
        for size in &self.manner.sizes {
            let text = format!("d1:md11:ut_metadatai{METADATA}ee13:metadata_sizei{size}ee");
            peer.send(&Message::Extended(0, text.into_bytes()))?;
        }
        Ok(())
    }

    fn converse(&self, peer: &mut RawPeer) -> std::io::Result<()> {
        self.announce(peer)?;
        loop {
            let Message::Extended(METADATA, body) = peer.receive()? else { continue };
            let text = String::from_utf8_lossy(&body).into_owned();
            let Some(block) = text.strip_prefix("d8:msg_typei0e5:piecei") else { continue };
            let block = block.trim_end_matches("ee").parse().unwrap();
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            if self.manner.repeats {
                self.announce(peer)?;
            }
            for message in (self.manner.answer)(&self.info, block) {
                peer.send(&message)?;
            }
        }
    }
}
