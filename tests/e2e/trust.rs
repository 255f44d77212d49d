//! A name belongs to one publisher: a second one is refused until the user decides otherwise.

use std::path::Path;

use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::manifests::{read, sign, write};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::share::{Share, export, import, share};

const NAME: &str = "acme/tiny";

fn publish(host: &Host, seed: u64) -> Share {
    let dir = model_dir(&host.home().join("tiny"), &[("weights.bin", &noise(seed, 50_000))]);
    share(host, &dir, NAME, &[])
}

fn key(host: &Host) -> (String, String) {
    let shown: Value = serde_json::from_str(&host.run(&["key", "show", "--json"]).ok()).unwrap();
    let text = |field: &str| shown[field].as_str().unwrap().to_owned();
    (text("publisher"), text("fingerprint"))
}

/// The output of `registry import` when it refuses a manifest, with the help line.
#[track_caller]
fn try_import(host: &Host, manifest: &Path) -> String {
    let run = host.run(&["registry", "import", manifest.to_str().unwrap()]);
    let printed = run.stderr.clone();
    run.error(1);
    printed
}

#[test]
fn the_second_publisher_is_refused_until_the_pin_is_removed() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let (first, second) = (publish(&a, 1), publish(&b, 2));
    let ((_, first_print), (second_key, second_print)) = (key(&a), key(&b));
    import(&c, &first.manifest);
    // A running daemon applies the same rules, and changes that commands make meanwhile.
    let mounted = c.mount(&["--peer", &a.peer(), "--peer", &b.peer()]);
    let error = try_import(&c, &second.manifest);
    for part in [&first_print, &second_print, "silmaril trust remove"] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    let error = c.run(&["get", NAME, "--publisher", &second_key]).error(1);
    assert!(error.contains(&first_print) && error.contains(&second_print), "{error}");
    c.run(&["get", NAME, "--publisher", &first_print]).ok();
    // `remove` does not change who owns the name.
    c.run(&["remove", NAME, "--yes"]).ok();
    try_import(&c, &second.manifest);
    c.run(&["trust", "remove", NAME]).ok();
    c.run(&["trust", "add", &second_key, "--alias", "bob"]).ok();
    let imported = c.run(&["registry", "import", second.manifest.to_str().unwrap()]).ok();
    assert!(imported.contains(&format!("bob ({second_print})")), "{imported}");
    c.run(&["get", NAME, "--publisher", "bob"]).ok();
    assert!(c.run(&["list"]).ok().contains(&format!("bob ({second_print})")));
    try_import(&c, &first.manifest);
    mounted.unmount();
}

#[test]
fn no_model_is_shared_under_a_name_of_another_publisher() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let first = publish(&a, 1);
    import(&b, &first.manifest);
    let dir = model_dir(&b.home().join("mine"), &[("weights.bin", &noise(2, 50_000))]);
    let args = ["share", dir.to_str().unwrap(), "--name", NAME, "--license", "mit"];
    let error = b.run(&args).error(1);
    assert!(error.contains(&key(&a).1), "{error}");
}

#[test]
fn strict_trust_accepts_listed_publishers() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let published = publish(&a, 1);
    b.configure("security:\n  trust: strict");
    let error = try_import(&b, &published.manifest);
    assert!(error.contains("strict") && error.contains("silmaril trust add"), "{error}");
    b.run(&["trust", "add", &key(&a).0]).ok();
    import(&b, &published.manifest);
    let mut forged = read(&published.manifest);
    sign(&mut forged, 7);
    try_import(&b, &write(b.home().join("forged.json"), &forged));
}

#[test]
fn names_known_to_a_former_version_keep_their_publisher() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let (first, second) = (publish(&a, 1), publish(&b, 2));
    import(&c, &first.manifest);
    std::fs::remove_file(c.base().join("trust.yaml")).unwrap();
    try_import(&c, &second.manifest);
    let all: Value = serde_json::from_str(&c.run(&["trust", "list", "--json"]).ok()).unwrap();
    assert_eq!(all["names"][0]["publisher"], key(&a).0);
}

#[test]
fn a_model_whose_name_gets_another_owner_is_hidden() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let first = publish(&a, 1);
    import(&c, &first.manifest);
    let mounted = c.mount(&["--peer", &a.peer()]);
    assert!(mounted.path(NAME).exists());
    b.run(&["init"]).ok();
    c.run(&["trust", "remove", NAME]).ok();
    assert!(mounted.path(NAME).exists(), "no other publisher owns the name");
    c.run(&["trust", "add", &key(&b).0, "--name", NAME]).ok();
    until("the kernel looks the path up again", PATIENCE, || !mounted.path(NAME).exists());
    let error = c.run(&["get", NAME]).error(1);
    assert!(error.contains(&key(&b).1), "{error}");
    // The model of the new owner appears when it is announced.
    let second = publish(&b, 2);
    let got = || c.run(&["get", NAME]).status.success();
    until("the model of the other publisher is announced", PATIENCE, got);
    let weights = std::fs::read(c.base().join("models").join(NAME).join("weights.bin")).unwrap();
    assert_eq!(weights, noise(2, 50_000));
    drop(second);
    c.run(&["trust", "remove", NAME]).ok();
    until("the kernel looks the path up again", PATIENCE, || mounted.path(NAME).exists());
    mounted.unmount();
}

#[test]
fn models_of_a_replaced_key_are_signed_again() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let before = publish(&a, 1);
    let former = key(&a);
    a.run(&["key", "rotate"]).ok();
    let now = key(&a);
    // The running share continues under the new key.
    let after = export(&a, NAME);
    assert_eq!(read(&after)["publisher"], now.0);
    assert_eq!(read(&after)["torrent"], read(&before.manifest)["torrent"]);
    import(&b, &after);
    b.run(&["get", NAME, "--publisher", &now.1, "--peer", &a.peer()]).ok();
    drop(before);
    let all: Value = serde_json::from_str(&a.run(&["trust", "list", "--json"]).ok()).unwrap();
    assert_eq!(all["names"][0]["publisher"], now.0, "the name still belongs to the own key");
    assert_eq!(all["replaced"][0]["fingerprint"], former.1);
    let dir = a.home().join("tiny");
    let _again = share(&a, &dir, NAME, &["--version", "v2"]);
}
