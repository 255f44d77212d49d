//! Mirrored models that are not shared, because of their licence, their hub or their user.

use std::path::Path;

use rustix::process::Signal;

use crate::support::host::Host;
use crate::support::hub::{Access, MEMBER, STRANGER};
use crate::support::mirror::{HubNet, mirror, mirror_and_share, mirror_command, mirrored, tree};
use crate::support::process::{Finished, PATIENCE};
use crate::support::repos::{Repo, What};

const M: &str = "acme/m";

/// Runs `mirror` to its end with a token.
fn mirror_as(host: &Host, token: &str, args: &[&str]) -> Finished {
    host.run_command(&mut mirror_command(host, args, Some(token)))
}

/// Whether host `other` finds a model, or gets it although it knows the manifest.
fn can_be_fetched(host: &Host, other: &Host, model: &str) -> bool {
    let _daemon = {
        let daemon = host.spawn(&["daemon", "-f"]);
        daemon.wait_for_line("running", PATIENCE);
        daemon
    };
    let found = other.run(&["discover", "--timeout", "4s", "--json", "--peer", &host.peer()]).ok();
    if found.contains(model) {
        return true;
    }
    let manifest = host.home().join("exported.json");
    host.run(&["registry", "export", model, "-o", manifest.to_str().unwrap()]).ok();
    other.run(&["registry", "import", manifest.to_str().unwrap()]).ok();
    let out = other.home().join("out");
    let mut get = other.silmaril(&["get", model, "-o", out.to_str().unwrap(), "--peer", &host.peer()]);
    let got = Finished::of(&mut get, PATIENCE).status.success();
    other.run(&["remove", model]).ok();
    got
}

/// A host that does not use the hub, and gives up soon.
fn peer_only(net: &HubNet, name: &str) -> Host {
    let host = net.host(name, "");
    host.configure("hub: {fallback: false}\ntorrent: {download_timeout: 6}\n");
    host
}

#[test]
fn a_restricted_licence_is_shared_only_with_the_users_claim() {
    let net = HubNet::new();
    net.small(M, "llama3.1");
    let (a, b) = (net.host("a", ""), peer_only(&net, "b"));
    let error = mirror(&a, &[M]).error(1);
    assert!(error.contains("acme/m is not shared: its licence"), "{error}");
    assert!(mirrored(&a, M).join("large.bin").exists());
    assert!(!can_be_fetched(&a, &b, M), "a withheld model was uploaded");
    let error = a.run(&["share", M]).error(1);
    assert!(error.contains("licence"), "{error}");
    // A second mirror of the model keeps the rule.
    mirror(&a, &[M]).error(1);

    let mut share = a.spawn(&["share", "-f", M, "--i-have-the-right-to-share"]);
    share.wait_for_line("seeding", PATIENCE);
    share.signal(Signal::INT);
    share.wait(PATIENCE);
    assert!(can_be_fetched(&a, &b, M));
}

#[test]
fn a_model_without_a_licence_is_shared_with_a_given_one() {
    let net = HubNet::new();
    net.small(M, "");
    let a = net.host("a", "");
    let error = mirror(&a, &[M]).error(1);
    assert!(error.contains("licence"), "{error}");
    drop(mirror_and_share(&a, &[M, "--license", "apache-2.0"]));
    let listed = a.run(&["list"]).ok();
    assert!(listed.contains("apache-2.0"), "{listed}");
}

#[test]
fn a_gated_repository_is_mirrored_for_members_and_not_shared() {
    let net = HubNet::new();
    net.small(M, "mit");
    net.hub.set_access(M, Access::Gated);
    let (a, b) = (net.host("a", ""), peer_only(&net, "b"));
    for run in [mirror(&a, &[M]), mirror_as(&a, STRANGER, &[M])] {
        let stderr = run.stderr.clone();
        let error = run.error(1);
        assert!(error.contains("gated"), "{error}");
        assert!(stderr.contains(&format!("{}/{M}", net.hub.url())), "{stderr}");
        assert!(!stderr.contains(STRANGER), "{stderr}");
    }
    assert!(!mirrored(&a, M).exists());

    let run = mirror_as(&a, MEMBER, &[M]);
    assert!(!run.stderr.contains(MEMBER) && !run.stdout.contains(MEMBER));
    let error = run.error(1);
    assert!(error.contains("acme/m is not shared") && error.contains("gated"), "{error}");
    assert!(mirrored(&a, M).join("large.bin").exists());
    assert!(!can_be_fetched(&a, &b, M), "a gated model was uploaded");

    // The token went to the hub only: not to the CDN, and not into the manifest.
    let log = net.hub.log();
    assert!(log.all().iter().any(|asked| asked.authorization.is_some()));
    assert!(log.all().iter().filter(|asked| asked.site == "cdn").all(|asked| asked.authorization.is_none()));
    let manifest = a.run(&["registry", "export", M]).ok();
    assert!(!manifest.contains(MEMBER), "{manifest}");

    let run = mirror_as(&a, MEMBER, &[M, "--i-have-the-right-to-share"]);
    assert!(run.ok().contains("seeding"));
    assert!(can_be_fetched(&a, &b, M));
}

#[test]
fn a_model_that_becomes_gated_is_uploaded_no_more() {
    let net = HubNet::new();
    net.small(M, "mit");
    let (a, b) = (net.host("a", ""), peer_only(&net, "b"));
    let daemon = a.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let share = mirror_and_share(&a, &[M]);
    let manifest = a.home().join("exported.json");
    a.run(&["registry", "export", M, "-o", manifest.to_str().unwrap()]).ok();
    b.run(&["registry", "import", manifest.to_str().unwrap()]).ok();
    let get = |out: &str| {
        let out = b.home().join(out);
        let args = ["get", M, "-o", out.to_str().unwrap(), "--include", "sub/*", "--peer", &a.peer()];
        b.run(&args)
    };
    get("before").ok();
    drop(share);

    net.hub.set_access(M, Access::Gated);
    let error = mirror_as(&a, MEMBER, &[M]).error(1);
    assert!(error.contains("gated"), "{error}");
    b.run(&["remove", M]).ok();
    b.run(&["registry", "import", manifest.to_str().unwrap()]).ok();
    std::fs::remove_dir_all(b.home().join("before")).unwrap();
    get("after").error(1);
}

#[test]
fn a_private_repository_is_mirrored_only_for_members() {
    let net = HubNet::new();
    net.small(M, "mit");
    net.hub.set_access(M, Access::Private);
    let a = net.host("a", "");
    let error = mirror(&a, &[M]).error(1);
    assert!(error.contains(M), "{error}");
    mirror_as(&a, STRANGER, &[M]).error(1);
    let error = mirror_as(&a, MEMBER, &[M]).error(1);
    assert!(error.contains("private"), "{error}");
    mirror_as(&a, MEMBER, &[M, "--no-auto-share"]).ok();
}

#[test]
fn no_auto_share_and_no_broadcast_are_obeyed() {
    let net = HubNet::new();
    net.small(M, "mit");
    net.small("acme/quiet", "mit");
    let (a, b) = (net.host("a", ""), peer_only(&net, "b"));
    mirror(&a, &[M, "--no-auto-share"]).ok();
    assert!(!can_be_fetched(&a, &b, M), "a model was shared without a request");
    let _share = a.spawn(&["share", "-f", M]);
    _share.wait_for_line("seeding", PATIENCE);
    drop(_share);
    assert!(can_be_fetched(&a, &b, M));

    let _quiet = mirror_and_share(&a, &["acme/quiet", "--no-broadcast"]);
    let found = b.run(&["discover", "--timeout", "4s", "--json", "--peer", &a.peer()]).ok();
    assert!(!found.contains("acme/quiet"), "{found}");
    // A host that has the manifest and the address gets it.
    a.run(&["registry", "export", "acme/quiet", "-o", a.home().join("quiet.json").to_str().unwrap()]).ok();
    b.run(&["registry", "import", a.home().join("quiet.json").to_str().unwrap()]).ok();
    b.run(&["get", "acme/quiet", "--peer", &a.peer()]).ok();
}

#[test]
fn pointers_are_reported_never_shared_and_replaced_later() {
    let net = HubNet::new();
    net.small(M, "mit");
    let a = net.host("a", "");
    let run = mirror(&a, &[M, "--skip-lfs"]);
    assert!(run.stderr.contains("pointers"), "{}", run.stderr);
    run.ok();
    let pointer = std::fs::read_to_string(mirrored(&a, M).join("large.bin")).unwrap();
    assert!(pointer.starts_with("version https://git-lfs"), "{pointer}");
    assert!(!net.hub.log().all().iter().any(|asked| asked.site == "cdn"), "large files were asked for");
    let dir = mirrored(&a, M);
    a.run(&["share", M]).error(1);
    let error = a.run(&["share", dir.to_str().unwrap(), "--name", M]).error(1);
    assert!(error.contains("large.bin"), "{error}");

    let _share = mirror_and_share(&a, &[M]);
    assert_eq!(std::fs::metadata(dir.join("large.bin")).unwrap().len(), 3_000_000);
}

/// The directory of a mirrored model has the files of a commit, with pointers for the large ones.
#[track_caller]
fn assert_commit_with_pointers(repo: &Repo, commit: &str, dir: &Path) {
    let files = repo.entries(commit).into_iter().filter(|entry| !matches!(entry.what, What::Directory));
    let expected: Vec<_> = files.map(|entry| (entry.path, repo.blob(&entry.oid))).collect();
    for (path, bytes) in &expected {
        assert_eq!(&std::fs::read(dir.join(path)).unwrap(), bytes, "{path}");
    }
    assert_eq!(tree(dir).len(), expected.len(), "{:?}", tree(dir).keys());
}

#[test]
fn a_mirror_with_pointers_is_updated_and_completed() {
    let net = HubNet::new();
    let repo = net.small(M, "mit");
    let a = net.host("a", "");
    let dir = mirrored(&a, M);
    mirror(&a, &[M, "--skip-lfs"]).ok();

    // The commit changes the card and a large file, deletes a file, and has a file where a directory was.
    let second = net.tree(M, "apache-2.0", 2);
    std::fs::remove_file(second.join("config.json")).unwrap();
    std::fs::remove_file(second.join("sub/a file+.json")).unwrap();
    std::fs::rename(second.join("sub/changing.bin"), second.join("moved.bin")).unwrap();
    std::fs::remove_dir(second.join("sub")).unwrap();
    std::fs::write(second.join("sub"), "now a file").unwrap();
    let commit = repo.commit(&second);
    mirror(&a, &[M, "--skip-lfs"]).ok();
    assert_commit_with_pointers(&repo, &commit, &dir);

    // `mirror` refuses to replace an edited file, and changes nothing. In this commit `sub` is a directory again.
    let third = net.tree(M, "cc-by-4.0", 3);
    std::fs::remove_file(third.join("config.json")).unwrap();
    repo.commit(&third);
    let ours = std::fs::read(dir.join("README.md")).unwrap();
    std::fs::write(dir.join("README.md"), "mine").unwrap();
    let before = tree(&dir);
    for args in [&[M, "--skip-lfs"][..], &[M]] {
        let error = mirror(&a, args).error(1);
        assert!(error.contains("README.md exists already and is another file"), "{error}");
        assert_eq!(tree(&dir), before);
    }

    // After the user has moved the file away, and with a file that only the user has, `mirror` succeeds.
    std::fs::remove_file(dir.join("README.md")).unwrap();
    std::fs::write(dir.join("notes.txt"), "mine").unwrap();
    drop(mirror_and_share(&a, &[M]));
    assert_eq!(std::fs::read(dir.join("notes.txt")).unwrap(), b"mine");
    std::fs::remove_file(dir.join("notes.txt")).unwrap();
    assert_eq!(tree(&dir), tree(&third));
    assert_ne!(std::fs::read(dir.join("README.md")).unwrap(), ours);
    // The model is an ordinary one now, and a further mirror updates it.
    let fourth = net.tree(M, "mit", 4);
    repo.commit(&fourth);
    drop(mirror_and_share(&a, &[M]));
    assert_eq!(tree(&dir), tree(&fourth));
}

#[test]
fn removing_a_mirror_with_pointers_keeps_edited_files() {
    let net = HubNet::new();
    net.small(M, "mit");
    let a = net.host("a", "");
    let dir = mirrored(&a, M);
    mirror(&a, &[M, "--skip-lfs"]).ok();
    std::fs::write(dir.join("README.md"), "mine").unwrap();
    a.run(&["remove", M]).ok();
    assert_eq!(tree(&dir).into_keys().collect::<Vec<_>>(), ["README.md"]);
    // The remaining file counts as a model that the user put there.
    let error = a.run(&["remove", M]).error(1);
    assert!(error.contains("is not shared; its files in"), "{error}");
    assert_eq!(tree(&dir).into_keys().collect::<Vec<_>>(), ["README.md"]);

    // While a daemon runs, and in `init --cleanup`.
    std::fs::remove_file(dir.join("README.md")).unwrap();
    {
        let daemon = a.spawn(&["daemon", "-f"]);
        daemon.wait_for_line("running", PATIENCE);
        mirror(&a, &[M, "--skip-lfs"]).ok();
        a.run(&["remove", M]).ok();
        assert!(!dir.exists());
        mirror(&a, &[M, "--skip-lfs"]).ok();
    }
    a.run(&["init", "--cleanup", "--yes"]).ok();
    assert!(!dir.exists());
}

#[test]
fn a_get_replaces_a_mirror_with_pointers() {
    let net = HubNet::new();
    let repo = net.small(M, "mit");
    let (a, b) = (net.host("a", ""), net.host("b", ""));
    let dir = mirrored(&a, M);
    mirror(&a, &[M, "--skip-lfs"]).ok();
    // The new state lacks a file of which the user has edited the former version.
    let next = net.tree(M, "mit", 2);
    std::fs::remove_file(next.join("config.json")).unwrap();
    std::fs::remove_file(next.join("sub/a file+.json")).unwrap();
    std::fs::write(dir.join("sub/a file+.json"), "mine").unwrap();
    repo.commit(&next);
    let _share = mirror_and_share(&b, &[M]);
    a.run(&["get", M, "--peer", &b.peer()]).ok();
    let edited = dir.join("sub/a file+.json");
    assert_eq!(std::fs::read_to_string(&edited).unwrap(), "mine");
    std::fs::remove_file(edited).unwrap();
    assert_eq!(tree(&dir), tree(&next));
    assert!(!a.base().join("resume/laid-out").exists(), "a record of the mirror is left");
}
