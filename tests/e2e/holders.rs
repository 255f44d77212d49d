//! Peers of the catalog that hold a model are called in the model's swarm, which may not find them by itself.

use crate::support::fixtures::{hashes, model_dir, noise};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::share::{import, share};

#[test]
fn a_model_is_got_from_a_peer_that_only_the_catalog_knows() {
    let net = Net::new();
    let (a, hub, b) = (net.host("a"), net.host("hub"), net.host("b"));
    for host in [&a, &hub, &b] {
        host.configure("  dht_enabled: false\n  lan_discovery: false\n");
    }
    let hub_runs = hub.spawn(&["daemon"]);
    hub_runs.wait_for_line("running", PATIENCE);
    let dir = model_dir(&a.home().join("m"), &[("config.json", b"{}"), ("w.bin", &noise(7, 1 << 20))]);
    let sharing = share(&a, &dir, "acme/m", &["--peer", &hub.peer()]);
    until("the hub knows it", PATIENCE, || {
        hub.run(&["discover", "acme/m", "--timeout", "2s", "--json"]).stdout.contains("acme/m")
    });
    // The hub has nothing of it, and who looks for its swarm by the ways that are on finds the hub alone.
    let assert_got = || {
        let mut got = hashes(&b.base().join("models/acme/m"), PATIENCE);
        got.remove(".silmaril.json");
        assert_eq!(got, hashes(&dir, PATIENCE));
    };
    // By its name, and by a manifest from elsewhere.
    b.run(&["get", "acme/m", "--peer", &hub.peer()]).ok();
    assert_got();
    std::fs::remove_dir_all(b.base()).unwrap();
    import(&b, &sharing.manifest);
    b.run(&["get", "acme/m", "--peer", &hub.peer()]).ok();
    assert_got();
}
