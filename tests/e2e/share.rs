//! `share`: a directory becomes a torrent that depends on its files alone. The files are read in place.

use std::path::Path;

use rustix::process::Signal;

use crate::support::fixtures::{hashes, model_dir, noise, wordllama};
use crate::support::host::Host;
use crate::support::manifests::read;
use crate::support::net::{Net, sh};
use crate::support::process::PATIENCE;
use crate::support::share::{export, import, share};

fn info_hash(host: &Host, dir: &Path, more: &[&str]) -> String {
    let shared = share(host, dir, "acme/m", more);
    let manifest = read(&shared.manifest);
    manifest["torrent"]["info_hash"].as_str().unwrap().to_owned()
}

#[test]
fn two_hosts_with_the_same_files_are_one_swarm() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let weights = noise(1, 3 << 20);
    let files: &[(&str, &[u8])] = &[
        ("w.bin", &weights),
        ("a/x.json", b"{}"),
        ("a.txt", b""),
        (".gitattributes", b"* text"),
        ("B", b"b"),
    ];
    let one = model_dir(&a.home().join("one"), files);
    // The copy has another order, other times and permissions, and files that are never shared.
    let reversed: Vec<_> = files.iter().rev().copied().collect();
    let two = model_dir(&b.home().join("other name"), &reversed);
    model_dir(&two, &[(".git/HEAD", b"ref"), (".cache/huggingface/x", b"x"), (".silmaril.json", b"{}")]);
    sh(&format!("chmod 600 '{0}/w.bin'; touch -d 2001-01-01 '{0}/B'", two.display()));
    let hash = info_hash(&a, &one, &[]);
    assert_eq!(hash, info_hash(&b, &two, &["--sign=false"]));

    // One more byte, another last component of the name, or another piece length gives another torrent.
    let other = model_dir(&c.home().join("m"), files);
    assert_ne!(hash, info_hash(&c, &other, &["--piece-length", "64KiB"]));
    std::fs::write(other.join("B"), "c").unwrap();
    assert_ne!(hash, info_hash(&c, &other, &["--version", "v2"]));
}

#[test]
fn sharing_copies_nothing_and_changes_nothing() {
    let net = Net::new();
    let a = net.host("a");
    let dir = a.home().join("m");
    sh(&format!("cp -r {} {}", wordllama().display(), dir.display()));
    let before = hashes(&dir, PATIENCE);
    let _shared = share(&a, &dir, "acme/m", &[]);
    let used = sh(&format!("du -sk {} | cut -f1", a.base().display()));
    assert!(
        used.trim().parse::<u64>().unwrap() < 1024,
        "the base directory holds {used} KiB after sharing 16 MB"
    );
    assert_eq!(hashes(&dir, PATIENCE), before);
}

#[test]
fn a_shared_model_is_seeded_again_by_name_and_by_all() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(2, 5 << 20))]);
    let mut first = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    first.process.signal(Signal::TERM);
    assert_eq!(first.process.wait(PATIENCE).code(), Some(0), "stopped cleanly");
    import(&b, &first.manifest);

    for again in [&["share", "-f", "acme/m"][..], &["share", "-f", "--all"]] {
        let mut seeding = a.spawn(again);
        seeding.wait_for_line("seeding acme/m", PATIENCE);
        let out = b.home().join(again[2].trim_start_matches('-').replace('/', "-"));
        let get = ["get", "acme/m", "-o", out.to_str().unwrap(), "--peer", &a.peer(), "--seed=false"];
        b.run(&get).ok();
        assert_eq!(hashes(&out, PATIENCE)["w.bin"], hashes(&dir, PATIENCE)["w.bin"]);
        seeding.signal(Signal::INT);
        assert_eq!(seeding.wait(PATIENCE).code(), Some(130), "Ctrl-C");
    }
}

#[test]
fn only_an_unknown_licence_gives_a_warning() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", b"weights")]);
    for (license, warned) in [("my-own-licence-1.0", true), ("apache-2.0", false), ("gemma", false)] {
        let shared =
            a.spawn(&["share", "-f", dir.to_str().unwrap(), "--name", "acme/m", "--license", license]);
        shared.wait_for_line("seeding", PATIENCE);
        shared.signal(Signal::TERM);
        let end = shared.finish(PATIENCE);
        assert_eq!(end.stderr.contains("warning: "), warned, "{license}: {}", end.stderr);
        assert_eq!(end.stderr.contains(license), warned, "{license}: {}", end.stderr);
        assert_eq!(read(&export(&a, "acme/m"))["license"], license);
    }
}

#[test]
fn the_manifest_has_the_facts_of_the_files() {
    let net = Net::new();
    let a = net.host("a");
    let dir = crate::support::fixtures::minilm();
    let _seeding =
        a.spawn(&["share", "-f", dir.to_str().unwrap(), "--name", "sentence-transformers/all-MiniLM-L6-v2"]);
    _seeding.wait_for_line("seeding", PATIENCE);
    let manifest = read(&export(&a, "sentence-transformers/all-MiniLM-L6-v2"));
    assert_eq!(manifest["license"], "apache-2.0", "from the model card");
    assert_eq!(manifest["architecture"], "BertModel");
    assert_eq!(manifest["model_type"], "bert");
    assert_eq!(manifest["dtype"], "F32");
    assert_eq!(manifest["context_length"], 512);
    // The sum of all tensors in the header, including the 512 position ids.
    assert_eq!(manifest["parameters"], 22_713_728);
    assert_eq!(manifest["total_size"], 91_618_861);
    let expected = hashes(&dir, PATIENCE);
    let reported: std::collections::BTreeMap<String, String> = manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["path"].as_str().unwrap().to_owned(), f["sha256"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(reported, expected);
}

#[test]
fn a_dataset_is_shared_and_got_under_datasets() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("d"), &[("train.parquet", &noise(4, 300_000))]);
    let shared = share(&a, &dir, "datasets/acme/d", &[]);
    import(&b, &shared.manifest);
    b.run(&["get", "datasets/acme/d", "--peer", &a.peer(), "--seed=false"]).ok();
    let got = hashes(&b.base().join("models/datasets/acme/d"), PATIENCE);
    assert_eq!(got["train.parquet"], hashes(&dir, PATIENCE)["train.parquet"]);
}

#[test]
fn a_link_out_of_the_directory_is_shared_only_on_request() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let home = a.home().to_owned();
    let weights = noise(5, 300_000);
    let dir = model_dir(&home.join("m"), &[("w.bin", &weights)]);
    model_dir(&home, &[(".ssh/id_ed25519", b"secret"), ("other/notes.txt", b"notes")]);
    let args = ["share", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit"];
    let follow = [&args[..], &["--follow-links"]].concat();
    let link = dir.join("docs/notes.txt");
    std::fs::create_dir(link.parent().unwrap()).unwrap();

    std::os::unix::fs::symlink("../../.ssh/id_ed25519", &link).unwrap();
    for args in [&args[..], &follow] {
        let error = a.run(args).error(1);
        assert!(error.contains(link.to_str().unwrap()) && error.contains(".ssh/id_ed25519"), "{error}");
    }
    assert!(a.run(&["list"]).ok().is_empty(), "the model was published");

    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("../../other/notes.txt", &link).unwrap();
    let refused = a.run(&args);
    assert!(
        refused.stderr.contains("help: ") && refused.stderr.contains("--follow-links"),
        "{}",
        refused.stderr
    );
    let error = refused.error(1);
    assert!(error.contains(link.to_str().unwrap()) && error.contains("other/notes.txt"), "{error}");

    let seeding = a.spawn(&follow);
    let target = home.join("other/notes.txt");
    seeding.wait_for_line(&format!("following docs/notes.txt to {}", target.display()), PATIENCE);
    seeding.wait_for_line("seeding acme/m", PATIENCE);
    // The link is resolved once. If it leads to another file later, that file is not served.
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("../../.ssh/id_ed25519", &link).unwrap();
    import(&b, &export(&a, "acme/m"));
    b.run(&["get", "acme/m", "--peer", &a.peer(), "--seed=false"]).ok();
    assert_eq!(std::fs::read(b.base().join("models/acme/m/docs/notes.txt")).unwrap(), b"notes");
    drop(seeding);
}

#[test]
fn a_file_replaced_by_a_link_is_not_uploaded() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let bytes = noise(6, 3 << 20);
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, "acme/m", &[]);
    import(&b, &shared.manifest);
    std::fs::rename(dir.join("w.bin"), a.home().join("private")).unwrap();
    std::os::unix::fs::symlink("../private", dir.join("w.bin")).unwrap();
    let get = b.spawn(&["get", "acme/m", "--peer", &a.peer(), "--seed=false"]);
    // The upload or the regular check of the file happens first.
    shared.process.wait_for_line("w.bin", PATIENCE);
    assert!(b.received() < 1 << 20, "the target of a link was uploaded");
    drop(get);
}
