//! The messages between peers: bencoded dictionaries, decoded strictly and within bounds.
//!
//! Every message is a dictionary with its kind as `t`. Unknown kinds and unknown keys are ignored, so that later versions
//! can add some. Long lists of fixed entries are one string, like the nodes of BEP 5, so a message's memory
//! is bounded by its length before it is decoded. The `MAX_…` constants are the limits of a receiver; senders split by them,
//! and by [`pages`] for records.
//!
//! A message can carry some 200 records, and checking so many signatures takes 10 ms. So there are two ways to decode:
//! [`Message::decode`] does everything in one step; [`Unchecked::decode`] checks everything but the signatures, cheaply
//! enough for the receiving thread. [`Unchecked::verify`] does the rest, on a thread that may take time. If a record is known
//! already, byte for byte, it uses the known one and skips the signature.

mod codec;

use crate::catalog::query::Query;
use crate::catalog::record::{SharedRecord, UncheckedRecord};
use crate::catalog::wire::{Fields, Malformed};
use crate::model::{InfoHash, ModelRef, PublisherKey, Sha256Digest};

/// Bytes of one part of a manifest.
pub const MANIFEST_PART: usize = 16 * 1024;
/// The most entries of one [`Message::Have`]: 44 KB.
pub const MAX_HAVE: usize = 1000;
/// The most entries of one [`Message::Want`]: 40 KB.
pub const MAX_WANT: usize = 1000;
/// The most records of one message. Records of 250 bytes, the shortest there are, fill a message with so many.
pub const MAX_RECORDS: usize = 256;
/// The most entries of [`PeerAnswer::Holds`]: 13 KB, of which no honest node needs more than a few.
pub const MAX_HELD: usize = 128;
/// The longest cursor, in bytes. Names, version and key of a record take up to 331.
pub const MAX_CURSOR: usize = 400;
/// A summary of the records of a publisher that a node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Have {
    /// The publisher.
    pub publisher: PublisherKey,
    /// The highest sequence known.
    pub sequence: i64,
    /// How many are known.
    pub count: u32,
}

/// A manifest that the answering node holds and hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldManifest {
    /// The signer.
    pub publisher: PublisherKey,
    /// SHA-256 of its JSON.
    pub manifest: Sha256Digest,
    /// Length of that JSON in bytes.
    pub len: u32,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// Whether the node has every byte of the model.
    pub complete: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first message on every connection.
    Hello {
        /// Version of the protocol; 1.
        version: u32,
        /// Random for every run of a node, and the same on all its connections.
        node: [u8; 20],
        /// How many records it knows.
        records: u32,
    },
    /// A page of the sender's digest: the records that it knows.
    Have {
        /// At most one entry for each publisher.
        known: Vec<Have>,
        /// Whether this is not the last page.
        more: bool,
    },
    /// Asks for the records of publishers after a sequence.
    Want {
        /// Publishers, each with the sequence after which records are wanted.
        after: Vec<(PublisherKey, i64)>,
    },
    /// Records that are new to the sender.
    Pushed(Vec<SharedRecord>),
    /// Answer to `Want`: records, verified by decoding.
    Wanted {
        /// Publisher by publisher, in the order of the request.
        records: Vec<SharedRecord>,
        /// Whether the sender has more of them.
        more: bool,
    },
    /// A question, and its number, which the asker chooses. The number of a part of a manifest is not sent.
    Question(u32, PeerQuestion),
    /// The answer to the question with this number. The number of a part of a manifest is not sent.
    Answer(u32, PeerAnswer),
}

/// A question of one node to another. [`gossip::answers`](crate::catalog::gossip::answers) answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerQuestion {
    /// Asks for records of a model, and for the manifests of it that the peer can send.
    Lookup(ModelRef),
    /// Asks for records that match. A page begins at the cursor of an earlier answer.
    Query(Query, Option<Vec<u8>>),
    /// Asks for a part of a manifest: the SHA-256 of the manifest, and the number of the part, from 0, of [`MANIFEST_PART`]
    /// bytes.
    Part(Sha256Digest, u32),
}

/// The answer to a [`PeerQuestion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAnswer {
    /// To a lookup.
    Holds {
        /// Known records of the model.
        records: Vec<SharedRecord>,
        /// Manifests of the model that the sender claims to hold.
        held: Vec<HeldManifest>,
    },
    /// To a query.
    Found {
        /// The records, verified by decoding.
        records: Vec<SharedRecord>,
        /// Indices of the records whose models the sender claims to have completely.
        complete: Vec<u32>,
        /// The beginning of the next page; none after the last one.
        cursor: Option<Vec<u8>>,
    },
    /// A part of a manifest; empty if the sender does not hold it.
    Part {
        /// SHA-256 of the manifest.
        manifest: Sha256Digest,
        /// The number of the part.
        part: u32,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// Identifies an open question to a peer: its number, or the part that it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum QuestionKey {
    Number(u32),
    Part(Sha256Digest, u32),
}

impl PeerQuestion {
    /// Identifies this question with this number.
    pub(super) fn key(&self, number: u32) -> QuestionKey {
        match self {
            Self::Lookup(_) | Self::Query(..) => QuestionKey::Number(number),
            Self::Part(manifest, part) => QuestionKey::Part(*manifest, *part),
        }
    }
}

impl PeerAnswer {
    /// Identifies the question with this number that this answers.
    pub(super) fn key(&self, number: u32) -> QuestionKey {
        match self {
            Self::Holds { .. } | Self::Found { .. } => QuestionKey::Number(number),
            Self::Part { manifest, part, .. } => QuestionKey::Part(*manifest, *part),
        }
    }

    /// The records in the answer.
    pub(super) fn records(&self) -> &[SharedRecord] {
        match self {
            Self::Holds { records, .. } | Self::Found { records, .. } => records,
            Self::Part { .. } => &[],
        }
    }
}

/// The reason why a message is refused. The connection to its sender is then closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The bytes are not a message.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The message carries a forged or malformed record.
    #[error(transparent)]
    Record(#[from] crate::catalog::record::RecordError),
}

impl From<Malformed> for MessageError {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Malformed(what)
    }
}

impl Message {
    /// Reads a message and checks the signatures of its records; `None` if this version does not know the kind of the
    /// message, or a term of its query.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        Unchecked::decode(bytes)?.map(|unchecked| unchecked.verify(|_| None)).transpose()
    }

    fn records_mut(&mut self) -> Option<&mut Vec<SharedRecord>> {
        match self {
            Self::Pushed(records)
            | Self::Wanted { records, .. }
            | Self::Answer(_, PeerAnswer::Holds { records, .. } | PeerAnswer::Found { records, .. }) => {
                Some(records)
            }
            _ => None,
        }
    }
}

/// A message that was checked but for the signatures of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchecked {
    /// The message without its records; `complete` has indices of [`records`](Self::records).
    message: Message,
    records: Vec<UncheckedRecord>,
}

impl Unchecked {
    /// The records of the message, without records of later versions.
    pub fn records(&self) -> &[UncheckedRecord] {
        &self.records
    }

    /// Checks the signatures, some 50 µs each. `known` returns the known record of the same publisher, name and version; if
    /// that is identical, its signature is not checked again.
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

/// Whether a message is cheap to read and an operation may wait for it: greetings, questions about a model or a manifest, and
/// their answers. All other kinds may carry hundreds of records. Checks only the form.
pub fn is_urgent(bytes: &[u8]) -> bool {
    let Ok(fields) = Fields::read(bytes) else { return false };
    matches!(fields.bytes("t"), Ok(b"hello" | b"lookup" | b"holds" | b"get" | b"part"))
}

#[cfg(test)]
mod tests;
