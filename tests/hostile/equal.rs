//! Two torrents that contain the same file, one of them under attack.

use std::sync::Arc;

use super::lab::{Lab, NAME, READ, model};
use super::siege::liar;
use super::strike::Hammer;
use super::strikes::shifted_pieces;
use crate::support::fixtures::{hashes, model_dir, noise};
use crate::support::process::Finished;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::Message;
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};
use crate::support::share::{import, share};

const OTHER: &str = "evil/n";

/// All peers of the other model lie: about its blocks, and about its hashes.
#[test]
fn attack_on_a_torrent_with_an_equal_file_changes_no_byte() {
    let lab = Lab::new();
    lab.start_honest();
    let equal = model().into_iter().find(|(path, _)| *path == "b.bin").unwrap().1;
    let files: [(&str, &[u8]); 2] = [("b.bin", &equal), ("z.bin", &noise(9, 200_000))];
    let dir = model_dir(&lab.evil.home().join("n"), &files);
    let shared = share(&lab.evil, &dir, OTHER, &["--piece-length", "64KiB"]);
    import(&lab.reader, &shared.manifest);
    let content = Arc::new(Content::of(&shared.manifest, &dir));
    // The node that made the manifest does not serve it.
    drop(shared);
    let wrong_blocks = Conduct::honest().with_blocks(|content, block| {
        let Some(mut data) = content.block(block, 0) else { return vec![Message::Reject(block)] };
        data[7] ^= 1;
        vec![Message::Piece(block.piece, block.begin, data)]
    });
    let wrong_hashes = liar().with_hashes(|content, range| {
        let Some(mut hashes) = content.hashes(range) else { return vec![Message::HashReject(range)] };
        hashes[0][0] ^= 1;
        vec![Message::Hashes(range, hashes)]
    });
    let liars = [
        RawSeed::listen(&lab.evil, 7001, &content, wrong_blocks),
        RawSeed::listen(&lab.evil, 7002, &content, wrong_hashes),
    ];
    let peers = [lab.honest_peer(), liars[0].peer(), liars[1].peer()];
    let mounted = lab.mount(&peers);
    let hammer = Hammer::on(&lab, &lab.reader, vec![shifted_pieces(&lab.content, lab.content.file("b.bin"))]);
    let sum = |name: &str| {
        let mut read = lab.reader.command("sha256sum");
        let read = Finished::of(read.arg(mounted.path(name).join("b.bin")), READ).ok();
        read.split(' ').next().unwrap().to_owned()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| sum(OTHER));
        assert_eq!(hashes(&mounted.path(NAME), READ), lab.expected);
        assert_eq!(other.join().unwrap(), lab.expected["b.bin"], "the equal file has wrong bytes");
    });
    assert!(hammer.sent() > 0, "the mount was not attacked");
    assert!(liars.iter().any(|liar| Seen::count(&liar.seen().connections) > 0), "no liar was called");
}
