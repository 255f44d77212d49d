//! Reading does not pin: a mount pins no name and reports that. Readers are warned of files that run code.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc};

const NAME: &str = "acme/m";

fn publish(host: &Host, dir: &Path) -> Proc {
    let args = ["share", dir.to_str().unwrap(), "--name", NAME, "--license", "mit"];
    let sharing = host.spawn(&args);
    sharing.wait_for_line("seeding", PATIENCE);
    sharing
}

fn json(host: &Host, args: &[&str]) -> Value {
    serde_json::from_str(&host.run(args).ok()).unwrap()
}

fn names(host: &Host) -> usize {
    json(host, &["trust", "list", "--json"])["names"].as_array().unwrap().len()
}

fn trust_of(path: &Path) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(path, "user.silmaril.trust", &mut value[..]).unwrap();
    String::from_utf8(value[..len].to_vec()).unwrap()
}

#[test]
fn a_mount_pins_nothing_and_get_does() {
    let net = Net::new();
    let [a, b] = net.lan_hosts(["a", "b"]);
    let weights = noise(1, 200_000);
    let _sharing = publish(&a, &model_dir(&a.home().join("m"), &[("w.bin", &weights)]));
    let mounted = b.mount(&[]);
    assert!(fs::metadata(mounted.path(NAME)).unwrap().is_dir());
    assert!(fs::read(mounted.path("acme/m/w.bin")).unwrap() == weights);
    b.run(&["warm", NAME]).ok();
    assert_eq!(names(&b), 0, "the publisher of a model that was read is pinned");
    assert_eq!(trust_of(&mounted.path(NAME)), "not pinned");
    assert_eq!(trust_of(&mounted.path("acme/m/w.bin")), "not pinned");
    assert_eq!(json(&b, &["list", "--json"])[0]["pinned"], false);
    assert!(b.run(&["list"]).ok().contains("not pinned"));
    assert_eq!(json(&b, &["status", "--json"])["notes"][0]["pinned"], false);
    assert!(b.run(&["status"]).ok().contains("not pinned"));
    // A restart of the daemon does not pin the publisher, either.
    mounted.unmount();
    let mounted = b.mount(&["--no-resolve"]);
    assert!(fs::read(mounted.path("acme/m/w.bin")).unwrap() == weights);
    assert_eq!(names(&b), 0);
    b.run(&["get", NAME]).ok();
    assert_eq!(names(&b), 1);
    assert_eq!(json(&b, &["list", "--json"])[0]["pinned"], true);
    let pinned = || trust_of(&mounted.path(NAME)) == "pinned";
    crate::support::process::until("the mount reads the file again", PATIENCE, pinned);
    mounted.unmount();
}

#[test]
fn readers_are_warned_of_files_that_run_code() {
    let net = Net::new();
    let [a, b, c] = net.lan_hosts(["a", "b", "c"]);
    let pickle = [b"PK\x03\x04".as_slice(), &noise(1, 200_000)].concat();
    let files: &[(&str, &[u8])] = &[
        ("pytorch_model.bin", &pickle),
        ("weights.bin", &noise(2, 1000)),
        ("modeling_m.py", b"print('hello')"),
        ("config.json", br#"{"auto_map": {"AutoModel": "modeling_m.Model"}}"#),
    ];
    let _sharing = publish(&a, &model_dir(&a.home().join("m"), files));
    let got = b.run(&["get", NAME]);
    let warnings: Vec<&str> = got.stderr.lines().filter(|line| line.starts_with("warning")).collect();
    for part in ["pytorch_model.bin can run code", "modeling_m.py is Python", "config.json names Python"] {
        assert!(warnings.iter().any(|warning| warning.contains(part)), "no {part} in {warnings:?}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    got.ok();
    let kinds = serde_json::json!(["pickle", "python", "auto_map"]);
    assert_eq!(json(&b, &["list", "--json"])[0]["runs_code"], kinds);

    let mounted = c.mount(&[]);
    for (file, bytes) in files {
        assert!(fs::read(mounted.path(NAME).join(file)).unwrap() == *bytes, "{file}");
    }
    let log = || {
        let logs = fs::read_dir(c.base().join("log")).unwrap();
        logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap()).collect::<String>()
    };
    crate::support::process::until("all are logged", PATIENCE, || {
        log().matches("a file was opened that can run code").count() == 3
    });
    assert_eq!(json(&c, &["status", "--json"])["notes"][0]["runs_code"], kinds);
    assert!(c.run(&["status"]).ok().contains("pickle, python, auto_map"));
    mounted.unmount();
}
