//! A withheld model, and a model of a stranger that contains the same files.

use std::cell::RefCell;
use std::path::PathBuf;

use silmaril::model::Manifest;

use super::withheld::stranger_is_met;
use crate::support::fixtures::{model_dir, noise};
use crate::support::host::{Host, Mounted};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_leech::leech;
use crate::support::share::{Share, import, share};

const PIECE: usize = 64 * 1024;
const PIECES: u32 = 6;

/// The withheld model, and a model that has a file in common with it.
const WITHHELD: &str = "acme/w";
const OTHER: &str = "evil/s";

/// Host `a` shares both models. Host `b` knows both and withholds the first.
struct Scene {
    a: Host,
    b: Host,
    stranger: Host,
    sharing: RefCell<Vec<Share>>,
    /// The directory of the other model.
    content: Content,
}

fn equal() -> Vec<u8> {
    noise(1, PIECES as usize * PIECE)
}

/// Shares a model on one host and imports its manifest on another.
fn publish(from: &Host, to: &Host, name: &str, files: &[(&str, Vec<u8>)]) -> (PathBuf, Share) {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
    let dir = model_dir(&from.home().join(name.replace('/', "-")), &files);
    let shared = share(from, &dir, name, &["--piece-length", "64KiB"]);
    import(to, &shared.manifest);
    (dir, shared)
}

fn withhold(host: &Host, name: &str) {
    let rules = format!("models: {{{name}: {{withheld: gated}}}}\n");
    std::fs::write(host.base().join("sharing.yaml"), rules).unwrap();
}

impl Scene {
    fn new() -> Self {
        let net = Net::new();
        let (a, b, stranger) = (net.host("a"), net.host("b"), net.host("stranger"));
        for host in [&a, &b] {
            host.configure("  encryption: off\n");
        }
        let (_, first) = publish(&a, &b, WITHHELD, &[("own.bin", noise(2, PIECE)), ("w.bin", equal())]);
        let (dir, second) = publish(&a, &b, OTHER, &[("other.bin", noise(3, 2 * PIECE)), ("w.bin", equal())]);
        withhold(&b, WITHHELD);
        let content = Content::of(&second.manifest, &dir);
        Self { a, b, stranger, sharing: RefCell::new(vec![first, second]), content }
    }

    fn mount(&self) -> Mounted<'_> {
        self.b.mount(&["--peer", &self.a.peer()])
    }

    fn read(&self, mounted: &Mounted, path: &str, expected: &[u8]) {
        let read = std::fs::read(mounted.path(path)).unwrap();
        assert!(read == expected, "{path} has wrong bytes");
    }

    /// Whether `b` sends a stranger the bytes of a file of the other model. `None` while `b` is not in the swarm or sends
    /// only some of the pieces: on a busy machine, a request may time out.
    fn sends(&self, path: &str) -> Option<bool> {
        let file = self.content.file(path);
        let pieces = file.first_piece..file.first_piece + file.pieces;
        let to = self.b.peer().parse().unwrap();
        let mut sent = 0;
        for piece in pieces.clone() {
            let mut peer = RawPeer::connect(&self.stranger, to, &self.content.info_hash).ok()?;
            sent += usize::from(leech(&mut peer, &self.content, piece..piece + 1).is_ok());
        }
        (sent == 0 || sent == pieces.len()).then_some(sent > 0)
    }

    /// Like [`Self::sends`], but waits until `b` is in the swarm. A torrent that learns of equal files leaves the
    /// swarm for a moment.
    fn sends_in_the_end(&self, path: &str) -> bool {
        let mut sent = None;
        until("the node is in the swarm", PATIENCE, || {
            sent = self.sends(path);
            sent.is_some()
        });
        sent == Some(true)
    }
}

#[test]
fn withheld_bytes_stay_out_of_other_swarms() {
    let scene = Scene::new();
    let mounted = scene.mount();
    scene.read(&mounted, &format!("{WITHHELD}/w.bin"), &equal());
    scene.read(&mounted, &format!("{OTHER}/other.bin"), &noise(3, 2 * PIECE));
    until("the other model is uploaded", PATIENCE, || scene.sends("other.bin") == Some(true));
    assert!(!scene.sends_in_the_end("w.bin"), "bytes of the withheld model were sent to a stranger");
    // The bytes can be read locally under any name.
    scene.sharing.borrow_mut().clear();
    let read = std::fs::read(mounted.path(&format!("{OTHER}/w.bin"))).unwrap();
    assert!(read == equal(), "the file has wrong bytes");
}

#[test]
fn equal_bytes_of_a_shared_model_are_sent() {
    let scene = Scene::new();
    let files = [("p.bin", noise(4, PIECE)), ("w.bin", equal())];
    let _sharing = publish(&scene.a, &scene.b, "acme/p", &files);
    let mounted = scene.mount();
    scene.read(&mounted, &format!("{WITHHELD}/w.bin"), &equal());
    let out = scene.b.home().join("out");
    scene.b.run(&["get", "acme/p", "-o", out.to_str().unwrap()]).ok();
    scene.read(&mounted, &format!("{OTHER}/other.bin"), &noise(3, 2 * PIECE));
    until("the other model is uploaded", PATIENCE, || scene.sends("other.bin") == Some(true));
    assert!(scene.sends_in_the_end("w.bin"), "bytes of a model that is shared were not sent");
    let withheld = std::fs::read(&scene.sharing.borrow()[0].manifest).unwrap();
    assert!(
        !stranger_is_met(&scene.stranger, &scene.b, &Manifest::from_json(&withheld).unwrap()),
        "a stranger was accepted in the swarm of the withheld model"
    );
}

/// Models with the same files and the same last component of the name are the same torrent.
#[test]
fn another_name_for_a_withheld_model_does_not_share_it() {
    let net = Net::new();
    let (a, c, b, stranger) = (net.host("a"), net.host("c"), net.host("b"), net.host("stranger"));
    let files = [("w.bin", equal())];
    let shared = [publish(&a, &b, "acme/w", &files), publish(&c, &b, "evil/w", &files)];
    let manifests = shared
        .each_ref()
        .map(|(_, shared)| Manifest::from_json(&std::fs::read(&shared.manifest).unwrap()).unwrap());
    assert_eq!(manifests[0].torrent.info_hash, manifests[1].torrent.info_hash);
    withhold(&b, "acme/w");
    let mounted = b.mount(&["--peer", &a.peer()]);
    for name in ["acme/w", "evil/w"] {
        assert!(std::fs::read(mounted.path(&format!("{name}/w.bin"))).unwrap() == equal());
        assert!(
            !stranger_is_met(&stranger, &b, &manifests[0]),
            "a stranger was accepted after {name} was read"
        );
    }
    // The user shares the model under the other name.
    b.run(&["get", "evil/w", "-o", b.home().join("out").to_str().unwrap()]).ok();
    until("the stranger is met", PATIENCE, || stranger_is_met(&stranger, &b, &manifests[0]));
}
