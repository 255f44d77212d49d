//! Reads that wait because a connected peer has stopped: `status` reports the file, the time and the reason.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{dd, dd_command, model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{import, share};

const SIZE: usize = 64 << 20;

fn transfer(host: &Host) -> Value {
    let status: Value = serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap();
    status["transfers"][0].clone()
}

#[test]
fn a_stalled_read_is_explained_and_a_silent_peer_is_not_full() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("sub/w.bin", &noise(1, SIZE))]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "64KiB"]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let file = mounted.path("acme/m/sub/w.bin");
    assert!(dd(&file, 4096, 0, 1, PATIENCE).status.success());
    until("the peer is full", PATIENCE, || transfer(&b)["seeds"] == 1);
    assert_eq!(transfer(&b)["stalled"], serde_json::json!([]));

    // The process of the peer stops; its kernel still acknowledges received packets.
    shared.process.signal(Signal::STOP);
    let reader = Proc::spawn(&mut dd_command(&file, 4096, SIZE / 4096 - 1, 1));
    until("the read is reported", PATIENCE, || transfer(&b)["stalled"][0]["file"] == "sub/w.bin");
    let read = transfer(&b)["stalled"][0].clone();
    assert!(read["seconds"].as_u64().unwrap() >= 2 && read["waiting_reads"].as_u64().unwrap() >= 1, "{read}");
    assert!(read["reason"].as_str().unwrap().contains("connected"), "{read}");
    until("the silent peer is not full", PATIENCE, || transfer(&b)["seeds"] == 0);
    let silent = transfer(&b);
    assert_eq!(silent["peers"], 1, "{silent}");
    let reason = silent["stalled"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("1 peer is connected") && reason.contains("sends"), "{silent}");
    let text = b.run(&["status"]).ok();
    let line = text.lines().find(|line| line.starts_with("stalled")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("acme/m/sub/w.bin: ") && line.contains("(since "), "{text}");
    assert!(text.contains(reason) && text.contains("1 (0)"), "{text}");

    shared.process.signal(Signal::CONT);
    reader.finish(PATIENCE).ok();
    until("the peer is full again", PATIENCE, || transfer(&b)["seeds"] == 1);
    until("nothing waits", PATIENCE, || transfer(&b)["stalled"] == serde_json::json!([]));
}
