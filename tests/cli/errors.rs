//! Errors that occur before any use of the network: one `error:` line, a `help:` line if there is a remedy, and the exit
//! code of the error's kind.

use super::program::Home;

#[test]
fn configuration_error_has_file_line_and_key() {
    let home = Home::new();
    let file = home.configure("network:\n  listen_port: 6881\n  max_connectoins: 5\n");
    let error = home.run(&["list"]).error(2);
    assert!(error.contains(&format!("{}:3: ", file.display())), "{error}");
    assert!(error.contains("max_connectoins") && error.contains("max_connections"), "{error}");
    home.configure("network:\n  listen_port: seven\n");
    let error = home.run(&["list"]).error(2);
    assert!(error.contains(&format!("{}:2: ", file.display())) && error.contains("listen_port"), "{error}");
    assert!(!home.path(".silmaril").exists(), "the base directory was made despite a bad configuration");
}

#[test]
fn given_configuration_must_exist() {
    let error = Home::new().run(&["--config", "nowhere.yaml", "list"]).error(2);
    assert!(error.contains("nowhere.yaml"), "{error}");
}

#[test]
fn names_are_checked_first() {
    let home = Home::new();
    for command in [
        &["get", "no word"][..],
        &["get", "a/b/c/d"],
        &["get", "../etc"],
        &["registry", "export", "a/.hidden"],
        &["share", ".", "--name", "one"],
        &["get", "a/b@"],
        &["get", "a/b", "--include", "[unclosed"],
    ] {
        let error = home.run(command).error(2);
        assert!(error.starts_with("error: invalid value"), "{command:?}: {error}");
    }
    assert!(home.files().is_empty());
}

#[test]
fn unknown_model_is_not_found() {
    let home = Home::new();
    let run = home.run(&["registry", "export", "acme/minilm"]);
    assert!(run.stderr.contains("help: "), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    assert_eq!(run.error(1), "error: no such model is known: acme/minilm");
}

#[test]
fn shared_directory_needs_a_name() {
    let home = Home::new();
    std::fs::create_dir(home.path("mine")).unwrap();
    let run = home.run(&["share", "./mine"]);
    assert!(run.stderr.contains("help: silmaril share ./mine --name ORG/NAME"), "{}", run.stderr);
    run.error(2);
    home.run(&["share", "./nowhere"]).error(1);
    home.run(&["share"]).error(2);
    home.run(&["share", "--all", "acme/minilm"]).error(2);
    home.run(&["share", "acme/minilm", "--license", "mit"]).error(2);
    home.run(&["share", "./mine", "--name", "a/b", "--piece-length", "5MB"]).error(2);
    assert!(!home.path(".silmaril").exists());
}

#[test]
fn peer_is_an_address_with_a_port() {
    for peer in ["192.0.2.1", "host:6881", "192.0.2.1:99999", ":1"] {
        let error = Home::new().run(&["get", "a/b", "--peer", peer]).error(2);
        assert!(error.contains(peer), "{error}");
    }
}

#[test]
fn error_has_the_path_of_a_bad_base_directory() {
    let home = Home::new();
    std::fs::write(home.path("file"), "").unwrap();
    let error = home.run(&["--home", "file/base", "list"]).error(1);
    assert!(error.contains("file/base"), "{error}");
}

#[test]
fn absent_daemon_is_an_error_with_a_hint() {
    let home = Home::new();
    for command in [&["status"][..], &["status", "--json"], &["warm", "acme/minilm"]] {
        let run = home.run(command);
        assert!(run.stderr.contains("help: `silmaril mount DIR`"), "{}", run.stderr);
        let error = run.error(1);
        assert!(error.contains("no silmaril is running on"), "{error}");
    }
}

#[test]
fn only_mounts_of_silmaril_can_be_unmounted() {
    let home = Home::new();
    std::fs::create_dir(home.path("dir")).unwrap();
    let error = home.run(&["unmount", "dir"]).error(1);
    assert!(error.contains("nothing is mounted at"), "{error}");
    home.run(&["unmount", "nowhere"]).error(1);
    let error = home.run(&["unmount", "/proc"]).error(1);
    assert!(error.contains("not a silmaril mount"), "{error}");
}

#[test]
fn mount_point_is_checked_before_the_daemon_starts() {
    let home = Home::new();
    let error = home.run(&["mount", "nowhere"]).error(1);
    assert!(error.contains("does not exist"), "{error}");
}

#[test]
fn error_has_the_name_of_a_bad_manifest() {
    let home = Home::new();
    home.run(&["registry", "import", "nowhere.json"]).error(1);
    for (name, bytes) in [("empty", &b""[..]), ("text.json", b"{\"name\": 7}"), ("torn.torrent", b"d4:infod")]
    {
        std::fs::write(home.path(name), bytes).unwrap();
        let error = home.run(&["registry", "import", name]).error(1);
        assert!(error.contains(name), "{error}");
    }
    assert_eq!(home.run(&["list", "--json"]).ok().trim(), "[]");
}

#[test]
fn errors_have_no_control_characters() {
    let home = Home::new();
    let error = home.run(&["share", "./\u{1b}[2Jx\u{202e}"]).error(1);
    assert!(!error.contains('\u{1b}') && !error.contains('\u{202e}'), "{error:?}");
}

#[test]
fn key_readable_by_other_users_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    home.run(&["key", "show"]).error(1);
    home.run(&["init"]).ok();
    let key = home.path(".silmaril/keys/publisher.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = home.run(&["key", "show"]).error(1);
    assert!(error.contains("chmod 600"), "{error}");
}
