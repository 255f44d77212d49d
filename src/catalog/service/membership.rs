//! Joining the catalog's swarm, and finding members there.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use crate::torrent::{Meeting, Topic};

/// The topic of the catalog's swarm.
pub const CATALOG: &str = "silmaril:catalog:1";

/// How long a node without members waits before it searches again; doubled each time, up to the longest.
const AGAIN: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);

/// How often the number of members is checked.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// With fewer members, more are searched for at the longest interval.
const FEW: usize = 4;

/// Joins the swarm, unless it is joined.
pub(super) fn join(core: &Core) {
    let mut swarm = core.swarm.lock();
    if swarm.is_none() {
        match core.overlay.meet(Meeting::Topic(Topic::of(CATALOG)), &core.settings.peers.list()) {
            Ok(id) => *swarm = Some(id),
            Err(error) => tracing::warn!(%error, "could not join the catalog's swarm"),
        }
    }
}

/// Leaves the swarm.
pub(super) fn leave(core: &Core) {
    let swarm = core.swarm.lock().take();
    if let Some(id) = swarm
        && let Err(error) = core.overlay.leave(id)
    {
        tracing::debug!(%error, "could not leave the catalog's swarm");
    }
}

/// Searches for members while there are few, until the catalog stops.
pub(super) async fn keep(core: Arc<Core>) {
    let mut nodes = core.dht_nodes.subscribe();
    let mut pause = AGAIN;
    let mut next = Instant::now() + pause;
    loop {
        let ready = *nodes.borrow_and_update() > 0;
        let dht_is_ready = tokio::select! {
            _ = nodes.wait_for(|nodes| (*nodes > 0) != ready) => !ready,
            () = tokio::time::sleep(CHECK_EVERY) => false,
        };
        let members = core.members();
        if members > 0 {
            pause = if members < FEW { LONGEST } else { AGAIN };
        }
        // A search before the routing table had its first nodes found nothing.
        if dht_is_ready || (members < FEW && Instant::now() >= next) {
            search(&core, members);
            next = Instant::now() + pause;
            pause = (pause * 2).min(LONGEST);
        }
        if members >= FEW {
            next = Instant::now() + AGAIN;
        }
    }
}

fn search(core: &Core, members: usize) {
    join(core);
    let Some(swarm) = core.swarm() else { return };
    if let Err(error) = core.overlay.search_again(swarm) {
        tracing::debug!(%error, "could not search for members of the catalog's swarm");
    }
    if members == 0 {
        core.settings.peers.list().into_iter().for_each(|peer| core.connect(peer));
    }
}
