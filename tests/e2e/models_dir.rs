//! The models directory is watched: models that the user copies into it are listed, shown, and shared on request. No
//! command deletes them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::fixtures::{hashes, model_dir, noise, python};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{import, share};

const CARD: &[u8] = b"---\nlicense: mit\n---\n# A model\n";

/// Puts a model into the models directory of a host.
fn put(host: &Host, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    model_dir(&host.base().join("models").join(name), files)
}

fn listed(host: &Host, more: &[&str]) -> Vec<Value> {
    let json = host.run(&[&["list", "--json"], more].concat()).ok();
    serde_json::from_str::<Value>(&json).unwrap().as_array().unwrap().clone()
}

fn row(host: &Host, model: &str) -> Option<Value> {
    listed(host, &[]).into_iter().find(|row| row["model"] == model)
}

fn until_whole(host: &Host, model: &str) {
    until("the model is whole", PATIENCE, || row(host, model).is_some_and(|row| row["complete"] == true));
}

fn assert_ends_after_term(mut process: Proc, code: i32) {
    process.signal(Signal::TERM);
    assert_eq!(process.wait(PATIENCE).code(), Some(code));
}

#[test]
fn a_copied_model_is_listed_and_mounted_but_not_shared() {
    let net = Net::new();
    let a = net.host("a");
    let early = put(&a, "acme/early", &[("w.bin", &noise(1, 300_000)), ("sub/x", b"x")]);
    until_whole(&a, "acme/early");
    let mounted = a.mount(&["--no-resolve"]);
    // A model that is there at start is found without a wait.
    assert_eq!(hashes(&mounted.path("acme/early"), PATIENCE), hashes(&early, PATIENCE));

    let late = put(&a, "datasets/acme/late", &[("data.bin", &noise(2, 5 << 20)), ("empty", b"")]);
    fs::create_dir_all(late.join(".git/objects")).unwrap();
    fs::write(late.join(".git/HEAD"), "ref").unwrap();
    let changing = row(&a, "datasets/acme/late").unwrap();
    assert_eq!((&changing["shared"], &changing["complete"]), (&false.into(), &false.into()));
    assert_eq!(changing["reason"], "still changing");
    assert!(!mounted.path("datasets/acme/late").join("data.bin").exists(), "shown while it is copied");
    let shown = mounted.path("datasets/acme/late");
    until("the mount shows it", PATIENCE, || shown.join("data.bin").exists());
    let mut expected = hashes(&late, PATIENCE);
    expected.retain(|path, _| !path.starts_with(".git/"));
    assert_eq!(hashes(&shown, PATIENCE), expected);
    a.run(&["warm", shown.to_str().unwrap()]).ok();

    // The model has no info hash, since its bytes were never hashed.
    let status: Value = serde_json::from_str(&a.run(&["status", "--json"]).ok()).unwrap();
    assert_eq!(status["transfers"], Value::Array(Vec::new()));
    let script = "import os, sys; print(os.listxattr(sys.argv[1]))";
    let facts = python(script, &[&shown.join("data.bin")], PATIENCE).ok();
    assert_eq!(facts.trim(), "['user.silmaril.cached_bytes']");
    let table = a.run(&["list"]).ok();
    assert!(table.contains("acme/early") && table.contains("not shared"), "{table}");
    assert_eq!(listed(&a, &["--unshared"]).len(), 2);

    fs::remove_dir_all(&late).unwrap();
    until("the mount forgets it", PATIENCE, || !shown.join("data.bin").exists());
    mounted.unmount();
}

#[test]
fn a_mounted_model_that_changes_shows_its_new_bytes() {
    let net = Net::new();
    let a = net.host("a");
    let dir = put(&a, "acme/m", &[("w.bin", &noise(1, 3 << 20)), ("other", b"o")]);
    until_whole(&a, "acme/m");
    let mounted = a.mount(&["--no-resolve"]);
    let shown = mounted.path("acme/m/w.bin");
    assert_eq!(fs::read(&shown).unwrap(), noise(1, 3 << 20));
    for new in [noise(2, 3 << 20), noise(3, 1 << 20)] {
        fs::write(dir.join("w.bin"), &new).unwrap();
        until("the new bytes are read", PATIENCE, || fs::read(&shown).is_ok_and(|bytes| bytes == new));
        assert_eq!(fs::read(mounted.path("acme/m/other")).unwrap(), b"o");
    }
    // A partial file hides the model, as when a download begins again.
    fs::write(dir.join("w.bin.aria2"), "x").unwrap();
    until("the mount hides it", PATIENCE, || !shown.exists());
    assert!(row(&a, "acme/m").unwrap()["reason"].as_str().unwrap().contains("w.bin.aria2 (aria2)"));
    mounted.unmount();
}

#[test]
fn no_command_deletes_files_of_the_user() {
    let net = Net::new();
    let a = net.host("a");
    let dir = put(&a, "acme/m", &[("README.md", CARD), ("w.bin", &noise(1, 3 << 20)), ("sub/x", b"x")]);
    let before = hashes(&dir, PATIENCE);
    let error = a.run(&["remove", "acme/m", "--yes"]).error(1);
    assert!(error.contains("not shared") && error.contains("are yours"), "{error}");

    // The licence is that of the card, and the name is that of the directory.
    let sharing = a.spawn(&["share", "-f", "acme/m"]);
    sharing.wait_for_line("seeding acme/m", PATIENCE);
    let shared = row(&a, "acme/m").unwrap();
    assert_eq!((&shared["shared"], &shared["license"]), (&true.into(), &"mit".into()));
    assert_eq!(listed(&a, &[]).len(), 1);
    assert_ends_after_term(sharing, 0);
    a.run(&["cache", "clear", "--yes"]).ok();
    a.run(&["verify", "acme/m"]).ok();
    a.run(&["remove", "acme/m", "--yes"]).ok();
    assert_eq!(hashes(&dir, PATIENCE), before);
    assert_eq!(row(&a, "acme/m").unwrap()["shared"], false, "the model is still shared");

    let again = a.spawn(&["share", "-f", "acme/m"]);
    again.wait_for_line("seeding acme/m", PATIENCE);
    assert_ends_after_term(again, 0);
    put(&a, "acme/unshared", &[("w.bin", b"mine")]);
    a.run(&["init", "--cleanup", "--yes"]).ok();
    assert_eq!(hashes(&dir, PATIENCE), before);
    assert_eq!(fs::read(a.base().join("models/acme/unshared/w.bin")).unwrap(), b"mine");
}

#[test]
fn a_model_copied_from_another_host_joins_its_swarm() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let source = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, 5 << 20))]);
    let shared = share(&a, &source, "acme/m", &[]);
    import(&b, &shared.manifest);
    // The user copies the models directory of another host, with the manifest in it.
    let manifest = fs::read(&shared.manifest).unwrap();
    let dir = put(&b, "acme/m", &[("w.bin", &noise(1, 5 << 20)), (".silmaril.json", &manifest)]);
    let before = b.received();
    let sharing = b.spawn(&["share", "-f", "acme/m", "--peer", &a.peer()]);
    sharing.wait_for_line("seeding acme/m", PATIENCE);
    let rows = listed(&b, &[]);
    assert_eq!((rows.len(), &rows[0]["complete"], &rows[0]["shared"]), (1, &true.into(), &true.into()));
    assert!(b.received() - before < 1 << 20, "the copied model was fetched");
    assert_ends_after_term(sharing, 0);
    b.run(&["remove", "acme/m", "--yes"]).ok();
    assert_eq!(fs::read(dir.join("w.bin")).unwrap(), noise(1, 5 << 20));
}

#[test]
fn share_all_shares_licensed_models_and_names_the_rest() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    put(&a, "acme/free", &[("README.md", CARD), ("w.bin", &noise(1, 2 << 20))]);
    put(&a, "acme/none", &[("w.bin", &noise(2, 1000))]);
    put(&a, "acme/part", &[("README.md", CARD), ("w.bin.part", b"x"), ("w.bin", b"x")]);
    let sharing = a.spawn(&["share", "-f", "--all"]);
    for name in ["acme/none", "acme/part"] {
        sharing.wait_for_line(&format!("warning: {name} is not shared"), PATIENCE);
    }
    sharing.wait_for_line("seeding acme/free", PATIENCE);
    let out = b.home().join("out");
    b.run(&["get", "acme/free", "-o", out.to_str().unwrap(), "--peer", &a.peer(), "--seed=false"]).ok();
    assert_eq!(fs::read(out.join("w.bin")).unwrap(), noise(1, 2 << 20));
    sharing.signal(Signal::TERM);
    let error = sharing.finish(PATIENCE).error(1);
    assert!(error.contains("acme/none, acme/part") || error.contains("acme/part, acme/none"), "{error}");
    assert_eq!(listed(&a, &["--unshared"]).len(), 2);

    // When no model can be shared, the command ends immediately.
    let c = net.host("c");
    put(&c, "acme/none", &[("w.bin", b"x")]);
    assert!(c.run(&["share", "--all"]).error(1).contains("acme/none"));
    let error = c.run(&["share", "acme/none"]).error(1);
    assert!(error.contains("licence of acme/none is not known"), "{error}");
    let sharing = c.spawn(&["share", "-f", "acme/none", "--license", "mit"]);
    sharing.wait_for_line("seeding acme/none", PATIENCE);
    assert_ends_after_term(sharing, 0);
}

#[test]
fn a_missing_licence_is_asked_for_on_a_terminal() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", b"weights")]);
    let (input, mut typed) = std::io::pipe().unwrap();
    let mut command = a.command("script");
    let run = format!("{} share {} --name acme/m", env!("CARGO_BIN_EXE_silmaril"), Path::new(&dir).display());
    command.args(["-q", "-e", "-c", &run, "/dev/null"]);
    let sharing = Proc::spawn_with_input(&mut command, Stdio::from(input));
    typed.write_all(format!("{}\nmit\n", "x".repeat(1000)).as_bytes()).unwrap();
    sharing.wait_for_line("seeding acme/m", PATIENCE);
    assert_eq!(row(&a, "acme/m").unwrap()["license"], "mit");
}
