//! Joining the catalog's swarm, and looking for company there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use crate::torrent::{Meeting, Topic};

/// Where all nodes meet.
pub const CATALOG: &str = "silmaril:catalog:1";

/// How long we are alone before we look again; twice as long each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);

/// How often it is looked whether we are alone.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// With fewer members than this we look for more at the longest interval.
const FEW: usize = 4;

/// Joins the swarm, if we are not in it.
pub(super) fn join(core: &Core) {
    let mut swarm = core.swarm.lock();
    if swarm.is_none() {
        match core.overlay.meet(Meeting::Topic(Topic::of(CATALOG)), &core.settings.peers.list()) {
            Ok(id) => *swarm = Some(id),
            Err(error) => tracing::warn!(%error, "the catalog's swarm is not joined"),
        }
    }
}

/// Leaves the swarm.
pub(super) fn leave(core: &Core) {
    let swarm = core.swarm.lock().take();
    if let Some(id) = swarm
        && let Err(error) = core.overlay.leave(id)
    {
        tracing::debug!(%error, "the catalog's swarm is not left");
    }
}

/// Calls peers in the swarm.
pub(super) fn introduce(core: &Core, peers: &[SocketAddr]) {
    let Some(swarm) = core.swarm() else { return };
    for peer in peers {
        if let Err(error) = core.overlay.call(swarm, *peer) {
            tracing::debug!(%peer, %error, "a peer is not called");
        }
    }
}

/// Looks for members while there are none or few, until the catalog stops.
pub(super) async fn keep(core: Arc<Core>) {
    let mut nodes = core.dht_nodes.subscribe();
    let mut pause = AGAIN;
    let mut next = Instant::now() + pause;
    loop {
        let ready = *nodes.borrow_and_update() > 0;
        let dht_is_ready = tokio::select! {
            _ = nodes.wait_for(|nodes| (*nodes > 0) != ready) => !ready,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let members = core.members();
        if members > 0 {
            pause = if members < FEW { LONGEST } else { AGAIN };
        }
        // What was looked for before the routing table had its first nodes was not found there.
        if dht_is_ready || (members < FEW && Instant::now() >= next) {
            look(&core, members);
            next = Instant::now() + pause;
            pause = (pause * 2).min(LONGEST);
        }
        if members >= FEW {
            next = Instant::now() + AGAIN;
        }
    }
}

fn look(core: &Core, members: usize) {
    join(core);
    let Some(swarm) = core.swarm() else { return };
    if let Err(error) = core.overlay.look_again(swarm) {
        tracing::debug!(%error, "the catalog's swarm is not looked at again");
    }
    if members == 0 {
        introduce(core, &core.settings.peers.list());
    }
}
