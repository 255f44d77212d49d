//! The web as the last source: a model without peers is read over HTTP, piece by piece, and seeded to peers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::file_server::FileServer;
use crate::support::file_site::FileSite;
use crate::support::fixtures::{dd, hashes, minilm, model_dir, noise, python};
use crate::support::host::Host;
use crate::support::hub::{Access, Hub, MEMBER};
use crate::support::manifests;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, until};
use crate::support::repos::Repos;
use crate::support::share::{export, import, share};
use crate::support::web::faults::Fault;
use crate::support::web::log::Asked;
use crate::support::web::place::Place;

const NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";
const PIECE: u64 = 1 << 20;

/// The manifest of a directory that a host shared and a server serves. The host is gone.
fn published(net: &Net, server: &FileSite, dir: &Path, more: &[&str]) -> PathBuf {
    let publisher = net.host("publisher");
    let seed = format!("{}/", server.url());
    let mut args = vec!["--piece-length", "1MiB", "--web-seed", &seed];
    args.extend(more);
    let shared = share(&publisher, dir, NAME, &args);
    // The publisher's home directory is deleted as well.
    let manifest = net.dir().join("manifest.json");
    std::fs::copy(&shared.manifest, &manifest).unwrap();
    manifest
}

/// Configuration that permits web seeds on this host, which has a private address.
fn allowing(web: &Host) -> String {
    format!("  allow_private_hosts: [{}]\n", web.addr())
}

/// The hash of ten rows of a tensor of 47 MB.
fn rows(file: &Path) -> String {
    let script = "import sys; from safetensors import safe_open\n\
                  with safe_open(sys.argv[1], 'numpy') as f:\n    \
                  print(f.get_slice('embeddings.word_embeddings.weight')[20000:20010].tobytes().hex())";
    python(script, &[file], PATIENCE).ok()
}

fn transfer(host: &Host) -> Value {
    let status: Value = serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap();
    let transfers = status["transfers"].as_array().unwrap();
    transfers.iter().find(|t| t["model"].as_str().unwrap().starts_with(NAME)).unwrap().clone()
}

/// The first and the last byte of the range that a request has.
fn range(asked: &Asked) -> (u64, u64) {
    let (first, last) = asked.range.as_ref().unwrap()["bytes=".len()..].split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

#[test]
fn a_tensor_is_read_from_the_web_and_seeded_to_peers() {
    let net = Net::new();
    let (web, c, d) = (net.host("web"), net.host("c"), net.host("d"));
    let server = FileSite::start(&Place::from(&web), &minilm());
    let manifest = published(&net, &server, &minilm(), &[]);
    let expected = rows(&minilm().join("model.safetensors"));

    c.configure(&allowing(&web));
    import(&c, &manifest);
    let mounted = c.mount(&[]);
    let weights = mounted.path(NAME).join("model.safetensors");
    assert_eq!(rows(&weights), expected);

    let asked = server.log().all();
    let len = std::fs::metadata(&weights).unwrap().len();
    assert!(!asked.is_empty());
    for one in &asked {
        assert_eq!((one.path.as_str(), one.status, &one.authorization), ("/model.safetensors", 206, &None));
        let (first, last) = range(one);
        assert!(first % PIECE == 0 && ((last + 1) % PIECE == 0 || last + 1 == len), "{one:?}");
    }
    // The header and the rows, and up to 4 MiB of kernel read-ahead around each.
    let pieces = asked.iter().map(range).map(|(first, last)| (last + 1 - first).div_ceil(PIECE));
    assert!(pieces.sum::<u64>() <= 12, "{asked:?}");
    let reported = transfer(&c);
    assert_eq!(reported["downloaded"], 0);
    // Requests that were running when the reader closed the file were cancelled.
    assert!(reported["downloaded_web"].as_u64() >= reported["cached_bytes"].as_u64(), "{reported}");
    let mut ranges: Vec<(u64, u64)> = asked.iter().map(range).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|two| two[0].1 < two[1].0), "some of it was asked for twice: {ranges:?}");
    let shown = c.run(&["status"]).ok();
    assert!(shown.contains("FROM PEERS") && shown.contains("FROM WEB"), "{shown}");

    // The server ends. A fourth host reads the same rows from the third.
    drop(server);
    import(&d, &manifest);
    let there = d.mount(&["--peer", &c.peer()]);
    assert_eq!(rows(&there.path(NAME).join("model.safetensors")), expected);
    until("the bytes are counted", PATIENCE, || transfer(&d)["downloaded"].as_u64() > Some(0));
    let reported = transfer(&d);
    assert_eq!(reported["downloaded_web"], 0);
    // The reads wait for granules of 64 KiB.
    assert!(reported["cached_bytes"].as_u64().unwrap() < PIECE, "{reported}");
}

#[test]
fn a_whole_model_is_fetched_from_the_web() {
    let net = Net::new();
    let (web, b) = (net.host("web"), net.host("b"));
    let server = FileSite::start(&Place::from(&web), &minilm());
    let manifest = published(&net, &server, &minilm(), &[]);
    b.configure(&allowing(&web));
    import(&b, &manifest);
    let out = b.home().join("out");
    let got = b.run(&["get", NAME, "-o", out.to_str().unwrap(), "--json"]).ok();
    let got: Value = serde_json::from_str(&got).unwrap();
    let size = server.log().sent("");
    assert_eq!((&got["verified"], &got["downloaded"]), (&json!(true), &got["total_size"]));
    assert_eq!(got["downloaded_web"], got["total_size"]);
    assert_eq!(size, got["total_size"].as_u64().unwrap(), "a byte was fetched twice");
    let mut files = hashes(&out, PATIENCE);
    files.remove(".silmaril.json");
    assert_eq!(files, hashes(&minilm(), PATIENCE));
    let largest = server.log().all().iter().map(range).map(|(first, last)| last + 1 - first).max().unwrap();
    assert_eq!(largest, 16 * PIECE, "requests are merged and bounded");
}

#[test]
fn a_reader_with_a_slow_peer_is_served_from_the_web() {
    let net = Net::new();
    let (web, a, b) = (net.host("web"), net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, 16 << 20))]);
    let server = FileSite::start(&Place::from(&web), &dir);
    let seed = format!("{}/", server.url());
    let shared = share(&a, &dir, NAME, &["--piece-length", "4MiB", "--web-seed", &seed]);
    b.configure(&allowing(&web));
    import(&b, &shared.manifest);
    // This peer needs more than half a minute for a piece.
    a.limit_rate("1mbit");
    let mounted = b.mount(&["--peer", &a.peer()]);
    let start = Instant::now();
    dd(&mounted.path(NAME).join("w.bin"), 4 << 20, 0, 1, PATIENCE).ok();
    let took = start.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&took), "{took:?}");
    let reported = transfer(&b);
    assert!(reported["downloaded_web"].as_u64().unwrap() >= 4 << 20, "{reported}");
    assert!(reported["downloaded"].as_u64().unwrap() > 0, "{reported}");
    // The bytes are right although they are from two sources.
    let all = hashes(&mounted.path(NAME), PATIENCE);
    assert_eq!(all, hashes(&dir, PATIENCE));
}

#[test]
fn without_the_fallback_no_request_reaches_the_web() {
    let net = Net::new();
    let (web, b) = (net.host("web"), net.host("b"));
    let server = FileSite::start(&Place::from(&web), &minilm());
    let manifest = published(&net, &server, &minilm(), &[]);
    b.configure(&(allowing(&web) + "hub:\n  fallback: false\nmount:\n  read_timeout: 4s\n"));
    import(&b, &manifest);
    let mounted = b.mount(&[]);
    let read = dd(&mounted.path(NAME).join("model.safetensors"), 4096, 0, 1, PATIENCE);
    assert!(!read.status.success() && read.stderr.contains("Input/output error"), "{}", read.stderr);
    assert_eq!(server.log().all(), []);
    let why = transfer(&b)["last_error"].as_str().unwrap().to_owned();
    assert_eq!(why, "timed out: no peer was found");
}

#[test]
fn failing_web_servers_are_named_and_wrong_bytes_dropped() {
    let net = Net::new();
    let (web, b) = (net.host("web"), net.host("b"));
    let dir = model_dir(&net.dir().join("m"), &[("w.bin", &noise(1, 3 << 20))]);
    let server = FileSite::start(&Place::from(&web), &dir);
    let manifest = published(&net, &server, &dir, &[]);
    b.configure(&(allowing(&web) + "torrent:\n  download_timeout: 8\n"));
    import(&b, &manifest);
    for (fault, why) in [
        (Fault::NotFound, "404 Not Found"),
        (Fault::WrongBytes, "sent bytes that do not match the manifest"),
        (Fault::OtherRange, "did not send the requested range"),
        (Fault::Gated, "403 Forbidden"),
        (Fault::Truncated(100_000), "before the end of the body"),
    ] {
        server.faults().clear();
        server.faults().always("", fault.clone());
        let printed = b.run(&["get", NAME]).error(1);
        assert!(printed.contains("no peer was found; and over HTTP: "), "{fault:?}: {printed}");
        assert!(printed.contains(why), "{fault:?}: {printed}");
    }
    server.faults().clear();
    server.faults().times(1, "", Fault::RetryAfter(3));
    let start = Instant::now();
    b.run(&["get", NAME]).ok();
    assert!(
        start.elapsed() >= Duration::from_secs(5),
        "the request was repeated before the time in `Retry-After`"
    );
}

#[test]
fn a_hub_token_is_sent_to_the_hub_only() {
    let net = Net::new();
    let (hub, a, b) = (net.host("hub"), net.host("a"), net.host("b"));
    let repos = Repos::new();
    let place = Place::from(&hub);
    let server = Hub::start(&place, &repos);
    let attributes: &[u8] = b"*.bin filter=lfs diff=lfs merge=lfs -text\n";
    let files: [(&str, &[u8]); 3] =
        [(".gitattributes", attributes), ("a file.json", b"{}"), ("sub/w.bin", &noise(1, 3 << 20))];
    let dir = model_dir(&a.home().join("m"), &files);
    let commit = repos.create(NAME).commit(&dir);
    server.set_access(NAME, Access::Gated);

    // The manifest is like one that `mirror` makes: with a source instead of web seeds.
    let shared = share(&a, &dir, NAME, &["--piece-length", "1MiB", "--web-seed", "http://192.0.2.1/"]);
    let mut manifest = manifests::read(&shared.manifest);
    a.power_off();
    manifest.as_object_mut().unwrap().remove("web_seeds");
    let url = format!("https://huggingface.co/{NAME}");
    manifest["source"] = json!({"kind": "huggingface", "url": url, "commit": commit});
    manifests::sign(&mut manifest, 7);
    let manifest = manifests::write(net.dir().join("hub.json"), &manifest);

    b.configure(&format!("torrent:\n  download_timeout: 6\nhub:\n  endpoint: {}\n", server.url()));
    import(&b, &manifest);
    let printed = b.run(&["get", NAME]).error(1);
    assert!(printed.contains("401") && printed.contains("token"), "{printed}");
    let get = b.silmaril(&["get", NAME]).env("HF_TOKEN", MEMBER).output().unwrap();
    assert!(get.status.success(), "{}", String::from_utf8_lossy(&get.stderr));
    assert!(String::from_utf8_lossy(&get.stdout).contains("over HTTP"));
    let log = server.log().all();
    let at_cdn: Vec<_> = log.iter().filter(|asked| asked.site == "cdn").collect();
    assert!(!at_cdn.is_empty() && at_cdn.iter().all(|asked| asked.authorization.is_none()), "{at_cdn:?}");
    let bearer = format!("Bearer {MEMBER}");
    assert!(log.iter().any(|asked| asked.site == "hub" && asked.authorization.as_ref() == Some(&bearer)));
    for logged in std::fs::read_dir(b.base().join("log")).into_iter().flatten().flatten() {
        assert!(!std::fs::read_to_string(logged.path()).unwrap().contains(MEMBER));
    }
}

/// A torrent file that has an address in its `url-list`, as other programs make it.
fn torrent_with_url(net: &Net, sample: &crate::engine::rig::Sample, url: &str) -> PathBuf {
    let body = &sample.metainfo[..sample.metainfo.len() - 1];
    let torrent = [body, format!("8:url-list{}:{url}e", url.len()).as_bytes()].concat();
    let path = net.dir().join("foreign.torrent");
    std::fs::write(&path, torrent).unwrap();
    path
}

#[test]
fn foreign_hybrid_torrents_are_read_from_web_seed_and_peers() {
    let net = Net::new();
    let (web, b, c) = (net.host("web"), net.host("b"), net.host("c"));
    let files = [("a b.json", 100), ("model.safetensors", 2_500_000), ("sub/c", 700_000)];
    let sample = crate::engine::rig::Sample::new(&files, 256 << 10, true);
    let server = FileServer::start(&Place::from(&web), sample.dir.path());
    let torrent = torrent_with_url(&net, &sample, &format!("{}/", server.url()));
    let torrent = torrent.to_str().unwrap();

    b.configure(&allowing(&web));
    b.run(&["registry", "import", torrent, "--name", NAME]).ok();
    let exported: Value = manifests::read(&export(&b, NAME));
    assert_eq!(exported["web_seeds"], json!([format!("{}/sample/", server.url())]));
    let got = b.run(&["get", NAME, "--json"]).ok();
    let got: Value = serde_json::from_str(&got).unwrap();
    assert_eq!(got["downloaded_web"], 3_200_100);
    assert_eq!(server.sent("/sample/"), 3_200_100, "a byte was fetched twice");

    // The server is gone. Another host mounts the model from the first.
    drop(server);
    let seeding = b.spawn(&["share", "-f", NAME]);
    seeding.wait_for_line("seeding", PATIENCE);
    c.run(&["registry", "import", torrent, "--name", NAME]).ok();
    let mounted = c.mount(&["--peer", &b.peer()]);
    assert_eq!(hashes(&mounted.path(NAME), PATIENCE), hashes(&sample.dir.path().join("sample"), PATIENCE));

    // A magnet link may contain web seeds, too.
    let d = net.host("d");
    let magnet = format!("magnet:?xt=urn:btmh:1220{}&ws=http%3A%2F%2F192.0.2.1%2F", sample.info_hash);
    d.run(&["registry", "import", &magnet, "--name", NAME, "--peer", &b.peer()]).ok();
    assert_eq!(manifests::read(&export(&d, NAME))["web_seeds"], json!(["http://192.0.2.1/sample/"]));
}

#[test]
fn unusable_web_seeds_are_refused() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("a", b"x"), ("b", b"y")]);
    let dir = dir.to_str().unwrap();
    let share = |seed: &str| -> Finished {
        a.run(&["share", dir, "--name", NAME, "--license", "mit", "--web-seed", seed])
    };
    assert!(share("ftp://x/").error(2).contains("http or https"));
    assert!(share("http://u:p@x/").error(2).contains("user name"));
    assert!(share("http://x/?y").error(2).contains("query"));
    assert!(share("http://x/file").error(2).contains("ends in /"));
    let bad_licence = ["share", dir, "--name", NAME, "--license", " "];
    assert!(a.run(&bad_licence).error(2).contains("the licence is empty"));
}
