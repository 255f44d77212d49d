//! `init` makes missing files and keeps existing ones; `--cleanup` deletes only the files that silmaril made.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::program::Home;
use crate::support::process::{Finished, PATIENCE};

#[test]
fn second_init_changes_nothing() {
    let home = Home::new();
    let output = home.run(&["init"]).ok();
    assert_eq!(output.matches("made").count(), 3, "{output}");
    let mode = |path| home.path(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(".silmaril"), 0o700);
    assert_eq!(mode(".silmaril/keys/publisher.key"), 0o600);
    let before = home.files();
    let fingerprint = |output: &str| output.lines().find(|l| l.contains("fingerprint")).unwrap().to_owned();
    let again = home.run(&["init"]).ok();
    assert_eq!(again.matches("kept").count(), 3, "{again}");
    assert_eq!(fingerprint(&again), fingerprint(&output));
    assert_eq!(home.files(), before);
    assert!(
        home.run(&["key", "show"]).ok().contains(fingerprint(&output).split_whitespace().last().unwrap())
    );
}

#[test]
fn force_replaces_the_configuration_and_keeps_the_key() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let key = std::fs::read(home.path(".silmaril/keys/publisher.key")).unwrap();
    let fresh = std::fs::read(home.path(".config/silmaril/config.yaml")).unwrap();
    home.configure("network: {listen_port: 7}\n");
    home.run(&["init"]).ok();
    assert_ne!(std::fs::read(home.path(".config/silmaril/config.yaml")).unwrap(), fresh);
    home.run(&["init", "--force"]).ok();
    assert_eq!(std::fs::read(home.path(".config/silmaril/config.yaml")).unwrap(), fresh);
    assert_eq!(std::fs::read(home.path(".silmaril/keys/publisher.key")).unwrap(), key);
}

#[test]
fn force_replaces_an_invalid_configuration() {
    let home = Home::new();
    home.configure("nonsense: true\n");
    home.run(&["init"]).error(2);
    assert!(!home.path(".silmaril").exists());
    home.run(&["init", "--force"]).ok();
    home.run(&["list"]).ok();
}

#[test]
fn path_is_the_base_directory_of_later_commands() {
    let home = Home::new();
    home.run(&["init", "--path", "other/base"]).ok();
    let key = home.run(&["key", "show", "--json"]).ok();
    let key: serde_json::Value = serde_json::from_str(&key).unwrap();
    assert_eq!(key["path"].as_str().unwrap(), home.path("other/base/keys/publisher.key").to_str().unwrap());
    assert!(!home.path(".silmaril").exists());
}

#[test]
fn failed_init_leaves_no_configuration() {
    let home = Home::new();
    std::fs::write(home.path("file"), "").unwrap();
    let error = home.run(&["init", "--path", "file/base"]).error(1);
    assert!(error.contains("file/base"), "{error}");
    assert_eq!(home.files().len(), 1, "{:?}", home.files().keys());
}

#[test]
fn cleanup_without_a_terminal_needs_yes() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let before = home.files();
    let run = home.run(&["init", "--cleanup"]);
    assert!(run.stdout.contains(home.path(".silmaril/keys").to_str().unwrap()), "{}", run.stdout);
    assert!(run.stderr.contains("help: --yes"), "{}", run.stderr);
    assert!(run.stderr.contains("publisher key"), "{}", run.stderr);
    run.error(2);
    assert_eq!(home.files(), before);
}

#[test]
fn cleanup_on_a_terminal_needs_confirmation() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let before = home.files();
    // Runs the command on a terminal and types the answer.
    let answer = |text: &str| {
        let program = env!("CARGO_BIN_EXE_silmaril");
        let line = format!("printf '{text}\\n' | script -qec '{program} init --cleanup' /dev/null");
        Finished::of(Command::new("sh").args(["-c", &line]).env_clear().env("HOME", home.path("")), PATIENCE)
    };
    let run = answer("n");
    assert!(
        run.stdout.contains("[y/N]") && run.stdout.contains("error: nothing was deleted"),
        "{}",
        run.stdout
    );
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(home.files(), before);
    answer("y").ok();
    assert!(!home.path(".silmaril").exists());
}

#[test]
fn cleanup_deletes_only_files_of_silmaril() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let mine = [
        ".silmaril/models/acme/mine/model.safetensors",
        ".silmaril/models/acme/copied/.silmaril.json",
        ".silmaril/notes.txt",
        ".config/other/config",
    ];
    for path in mine {
        std::fs::create_dir_all(home.path(path).parent().unwrap()).unwrap();
        std::fs::write(home.path(path), "{}").unwrap();
    }
    let output = home.run(&["init", "--cleanup", "--yes"]).ok();
    assert!(output.contains(home.path(".silmaril/keys").to_str().unwrap()), "{output}");
    let mut expected: Vec<_> = mine.into_iter().map(std::path::PathBuf::from).collect();
    expected.sort();
    assert_eq!(home.files().into_keys().collect::<Vec<_>>(), expected);
}

#[test]
fn cleanup_of_another_base_directory_keeps_the_configuration() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let file = home.path(".config/silmaril/config.yaml");
    let written = std::fs::read_to_string(&file).unwrap();
    let other = home.path("other");
    let other = other.to_str().unwrap();
    home.run(&["--home", other, "init"]).ok();
    let run = home.run(&["--home", other, "init", "--cleanup", "--yes"]);
    assert!(run.stderr.contains("of another base directory and is kept"), "{}", run.stderr);
    run.ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    assert!(!std::path::Path::new(other).exists());
}

#[test]
fn cleanup_deletes_everything_and_can_be_repeated() {
    let home = Home::new();
    home.run(&["init"]).ok();
    home.run(&["init", "--cleanup", "--yes"]).ok();
    assert!(!home.path(".silmaril").exists() && !home.path(".config/silmaril").exists());
    assert_eq!(home.run(&["init", "--cleanup", "--yes"]).ok(), "nothing to delete\n");
}

#[test]
fn cleanup_refuses_while_the_base_directory_is_locked() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let before = home.files();
    let paths = silmaril::paths::Paths::below(&home.path(".silmaril"));
    let held = silmaril::node::lock::NodeLock::take(&paths).unwrap();
    let error = home.run(&["init", "--cleanup", "--yes"]).error(1);
    assert!(error.contains("is using"), "{error}");
    drop(held);
    for file in before.keys() {
        assert!(home.files().contains_key(file), "{} is gone", file.display());
    }
}
