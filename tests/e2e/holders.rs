//! Peers of the catalog that hold a model are connected in the swarm of the model, which may not find them by itself.

use crate::support::fixtures::{hashes, model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{Share, import, share};

/// Host `a` shares models; `b` will read them. They can find each other only through the catalog of `hub`, which has
/// no model itself.
struct Hosts {
    a: Host,
    hub: Host,
    b: Host,
    _daemon: Proc,
    _net: Net,
}

impl Hosts {
    fn new() -> Self {
        let net = Net::new();
        let (a, hub, b) = (net.host("a"), net.host("hub"), net.host("b"));
        for host in [&a, &hub, &b] {
            host.configure("  dht_enabled: false\n  lan_discovery: false\n");
        }
        let daemon = hub.spawn(&["daemon", "-f"]);
        daemon.wait_for_line("running", PATIENCE);
        Self { a, hub, b, _daemon: daemon, _net: net }
    }

    /// Shares a directory on `a`, and waits until the hub knows its record.
    fn share(&self, dir: &std::path::Path, name: &str) -> Share {
        let shared = share(&self.a, dir, name, &["--peer", &self.hub.peer()]);
        until("the hub knows the model", PATIENCE, || {
            self.hub.run(&["discover", name, "--timeout", "2s", "--json"]).stdout.contains(name)
        });
        shared
    }
}

#[test]
fn get_fetches_from_a_peer_that_only_the_catalog_knows() {
    let hosts = Hosts::new();
    let (a, b) = (&hosts.a, &hosts.b);
    let dir = model_dir(&a.home().join("m"), &[("config.json", b"{}"), ("w.bin", &noise(7, 1 << 20))]);
    let shared = hosts.share(&dir, "acme/m");
    let get = || {
        b.run(&["get", "acme/m", "--peer", &hosts.hub.peer()]).ok();
        let mut got = hashes(&b.base().join("models/acme/m"), PATIENCE);
        got.remove(".silmaril.json");
        assert_eq!(got, hashes(&dir, PATIENCE));
    };
    // First the name alone is known, then the manifest.
    get();
    std::fs::remove_dir_all(b.base()).unwrap();
    import(b, &shared.manifest);
    get();
}

/// The swarm's own ways of discovery would find the peer much later.
#[test]
fn a_first_read_uses_a_peer_that_only_the_catalog_knows() {
    let hosts = Hosts::new();
    let names = ["acme/looked-up", "acme/imported"];
    let models = names.map(|name| {
        let files = [("w.bin", &noise(name.len() as u64, 1 << 20)[..])];
        let dir = model_dir(&hosts.a.home().join(name), &files);
        let shared = hosts.share(&dir, name);
        (name, dir, shared)
    });
    import(&hosts.b, &models[1].2.manifest);
    let mounted = hosts.b.mount(&["--peer", &hosts.hub.peer()]);
    for (name, dir, _) in &models {
        assert_eq!(hashes(&mounted.path(name), PATIENCE), hashes(dir, PATIENCE));
    }
    mounted.unmount();
}
