//! Hosts with a low limit on open files.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::{Net, sh};
use crate::support::process::{Finished, PATIENCE, Proc};
use crate::support::share::{export, import};

const FILES: usize = 400;
const LIMIT: usize = 256;

/// The program, with a limit on open files that it cannot raise.
fn limited(host: &Host, args: &[&str]) -> Command {
    let mut command = host.command("prlimit");
    command.arg(format!("--nofile={LIMIT}:{LIMIT}")).arg(env!("CARGO_BIN_EXE_silmaril")).args(args);
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
    let args = ["share", "-f", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit"];
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
    // Reads the files twice. At the second time all files are open.
    let mut open = Vec::new();
    for (name, bytes) in files.iter().chain(&files) {
        let path = point.join("acme/m").join(name);
        assert!(std::fs::read(&path).unwrap() == *bytes, "{name}");
        open.push(std::fs::File::open(path).unwrap());
    }
    for process in [&mut seeder, &mut reader] {
        process.assert_running();
        // The caches of open files are sized by the limit, so a shortage is rare.
        let used = descriptors(process).len();
        assert!(used < LIMIT * 3 / 4, "{used} descriptors are open");
    }
    drop(open);

    // Without a free descriptor, opening a file closes one that was kept open only for speed. The kernel's page cache
    // has no byte of these files, so the daemon has to open them.
    for (name, _) in files.iter().take(3) {
        let mut forget = Command::new("dd");
        forget.args(["iflag=nocache", "count=0", "of=/dev/null", "status=none"]);
        Finished::of(forget.arg(format!("if={}", point.join("acme/m").join(name).display())), PATIENCE).ok();
    }
    let used = descriptors(&reader);
    let free = (0..).find(|number| !used.contains(number)).unwrap();
    sh(&format!("prlimit --pid {} --nofile={free}:{LIMIT}", reader.id()));
    for (name, bytes) in files.iter().take(3) {
        assert!(std::fs::read(point.join("acme/m").join(name)).unwrap() == *bytes, "{name}");
    }
    drop(reader);
}

/// The descriptors that a process has open.
fn descriptors(process: &Proc) -> BTreeSet<usize> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}
