//! The signed announcement of one revision, short enough for the DHT.
//!
//! A record is a BEP 44 mutable item: its signature is the item's, over salt, sequence and the bencoded value. So
//! whoever holds a record can hand it on, or store it in the DHT again, without its publisher.

use std::sync::Arc;

use crate::catalog::UnixTime;
use crate::keys::PublisherKeypair;
use crate::model::{InfoHash, Manifest, ModelName, ModelRef, PublisherKey, Revision, Sha256Digest};
use crate::torrent::DhtItem;

/// What a publisher announces. Sequences of one publisher grow over all their records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who signs it.
    pub publisher: PublisherKey,
    /// Orders the publisher's records; a later one of the same salt replaces the earlier.
    pub sequence: i64,
    /// When it was signed.
    pub time: UnixTime,
    /// What it announces.
    pub body: Body,
}

/// What a record announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A revision of a model.
    Model(ModelRecord),
    /// The key that replaces the publisher's from now on.
    Successor(PublisherKey),
}

/// The announcement of one revision of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRecord {
    /// Which model.
    pub name: ModelName,
    /// Which revision.
    pub version: Revision,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// SHA-256 of its manifest's JSON as [`Manifest::to_json`] writes it.
    pub manifest: Sha256Digest,
    /// Length of that JSON in bytes.
    pub manifest_len: u32,
    /// Bytes of all files.
    pub size: u64,
    /// Number of files.
    pub files: u32,
    /// Licence, where known.
    pub license: Option<String>,
    /// Tags; as many as fit.
    pub tags: Vec<String>,
}

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record, or not in canonical form.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// More than 1000 bytes.
    #[error("the record is longer than BEP 44 allows")]
    TooLong,
    /// The signature is not the publisher's.
    #[error("the record's signature is not its publisher's")]
    BadSignature,
    /// Its time is too far ahead, or it has expired.
    #[error("the record is from the future or has expired")]
    Untimely,
}

/// A record whose signature was checked, or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    record: Record,
    /// The bencoded value that is signed.
    value: Vec<u8>,
    signature: [u8; 64],
}

impl Record {
    /// The announcement of a manifest. Tags are left out from the end until it fits.
    pub fn of_manifest(manifest: &Manifest, publisher: PublisherKey, sequence: i64, time: UnixTime) -> Self {
        todo!()
    }

    /// The salt of its DHT item: SHA-1 of `name@version`, or of a fixed text for a successor.
    pub fn salt(&self) -> [u8; 20] {
        todo!()
    }
}

impl ModelRecord {
    /// `org/name@version`.
    pub fn model_ref(&self) -> ModelRef {
        ModelRef { name: self.name.clone(), revision: self.version.clone() }
    }
}

/// The salt of a model's DHT item.
pub fn salt_of(model: &ModelRef) -> [u8; 20] {
    todo!()
}

impl SignedRecord {
    /// Signs a record with its publisher's key.
    pub fn sign(record: Record, key: &PublisherKeypair) -> Result<Self, RecordError> {
        todo!()
    }

    /// Reads a record from its wire form, and checks its form and signature, not its time.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        todo!()
    }

    /// The wire form: a bencoded dictionary of key, sequence, signature and value.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads a record from its DHT item, checking the same, and that the salt is the record's own.
    pub fn from_item(item: &DhtItem) -> Result<Self, RecordError> {
        todo!()
    }

    /// Its DHT item.
    pub fn to_item(&self) -> DhtItem {
        todo!()
    }

    /// Checks its time against a clock.
    pub fn check_time(&self, now: UnixTime) -> Result<(), RecordError> {
        todo!()
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The model it announces; none for a successor.
    pub fn model(&self) -> Option<&ModelRecord> {
        match &self.record.body {
            Body::Model(model) => Some(model),
            Body::Successor(_) => None,
        }
    }
}

/// How records are shared within the process.
pub type SharedRecord = Arc<SignedRecord>;
