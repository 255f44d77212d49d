//! Peers made by hand that download from the daemon under test and check every byte.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use silmaril::model::BLOCK_LEN;

use super::raw_peer::RawPeer;
use super::raw_peer_content::Content;
use super::raw_peer_message::{Block, Message};

/// The number of requests that are outstanding at any time.
const PIPELINE: usize = 32;

/// All blocks of a range of pieces of a torrent.
pub fn blocks_of(content: &Content, pieces: Range<u32>) -> Vec<Block> {
    let of_file = |file: &super::raw_peer_content::FileTree| {
        let (first, size) = (file.first_piece, file.bytes.len() as u64);
        let piece_length = u64::from(content.piece_length);
        (0..size.div_ceil(BLOCK_LEN)).map(move |number| {
            let begin = number * BLOCK_LEN;
            Block {
                piece: first + (begin / piece_length) as u32,
                begin: (begin % piece_length) as u32,
                length: BLOCK_LEN.min(size - begin) as u32,
            }
        })
    };
    content.files.iter().flat_map(of_file).filter(|block| pieces.contains(&block.piece)).collect()
}

/// Downloads pieces as an honest peer does. Fails if the daemon refuses a block, disconnects or sends a wrong byte.
pub fn leech(peer: &mut RawPeer, content: &Content, pieces: Range<u32>) -> Result<()> {
    leech_after(peer, content, pieces, || {})
}

/// [`leech`] that calls `began` when the first block has arrived.
pub fn leech_after(
    peer: &mut RawPeer,
    content: &Content,
    pieces: Range<u32>,
    began: impl FnOnce(),
) -> Result<()> {
    let mut began = Some(began);
    let mut due = blocks_of(content, pieces);
    due.reverse();
    let mut waiting: Vec<Block> = vec![];
    peer.send(&Message::HaveNone)?;
    peer.send(&Message::Interested)?;
    let mut choked = true;
    while !(due.is_empty() && waiting.is_empty()) {
        while !choked
            && waiting.len() < PIPELINE
            && let Some(block) = due.pop()
        {
            peer.send(&Message::Request(block))?;
            waiting.push(block);
        }
        match peer.receive()? {
            Message::Unchoke => choked = false,
            Message::Choke => {
                choked = true;
                due.append(&mut waiting);
            }
            Message::Piece(piece, begin, data) => {
                let length = data.len() as u32;
                let block = Block { piece, begin, length };
                let Some(at) = waiting.iter().position(|asked| *asked == block) else { continue };
                waiting.swap_remove(at);
                if let Some(began) = began.take() {
                    began();
                }
                if content.block(block, 0).as_deref() != Some(&data) {
                    return Err(Error::new(ErrorKind::InvalidData, format!("wrong bytes in {block:?}")));
                }
            }
            Message::Reject(block) => {
                return Err(Error::other(format!("the node refused {block:?}")));
            }
            _ => {}
        }
    }
    Ok(())
}
