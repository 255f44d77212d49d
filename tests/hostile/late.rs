//! Blocks that arrive late: another peer has sent the piece, or the piece is withdrawn.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use silmaril::config::{Encryption, NetworkConfig};
use silmaril::model::PieceIndex;
use silmaril::torrent::{Event, Swarms};

use crate::engine::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::{Block, Message};
use crate::support::raw_peer_seed::{Conduct, RawSeed};

const PIECES: u32 = 4;
const PIECE: u32 = 64 * 1024;

/// Offers all pieces, answers requests for hashes, and collects the requests for blocks of all pieces without an answer.
fn requested(peer: &mut RawPeer, content: &Content) -> Vec<Block> {
    let mut blocks = vec![];
    peer.send(&Message::HaveAll).unwrap();
    peer.send(&Message::Unchoke).unwrap();
    while blocks.len() < (PIECES * PIECE / 16384) as usize {
        match peer.receive().unwrap() {
            Message::Request(block) => blocks.push(block),
            Message::HashRequest(range) => {
                peer.send(&Message::Hashes(range, content.hashes(range).unwrap())).unwrap();
            }
            _ => {}
        }
    }
    blocks
}

/// Sends wrong bytes for these blocks, and waits until they are handled.
fn send_wrong(peer: &mut RawPeer, blocks: &[Block], content: &Content) {
    for block in blocks {
        // An error: the reader has closed the connection.
        let _ = peer.send(&Message::Piece(block.piece, block.begin, vec![0x55; block.length as usize]));
    }
    peer.is_answered(content.any_range());
}

#[test]
fn late_blocks_change_no_byte() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.bin", (PIECES * PIECE) as usize)], PIECE, false);
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::with(NetworkConfig { encryption: Encryption::Off, ..network() });
        let mut add = sample.add(here.path());
        add.peers = vec![listener.local_addr().unwrap()];
        let id = client.add(add);
        for piece in 0..PIECES {
            client.session.request(id, PieceIndex(piece), Duration::ZERO).unwrap();
        }
        let mut late = RawPeer::accept(listener.accept().unwrap().0, &sample.info_hash, None).unwrap();
        let blocks = requested(&mut late, &content);
        let honest = RawSeed::listen_here(&content, Conduct::honest());
        client.session.connect_peer(id, honest.address()).unwrap();
        let mut left: Vec<u32> = (0..PIECES).collect();
        client.wait_for("all pieces", 3 * SOON, |event| {
            if let Event::PieceVerified(_, piece) = event {
                left.retain(|one| *one != piece.0);
            }
            left.is_empty().then_some(())
        });
        let (proved, withdrawn): (Vec<Block>, Vec<Block>) =
            blocks.into_iter().partition(|block| block.piece != PIECES - 1);
        send_wrong(&mut late, &proved, &content);
        let assert_right = |pieces: u32| {
            for piece in 0..pieces {
                assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece), "piece {piece}");
            }
        };
        assert_right(PIECES);
        client.session.withdraw(id, &[PieceIndex(PIECES - 1)]).unwrap();
        client.wait_for("withdrawal", SOON, |event| matches!(event, Event::Withdrawn(..)).then_some(()));
        let (file, range) = sample.layout.owner(PieceIndex(PIECES - 1)).unwrap();
        let open = std::fs::File::options().write(true).open(&sample.paths_in(here.path())[file]).unwrap();
        open.write_all_at(&vec![0; PIECE as usize], range.start).unwrap();
        send_wrong(&mut late, &withdrawn, &content);
        // The event of a further withdrawal comes after all writes of the piece.
        client.session.withdraw(id, &[PieceIndex(PIECES - 1)]).unwrap();
        client.wait_for("withdrawal", SOON, |event| matches!(event, Event::Withdrawn(..)).then_some(()));
        assert!(sample.piece_in(here.path(), PIECES - 1).unwrap() == vec![0; PIECE as usize], "a late block");
        assert_right(PIECES - 1);
        client.read(id, PIECES - 1);
        assert_right(PIECES);
    });
}
