//! Connections that occupy slots: each fetches one piece and then stays, idle. When the victim closes one, it is opened
//! again immediately.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::lab::{Lab, door};
use crate::support::host::Host;
use crate::support::private_net::in_namespace;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_leech::leech;

/// The longest time in which a connection notices that it must end.
const NOTICE: Duration = Duration::from_secs(2);

/// The pause after a connection that the victim refused or closed.
const PAUSE: Duration = Duration::from_millis(20);

/// A running crowd. Dropping it closes all connections.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    fetched: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Opens this many connections from each of the hostile host's addresses.
    pub fn on(lab: &Lab, victim: &Host, addresses: &[Ipv4Addr], connections: usize) -> Self {
        let (stop, fetched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |address: Ipv4Addr| {
            let (namespace, to) = (lab.evil.namespace().to_owned(), door(victim));
            let (content, fetched) = (lab.content.clone(), fetched.clone());
            let (stopping, stop) = (stop.clone(), stop.clone());
            let stay = move || {
                let mut peer = RawPeer::dial(Some(address), to, &content.info_hash)?;
                peer.set_timeout(NOTICE);
                leech(&mut peer, &content, 0..1)?;
                fetched.fetch_add(1, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) && !peer.is_closed() {
                    std::thread::sleep(PAUSE);
                }
                std::io::Result::Ok(())
            };
            std::thread::spawn(move || {
                in_namespace(&namespace, move || {
                    while !stopping.load(Ordering::Relaxed) {
                        // An error: the victim has refused or closed the connection.
                        let _ = stay();
                        std::thread::sleep(PAUSE);
                    }
                })
            })
        };
        let threads = (0..connections).flat_map(|_| addresses.iter().copied()).map(one).collect();
        Self { stop, fetched, threads }
    }

    /// How often a connection has fetched its piece.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
