//! The signed announcement of one revision, short enough for the DHT.
//!
//! A record is a BEP 44 mutable item: its signature is the item's, over salt, sequence and the bencoded value. So
//! every holder of a record can pass it on, or store it in the DHT again, without its publisher. The value is kept as
//! bytes: fields of a later version survive, and the signature stays valid.
//!
//! A [`SignedRecord`] was verified, or signed by this node. The fields of an [`UncheckedRecord`] are within their bounds, but
//! its signature was not checked. The check costs some 50 µs, so a receiver of many can first leave out known records.

mod value;

use std::sync::Arc;

use sha1::{Digest, Sha1};

use crate::catalog::wire::{Fields, Malformed};
use crate::catalog::{EXPIRY, MAX_AHEAD, UnixTime};
use crate::model::keys::PublisherKeypair;
use crate::model::{InfoHash, Manifest, ModelName, ModelRef, PublisherKey, Revision, Sha256Digest};
use crate::torrent::DhtItem;
use crate::torrent::overlay::MAX_ITEM;

pub(crate) use value::MAX_TAGS;

/// The longest wire form, in bytes: the value, and key, sequence and signature around it.
pub const MAX_RECORD: usize = MAX_ITEM + 160;

/// The SHA-1 of this text is the salt of a publisher's successor record. No name has a colon.
const SUCCESSOR: &str = "silmaril:successor";

/// An announcement of a publisher. Sequences of one publisher grow over all their records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The signer.
    pub publisher: PublisherKey,
    /// Orders the publisher's records; a later one of the same salt replaces the earlier. Not negative.
    pub sequence: i64,
    /// When it was signed.
    pub time: UnixTime,
    /// The content.
    pub body: RecordBody,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordBody {
    /// A revision of a model.
    Model(ModelRecord),
    /// The key that replaces the publisher's key from now on.
    Successor(PublisherKey),
}

/// The announcement of one revision of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRecord {
    /// The name of the model.
    pub name: ModelName,
    /// The revision.
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

/// The reason why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record, or not in canonical form.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// The record has a later format, or a kind that this version does not know. The peer that sent it is not at fault.
    #[error("the record is of a later version")]
    Later,
    /// More than 1000 bytes.
    #[error("the record is longer than BEP 44 allows")]
    TooLong,
    /// The signature was not made by the publisher.
    #[error("the record is not signed by its publisher")]
    BadSignature,
    /// The record's time is too far in the future, or the record has expired.
    #[error("the record is from the future or has expired")]
    Untimely,
}

impl From<Malformed> for RecordError {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Malformed(what)
    }
}

/// A record with a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    record: Record,
    /// The bencoded value that is signed.
    value: Vec<u8>,
    signature: [u8; 64],
}

/// A record whose signature was not checked: any peer may have written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncheckedRecord(SignedRecord);

/// How records are shared within the process.
pub type SharedRecord = Arc<SignedRecord>;

impl Record {
    /// The announcement of a manifest. Left out are a licence or tags that are too long or have characters that mislead a
    /// terminal, and the last tags until the rest fits.
    pub fn of_manifest(manifest: &Manifest, publisher: PublisherKey, sequence: i64, time: UnixTime) -> Self {
        let (digest, len) = manifest.digest();
        let mut model = ModelRecord {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            info_hash: manifest.torrent.info_hash,
            manifest: digest,
            manifest_len: u32::try_from(len).unwrap_or(u32::MAX),
            size: manifest.total_size,
            files: u32::try_from(manifest.files.len()).unwrap_or(u32::MAX),
            license: manifest.license.clone().filter(|license| value::is_license(license)),
            tags: Vec::new(),
        };
        for tag in manifest.tags.iter().filter(|tag| value::is_tag(tag)) {
            if model.tags.len() < MAX_TAGS && !model.tags.contains(tag) {
                model.tags.push(tag.clone());
            }
        }
        let mut record = Self { publisher, sequence, time, body: RecordBody::Model(model) };
        while value::encode(&record).len() > MAX_ITEM {
            let RecordBody::Model(model) = &mut record.body else { break };
            // Without tags the record fits: the longest names, licence and hashes take less than 700 bytes.
            if model.tags.pop().is_none() {
                break;
            }
        }
        record
    }

    /// The salt of its DHT item: SHA-1 of `name@version`, or of a fixed text for a successor.
    pub fn salt(&self) -> [u8; 20] {
        match &self.body {
            RecordBody::Model(model) => salt(&model.name, &model.version),
            RecordBody::Successor(_) => successor_salt(),
        }
    }
}

impl ModelRecord {
    /// `org/name@version`.
    pub fn model_ref(&self) -> ModelRef {
        ModelRef { name: self.name.clone(), revision: self.version.clone() }
    }
}

/// The salt of a model's DHT item: SHA-1 of `org/name@version`, the version written out even where it is the default.
pub fn salt_of(model: &ModelRef) -> [u8; 20] {
    salt(&model.name, &model.revision)
}

fn salt(name: &ModelName, version: &Revision) -> [u8; 20] {
    Sha1::digest(format!("{name}@{version}")).into()
}

/// The salt of the DHT item in which a publisher names their successor.
pub fn successor_salt() -> [u8; 20] {
    Sha1::digest(SUCCESSOR).into()
}

impl UncheckedRecord {
    /// Reads a record from its wire form and checks that every field is within its bounds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLong);
        }
        let fields = Fields::read(bytes)?;
        let publisher = PublisherKey(fields.array("k")?);
        let value = fields.raw("v").ok_or(RecordError::Malformed("it has no value"))?;
        let sequence = fields.number::<u64>("seq")?;
        let sequence =
            i64::try_from(sequence).map_err(|_| RecordError::Malformed("its sequence is too high"))?;
        Self::new(publisher, sequence, value.to_vec(), fields.array("sig")?)
    }

    /// Reads a record from its DHT item. Checks the same, and that the salt belongs to the record.
    pub fn from_item(item: &DhtItem) -> Result<Self, RecordError> {
        let read = Self::new(item.publisher, item.sequence, item.value.clone(), item.signature)?;
        if read.record().salt() != item.salt {
            return Err(RecordError::Malformed("its salt does not match its name"));
        }
        Ok(read)
    }

    fn new(
        publisher: PublisherKey,
        sequence: i64,
        value: Vec<u8>,
        signature: [u8; 64],
    ) -> Result<Self, RecordError> {
        if sequence < 0 {
            return Err(RecordError::Malformed("its sequence is negative"));
        }
        if value.len() > MAX_ITEM {
            return Err(RecordError::TooLong);
        }
        let (time, body) = value::decode(&value)?;
        Ok(Self(SignedRecord { record: Record { publisher, sequence, time, body }, value, signature }))
    }

    /// The content, not verified.
    pub fn record(&self) -> &Record {
        &self.0.record
    }

    /// Whether this is, byte for byte, a record whose signature was checked before.
    pub fn is(&self, known: &SignedRecord) -> bool {
        self.0 == *known
    }

    /// Checks the signature. Takes some 50 µs.
    pub fn verify(self) -> Result<SignedRecord, RecordError> {
        let Record { publisher, sequence, .. } = &self.0.record;
        let message = DhtItem::to_sign(&self.0.record.salt(), *sequence, &self.0.value);
        publisher.verify_strict(&message, &self.0.signature).map_err(|_| RecordError::BadSignature)?;
        Ok(self.0)
    }

    /// Trusts a record that this node has verified before and stored where no other program writes.
    pub(super) fn trust(self) -> SignedRecord {
        self.0
    }
}

impl SignedRecord {
    /// Signs a record with its publisher's key. Fails if a field is out of its bounds, or the key is another.
    pub fn sign(record: Record, key: &PublisherKeypair) -> Result<Self, RecordError> {
        if key.public() != record.publisher {
            return Err(RecordError::BadSignature);
        }
        let value = value::encode(&record);
        let signature = key.sign(&DhtItem::to_sign(&record.salt(), record.sequence, &value));
        let signed = UncheckedRecord::new(record.publisher, record.sequence, value, signature)?.trust();
        if signed.record != record {
            return Err(RecordError::Malformed("it does not survive encoding"));
        }
        Ok(signed)
    }

    /// Reads a record from its wire form, and checks its form and signature, not its time.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        UncheckedRecord::from_bytes(bytes)?.verify()
    }

    /// The wire form: a bencoded dictionary of key, sequence, signature and value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.value.len() + 160);
        bytes.extend_from_slice(b"d1:k32:");
        bytes.extend_from_slice(self.record.publisher.as_bytes());
        bytes.extend_from_slice(format!("3:seqi{}e3:sig64:", self.record.sequence).as_bytes());
        bytes.extend_from_slice(&self.signature);
        bytes.extend_from_slice(b"1:v");
        bytes.extend_from_slice(&self.value);
        bytes.push(b'e');
        bytes
    }

    /// An upper bound of the length of the wire form, in bytes.
    pub fn wire_len(&self) -> usize {
        self.value.len() + 160
    }

    /// Reads a record from its DHT item. Checks the same, and that the salt belongs to the record.
    pub fn from_item(item: &DhtItem) -> Result<Self, RecordError> {
        UncheckedRecord::from_item(item)?.verify()
    }

    /// The record's DHT item.
    pub fn to_item(&self) -> DhtItem {
        DhtItem {
            publisher: self.record.publisher,
            salt: self.record.salt(),
            sequence: self.record.sequence,
            value: self.value.clone(),
            signature: self.signature,
        }
    }

    /// Checks the record's time against a clock. A successor does not expire: its signing key may be lost.
    pub fn check_time(&self, now: UnixTime) -> Result<(), RecordError> {
        let expired = matches!(self.record.body, RecordBody::Model(_))
            && self.record.time.saturating_add(EXPIRY) <= now;
        let ahead = self.record.time > now.saturating_add(MAX_AHEAD);
        if expired || ahead { Err(RecordError::Untimely) } else { Ok(()) }
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The model it announces; none for a successor.
    pub fn model(&self) -> Option<&ModelRecord> {
        match &self.record.body {
            RecordBody::Model(model) => Some(model),
            RecordBody::Successor(_) => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
