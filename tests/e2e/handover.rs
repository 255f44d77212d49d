//! A mount hosts the node whoever hosted it before; the others go on as its clients, and in its place after it.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{hashes, minilm, model_dir, noise, wordllama};
use crate::support::host::Host;
use crate::support::mounts::is_mounted;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{export, import, share};

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const WORDLLAMA: &str = "dleemiller/wordllama";
const SIZE: u64 = 91_618_861;
/// A transfer at this rate is in its middle for minutes.
const CRAWL: &str = "4mbit";

fn status(host: &Host) -> Value {
    serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap()
}

fn hosts(host: &Host, process: &Proc) -> bool {
    host.node().as_raw_nonzero().get().to_string() == process.id().to_string()
}

fn is_locked(path: &Path) -> bool {
    !Command::new("flock").args(["-n", "-s"]).arg(path).arg("true").status().unwrap().success()
}

/// Gets a model from another host, to show that this one uploads it.
#[track_caller]
fn gets(host: &Host, model: &str, from: &Host, expected: &Path) {
    let out = host.home().join("got");
    host.run(&["get", model, "-o", out.to_str().unwrap(), "--peer", &from.peer()]).ok();
    let mut got = hashes(&out, PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(expected, PATIENCE));
}

#[test]
fn a_mount_takes_the_place_of_a_share_and_the_share_that_of_the_mount() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 6 << 20)), ("sub/x.json", b"{}")]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    assert!(hosts(&a, &shared.process));
    let mounted = a.mount(&[]);
    shared.process.wait_for_line("has taken the place of this one", PATIENCE);
    assert!(!hosts(&a, &shared.process));
    assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    import(&b, &shared.manifest);
    gets(&b, "acme/m", &a, &dir);

    mounted.unmount();
    shared.process.wait_for_line("has ended; this process goes on", PATIENCE);
    until("the share hosts again", PATIENCE, || hosts(&a, &shared.process));
    import(&c, &shared.manifest);
    gets(&c, "acme/m", &a, &dir);
    // And once more, by a mount that is killed.
    let again = a.mount(&[]);
    until("the mount hosts", PATIENCE, || !hosts(&a, &shared.process));
    a.kill_node();
    until("the share hosts again", PATIENCE, || hosts(&a, &shared.process));
    assert!(is_mounted(again.point()), "the dead mount should still be there");
    std::mem::forget(again);
    a.mount(&[]).unmount();
    until("the share hosts again", PATIENCE, || hosts(&a, &shared.process));
}

#[test]
fn a_mount_takes_the_place_of_a_get_in_mid_transfer() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    a.limit_rate("200mbit");
    import(&b, &shared.manifest);
    let get = b.spawn(&["get", MINILM, "--peer", &a.peer()]);
    until("20 MB have come", PATIENCE, || b.received() > 20_000_000);
    a.limit_rate(CRAWL);
    let mounted = b.mount(&[]);
    assert!(!hosts(&b, &get));
    assert!(b.received() < 85_000_000, "the test was too slow to mount in mid transfer");
    a.limit_rate("200mbit");
    let end = get.finish(PATIENCE);
    assert!(end.stderr.contains("has taken the place of this one"), "{}", end.stderr);
    end.ok();
    let mut got = hashes(&b.base().join("models").join(MINILM), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&minilm(), PATIENCE));
    assert!(b.received() < SIZE + SIZE / 12 + (32 << 20), "{} bytes came for {SIZE}", b.received());
    mounted.unmount();
}

#[test]
fn a_daemon_waits_beside_a_mount_and_goes_on_after_it() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    shared.process.signal(Signal::TERM);
    shared.process.finish(PATIENCE);
    let daemon = a.spawn(&["daemon"]);
    daemon.wait_for_line("running", PATIENCE);
    assert!(hosts(&a, &daemon));
    let mounted = a.mount(&[]);
    daemon.wait_for_line("beside process", PATIENCE);
    until("it is listed", PATIENCE, || status(&a)["attached"][0]["pid"] == daemon.id());
    let error = a.run(&["daemon"]).error(1);
    assert!(error.contains("a daemon runs already") && error.contains(&daemon.id().to_string()), "{error}");

    a.kill_node();
    until("the daemon hosts", PATIENCE, || hosts(&a, &daemon));
    import(&b, &shared.manifest);
    gets(&b, WORDLLAMA, &a, &wordllama());
    let error = a.run(&["daemon"]).error(1);
    assert!(error.contains("a daemon runs already") && error.contains(&daemon.id().to_string()), "{error}");

    std::mem::forget(mounted);
    let mounted = a.mount(&[]);
    until("it is listed", PATIENCE, || status(&a)["attached"][0]["pid"] == daemon.id());
    a.run(&["daemon", "--stop"]).ok();
    assert_eq!(daemon.finish(PATIENCE).status.code(), Some(0));
    assert_eq!(status(&a)["attached"], serde_json::json!([]));
    assert_eq!(hashes(&mounted.path(WORDLLAMA), PATIENCE), hashes(&wordllama(), PATIENCE));
    assert!(a.run(&["daemon", "--stop"]).error(1).contains("is no daemon"));
    mounted.unmount();
}

#[test]
fn everything_at_once_on_one_base_directory() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    a.limit_rate("100mbit");
    let dir = model_dir(&b.home().join("m"), &[("w.bin", &noise(5, 3 << 20))]);
    let own = share(&b, &dir, "acme/m", &[]);
    import(&b, &shared.manifest);
    let all = b.spawn(&["share", "--all"]);
    all.wait_for_line("seeding", PATIENCE);
    let daemon = b.spawn(&["daemon"]);
    daemon.wait_for_line("running", PATIENCE);
    let get = b.spawn(&["get", MINILM, "--peer", &a.peer()]);
    until("10 MB have come", PATIENCE, || b.received() > 10_000_000);
    a.limit_rate(CRAWL);
    let mounted = b.mount(&[]);
    for process in [&own.process, &all, &daemon] {
        process.wait_for_line("goes on with it", PATIENCE);
    }
    assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    assert!(b.received() < 85_000_000, "the test was too slow to kill in mid transfer");
    b.kill_node();
    a.limit_rate("100mbit");
    get.finish(PATIENCE).ok();
    import(&c, &own.manifest);
    gets(&c, "acme/m", &b, &dir);
    for mut process in [own.process, all, daemon] {
        process.assert_running();
    }
    std::mem::forget(mounted);
    b.mount(&[]).unmount();
}

#[test]
fn a_base_directory_is_mounted_once() {
    let net = Net::new();
    let a = net.host("a");
    let first = a.mount(&[]);
    let second = a.home().join("second");
    std::fs::create_dir(&second).unwrap();
    let end = a.run(&["mount", second.to_str().unwrap()]);
    assert!(end.stderr.contains("help: two mounts of one base directory show the same"), "{}", end.stderr);
    let error = end.error(1);
    let (at, pid) = (first.point().to_str().unwrap(), a.node().as_raw_nonzero().to_string());
    assert!(error.contains(at) && error.contains(&pid), "{error}");
    assert!(!is_mounted(&second) && is_mounted(first.point()));
    first.unmount();
}

#[test]
fn of_two_mounts_at_once_one_wins_and_the_other_says_so() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(6, 1 << 20))]);
    let shared = share(&a, &dir, "acme/m", &[]);
    let points = ["one", "two"].map(|name| a.home().join(name));
    let mounts = points.each_ref().map(|point| {
        std::fs::create_dir(point).unwrap();
        a.spawn(&["mount", "-f", point.to_str().unwrap()])
    });
    until("one is mounted", PATIENCE, || points.iter().any(|point| is_mounted(point)));
    let (winner, loser) = if is_mounted(&points[0]) { (0, 1) } else { (1, 0) };
    let [mut first, mut second] = mounts;
    let (won, lost) = if winner == 0 { (&mut first, &mut second) } else { (&mut second, &mut first) };
    assert_eq!(lost.wait(PATIENCE).code(), Some(1));
    let said = lost.wait_for_line("error: ", PATIENCE);
    assert!(said.contains("already mounted at") && said.contains(points[winner].to_str().unwrap()), "{said}");
    assert!(!is_mounted(&points[loser]));
    assert_eq!(hashes(&points[winner].join("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    won.signal(Signal::TERM);
    assert_eq!(won.wait(PATIENCE).code(), Some(0));
    until("the share hosts again", PATIENCE, || hosts(&a, &shared.process));
}

/// Claims the base directory, asks for it, says so, and never takes it.
const ASKER: &str = "import fcntl, json, os, socket, sys, time\n\
    base, renews = sys.argv[1], sys.argv[2] == 'renews'\n\
    claim = os.open(base + '/node.next', os.O_RDWR | os.O_CREAT, 0o600)\n\
    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
    def renew(): os.ftruncate(claim, 0); os.pwrite(claim, b'%d' % os.getpid(), 0)\n\
    renew()\n\
    body = json.dumps({'pid': os.getpid(), 'dht': False}).encode()\n\
    s = socket.socket(socket.AF_UNIX); s.connect(base + '/silmaril.sock')\n\
    s.sendall(b'POST /v1/handover HTTP/1.1\\r\\nhost: x\\r\\ncontent-type: application/json\\r\\n'\n          \
        b'content-length: %d\\r\\n\\r\\n%s' % (len(body), body))\n\
    print(s.recv(4096).split(b'\\r\\n')[0].decode(), flush=True)\n\
    while True:\n    \
        time.sleep(0.5)\n    \
        if renews: renew()";

fn asker(host: &Host, renews: &str) -> Proc {
    Proc::spawn(Command::new("/usr/bin/python3").args(["-c", ASKER]).arg(host.base()).arg(renews))
}

#[test]
fn what_is_claimed_is_nobody_elses_until_the_claimant_dies_or_hangs() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    let lock = a.base().join("node.lock");
    let dies = asker(&a, "renews");
    dies.wait_for_line("202", PATIENCE);
    until("the share has let go", PATIENCE, || !is_locked(&lock));
    // A command that knows nothing of it does not slip in, nor does the former host.
    let mut verify = a.spawn(&["verify", WORDLLAMA]);
    assert!(!a.run(&["init", "--cleanup", "--yes"]).status.success());
    assert!(verify.is_running() && !is_locked(&lock));
    dies.signal(Signal::KILL);
    shared.process.wait_for_line("has ended; this process does again", PATIENCE);
    assert!(hosts(&a, &shared.process));
    verify.finish(PATIENCE).ok();

    let hangs = asker(&a, "never renews");
    hangs.wait_for_line("202", PATIENCE);
    until("the share hosts again", PATIENCE, || is_locked(&lock) && hosts(&a, &shared.process));
    export(&a, WORDLLAMA);
    import(&b, &shared.manifest);
    gets(&b, WORDLLAMA, &a, &wordllama());
}

#[test]
fn a_host_that_hangs_is_named() {
    let net = Net::new();
    let a = net.host("a");
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    let point = a.home().join("mnt");
    std::fs::create_dir(&point).unwrap();
    shared.process.signal(Signal::STOP);
    let end = a.run(&["mount", point.to_str().unwrap()]);
    assert!(end.stderr.contains("help: if that process is stuck, end it"), "{}", end.stderr);
    let error = end.error(1);
    assert!(error.contains(&format!("process {}", shared.process.id())), "{error}");
    assert!(!is_mounted(&point));
    shared.process.signal(Signal::CONT);
    // What was asked meanwhile, it may do now; what it shares goes on in any case.
    a.mount_at("mnt", &[]).unmount();
}

#[test]
fn a_share_without_the_dht_is_not_handed_to_a_mount_with_it() {
    let net = Net::new();
    let a = net.host("a");
    let shared = share(&a, &wordllama(), WORDLLAMA, &["--skip-dht"]);
    let point = a.home().join("mnt");
    std::fs::create_dir(&point).unwrap();
    let error = a.run(&["mount", point.to_str().unwrap()]).error(1);
    assert!(error.contains("--skip-dht") && error.contains(&shared.process.id().to_string()), "{error}");
    a.configure("  dht_enabled: false\n");
    a.mount_at("mnt", &[]).unmount();
}

/// Binds the port that is its argument, says so, and waits to be killed.
const HOLDER: &str = "import socket, sys, time\n\
    taken = socket.socket(); taken.bind(('0.0.0.0', int(sys.argv[1]))); taken.listen()\n\
    print('holds it', file=sys.stderr, flush=True); time.sleep(600)";

#[test]
fn a_port_that_is_still_taken_does_not_end_a_takeover() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 50_000))]);
    let shared = share(&a, &dir, "acme/m", &[]);
    let peer = a.peer();
    let (_, port) = peer.rsplit_once(':').unwrap();
    // The mount listens elsewhere, so that the port of the share is free to be taken.
    let config = a.home().join(".config/silmaril/config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(port, "7001")).unwrap();
    let mounted = a.mount(&[]);
    shared.process.wait_for_line("has taken the place of this one", PATIENCE);
    let holder = Proc::spawn(a.command("python3").args(["-c", HOLDER, port]));
    holder.wait_for_line("holds it", PATIENCE);
    mounted.unmount();
    shared.process.wait_for_line("trying again", PATIENCE);
    drop(holder);
    until("the share hosts again", PATIENCE, || hosts(&a, &shared.process));
}
