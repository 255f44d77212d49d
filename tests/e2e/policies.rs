//! Configuration that decides which publishers are trusted and which models are shown.

use crate::support::fixtures::{dd, model_dir, noise};
use crate::support::net::Net;
use crate::support::process::PATIENCE;
use crate::support::share::{import, share};

#[test]
fn strict_trust_accepts_only_the_own_key() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let theirs = model_dir(&a.home().join("theirs"), &[("weights.bin", &noise(1, 50_000))]);
    let published = share(&a, &theirs, "acme/theirs", &[]);
    b.configure("security:\n  trust: strict");
    b.run(&["init"]).ok();

    let error = b.run(&["registry", "import", published.manifest.to_str().unwrap()]).error(1);
    assert!(error.contains("strict"), "{error:?} does not name the policy");
    assert!(!b.run(&["registry", "list"]).ok().contains("acme/theirs"));

    let own = model_dir(&b.home().join("own"), &[("weights.bin", &noise(2, 50_000))]);
    let mine = share(&b, &own, "acme/own", &[]);
    import(&b, &mine.manifest);
}

#[test]
fn show_local_lists_read_models_and_finds_the_rest() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let one = model_dir(&a.home().join("one"), &[("weights.bin", &noise(1, 50_000))]);
    let published = share(&a, &one, "acme/one", &[]);
    import(&b, &published.manifest);
    b.configure("mount:\n  show: local");
    let mount = b.mount(&["--peer", &a.peer()]);

    let listed = || std::fs::read_dir(mount.path("")).unwrap().count();
    assert_eq!(listed(), 0, "the model has no cached byte");
    dd(&mount.path("acme/one/weights.bin"), 50_000, 0, 1, PATIENCE).ok();
    assert_eq!(listed(), 1);
}

#[test]
fn a_directory_inside_a_mount_is_not_shared() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let one = model_dir(&a.home().join("one"), &[("weights.bin", &noise(1, 50_000))]);
    let published = share(&a, &one, "acme/one", &[]);
    import(&b, &published.manifest);
    let mount = b.mount(&["--peer", &a.peer()]);

    // This holds for any daemon: the hosts of these tests see the mounts of other hosts.
    let shown = mount.path("acme/one");
    let args = ["share", shown.to_str().unwrap(), "--name", "acme/again", "--license", "mit"];
    let error = c.run(&args).error(1);
    assert!(error.contains("inside the silmaril mount"), "{error:?}");
}
