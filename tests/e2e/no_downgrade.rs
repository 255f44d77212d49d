//! An older state of a model never replaces a newer one of the same publisher, unless the user allows it.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::manifests::{read, sign, write};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{export, import, share};

const NAME: &str = "acme/m";
/// The secret key of a publisher without a host. Only its manifests exist.
const PUBLISHER: u8 = 7;
const LEN: usize = 300_000;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Makes two states of the model, and a host that has the bytes of both. Returns their manifests, the older first.
fn two_states(host: &Host) -> [PathBuf; 2] {
    [(1, "2020-01-01T00:00:00Z"), (2, "2020-01-02T00:00:00Z")].map(|(seed, time)| {
        let dir = model_dir(&host.home().join(format!("m{seed}")), &[("w.bin", &noise(seed, LEN))]);
        // The torrent depends on the files and the last component of the name.
        let own = format!("own{seed}/m");
        drop(share(host, &dir, &own, &[]));
        let mut manifest = read(&export(host, &own));
        manifest["name"] = NAME.into();
        manifest["created_at"] = time.into();
        sign(&mut manifest, PUBLISHER);
        write(host.home().join(format!("state{seed}.json")), &manifest)
    })
}

fn copy(host: &Host, manifest: &PathBuf) -> PathBuf {
    let to = host.home().join(manifest.file_name().unwrap());
    std::fs::copy(manifest, &to).unwrap();
    to
}

fn weights(host: &Host) -> Vec<u8> {
    std::fs::read(host.base().join("models").join(NAME).join("w.bin")).unwrap()
}

fn info_hash(host: &Host) -> Value {
    let listed = json(&host.run(&["list", "--json"]).ok());
    let listed = listed.as_array().unwrap().clone();
    listed.into_iter().find(|m| m["name"] == NAME).unwrap()["info_hash"].take()
}

fn daemon(host: &Host) -> Proc {
    let daemon = host.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    daemon
}

fn end(daemon: Proc) {
    daemon.signal(Signal::TERM);
    daemon.finish(PATIENCE).ok();
}

#[test]
fn an_older_manifest_is_imported_only_when_allowed() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let [old, new] = two_states(&a).map(|manifest| copy(&b, &manifest));
    let torrent = |manifest: &PathBuf| read(manifest)["torrent"]["info_hash"].clone();
    import(&b, &new);
    let path = old.to_str().unwrap();
    let refused = b.run(&["registry", "import", path]);
    assert!(refused.stderr.contains("--allow-older"), "{}", refused.stderr);
    let refused = refused.error(1);
    assert!(refused.contains("older") && refused.contains("2020-01-02"), "{refused}");
    assert_eq!(info_hash(&b), torrent(&new));
    // `remove` does not forget which state is the newest.
    b.run(&["remove", NAME, "--yes"]).ok();
    b.run(&["registry", "import", path]).error(1);
    b.run(&["registry", "import", path, "--allow-older"]).ok();
    assert_eq!(info_hash(&b), torrent(&old));
    import(&b, &new);
    assert_eq!(info_hash(&b), torrent(&new));
}

#[test]
fn an_update_keeps_the_newer_state_when_peers_have_an_older() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let [old, new] = two_states(&a);
    import(&a, &old);
    import(&b, &copy(&b, &new));
    let serving = daemon(&a);
    b.run(&["get", NAME]).ok();
    assert_eq!(weights(&b), noise(2, LEN));
    // No record announces the older state, but a peer sends its manifest, which the publisher signed.
    let update = || json(&b.run(&["get", NAME, "--update", "--json"]).ok());
    let mut report = Value::Null;
    until("the older state is offered", PATIENCE, || {
        report = update();
        report["warnings"].to_string().contains("older state")
    });
    assert_eq!(report["origin"], "none_newer");
    assert_eq!(weights(&b), noise(2, LEN));
    let misused = b.run(&["get", NAME, "--allow-older"]);
    assert!(misused.stderr.contains("--update"), "{}", misused.stderr);
    misused.error(2);
    // A reader who has removed the model does not get the older state, either.
    b.run(&["remove", NAME, "--yes"]).ok();
    let mounted = b.mount(&[]);
    until("the older state is refused", PATIENCE, || {
        assert!(!mounted.path(NAME).exists());
        let status = json(&b.run(&["status", "--json"]).ok());
        status["unresolved"][0]["reason"].to_string().contains("older")
    });
    mounted.unmount();
    let refused = b.run(&["get", NAME]).error(1);
    assert!(refused.contains("older"), "{refused}");
    let got = json(&b.run(&["get", NAME, "--update", "--allow-older", "--json"]).ok());
    assert_eq!(got["origin"], "found");
    assert_eq!(weights(&b), noise(1, LEN));
    // The newer state is fetched again as soon as a peer has it.
    import(&a, &new);
    until("the newer state is offered", PATIENCE, || update()["origin"] == "found");
    assert_eq!(weights(&b), noise(2, LEN));
    end(serving);
}
