//! When bytes do not arrive, other readers continue, and the waiting readers can be stopped.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::rig::{FOR_EVER, PEER, PIECE, Rig, within};
use crate::support::fixtures::{dd_command, hashes, noise};
use crate::support::mounts::is_mounted;
use crate::support::process::{PATIENCE, Proc, until};

/// Longer than any operation that does not wait takes on a busy machine, and shorter than the read timeout of these tests.
const PROMPT: Duration = Duration::from_secs(15);

#[test]
fn a_dead_swarm_does_not_delay_another_model() {
    let rig = Rig::new();
    let dead = rig.model("org/dead", &[("weights", noise(1, 400 * PIECE))]);
    let live = rig.shared_model("org/live", &[("weights", noise(2, 200 * PIECE))]);
    rig.publish(&[&dead, &live]);
    let _stuck: Vec<_> = (0..48)
        .map(|n| Proc::spawn(&mut dd_command(&rig.path("org/dead/weights"), PIECE, 8 * n, 8)))
        .collect();
    rig.wait_for_parked(48);
    let start = Instant::now();
    assert_eq!(hashes(&rig.path("org/live"), PROMPT), live.hashes());
    assert!(start.elapsed() < PROMPT);
    assert!(rig.mounted().counters().parked() >= 48);
}

#[test]
fn the_reads_of_a_killed_reader_end() {
    let rig = Rig::with_read_timeout(FOR_EVER);
    let dead = rig.model("org/dead", &[("weights", noise(1, 40 * PIECE))]);
    rig.publish(&[&dead]);
    let mut reader = Proc::spawn(&mut dd_command(&rig.path("org/dead/weights"), PIECE, 0, 1));
    rig.wait_for_parked(1);
    reader.signal(Signal::KILL);
    reader.wait(PROMPT);
    // The read-ahead of the reader must end too.
    until("nothing waits", PROMPT, || rig.mounted().counters().parked() == 0);
}

#[test]
fn a_blocked_reader_continues_when_a_peer_connects() {
    let rig = Rig::new();
    let model = rig.model("org/model", &[("weights", noise(3, 20 * PIECE))]);
    rig.publish(&[&model]);
    let path = rig.path("org/model/weights");
    let reader = std::thread::spawn(move || within(PATIENCE, move || std::fs::read(path).unwrap()));
    rig.wait_for_parked(1);
    rig.swarm.peer(model.info_hash, PEER, None);
    assert!(reader.join().unwrap() == **model.files[0].1);
}

#[test]
fn a_read_fails_after_one_timeout() {
    let timeout = Duration::from_secs(4);
    let rig = Rig::with_read_timeout(timeout);
    let dead = rig.model("org/dead", &[("weights", noise(1, 40 * PIECE))]);
    rig.publish(&[&dead]);
    let start = Instant::now();
    let path = rig.path("org/dead/weights");
    let error = within(PATIENCE, move || std::fs::read(path).unwrap_err());
    assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::IO));
    let took = start.elapsed();
    assert!(took >= timeout, "the read failed after {took:?}");
    // The kernel requests the page a second time. That request must not wait as long again.
    assert!(took < timeout * 2, "it took {took:?}");
}

#[test]
fn stopping_answers_blocked_readers_and_unmounts() {
    let rig = Rig::new();
    let dead = rig.model("org/dead", &[("weights", noise(1, 40 * PIECE))]);
    rig.publish(&[&dead]);
    let mut readers: Vec<_> = (0..4)
        .map(|n| Proc::spawn(&mut dd_command(&rig.path("org/dead/weights"), PIECE, 8 * n, 1)))
        .collect();
    rig.wait_for_parked(4);
    let start = Instant::now();
    rig.stop();
    assert!(start.elapsed() < PROMPT);
    assert!(!is_mounted(&rig.point()));
    for reader in &mut readers {
        assert!(!reader.wait(PROMPT).success(), "a reader received bytes that no peer has");
    }
    assert!(rig.is_gone());
    // The end of the connection may answer a reader before the task of its read has ended.
    until("nothing waits", PROMPT, || rig.mounted().counters().parked() == 0);
}

#[test]
fn a_blocked_reader_dies_after_a_lazy_unmount() {
    let rig = Rig::new();
    let dead = rig.model("org/dead", &[("weights", noise(1, 40 * PIECE))]);
    rig.publish(&[&dead]);
    let mut reader = Proc::spawn(&mut dd_command(&rig.path("org/dead/weights"), PIECE, 0, 1));
    rig.wait_for_parked(1);
    silmaril::mount::unmount(&rig.point(), true).unwrap();
    assert!(!is_mounted(&rig.point()));
    reader.signal(Signal::KILL);
    reader.wait(Duration::from_secs(5));
    assert!(rig.is_gone(), "the connection is still open after the end of its last user");
}

#[test]
fn a_reader_of_a_removed_model_gets_an_error() {
    let rig = Rig::new();
    let dead = rig.model("org/dead", &[("weights", noise(1, 40 * PIECE))]);
    rig.publish(&[&dead]);
    let mut reader = Proc::spawn(Command::new("cat").arg(rig.path("org/dead/weights")));
    rig.wait_for_parked(1);
    rig.publish(&[]);
    rig.fetch.leave(&dead.info_hash);
    assert!(!reader.wait(PROMPT).success());
}
