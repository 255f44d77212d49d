//! Output on a terminal: lines fit its width, and names and fingerprints are not broken.

use std::process::Command;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE};
use crate::support::share::share;

/// 80 characters.
const LONG: &str = "an-organisation-with-a-long-name/a-model-with-a-name-of-the-usual-kind-0.5b-chat";
const SHORT: &str = "acme/minilm";

/// Runs the program on a terminal of so many columns. Its output is what the terminal receives.
fn on_terminal(host: &Host, columns: usize, args: &[&str]) -> Finished {
    let program: Vec<_> =
        [env!("CARGO_BIN_EXE_silmaril")].iter().chain(args).map(|a| format!("'{a}'")).collect();
    let line = format!("stty cols {columns} rows 24; exec {}", program.join(" "));
    let mut command: Command = host.command("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
    Finished::of(&mut command, PATIENCE)
}

/// All lines that were drawn, including lines that later ones replaced, without escape sequences.
fn lines(output: &str) -> Vec<String> {
    let mut text = String::new();
    for (number, part) in output.split('\u{1b}').enumerate() {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
        text.push_str(if number == 0 { part } else { &part[end..] });
        text.push('\n');
    }
    text.split(['\r', '\n']).map(|line| line.trim_end().to_owned()).collect()
}

#[track_caller]
fn assert_fits(lines: &[String], columns: usize) {
    for line in lines {
        assert!(line.chars().count() <= columns, "wider than {columns}: {line}");
    }
}

#[test]
fn status_and_list_fit_narrow_and_wide_terminals() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    assert_eq!(LONG.len(), 80);
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, 300_000))]);
    let _long = share(&a, &dir, LONG, &[]);
    let _short = share(&a, &dir, SHORT, &[]);
    for name in [LONG, SHORT] {
        b.run(&["get", name, "--peer", &a.peer()]).ok();
    }
    let key: serde_json::Value = serde_json::from_str(&a.run(&["key", "show", "--json"]).ok()).unwrap();
    let fingerprint = key["fingerprint"].as_str().unwrap();
    for columns in [80, 200] {
        for command in ["status", "list"] {
            let shown = lines(&on_terminal(&a, columns, &[command]).ok());
            assert_fits(&shown, columns);
            let head = shown.iter().position(|line| line.starts_with("MODEL")).unwrap();
            let table: Vec<&String> = shown[head + 1..].iter().filter(|line| !line.is_empty()).collect();
            for name in [LONG, SHORT] {
                let rows = table.iter().filter(|line| line.split(' ').next() == Some(name)).count();
                assert_eq!(rows, 1, "{command} at {columns}: {shown:#?}");
            }
            // A model has one line, and two more for text that does not fit. The long name has a line of its own.
            assert!(table.len() <= if columns == 80 { 7 } else { 5 }, "{command} at {columns}: {shown:#?}");
        }
        let shown = on_terminal(&b, columns, &["list"]).ok();
        assert_eq!(shown.matches(fingerprint).count(), 2, "{shown}");
    }
}

#[test]
fn bars_fit_the_terminal_and_show_the_remaining_time() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, 8_000_000))]);
    let _shared = share(&a, &dir, LONG, &["--piece-length", "64KiB"]);
    a.limit_rate("16mbit");
    let shown = lines(&on_terminal(&b, 60, &["get", LONG, "--peer", &a.peer()]).ok());
    let bars: Vec<String> = shown.into_iter().filter(|line| line.contains('%')).collect();
    assert_fits(&bars, 59);
    assert!(bars.iter().any(|bar| bar.contains("% ") && bar.ends_with("s left")), "{bars:#?}");
}
