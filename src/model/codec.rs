//! Reading, checking, writing and signing manifests.
//!
//! The input is bounded before it is parsed, and completely checked before the caller receives it. It is written so that
//! its signature stays valid: the signature covers `"silmaril-manifest-v1\n"` and the RFC 8785 form of the JSON that the
//! signer wrote, without `signature`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::files::{self, FilesError};
use super::magnet::{Magnet, MagnetError};
use super::manifest::{MAX_CARRIED, MAX_MANIFEST, MAX_VALUES, MAX_WEB_SEEDS, Original, SCHEMA};
use super::merkle::{LayerError, PieceLayers};
use super::metainfo::{self, MetainfoError, ParsedFile, ParsedMetainfo};
use super::web_seed::{self, WebSeed, WebSeedError};
use super::{FileEntry, InfoHash, Kind, Manifest, ModelName, PublisherKey, Revision, Sha256Digest, path};
use crate::model::keys::PublisherKeypair;

const CONTEXT: &[u8] = b"silmaril-manifest-v1\n";

/// The reason why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MAX_MANIFEST`].
    #[error("the manifest is larger than {} MiB", MAX_MANIFEST >> 20)]
    TooLarge,
    /// More than [`MAX_VALUES`].
    #[error("the manifest has more than {MAX_VALUES} values")]
    TooManyValues,
    /// Not JSON, or a field has the wrong type.
    #[error("the manifest is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// Not YAML.
    #[error("the manifest is malformed: {0}")]
    Yaml(#[from] crate::yaml::YamlError),
    /// Another schema than [`SCHEMA`].
    #[error("the manifest has schema {0}; this version knows schema {SCHEMA}")]
    Schema(String),
    /// The older format without a schema, where a manifest of schema 1 is needed.
    #[error(
        "this manifest is of an older format without pieces roots; it can only be imported with its swarm"
    )]
    Old,
    /// Neither the current format nor the older one.
    #[error("this is not a manifest: it has neither a schema nor a magnet_uri")]
    NotAManifest,
    /// The list of files is refused.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// `kind` and `name` disagree.
    #[error("the manifest of {0} has the wrong kind {1:?}")]
    Kind(ModelName, Kind),
    /// `total_size` is not the sum of the sizes.
    #[error("total_size is {stated}, but the files have {sum} bytes")]
    TotalSize {
        /// The value in the manifest.
        stated: u64,
        /// The sum of the files' sizes.
        sum: u64,
    },
    /// `torrent.name` is not the model's.
    #[error("the torrent is called {given:?} instead of {expected:?}")]
    TorrentName {
        /// The value in the manifest.
        given: String,
        /// The last component of the model's name.
        expected: String,
    },
    /// The info hash does not follow from the files.
    #[error("the manifest has the info hash {stated}, but its files give {computed}")]
    InfoHash {
        /// The value in the manifest.
        stated: InfoHash,
        /// The hash computed from the files.
        computed: InfoHash,
    },
    /// `torrent.info` cannot be read.
    #[error("torrent.info: {0}")]
    Info(#[from] MetainfoError),
    /// `torrent.info` is not base64.
    #[error("torrent.info is not base64")]
    InfoEncoding,
    /// `torrent.info` describes other files.
    #[error("torrent.info does not describe these files")]
    InfoMismatch,
    /// `magnet_uri` cannot be read.
    #[error("magnet_uri: {0}")]
    Magnet(#[from] MagnetError),
    /// `magnet_uri` names another torrent.
    #[error("magnet_uri names another torrent, {0}")]
    MagnetMismatch(InfoHash),
    /// `created_at` is not a time.
    #[error("created_at is not an RFC 3339 time: {0:?}")]
    CreatedAt(String),
    /// One of `web_seeds` cannot be used.
    #[error("web_seeds: {0}")]
    WebSeed(#[from] WebSeedError),
    /// Too many `web_seeds`.
    #[error("there are more than {MAX_WEB_SEEDS} web_seeds")]
    WebSeeds,
    /// A piece layer does not belong to its file.
    #[error("piece_layer: {0}")]
    Layer(LayerError),
    /// A piece layer of a file with one piece or none.
    #[error("the file {0:?} has a piece_layer, but not more than one piece")]
    LayerOfOnePiece(String),
    /// More than [`MAX_CARRIED`] bytes of piece layers.
    #[error("the piece layers have more than {} MiB together", MAX_CARRIED >> 20)]
    LayersTooLarge,
    /// A signature without a key.
    #[error("the manifest is signed but names no publisher")]
    NoPublisher,
    /// A signature that is not 64 bytes in base64.
    #[error("the signature is malformed")]
    SignatureFormat,
    /// The signature is wrong.
    #[error(
        "the signature of publisher {} does not match: the manifest was changed after it was signed, or signed by someone else",
        .0.fingerprint()
    )]
    BadSignature(PublisherKey),
    /// An older manifest and the torrent that it names do not match.
    #[error("the manifest does not match its torrent: {0}")]
    Swarm(String),
}

/// Parses JSON after checks that bound its memory.
pub(super) fn parse_json(bytes: &[u8]) -> Result<Value, ManifestError> {
    if bytes.len() > MAX_MANIFEST {
        return Err(ManifestError::TooLarge);
    }
    // Every value except the first follows one of these characters. The count includes characters inside strings, but no
    // real manifest has so many of them.
    if bytes.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > MAX_VALUES {
        return Err(ManifestError::TooManyValues);
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// Whether a value is a manifest of the older format.
pub(super) fn is_legacy(value: &Value) -> bool {
    value.get("schema").is_none() && value.get("torrent").is_none() && value.get("magnet_uri").is_some()
}

/// The bytes that the signature covers.
fn signed_bytes(mut value: Value) -> Result<Vec<u8>, ManifestError> {
    if let Value::Object(fields) = &mut value {
        fields.remove("signature");
    }
    let mut message = CONTEXT.to_vec();
    serde_json_canonicalizer::to_writer(&value, &mut message)?;
    Ok(message)
}

impl Manifest {
    /// Makes an unsigned manifest of files whose hashes are known. All fields that do not follow from the files are empty.
    pub fn new(
        name: ModelName,
        version: Revision,
        piece_length: u32,
        mut files: Vec<FileEntry>,
    ) -> Result<Self, ManifestError> {
        files.sort_by(|a, b| path::compare(&a.path, &b.path));
        let total_size = files::check(piece_length, files.iter().map(FileEntry::as_torrent_file))?;
        let torrent_files = files.iter().map(FileEntry::as_torrent_file);
        let info_hash = metainfo::info_hash(&metainfo::info_dict(name.name(), piece_length, torrent_files));
        Ok(Self {
            schema: SCHEMA,
            kind: name.kind(),
            version,
            description: None,
            license: None,
            created_at: None,
            architecture: None,
            model_type: None,
            parameters: None,
            dtype: None,
            quantization: None,
            context_length: None,
            tags: Vec::new(),
            card: Default::default(),
            source: None,
            total_size,
            files,
            magnet_uri: Magnet::new(info_hash, name.name()).to_string(),
            torrent: super::manifest::TorrentEntry {
                name: name.name().to_owned(),
                info_hash,
                piece_length,
                hybrid_info_hash: None,
                info: None,
                other: Default::default(),
            },
            name,
            web_seeds: Vec::new(),
            publisher: None,
            signature: None,
            other: Default::default(),
            original: Original::default(),
        })
    }

    /// Makes an unsigned manifest of a torrent from another program.
    pub fn from_metainfo(
        name: ModelName,
        version: Revision,
        parsed: &ParsedMetainfo,
    ) -> Result<Self, ManifestError> {
        let entry = |file: &ParsedFile| FileEntry {
            executable: file.executable,
            ..FileEntry::new(file.path.as_str(), file.size, None, file.pieces_root)
        };
        let mut manifest =
            Self::new(name, version, parsed.piece_length, parsed.files.iter().map(entry).collect())?;
        if manifest.torrent.info_hash != parsed.info_hash {
            manifest.torrent.name.clone_from(&parsed.name);
            manifest.torrent.info_hash = parsed.info_hash;
            manifest.torrent.info = Some(BASE64.encode(&parsed.info));
        }
        let mut magnet = Magnet::new(parsed.info_hash, &parsed.name);
        magnet.trackers.clone_from(&parsed.trackers);
        manifest.magnet_uri = magnet.to_string();
        manifest.web_seeds = web_seed::of_torrent(parsed).iter().map(WebSeed::to_string).collect();
        if !manifest.web_seeds.is_empty() {
            // The layers of a large torrent do not fit; they are stored with its metainfo.
            manifest.carry_piece_layers(&parsed.layers);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads a manifest of schema 1 in JSON and checks all of it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        Self::from_value(parse_json(bytes)?)
    }

    /// Checks a parsed manifest. The caller must have bounded its size before parsing.
    pub fn from_value(value: Value) -> Result<Self, ManifestError> {
        match value.get("schema") {
            Some(schema) if schema.as_u64() == Some(SCHEMA.into()) => {}
            Some(schema) => return Err(ManifestError::Schema(schema.to_string().chars().take(20).collect())),
            None if is_legacy(&value) => return Err(ManifestError::Old),
            None => return Err(ManifestError::NotAManifest),
        }
        let mut manifest = Self::fields(&value)?;
        if let Some(signature) = &manifest.signature {
            let publisher = manifest.publisher.ok_or(ManifestError::NoPublisher)?;
            let signature = (BASE64.decode(signature).ok())
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(ManifestError::SignatureFormat)?;
            let message = signed_bytes(value.clone())?;
            publisher
                .verify_strict(&message, &signature)
                .map_err(|_| ManifestError::BadSignature(publisher))?;
        }
        manifest.check()?;
        if Self::serialize(&manifest, serde_json::value::Serializer)? != value {
            manifest.original = Original(Some(Arc::new(value)));
        }
        Ok(manifest)
    }

    /// Reads the fields of a JSON value, unchecked, and sorts the files into canonical order.
    fn fields(value: &Value) -> Result<Self, serde_json::Error> {
        let mut manifest = Self::deserialize(value)?;
        manifest.files.sort_by(|a, b| path::compare(&a.path, &b.path));
        if manifest.signature.is_none() {
            // A key without a signature proves nothing, because anyone can write it.
            manifest.publisher = None;
        }
        if manifest.magnet_uri.is_empty() {
            manifest.magnet_uri = Magnet::new(manifest.torrent.info_hash, &manifest.torrent.name).to_string();
        }
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let sum = files::check(self.torrent.piece_length, self.files.iter().map(FileEntry::as_torrent_file))?;
        if self.kind != self.name.kind() {
            return Err(ManifestError::Kind(self.name.clone(), self.kind));
        }
        if self.total_size != sum {
            return Err(ManifestError::TotalSize { stated: self.total_size, sum });
        }
        self.check_torrent()?;
        self.check_piece_layers()?;
        let magnet: Magnet = self.magnet_uri.parse()?;
        if magnet.info_hash != self.torrent.info_hash
            && Some(magnet.info_hash) != self.torrent.hybrid_info_hash
        {
            return Err(ManifestError::MagnetMismatch(magnet.info_hash));
        }
        if let Some(time) = &self.created_at {
            (time.parse::<jiff::Timestamp>())
                .map_err(|_| ManifestError::CreatedAt(time.chars().take(60).collect()))?;
        }
        if self.web_seeds.len() > MAX_WEB_SEEDS {
            return Err(ManifestError::WebSeeds);
        }
        for seed in &self.web_seeds {
            seed.parse::<WebSeed>()?;
        }
        Ok(())
    }

    /// Checks that the info hash is the hash of an info dictionary with exactly these files.
    fn check_torrent(&self) -> Result<(), ManifestError> {
        let torrent = &self.torrent;
        let info = match &torrent.info {
            None if torrent.name != self.name.name() => {
                let given = torrent.name.chars().take(120).collect();
                return Err(ManifestError::TorrentName { given, expected: self.name.name().to_owned() });
            }
            None => self.info_dict(),
            Some(info) => {
                let info = BASE64.decode(info).map_err(|_| ManifestError::InfoEncoding)?;
                let parsed = metainfo::parse_info(&info)?;
                let same_files = (parsed.files.iter().map(ParsedFile::as_torrent_file))
                    .eq(self.files.iter().map(FileEntry::as_torrent_file));
                if !same_files || parsed.name != torrent.name || parsed.piece_length != torrent.piece_length {
                    return Err(ManifestError::InfoMismatch);
                }
                info
            }
        };
        let computed = metainfo::info_hash(&info);
        if computed != torrent.info_hash {
            return Err(ManifestError::InfoHash { stated: torrent.info_hash, computed });
        }
        Ok(())
    }

    /// The bencoded info dictionary, whose SHA-256 is the info hash.
    pub fn info_dict(&self) -> Vec<u8> {
        if let Some(info) = self.torrent.info.as_ref().and_then(|info| BASE64.decode(info).ok()) {
            return info;
        }
        let files = self.files.iter().map(FileEntry::as_torrent_file);
        metainfo::info_dict(&self.torrent.name, self.torrent.piece_length, files)
    }

    /// The metainfo for the engine, with the given piece layers. With none given, with the manifest's own layers.
    pub fn metainfo(&self, layers: Option<&PieceLayers>) -> Vec<u8> {
        let carried = if layers.is_none() { self.piece_layers() } else { PieceLayers::default() };
        let layers = layers.or(Some(&carried).filter(|carried| !carried.is_empty()));
        metainfo::wrap(&self.info_dict(), layers)
    }

    /// The manifest as indented JSON. Reading it gives an equal manifest with a valid signature.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("a manifest has only JSON values");
        json.push(b'\n');
        json
    }

    /// SHA-256 and length in bytes of its JSON as [`to_json`](Self::to_json) writes it. The JSON depends only on the
    /// content of the manifest: every host that reads and writes it produces the same bytes.
    pub fn digest(&self) -> (Sha256Digest, usize) {
        let json = self.to_json();
        (Sha256Digest(Sha256::digest(&json).into()), json.len())
    }

    /// Signs the manifest. Replaces the publisher and the signature.
    pub fn sign(&mut self, key: &PublisherKeypair) {
        self.original = Original::default();
        self.signature = None;
        self.publisher = Some(key.public());
        let message = Self::serialize(self, serde_json::value::Serializer)
            .map_err(ManifestError::Json)
            .and_then(signed_bytes)
            .expect("a manifest has only JSON values");
        self.signature = Some(BASE64.encode(key.sign(&message)));
    }

    /// The publisher that signed the manifest; none without a signature.
    pub fn signed_by(&self) -> Option<PublisherKey> {
        self.publisher.filter(|_| self.signature.is_some())
    }

    /// The JSON from which the manifest was read; none if a field was changed since.
    fn unchanged_original(&self) -> Option<&Value> {
        let original = self.original.0.as_deref()?;
        (Self::fields(original).ok()? == *self).then_some(original)
    }
}

impl Serialize for Manifest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.unchanged_original() {
            Some(original) => original.serialize(serializer),
            None => Self::serialize(self, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
