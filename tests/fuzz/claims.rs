//! Messages of claims (`cpp/claims.h`): inputs and what must hold for the claims that count.
//!
//! An input is a list of messages: two bytes with the milliseconds since the one before, one byte of length, and the body.

use silmaril::torrent::{ClaimStep, try_claims};

/// The longest time of a claim, in milliseconds.
const LONGEST: u64 = 10_000;

/// The messages of an input and their moments; none if it is cut.
fn messages(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let (mut at, mut messages) = (0, vec![]);
    while let Some((head, rest)) = bytes.split_first_chunk::<3>() {
        let (body, rest) = rest.split_at_checked(usize::from(head[2]))?;
        at += u64::from(u16::from_be_bytes([head[0], head[1]]));
        messages.push((at, body));
        bytes = rest;
    }
    bytes.is_empty().then_some(messages)
}

/// The number of the sender and the pieces of a message.
fn parse(body: &[u8]) -> Option<(&[u8], Vec<u32>)> {
    let (number, pieces) = body.split_at_checked(8)?;
    let (pieces, rest) = pieces.as_chunks::<4>();
    (rest.is_empty() && pieces.len() <= 4)
        .then(|| (number, pieces.iter().map(|piece| u32::from_be_bytes(*piece)).collect()))
}

/// The target of the fuzzer. Returns whether every message is well-formed and of the same sender.
pub fn target(bytes: &[u8]) -> bool {
    let Some(messages) = messages(bytes) else { return false };
    let steps: Vec<_> = messages.iter().map(|(at, body)| (*at, ClaimStep::Sends(body.to_vec()))).collect();
    let (mut number, mut accepted) = (None, true);
    // The pieces of the last message, and since when each has been named without a gap.
    let mut named: Vec<(u32, u64)> = vec![];
    for ((at, body), claimed) in messages.iter().zip(try_claims(&steps).unwrap()) {
        match parse(body).filter(|(sender, _)| number.is_none_or(|known| known == *sender)) {
            Some((sender, pieces)) => {
                number = Some(sender);
                let since =
                    |piece| named.iter().find(|(known, _)| *known == piece).map_or(*at, |(_, since)| *since);
                named = pieces.into_iter().map(|piece| (piece, since(piece))).collect();
            }
            None => accepted = false,
        }
        assert!(claimed.len() <= 4);
        // More messages than an honest peer sends are ignored.
        if messages.len() > 100 {
            continue;
        }
        for piece in claimed {
            let since = named.iter().find(|(known, _)| *known == piece).map(|(_, since)| *since);
            assert!(since.is_some_and(|since| at - since < LONGEST), "piece {piece} is claimed at {at}");
        }
    }
    accepted
}
