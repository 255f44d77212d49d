//! A mount finds models by their path, without a manifest file.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{hashes, model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, Proc, until};

/// Shorter than any lookup of these tests may take.
const AT_ONCE: Duration = Duration::from_secs(5);

fn lan_only(hosts: &[&Host], more: &str) {
    for host in hosts {
        host.configure(&format!("  dht_enabled: false\n{more}"));
    }
}

/// Shares, without exporting a manifest.
fn publish(host: &Host, dir: &Path, name: &str, more: &[&str]) -> Proc {
    let mut args = vec!["share", "-f", dir.to_str().unwrap(), "--name", name, "--license", "apache-2.0"];
    args.extend(more);
    let sharing = host.spawn(&args);
    sharing.wait_for_line("seeding", PATIENCE);
    sharing
}

fn is_absent(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound)
}

fn list(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn unresolved(host: &Host) -> Value {
    let status: Value = serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap();
    status["unresolved"].clone()
}

#[test]
fn a_path_in_a_mount_is_enough() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    lan_only(&[&a, &b], "mount:\n  resolve_timeout: 60s\n");
    let dir = model_dir(&a.home().join("m"), &[("sub/w.bin", &noise(1, 3_000_000)), ("config.json", b"{}")]);
    let _one = publish(&a, &dir, "acme/m", &[]);
    let _two = publish(&a, &dir, "datasets/acme/d", &["--version", "v2"]);
    let mounted = b.mount(&[]);
    assert_eq!(list(mounted.point()), Vec::<String>::new());
    // Many readers look the model up at the same time.
    let mut readers: Vec<_> = (0..8)
        .map(|_| {
            Proc::spawn(Command::new("cmp").arg(mounted.path("acme/m/sub/w.bin")).arg(dir.join("sub/w.bin")))
        })
        .collect();
    for reader in &mut readers {
        assert!(reader.wait(PATIENCE).success());
    }
    assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    assert_eq!(fs::read(mounted.path("datasets/acme/d@v2/config.json")).unwrap(), b"{}");
    until("what was found is listed", PATIENCE, || list(mounted.point()) == ["acme", "datasets"]);
    // From now on the model is known to all commands and to the next mount.
    assert!(b.run(&["list"]).ok().contains("acme/m"));
    mounted.unmount();
    a.power_off();
    let again = b.mount(&["--no-resolve"]);
    assert_eq!(fs::read(again.path("acme/m/config.json")).unwrap(), b"{}");
    again.unmount();
}

#[test]
fn a_model_that_no_peer_has_is_absent_and_cached() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    lan_only(&[&a, &b], "mount:\n  resolve_timeout: 60s\n");
    let dir = model_dir(&a.home().join("m"), &[("x", b"x")]);
    let sharing = publish(&a, &dir, "acme/m", &[]);
    let mounted = b.mount(&[]);
    assert_eq!(fs::read(mounted.path("acme/m/x")).unwrap(), b"x");
    // The lookup ends with the peer's answer, long before the timeout.
    let start = Instant::now();
    assert!(is_absent(&mounted.path("acme/none")));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    // The miss is cached: the second lookup does not reach the peer, which is stopped.
    sharing.signal(Signal::STOP);
    for _ in 0..20 {
        assert!(is_absent(&mounted.path("acme/none")) && is_absent(&mounted.path("acme/none@main")));
    }
    let reported = unresolved(&b);
    assert_eq!((reported.as_array().unwrap().len(), &reported[0]["model"]), (1, &"acme/none".into()));
    assert_eq!(reported[0]["reason"], "the connected peer does not have it");
    assert!(
        b.run(&["status"]).ok().contains("not shown       acme/none: the connected peer does not have it")
    );
    sharing.signal(Signal::CONT);
    // A record of the name from the same peer ends the cached miss, which would last a minute.
    let late = model_dir(&a.home().join("late"), &[("x", b"late")]);
    let _late = publish(&a, &late, "acme/none", &[]);
    until("the model is found", Duration::from_secs(40), || {
        fs::read(mounted.path("acme/none/x")).is_ok_and(|x| x == b"late")
    });
    assert_eq!(unresolved(&b), serde_json::json!([]));
    mounted.unmount();
}

#[test]
fn a_waiting_lookup_ends_with_its_mount() {
    let net = Net::new();
    let b = net.host("b");
    // There is no peer, and the DHT has no node, so the lookup waits.
    b.configure("  lan_discovery: false\nmount:\n  resolve_timeout: 600s\n");
    let mounted = b.mount(&[]);
    let mut waiting = Proc::spawn(Command::new("stat").arg(mounted.path("acme/none")));
    crate::support::process::until_blocked(&waiting);
    let start = Instant::now();
    mounted.unmount();
    assert!(!waiting.wait(PATIENCE).success());
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_program_that_looks_up_many_names_is_limited() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    lan_only(&[&a, &b], "mount:\n  resolve_timeout: 60s\n  max_lookups: 5\n  never_resolve: [\"lib*\"]\n");
    let dir = model_dir(&a.home().join("m"), &[("x", b"x")]);
    let _one = publish(&a, &dir, "acme/m", &[]);
    let mounted = b.mount(&[]);
    assert_eq!(fs::read(mounted.path("acme/m/x")).unwrap(), b"x");
    let names: Vec<_> = (0..200).map(|n| mounted.path(&format!("nvidia/part{n}/lib"))).collect();
    let excluded: Vec<_> = (0..200).map(|n| mounted.path(&format!("lib{n}/part"))).collect();
    let script = "import os, sys; sys.exit(any(os.path.exists(p) for p in sys.argv[1:]))";
    let mut python = Proc::spawn(Command::new("python3").args(["-c", script]).args(&names).args(&excluded));
    let pid = python.id();
    assert!(python.wait(PATIENCE).success());
    let status: Value = serde_json::from_str(&b.run(&["status", "--json"]).ok()).unwrap();
    let limited = &status["limited"][0];
    assert_eq!((limited["pid"].as_u64(), limited["command"].as_str()), (Some(pid.into()), Some("python3")));
    // Five names are looked up, or fewer if answers are slow. On a slow machine the budget refills meanwhile.
    let refused = limited["lookups"].as_u64().unwrap();
    assert!((150..=199).contains(&refused), "{refused}");
    let reported = status["unresolved"].as_array().unwrap();
    let of =
        |org: &str| reported.iter().filter(|name| name["model"].as_str().unwrap().starts_with(org)).count();
    assert_eq!(
        (of("nvidia/"), of("lib")),
        (200, 0),
        "each path is named, and excluded names are not looked up"
    );
    let text = b.run(&["status"]).ok();
    assert!(text.contains(&format!("(process {pid}), beyond mount.max_lookups")), "{text}");
    mounted.unmount();
}

#[test]
fn get_without_a_network_fails_immediately() {
    let net = Net::new();
    let alone = net.host("alone");
    alone.configure("");
    alone.take_link_down();
    let failed = alone.run(&["get", "acme/m"]);
    assert!(failed.stderr.contains("help: connect this machine"), "{}", failed.stderr);
    assert!(failed.error(1).contains("error: cannot get acme/m: no network"));
}

#[test]
fn discover_and_mirror_without_a_network_fail_immediately() {
    let net = Net::new();
    let alone = net.host("alone");
    alone.configure("");
    let dir = model_dir(&alone.home().join("m"), &[("x", b"x")]);
    let mut sharing = publish(&alone, &dir, "acme/known", &[]);
    until("its record is stored", PATIENCE, || {
        alone.run(&["discover", "--timeout", "100ms"]).stdout.contains("acme/known")
    });
    sharing.signal(Signal::INT);
    sharing.wait(PATIENCE);
    alone.take_link_down();
    // An hour is longer than the deadline of the test.
    let nothing = alone.run(&["discover", "none", "--timeout", "1h"]);
    assert!(nothing.stderr.contains("help: connect this machine"), "{}", nothing.stderr);
    assert!(nothing.error(1).contains("error: no network"));
    let known = alone.run(&["discover", "--timeout", "1h"]);
    assert!(known.stderr.contains("no network: only models that were known before"), "{}", known.stderr);
    assert!(known.ok().contains("acme/known"));
    for (repository, shown) in [("acme/m", "acme/m"), ("https://git.example/team/model.git", "team/model")] {
        let failed = alone.run(&["mirror", repository]);
        assert!(failed.stderr.contains("help: connect this machine"), "{}", failed.stderr);
        let error = format!("error: cannot mirror {shown}: no network");
        assert!(failed.stderr.contains(&error), "{}", failed.stderr);
        failed.error(1);
    }
}

#[test]
fn a_mount_without_a_network_looks_up_no_name() {
    let net = Net::new();
    let alone = net.host("alone");
    alone.configure("mount:\n  resolve_timeout: 600s\n");
    alone.take_link_down();
    let mounted = alone.mount(&[]);
    assert!((0..4).all(|n| is_absent(&mounted.path(&format!("acme/m{n}")))));
    let status: Value = serde_json::from_str(&alone.run(&["status", "--json"]).ok()).unwrap();
    let reported = status["unresolved"].as_array().unwrap();
    assert_eq!(reported.len(), 4);
    assert!(reported.iter().all(|name| name["reason"] == "this machine has no network"), "{reported:?}");
    // The time of a lookup that fails is charged to the process that waits. Four lookups would exceed its budget.
    assert_eq!(status["limited"], serde_json::json!([]));
    let failed = alone.run(&["warm", "acme/m"]).error(1);
    assert!(failed.contains("no network"), "{failed}");
    mounted.unmount();
}

#[test]
fn a_mount_with_no_resolve_looks_up_no_name() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    lan_only(&[&a, &b], "mount:\n  resolve_timeout: 60s\n");
    let dir = model_dir(&a.home().join("m"), &[("x", b"x")]);
    let _one = publish(&a, &dir, "acme/m", &[]);
    let mounted = b.mount(&["--no-resolve"]);
    let start = Instant::now();
    assert!(is_absent(&mounted.path("acme")) && is_absent(&mounted.path("acme/m")));
    b.run(&["warm", "acme/m"]).error(1);
    assert!(start.elapsed() < AT_ONCE);
    mounted.unmount();
}

#[test]
fn warm_fetches_a_model_by_its_name() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    lan_only(&[&a, &b], "mount:\n  resolve_timeout: 60s\n");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, 300_000))]);
    let sharing = publish(&a, &dir, "acme/m", &[]);
    let mounted = b.mount(&[]);
    assert!(b.run(&["warm", "acme/m"]).ok().contains("1 file"));
    // The model is complete on this host, so no peer is needed.
    drop(sharing);
    a.power_off();
    assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    mounted.unmount();
}

#[test]
fn a_refused_publishers_model_is_absent_with_one_reason() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    lan_only(&[&a], "");
    lan_only(&[&b], "security:\n  trust: strict\nmount:\n  resolve_timeout: 30s\n");
    let dir = model_dir(&a.home().join("m"), &[("x", b"x")]);
    let _one = publish(&a, &dir, "acme/m", &[]);
    let mounted = b.mount(&[]);
    assert!(is_absent(&mounted.path("acme/m")));
    assert!(is_absent(&mounted.path("acme/m")));
    let reported = unresolved(&b);
    assert_eq!(reported[0]["model"], "acme/m");
    let reason = reported[0]["reason"].as_str().unwrap().to_owned();
    assert!(b.run(&["status"]).ok().contains(&format!("not shown       acme/m: {reason}")));
    let log = |text: &str| {
        let logs = fs::read_dir(b.base().join("log")).unwrap();
        let all: String = logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap()).collect();
        all.matches(text).count()
    };
    assert_eq!(log("cannot show a model that was looked up"), 1);
    // The command that the message proposes works immediately.
    let shown: Value = serde_json::from_str(&a.run(&["key", "show", "--json"]).ok()).unwrap();
    b.run(&["trust", "add", shown["publisher"].as_str().unwrap()]).ok();
    assert_eq!(fs::read(mounted.path("acme/m/x")).unwrap(), b"x");
    assert_eq!(unresolved(&b), serde_json::json!([]));
    mounted.unmount();
}

#[test]
fn show_pinned_lists_only_pinned_models() {
    let net = Net::new();
    let a = net.host("a");
    lan_only(&[&a], "mount:\n  show: pinned\n");
    let dir = model_dir(&a.home().join("m"), &[("x", b"x")]);
    let _signed = publish(&a, &dir, "acme/signed", &[]);
    let _unsigned = publish(&a, &dir, "acme/unsigned", &["--sign=false"]);
    let mounted = a.mount(&["--no-resolve"]);
    assert_eq!(list(&mounted.path("acme")), ["signed"]);
    assert_eq!(fs::read(mounted.path("acme/unsigned/x")).unwrap(), b"x");
    let trust = Finished::of(&mut a.silmaril(&["trust", "list"]), PATIENCE).ok();
    assert!(trust.contains("acme/signed"), "{trust}");
    mounted.unmount();
}
