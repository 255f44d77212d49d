//! Models found by their name alone, without a manifest file.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{dd, hashes, model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::share;

const SIZE: usize = 3_000_000;

/// A model of one file. The same seed gives the same bytes.
fn model(host: &Host, dir: &str, seed: u64) -> std::path::PathBuf {
    model_dir(&host.home().join(dir), &[("config.json", b"{}"), ("w.bin", &noise(seed, SIZE))])
}

/// Shares, without exporting a manifest.
fn publish(host: &Host, dir: &std::path::Path, name: &str, more: &[&str]) -> Proc {
    let mut args = vec!["share", dir.to_str().unwrap(), "--name", name, "--license", "apache-2.0"];
    args.extend(more);
    let sharing = host.spawn(&args);
    sharing.wait_for_line("seeding", PATIENCE);
    sharing
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn key(host: &Host) -> Value {
    json(&host.run(&["key", "show", "--json"]).ok())
}

#[track_caller]
fn assert_got(host: &Host, name: &str, from: &std::path::Path) {
    let mut got = hashes(&host.base().join("models").join(name), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(from, PATIENCE));
}

#[test]
fn a_name_is_enough_on_a_lan() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let dir = model(&a, "m", 1);
    let _sharing = publish(&a, &dir, "acme/m", &[]);
    let end = b.run(&["get", "acme/m", "--json"]);
    let fingerprint = key(&a)["fingerprint"].as_str().unwrap().to_owned();
    assert!(end.stderr.contains("found acme/m") && end.stderr.contains(&fingerprint), "{}", end.stderr);
    let report = json(&end.ok());
    assert_eq!(report["origin"], "found");
    assert_eq!(report["verified"], true);
    assert_got(&b, "acme/m", &dir);
    // From now on the model is known, also when no peer is online.
    a.power_off();
    assert_eq!(json(&b.run(&["get", "acme/m", "--json"]).ok())["origin"], "known");
}

#[test]
fn a_record_of_the_last_run_does_not_hide_the_newer_state() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let dir = model(&a, "m", 1);
    let sharing = publish(&a, &dir, "acme/m", &[]);
    until("it is announced", PATIENCE, || b.run(&["discover", "acme/m", "--json"]).ok().contains("acme/m"));
    drop(sharing);
    let edited = model(&a, "m2", 2);
    let _sharing = publish(&a, &edited, "acme/m", &[]);
    b.run(&["get", "acme/m"]).ok();
    assert_got(&b, "acme/m", &edited);
}

#[test]
fn a_given_peer_is_enough_without_discovery() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    for host in [&a, &b] {
        host.configure("  dht_enabled: false\n  lan_discovery: false\n");
    }
    let dir = model(&a, "m", 1);
    let _sharing = publish(&a, &dir, "acme/m", &["--version", "v1"]);
    // The announcement follows a moment after the first upload is possible.
    let found = || b.run(&["discover", "--peer", &a.peer(), "--json"]).stdout.contains("acme/m");
    until("it is announced", PATIENCE, found);
    b.run(&["get", "acme/m@v1", "--peer", &a.peer()]).ok();
    assert_got(&b, "acme/m@v1", &dir);
}

#[test]
fn discover_shows_what_other_hosts_share() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let daemon = a.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let _one = publish(&a, &model(&a, "one", 1), "acme/llama-one", &[]);
    let _two = publish(&a, &model(&a, "two", 2), "acme/two", &["--version", "v2"]);
    let found = || json(&b.run(&["discover", "--json"]).ok());
    until("both are announced", PATIENCE, || found().as_array().unwrap().len() == 2);
    let found = found();
    let (one, two) = (&found[0], &found[1]);
    assert_eq!((&one["name"], &one["revision"]), (&"acme/llama-one".into(), &"main".into()));
    assert_eq!((&two["name"], &two["revision"]), (&"acme/two".into(), &"v2".into()));
    let size = u64::try_from(SIZE).unwrap() + 2;
    assert_eq!((&one["total_size"], &one["files"]), (&size.into(), &2.into()));
    assert_eq!(one["license"], "apache-2.0");
    assert_eq!(one["publisher"], key(&a)["publisher"]);
    assert_eq!((&one["trust"], &one["contested"]), (&"unknown".into(), &false.into()));
    assert_eq!(one["seeds"], 1);

    let names = |terms: &[&str]| -> Vec<String> {
        let found = json(&b.run(&[&["discover", "--json"], terms].concat()).ok());
        found.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["LLAMA"]), ["acme/llama-one"]);
    assert_eq!(names(&["acme/*", "size>1MB", "license:apache-2.0"]), ["acme/llama-one", "acme/two"]);
    assert_eq!(names(&["size>1GB"]), Vec::<String>::new());
    let table = b.run(&["discover"]).ok();
    assert!(table.contains("acme/two@v2") && table.contains("new"), "{table}");
    assert!(table.contains(key(&a)["fingerprint"].as_str().unwrap()), "{table}");
    assert!(b.run(&["discover", "nothing-like-it"]).stderr.contains("nothing found"));
    let own = json(&a.run(&["discover", "--json", "llama"]).ok());
    assert_eq!(own[0]["trust"], "pinned", "the own publisher of a shared model is pinned");
}

#[test]
fn discover_reports_no_peers_and_invalid_patterns() {
    let net = Net::new();
    let [a] = net.lan_hosts(["a"]);
    let error = a.run(&["discover", "--timeout", "2s"]).error(1);
    assert!(error.contains("no other silmaril was reached"), "{error}");
    let error = a.run(&["discover", "size<many"]).error(2);
    assert!(error.contains("size<many"), "{error}");
    let error = a.run(&["get", "acme/none"]).error(1);
    assert!(error.contains("acme/none"), "{error}");
}

#[test]
fn the_user_chooses_between_two_publishers_of_a_name() {
    let net = Net::new();
    let [a, b, c] = net.lan_hosts(["a", "b", "c"]);
    let (ours, theirs) = (model(&a, "m", 1), model(&b, "m", 2));
    let _a = publish(&a, &ours, "acme/m", &[]);
    let _b = publish(&b, &theirs, "acme/m", &[]);
    let daemon = c.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let found = || json(&c.run(&["discover", "acme/m", "--json"]).ok());
    until("both are announced", PATIENCE, || found().as_array().unwrap().len() == 2);
    assert!(found().as_array().unwrap().iter().all(|m| m["contested"] == true));

    let (a_key, b_key) = (key(&a), key(&b));
    let (a_print, b_print) = (a_key["fingerprint"].as_str().unwrap(), b_key["fingerprint"].as_str().unwrap());
    let error = c.run(&["get", "acme/m"]).error(1);
    assert!(error.contains(a_print) && error.contains(b_print), "{error}");
    c.run(&["get", "acme/m", "--publisher", b_print]).ok();
    assert_got(&c, "acme/m", &theirs);
    let trust = |publisher: &Value| {
        let found = found();
        let found = found.as_array().unwrap();
        found.iter().find(|m| m["publisher"] == *publisher).unwrap()["trust"].clone()
    };
    assert_eq!((trust(&b_key["publisher"]), trust(&a_key["publisher"])), ("pinned".into(), "refused".into()));
    c.run(&["get", "acme/m", "--publisher", a_print]).error(1);
}

#[test]
fn a_newer_state_is_reported_and_fetched_with_update() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    for host in [&a, &b] {
        host.spawn(&["init"]).finish(PATIENCE).ok();
    }
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let (old, new) = (model(&a, "old", 1), model(&a, "new", 2));
    let first = publish(&a, &old, "acme/m", &[]);
    b.run(&["get", "acme/m"]).ok();
    assert_got(&b, "acme/m", &old);
    assert_eq!(json(&b.run(&["get", "acme/m", "--update", "--json"]).ok())["origin"], "none_newer");
    first.signal(Signal::TERM);
    first.finish(PATIENCE).ok();
    let _second = publish(&a, &new, "acme/m", &[]);
    let get = ["get", "acme/m", "--json"];
    until("the newer record has come", PATIENCE, || json(&b.run(&get).ok())["origin"] == "outdated");
    assert!(b.run(&["get", "acme/m"]).stderr.contains("--update"));
    assert_got(&b, "acme/m", &old);
    assert_eq!(json(&b.run(&["get", "acme/m", "--update", "--json"]).ok())["origin"], "found");
    assert_got(&b, "acme/m", &new);
    assert_eq!(json(&b.run(&get).ok())["origin"], "known");
}

#[test]
fn an_update_removes_former_files_that_are_not_edited() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let both = noise(1, SIZE);
    let files: &[(&str, &[u8])] = &[
        ("w.bin", &both),
        ("old/shard.bin", &noise(2, SIZE)),
        ("config.json", b"{}"),
        ("edited.json", b"{\"mine\": 0}"),
    ];
    let old = model_dir(&a.home().join("old"), files);
    let first = publish(&a, &old, "acme/m", &[]);
    b.run(&["get", "acme/m"]).ok();
    assert_got(&b, "acme/m", &old);
    let got = b.base().join("models/acme/m");
    first.signal(Signal::TERM);
    first.finish(PATIENCE).ok();
    let new = model_dir(&a.home().join("new"), &[("w.bin", &both), ("new/shard.bin", &noise(3, SIZE))]);
    let _second = publish(&a, &new, "acme/m", &[]);
    let get = ["get", "acme/m", "--json"];
    until("the newer record has come", PATIENCE, || json(&b.run(&get).ok())["origin"] == "outdated");
    std::fs::write(got.join("edited.json"), b"{\"mine\": 1}").unwrap();
    std::fs::write(got.join("notes.txt"), b"my own").unwrap();
    b.run(&["get", "acme/m", "--update"]).ok();
    let mut left = hashes(&got, PATIENCE);
    left.remove(".silmaril.json");
    let mut names: Vec<_> = left.keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["edited.json", "new/shard.bin", "notes.txt", "w.bin"]);
    assert!(!got.join("old").exists(), "an empty directory is left");
    for (name, hash) in hashes(&new, PATIENCE) {
        assert_eq!(left[&name], hash, "{name}");
    }
    assert_eq!(std::fs::read(got.join("edited.json")).unwrap(), b"{\"mine\": 1}");
}

#[test]
fn superseded_files_are_removed_by_update_and_remove() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let daemon = b.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let old = model_dir(&a.home().join("old"), &[("both.bin", b"both"), ("old.bin", &noise(1, SIZE))]);
    let first = publish(&a, &old, "acme/m", &[]);
    let resume = || hashes(&b.base().join("resume"), PATIENCE).len();
    let (got, other_dir) = (b.base().join("models/acme/m"), b.home().join("other"));
    let part = ["get", "acme/m", "--include", "old.bin"];
    b.run(&part).ok();
    b.run(&[&part[..], &["-o", other_dir.to_str().unwrap()]].concat()).ok();
    first.signal(Signal::TERM);
    first.finish(PATIENCE).ok();
    let new = model_dir(&a.home().join("new"), &[("both.bin", b"both"), ("new.bin", &noise(2, SIZE))]);
    let _second = publish(&a, &new, "acme/m", &[]);
    let known =
        || json(&b.run(&["get", "acme/m", "--json", "--include", "old.bin"]).ok())["origin"] == "outdated";
    until("the newer record has come", PATIENCE, known);
    b.run(&["get", "acme/m", "--update"]).ok();
    assert_got(&b, "acme/m", &new);
    // Files that were fetched into a directory of the user stay.
    let kept = || std::fs::read(other_dir.join("old.bin")).unwrap() == noise(1, SIZE);
    assert!(kept() && resume() == 2, "{} records", resume());
    b.run(&["remove", "acme/m"]).ok();
    assert!(kept() && resume() == 0, "{} records are left", resume());
    assert!(!got.parent().unwrap().exists());
}

#[test]
fn a_model_outlives_its_publisher_on_other_hosts() {
    let net = Net::new();
    let [a, b, c] = net.lan_hosts(["a", "b", "c"]);
    let dir = model(&a, "m", 1);
    let _sharing = publish(&a, &dir, "acme/m", &[]);
    let publisher = key(&a);
    b.keep_daemon();
    b.run(&["get", "acme/m"]).ok();
    a.power_off();
    // The records of other publishers that it knows survive that, too.
    b.kill_node();
    b.run(&["daemon"]).ok();
    let found = json(&c.run(&["discover", "--json"]).ok());
    assert_eq!(found[0]["publisher"], publisher["publisher"]);
    assert_eq!(found[0]["seeds"], 1);
    let end = c.run(&["get", "acme/m"]);
    assert!(end.stderr.contains(publisher["fingerprint"].as_str().unwrap()), "{}", end.stderr);
    end.ok();
    assert_got(&c, "acme/m", &dir);
}

#[test]
fn a_publishers_model_is_imported_from_the_dht_alone() {
    let net = Net::new();
    let hosts: Vec<Host> = ["router", "a", "b", "c"].iter().map(|name| net.host(name)).collect();
    let (router, a, b) = (&hosts[0], &hosts[1], &hosts[2]);
    router.configure("  lan_discovery: false\n");
    for host in &hosts[1..] {
        host.configure(&format!("  lan_discovery: false\n  dht_bootstrap_nodes: ['{}']\n", router.peer()));
    }
    let daemons = [0, 2, 3].map(|host: usize| {
        let daemon = hosts[host].spawn(&["daemon", "-f"]);
        daemon.wait_for_line("running", PATIENCE);
        daemon
    });
    let dir = model(a, "m", 1);
    let sharing = publish(a, &dir, "acme/m", &[]);
    let publisher = key(a)["publisher"].as_str().unwrap().to_owned();
    let source = format!("{publisher}/acme/m");
    until("the record is in the DHT", PATIENCE, || b.run(&["registry", "import", &source]).status.success());
    assert!(b.run(&["list"]).ok().contains("acme/m"));
    b.run(&["get", "acme/m"]).ok();
    assert_got(b, "acme/m", &dir);
    // A publisher may be named by its alias. A model that is not in the DHT is an error.
    let c = &hosts[3];
    c.run(&["trust", "add", &publisher, "--alias", "ann"]).ok();
    assert!(c.run(&["registry", "import", "ann/acme/m"]).ok().contains("acme/m"));
    let end = c.run(&["registry", "import", &format!("{publisher}/acme/none")]);
    assert!(end.error(1).contains("acme/none"));
    drop((sharing, daemons));
}

#[test]
fn a_former_key_leads_to_the_present_one_in_the_dht() {
    let net = Net::new();
    let hosts: Vec<Host> = ["router", "a", "b", "c"].iter().map(|name| net.host(name)).collect();
    let (router, a, b) = (&hosts[0], &hosts[1], &hosts[2]);
    router.configure("  lan_discovery: false\n");
    for host in &hosts[1..] {
        host.configure(&format!("  lan_discovery: false\n  dht_bootstrap_nodes: ['{}']\n", router.peer()));
    }
    let daemons = [0, 3].map(|host: usize| {
        let daemon = hosts[host].spawn(&["daemon", "-f"]);
        daemon.wait_for_line("running", PATIENCE);
        daemon
    });
    a.run(&["init"]).ok();
    let former = key(a)["publisher"].as_str().unwrap().to_owned();
    a.run(&["key", "rotate"]).ok();
    let present = key(a)["publisher"].as_str().unwrap().to_owned();
    let dir = model(a, "m", 1);
    let sharing = publish(a, &dir, "acme/m", &[]);
    let import = |key: &str| b.run(&["registry", "import", &format!("{key}/acme/m")]);
    until("the former key leads to the present one", PATIENCE, || import(&former).status.success());
    assert_eq!(json(&b.run(&["list", "--json"]).ok())[0]["publisher"], present);
    drop((sharing, daemons));
}

#[test]
fn a_host_that_was_in_the_dht_needs_no_bootstrap_node() {
    let net = Net::new();
    let (router, a, b) = (net.host("router"), net.host("a"), net.host("b"));
    router.configure("  lan_discovery: false\n");
    for host in [&a, &b] {
        host.configure(&format!("  lan_discovery: false\n  dht_bootstrap_nodes: ['{}']\n", router.peer()));
    }
    let start = |host: &Host| {
        let daemon = host.spawn(&["daemon", "-f"]);
        daemon.wait_for_line("running", PATIENCE);
        daemon
    };
    let nodes = || json(&a.run(&["status", "--json"]).ok())["catalog"]["dht_nodes"].as_u64().unwrap();
    let _running = [start(&router), start(&b)];
    let first = start(&a);
    // The router itself does not count, as a host asks it only once.
    until("another node is known", PATIENCE, || nodes() > 0);
    first.signal(Signal::TERM);
    first.finish(PATIENCE).ok();
    a.configure("  lan_discovery: false\n");
    let _second = start(&a);
    until("a node is known again", PATIENCE, || nodes() > 0);
}

#[test]
fn a_catalog_that_cannot_be_opened_does_not_stop_a_mount() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &model(&a, "m", 1), "acme/m", &[]);
    crate::support::share::import(&b, &shared.manifest);
    // A directory is where the catalog's file belongs.
    let file = b.base().join("catalog/records.redb");
    let _ = std::fs::remove_file(&file);
    std::fs::create_dir_all(file.join("not a file")).unwrap();
    let mounted = b.mount(&["--peer", &a.peer()]);
    dd(&mounted.path("acme/m/w.bin"), SIZE, 0, 1, PATIENCE).ok();
    assert_eq!(json(&b.run(&["status", "--json"]).ok())["catalog"], Value::Null);
    let error = b.run(&["discover"]).error(1);
    assert!(error.contains("catalog"), "{error}");
    mounted.unmount();
}
