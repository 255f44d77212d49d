//! Writing messages.

use super::{Have, HeldManifest, Message};
use crate::catalog::record::SharedRecord;
use crate::catalog::wire::MessageWriter;

/// A string of entries of fixed length.
fn entries<T, const N: usize>(items: &[T], entry: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    items.iter().flat_map(entry).collect()
}

/// Joins fields of fixed length.
fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    parts.concat().try_into().expect("an entry's fields have its length")
}

/// One bit for each record, as BEP 3 has its bit fields.
fn bits(indices: &[u32], count: usize) -> Vec<u8> {
    let mut bits = vec![0; count.div_ceil(8)];
    for &index in indices {
        if let Some(byte) = bits.get_mut(index as usize / 8) {
            *byte |= 0x80 >> (index % 8);
        }
    }
    bits
}

fn have(have: &Have) -> [u8; 44] {
    concat(&[have.publisher.as_bytes(), &have.sequence.to_be_bytes(), &have.count.to_be_bytes()])
}

fn held(held: &HeldManifest) -> [u8; 101] {
    concat(&[
        held.publisher.as_bytes(),
        held.manifest.as_bytes(),
        &held.len.to_be_bytes(),
        held.info_hash.as_bytes(),
        &[held.complete.into()],
    ])
}

/// Writes a message.
pub(super) fn encode(message: &Message) -> Vec<u8> {
    let of = |kind: &str| MessageWriter::default().bytes("t", kind.as_bytes());
    let wire = |records: &[SharedRecord]| records.iter().map(|record| record.to_bytes()).collect::<Vec<_>>();
    match message {
        Message::Hello { version, node, records } => {
            of("hello").number("v", (*version).into()).bytes("id", node).number("n", (*records).into())
        }
        Message::Have { known, more } => {
            of("have").bytes("k", &entries(known, have)).number("more", (*more).into())
        }
        Message::Want { after } => of("want").bytes(
            "k",
            &entries(after, |(publisher, after)| concat::<40>(&[publisher.as_bytes(), &after.to_be_bytes()])),
        ),
        Message::Records { query, records, complete, cursor } => {
            let mut fields = of("records").strings("r", wire(records).into_iter());
            if let Some(query) = query {
                fields = fields.number("q", (*query).into());
            }
            let complete = (!complete.is_empty()).then(|| bits(complete, records.len()));
            fields.maybe_bytes("all", complete.as_deref()).maybe_bytes("at", cursor.as_deref())
        }
        Message::Query { id, query, cursor } => of("query")
            .number("q", (*id).into())
            .bytes("text", query.as_str().as_bytes())
            .maybe_bytes("at", cursor.as_deref()),
        Message::Lookup { id, model } => {
            of("lookup").number("q", (*id).into()).bytes("n", model.to_string().as_bytes())
        }
        Message::Holds { id, records, held: manifests } => of("holds")
            .number("q", (*id).into())
            .strings("r", wire(records).into_iter())
            .bytes("m", &entries(manifests, held)),
        Message::GetManifest { manifest, part } => {
            of("get").bytes("m", manifest.as_bytes()).number("p", (*part).into())
        }
        Message::Manifest { manifest, part, bytes } => {
            of("part").bytes("m", manifest.as_bytes()).number("p", (*part).into()).bytes("b", bytes)
        }
    }
    .finish()
}
