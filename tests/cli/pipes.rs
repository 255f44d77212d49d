//! A reader that closes its end early has seen enough: that is success, and nothing is said about it.

use std::io::Read;
use std::process::Stdio;

use super::program::Home;

#[test]
fn a_closed_pipe_is_success() {
    let home = Home::new();
    for command in [&["man"][..], &["completions", "zsh"], &["--help"], &["list", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child =
            home.command(command).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command:?}: {said}");
        assert_eq!(said, "", "{command:?}");
    }
}

#[test]
fn a_full_disk_is_not_success() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let home = Home::new();
    let output = home.command(&["man"]).stdin(Stdio::null()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: cannot write to standard output"));
}
