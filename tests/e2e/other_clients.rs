//! Other BitTorrent clients join the swarms of models: aria2, which knows v1 only, and a stock libtorrent.
//!
//! aria2 before 1.37 computes a wrong info hash for every hybrid torrent, so the tests bring their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::absent_disk::problems;
use crate::support::fixtures::{downloaded, hashes, model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, Proc, until};
use crate::support::share::{Share, import, share};
use crate::support::tracker;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/stock.py");

/// Makes a model with lengths that need padding in a hybrid torrent, and with an empty file.
fn files(host: &Host) -> PathBuf {
    let (weights, small) = (noise(1, 5_000_001), noise(2, 70_001));
    let files: [(&str, &[u8]); 4] =
        [("config.json", b"{}"), ("empty", b""), ("sub/small.bin", &small), ("weights.bin", &weights)];
    model_dir(&host.home().join("m"), &files)
}

fn torrent(host: &Host, more: &[&str]) -> PathBuf {
    let file = host.home().join("m.torrent");
    host.run(&[&["registry", "export", "acme/m", "--torrent", file.to_str().unwrap()], more].concat()).ok();
    file
}

fn magnet(host: &Host, more: &[&str]) -> String {
    host.run(&[&["registry", "export", "acme/m", "--magnet"], more].concat()).ok().trim().to_owned()
}

/// The hashes of all files that a client has written, without the padding that v1 clients write as files.
fn got(dir: &Path) -> BTreeMap<String, String> {
    let mut got = hashes(&dir.join("m"), PATIENCE);
    got.retain(|path, _| !path.starts_with(".pad/"));
    got
}

fn aria2(host: &Host, source: &str, dir: &Path) {
    let mut command = host.command(downloaded("venv/bin/aria2c"));
    command.args(["--no-conf", "--quiet", "--seed-time=0", "--enable-dht=false", "--enable-dht6=false"]);
    command.args(["--bt-enable-lpd=false", "--file-allocation=none", "--dir"]).arg(dir).arg(source);
    Finished::of(&mut command, PATIENCE).ok();
}

fn stock(host: &Host, mode: &str, source: &str, dir: &Path) -> Proc {
    std::fs::create_dir_all(dir).unwrap();
    let mut command = host.command("/usr/bin/python3");
    command.args([SCRIPT, mode, source]).arg(dir);
    Proc::spawn(&mut command)
}

/// Host `a` shares a hybrid model. Hosts `a` and `c` use the tracker on another host; `b` has foreign clients.
struct Hybrid {
    a: Host,
    b: Host,
    c: Host,
    dir: PathBuf,
    shared: Share,
    _tracker: Proc,
    _hosts: (Net, Host),
}

impl Hybrid {
    fn new() -> Self {
        let net = Net::new();
        let (t, a, b, c) = (net.host("t"), net.host("a"), net.host("b"), net.host("c"));
        let tracker = tracker::start(&t);
        for host in [&a, &c] {
            host.configure(&tracker::configuration(&t));
        }
        let dir = files(&a);
        let shared = share(&a, &dir, "acme/m", &["--hybrid", "--piece-length", "256KiB"]);
        Self { a, b, c, dir, shared, _tracker: tracker, _hosts: (net, t) }
    }
}

#[test]
fn clients_of_both_versions_leech_a_hybrid_model() {
    let Hybrid { a, b, dir, shared, .. } = &Hybrid::new();
    let expected = hashes(dir, PATIENCE);
    let magnet = magnet(a, &[]);
    assert!(magnet.contains("xt=urn:btih:") && magnet.contains("xt=urn:btmh:1220"), "{magnet}");
    shared.process.wait_for_line(&format!("hybrid magnet {magnet}"), PATIENCE);
    let torrent = torrent(a, &[]);
    let torrent = torrent.to_str().unwrap();

    for (number, source) in [torrent, &magnet].into_iter().enumerate() {
        let out = b.home().join(format!("aria2-{number}"));
        aria2(b, source, &out);
        assert_eq!(got(&out), expected, "aria2 with {source}");
        let out = b.home().join(format!("libtorrent-{number}"));
        let leech = stock(b, "leech", source, &out);
        leech.wait_for_line("done", PATIENCE);
        assert_eq!(got(&out), expected, "libtorrent with {source}");
    }
}

#[test]
fn a_hybrid_torrent_is_seeded_again_when_files_return() {
    let Hybrid { a, b, dir, mut shared, _tracker, _hosts, .. } = Hybrid::new();
    let expected = hashes(&dir, PATIENCE);
    let torrent = torrent(&a, &[]);
    let file = std::fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path());
    let file = file.filter(|path| path.is_file()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let away = a.home().join("away");
    for round in 0..2 {
        std::fs::rename(&file, &away).unwrap();
        if round == 1 {
            // A daemon that starts while a file is absent also seeds it when it returns.
            shared.process.signal(Signal::INT);
            shared.process.wait(PATIENCE);
            shared.process = a.spawn(&["daemon", "-f"]);
            shared.process.wait_for_line("running", PATIENCE);
        }
        until("the loss is reported", PATIENCE, || !problems(&a).is_empty());
        std::fs::rename(&away, &file).unwrap();
        until("the return is noticed", PATIENCE, || problems(&a).is_empty());
        // aria2 knows v1 only.
        let out = b.home().join(round.to_string());
        aria2(&b, torrent.to_str().unwrap(), &out);
        assert_eq!(got(&out), expected);
    }
}

#[test]
fn a_stock_client_leeches_the_v2_torrent_and_seeds_it() {
    let Hybrid { a, b, c, dir, shared, _tracker, _hosts } = Hybrid::new();
    let (v2, torrent) = (magnet(&a, &["--v2-only"]), torrent(&a, &["--v2-only"]));
    assert!(!v2.contains("btih") && v2.contains("xt=urn:btmh:1220"), "{v2}");
    let torrent = torrent.to_str().unwrap();
    for (number, source) in [torrent, &v2].into_iter().enumerate() {
        let out = b.home().join(number.to_string());
        stock(&b, "leech", source, &out).wait_for_line("done", PATIENCE);
        assert_eq!(got(&out), hashes(&dir, PATIENCE), "{source}");
    }

    // The publisher is gone. The stock client is the only seed.
    let seed = stock(&b, "seed", torrent, &b.home().join("0"));
    seed.wait_for_line("seeding", PATIENCE);
    let manifest = shared.manifest.clone();
    drop(shared);
    import(&c, &manifest);
    let out = c.home().join("out");
    c.run(&["get", "acme/m", "-o", out.to_str().unwrap(), "--seed=false"]).ok();
    let mut fetched = hashes(&out, PATIENCE);
    fetched.remove(".silmaril.json");
    assert_eq!(fetched, hashes(&dir, PATIENCE));
}

#[test]
fn a_model_without_a_hybrid_torrent_exports_its_v2_torrent() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", b"weights")]);
    let shared = share(&a, &dir, "acme/m", &[]);
    assert_eq!(magnet(&a, &[]), magnet(&a, &["--v2-only"]));
    assert!(!magnet(&a, &[]).contains("btih"));
    let file = torrent(&a, &[]);
    drop(shared);
    a.run(&["remove", "acme/m", "--yes"]).ok();
    a.run(&["registry", "import", file.to_str().unwrap(), "--name", "acme/again"]).ok();
    a.run(&["registry", "export", "acme/again", "--v2-only"]).error(2);
    a.run(&["registry", "export", "acme/none", "--magnet"]).error(1);
}
