//! Messages of offers (`cpp/offers.h`): inputs and what must hold for the offers that count.
//!
//! An input is one byte for the pieces of the torrent (one more than its value), one for the granules of a piece (a power
//! of two), and a list of messages: two bytes of length, and the body.

use std::collections::BTreeMap;

use silmaril::torrent::try_offers;

const GRANULE_LEN: u32 = 64 * 1024;

fn messages(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut messages = vec![];
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (body, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        messages.push(body);
        bytes = rest;
    }
    bytes.is_empty().then_some(messages)
}

/// The target of the fuzzer. Returns whether every message is well-formed.
pub fn target(bytes: &[u8]) -> bool {
    let Some((&[pieces, granules], rest)) = bytes.split_first_chunk::<2>() else { return false };
    let (pieces, granules) = (u32::from(pieces) + 1, 1usize << (granules % 10));
    let Some(messages) = messages(rest) else { return false };
    let bodies: Vec<_> = messages.iter().map(|body| body.to_vec()).collect();
    let found = try_offers(pieces, granules as u32 * GRANULE_LEN, &bodies).unwrap();

    let mut accepted = true;
    let mut expected: BTreeMap<u32, Vec<bool>> = BTreeMap::new();
    let entry_len = 4 + granules.div_ceil(8);
    for body in messages {
        if !(2..=256).contains(&granules) || body.len() % entry_len != 0 || body.len() / entry_len > 256 {
            accepted = false;
            continue;
        }
        for entry in body.chunks(entry_len) {
            let (piece, bits) = entry.split_first_chunk::<4>().unwrap();
            let piece = u32::from_be_bytes(*piece);
            if piece >= pieces {
                accepted = false;
                break;
            }
            let offered: Vec<bool> = (0..granules).map(|at| bits[at / 8] & 0x80 >> (at % 8) != 0).collect();
            expected.remove(&piece);
            if offered.contains(&true) {
                expected.insert(piece, offered);
            }
        }
    }
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    accepted
}
