//! Whole outputs of commands that need no network.

use super::program::Home;
use crate::support::transcript::Transcript;

const DORA: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

/// Runs commands one after another, and compares their outputs with the recorded ones.
#[track_caller]
fn compare(home: &Home, name: &str, commands: &[&[&str]]) {
    let mut transcript = Transcript::default();
    transcript.hide(&home.path("."), "[HOME]/.");
    transcript.hide(home.path("x").parent().unwrap(), "[HOME]");
    for args in commands {
        transcript.add(args, &home.run(args));
    }
    transcript.compare("cli", name);
}

#[test]
fn configuration_is_shown_whole() {
    let home = Home::new();
    compare(&home, "config", &[&["config", "show"], &["config", "show", "--json"]]);
}

#[test]
fn empty_base_is_listed_whole() {
    let home = Home::new();
    compare(
        &home,
        "empty",
        &[
            &["list"],
            &["list", "--json"],
            &["list", "--unshared"],
            &["registry", "list"],
            &["status"],
            &["stop"],
        ],
    );
}

#[test]
fn trust_is_shown_whole() {
    let home = Home::new();
    compare(
        &home,
        "trust",
        &[
            &["trust", "list"],
            &["trust", "add", DORA, "--alias", "dora", "--name", "acme/minilm"],
            &["trust", "list"],
            &["trust", "list", "--json"],
            &["trust", "remove", "stranger"],
            &["trust", "remove", "dora"],
            &["trust", "remove", "acme/minilm"],
            &["trust", "remove", "dora"],
            &["trust", "list"],
        ],
    );
}

#[test]
fn errors_are_shown_whole() {
    let home = Home::new();
    home.configure("network:\n  listen_port: 6881\n  max_connectoins: 5\n");
    let mut transcript = Transcript::default();
    transcript.hide(home.path("x").parent().unwrap(), "[HOME]");
    transcript.add(&["list"], &home.run(&["list"]));
    std::fs::remove_file(home.path(".config/silmaril/config.yaml")).unwrap();
    std::fs::create_dir(home.path("mine")).unwrap();
    for args in [
        &["get", "no word"][..],
        &["registry", "export", "acme/minilm"],
        &["registry", "import", "missing.json"],
        &["share", "./mine"],
        &["share", "./missing", "--name", "acme/mine"],
        &["verify", "acme/minilm"],
        &["remove", "acme/minilm"],
        &["unmount", "./mine"],
        &["mount", "./missing"],
        &["--config", "missing.yaml", "list"],
    ] {
        transcript.add(args, &home.run(args));
    }
    transcript.compare("cli", "errors");
}
