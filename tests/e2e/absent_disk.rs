//! A shared directory that disappears, as that of an external disk does, and returns.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::{Net, sh};
use crate::support::process::{Finished, PATIENCE, until};
use crate::support::share::{import, share};

const PIECE: usize = 1 << 20;

/// The problems with stored files that `status` reports.
pub fn problems(host: &Host) -> Vec<String> {
    let status: Value = serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap();
    let problems = status["problems"].as_array().unwrap();
    problems.iter().map(|one| format!("{} {}", one["path"], one["reason"])).collect()
}

/// Reads a piece of a file in another process, so that a stuck read fails the test.
pub fn read(file: &Path, piece: usize) -> Finished {
    // One call may return a part: the bytes before those that cannot be read.
    let script = "import sys; f = open(sys.argv[1], 'rb', buffering=0); f.seek(int(sys.argv[2]) << 20); read = b''\n\
        while part := f.read((1 << 20) - len(read)): read += part\n\
        print(read.hex())";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-I", "-c", script]).arg(file).arg(piece.to_string());
    Finished::of(&mut command, PATIENCE)
}

/// The bytes of a piece that can be read.
pub fn piece(file: &Path, piece: usize) -> Vec<u8> {
    hex::decode(read(file, piece).ok().trim()).unwrap()
}

#[test]
fn an_absent_directory_is_seeded_again_when_it_returns() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    b.configure("\nmount:\n  read_timeout: 3s\n");
    // The model is long and is read from its end, so that read-ahead does not fetch the pieces that are read later.
    let bytes = noise(1, 96 * PIECE);
    let dir = model_dir(&a.home().join("disk/m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let file = mounted.path("acme/m/w.bin");
    let right = |number: usize| piece(&file, number) == bytes[number * PIECE..(number + 1) * PIECE];
    assert!(right(90));
    for number in [70, 50] {
        let (disk, away) = (a.home().join("disk"), a.home().join("away"));
        std::fs::rename(&disk, &away).unwrap();
        until("the loss is reported", PATIENCE, || {
            problems(&a).iter().any(|problem| problem.contains("absent"))
        });
        let status = a.run(&["status"]).ok();
        assert!(status.contains("acme/m") && status.contains("silmaril remove acme/m"), "{status}");
        // A read of a piece that no peer has waits, and fails after the timeout.
        assert!(!read(&file, number).status.success());
        std::fs::rename(&away, &disk).unwrap();
        until("the return is noticed", PATIENCE, || problems(&a).is_empty());
        until("it is read again", PATIENCE, || read(&file, number).status.success());
        assert!(right(number));
    }
    drop(shared);
    // A daemon that starts while the directory is absent also seeds it when it returns.
    let (disk, away) = (a.home().join("disk"), a.home().join("away"));
    std::fs::rename(&disk, &away).unwrap();
    let daemon = a.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    until("the loss is reported", PATIENCE, || !problems(&a).is_empty());
    std::fs::rename(&away, &disk).unwrap();
    until("it is read again", PATIENCE, || read(&file, 30).status.success());
    assert!(right(30));
    mounted.unmount();
}

#[test]
fn the_disk_of_a_shared_directory_can_be_unmounted_while_no_peer_reads() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let disk = a.home().join("disk");
    sh(&format!("mkdir {0} && mount -t tmpfs tmpfs {0}", disk.display()));
    let dir = model_dir(&disk.join("m"), &[("w.bin", &noise(1, 4 * PIECE))]);
    let shared = share(&a, &dir, "acme/m", &[]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    assert!(read(&mounted.path("acme/m/w.bin"), 3).status.success());
    let unmount = || Command::new("umount").arg(&disk).output().unwrap().status.success();
    until("the disk is no longer in use", 2 * PATIENCE, unmount);
    until("its absence is reported", PATIENCE, || {
        problems(&a).iter().any(|problem| problem.contains("absent"))
    });
    mounted.unmount();
}
