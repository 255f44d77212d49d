//! Bytes that are fetched ahead of readers: `warm --wait`, `warm --header-only`, and the small files of a model.

use rustix::process::Signal;

use crate::serve::rig::{Rig, on_the_wire};
use crate::support::fixtures::{minilm, model_dir, noise, python};
use crate::support::process::{PATIENCE, until};
use crate::support::share::share;

const NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";

fn cached(host: &crate::support::host::Host) -> u64 {
    let listed: serde_json::Value = serde_json::from_str(&host.run(&["list", "--json"]).ok()).unwrap();
    listed[0]["cached_bytes"].as_u64().unwrap()
}

#[test]
fn warm_waits_for_a_model_that_appears_later() {
    let rig = Rig::new();
    // No daemon runs: the command starts it.
    let mut waiting = rig.user.spawn(&["warm", "--wait", "acme/later"]);
    waiting.wait_for_line("waiting for it", PATIENCE);
    let dir =
        model_dir(&rig.publisher.home().join("m"), &[("w.bin", &noise(1, 500_000)), ("config.json", b"{}")]);
    let _shared = share(&rig.publisher, &dir, "acme/later", &["--peer", &rig.user.peer()]);
    assert!(waiting.wait(PATIENCE).success());
    assert_eq!(cached(&rig.user), 500_002);
    // It can be interrupted.
    let mut waiting = rig.user.spawn(&["warm", "--wait", "acme/never"]);
    waiting.wait_for_line("waiting for it", PATIENCE);
    waiting.signal(Signal::INT);
    assert_eq!(waiting.wait(PATIENCE).code(), Some(130));
}

#[test]
fn header_only_fetches_what_is_read_before_a_tensor() {
    let mut rig = Rig::new();
    rig.share(&minilm(), NAME, &["--piece-length", "256KiB"]);
    rig.serve();
    let before = rig.user.received();
    let done = rig.user.run(&["warm", "--header-only", NAME]).ok();
    assert!(done.contains("13 files"), "{done}");
    let small = 760_000 + (256 << 10);
    assert!(rig.user.received() - before < on_the_wire(small), "{} bytes", rig.user.received() - before);
    // With the publisher gone, keys and tokenizer are read from the cache.
    rig.publisher.power_off();
    let mounted = rig.user.mount(&[]);
    let script = "import sys; from safetensors import safe_open; from tokenizers import Tokenizer\n\
        with safe_open(sys.argv[1] + '/model.safetensors', 'numpy') as f: print(len(f.keys()))\n\
        print(Tokenizer.from_file(sys.argv[1] + '/tokenizer.json').encode('hello world').ids[:4])";
    let read = python(script, &[&mounted.path(NAME)], PATIENCE).ok();
    assert_eq!(read, "104\n[101, 7592, 2088, 102]\n");
}

#[test]
fn opening_a_configuration_fetches_the_small_files() {
    let mut rig = Rig::new();
    rig.share(&minilm(), NAME, &[]);
    rig.serve();
    let mounted = rig.user.mount(&[]);
    std::fs::read(mounted.path(NAME).join("config.json")).unwrap();
    let small: u64 = 91_618_861 - 90_868_376;
    until("the small files are cached", PATIENCE, || cached(&rig.user) == small);
    rig.publisher.power_off();
    let tokenizer = mounted.path(NAME).join("tokenizer.json");
    assert_eq!(std::fs::read(tokenizer).unwrap(), std::fs::read(minilm().join("tokenizer.json")).unwrap());
}
