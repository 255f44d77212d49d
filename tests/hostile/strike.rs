//! Bytes that a hostile peer sends on its own connection, once or repeatedly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::lab::{Lab, door};
use crate::support::host::Host;
use crate::support::private_net::in_namespace;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_message::Message;

/// Bytes that a hostile peer sends on its own connection.
#[derive(Debug, Clone)]
pub struct Strike {
    /// Name for the message if the victim does not survive.
    pub what: String,
    pub bytes: Vec<u8>,
    /// Lengths of the TCP segments; empty to send all bytes in one write.
    pub segments: Vec<usize>,
}

impl Strike {
    pub fn new(what: impl Into<String>, messages: &[Message]) -> Self {
        let bytes = messages.iter().flat_map(Message::encode).collect();
        Self { what: what.into(), bytes, segments: vec![] }
    }

    /// The same name with other bytes.
    pub fn with_bytes(self, bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..self }
    }

    /// The same bytes in segments of these lengths.
    pub fn split(&self, segments: &[usize]) -> Self {
        let what = format!("{} in segments of {segments:?}", self.what);
        Self { what, bytes: self.bytes.clone(), segments: segments.to_vec() }
    }

    pub fn send(&self, peer: &mut RawPeer) -> std::io::Result<()> {
        if self.segments.is_empty() {
            peer.send_bytes(&self.bytes)
        } else {
            peer.send_split(&self.bytes, &self.segments)
        }
    }
}

/// Sends strikes to a victim repeatedly, each on its own connection, until it is dropped.
pub struct Hammer {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Hammer {
    pub fn on(lab: &Lab, victim: &Host, strikes: Vec<Strike>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (namespace, to) = (lab.evil.namespace().to_owned(), door(victim));
        let (swarm, range) = (lab.content.info_hash, lab.content.any_range());
        let (stopping, counting) = (stop.clone(), sent.clone());
        let strike = move |strike: &Strike| {
            let mut peer = RawPeer::dial(None, to, &swarm)?;
            peer.set_timeout(Duration::from_secs(1));
            strike.send(&mut peer)?;
            counting.fetch_add(1, Ordering::Relaxed);
            peer.wait_for_answer(range)
        };
        let work = move || {
            for next in strikes.iter().cycle() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                if strike(next).is_err() {
                    // The victim is not in the swarm yet, or has closed the connection.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        };
        let thread = std::thread::spawn(move || in_namespace(&namespace, work));
        Self { stop, sent, thread: Some(thread) }
    }

    /// Number of strikes sent to a connected victim.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
