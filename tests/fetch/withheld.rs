//! A model that becomes withheld: nothing is uploaded any more, and its reads continue.

use std::time::Duration;

use silmaril::fetch::Exposure;

use crate::support::clock::pass;
use crate::support::rig::{GIVEN_PEER, KIB, MIB, Rig, noise};
use crate::support::swarm::{Call, Delivery};

#[tokio::test(start_paused = true)]
async fn withheld_model_is_read_from_named_peers_only() {
    let rig = Rig::with(|settings| {
        settings.discovery.dht = true;
        settings.discovery.pex = true;
    });
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", 256 * KIB, &[("w.bin", noise(1, MIB))]);
    assert!(rig.fetch.expose(&m.info_hash, Exposure::Hidden));
    let named = "10.0.0.7:7".parse().unwrap();
    let read = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    let added = rig.swarm.added(m.info_hash).unwrap();
    assert!(added.withheld);
    assert!(!added.discovery.dht && !added.discovery.pex);
    assert_eq!(added.peers, [GIVEN_PEER.parse().unwrap()]);
    rig.fetch.introduce(&m.info_hash, &[named]);
    pass(Duration::from_secs(5)).await;
    assert!(rig.swarm.calls().contains(&Call::Connect(m.info_hash, named)));
    assert!(rig.swarm.deliver(m.info_hash, 0));
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 0, 10));
}

#[tokio::test(start_paused = true)]
async fn uploads_end_before_the_torrent_is_removed() {
    let rig = Rig::new();
    let m = rig.model("o/m", 256 * KIB, &[("w.bin", noise(1, MIB))]);
    rig.fetch.join(&m.revision).unwrap();
    rig.idle().await;
    assert!(!rig.swarm.added(m.info_hash).unwrap().withheld);
    assert!(rig.fetch.expose(&m.info_hash, Exposure::Hidden));
    rig.idle().await;
    let calls = rig.swarm.calls();
    let at = |wanted: Call| calls.iter().position(|call| *call == wanted).expect("a call of the engine");
    assert!(at(Call::SetWithheld(m.info_hash, true)) < at(Call::Remove(m.info_hash)));
    assert!(rig.swarm.added(m.info_hash).unwrap().withheld);
    assert!(rig.fetch.expose(&m.info_hash, Exposure::Public));
    rig.idle().await;
    assert!(!rig.swarm.added(m.info_hash).unwrap().withheld);
}
