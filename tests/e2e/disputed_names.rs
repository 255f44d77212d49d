//! Two strangers publish different files under one name: neither is shown under the name, and both can be read by
//! fingerprint.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::{Host, Mounted};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};

const NAME: &str = "acme/contested";
const LEN: usize = 9 << 20;

fn key(host: &Host, field: &str) -> String {
    let shown: Value = serde_json::from_str(&host.run(&["key", "show", "--json"]).ok()).unwrap();
    shown[field].as_str().unwrap().to_owned()
}

fn publish(host: &Host, seed: u64) -> Proc {
    let dir = model_dir(&host.home().join("m"), &[("w.bin", &noise(seed, LEN))]);
    let args = ["share", dir.to_str().unwrap(), "--name", NAME, "--license", "mit"];
    let sharing = host.spawn(&args);
    sharing.wait_for_line("seeding", PATIENCE);
    sharing
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap()
}

fn path_by_publisher(mounted: &Mounted<'_>, publisher: &str) -> PathBuf {
    mounted.path(&format!(".by/{publisher}/{NAME}"))
}

fn kind(path: &Path) -> Option<ErrorKind> {
    fs::metadata(path).err().map(|e| e.kind())
}

fn reads(path: &Path, seed: u64) -> bool {
    fs::read(path.join("w.bin")).unwrap() == noise(seed, LEN)
}

#[test]
fn disputed_models_are_read_by_fingerprint_only() {
    let net = Net::new();
    let [a, b, c] = net.lan_hosts(["a", "b", "c"]);
    c.configure("  dht_enabled: false\nmount:\n  resolve_timeout: 60s\n");
    c.run(&["init"]).ok();
    let _sharing = [publish(&a, 1), publish(&b, 2)];
    let (one, two) = (key(&a, "fingerprint"), key(&b, "fingerprint"));
    let daemon = c.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let found = || c.run(&["discover", "contested", "--json"]).stdout;
    until("both are announced", PATIENCE, || found().contains(&one) && found().contains(&two));
    let mounted = c.mount(&[]);
    assert_eq!(kind(&mounted.path(NAME)), Some(ErrorKind::PermissionDenied));
    let reported = status(&c)["unresolved"][0].clone();
    assert_eq!(reported["model"], NAME);
    let paths: Vec<PathBuf> = serde_json::from_value(reported["paths"].clone()).unwrap();
    assert_eq!(paths.len(), 2, "{reported}");
    for (publisher, seed) in [(&one, 1), (&two, 2)] {
        assert!(paths.contains(&path_by_publisher(&mounted, publisher)), "{paths:?}");
        assert!(c.run(&["status"]).ok().contains(path_by_publisher(&mounted, publisher).to_str().unwrap()));
        assert!(reads(&path_by_publisher(&mounted, publisher), seed), "{publisher}");
    }
    // The whole key is accepted as well. A prefix of a key, and a publisher without models, are not.
    assert!(reads(&path_by_publisher(&mounted, &key(&a, "publisher")), 1));
    assert_eq!(kind(&path_by_publisher(&mounted, &key(&c, "fingerprint"))), Some(ErrorKind::NotFound));
    assert_eq!(kind(&path_by_publisher(&mounted, &one[..9])), Some(ErrorKind::NotFound));
    let listed = fs::read_dir(mounted.point()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(listed.into_iter().all(|name| name != ".by"), "programs that walk the tree see `.by`");
    // A choice by command ends the dispute. The other model stays readable by fingerprint.
    assert_eq!(kind(&mounted.path(NAME)), Some(ErrorKind::PermissionDenied));
    c.run(&["get", NAME, "--publisher", &two]).ok();
    until("the name is shown", PATIENCE, || mounted.path(NAME).exists());
    assert!(reads(&mounted.path(NAME), 2) && reads(&path_by_publisher(&mounted, &one), 1));
    mounted.unmount();
    c.run(&["remove", NAME, "--yes"]).ok();
    let left: Value = serde_json::from_str(&c.run(&["list", "--json"]).ok()).unwrap();
    assert_eq!(left, serde_json::json!([]));
}

#[test]
fn a_later_dispute_keeps_a_read_model_until_unmount() {
    let net = Net::new();
    let [a, b, c] = net.lan_hosts(["a", "b", "c"]);
    c.run(&["init"]).ok();
    let first = publish(&a, 1);
    let mounted = c.mount(&[]);
    let file = File::open(mounted.path(NAME).join("w.bin")).unwrap();
    let mut start = [0; 100];
    file.read_exact_at(&mut start, 0).unwrap();
    let _second = publish(&b, 2);
    until("the dispute is known", PATIENCE, || status(&c)["disputed"] != serde_json::json!([]));
    let (one, two) = (key(&a, "fingerprint"), key(&b, "fingerprint"));
    // The rest of an open file, and the name, stay with the first publisher, also when the mount updates its models.
    c.run(&["trust", "add", &key(&c, "publisher")]).ok();
    let mut end = [0; 100];
    file.read_exact_at(&mut end, LEN as u64 - 100).unwrap();
    assert_eq!(end[..], noise(1, LEN)[LEN - 100..]);
    assert!(reads(&mounted.path(NAME), 1));
    let disputed = status(&c)["disputed"][0].clone();
    assert_eq!(disputed["kept"]["fingerprint"], one.as_str(), "{disputed}");
    let shown = c.run(&["status"]).ok();
    assert!(shown.contains(&format!("disputed        {NAME}")) && shown.contains(&two), "{shown}");
    // `get` would pin one of two strangers, so it refuses.
    let refused = c.run(&["get", NAME]).error(1);
    assert!(refused.contains(&one) && refused.contains(&two), "{refused}");
    drop(file);
    mounted.unmount();
    let mounted = c.mount(&["--no-resolve"]);
    assert_eq!(kind(&mounted.path(NAME)), Some(ErrorKind::PermissionDenied));
    c.run(&["warm", NAME]).error(1);
    c.run(&["warm", path_by_publisher(&mounted, &one).to_str().unwrap()]).ok();
    assert!(reads(&path_by_publisher(&mounted, &one), 1));
    assert_eq!(status(&c)["disputed"][0]["kept"], Value::Null);
    drop(first);
    c.run(&["get", NAME, "--publisher", &one]).ok();
    until("the name is shown", PATIENCE, || mounted.path(NAME).exists());
    assert!(reads(&mounted.path(NAME), 1));
    mounted.unmount();
}
