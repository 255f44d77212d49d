//! A model that was read from the hub completely is shared, as if it had been mirrored.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::rig::{LARGE, SHORT, commit, info_hash, listed, proof, read_at, reader};
use crate::support::fixtures::hashes;
use crate::support::mirror::{HubNet, mirror, mirrored, tree};
use crate::support::process::{PATIENCE, until};

#[test]
fn warmed_model_is_shared_with_a_second_host() {
    let (net, alice) = reader();
    let expected = hashes(&net.tree("acme/m", "mit", 1), PATIENCE);
    alice.keep_daemon();
    let mount = alice.mount(&[]);
    let path = mount.path("acme/m/large.bin");
    let open = fs::File::open(&path).unwrap();
    let mut start = [0; 100];
    open.read_exact_at(&mut start, 0).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(proof(&path), "hub");
    alice.run(&["warm", "acme/m"]).ok();
    assert_eq!(proof(&path), "piece");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the inode number changed");
    let mut rest = vec![0; 1_000_000];
    open.read_exact_at(&mut rest, 2_000_000).unwrap();
    LARGE.with(|large| assert_eq!(rest, large[2_000_000..]));
    let small = net.hub.log().of("large.bin").iter().position(|asked| asked.range.is_some());
    assert!(small.is_some());

    let bob = net.host("bob", "");
    mirror(&bob, &["acme/m", "--no-auto-share"]).ok();
    assert_eq!(
        info_hash(&alice, "acme/m"),
        info_hash(&bob, "acme/m"),
        "it is another torrent than that of `mirror`"
    );
    assert_eq!(listed(&alice, "acme/m")["shared"], true);

    net.unplug();
    let carol = net.host("carol", "");
    let theirs = carol.mount(&["--peer", &alice.peer()]);
    assert_eq!(hashes(&theirs.path("acme/m"), PATIENCE), expected);
    theirs.unmount();
    // Nothing is lost by a restart.
    mount.unmount();
    alice.stop_background_daemon();
    let mount = alice.mount(&[]);
    assert_eq!(hashes(&mount.path("acme/m"), PATIENCE), expected);
    mount.unmount();
    alice.stop_background_daemon();
}

#[test]
fn model_that_was_read_to_the_end_gets_its_manifest() {
    let net = HubNet::new();
    net.small("acme/m", "");
    let host = net.host("alice", SHORT);
    host.keep_daemon();
    let mount = host.mount(&[]);
    let expected = hashes(&net.tree("acme/m", "", 1), PATIENCE);
    assert_eq!(hashes(&mount.path("acme/m"), PATIENCE), expected);
    until("the model has a manifest", PATIENCE, || info_hash(&host, "acme/m").is_some());
    let model = listed(&host, "acme/m");
    assert_eq!((&model["shared"], &model["withheld"]), (&false.into(), &"licence".into()), "{model:#}");
    assert_eq!(hashes(&mount.path("acme/m"), PATIENCE), expected);
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn get_of_an_unshared_model_fetches_it_from_the_hub() {
    let (net, host) = reader();
    let expected = tree(&net.tree("acme/m", "mit", 1));
    let printed = host.run(&["get", "acme/m", "--seed=false"]).ok();
    assert!(printed.contains("over HTTP"), "{printed}");
    assert_eq!(tree(&mirrored(&host, "acme/m")), expected);
    let paths: Vec<_> = net.hub.log().of("/resolve/").iter().map(|asked| asked.path.clone()).collect();
    let large = paths.iter().position(|path| path.ends_with("large.bin")).unwrap();
    let config = paths.iter().position(|path| path.ends_with("config.json")).unwrap();
    assert!(config < large, "small files are not first: {paths:?}");
    let sent = net.hub.log().all().len();
    host.run(&["get", "acme/m", "--seed=false"]).ok();
    assert_eq!(net.hub.log().all().len(), sent, "a second `get` asked the hub");
}

#[test]
fn some_files_of_an_unshared_model_are_fetched() {
    let (net, host) = reader();
    let dest = host.home().join("dest");
    host.run(&["get", "acme/m", "--include", "*.json", "-o", dest.to_str().unwrap()]).ok();
    let got = hashes(&dest, PATIENCE);
    let expected = tree(&net.tree("acme/m", "mit", 1));
    assert_eq!(got.keys().collect::<Vec<_>>(), ["config.json", "sub/a file+.json"]);
    assert!(got.iter().all(|(path, hash)| expected[path] == *hash));
    assert_eq!(net.hub.log().sent("large.bin"), 0);
    assert_eq!(listed(&host, "acme/m")["shared"], false);
    host.run(&["remove", "acme/m", "--yes"]).ok();
    assert!(listed(&host, "acme/m").is_null());
}

#[test]
fn name_is_updated_on_request_only() {
    let net = HubNet::new();
    let repo = net.repos.create("acme/m");
    repo.commit(&net.tree("acme/m", "mit", 1));
    let first = repo.resolve("main").unwrap();
    let host = net.host("alice", SHORT);
    host.keep_daemon();
    let mount = host.mount(&[]);
    assert!(mount.path("acme/m/config.json").exists());
    repo.commit(&net.tree("acme/m", "mit", 2));
    let second = repo.resolve("main").unwrap();
    host.run(&["warm", "acme/m/config.json"]).ok();
    assert_eq!(commit(&host, "acme/m"), first);
    assert_eq!(listed(&host, "acme/m")["hub_is_ahead"], true);
    host.run(&["warm", "--update", "acme/m/config.json"]).ok();
    assert_eq!(commit(&host, "acme/m"), second);
    let expected = hashes(&net.tree("acme/m", "mit", 2), PATIENCE);
    until("the mount shows the new commit", PATIENCE, || hashes(&mount.path("acme/m"), PATIENCE) == expected);
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn cached_bytes_move_to_a_manifest_that_becomes_known() {
    let (net, alice) = reader();
    alice.keep_daemon();
    let mount = alice.mount(&[]);
    let large = mount.path("acme/m/large.bin");
    let bytes = fs::read(&large).unwrap();
    let inode = fs::metadata(&large).unwrap().ino();
    let bob = net.host("bob", "");
    mirror(&bob, &["acme/m", "--no-auto-share"]).ok();
    let manifest = mirrored(&bob, "acme/m").join(".silmaril.json");
    net.unplug();
    alice.run(&["registry", "import", manifest.to_str().unwrap()]).ok();
    until("the bytes have moved", PATIENCE, || proof(&large) == "piece");
    assert_eq!(fs::metadata(&large).unwrap().ino(), inode);
    assert_eq!(read_at(&large, 0, bytes.len()).unwrap(), bytes);
    let listing = alice.base().join("hub/acme/m/main.json");
    until("the commit of the hub is forgotten", PATIENCE, || !listing.exists());
    mount.unmount();
    alice.stop_background_daemon();
}
