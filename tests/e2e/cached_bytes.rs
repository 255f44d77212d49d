//! Bytes in the cache that have changed: `verify` finds them, and no reader gets them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::old_cache::{flip, outdate};
use crate::support::process::{Finished, PATIENCE};
use crate::support::share::{Share, import, share};

const PIECE: usize = 1 << 20;
const PIECES: usize = 32;

/// The only data file of a host's cache.
fn cached(host: &Host) -> PathBuf {
    let below =
        |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let files = below(&host.base().join("cache")).into_iter().flat_map(|dir| below(&dir));
    let mut data: Vec<_> = files.filter(|path| !path.to_str().unwrap().contains(".have")).collect();
    assert_eq!(data.len(), 1, "{data:?}");
    data.remove(0)
}

/// Reads a piece of a file in another process, so that a stuck read fails the test.
fn read(file: &Path, piece: usize) -> Vec<u8> {
    let script = "import sys; f = open(sys.argv[1], 'rb', buffering=0); f.seek(int(sys.argv[2]) << 20); print(f.read(1 << 20).hex())";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-I", "-c", script]).arg(file).arg(piece.to_string());
    hex::decode(Finished::of(&mut command, PATIENCE).ok().trim()).unwrap()
}

/// Two hosts: the second has read the pieces 0, 1 and 20 of the model that the first shares.
fn partly_read(a: &Host, b: &Host, bytes: &[u8]) -> Share {
    let dir = model_dir(&a.home().join("m"), &[("w.bin", bytes)]);
    let shared = share(a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    for piece in [20, 0, 1] {
        assert!(read(&mounted.path("acme/m/w.bin"), piece) == bytes[piece * PIECE..(piece + 1) * PIECE]);
    }
    mounted.unmount();
    shared
}

fn verified(host: &Host, code: i32) -> Value {
    let end = host.run(&["verify", "acme/m", "--json"]);
    let report =
        serde_json::from_str(&end.stdout).unwrap_or_else(|e| panic!("{e}: {} {}", end.stdout, end.stderr));
    match code {
        0 => drop(end.ok()),
        code => drop(end.error(code)),
    }
    report
}

#[test]
fn verify_repairs_a_flipped_byte_of_a_partly_read_file() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let bytes = noise(1, PIECES * PIECE);
    let _shared = partly_read(&a, &b, &bytes);
    let mut right = verified(&b, 0)["right"].as_u64().unwrap();
    assert!((3 * PIECE as u64..(PIECES * PIECE) as u64).contains(&right), "{right}");
    flip(&cached(&b), PIECE as u64 + 77);
    for daemon in [true, false] {
        let running = daemon.then(|| b.spawn(&["daemon", "-f"]));
        if let Some(running) = &running {
            running.wait_for_line("running", PATIENCE);
        }
        let before = right;
        let report = verified(&b, 1);
        assert_eq!(report["damaged"], serde_json::json!(["w.bin"]));
        assert_eq!(report["right"].as_u64().unwrap(), right - PIECE as u64);
        assert_eq!(
            verified(&b, 0)["right"].as_u64().unwrap(),
            right - PIECE as u64,
            "the piece is missing now"
        );
        drop(running);
        let mounted = b.mount(&["--peer", &a.peer()]);
        assert!(read(&mounted.path("acme/m/w.bin"), 1) == bytes[PIECE..2 * PIECE]);
        mounted.unmount();
        // Read-ahead may have fetched further pieces.
        right = verified(&b, 0)["right"].as_u64().unwrap();
        assert!(right >= before, "it was fetched again");
        flip(&cached(&b), PIECE as u64 + 77);
    }
}

#[test]
fn no_wrong_byte_of_an_old_cache_is_read() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let bytes = noise(2, PIECES * PIECE);
    let shared = partly_read(&a, &b, &bytes);
    outdate(&cached(&b));
    flip(&cached(&b), 7);
    let before = b.received();
    {
        let mounted = b.mount(&["--peer", &a.peer()]);
        let file = mounted.path("acme/m/w.bin");
        for piece in [1, 0, 20] {
            assert!(read(&file, piece) == bytes[piece * PIECE..(piece + 1) * PIECE], "piece {piece}");
        }
        mounted.unmount();
    }
    assert!(b.received() - before > PIECE as u64, "the first piece was wrong");
    // Without a peer, the right pieces are proved with the hashes that were saved.
    drop(shared);
    outdate(&cached(&b));
    let report = verified(&b, 0);
    assert!(report["right"].as_u64().unwrap() >= 3 * PIECE as u64, "{report}");
    let mounted = b.mount(&[]);
    assert!(read(&mounted.path("acme/m/w.bin"), 0) == bytes[..PIECE]);
    mounted.unmount();
}
