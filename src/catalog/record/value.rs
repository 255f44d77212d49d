//! The value of a record's DHT item: a bencoded dictionary with short keys.
//!
//! | key | meaning | | key | meaning |
//! |---|---|---|---|---|
//! | `v` | version of the format, 1 | | `y` | `m`: a model, `s`: a successor |
//! | `t` | time, seconds since 1970 | | `k` | successor: the new key |
//! | `n` | name | | `r` | revision |
//! | `i` | v2 info hash | | `m`, `ml` | SHA-256 and length of the manifest |
//! | `s` | bytes of all files | | `f` | number of files |
//! | `l` | licence, where known | | `g` | tags |

use super::{ModelRecord, Record, RecordBody, RecordError};
use crate::catalog::UnixTime;
use crate::catalog::wire::{self, Fields, Malformed, MessageWriter};
use crate::model::files::{MAX_FILES, MAX_TOTAL};
use crate::model::manifest::MAX_MANIFEST;
use crate::model::{InfoHash, PublisherKey, Sha256Digest, text};

const FORMAT: u32 = 1;
const MODEL: &[u8] = b"m";
const SUCCESSOR: &[u8] = b"s";

/// The longest licence that a record carries, in bytes.
pub const MAX_LICENSE: usize = 64;
/// The longest tag that a record carries, in bytes.
pub const MAX_TAG: usize = 64;
/// The most tags that a record carries.
pub const MAX_TAGS: usize = 64;

/// Whether a record can carry a licence.
pub(super) fn is_license(license: &str) -> bool {
    !license.trim().is_empty() && license.len() <= MAX_LICENSE && text::is_clean(license)
}

/// Whether a record can carry a tag.
pub(super) fn is_tag(tag: &str) -> bool {
    !tag.trim().is_empty() && tag.len() <= MAX_TAG && text::is_clean(tag)
}

/// Writes time and body.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let fields = MessageWriter::default().number("v", FORMAT.into()).number("t", record.time);
    match &record.body {
        RecordBody::Successor(key) => fields.bytes("y", SUCCESSOR).bytes("k", key.as_bytes()),
        RecordBody::Model(model) => fields
            .bytes("y", MODEL)
            .bytes("n", model.name.to_string().as_bytes())
            .bytes("r", model.version.as_str().as_bytes())
            .bytes("i", model.info_hash.as_bytes())
            .bytes("m", model.manifest.as_bytes())
            .number("ml", model.manifest_len.into())
            .number("s", model.size)
            .number("f", model.files.into())
            .maybe_bytes("l", model.license.as_ref().map(String::as_bytes))
            .strings("g", model.tags.iter()),
    }
    .finish()
}

/// Reads time and body, and checks the bounds of all fields.
pub(super) fn decode(value: &[u8]) -> Result<(UnixTime, RecordBody), RecordError> {
    let fields = Fields::read(value)?;
    match fields.number("v")? {
        0 => return Err(RecordError::Malformed("its format is 0")),
        FORMAT => {}
        _ => return Err(RecordError::Later),
    }
    let time = fields.number("t")?;
    let body = match fields.bytes("y")? {
        MODEL => RecordBody::Model(model(&fields)?),
        SUCCESSOR => RecordBody::Successor(PublisherKey(fields.array("k")?)),
        _ => return Err(RecordError::Later),
    };
    Ok((time, body))
}

fn model(fields: &Fields<'_>) -> Result<ModelRecord, Malformed> {
    let mut tags = Vec::new();
    for tag in fields.strings("g", MAX_TAGS)? {
        let tag = wire::text(tag)?;
        if !is_tag(tag) {
            return Err(Malformed("a tag is too long or not clean"));
        }
        tags.push(tag.to_owned());
    }
    let license = fields.maybe_bytes("l")?.map(wire::text).transpose()?;
    if license.is_some_and(|license| !is_license(license)) {
        return Err(Malformed("its licence is too long or not clean"));
    }
    let model = ModelRecord {
        name: fields.text("n")?.parse().map_err(|_| Malformed("its name is invalid"))?,
        version: fields.text("r")?.parse().map_err(|_| Malformed("its revision is invalid"))?,
        info_hash: InfoHash(fields.array("i")?),
        manifest: Sha256Digest(fields.array("m")?),
        manifest_len: fields.number("ml")?,
        size: fields.number("s")?,
        files: fields.number("f")?,
        license: license.map(str::to_owned),
        tags,
    };
    let sound = (1..=MAX_MANIFEST).contains(&(model.manifest_len as usize))
        && model.size <= MAX_TOTAL
        && (1..=MAX_FILES).contains(&(model.files as usize));
    if sound { Ok(model) } else { Err(Malformed("a size is out of its range")) }
}
