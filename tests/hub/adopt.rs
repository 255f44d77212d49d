//! `adopt`: files that other programs have downloaded are shared where they are.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::rig::{info_hash, listed, read_at};
use crate::support::fixtures::{downloaded, hashes, noise};
use crate::support::host::Host;
use crate::support::hub::{Access, MEMBER};
use crate::support::mirror::{HubNet, mirror, mirror_and_share, tree};
use crate::support::process::{Finished, PATIENCE, until};

/// Downloads with the real client of the hub, of the newest version or the oldest.
fn download(net: &HubNet, host: &Host, venv: &str, args: &[&str], token: Option<&str>) {
    let mut command = host.command(downloaded(&format!("{venv}/bin/hf")));
    command
        .env("HF_ENDPOINT", net.hub.url())
        .env("HF_HOME", host.home().join("hf"))
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_DISABLE_UPDATE_CHECK", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .arg("download")
        .args(args);
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    Finished::of(&mut command, PATIENCE).ok();
}

/// Runs `adopt --json`. Without directories, the client's cache is the default.
fn adopt(host: &Host, args: &[&str], token: Option<&str>) -> Vec<Value> {
    let mut command = host.silmaril(&["adopt", "--json"]);
    command.args(args).env("HF_HOME", host.home().join("hf"));
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    serde_json::from_str(&Finished::of(&mut command, PATIENCE).ok()).unwrap()
}

/// The states of the directories, with the names of their models.
fn states(adopted: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    adopted.iter().map(|found| (text(&found["model"]), text(&found["state"]))).collect()
}

fn state(model: &str, state: &str) -> (String, String) {
    (model.to_owned(), state.to_owned())
}

/// The longest file below the base directory, in bytes.
fn longest_file(host: &Host) -> u64 {
    fn longest(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let of = |path: PathBuf| match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => longest(&path),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        };
        entries.map(|entry| of(entry.path())).max().unwrap_or(0)
    }
    longest(&host.base())
}

#[test]
fn caches_of_both_layouts_and_a_plain_directory_form_one_swarm() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let expected = hashes(&net.tree("acme/m", "mit", 1), PATIENCE);
    let [newest, oldest, plain, mirrors] =
        ["newest", "oldest", "plain", "mirrors"].map(|name| net.host(name, ""));
    download(&net, &newest, "venv", &["acme/m"], None);
    download(&net, &oldest, "venv-oldest", &["acme/m"], None);
    // The directory that `aria2c` or `git clone` makes, with a file of the user in it.
    let dir = plain.home().join("downloads/acme/m");
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-r").arg(net.tree("acme/m", "mit", 1)).arg(&dir).status();
    assert!(copied.unwrap().success());
    fs::write(dir.join("notes.txt"), "mine").unwrap();
    mirror(&mirrors, &["acme/m", "--no-auto-share"]).ok();
    let sent = net.hub.log().sent("large.bin");

    let named = [dir.to_str().unwrap()];
    for (host, dirs) in [(&newest, &[][..]), (&oldest, &[]), (&plain, &named)] {
        host.keep_daemon();
        let adopted = adopt(host, dirs, None);
        assert_eq!(states(&adopted), [state("acme/m", "shared")], "{}: {adopted:#?}", host.namespace());
        assert_eq!((&adopted[0]["missing"], &adopted[0]["files"]), (&0.into(), &6.into()), "{adopted:#?}");
        assert_eq!(info_hash(host, "acme/m"), info_hash(&mirrors, "acme/m"), "it is another torrent");
        assert!(longest_file(host) < 500_000, "{} bytes were copied", longest_file(host));
    }
    assert_eq!(net.hub.log().sent("large.bin"), sent, "bytes were fetched again");

    net.unplug();
    for (number, host) in [&newest, &oldest, &plain].into_iter().enumerate() {
        let reader = net.host(&format!("reader{number}"), "");
        let mount = reader.mount(&["--peer", &host.peer()]);
        assert_eq!(hashes(&mount.path("acme/m"), PATIENCE), expected, "{}", host.namespace());
        mount.unmount();
    }
    // The bytes are used, too.
    let out = newest.home().join("out");
    newest.run(&["get", "acme/m", "-o", out.to_str().unwrap()]).ok();
    assert_eq!(tree(&out), expected);
    assert_eq!(states(&adopt(&newest, &[], None)), [state("acme/m", "known")]);
    [&newest, &oldest, &plain].into_iter().for_each(Host::stop_background_daemon);
}

#[test]
fn small_missing_files_are_fetched_and_large_ones_only_on_request() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let [host, reader] = ["alice", "bob"].map(|name| net.host(name, ""));
    host.keep_daemon();
    // What a framework downloads: neither the card nor the other weights.
    download(&net, &host, "venv", &["acme/m", "config.json", "large.bin"], None);
    let before = net.hub.log().sent("/lfs/");
    let adopted = adopt(&host, &["--fetch", "100KB"], None);
    assert_eq!(states(&adopted), [state("acme/m", "incomplete")], "{adopted:#?}");
    assert!(adopted[0]["missing"].as_u64().unwrap() > 1_000_000, "{adopted:#?}");
    assert_eq!((net.hub.log().sent("/lfs/"), info_hash(&host, "acme/m")), (before, None));

    let adopted = adopt(&host, &[], None);
    assert_eq!(states(&adopted), [state("acme/m", "shared")], "{adopted:#?}");
    assert!(adopted[0]["fetched"].as_u64().unwrap() > 1_000_000, "{adopted:#?}");
    assert_eq!(net.hub.log().sent("/lfs/"), before + 1_000_000, "a file that is here was fetched");
    net.unplug();
    let mount = reader.mount(&["--peer", &host.peer()]);
    assert_eq!(hashes(&mount.path("acme/m"), PATIENCE), hashes(&net.tree("acme/m", "mit", 1), PATIENCE));
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn part_of_a_model_is_seeded_if_a_peer_has_the_manifest() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let [host, other] = ["alice", "bob"].map(|name| net.host(name, ""));
    let sharing = mirror_and_share(&other, &["acme/m"]);
    host.keep_daemon();
    host.run(&["daemon", "--peer", &other.peer()]).ok();
    download(&net, &host, "venv", &["acme/m", "large.bin"], None);
    let received = host.received();
    let adopted = adopt(&host, &["--fetch", "0"], None);
    assert_eq!(states(&adopted), [state("acme/m", "shared")], "{adopted:#?}");
    assert_eq!((&adopted[0]["files"], &adopted[0]["fetched"]), (&1.into(), &0.into()), "{adopted:#?}");
    assert!(host.received() - received < 1_000_000, "bytes that are here were fetched");
    drop(sharing);
    net.unplug();
    let reader = net.host("reader", "");
    let mount = reader.mount(&["--peer", &host.peer()]);
    let large = fs::read(mount.path("acme/m/large.bin")).unwrap();
    assert_eq!(large, noise(1000, 3_000_000));
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn changed_and_deleted_files_are_not_shared_any_more() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let [host, reader] = ["alice", "bob"].map(|name| net.host(name, "mount: {read_timeout: 3s}\n"));
    host.keep_daemon();
    download(&net, &host, "venv-oldest", &["acme/m"], None);
    adopt(&host, &[], None);
    net.unplug();
    let snapshots = host.home().join("hf/hub/models--acme--m/snapshots");
    let snapshot = fs::read_dir(snapshots).unwrap().next().unwrap().unwrap().path();
    let mut changed = noise(1000, 3_000_000);
    changed[2_999_999] ^= 1;
    fs::write(fs::canonicalize(snapshot.join("large.bin")).unwrap(), &changed).unwrap();
    fs::remove_file(fs::canonicalize(snapshot.join("sub/changing.bin")).unwrap()).unwrap();
    until("the files are missing", PATIENCE, || {
        let model = listed(&host, "acme/m");
        model["cached_bytes"].as_u64().is_some_and(|cached| cached < 1_000_000)
    });
    let mount = reader.mount(&["--peer", &host.peer()]);
    assert_eq!(fs::read(mount.path("acme/m/config.json")).unwrap(), b"{\"model_type\": \"bert\"}");
    assert!(read_at(&mount.path("acme/m/large.bin"), 2_999_990, 10).is_err(), "a changed file was shared");
    assert!(read_at(&mount.path("acme/m/sub/changing.bin"), 0, 10).is_err());
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn gated_and_unlicensed_models_are_used_but_not_shared() {
    let net = HubNet::new();
    net.small("acme/gated", "mit");
    net.small("acme/unknown", "");
    net.hub.set_access("acme/gated", Access::Gated);
    let host = net.host("alice", "");
    host.keep_daemon();
    for model in ["acme/gated", "acme/unknown"] {
        download(&net, &host, "venv", &[model], Some(MEMBER));
    }
    let adopted = adopt(&host, &[], Some(MEMBER));
    assert_eq!(
        states(&adopted),
        [state("acme/gated", "withheld"), state("acme/unknown", "withheld")],
        "{adopted:#?}"
    );
    for (model, why) in [("acme/gated", "gated"), ("acme/unknown", "licence")] {
        let model = listed(&host, model);
        assert_eq!((&model["shared"], &model["withheld"]), (&false.into(), &why.into()), "{model:#}");
    }
    host.stop_background_daemon();
}

#[test]
fn gated_model_is_not_shared_for_the_manifest_of_a_stranger() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let [host, stranger] = ["alice", "bob"].map(|name| net.host(name, ""));
    let sharing = mirror_and_share(&stranger, &["acme/m"]);
    download(&net, &host, "venv", &["acme/m"], None);
    net.hub.set_access("acme/m", Access::Gated);
    host.keep_daemon();
    host.run(&["daemon", "--peer", &stranger.peer()]).ok();
    let adopted = adopt(&host, &[], None);
    assert_eq!(states(&adopted), [state("acme/m", "unknown")], "{adopted:#?}");
    assert!(adopted[0]["why"].as_str().unwrap().contains("gated"), "{adopted:#?}");
    assert!(info_hash(&host, "acme/m").is_none());
    host.stop_background_daemon();
    drop(sharing);
}

#[test]
fn files_without_a_name_are_recognised_by_their_hash() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let [host, other] = ["alice", "bob"].map(|name| net.host(name, ""));
    mirror(&other, &["acme/m", "--no-auto-share"]).ok();
    let manifest = other.base().join("models/acme/m/.silmaril.json");
    net.unplug();
    host.keep_daemon();
    host.run(&["registry", "import", manifest.to_str().unwrap()]).ok();
    let models = host.home().join("ComfyUI/models");
    for (path, bytes) in [
        ("checkpoints/mine.safetensors", noise(77, 3_000_000)),
        ("vae/renamed.safetensors", noise(1000, 3_000_000)),
    ] {
        fs::create_dir_all(models.join(path).parent().unwrap()).unwrap();
        fs::write(models.join(path), bytes).unwrap();
    }
    let adopted = adopt(&host, &[], None);
    assert_eq!(states(&adopted), [state("acme/m", "shared")], "{adopted:#?}");
    assert_eq!((&adopted[0]["files"], &adopted[0]["size"]), (&1.into(), &3_000_000.into()), "{adopted:#?}");
    // The path of a directory need not be the name of its model.
    let renamed = host.home().join("my/copy");
    fs::create_dir_all(&renamed).unwrap();
    fs::write(renamed.join("other.bin"), noise(1, 1_000_000)).unwrap();
    let adopted = adopt(&host, &[renamed.to_str().unwrap()], None);
    assert_eq!(states(&adopted), [state("acme/m", "shared")], "{adopted:#?}");
    let mount = host.mount(&[]);
    assert_eq!(fs::read(mount.path("acme/m/large.bin")).unwrap(), noise(1000, 3_000_000));
    mount.unmount();
    let table = host.run_command(host.silmaril(&["adopt"]).env("HF_HOME", host.home().join("hf"))).ok();
    assert!(table.contains("known") && table.contains("acme/m"), "{table}");
    host.stop_background_daemon();
}
