//! Hosts whose limit on open files is low.

use std::process::Command;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc};
use crate::support::share::{export, import};

const FILES: usize = 400;

/// The program on a host with a limit on open files that it cannot raise.
fn limited(host: &Host, args: &[&str]) -> Command {
    let mut command = host.command("prlimit");
    command.arg("--nofile=256:256").arg(env!("CARGO_BIN_EXE_silmaril")).args(args);
    command
}

#[test]
fn many_files_are_shared_and_read_with_few_descriptors() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let files: Vec<(String, Vec<u8>)> =
        (0..FILES).map(|number| (format!("f{number:04}.bin"), noise(number as u64, 20_000))).collect();
    let contents: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let dir = model_dir(&a.home().join("m"), &contents);
    let args = ["share", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit"];
    let mut seeder = Proc::spawn(&mut limited(&a, &args));
    seeder.wait_for_line("seeding", PATIENCE);
    import(&b, &export(&a, "acme/m"));
    let point = b.home().join("models");
    std::fs::create_dir(&point).unwrap();
    let mut reader = Proc::spawn(&mut limited(
        &b,
        &["mount", point.to_str().unwrap(), "--foreground", "--peer", &a.peer()],
    ));
    reader.wait_for_line("mounted", PATIENCE);
    // Twice, and with all files open the second time.
    let mut open = Vec::new();
    for (name, bytes) in files.iter().chain(&files) {
        let path = point.join("acme/m").join(name);
        assert!(std::fs::read(&path).unwrap() == *bytes, "{name}");
        open.push(std::fs::File::open(path).unwrap());
    }
    drop(open);
    seeder.assert_running();
    reader.assert_running();
    drop(reader);
}
