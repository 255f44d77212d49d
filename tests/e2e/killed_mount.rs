//! A daemon that ends by SIGKILL: its data is kept, its dead mount is replaced, and other hosts can read from it.

use crate::support::fixtures::{hashes, minilm, reader};
use crate::support::mounts::is_mounted;
use crate::support::net::Net;
use crate::support::process::PATIENCE;
use crate::support::share::{import, share};

const NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";
const READAHEAD: u64 = 8 << 20;
const PIECE: u64 = 1 << 20;

#[test]
fn after_kill_9_only_pieces_in_flight_are_fetched_again() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let shared = share(&a, &minilm(), NAME, &["--piece-length", "1MiB"]);
    a.limit_rate("200mbit");
    b.configure("mount:\n  readahead_max: 8MiB\n");
    import(&b, &shared.manifest);
    let expected = hashes(&minilm(), PATIENCE);
    let size: u64 = 91_618_861;

    let first = b.mount(&["--peer", &a.peer()]);
    let reading = reader(&first.path(NAME).join("model.safetensors"));
    reading.wait_for_line("read 20.", PATIENCE);
    b.kill_node();
    assert!(!reading.finish(PATIENCE).status.success(), "a reader of a dead mount saw the end of the file");
    assert!(is_mounted(first.point()), "the dead mount should still be there");
    let received = b.received();
    assert!(received < size, "the test was too slow to kill in mid read");

    // The guard of the first mount must not detach the second mount.
    std::mem::forget(first);
    let second = b.mount(&["--peer", &a.peer()]);
    assert_eq!(hashes(&second.path(NAME), PATIENCE), expected);
    let again = b.received().saturating_sub(size + size / 12);
    assert!(again <= READAHEAD + 4 * PIECE, "{again} bytes came twice");

    // B seeds what it has fetched; A is gone.
    drop(shared.process);
    a.power_off();
    a.disconnect();
    import(&c, &shared.manifest);
    let out = c.home().join("got");
    c.run(&["get", NAME, "-o", out.to_str().unwrap(), "--peer", &b.peer(), "--seed=false"]).ok();
    let mut got = hashes(&out, PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, expected);
}
