//! A publisher replaces its key: hosts that trusted the key follow, and a thief of the former key is refused.

use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};

fn publish(host: &Host, version: &str, seed: u64) -> Proc {
    let dir = model_dir(&host.home().join(version), &[("weights.bin", &noise(seed, 50_000))]);
    let args =
        ["share", "-f", dir.to_str().unwrap(), "--name", "acme/m", "--version", version, "--license", "mit"];
    let sharing = host.spawn(&args);
    sharing.wait_for_line("seeding", PATIENCE);
    sharing
}

fn json(host: &Host, args: &[&str]) -> Value {
    serde_json::from_str(&host.run(args).ok()).unwrap()
}

fn key(host: &Host) -> String {
    json(host, &["key", "show", "--json"])["publisher"].as_str().unwrap().to_owned()
}

/// The publishers that announce a revision, as a host knows them.
fn publishers(host: &Host, version: &str) -> Vec<String> {
    let found = json(host, &["discover", "acme/m", "--json"]);
    let found = found.as_array().unwrap().iter().filter(|m| m["revision"] == version);
    found.map(|m| m["publisher"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn trust_follows_the_owner_of_a_replaced_key_and_no_thief() {
    let net = Net::new();
    let [a, b, thief] = net.lan_hosts(["a", "b", "thief"]);
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let first = publish(&a, "v1", 1);
    until("it is announced", PATIENCE, || publishers(&b, "v1") == [key(&a)]);
    b.run(&["get", "acme/m@v1"]).ok();
    let owner = |host: &Host| json(host, &["trust", "list", "--json"])["names"][0]["publisher"].clone();
    let former = key(&a);
    assert_eq!(owner(&b), former);
    b.run(&["trust", "add", &former, "--alias", "ada"]).ok();

    a.run(&["key", "rotate"]).ok();
    let present = key(&a);
    assert_ne!(present, former);
    let second = publish(&a, "v2", 2);
    until("the new key is announced", PATIENCE, || publishers(&b, "v2") == [present.clone()]);
    // The records of the former key are replaced by records of the new one.
    until("v1 is announced again", PATIENCE, || publishers(&b, "v1") == [present.clone()]);
    b.run(&["get", "acme/m@v2"]).ok();
    assert_eq!(owner(&b), present);
    let all = json(&b, &["trust", "list", "--json"]);
    assert_eq!(all["publishers"][0]["publisher"], present, "{all}");
    assert_eq!(all["publishers"][0]["alias"], "ada");
    b.run(&["get", "acme/m@v1"]).ok();

    // The thief has the former key, and names a successor of its own.
    let fingerprint =
        json(&a, &["key", "show", "--json"])["replaced"][0]["fingerprint"].as_str().unwrap().to_owned();
    thief.run(&["init"]).ok();
    let stolen = a.base().join(format!("keys/publisher-{fingerprint}.key"));
    std::fs::copy(stolen, thief.base().join("keys/publisher.key")).unwrap();
    let third = publish(&thief, "v3", 3);
    until("the thief's record has arrived", PATIENCE, || publishers(&b, "v3") == [former.clone()]);
    let error = b.run(&["get", "acme/m@v3"]).error(1);
    assert!(error.contains(&fingerprint) && error.contains("replaced"), "{error}");
    thief.run(&["key", "rotate"]).ok();
    let theirs = key(&thief);
    until("the thief's key is announced", PATIENCE, || publishers(&b, "v3").contains(&theirs));
    b.run(&["get", "acme/m@v3"]).error(1);
    assert_eq!(owner(&b), present);
    drop((first, second, third));
}

#[test]
fn hosts_that_were_offline_follow_a_replaced_key() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let first = publish(&a, "v1", 1);
    b.run(&["get", "acme/m@v1"]).ok();
    drop(first);
    for version in ["v2", "v3", "v4"] {
        a.run(&["key", "rotate"]).ok();
        // Only the new key has signed this version.
        let sharing = publish(&a, version, 2);
        b.run(&["get", &format!("acme/m@{version}"), "--peer", &a.peer()]).ok();
        let owner = json(&b, &["trust", "list", "--json"])["names"][0]["publisher"].clone();
        assert_eq!(owner, key(&a), "at {version}");
        drop(sharing);
    }
}

#[test]
fn a_new_host_gets_files_edited_after_a_key_change() {
    let net = Net::new();
    let [a, b, newcomer] = net.lan_hosts(["a", "b", "newcomer"]);
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let first = publish(&a, "v1", 1);
    until("it is announced", PATIENCE, || publishers(&b, "v1") == [key(&a)]);
    b.run(&["get", "acme/m@v1"]).ok();
    a.run(&["key", "rotate"]).ok();
    drop(first);
    let second = publish(&a, "v1", 2);
    until("the new key is announced", PATIENCE, || publishers(&b, "v1").contains(&key(&a)));
    newcomer.run(&["get", "acme/m@v1"]).ok();
    let owner = json(&newcomer, &["trust", "list", "--json"])["names"][0]["publisher"].clone();
    assert_eq!(owner, key(&a));
    drop(second);
}

#[test]
fn trust_add_accepts_an_announced_fingerprint() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let _sharing = publish(&a, "v1", 1);
    until("it is announced", PATIENCE, || publishers(&b, "v1").len() == 1);
    let fingerprint = json(&a, &["key", "show", "--json"])["fingerprint"].as_str().unwrap().to_owned();
    b.run(&["trust", "add", &fingerprint, "--alias", "ada"]).ok();
    assert_eq!(json(&b, &["trust", "list", "--json"])["publishers"][0]["publisher"], key(&a));
    b.run(&["trust", "add", "0000-0000-0000-0000"]).error(1);
}
