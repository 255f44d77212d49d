//! The README names the commands, options and exit codes that the program has, and the links of all documents resolve.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cli::program::Home;

const README: &str = include_str!("../../README.md");
const DOCUMENTS: [&str; 10] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/ARCHITECTURE.md",
    "docs/CONFIGURATION.md",
    "docs/ENGINE.md",
    "docs/GUIDE.md",
    "docs/JSON.md",
    "docs/PROTOCOL.md",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The texts between backquotes.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of the table of commands: the commands, without arguments, and the whole row.
fn rows() -> Vec<(Vec<Vec<&'static str>>, &'static str)> {
    let table = README.split("| command | what it does |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
    let commands = |row: &'static str| {
        let cell = row.trim_start_matches("| ").split(" | ").next().unwrap();
        code(cell).map(|command| command.split(' ').take_while(is_word).collect()).collect()
    };
    table.lines().skip(1).map(|row| (commands(row), row)).collect()
}

/// The names of the options in a text, such as `--json`.
fn options(text: &str) -> BTreeSet<&str> {
    let option = |at: usize| {
        let name = &text[at..];
        let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(name.len());
        &name[..end]
    };
    let starts_here = |at: usize| !text[..at].ends_with(['-', '|']);
    text.match_indices("--")
        .map(|(at, _)| at)
        .filter(|at| starts_here(*at))
        .map(option)
        .filter(|o| o.len() > 2)
        .collect()
}

#[test]
fn every_command_is_in_the_table_with_its_options() {
    let home = Home::new();
    let help = home.run(&["-h"]).ok();
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let known: BTreeSet<String> =
        list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    let rows = rows();
    let named: BTreeSet<String> =
        rows.iter().flat_map(|(of, _)| of).map(|words| words[0].to_owned()).collect();
    assert_eq!(named, known);
    for (commands, row) in rows {
        let helps: Vec<String> =
            commands.iter().map(|words| home.run(&[&words[..], &["--help"]].concat()).ok()).collect();
        let accepted: BTreeSet<&str> = helps.iter().flat_map(|help| options(help)).collect();
        for option in options(row) {
            assert!(accepted.contains(option), "no command has {option} in: {row}");
        }
    }
}

#[test]
fn options_named_below_the_table_exist() {
    let home = Home::new();
    let text = README.split("`--config FILE`").nth(1).unwrap().split("Exit codes:").next().unwrap();
    let (peer, foreground) = text.split_once("`-f`").unwrap();
    for (text, option) in [(peer, "--peer"), (foreground, "--foreground")] {
        let commands: BTreeSet<&str> =
            code(text).filter(|c| c.bytes().all(|b| b.is_ascii_lowercase())).collect();
        assert!(commands.contains("share") && commands.contains("daemon"), "{option}: {commands:?}");
        for command in commands {
            let help = home.run(&[command, "--help"]).ok();
            assert!(options(&help).contains(option), "{command} has no {option}");
        }
    }
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let numbers = |text: &str| -> BTreeSet<u8> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
    };
    let help = Home::new().run(&["--help"]).ok();
    let of_help = numbers(help.split("Exit codes:").nth(1).unwrap());
    assert_eq!(of_help, BTreeSet::from([0, 1, 2, 3, 130]));
    let of_readme = numbers(README.split("Exit codes:").nth(1).unwrap().split("An error").next().unwrap());
    assert_eq!(of_readme, of_help);
}

#[test]
fn named_configuration_keys_exist() {
    let reference = read("docs/CONFIGURATION.md");
    let sections: BTreeSet<&str> = reference.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(sections.contains("network"), "{sections:?}");
    let mut found = 0;
    for document in ["README.md", "docs/GUIDE.md", "SECURITY.md", "CHANGELOG.md"] {
        for text in code(&read(document)) {
            let key = text.split(':').next().unwrap();
            let Some((section, name)) = key.split_once('.') else { continue };
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if sections.contains(section) && is_name && name != "yaml" {
                let heading = format!("\n### {section}.{name}\n");
                assert!(reference.contains(&heading), "{document} names {key}, which is no key");
                found += 1;
            }
        }
    }
    assert!(found > 20, "{found} keys were found");
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.trim().replace(' ', "-")
}

#[test]
fn links_of_documents_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in DOCUMENTS {
        let text = read(document);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = if file.is_empty() {
                root.join(document)
            } else {
                root.join(document).parent().unwrap().join(file)
            };
            assert!(path.exists(), "{document}: {link} does not exist");
            if !heading.is_empty() {
                let target = std::fs::read_to_string(&path).unwrap();
                let headings = target.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|a| a == heading);
                assert!(found, "{document}: {link} has no heading");
            }
        }
    }
    assert!(README.lines().count() < 200, "the README has {} lines", README.lines().count());
}
