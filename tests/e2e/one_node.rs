//! Several commands on one base directory are one node: what each does, the others see.

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
fn get_beside_a_mount_is_the_mounts_work_and_ctrl_c_ends_only_the_command() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    a.limit_rate("200mbit");
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    let node = b.node();
    // A relative path is the command's, not the node's.
    let get = ["get", MINILM, "-o", "out", "--peer", &a.peer(), "--json"];
    let mut first = b.spawn(&get);
    until("20 MB have come", PATIENCE, || b.received() > 20_000_000);
    first.signal(Signal::INT);
    assert_eq!(first.wait(PATIENCE).code(), Some(130));
    assert!(is_mounted(mounted.point()) && b.node() == node);
    // What the command wanted is wanted no more: the little that was on the way is all that comes.
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
    assert_eq!(hashes(&mounted.path(MINILM), PATIENCE), expected, "the mount has what the command got");
    assert!(is_complete(&b, MINILM));
    assert_eq!(b.node(), node);
    b.run(&["verify", MINILM]).ok();
    mounted.unmount();
}

#[test]
fn share_beside_a_mount_is_seen_there_and_by_others_also_after_ctrl_c() {
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

    // Other files under the same name take the place of the former.
    std::fs::write(dir.join("w.bin"), noise(4, 5 << 20)).unwrap();
    let _again = share(&b, &dir, "acme/m", &["--piece-length", "1MiB"]);
    let weights = mounted.path("acme/m/w.bin");
    until("the kernel looks again", PATIENCE, || {
        std::fs::metadata(&weights).is_ok_and(|meta| meta.len() == 5 << 20)
    });
    assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    mounted.unmount();
}

#[test]
fn a_model_removed_beside_a_mount_is_gone_there_and_can_come_again() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    // A path of it would bring it back from the network.
    let mounted = b.mount(&["--peer", &a.peer(), "--no-resolve"]);
    b.run(&["get", WORDLLAMA]).ok();
    let shown = || match std::fs::metadata(mounted.path(WORDLLAMA)) {
        Ok(_) => true,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => panic!("a removed model should not be found, but: {e}"),
    };
    assert!(shown());
    b.run(&["remove", WORDLLAMA, "--yes"]).ok();
    until("the kernel looks again", PATIENCE, || !shown());
    assert!(!b.base().join("models").join(WORDLLAMA).exists());
    let status: Value = serde_json::from_str(&b.run(&["status", "--json"]).ok()).unwrap();
    assert_eq!(status["transfers"], serde_json::json!([]), "the node is still in its swarm");

    import(&b, &shared.manifest);
    assert_eq!(hashes(&mounted.path(WORDLLAMA), PATIENCE), hashes(&wordllama(), PATIENCE));
    let freed = b.run(&["cache", "clear", "--yes"]).ok();
    assert!(freed.contains("MiB"), "{freed}");
    assert!(!is_complete(&b, WORDLLAMA));
    assert_eq!(hashes(&mounted.path(WORDLLAMA), PATIENCE), hashes(&wordllama(), PATIENCE));
    mounted.unmount();
}

#[test]
fn errors_are_the_same_whoever_hosts() {
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
        (&["get", WORDLLAMA, "--publisher", "nobody"], 1),
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
            let said = end.stderr.clone();
            end.error(code);
            said
        })
    };
    let alone = run();
    let mounted = b.mount(&[]);
    for (alone, beside) in alone.iter().zip(run()) {
        assert_eq!(*alone, beside);
    }
    mounted.unmount();
}
