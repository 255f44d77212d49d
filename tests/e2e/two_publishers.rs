//! One name, two publishers: which one is trusted, and when the user must choose.

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::share::{Share, share};

const NAME: &str = "acme/contested";

fn fingerprint(host: &Host) -> String {
    let shown: serde_json::Value = serde_json::from_str(&host.run(&["key", "show", "--json"]).ok()).unwrap();
    shown["fingerprint"].as_str().unwrap().to_owned()
}

fn publish(host: &Host, seed: u64) -> Share {
    let dir = model_dir(&host.home().join(format!("m{seed}")), &[("weights.bin", &noise(seed, 1 << 20))]);
    share(host, &dir, NAME, &[])
}

fn weights(host: &Host) -> Vec<u8> {
    std::fs::read(host.base().join("models").join(NAME).join("weights.bin")).unwrap()
}

/// On a LAN without DHT, `get` pins the first publisher. A new host that sees both must choose one.
#[test]
fn the_first_publisher_stays_and_a_new_host_chooses() {
    let net = Net::new();
    let [a, b, early, late] = net.lan_hosts(["a", "b", "early", "late"]);
    let first = publish(&a, 1);
    early.run(&["get", NAME]).ok();
    assert_eq!(weights(&early), noise(1, 1 << 20));
    let _second = publish(&b, 2);

    let (one, two) = (fingerprint(&a), fingerprint(&b));
    // A host that has pinned the first publisher refuses the second, also when the user names that one.
    let refused = early.run(&["get", NAME, "--publisher", &two]).error(1);
    assert!(refused.contains(&one) && refused.contains(&two), "{refused}");

    let choose = late.run(&["get", NAME]);
    assert!(choose.stderr.contains("--publisher"), "{}", choose.stderr);
    let choose = choose.error(1);
    assert!(choose.contains(&one) && choose.contains(&two), "{choose}");
    late.run(&["get", NAME, "--publisher", &two]).ok();
    assert_eq!(weights(&late), noise(2, 1 << 20));
    // The choice is remembered.
    drop(first);
    late.run(&["get", NAME, "--publisher", &one]).error(1);
}

#[test]
fn identical_files_of_two_publishers_are_no_conflict() {
    let net = Net::new();
    let [a, b, c] = net.lan_hosts(["a", "b", "c"]);
    let (_one, _two) = (publish(&a, 3), publish(&b, 3));
    let found = || -> Vec<serde_json::Value> {
        let found = c.run(&["discover", "contested", "--json"]).stdout;
        let found: serde_json::Value = serde_json::from_str(&found).unwrap_or_default();
        found.as_array().into_iter().flatten().map(|f| f["info_hash"].clone()).collect()
    };
    until("both are announced", PATIENCE, || found().len() == 2);
    let hashes = found();
    assert_eq!(hashes[0], hashes[1]);
    c.run(&["get", NAME]).ok();
    assert_eq!(weights(&c), noise(3, 1 << 20));
}
