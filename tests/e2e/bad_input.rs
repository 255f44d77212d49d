//! Bad input: one clear `error:` line, the documented exit code (1 not found or refused, 2 usage), and no files left.

use std::path::Path;
use std::process::Command;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::mounts::is_mounted;
use crate::support::net::{Net, sh};
use crate::support::process::{Finished, PATIENCE, Proc};
use crate::support::share::share;

fn host() -> Host {
    Net::new().host("a")
}

/// Runs a command that must fail with this exit code and with this text in its error.
#[track_caller]
fn assert_fails(host: &Host, args: &[&str], code: i32, text: &str) {
    let error = host.run(args).error(code);
    assert!(
        error.to_lowercase().contains(&text.to_lowercase()),
        "{args:?}: {error:?} does not contain {text:?}"
    );
}

fn registry_is_empty(host: &Host) -> bool {
    host.run(&["registry", "list", "--json"]).ok().trim() == "[]"
}

#[test]
fn directories_that_cannot_be_shared() {
    let a = host();
    let home = a.home().to_owned();
    std::fs::create_dir(home.join("empty")).unwrap();
    std::fs::write(home.join("file"), "x").unwrap();
    model_dir(&home.join("ok"), &[("x", b"x")]);
    let with = |path: &str| ["share", path, "--name", "a/b", "--license", "mit"].map(str::to_owned);
    for (path, code, reason) in [("missing", 1, "missing"), ("empty", 1, "empty"), ("file", 1, "file")] {
        let args = with(path);
        assert_fails(&a, &args.iter().map(String::as_str).collect::<Vec<_>>(), code, reason);
    }
    for name in ["noslash", "a/b/c", "../b", "a/.hidden", "a/b c", "datasets/x", "a/", ""] {
        assert_fails(&a, &["share", "ok", "--name", name, "--license", "mit"], 2, "name");
    }
    assert_fails(&a, &["share", "./ok"], 2, "name");
    assert_fails(&a, &["share", "ok", "--name", "a/b", "--piece-length", "5MB"], 2, "power of two");
    assert_fails(&a, &["share", "a/unknown"], 1, "a/unknown");
    assert_fails(&a, &["share", "--all"], 1, "no model to share");
    assert!(registry_is_empty(&a));
}

#[test]
fn an_exported_manifest_has_no_terminal_escapes() {
    let a = host();
    model_dir(&a.home().join("m"), &[("w", b"x")]);
    let share = ["share", "m", "--name", "a/b", "--license", "mit", "--sign=false"];
    let mut sharing = a.spawn(&share);
    sharing.wait_for_line("seeding", PATIENCE);
    sharing.signal(rustix::process::Signal::INT);
    sharing.wait(PATIENCE);
    let tricks = "safe\u{1b}[2J\u{9b}31m\u{202e}gpj.exe";
    let mut manifest: serde_json::Value =
        serde_json::from_str(&a.run(&["registry", "export", "a/b"]).ok()).unwrap();
    manifest["description"] = tricks.into();
    manifest["x_unknown_field"] = tricks.into();
    std::fs::write(a.home().join("evil.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    a.run(&["registry", "import", "evil.json"]).ok();
    let file = a.home().join("out.json");
    a.run(&["registry", "export", "a/b", "-o", file.to_str().unwrap()]).ok();
    for text in [a.run(&["registry", "export", "a/b"]).ok(), std::fs::read_to_string(&file).unwrap()] {
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text:?}");
        let exported: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(exported["description"], tricks);
        assert_eq!(exported["x_unknown_field"], tricks);
    }
    manifest["files"][0]["path"] = "gpj.\u{202e}exe".into();
    std::fs::write(a.home().join("evil.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    assert_fails(&a, &["registry", "import", "evil.json"], 1, "direction");
}

#[test]
fn yaml_bombs_are_refused_and_named() {
    let a = host();
    let deep = "[ # ]\n".repeat(100_000);
    std::fs::create_dir_all(a.base()).unwrap();
    let trust = a.base().join("trust.yaml");
    std::fs::write(&trust, &deep).unwrap();
    assert_fails(&a, &["trust", "list"], 1, "trust.yaml");
    std::fs::remove_file(&trust).unwrap();
    std::fs::write(a.home().join("m.yaml"), &deep).unwrap();
    assert_fails(&a, &["registry", "import", "m.yaml"], 1, "nested deeper than 64 levels");
    std::fs::write(a.home().join("c.yaml"), &deep).unwrap();
    assert_fails(
        &a,
        &["--config", "c.yaml", "list"],
        2,
        "c.yaml:65: collections are nested deeper than 64 levels",
    );
}

#[test]
fn a_directory_with_an_unreadable_file_is_not_shared_in_part() {
    let a = host();
    model_dir(&a.home().join("m"), &[("readable", b"x"), ("secret", b"y")]);
    let args = ["share", "m", "--name", "a/b", "--license", "mit"];
    let mut command = a.silmaril_unprivileged(&args);
    sh(&format!("chown root {0}; chmod 000 {0}", a.home().join("m/secret").display()));
    let error = Finished::of(&mut command, PATIENCE).error(1);
    assert!(error.contains("secret"), "{error}");
    let listed = Finished::of(&mut a.silmaril_unprivileged(&["registry", "list", "--json"]), PATIENCE).ok();
    assert_eq!(listed.trim(), "[]");
}

#[test]
fn broken_and_circular_links_are_not_shared() {
    let a = host();
    for (link, target) in [("gone", "nowhere"), ("up", ".."), ("self", "self")] {
        let dir = model_dir(&a.home().join(format!("m-{link}")), &[("sub/w.bin", b"x")]);
        std::os::unix::fs::symlink(target, dir.join("sub").join(link)).unwrap();
        assert_fails(&a, &["share", dir.to_str().unwrap(), "--name", "a/b", "--license", "mit"], 1, link);
    }
    assert!(registry_is_empty(&a));
}

#[test]
fn weights_with_an_invalid_header_are_shared_with_a_warning() {
    let a = host();
    let overlap = br#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#;
    let overlapping = [&(overlap.len() as u64).to_le_bytes()[..], overlap, &[0; 24]].concat();
    let dir = model_dir(&a.home().join("m"), &[("model.safetensors", &overlapping)]);
    let shared = a.spawn(&["share", "-f", dir.to_str().unwrap(), "--name", "a/m", "--license", "mit"]);
    shared.wait_for_line("warning: ", PATIENCE);
    shared.wait_for_line("seeding", PATIENCE);
    let manifest = crate::support::manifests::read(&crate::support::share::export(&a, "a/m"));
    assert_eq!(manifest["parameters"], serde_json::Value::Null);
}

#[test]
fn incomplete_models_are_not_published() {
    let a = host();
    let longer_than_file = [&100_u64.to_le_bytes()[..], b"{\"a\":"].concat();
    let whole = [&2_u64.to_le_bytes()[..], b"{}"].concat();
    let index = br#"{"weight_map":{"a":"model.safetensors","b":"model-2.safetensors"}}"#;
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(Files<'_>, &str); 5] = [
        (&[("model.safetensors", &longer_than_file)], "model.safetensors"),
        (
            &[("model.safetensors", &whole), ("model.safetensors.index.json", index)],
            "model-2.safetensors is missing",
        ),
        (
            &[("model.safetensors", &whole), ("model.safetensors.aria2", b"\0\x01")],
            "model.safetensors.aria2 (aria2)",
        ),
        (
            &[("model.safetensors", &whole), (".cache/huggingface/download/x.incomplete", b"x")],
            ".cache/huggingface/download/x.incomplete",
        ),
        (&[("a", b""), ("b", b"")], "all files are empty"),
    ];
    for (i, (files, part)) in cases.iter().enumerate() {
        let dir = model_dir(&a.home().join(format!("m{i}")), files);
        let end = a.run(&["share", dir.to_str().unwrap(), "--name", "a/b", "--license", "mit"]);
        assert!(i == 4 || end.stderr.contains("help: "), "{}", end.stderr);
        let error = end.error(1);
        assert!(error.contains(part), "{error:?} does not name {part:?}");
    }
    let dir = model_dir(&a.home().join("padded"), &[("_____padding_file_0_x", b"x")]);
    let share = ["share", dir.to_str().unwrap(), "--name", "_a/_b", "--license", "mit"];
    let end = a.run(&[&share[..], &["--hybrid"]].concat());
    assert!(end.stderr.contains("share without `--hybrid`"), "{}", end.stderr);
    assert!(end.error(1).contains("_____padding_file_0_x"));
    assert!(registry_is_empty(&a));
    a.spawn(&share).wait_for_line("seeding _a/_b", PATIENCE);
}

#[test]
fn unknown_models_are_not_found() {
    let a = host();
    let out = a.home().join("out");
    for args in [
        &["get", "acme/none"][..],
        &["get", "acme/none@v1", "-o", out.to_str().unwrap()],
        // A name of one word is a name at the hub.
        &["get", "none"],
        &["verify", "acme/none"],
        &["remove", "acme/none"],
        &["registry", "export", "acme/none"],
    ] {
        assert_fails(&a, args, 1, "/none");
    }
    for args in
        [&["get", "no ne"][..], &["verify", "../x"], &["get", "a/b", "--peer", "nowhere"], &["frobnicate"]]
    {
        a.run(args).error(2);
    }
    assert!(!out.exists());
}

#[test]
fn unusable_mount_points_are_refused() {
    let a = host();
    let home = a.home();
    std::fs::write(home.join("file"), "x").unwrap();
    model_dir(&home.join("full"), &[("x", b"x")]);
    std::fs::create_dir(home.join("busy")).unwrap();
    sh(&format!("mount -t tmpfs tmpfs {}", home.join("busy").display()));
    for (point, reason) in
        [("missing", "does not exist"), ("file", "directory"), ("full", "empty"), ("busy", "busy")]
    {
        for mode in [&["mount", point][..], &["mount", point, "-f"]] {
            let end = a.run(mode);
            let stderr = end.stderr.to_lowercase();
            let error = end.error(1);
            assert!(
                stderr.contains(reason) || stderr.contains("mounted"),
                "{mode:?}: {error:?} does not contain {reason:?}"
            );
        }
    }
    for point in ["missing", "file", "full"] {
        assert!(!is_mounted(&home.join(point)));
    }
    assert_fails(&a, &["unmount", "full"], 1, "full");
    assert_fails(&a, &["unmount", "missing"], 1, "missing");
    assert_fails(&a, &["status"], 1, "no silmaril is running");
}

#[test]
fn a_configuration_with_a_mistake_names_file_and_line() {
    let a = host();
    for (text, line) in [
        ("networks: {}\n", 1),
        ("network:\n  listen_port: 6881\n  lisen_adress: x\n", 3),
        ("network:\n  listen_port: many\n", 2),
        ("network:\n  listen_port: 70000\n", 2),
        ("mount:\n  read_timeout: 10m\n  readahead_max: lots\n", 3),
        ("cache:\n  max_size: 150%\n", 2),
        ("network:\n  encryption: maybe\n", 2),
        ("network: [\n", 0),
    ] {
        let file = a.home().join("bad.yaml");
        std::fs::write(&file, text).unwrap();
        let error = a.run(&["--config", file.to_str().unwrap(), "list"]).error(2);
        let place = if line > 0 { format!("bad.yaml:{line}") } else { "bad.yaml".to_owned() };
        assert!(error.contains(&place), "{text:?}: {error:?} does not name {place}");
    }
    assert_fails(&a, &["--config", "/nonexistent/config.yaml", "list"], 2, "/nonexistent/config.yaml");
}

#[test]
fn a_port_in_use_is_an_error() {
    let a = host();
    let script = "import socket, time\n\
        s = socket.create_server(('', 6881)); u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('', 6881))\n\
        print('bound', flush=True); time.sleep(1000)";
    let other = Proc::spawn(a.command("/usr/bin/python3").args(["-c", script]));
    other.wait_for_line("bound", PATIENCE);
    let dir = model_dir(&a.home().join("m"), &[("x", b"x")]);
    assert_fails(&a, &["share", dir.to_str().unwrap(), "--name", "a/b", "--license", "mit"], 1, "6881");
    let point = a.home().join("mnt");
    std::fs::create_dir(&point).unwrap();
    assert_fails(&a, &["mount", point.to_str().unwrap()], 1, "6881");
    assert!(!is_mounted(&point));
}

#[test]
fn a_base_directory_that_cannot_be_written_is_an_error() {
    let a = host();
    let unprivileged = |args: &[&str]| Finished::of(&mut a.silmaril_unprivileged(args), PATIENCE);
    model_dir(&a.home().join("m"), &[("x", b"x")]);
    let closed = a.home().parent().unwrap().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let closed = closed.to_str().unwrap();
    for args in [&["init"][..], &["share", "m", "--name", "a/b", "--license", "mit"], &["list"]] {
        let error = unprivileged(&[&["--home", closed], args].concat()).error(1);
        assert!(error.contains(closed), "{args:?}: {error}");
    }
}

#[test]
fn cleanup_is_refused_while_a_daemon_runs() {
    let a = host();
    let dir = model_dir(&a.home().join("m"), &[("x", &noise(1, 1000))]);
    let mut first = share(&a, &dir, "a/b", &[]);
    assert_fails(&a, &["init", "--cleanup", "--yes"], 1, &first.process.id().to_string());
    first.process.assert_running();
    assert!(dir.join("x").exists() && a.base().exists());
}

/// Runs a script on the host in a mount namespace of its own.
fn in_own_mounts(host: &Host, script: &str) -> Finished {
    let mut command: Command = host.command("unshare");
    Finished::of(command.args(["-m", "sh", "-euc", script]), PATIENCE)
}

#[test]
fn a_missing_fuse_device_or_helper_is_named() {
    let a = host();
    sh(&format!("mkdir {0}/mnt; chown 65534:65534 {0}/mnt", a.home().display()));
    let program = env!("CARGO_BIN_EXE_silmaril");
    let no_device = format!(
        "mkdir dev; mount -t tmpfs tmpfs dev; \
         for n in null zero urandom; do touch dev/$n; mount --bind /dev/$n dev/$n; done; \
         mount --rbind dev /dev; exec '{program}' mount mnt"
    );
    let error = in_own_mounts(&a, &no_device).error(1);
    assert!(error.contains("/dev/fuse"), "{error}");

    // Makes the copy of the program that an unprivileged user may execute.
    Finished::of(&mut a.silmaril_unprivileged(&["init"]), PATIENCE).ok();
    let copy = a.home().parent().unwrap().join("silmaril");
    let copy = copy.display();
    let no_helper = format!(
        "for f in fusermount3 fusermount; do for d in /bin /usr/bin; do \
             if [ -e $d/$f ]; then mount --bind /dev/null $d/$f; fi; done; done; \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups -- {copy} mount mnt"
    );
    let error = in_own_mounts(&a, &no_helper).error(1);
    assert!(error.contains("fusermount3"), "{error}");
    assert!(!is_mounted(Path::new(&a.home().join("mnt"))));
}
