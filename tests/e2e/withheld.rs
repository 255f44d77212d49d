//! A withheld model is uploaded to no peer while it is read through the mount.

use std::net::SocketAddr;

use silmaril::model::Manifest;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::private_net::in_namespace;
use crate::support::process::{PATIENCE, until};
use crate::support::share::{import, share};
use crate::support::wire::Wire;

const NAME: &str = "acme/m";
const PIECE: usize = 64 * 1024;
const PIECES: usize = 24;

/// The bytes that a stranger on `from` receives when it connects to `to` and requests everything.
fn stranger_gets(from: &Host, to: &Host, manifest: &Manifest) -> Vec<u8> {
    let (address, info_hash): (SocketAddr, _) = (to.peer().parse().unwrap(), manifest.torrent.info_hash);
    in_namespace(from.namespace(), move || Wire::bytes_for(address, &info_hash).unwrap())
}

/// Whether a stranger on `from` is accepted in the swarm of a manifest.
pub fn stranger_is_met(from: &Host, to: &Host, manifest: &Manifest) -> bool {
    let (address, info_hash): (SocketAddr, _) = (to.peer().parse().unwrap(), manifest.torrent.info_hash);
    in_namespace(from.namespace(), move || Wire::connect(address, &info_hash).is_ok())
}

#[test]
fn stranger_gets_nothing_while_the_mount_reads() {
    let net = Net::new();
    let (a, b, stranger) = (net.host("a"), net.host("b"), net.host("stranger"));
    let bytes = noise(1, PIECES * PIECE);
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, NAME, &["--piece-length", "64KiB"]);
    let manifest = Manifest::from_json(&std::fs::read(&shared.manifest).unwrap()).unwrap();
    import(&b, &shared.manifest);
    std::fs::write(b.base().join("sharing.yaml"), format!("models: {{{NAME}: {{withheld: gated}}}}\n"))
        .unwrap();
    assert!(stranger_is_met(&stranger, &a, &manifest), "the stranger speaks BitTorrent");
    let mounted = b.mount(&["--peer", &a.peer()]);
    let file = std::fs::File::open(mounted.path(&format!("{NAME}/w.bin"))).unwrap();
    for piece in (0..PIECES).rev() {
        use std::os::unix::fs::FileExt;
        let mut read = vec![0; PIECE];
        file.read_exact_at(&mut read, (piece * PIECE) as u64).unwrap();
        assert!(read == bytes[piece * PIECE..][..PIECE], "piece {piece} has wrong bytes");
        assert_eq!(stranger_gets(&stranger, &b, &manifest), b"", "after piece {piece}");
    }
    drop(mounted);
    // The same daemon uploads the model as soon as its user permits it.
    let process = b.spawn(&["share", "-f", NAME, "--i-have-the-right-to-share"]);
    process.wait_for_line("seeding", PATIENCE);
    // The engine adds a torrent after the command has returned.
    until("the stranger is met", PATIENCE, || stranger_is_met(&stranger, &b, &manifest));
}
