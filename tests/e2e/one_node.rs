//! Commands on one base directory share one daemon: each sees the effects of the other commands.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{hashes, minilm, model_dir, noise, wordllama};
use crate::support::host::Host;
use crate::support::mounts::is_mounted;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::share::{import, share};

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const WORDLLAMA: &str = "dleemiller/wordllama";

fn is_complete(host: &Host, model: &str) -> bool {
    let rows: Value = serde_json::from_str(&host.run(&["list", "--json"]).ok()).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == model);
    row.is_some_and(|row| row["complete"] == true)
}

#[test]
fn get_next_to_a_mount_uses_the_mounts_daemon() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    a.limit_rate("200mbit");
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    let node = b.node();
    // A relative path is resolved by the command, not by the daemon.
    let get = ["get", MINILM, "-o", "out", "--peer", &a.peer(), "--json"];
    let mut first = b.spawn(&get);
    until("20 MB have come", PATIENCE, || b.received() > 20_000_000);
    first.signal(Signal::INT);
    assert_eq!(first.wait(PATIENCE).code(), Some(130));
    assert!(is_mounted(mounted.point()) && b.node() == node);
    // Ctrl-C cancels the requests of the command. Only pieces that are in flight still arrive.
    let stopped = b.received();
    assert!(stopped < 80_000_000, "the test was too slow to stop in mid transfer");
    assert!(!b.home().join("out/model.safetensors").exists());

    let report: Value = serde_json::from_str(&b.run(&get).ok()).unwrap();
    assert_eq!(report["path"], b.home().join("out").to_str().unwrap());
    let expected = hashes(&minilm(), PATIENCE);
    let mut got = hashes(&b.home().join("out"), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, expected);
    let size: u64 = 91_618_861;
    assert!(b.received() < size + size / 12 + (24 << 20), "{} bytes came for {size}", b.received());
    drop(shared);
    assert_eq!(
        hashes(&mounted.path(MINILM), PATIENCE),
        expected,
        "the mount has the bytes that the command fetched"
    );
    assert!(is_complete(&b, MINILM));
    assert_eq!(b.node(), node);
    b.run(&["verify", MINILM]).ok();
    mounted.unmount();
}

#[test]
fn share_next_to_a_mount_is_seen_by_all_after_ctrl_c() {
    let net = Net::new();
    let (b, c) = (net.host("b"), net.host("c"));
    let mounted = b.mount(&[]);
    let dir = model_dir(&b.home().join("m"), &[("w.bin", &noise(3, 6 << 20)), ("sub/x.json", b"{}")]);
    let mut shared = share(&b, &dir, "acme/m", &["--piece-length", "1MiB"]);
    let expected = hashes(&dir, PATIENCE);
    assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), expected);
    shared.process.signal(Signal::INT);
    assert_eq!(shared.process.wait(PATIENCE).code(), Some(130));
    assert!(is_mounted(mounted.point()));
    import(&c, &shared.manifest);
    c.run(&["get", "acme/m", "--peer", &b.peer()]).ok();
    let mut got = hashes(&c.base().join("models/acme/m"), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, expected);

    // Other files under the same name replace the former ones.
    std::fs::write(dir.join("w.bin"), noise(4, 5 << 20)).unwrap();
    let _again = share(&b, &dir, "acme/m", &["--piece-length", "1MiB"]);
    let weights = mounted.path("acme/m/w.bin");
    until("the kernel looks the path up again", PATIENCE, || {
        std::fs::metadata(&weights).is_ok_and(|meta| meta.len() == 5 << 20)
    });
    assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    mounted.unmount();
}

#[test]
fn a_model_removed_next_to_a_mount_can_return() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    // Access by a path would fetch the model again.
    let mounted = b.mount(&["--peer", &a.peer(), "--no-resolve"]);
    b.run(&["get", WORDLLAMA]).ok();
    let shown = || match std::fs::metadata(mounted.path(WORDLLAMA)) {
        Ok(_) => true,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => panic!("a removed model should not be found, but: {e}"),
    };
    assert!(shown());
    b.run(&["remove", WORDLLAMA, "--yes"]).ok();
    until("the kernel looks the path up again", PATIENCE, || !shown());
    assert!(!b.base().join("models").join(WORDLLAMA).exists());
    let status: Value = serde_json::from_str(&b.run(&["status", "--json"]).ok()).unwrap();
    assert_eq!(status["transfers"], serde_json::json!([]), "the daemon is still in its swarm");

    import(&b, &shared.manifest);
    assert_eq!(hashes(&mounted.path(WORDLLAMA), PATIENCE), hashes(&wordllama(), PATIENCE));
    let freed = b.run(&["cache", "clear", "--yes"]).ok();
    assert!(freed.contains("MiB"), "{freed}");
    assert!(!is_complete(&b, WORDLLAMA));
    assert_eq!(hashes(&mounted.path(WORDLLAMA), PATIENCE), hashes(&wordllama(), PATIENCE));
    mounted.unmount();
}

#[test]
fn errors_are_the_same_with_and_without_a_running_mount() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    import(&b, &shared.manifest);
    drop(shared);
    b.configure("torrent:\n  download_timeout: 1\n");
    let dir = model_dir(&b.home().join("m"), &[("x", b"x")]);
    let dir = dir.to_str().unwrap();
    let commands = [
        (&["get", "acme/none"][..], 1),
        (&["get", WORDLLAMA, "--include", "*.none"], 1),
        (&["get", WORDLLAMA, "--publisher", "unknown"], 1),
        (&["get", WORDLLAMA, "-o", "/proc/none"], 1),
        (&["get", WORDLLAMA], 1),
        (&["share", "acme/none"], 1),
        (&["share", WORDLLAMA], 1),
        (&["share", "--all"], 1),
        (&["share", dir, "--name", "acme/m"], 1),
        (&["share", "missing", "--name", "acme/m", "--license", "mit"], 1),
        (&["verify", "acme/none"], 1),
        (&["remove", "acme/none"], 1),
        (&["registry", "import", "magnet:?xt=urn:btih:0"], 1),
    ];
    let run = || {
        commands.map(|(args, code)| {
            let end = b.run(args);
            let printed = end.stderr.clone();
            end.error(code);
            printed
        })
    };
    let alone = run();
    let mounted = b.mount(&[]);
    for (alone, with_mount) in alone.iter().zip(run()) {
        assert_eq!(*alone, with_mount);
    }
    mounted.unmount();
}
