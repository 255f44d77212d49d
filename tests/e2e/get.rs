//! `get`: fetches a model into a directory.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::fixtures::{hashes, minilm, model_dir, noise, wordllama};
use crate::support::net::{Net, sh};
use crate::support::process::{PATIENCE, until};
use crate::support::share::{import, share};

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const WORDLLAMA: &str = "dleemiller/wordllama";

#[test]
fn a_complete_model_is_not_fetched_again() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), MINILM, &[]);
    import(&b, &shared.manifest);
    b.run(&["get", MINILM, "--peer", &a.peer(), "--seed=false"]).ok();

    let dir = b.base().join("models").join(MINILM);
    let expected = hashes(&minilm(), PATIENCE);
    let mut got = hashes(&dir, PATIENCE);
    assert!(got.remove(".silmaril.json").is_some(), "the manifest should be next to the files");
    assert_eq!(got, expected);

    let before = b.received();
    b.run(&["get", MINILM, "--peer", &a.peer(), "--seed=false"]).ok();
    assert!(b.received() - before < 128 << 10, "a complete model was fetched again");

    // A mount serves the model from that directory.
    let mounted = b.mount(&[]);
    assert_eq!(hashes(&mounted.path(MINILM), PATIENCE), expected);
    assert!(b.received() - before < 512 << 10, "the mount fetched a model that is complete on this host");
}

#[test]
fn a_killed_get_resumes() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    a.limit_rate("200mbit");
    import(&b, &shared.manifest);
    let out = b.home().join("out");
    let args = ["get", MINILM, "-o", out.to_str().unwrap(), "--peer", &a.peer(), "--seed=false"];
    let size: u64 = 91_618_861;

    let mut first = b.spawn(&args);
    until("40 MB have come", PATIENCE, || b.received() > 40_000_000);
    first.signal(Signal::KILL);
    first.wait(PATIENCE);
    assert!(b.received() < size, "the test was too slow to kill in mid transfer");
    assert!(!out.join("model.safetensors").exists(), "a partial file has its final name");

    let second = b.spawn(&args);
    until("60 MB have come", PATIENCE, || b.received() > 60_000_000);
    second.signal(Signal::INT);
    let second = second.finish(PATIENCE);
    assert_eq!(second.status.code(), Some(130));
    let help = "help: received data is kept; run the same command again to resume";
    assert!(second.stderr.contains(help), "{}", second.stderr);

    b.run(&args).ok();
    let mut got = hashes(&out, PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&minilm(), PATIENCE));
    let again = b.received().saturating_sub(size + size / 12);
    assert!(again < 25_000_000, "{again} bytes came twice");
}

#[test]
fn addresses_of_the_hub_name_models_of_peers() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, 300_000))]);
    let sharing = ["share", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit", "--version", "v1"];
    let sharing = a.spawn(&sharing);
    sharing.wait_for_line("seeding", PATIENCE);
    for (number, address) in
        ["https://huggingface.co/acme/m/tree/v1", "hf://acme/m@v1", "acme/m@v1"].iter().enumerate()
    {
        let out = b.home().join(format!("out{number}"));
        let args = ["get", address, "-o", out.to_str().unwrap(), "--peer", &a.peer(), "--json"];
        let report: serde_json::Value = serde_json::from_str(&b.run(&args).ok()).unwrap();
        assert_eq!(report["model"], "acme/m@v1", "{address}");
        assert_eq!(std::fs::read(out.join("w.bin")).unwrap(), noise(1, 300_000));
    }
}

#[test]
fn a_file_in_the_way_is_refused_before_downloading() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    import(&b, &shared.manifest);
    let out = model_dir(&b.home().join("out"), &[("l2_supercat_256.safetensors", b"mine")]);
    let get = ["get", WORDLLAMA, "-o", out.to_str().unwrap(), "--peer", &a.peer(), "--seed=false"];
    let before = b.received();
    let error = b.run(&get).error(1);
    assert!(error.contains("out/l2_supercat_256.safetensors") && error.contains("exists already"), "{error}");
    assert!(b.received() - before < 1 << 20, "the model was downloaded first");
    std::fs::rename(out.join("l2_supercat_256.safetensors"), b.home().join("mine")).unwrap();
    b.run(&get).ok();
}

#[test]
fn include_and_exclude_fetch_only_the_chosen_files() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), MINILM, &[]);
    import(&b, &shared.manifest);
    let out = b.home().join("some");
    let get = ["get", MINILM, "-o", out.to_str().unwrap(), "--peer", &a.peer(), "--seed=false"];
    b.run(&[&get[..], &["--include", "*.json", "--exclude", "tokenizer*"]].concat()).ok();
    let mut got = hashes(&out, PATIENCE);
    got.remove(".silmaril.json");
    let mut expected = hashes(&minilm(), PATIENCE);
    expected.retain(|path, _| path.ends_with(".json") && !path.starts_with("tokenizer"));
    assert_eq!(got, expected);
    assert!(b.received() < 1 << 20, "{} bytes came for a few small files", b.received());

    b.run(&[&get[..], &["--include", "*.nothing"]].concat()).error(1);
    let error = b.run(&[&get[..], &["--include", "[a"]].concat()).error(2);
    assert!(error.contains("[a"), "{error}");
}

#[test]
fn get_without_peers_fails_after_the_download_timeout() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    import(&b, &shared.manifest);
    drop(shared);
    b.configure("torrent:\n  download_timeout: 2\n");
    let error = b.run(&["get", WORDLLAMA, "--peer", &a.peer()]).error(1);
    assert!(error.contains(WORDLLAMA), "{error}");
    assert!(!b.base().join("models").join(WORDLLAMA).exists(), "a failed get left a model directory");
}

#[test]
fn a_get_resumes_after_the_disk_was_full() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let small = b.home().join("small");
    sh(&format!("mkdir {0}; mount -t tmpfs -o size=8m tmpfs {0}", small.display()));
    b.configure("torrent:\n  download_timeout: 20\n");
    let out = small.join("out");
    let get = ["get", WORDLLAMA, "-o", out.to_str().unwrap(), "--peer", &a.peer(), "--seed=false"];
    let error = b.run(&get).error(1);
    assert!(error.to_lowercase().contains("space"), "{error}");
    sh(&format!("mount -o remount,size=64m {}", small.display()));
    b.run(&get).ok();
    let mut got = hashes(&out, PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&wordllama(), PATIENCE));
}

#[test]
fn equal_files_of_two_models_are_fetched_once() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let weights = noise(5, 12 << 20);
    let one = model_dir(&a.home().join("one"), &[("config.json", b"{\"a\":1}"), ("w.bin", &weights)]);
    let two = model_dir(&a.home().join("two"), &[("config.json", b"{\"a\":2}"), ("sub/v.bin", &weights)]);
    let first = share(&a, &one, "acme/one", &["--piece-length", "1MiB"]);
    import(&b, &first.manifest);
    b.run(&["get", "acme/one", "--peer", &a.peer(), "--seed=false"]).ok();
    drop(first);
    let before = b.received();
    let second = share(&a, &two, "acme/two", &["--piece-length", "1MiB"]);
    import(&b, &second.manifest);
    b.run(&["get", "acme/two", "--peer", &a.peer(), "--seed=false"]).ok();
    assert!(b.received() - before < 1 << 20, "equal weights came twice");
    let mut got = hashes(&b.base().join("models/acme/two"), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&two, PATIENCE));
}

#[test]
fn a_get_succeeds_despite_a_peer_that_sends_bad_data() {
    let net = Net::new();
    let (liar, honest, b) = (net.host("liar"), net.host("honest"), net.host("b"));
    let files: &[(&str, &[u8])] = &[("w.bin", &noise(8, 24 << 20))];
    let good = model_dir(&honest.home().join("m"), files);
    let bad = model_dir(&liar.home().join("m"), files);
    let truth = share(&honest, &good, "acme/m", &["--piece-length", "1MiB"]);
    let _lie = share(&liar, &bad, "acme/m", &["--piece-length", "1MiB"]);
    // The bytes of the lying peer change without its daemon's knowledge, so it continues to send them.
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(bad.join("w.bin")).unwrap();
    for piece in (0..24).step_by(3) {
        file.write_all_at(b"lies, all lies", (piece << 20) + 5000).unwrap();
    }
    import(&b, &truth.manifest);
    let out = b.home().join("out");
    let get = ["get", "acme/m", "-o", out.to_str().unwrap(), "--seed=false", "--peer", &liar.peer()];
    let mut alone = b.spawn(&get);
    until("the liar has sent something", PATIENCE, || b.received() > 8 << 20 || !alone.is_running());
    drop(alone);
    b.run(&[&get[..], &["--peer", &honest.peer()]].concat()).ok();
    let mut got = hashes(&out, Duration::from_secs(60));
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&good, PATIENCE));
}
