//! What peers say to each other: bencoded dictionaries, decoded strictly and within bounds.
//!
//! Unknown messages and unknown keys are passed over, so that later versions may say more.

use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::model::{InfoHash, ModelRef, PublisherKey, Sha256Digest};

/// Bytes of one part of a manifest.
pub const MANIFEST_PART: usize = 16 * 1024;

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

impl Message {
    /// Reads a message; `None` for one of a kind that this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        todo!()
    }

    /// Writes it. Senders keep it below [`MAX_MESSAGE`](crate::torrent::overlay::MAX_MESSAGE) by paging.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
}
