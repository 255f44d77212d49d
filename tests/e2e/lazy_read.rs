//! The main job: a model that one host publishes is read on another, and only the bytes that are read cross the
//! network.

use std::path::Path;

use crate::support::fixtures::{hashes, minilm, python};
use crate::support::net::Net;
use crate::support::process::PATIENCE;
use crate::support::share::{import, share};

const NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";
const PIECE: u64 = 4 << 20;
/// The bytes on the wire for `payload` bytes: packet headers, hashes and protocol messages are added.
fn on_the_wire(payload: u64) -> u64 {
    payload + payload / 12 + (512 << 10)
}

fn cached_bytes(file: &Path) -> u64 {
    let script = "import os, sys; print(os.getxattr(sys.argv[1], 'user.silmaril.cached_bytes').decode())";
    python(script, &[file], PATIENCE).ok().trim().parse().unwrap()
}

#[test]
fn only_read_bytes_cross_the_network_and_only_once() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), NAME, &[]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let model = mounted.path(NAME);
    let weights = model.join("model.safetensors");

    // Listing directories fetches nothing.
    let quiet = b.received();
    let listed = sizes(&model);
    assert_eq!(listed, sizes(&minilm()));
    assert_eq!(cached_bytes(&weights), 0);
    assert!(b.received() - quiet < 64 << 10, "listing a model fetched something");

    let before = b.received();
    let keys = "import sys; from safetensors import safe_open\n\
                with safe_open(sys.argv[1], 'numpy') as f: print(len(f.keys()))";
    assert_eq!(python(keys, &[&weights], PATIENCE).ok().trim(), "104");
    assert!(cached_bytes(&weights) <= PIECE, "keys() fetched {} bytes", cached_bytes(&weights));
    assert!(b.received() - before <= on_the_wire(PIECE), "keys() received {}", b.received() - before);

    let rows = "import sys; from safetensors import safe_open\n\
                with safe_open(sys.argv[1], 'numpy') as f:\n    \
                print(f.get_slice('embeddings.word_embeddings.weight')[20000:20010].tobytes().hex())";
    let expected = python(rows, &[&minilm().join("model.safetensors")], PATIENCE).ok();
    assert_eq!(python(rows, &[&weights], PATIENCE).ok(), expected);
    assert!(cached_bytes(&weights) <= 4 * PIECE, "ten rows fetched {} bytes", cached_bytes(&weights));

    let expected = hashes(&minilm(), PATIENCE);
    assert_eq!(hashes(&model, PATIENCE), expected);
    let size: u64 = listed.values().sum();
    assert_eq!(cached_bytes(&weights), std::fs::metadata(&weights).unwrap().len());
    assert!(b.received() <= on_the_wire(size), "{} bytes came for a model of {size}", b.received());

    // Cached bytes are read without the network, also after a clean stop.
    mounted.unmount();
    let before = b.received();
    let mounted = b.mount(&[]);
    assert_eq!(hashes(&mounted.path(NAME), PATIENCE), expected);
    assert!(b.received() - before < 256 << 10, "a second mount fetched {} bytes", b.received() - before);
}

/// Sizes of files by path, from metadata alone.
fn sizes(dir: &Path) -> std::collections::BTreeMap<String, u64> {
    let script = "import os, sys, json; d = sys.argv[1]\n\
        print(json.dumps({os.path.relpath(os.path.join(p, f), d): os.stat(os.path.join(p, f)).st_size\n\
        for p, _, fs in os.walk(d) for f in fs}))";
    serde_json::from_str(&python(script, &[dir], PATIENCE).ok()).unwrap()
}
