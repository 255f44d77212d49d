//! What peers say to each other: bencoded dictionaries, decoded strictly and within bounds.
//!
//! Every message is a dictionary whose `t` says its kind. Unknown kinds and unknown keys are passed over, so that later
//! versions may say more. Long lists of fixed entries are one string, as BEP 5 has its nodes, so a message's memory
//! is bounded by its length before it is decoded. The `MAX_…` constants are what a receiver takes; senders page by them, and
//! by [`pages`] for records.
//!
//! A message can carry some 200 records, and checking so many signatures takes 10 ms. So there are two ways in:
//! [`Message::decode`] does all at once; [`Unchecked::decode`] checks everything but the signatures, cheaply enough for
//! the thread that receives. [`Unchecked::verify`] does the rest, on a thread that may take time: it asks for each
//! record whether the same, byte for byte, is known already, and takes that one instead of checking a signature again.

mod read;
mod write;

use crate::catalog::query::Query;
use crate::catalog::record::{SharedRecord, UncheckedRecord};
use crate::catalog::wire::{Fields, Malformed};
use crate::model::{InfoHash, ModelRef, PublisherKey, Sha256Digest};
use crate::torrent::overlay::MAX_MESSAGE;

/// Bytes of one part of a manifest.
pub const MANIFEST_PART: usize = 16 * 1024;
/// The most entries of one [`Message::Have`]: 44 KB.
pub const MAX_HAVE: usize = 1000;
/// The most entries of one [`Message::Want`]: 40 KB.
pub const MAX_WANT: usize = 1000;
/// The most records of one message. Records of 250 bytes, the shortest there are, fill a message with so many.
pub const MAX_RECORDS: usize = 256;
/// The most entries of [`Message::Holds`]: 13 KB, of which no honest node needs more than a few.
pub const MAX_HELD: usize = 128;
/// The longest cursor, in bytes. Names, version and key of a record take up to 331.
pub const MAX_CURSOR: usize = 400;
/// What one message holds in records, in bytes, when [`MAX_HELD`] entries or a cursor are in it too.
const ROOM: usize = MAX_MESSAGE - 16 * 1024;

/// What a node knows of a publisher's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Have {
    /// Whose records.
    pub publisher: PublisherKey,
    /// The highest sequence known.
    pub sequence: i64,
    /// How many are known.
    pub count: u32,
}

/// A manifest that the answering node holds and hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldManifest {
    /// Who signed it.
    pub publisher: PublisherKey,
    /// SHA-256 of its JSON.
    pub manifest: Sha256Digest,
    /// Length of that JSON in bytes.
    pub len: u32,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// Whether every byte of the model is there.
    pub complete: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first message on every connection.
    Hello {
        /// Version of the protocol; 1.
        version: u32,
        /// Random for every run of a node: the same over all its connections.
        node: [u8; 20],
        /// How many records it knows.
        records: u32,
    },
    /// What the sender knows, in pages; `more` says that another page follows.
    Have {
        /// At most one entry a publisher.
        known: Vec<Have>,
        /// Whether this is not the last page.
        more: bool,
    },
    /// Asks for the records of publishers after a sequence.
    Want {
        /// Publisher, and the sequence after which records are wanted.
        after: Vec<(PublisherKey, i64)>,
    },
    /// Records: wanted, pushed, or found by a query.
    Records {
        /// The query that this answers.
        query: Option<u32>,
        /// The records, verified by decoding.
        records: Vec<SharedRecord>,
        /// Indices of those whose model the sender has wholly.
        complete: Vec<u32>,
        /// Where the answer to the query goes on.
        cursor: Option<Vec<u8>>,
    },
    /// Asks for records that match.
    Query {
        /// Chosen by the asker.
        id: u32,
        /// What for.
        query: Query,
        /// From where on: what an earlier answer gave.
        cursor: Option<Vec<u8>>,
    },
    /// Asks who can hand out the manifests of a name.
    Lookup {
        /// Chosen by the asker.
        id: u32,
        /// Which model at which revision.
        model: ModelRef,
    },
    /// Answer to `Lookup`: records, and manifests held.
    Holds {
        /// Of the lookup.
        id: u32,
        /// Records of that model known.
        records: Vec<SharedRecord>,
        /// Manifests of that model held.
        held: Vec<HeldManifest>,
    },
    /// Asks for a part of a manifest.
    GetManifest {
        /// Which.
        manifest: Sha256Digest,
        /// Which part, from 0, of [`MANIFEST_PART`] bytes.
        part: u32,
    },
    /// A part of a manifest; empty where the sender does not hold it.
    Manifest {
        /// Which.
        manifest: Sha256Digest,
        /// Which part.
        part: u32,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// Why a message is refused; its sender is to be dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a message.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// It carries a record that is forged or malformed.
    #[error(transparent)]
    Record(#[from] crate::catalog::record::RecordError),
}

impl From<Malformed> for MessageError {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Malformed(what)
    }
}

impl Message {
    /// Reads a message and checks the signatures of its records; `None` for one of a kind that this version does not
    /// know, or a query with terms that it does not know.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        Unchecked::decode(bytes)?.map(|unchecked| unchecked.verify(|_| None)).transpose()
    }

    /// Writes it. Senders keep it below [`MAX_MESSAGE`] by paging.
    pub fn encode(&self) -> Vec<u8> {
        write::encode(self)
    }

    fn records_mut(&mut self) -> Option<&mut Vec<SharedRecord>> {
        match self {
            Self::Records { records, .. } | Self::Holds { records, .. } => Some(records),
            _ => None,
        }
    }
}

/// A message of which all is checked but the signatures of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchecked {
    /// Without its records; `complete` has the indices in [`records`](Self::records).
    message: Message,
    records: Vec<UncheckedRecord>,
}

impl Unchecked {
    /// Reads a message; `None` as in [`Message::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        read::decode(bytes)
    }

    /// The message, its records left out.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The records it carries. Those of later versions are not among them.
    pub fn records(&self) -> &[UncheckedRecord] {
        &self.records
    }

    /// Checks the signatures, some 50 µs each, but of those records that `known` gives: the one known of the same
    /// publisher, name and version. Where that is the very same, it is taken instead.
    pub fn verify(
        self,
        mut known: impl FnMut(&UncheckedRecord) -> Option<SharedRecord>,
    ) -> Result<Message, MessageError> {
        let Self { mut message, records } = self;
        if let Some(out) = message.records_mut() {
            for record in records {
                out.push(match known(&record).filter(|known| record.is(known)) {
                    Some(known) => known,
                    None => SharedRecord::new(record.verify()?),
                });
            }
        }
        Ok(message)
    }
}

/// Whether a message is read in no time and somebody may wait for it: greetings, questions for a model or a manifest, and
/// their answers. All else may carry hundreds of records. Nothing is checked but its form.
pub fn is_urgent(bytes: &[u8]) -> bool {
    let Ok(fields) = Fields::read(bytes) else { return false };
    matches!(fields.bytes("t"), Ok(b"hello" | b"lookup" | b"holds" | b"get" | b"part"))
}

/// Splits records into runs, each of which fits into one [`Message::Records`] or [`Message::Holds`].
pub fn pages(records: &[SharedRecord]) -> impl Iterator<Item = &[SharedRecord]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut room = ROOM;
        let fitting = rest.iter().take(MAX_RECORDS).take_while(|record| {
            let left = room.checked_sub(record.wire_len());
            room = left.unwrap_or(0);
            left.is_some()
        });
        let (page, after) = rest.split_at(fitting.count());
        rest = after;
        (!page.is_empty()).then_some(page)
    })
}

#[cfg(test)]
mod tests;
