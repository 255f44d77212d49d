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
    let hub_runs = hub.spawn(&["daemon", "-f"]);
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

/// Otherwise a first read waits for the ways in which the swarm of the model is found.
#[test]
fn a_first_read_calls_a_peer_that_only_the_catalog_knows() {
    let net = Net::new();
    let (a, hub, b) = (net.host("a"), net.host("hub"), net.host("b"));
    for host in [&a, &hub, &b] {
        host.configure("  dht_enabled: false\n  lan_discovery: false\n");
    }
    let hub_runs = hub.spawn(&["daemon", "-f"]);
    hub_runs.wait_for_line("running", PATIENCE);
    let names = ["acme/looked-up", "acme/imported"];
    let dirs =
        names.map(|name| model_dir(&a.home().join(name), &[("w.bin", &noise(name.len() as u64, 1 << 20))]));
    let _one = share(&a, &dirs[0], names[0], &["--peer", &hub.peer()]);
    let two = share(&a, &dirs[1], names[1], &["--peer", &hub.peer()]);
    for name in names {
        until("the hub knows it", PATIENCE, || {
            hub.run(&["discover", name, "--timeout", "2s", "--json"]).stdout.contains(name)
        });
    }
    import(&b, &two.manifest);
    let mounted = b.mount(&["--peer", &hub.peer()]);
    for (name, dir) in names.iter().zip(&dirs) {
        assert_eq!(hashes(&mounted.path(name), PATIENCE), hashes(dir, PATIENCE));
    }
    mounted.unmount();
}
