//! The bencoded form of each message: reading it strictly and within bounds, and writing it.

use super::{
    Have, HeldManifest, MANIFEST_PART, MAX_CURSOR, MAX_HAVE, MAX_HELD, MAX_RECORDS, MAX_WANT, Message,
    MessageError, PeerAnswer, PeerQuestion, Unchecked,
};
use crate::catalog::query::{MAX_QUERY, Query};
use crate::catalog::record::{RecordError, SharedRecord, UncheckedRecord};
use crate::catalog::wire::{Fields, Malformed, MessageWriter};
use crate::model::manifest::MAX_MANIFEST;
use crate::model::{InfoHash, PublisherKey, Sha256Digest};
use crate::torrent::overlay::MAX_MESSAGE;

/// The number in an answer to `want`. Questions are numbered from 1.
const OF_WANT: u32 = 0;

/// The cursor in an answer to `want` when there are more records.
const MORE: [u8; 1] = [1];

/// The `N` bytes of an entry from an offset on.
fn part<const N: usize>(entry: &[u8], at: usize) -> [u8; N] {
    entry[at..at + N].try_into().expect("the entry is long enough")
}

/// A sequence: not negative, as those of records.
fn sequence(bytes: [u8; 8]) -> Result<i64, Malformed> {
    let sequence = i64::from_be_bytes(bytes);
    if sequence < 0 { Err(Malformed("a sequence is negative")) } else { Ok(sequence) }
}

fn have(entry: &[u8; 44]) -> Result<Have, Malformed> {
    Ok(Have {
        publisher: PublisherKey(part(entry, 0)),
        sequence: sequence(part(entry, 32))?,
        count: u32::from_be_bytes(part(entry, 40)),
    })
}

fn held(entry: &[u8; 101]) -> Result<HeldManifest, Malformed> {
    let len = u32::from_be_bytes(part(entry, 64));
    if !(1..=MAX_MANIFEST).contains(&(len as usize)) {
        return Err(Malformed("a manifest's length is out of its range"));
    }
    Ok(HeldManifest {
        publisher: PublisherKey(part(entry, 0)),
        manifest: Sha256Digest(part(entry, 32)),
        len,
        info_hash: InfoHash(part(entry, 68)),
        complete: match entry[100] {
            0 => false,
            1 => true,
            _ => return Err(Malformed("a flag is neither 0 nor 1")),
        },
    })
}

/// The records in their order; `None` for a record of a later version.
fn records_of(fields: &Fields<'_>) -> Result<Vec<Option<UncheckedRecord>>, MessageError> {
    let wire = fields.strings("r", MAX_RECORDS)?;
    let record = |bytes| match UncheckedRecord::from_bytes(bytes) {
        Err(RecordError::Later) => Ok(None),
        other => Ok(Some(other?)),
    };
    wire.into_iter().map(record).collect()
}

/// The indices of the records whose bit is set, among the records that were read.
fn complete(fields: &Fields<'_>, records: &[Option<UncheckedRecord>]) -> Result<Vec<u32>, Malformed> {
    let Some(bits) = fields.maybe_bytes("all")? else { return Ok(Vec::new()) };
    let is_set = |index: usize| bits[index / 8] & (0x80 >> (index % 8)) != 0;
    if bits.len() != records.len().div_ceil(8) || (records.len()..8 * bits.len()).any(is_set) {
        return Err(Malformed("the bits do not match the records"));
    }
    let read = (0..records.len()).filter(|&index| records[index].is_some());
    Ok((0u32..).zip(read).filter(|&(_, index)| is_set(index)).map(|(index, _)| index).collect())
}

fn cursor(fields: &Fields<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    match fields.maybe_bytes("at")? {
        Some(cursor) if cursor.len() > MAX_CURSOR => Err(Malformed("the cursor is too long")),
        cursor => Ok(cursor.map(<[u8]>::to_vec)),
    }
}

/// The number of a manifest's part.
fn number(fields: &Fields<'_>) -> Result<u32, Malformed> {
    let number = fields.number("p")?;
    let most = MAX_MANIFEST.div_ceil(MANIFEST_PART);
    if number as usize > most { Err(Malformed("a part number is out of its range")) } else { Ok(number) }
}

impl Unchecked {
    /// Reads a message; `None` as in [`Message::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(Malformed("it is too long").into());
        }
        let fields = Fields::read(bytes)?;
        let mut records = Vec::new();
        let message = match fields.bytes("t")? {
            b"hello" => Message::Hello {
                version: fields.number("v")?,
                node: fields.array("id")?,
                records: fields.number("n")?,
            },
            b"have" => Message::Have {
                known: fields.entries("k", MAX_HAVE)?.iter().map(have).collect::<Result<_, _>>()?,
                more: fields.maybe_number("more")?.unwrap_or(0u8) != 0,
            },
            b"want" => {
                let entry = |entry: &[u8; 40]| Ok((PublisherKey(part(entry, 0)), sequence(part(entry, 32))?));
                let after = fields.entries("k", MAX_WANT)?.iter().map(entry);
                Message::Want { after: after.collect::<Result<_, Malformed>>()? }
            }
            b"records" => {
                let read = records_of(&fields)?;
                let complete = complete(&fields, &read)?;
                records = read.into_iter().flatten().collect();
                let cursor = cursor(&fields)?;
                match fields.maybe_number("q")? {
                    None => Message::Pushed(Vec::new()),
                    Some(OF_WANT) => Message::Wanted { records: Vec::new(), more: cursor.is_some() },
                    Some(id) => {
                        Message::Answer(id, PeerAnswer::Found { records: Vec::new(), complete, cursor })
                    }
                }
            }
            b"query" => {
                let (id, text) = (fields.number("q")?, fields.text("text")?);
                if text.len() > MAX_QUERY {
                    return Err(Malformed("the query is too long").into());
                }
                let cursor = cursor(&fields)?;
                // The query may have terms of a later version.
                let Ok(query) = text.parse::<Query>() else { return Ok(None) };
                Message::Question(id, PeerQuestion::Query(query, cursor))
            }
            b"lookup" => {
                let model = fields.text("n")?.parse().map_err(|_| Malformed("a name is invalid"))?;
                Message::Question(fields.number("q")?, PeerQuestion::Lookup(model))
            }
            b"holds" => {
                records = records_of(&fields)?.into_iter().flatten().collect();
                let held = fields.entries("m", MAX_HELD)?.iter().map(held).collect::<Result<_, _>>()?;
                Message::Answer(fields.number("q")?, PeerAnswer::Holds { records: Vec::new(), held })
            }
            b"get" => {
                let manifest = Sha256Digest(fields.array("m")?);
                Message::Question(0, PeerQuestion::Part(manifest, number(&fields)?))
            }
            b"part" => {
                let bytes = fields.bytes("b")?;
                if bytes.len() > MANIFEST_PART {
                    return Err(Malformed("the part is too long").into());
                }
                let (manifest, part) = (Sha256Digest(fields.array("m")?), number(&fields)?);
                Message::Answer(0, PeerAnswer::Part { manifest, part, bytes: bytes.to_vec() })
            }
            _ => return Ok(None),
        };
        Ok(Some(Unchecked { message, records }))
    }
}

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

fn have_entry(have: &Have) -> [u8; 44] {
    concat(&[have.publisher.as_bytes(), &have.sequence.to_be_bytes(), &have.count.to_be_bytes()])
}

fn held_entry(held: &HeldManifest) -> [u8; 101] {
    concat(&[
        held.publisher.as_bytes(),
        held.manifest.as_bytes(),
        &held.len.to_be_bytes(),
        held.info_hash.as_bytes(),
        &[held.complete.into()],
    ])
}

impl Message {
    /// Writes the message. Senders split their data so that it stays below [`MAX_MESSAGE`].
    pub fn encode(&self) -> Vec<u8> {
        let of = |kind: &str| MessageWriter::default().bytes("t", kind.as_bytes());
        let wire =
            |records: &[SharedRecord]| records.iter().map(|record| record.to_bytes()).collect::<Vec<_>>();
        match self {
            Message::Hello { version, node, records } => {
                of("hello").number("v", (*version).into()).bytes("id", node).number("n", (*records).into())
            }
            Message::Have { known, more } => {
                of("have").bytes("k", &entries(known, have_entry)).number("more", (*more).into())
            }
            Message::Want { after } => of("want").bytes(
                "k",
                &entries(after, |(publisher, after)| {
                    concat::<40>(&[publisher.as_bytes(), &after.to_be_bytes()])
                }),
            ),
            Message::Pushed(records) => of("records").strings("r", wire(records).into_iter()),
            Message::Wanted { records, more } => of("records")
                .strings("r", wire(records).into_iter())
                .number("q", OF_WANT.into())
                .maybe_bytes("at", more.then_some(&MORE)),
            Message::Answer(id, PeerAnswer::Found { records, complete, cursor }) => {
                let fields = of("records").strings("r", wire(records).into_iter()).number("q", (*id).into());
                let complete = (!complete.is_empty()).then(|| bits(complete, records.len()));
                fields.maybe_bytes("all", complete.as_deref()).maybe_bytes("at", cursor.as_deref())
            }
            Message::Question(id, PeerQuestion::Query(query, cursor)) => of("query")
                .number("q", (*id).into())
                .bytes("text", query.as_str().as_bytes())
                .maybe_bytes("at", cursor.as_deref()),
            Message::Question(id, PeerQuestion::Lookup(model)) => {
                of("lookup").number("q", (*id).into()).bytes("n", model.to_string().as_bytes())
            }
            Message::Answer(id, PeerAnswer::Holds { records, held: manifests }) => of("holds")
                .number("q", (*id).into())
                .strings("r", wire(records).into_iter())
                .bytes("m", &entries(manifests, held_entry)),
            Message::Question(_, PeerQuestion::Part(manifest, part)) => {
                of("get").bytes("m", manifest.as_bytes()).number("p", (*part).into())
            }
            Message::Answer(_, PeerAnswer::Part { manifest, part, bytes }) => {
                of("part").bytes("m", manifest.as_bytes()).number("p", (*part).into()).bytes("b", bytes)
            }
        }
        .finish()
    }
}
