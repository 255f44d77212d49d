//! Peers are found without an address from the user.

use crate::support::fixtures::{hashes, wordllama};
use crate::support::net::Net;
use crate::support::process::PATIENCE;
use crate::support::share::{import, share};

const NAME: &str = "dleemiller/wordllama";

#[test]
fn hosts_of_one_lan_find_each_other() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let shared = share(&a, &wordllama(), NAME, &[]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    assert_eq!(hashes(&mounted.path(NAME), PATIENCE), hashes(&wordllama(), PATIENCE));
}

#[test]
fn a_private_dht_finds_peers_by_info_hash() {
    let net = Net::new();
    let (router, a, b) = (net.host("router"), net.host("a"), net.host("b"));
    router.configure("  lan_discovery: false\n");
    for host in [&a, &b] {
        host.configure(&format!("  lan_discovery: false\n  dht_bootstrap_nodes: ['{}']\n", router.peer()));
    }
    let other = crate::support::fixtures::model_dir(&router.home().join("m"), &[("x", b"x")]);
    let _bootstrap = share(&router, &other, "acme/other", &[]);
    let shared = share(&a, &wordllama(), NAME, &[]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    assert_eq!(hashes(&mounted.path(NAME), PATIENCE), hashes(&wordllama(), PATIENCE));
}

#[test]
fn with_discovery_off_no_peer_is_found_and_nothing_is_sent() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &[]);
    import(&b, &shared.manifest);
    drop(shared);
    b.configure("  lan_discovery: false\n  dht_enabled: false\ntorrent:\n  download_timeout: 5\n");
    let before = a.received();
    b.run(&["get", NAME]).error(1);
    // Only address resolution (ARP, IPv6) sends packets.
    assert!(a.received() - before < 2048, "a node with discovery off sent {} bytes", a.received() - before);
}
