//! Tests of the smaller commands, as a user or a script runs them.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;

use serde_json::Value;

use crate::support::fixtures::{hashes, model_dir, noise, wordllama};
use crate::support::host::Host;
use crate::support::net::{Net, sh};
use crate::support::process::{Finished, PATIENCE};
use crate::support::share::{import, share};

const NAME: &str = "dleemiller/wordllama";

fn json(host: &Host, args: &[&str]) -> Value {
    serde_json::from_str(&host.run(args).ok()).unwrap()
}

#[test]
fn init_makes_a_base_once_and_cleanup_deletes_only_that() {
    let a = Net::new().host("a");
    std::fs::remove_dir_all(a.home().join(".config")).unwrap();
    let base = a.home().join("other");
    let printed = a.run(&["init", "--path", base.to_str().unwrap()]).ok();
    assert!(printed.contains("made  base directory"), "{printed}");
    let mode = |path: &str| std::fs::metadata(base.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("keys/publisher.key")), (0o700, 0o600));
    let key = std::fs::read(base.join("keys/publisher.key")).unwrap();
    // The configuration that `init` writes can be read.
    a.run(&["init"]).ok();
    a.run(&["init", "--force", "--path", base.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(base.join("keys/publisher.key")).unwrap(), key, "the key was replaced");

    std::fs::write(base.join("notes.txt"), "mine").unwrap();
    let mine = model_dir(&base.join("models/acme/mine"), &[("w.bin", b"w")]);
    a.run(&["init", "--cleanup"]).error(2);
    assert!(base.join("keys").exists(), "deleted without asking");
    let listed = a.run(&["init", "--cleanup", "--yes"]).ok();
    assert!(listed.contains("registry") && !listed.contains("notes.txt"), "{listed}");
    assert!(!base.join("keys").exists());
    assert!(
        base.join("notes.txt").exists() && mine.join("w.bin").exists(),
        "cleanup deleted a file of the user"
    );
}

#[test]
fn list_and_status_report_local_models_as_json() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &[]);
    let own = json(&a, &["status", "--json"]);
    assert_eq!(own["pid"], shared.process.id());
    assert_eq!(own["transfers"][0]["model"], NAME);
    assert_eq!(own["transfers"][0]["cached_bytes"], 16_384_096);
    assert!(own["listening"].as_array().unwrap().iter().any(|l| l == &Value::from(a.peer())), "{own}");

    import(&b, &shared.manifest);
    let row = |complete: bool| {
        let rows = json(&b, &["list", "--json"]);
        let row = &rows.as_array().unwrap()[0];
        assert_eq!((&row["name"], &row["complete"]), (&Value::from(NAME), &Value::from(complete)));
        assert_eq!(row["cached_bytes"] == row["total_size"], complete);
        assert_eq!(rows.as_array().unwrap().len(), 1);
    };
    row(false);
    b.run(&["get", NAME, "--peer", &a.peer(), "--seed=false"]).ok();
    row(true);
    let table = b.run(&["list"]).ok();
    assert!(table.contains(NAME) && table.contains("100%") && table.contains("apache-2.0"), "{table}");
    let report = json(&b, &["get", NAME, "--json"]);
    assert_eq!((&report["downloaded"], &report["verified"]), (&Value::from(0), &Value::from(true)));
}

#[test]
fn verify_finds_damage_and_get_repairs_it() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let get = ["get", NAME, "--peer", &a.peer(), "--seed=false"];
    b.run(&get).ok();
    b.run(&["verify", NAME]).ok();

    let weights = b.base().join("models").join(NAME).join("l2_supercat_256.safetensors");
    let file = std::fs::OpenOptions::new().write(true).open(&weights).unwrap();
    file.write_all_at(b"rot", 5_000_000).unwrap();
    let error = b.run(&["verify", NAME]).error(1);
    assert!(error.contains("l2_supercat_256.safetensors"), "{error}");

    let before = b.received();
    let end = b.run(&get);
    let kept = "l2_supercat_256.safetensors.edited";
    assert!(end.stderr.contains(kept), "{}", end.stderr);
    end.ok();
    b.run(&["verify", NAME]).ok();
    let mut got = hashes(weights.parent().unwrap(), PATIENCE);
    got.remove(".silmaril.json");
    assert!(got.remove(kept).is_some(), "the damaged file was not kept");
    assert_eq!(got, hashes(&wordllama(), PATIENCE));
    assert!(b.received() - before < 4 << 20, "{} bytes for one bad piece", b.received() - before);
}

#[test]
fn remove_frees_space_and_keeps_files_shared_in_place() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, 3 << 20))]);
    let shared = share(&a, &dir, "acme/m", &[]);
    import(&b, &shared.manifest);
    b.run(&["get", "acme/m", "--peer", &a.peer(), "--seed=false"]).ok();
    b.run(&["remove", "acme/m"]).ok();
    assert!(!b.base().join("models/acme/m").exists());
    assert_eq!(b.run(&["list", "--json"]).ok().trim(), "[]");
    let used = sh(&format!("du -sk {} | cut -f1", b.base().display()));
    assert!(used.trim().parse::<u64>().unwrap() < 1024, "{used} KiB are left after remove");

    drop(shared);
    a.run(&["remove", "acme/m"]).ok();
    assert_eq!(
        std::fs::metadata(dir.join("w.bin")).unwrap().len(),
        3 << 20,
        "remove deleted the publisher's files"
    );
}

#[test]
fn warm_fetches_whole_files_ahead_of_readers() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    b.run(&["warm", mounted.path(NAME).to_str().unwrap()]).ok();
    drop(shared);
    assert_eq!(hashes(&mounted.path(NAME), PATIENCE), hashes(&wordllama(), PATIENCE));
}

#[test]
fn completions_and_manual_are_well_formed() {
    let a = Net::new().host("a");
    for (shell, check) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let script = a.run(&["completions", shell]).ok();
        for command in ["mount", "unmount", "share", "get", "registry"] {
            assert!(script.contains(command), "{shell} does not complete {command}");
        }
        if let Some(check) = check {
            let file = a.home().join("completions");
            std::fs::write(&file, script).unwrap();
            Finished::of(Command::new(check).arg("-n").arg(&file), PATIENCE).ok();
        }
    }
    let manual = a.run(&["man"]).ok();
    assert!(manual.contains(".TH silmaril 1") && manual.contains("silmaril-mount"), "{manual}");
    let version = a.run(&["--version"]).ok();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn a_closed_output_pipe_is_no_error() {
    let a = Net::new().host("a");
    let script = format!("set -o pipefail; '{}' man | head -c 1", env!("CARGO_BIN_EXE_silmaril"));
    let end = Finished::of(a.command("bash").args(["-c", &script]), PATIENCE);
    assert_eq!(end.stderr, "");
    end.ok();
}
