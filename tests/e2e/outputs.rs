//! Whole outputs of commands that share, find and fetch a model.

use crate::support::fixtures::model_dir;
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::transcript::Transcript;

const NAME: &str = "acme/minilm";

fn add(transcript: &mut Transcript, host: &Host, args: &[&str]) {
    let end = host.run(args);
    transcript.add(args, &end);
}

#[test]
fn outputs_of_both_hosts_are_as_recorded() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    for host in [&a, &b] {
        host.configure("  dht_enabled: false\n  lan_discovery: false\n");
        host.keep_daemon();
    }
    let dir = model_dir(&a.home().join("minilm"), &[("config.json", b"{}"), ("w.bin", &[7; 300_000])]);
    let dir = dir.to_str().unwrap();
    let mut sharing = Transcript::default();
    sharing.hide(a.home(), "[HOME]");
    for args in [
        &["share", dir, "--name", NAME, "--license", "apache-2.0", "--skip-dht"][..],
        &["share", dir, "--name", "acme/other"],
        &["list"],
        &["list", "--json"],
        &["registry", "list"],
    ] {
        add(&mut sharing, &a, args);
    }
    let peer = a.peer();
    // The announcement follows a moment after the first upload is possible.
    until("it is announced", PATIENCE, || {
        b.run(&["discover", "--peer", &peer, "--json"]).stdout.contains(NAME)
    });
    for args in [&["status"][..], &["status", "--json"]] {
        add(&mut sharing, &a, args);
    }
    let mut getting = Transcript::default();
    getting.hide(b.home(), "[HOME]");
    for args in [
        &["discover", "--peer", &peer][..],
        &["get", NAME, "--peer", &peer, "--seed=false"],
        &["get", NAME, "--seed=false"],
        &["list"],
        &["trust", "list"],
        &["verify", NAME],
        &["status"],
        &["remove", NAME],
        &["stop"],
        &["status"],
    ] {
        add(&mut getting, &b, args);
    }
    add(&mut sharing, &a, &["stop"]);
    sharing.compare("e2e", "sharing");
    getting.compare("e2e", "getting");
}
