//! Small reads through a mount: how much they fetch, and what a restart keeps.

use std::path::PathBuf;
use std::process::Command;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::{Host, Mounted};
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, until};
use crate::support::share::{Share, import, share};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;
const LEN: usize = 32 * MIB;

/// A host that shares a model of one file in pieces of 4 MiB, and a host that knows the model.
struct Hosts {
    net: Net,
    shared: Share,
    a: Host,
    b: Host,
    bytes: Vec<u8>,
}

impl Hosts {
    fn new(seed: u64) -> Self {
        let net = Net::new();
        let (a, b) = (net.host("a"), net.host("b"));
        let bytes = noise(seed, LEN);
        let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
        let shared = share(&a, &dir, "acme/m", &["--piece-length", "4MiB"]);
        import(&b, &shared.manifest);
        Self { net, shared, a, b, bytes }
    }

    /// Mounts on the host that knows the model, with the other host as a peer.
    fn mount(&self) -> Mounted<'_> {
        self.b.mount(&["--peer", &self.a.peer()])
    }
}

/// Reads parts of `len` bytes in another process, so that a stuck read fails the test, and compares them.
#[track_caller]
fn read(mounted: &Mounted, bytes: &[u8], offsets: &[usize], len: usize) {
    let way = "import os, sys\n\
        f = os.open(sys.argv[1], os.O_RDONLY); os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)\n\
        for at in sys.argv[3:]: print(os.pread(f, int(sys.argv[2]), int(at)).hex())";
    read_by(way, mounted, bytes, offsets, len);
}

#[track_caller]
fn read_by(script: &str, mounted: &Mounted, bytes: &[u8], offsets: &[usize], len: usize) {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-I", "-c", script]).arg(mounted.path("acme/m/w.bin")).arg(len.to_string());
    command.args(offsets.iter().map(usize::to_string));
    let text = Finished::of(&mut command, PATIENCE).ok();
    let got: Vec<Vec<u8>> = text.lines().map(|line| hex::decode(line).unwrap()).collect();
    assert_eq!(got.len(), offsets.len());
    for (got, &at) in got.iter().zip(offsets) {
        assert!(got[..] == bytes[at..at + len], "wrong bytes at {at}");
    }
}

#[test]
fn small_read_at_an_untouched_offset_fetches_little() {
    let hosts = Hosts::new(1);
    let (b, bytes) = (&hosts.b, &hosts.bytes);
    let mounted = hosts.mount();
    // Opening fetches the beginning of the file.
    read(&mounted, bytes, &[0], 4 * KIB);
    for at in [13 * MIB + 4 * KIB, 22 * MIB + 700 * KIB, 30 * MIB] {
        let before = b.received();
        read(&mounted, bytes, &[at], 4 * KIB);
        let received = b.received() - before;
        assert!(received <= 256 * KIB as u64, "a read of 4 KiB at {at} received {received} bytes");
    }
    mounted.unmount();
}

#[test]
fn page_fault_in_the_middle_of_a_piece_fetches_little() {
    let hosts = Hosts::new(4);
    let (b, bytes) = (&hosts.b, &hosts.bytes);
    let mounted = hosts.mount();
    read(&mounted, bytes, &[0], 4 * KIB);
    let way = "import mmap, os, sys\n\
        f = os.open(sys.argv[1], os.O_RDONLY); m = mmap.mmap(f, 0, prot=mmap.PROT_READ)\n\
        for at in map(int, sys.argv[3:]): print(m[at:at + int(sys.argv[2])].hex())";
    // The kernel reads around each of them: on both sides of a subtree of which hashes are requested.
    for at in [10 * MIB, 17 * MIB, 26 * MIB - 4 * KIB] {
        let before = b.received();
        read_by(way, &mounted, bytes, &[at], 4 * KIB);
        let received = b.received() - before;
        assert!(received <= 512 * KIB as u64, "a page fault at {at} received {received} bytes");
    }
    mounted.unmount();
}

/// Offsets of small reads that are too far apart to look like a stream: sixteen granules of one piece.
fn scattered(piece: usize) -> Vec<usize> {
    (0..16).map(|i| piece * 4 * MIB + (i * 7 % 16) * 256 * KIB + 8 * KIB).collect()
}

#[test]
fn blocks_of_partial_pieces_survive_a_restart() {
    let hosts = Hosts::new(2);
    let (b, bytes) = (&hosts.b, &hosts.bytes);
    let mounted = hosts.mount();
    read(&mounted, bytes, &scattered(7), 4 * KIB);
    mounted.unmount();

    // Without a peer.
    let mounted = b.mount(&[]);
    read(&mounted, bytes, &scattered(7), 4 * KIB);
    mounted.unmount();
    // The rest of the piece is fetched, and the kept blocks are not.
    let mounted = hosts.mount();
    let before = b.received();
    read(&mounted, bytes, &[28 * MIB], 4 * MIB);
    let received = b.received() - before;
    let rest = (4 * MIB - 16 * 64 * KIB) as u64;
    // Packet headers, hashes and messages. It is the last piece, so there is no window behind the read.
    assert!(received >= rest && received <= rest + rest / 12 + 512 * KIB as u64, "{received} bytes");
    mounted.unmount();
}

/// Waits until the hashes of some granules are saved: a host offers only what it can prove.
#[track_caller]
fn wait_for_granules(host: &Host) {
    let dir = host.base().join("granules");
    let below =
        |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_filled =
        |file: PathBuf| std::fs::read(file).is_ok_and(|hashes| hashes.iter().any(|byte| *byte != 0));
    let any = || below(dir.clone()).flat_map(below).any(is_filled);
    until("the hashes of granules are saved", PATIENCE, any);
}

#[test]
fn small_reads_are_served_by_a_host_that_made_them_before() {
    let Hosts { net, shared, a, b, bytes } = Hosts::new(9);
    let c = net.host("c");
    import(&c, &shared.manifest);
    let offsets = [13 * MIB + 4 * KIB, 13 * MIB + 900 * KIB, 30 * MIB];
    let first = b.mount(&["--peer", &a.peer()]);
    read(&first, &bytes, &offsets, 4 * KIB);
    wait_for_granules(&b);
    drop(shared);

    let second = c.mount(&["--peer", &b.peer()]);
    read(&second, &bytes, &offsets, 4 * KIB);
    // The second host has no piece either, and serves the same bytes after a restart.
    first.unmount();
    second.unmount();
    let second = c.mount(&[]);
    let first = b.mount(&["--peer", &c.peer()]);
    read(&first, &bytes, &offsets, 4 * KIB);
    first.unmount();
    second.unmount();
}
