//! An attack on all three victims while an honest seed is connected.

use silmaril::model::BLOCK_LEN;

use super::lab::{Lab, NAME, READ};
use super::strike::{Hammer, Strike};
use crate::support::host::Host;
use crate::support::process::{Proc, until};
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::Message;
use crate::support::raw_peer_seed::{Conduct, RawSeed};

/// An accomplice of [`shifted_pieces`](super::strikes::shifted_pieces) on `b.bin`: in the pieces whose hashes are all
/// shifted it sends the bytes of the next block, and in all other pieces the right bytes.
pub fn liar() -> Conduct {
    Conduct::honest().with_blocks(|content, block| {
        let (file, per_piece) = (content.file("b.bin"), content.blocks_per_piece() as u32);
        let number = block
            .piece
            .checked_sub(file.first_piece)
            .map(|piece| piece * per_piece + block.begin / BLOCK_LEN as u32);
        let shifted = per_piece..(file.pieces - 2) * per_piece;
        let shift = if number.is_some_and(|number| shifted.contains(&number)) { BLOCK_LEN } else { 0 };
        match content.block(block, shift as usize) {
            Some(data) => vec![Message::Piece(block.piece, block.begin, data)],
            None => vec![Message::Reject(block)],
        }
    })
}

/// Attacks when the victims have the genuine hashes, and again when they have all bytes.
pub fn siege(strikes: impl Fn(&Content) -> Vec<Strike>) {
    let lab = Lab::new();
    lab.start_honest();
    let strikes = strikes(&lab.content);
    let accomplice = RawSeed::listen(&lab.evil, 7001, &lab.content, liar());
    let peers = [lab.honest_peer(), accomplice.peer()];
    let mounted = lab.mount(&peers);
    lab.join(&mounted);
    let victims = [&lab.reader, &lab.sharer];
    until("the honest seed is connected", READ, || {
        victims.iter().all(|node| !lab.honest_connections(node).is_empty())
    });
    let before = victims.map(|victim| lab.honest_connections(victim));
    for victim in victims {
        lab.strike(victim, &strikes);
        lab.assert_hashes_are_genuine(victim);
    }
    lab.assert_reads_middle(&mounted);
    lab.assert_reads(&mounted);
    for victim in victims {
        lab.strike(victim, &strikes);
    }
    lab.assert_reads(&mounted);
    assert_got_meanwhile(&lab, &peers, &strikes);
    lab.assert_still_connected(&lab.reader, &before[0]);
    lab.assert_still_connected(&lab.sharer, &before[1]);
    assert_shares(&lab);
}

/// Attacks before the honest seed connects, so that the victim does not know the genuine hashes yet.
pub fn siege_before_hashes(strikes: impl Fn(&Content) -> Vec<Strike>) {
    let lab = Lab::new();
    let strikes = strikes(&lab.content);
    let silent = liar().with_hashes(|_, _| vec![]);
    let accomplice = RawSeed::listen(&lab.evil, 7001, &lab.content, silent);
    let peers = [lab.honest_peer(), accomplice.peer()];
    let mounted = lab.mount(&peers);
    let mut read = lab.reader.command("sha256sum");
    let reading = Proc::spawn(read.arg(mounted.path(NAME).join("b.bin")));
    lab.strike(&lab.reader, &strikes);
    lab.start_honest();
    let sum = reading.finish(READ).ok();
    assert_eq!(sum.split(' ').next(), Some(lab.expected["b.bin"].as_str()), "the mount returned wrong bytes");
    lab.assert_reads(&mounted);
    assert_got_meanwhile(&lab, &peers, &strikes);
}

/// Fails unless `get` completes during the attack.
fn assert_got_meanwhile(lab: &Lab, peers: &[String], strikes: &[Strike]) {
    // Limited, so that the attack begins before `get` is complete.
    lab.honest.limit_rate("60mbit");
    let hammer = Hammer::on(lab, &lab.getter, strikes.to_vec());
    lab.assert_got(lab.get(peers, &[]));
    assert!(hammer.sent() > 0, "`get` was not attacked");
}

/// Fails unless the sharer still uploads the right bytes.
fn assert_shares(lab: &Lab) {
    let stranger: &Host = &lab.honest;
    let mut peer = lab.dial(stranger, &lab.sharer);
    let pieces = 0..lab.content.pieces;
    crate::support::raw_peer_leech::leech(&mut peer, &lab.content, pieces).unwrap();
}
