//! Names as people write them, and as the hub maps them.

use std::fs;
use std::path::Path;

use super::rig::{LARGE, listed, reader};
use crate::support::mirror::mirror;

#[test]
fn name_of_one_word_is_mapped_as_by_the_hub() {
    let (net, host) = reader();
    net.hub.moved("gpt2", "acme/m");
    let mount = host.mount(&[]);
    LARGE.with(|large| assert!(fs::read(mount.path("_/gpt2/large.bin")).unwrap() == *large));
    assert_eq!(fs::read_link(mount.path("_/gpt2")).unwrap(), Path::new("../acme/m"));
    assert!(!mount.path("_/gpt3").exists());
    mount.unmount();
    let dest = host.home().join("dest");
    host.run(&["get", "gpt2", "--seed=false", "-o", dest.to_str().unwrap()]).ok();
    LARGE.with(|large| assert!(fs::read(dest.join("large.bin")).unwrap() == *large));
    assert!(listed(&host, "acme/m")["info_hash"].is_string());
}

#[test]
fn mirror_of_a_former_name_has_the_present_one() {
    let (net, host) = reader();
    net.hub.moved("gpt2", "acme/m");
    net.hub.moved("old/m", "acme/m");
    let first = net.repos.find("acme/m").unwrap().resolve("main").unwrap();
    net.repos.find("acme/m").unwrap().branch("v1", &first);
    for (former, model) in [("gpt2", "acme/m"), ("old/m@v1", "acme/m@v1")] {
        mirror(&host, &[former, "--no-auto-share"]).ok();
        assert!(listed(&host, model)["complete"] == true, "{former}");
    }
    mirror(&host, &["old/m", "--no-auto-share", "--name", "old/m"]).ok();
    assert!(listed(&host, "old/m")["complete"] == true);
    let unknown = mirror(&host, &["gpt3", "--no-auto-share"]);
    assert!(unknown.stderr.contains("gpt3"), "{}", unknown.stderr);
}

#[test]
fn model_without_organisation_has_the_directory_of_such_models() {
    let (net, host) = reader();
    net.small("solo", "mit");
    host.keep_daemon();
    let mount = host.mount(&[]);
    LARGE.with(|large| assert!(fs::read(mount.path("_/solo/large.bin")).unwrap() == *large));
    assert!(fs::symlink_metadata(mount.path("_/solo")).unwrap().is_dir());
    host.run(&["warm", "_/solo"]).ok();
    assert_eq!(listed(&host, "_/solo")["shared"], true);
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn tags_branches_and_commits_are_revisions() {
    let (net, host) = reader();
    let repo = net.repos.find("acme/m").unwrap();
    let first = repo.resolve("main").unwrap();
    repo.branch("v1.0", &first);
    repo.branch("refs/pr/3", &first);
    repo.commit(&net.tree("acme/m", "mit", 2));
    let mount = host.mount(&[]);
    let changing = |name: &str| fs::read(mount.path(name).join("sub/changing.bin")).unwrap();
    let old = changing("acme/m@v1.0");
    let new = changing("acme/m");
    assert!(old != new, "the name means another revision than main");
    for same in [format!("acme/m@{first}"), "acme/m@refs-pr-3".to_owned()] {
        assert!(changing(&same) == old, "{same}");
    }
    // Files that these revisions have in common are fetched once.
    for name in ["acme/m", "acme/m@v1.0"] {
        assert_eq!(fs::read(mount.path(name).join("large.bin")).unwrap().len(), 3_000_000);
    }
    assert_eq!((net.hub.log().sent("large.bin"), net.hub.log().sent("changing.bin")), (3_000_000, 2_000_000));
    mount.unmount();
}

#[test]
fn redirect_of_a_name_to_another_host_is_refused() {
    let (net, host) = reader();
    net.hub.moved("acme/away", net.hub.cdn_url());
    let mount = host.mount(&[]);
    assert!(!mount.path("acme/away").exists());
    let log = net.hub.log();
    assert_eq!(log.of("acme/away").len(), 1, "the redirect was followed: {:#?}", log.of("acme/away"));
    mount.unmount();
}
