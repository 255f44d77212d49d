//! Models by name alone, on six hosts with a DHT of their own: no tracker, no LAN discovery, no manifest files.

use std::time::{Duration, Instant};

use crate::support::fixtures::{hashes, model_dir, noise, wordllama};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc};
use crate::support::share::share;

const WORDLLAMA: &str = "dleemiller/wordllama";
const TINY: &str = "acme/tiny";
const OTHER: &str = "umbrella/other-model";

/// Six hosts that know two of them as bootstrap nodes of the DHT, and no other address.
fn six() -> (Net, [Host; 6]) {
    let net = Net::new();
    let hosts = ["h1", "h2", "h3", "h4", "h5", "h6"].map(|name| net.host(name));
    let introducers = format!("['{}', '{}']", hosts[1].peer(), hosts[2].peer());
    for host in &hosts {
        host.configure(&format!("  lan_discovery: false\n  dht_bootstrap_nodes: {introducers}\n"));
    }
    (net, hosts)
}

fn daemon(host: &Host) -> Proc {
    let daemon = host.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    daemon
}

/// The names that `discover` finds within a time limit.
#[track_caller]
fn discovered(host: &Host, within: &str) -> Vec<String> {
    let found = host.run(&["discover", "--timeout", within, "--json"]).ok();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let mut names: Vec<String> =
        found.as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn models_are_found_and_read_by_name_without_their_publisher() {
    let (_net, [h1, h2, h3, h4, h5, h6]) = six();
    let _nodes = [daemon(&h2), daemon(&h3), daemon(&h4)];
    let tiny =
        model_dir(&h1.home().join("tiny"), &[("weights.bin", &noise(1, 3 << 20)), ("config.json", b"{}")]);
    let other = model_dir(&h1.home().join("other"), &[("a.txt", b"other")]);
    let _shares = [
        share(&h1, &wordllama(), WORDLLAMA, &[]),
        share(&h1, &tiny, TINY, &[]),
        share(&h1, &other, OTHER, &[]),
    ];
    let all = [TINY, WORDLLAMA, OTHER].map(str::to_owned);

    // A host that knows only the bootstrap nodes finds all models within ten seconds.
    let began = Instant::now();
    assert_eq!(discovered(&h6, "10s"), all);
    assert!(began.elapsed() < Duration::from_secs(20), "discover exceeded its time limit");
    h6.run(&["get", WORDLLAMA]).ok();
    let mut got = hashes(&h6.base().join("models").join(WORDLLAMA), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&wordllama(), PATIENCE));
    let mounted = h6.mount(&[]);
    assert_eq!(hashes(&mounted.path(TINY), PATIENCE), hashes(&tiny, PATIENCE));

    // The publisher is gone. All models are still known, and complete copies of other hosts can be fetched.
    h1.power_off();
    assert_eq!(discovered(&h5, "10s"), all);
    h5.run(&["get", WORDLLAMA]).ok();
    let mut got = hashes(&h5.base().join("models").join(WORDLLAMA), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&wordllama(), PATIENCE));
}

#[test]
fn a_known_publishers_model_is_imported_from_the_dht_alone() {
    let (_net, [h1, h2, h3, h4, ..]) = six();
    let _nodes = [daemon(&h2), daemon(&h3)];
    let tiny = model_dir(&h1.home().join("tiny"), &[("weights.bin", &noise(2, 1 << 20))]);
    let _share = share(&h1, &tiny, TINY, &[]);
    let shown: serde_json::Value = serde_json::from_str(&h1.run(&["key", "show", "--json"]).ok()).unwrap();
    let key = shown["publisher"].as_str().unwrap();
    h4.run(&["registry", "import", &format!("{key}/{TINY}")]).ok();
    h4.run(&["get", TINY, "--publisher", key]).ok();
    let stranger = "00".repeat(32);
    h4.run(&["registry", "import", &format!("{stranger}/{TINY}")]).error(1);
}
