//! The fields of a manifest, the signed description of one revision of a model. Reading, checking, writing and signing
//! are in `codec`.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::files::TorrentFile;
use super::merkle::Hash;
use super::{InfoHash, Kind, Layout, ModelName, ModelRef, PiecesRoot, PublisherKey, Revision, Sha256Digest};

/// Largest manifest that is read, in bytes.
pub const MAX_MANIFEST: usize = 16 << 20;
/// Most JSON values of a manifest. Bounded separately, because a value needs more memory than its bytes.
pub const MAX_VALUES: usize = 2_000_000;
/// The schema that this version writes and reads.
pub const SCHEMA: u32 = 1;
/// Most web seeds of a manifest.
pub const MAX_WEB_SEEDS: usize = 100;
/// The most bytes of piece layers in a manifest. With pieces of 4 MiB that is enough for a terabyte, and in base64 it is
/// two thirds of the largest manifest.
pub const MAX_CARRIED: usize = 8 << 20;

/// One file of a revision. `files` of a manifest is in canonical order (that of the file tree of BEP 52).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative path with `/` between components, checked (see [`path::check_path`](super::path::check_path)).
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// Merkle root of the file's blocks; absent for an empty file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces_root: Option<PiecesRoot>,
    /// Hashes of the file's pieces, if it has more than one piece and is available over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub piece_layer: Option<PieceLayer>,
    /// Whether the file has the executable bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
    /// Unknown fields, written again unchanged.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl FileEntry {
    /// An entry without unknown fields.
    pub fn new(
        path: impl Into<String>,
        size: u64,
        sha256: Option<Sha256Digest>,
        pieces_root: Option<PiecesRoot>,
    ) -> Self {
        Self {
            path: path.into(),
            size,
            sha256,
            pieces_root,
            piece_layer: None,
            executable: false,
            other: Map::new(),
        }
    }

    /// The file as its torrent describes it.
    pub fn as_torrent_file(&self) -> TorrentFile<'_> {
        TorrentFile { path: &self.path, size: self.size, pieces_root: self.pieces_root }
    }
}

/// The hashes of a file's pieces, in order. In JSON: base64 of the concatenated hashes.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceLayer(pub Vec<Hash>);

impl std::fmt::Debug for PieceLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hashes", self.0.len())
    }
}

impl Serialize for PieceLayer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(self.0.as_flattened()))
    }
}

impl<'de> Deserialize<'de> for PieceLayer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX_CARRIED.div_ceil(3) * 4 {
            return Err(D::Error::custom("a piece_layer is too long"));
        }
        let bytes = BASE64.decode(text).map_err(|_| D::Error::custom("a piece_layer is not base64"))?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        if rest.is_empty() {
            Ok(Self(hashes.to_vec()))
        } else {
            Err(D::Error::custom("a piece_layer is not a list of hashes"))
        }
    }
}

/// The torrent of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentEntry {
    /// `name` of the info dictionary.
    pub name: String,
    /// v2 info hash.
    pub info_hash: InfoHash,
    /// Bytes per piece.
    pub piece_length: u32,
    /// v2 info hash of the hybrid torrent of the same files, if the publisher made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid_info_hash: Option<InfoHash>,
    /// The info dictionary in base64, if silmaril would make another one of these files: torrents of other programs have
    /// other names, a v1 half or private keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// Unknown fields, written again unchanged.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Values of the model card's front matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Task, e.g. `text-generation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_tag: Option<String>,
    /// Library, e.g. `transformers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library_name: Option<String>,
    /// Models from which this one was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_model: Vec<String>,
    /// Language codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// Unknown fields, written again unchanged.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The origin of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// `huggingface`, `git` or `local`.
    pub kind: String,
    /// Address of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The commit, 40 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Unknown fields, written again unchanged.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The JSON from which a manifest was read. Stored only if writing the fields would give other JSON (files in another
/// order, explicit nulls), because the signature covers the JSON that the signer wrote.
#[derive(Clone, Default)]
pub(crate) struct Original(pub(super) Option<Arc<Value>>);

/// Always equal, so that the equality of two manifests depends only on their fields.
impl PartialEq for Original {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Original {}

impl fmt::Debug for Original {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "stored" } else { "none" })
    }
}

/// The description of one revision of a model. A value that was read by `Manifest::from_json` or by serde has passed every
/// check: its paths are valid and within limits, its files give its info hash, and its signature, if any, is valid. Its
/// files are in canonical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Manifest {
    /// Version of this format; 1.
    pub schema: u32,
    /// Model or dataset.
    pub kind: Kind,
    /// `org/name`, or `datasets/org/name`.
    pub name: ModelName,
    /// The revision.
    pub version: Revision,
    /// One paragraph for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// SPDX or hub licence identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// RFC 3339 time of creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// First entry of `architectures` in config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// `model_type` of config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Number of parameters, from the safetensors headers or the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Most used tensor type, as safetensors writes it (`F32`, `BF16`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Quantization method, from config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Longest input in tokens, from config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// Tags of the model card.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Other values of the model card.
    #[serde(default)]
    pub card: Card,
    /// Where the files came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceEntry>,
    /// Sum of the files' sizes in bytes.
    pub total_size: u64,
    /// The files, in canonical order.
    pub files: Vec<FileEntry>,
    /// The torrent of these files.
    pub torrent: TorrentEntry,
    /// BEP 9 magnet link.
    #[serde(default)]
    pub magnet_uri: String,
    /// HTTP addresses that serve the files (BEP 19).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub web_seeds: Vec<String>,
    /// The publisher that signed; none without a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<PublisherKey>,
    /// Base64 Ed25519 signature over the canonical JSON without this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Unknown fields, written again unchanged.
    #[serde(flatten)]
    pub other: Map<String, Value>,
    /// The JSON from which it was read, if that must be written again.
    #[serde(skip)]
    pub(crate) original: Original,
}

impl Manifest {
    /// `org/name@revision`.
    pub fn model_ref(&self) -> ModelRef {
        ModelRef { name: self.name.clone(), revision: self.version.clone() }
    }

    /// The positions of the files in the torrent's pieces.
    pub fn layout(&self) -> Layout {
        Layout::new(self.torrent.piece_length, self.files.iter().map(|f| f.size))
    }
}
