//! Readers whose peers are gone: they wait, can be killed, do not block other readers, continue when a peer returns,
//! and fail after the timeout.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::fixtures::{dd, dd_command, hashes, minilm, reader, wordllama};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until_blocked};
use crate::support::share::{import, share};

const DEAD: &str = "sentence-transformers/all-MiniLM-L6-v2";
const ALIVE: &str = "dleemiller/wordllama";

#[test]
fn readers_without_peers_wait_and_can_be_killed() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let dead = share(&a, &minilm(), DEAD, &["--piece-length", "1MiB"]);
    let alive = share(&c, &wordllama(), ALIVE, &["--piece-length", "1MiB"]);
    a.limit_rate("100mbit");
    for manifest in [&dead.manifest, &alive.manifest] {
        import(&b, manifest);
    }
    let mounted = b.mount(&["--peer", &a.peer(), "--peer", &c.peer()]);
    let weights = mounted.path(DEAD).join("model.safetensors");

    let patient = reader(&weights);
    patient.wait_for_line("read 4.", PATIENCE);
    a.disconnect();

    // Enough readers to exceed a limit on outstanding requests, if there were one.
    let mut stuck: Vec<Proc> =
        (40..80).map(|mib| Proc::spawn(&mut dd_command(&weights, 1 << 20, mib, 1))).collect();
    for reader in &stuck {
        until_blocked(reader);
    }
    let start = Instant::now();
    assert_eq!(
        hashes(&mounted.path(ALIVE), Duration::from_secs(30)),
        hashes(&wordllama(), PATIENCE),
        "another model cannot be read while one is stuck"
    );
    assert!(start.elapsed() < Duration::from_secs(15), "another model was slow: {:?}", start.elapsed());

    for reader in &mut stuck {
        reader.signal(Signal::KILL);
        reader.wait(Duration::from_secs(5));
    }

    a.reconnect();
    let end = patient.finish(PATIENCE).ok();
    let expected = hashes(&minilm(), PATIENCE);
    assert_eq!(end.lines().last().unwrap(), format!("sha256 {}", expected["model.safetensors"]));
}

#[test]
fn an_unanswerable_read_fails_after_the_read_timeout() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), ALIVE, &[]);
    b.configure("mount:\n  read_timeout: 2s\n");
    import(&b, &shared.manifest);
    drop(shared.process);
    a.power_off();
    let mounted = b.mount(&["--peer", &a.peer()]);

    let start = Instant::now();
    let read = dd(&mounted.path(ALIVE).join("l2_supercat_256.safetensors"), 4096, 0, 1, PATIENCE);
    assert!(!read.status.success());
    assert!(read.stderr.contains("Input/output error"), "{}", read.stderr);
    assert!(start.elapsed() >= Duration::from_secs(2), "the read failed too early: {:?}", start.elapsed());
    // The kernel repeats the read after a failed read-ahead.
    assert!(start.elapsed() < Duration::from_secs(20), "the read failed too late: {:?}", start.elapsed());

    let status: serde_json::Value = serde_json::from_str(&b.run(&["status", "--json"]).ok()).unwrap();
    let transfer = status["transfers"].as_array().unwrap().iter().find(|t| t["model"] == ALIVE).unwrap();
    assert!(transfer["last_error"].as_str().unwrap().contains("peer"), "{transfer}");
    mounted.unmount();
}

#[test]
fn unmounting_answers_waiting_readers() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), ALIVE, &[]);
    import(&b, &shared.manifest);
    drop(shared.process);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let waiting =
        Proc::spawn(&mut dd_command(&mounted.path(ALIVE).join("l2_supercat_256.safetensors"), 4096, 0, 1));
    until_blocked(&waiting);
    mounted.unmount();
    assert!(!waiting.finish(Duration::from_secs(10)).status.success());
}
