//! Files that several models have: they are fetched once and stored once.

use std::fs;
use std::io::Write as _;

use super::rig::{LARGE, SHORT, info_hash, mount_with, proof, reader};
use crate::support::fixtures::hashes;
use crate::support::hub::{Access, MEMBER};
use crate::support::manifests::{read, write};
use crate::support::mirror::{HubNet, mirror, mirrored};
use crate::support::process::{Finished, PATIENCE, until};
use crate::support::share::import;

/// The files of the cache that have more than a megabyte.
fn cached_files(host: &crate::support::host::Host) -> usize {
    let find = format!("find {} -type f -size +1M | wc -l", host.base().join("cache").display());
    crate::support::net::sh(&find).trim().parse().unwrap()
}

#[test]
fn file_of_two_unshared_models_is_fetched_once() {
    let (net, host) = reader();
    net.small("acme/n", "mit");
    host.keep_daemon();
    let mount = host.mount(&[]);
    let of_first = fs::read(mount.path("acme/m/large.bin")).unwrap();
    let sent = net.hub.log().sent("large.bin");
    assert_eq!(fs::read(mount.path("acme/n/large.bin")).unwrap(), of_first);
    assert_eq!(net.hub.log().sent("large.bin"), sent, "the file was requested for the second model");
    assert_eq!(cached_files(&host), 1);
    // Also after the first model has its manifest, and its bytes have moved.
    host.run(&["warm", "acme/m"]).ok();
    let requests = net.hub.log().of("acme/n/resolve").len();
    let expected = hashes(&net.tree("acme/n", "mit", 1), PATIENCE);
    assert_eq!(hashes(&mount.path("acme/n"), PATIENCE), expected);
    assert_eq!(net.hub.log().sent("large.bin"), sent, "the file was requested again");
    assert_eq!(net.hub.log().of("acme/n/resolve").len(), requests, "files of the first model were requested");
    // Both are complete, and get the manifests that `mirror` makes.
    until("the second model has a manifest", PATIENCE, || info_hash(&host, "acme/n").is_some());
    assert_eq!(cached_files(&host), 1);
    let bob = net.host("bob", "");
    mirror(&bob, &["acme/n", "--no-auto-share"]).ok();
    assert_eq!(info_hash(&host, "acme/n"), info_hash(&bob, "acme/n"));
    assert_eq!(hashes(&mount.path("acme/n"), PATIENCE), expected);
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn file_of_a_model_with_a_manifest_is_not_requested() {
    let (net, host) = reader();
    host.keep_daemon();
    mirror(&host, &["acme/m", "--no-auto-share"]).ok();
    net.small("acme/n", "mit");
    let mount = host.mount(&[]);
    let sent = net.hub.log().of("/resolve").len();
    let expected = hashes(&net.tree("acme/n", "mit", 1), PATIENCE);
    assert_eq!(hashes(&mount.path("acme/n"), PATIENCE), expected);
    assert_eq!(net.hub.log().of("/resolve").len(), sent, "files were requested that were here");
    until("it has a manifest", PATIENCE, || info_hash(&host, "acme/n").is_some());
    assert_eq!(cached_files(&host), 0, "the files are stored twice");
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn file_that_was_removed_with_its_model_is_fetched_again() {
    let (net, host) = reader();
    host.keep_daemon();
    mirror(&host, &["acme/m", "--no-auto-share"]).ok();
    // One file differs, so that this model does not get its manifest.
    net.repos.create("acme/n").commit(&net.tree("acme/n", "mit", 2));
    let mount = host.mount(&[]);
    let large = mount.path("acme/n/large.bin");
    assert_eq!(proof(&large), "sha256");
    host.run(&["remove", "acme/m", "--yes"]).ok();
    LARGE.with(|bytes| assert_eq!(fs::read(&large).unwrap(), *bytes));
    assert_eq!(net.hub.log().of("acme/n/resolve").len(), 1);
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn file_with_a_false_sha256_in_a_manifest_is_not_used() {
    let (net, host) = reader();
    host.keep_daemon();
    // A model with other bytes of this length, in whose manifest the hash is that of the hub.
    net.repos.create("evil/x").commit(&{
        let dir = net.tree("evil/x", "mit", 1);
        fs::OpenOptions::new().write(true).open(dir.join("large.bin")).unwrap().write_all(b"evil").unwrap();
        dir
    });
    let bob = net.host("bob", "");
    for model in ["evil/x", "acme/m"] {
        mirror(&bob, &[model, "--no-auto-share"]).ok();
    }
    let true_one = read(&mirrored(&bob, "acme/m").join(".silmaril.json"));
    let mut forged = read(&mirrored(&bob, "evil/x").join(".silmaril.json"));
    let hash = |manifest: &serde_json::Value| {
        let files = manifest["files"].as_array().unwrap();
        files.iter().find(|file| file["path"] == "large.bin").unwrap()["sha256"].clone()
    };
    let sha256 = hash(&true_one);
    assert_ne!(sha256, hash(&forged));
    for file in forged["files"].as_array_mut().unwrap() {
        if file["path"] == "large.bin" {
            file["sha256"] = sha256.clone();
        }
    }
    crate::support::manifests::sign(&mut forged, 7);
    import(&host, &write(host.home().join("forged.json"), &forged));
    let mount = host.mount(&[]);
    // Its bytes come from the hub, by the address in the manifest.
    assert_eq!(&fs::read(mount.path("evil/x/large.bin")).unwrap()[..4], b"evil");
    host.run(&["warm", "acme/m"]).ok();
    LARGE.with(|bytes| assert!(fs::read(mount.path("acme/m/large.bin")).unwrap() == *bytes, "wrong bytes"));
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn file_of_a_gated_model_is_not_read_in_a_model_that_lists_its_hash() {
    let net = HubNet::new();
    net.repos.create("acme/gated").commit(&net.tree("acme/gated", "mit", 2));
    net.small("evil/copy", "mit");
    net.repos.create("evil/second").commit(&net.tree("evil/second", "mit", 2));
    net.hub.set_access("acme/gated", Access::Gated);
    let host = net.host("alice", SHORT);
    host.keep_daemon();
    let member = mount_with(&host, "member", Some(MEMBER), &[]);
    let anonymous = mount_with(&host, "anonymous", None, &[]);
    let expected = fs::read(member.join("acme/gated/large.bin")).unwrap();
    assert_eq!(net.hub.log().sent("large.bin"), 3_000_000);
    assert_eq!(fs::read(anonymous.join("evil/copy/large.bin")).unwrap(), expected);
    assert_eq!(net.hub.log().sent("large.bin"), 6_000_000, "the bytes of the gated model were read");
    // Nor when the gated model has its manifest.
    let mut warm = host.silmaril(&["warm", "acme/gated"]);
    Finished::of(warm.env("HF_TOKEN", MEMBER), PATIENCE).ok();
    let sent = net.hub.log().sent("changing.bin");
    fs::read(anonymous.join("evil/second/sub/changing.bin")).unwrap();
    assert_eq!(
        net.hub.log().sent("changing.bin"),
        sent + 1_000_000,
        "the bytes of the gated model were read"
    );
    for point in [&member, &anonymous] {
        host.run(&["unmount", point.to_str().unwrap()]).ok();
    }
    host.stop_background_daemon();
}
