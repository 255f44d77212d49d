//! The signed description of one revision of a model.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{InfoHash, Kind, Layout, ModelName, ModelRef, PiecesRoot, PublisherKey, Revision, Sha256Digest};

/// One file of a revision. `files` of a manifest is in canonical (BEP 52 file tree) order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative path with `/` between components, checked (see `manifest::check_path`).
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// Merkle root of the file's blocks; absent for an empty file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces_root: Option<PiecesRoot>,
    /// Fields this version does not know, kept as they came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The torrent of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentEntry {
    /// `name` of the info dictionary.
    pub name: String,
    /// v2 info hash.
    pub info_hash: InfoHash,
    /// Bytes a piece.
    pub piece_length: u32,
    /// v2 info hash of the hybrid twin, where the publisher made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid_info_hash: Option<InfoHash>,
    /// Fields this version does not know, kept as they came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Facts from the model card's front matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Task, e.g. `text-generation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_tag: Option<String>,
    /// Library, e.g. `transformers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library_name: Option<String>,
    /// Models this one was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_model: Vec<String>,
    /// Language codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// Fields this version does not know, kept as they came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Where the files came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `huggingface`, `git` or `local`.
    pub kind: String,
    /// Address of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The 40-hex commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Fields this version does not know, kept as they came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The description of one revision of a model. A value of this type has passed every check of
/// `Manifest::from_json`: paths, limits, order, and that the files give the info hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Other facts of the model card.
    #[serde(default)]
    pub card: Card,
    /// Where the files came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Sum of the files' sizes in bytes.
    pub total_size: u64,
    /// The files, in canonical order.
    pub files: Vec<FileEntry>,
    /// The torrent they make.
    pub torrent: TorrentEntry,
    /// BEP 9 magnet link.
    pub magnet_uri: String,
    /// HTTP addresses that serve the files (BEP 19).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub web_seeds: Vec<String>,
    /// Who signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<PublisherKey>,
    /// Base64 Ed25519 signature over the canonical JSON without this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Fields this version does not know, kept as they came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Manifest {
    /// `org/name@revision`.
    pub fn model_ref(&self) -> ModelRef {
        ModelRef { name: self.name.clone(), revision: self.version.clone() }
    }

    /// Where the files stand among the torrent's pieces.
    pub fn layout(&self) -> Layout {
        Layout::new(self.torrent.piece_length, self.files.iter().map(|f| f.size))
    }
}
