//! `snapshots/help.snap` has the help text of every command. The manual and the completions have every command.

use super::program::Home;
use crate::support::process::{Finished, PATIENCE};
use crate::support::transcript::Transcript;

/// Names of all commands, as the help lists them.
fn commands(home: &Home) -> Vec<String> {
    listed(&home.run(&["-h"]).ok())
}

/// The names of the commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let list = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    // The lines that continue a description are indented further.
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn help_of_every_command_is_as_recorded() {
    let home = Home::new();
    let mut transcript = Transcript::exact();
    let mut text = String::new();
    let mut add = |args: &[&str]| {
        let end = home.run(args);
        transcript.add(args, &end);
        let help = end.ok();
        text.push_str(&help);
        help
    };
    add(&["--help"]);
    for command in commands(&home) {
        let help = add(&[&command, "--help"]);
        assert!(help.contains(&format!("Usage: silmaril {command}")), "{help}");
        for nested in listed(&help).iter().filter(|nested| *nested != "help") {
            add(&[&command, nested, "--help"]);
        }
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 120, "too wide: {line}");
    }
    transcript.compare("cli", "help");
}

#[test]
fn no_arguments_show_the_help_and_are_wrong_usage() {
    let run = Home::new().run(&[]);
    assert_eq!(run.status.code(), Some(2));
    assert!(run.stderr.contains("Usage: silmaril [OPTIONS] <COMMAND>"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn version_is_that_of_the_package() {
    let version = Home::new().run(&["--version"]).ok();
    assert_eq!(version, format!("silmaril {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn manual_has_a_page_for_every_command() {
    let home = Home::new();
    let manual = home.run(&["man"]).ok();
    for command in commands(&home) {
        let title = format!(".TH silmaril-{command} 1");
        assert!(manual.contains(&title), "no {title:?} in the manual");
    }
    assert!(manual.contains(".TH silmaril-registry-import 1"), "no page of a nested command");
    assert!(!manual.contains("ready-on-stdout"), "a hidden option is in the manual");
}

#[test]
fn manual_is_installed_as_one_file_per_page() {
    let home = Home::new();
    // `make install` takes the program from the directory that it runs in.
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_silmaril"), home.path("silmaril")).unwrap();
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"), home.path("docs")).unwrap();
    let mut make = std::process::Command::new("make");
    let makefile = concat!(env!("CARGO_MANIFEST_DIR"), "/Makefile");
    make.args(["-f", makefile, "install", "PREFIX=/usr"])
        .arg(format!("DESTDIR={}", home.path("root").display()));
    make.current_dir(home.path("."));
    Finished::of(&mut make, PATIENCE).ok();
    let page = |name: &str| std::fs::read_to_string(home.path("root/usr/share/man/man1").join(name)).unwrap();
    for command in commands(&home) {
        let page = page(&format!("silmaril-{command}.1"));
        assert_eq!(page.matches("\n.TH ").count(), 1, "{page}");
        assert!(page.contains(&format!(".TH silmaril-{command} 1")), "{page}");
    }
    assert!(page("silmaril.1").contains("silmaril\\-get(1)"), "the first page refers to the other pages");
    page("silmaril-registry-import.1");
}

#[test]
fn completions_have_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completions", shell]).ok();
        for command in commands(&home) {
            assert!(script.contains(&command), "{shell} does not complete {command}");
        }
    }
    home.run(&["completions", "tcsh"]).error(2);
}

#[test]
fn completions_work_in_bash() {
    let home = Home::new();
    std::fs::write(home.path("completions"), home.run(&["completions", "bash"]).ok()).unwrap();
    let script = ". ./completions && COMP_WORDS=(silmaril un) COMP_CWORD=1 && _silmaril silmaril un && echo ${COMPREPLY[@]}";
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-c", script]).current_dir(home.path("."));
    let replies = Finished::of(&mut bash, PATIENCE).ok();
    assert_eq!(replies.trim(), "unmount");
}
