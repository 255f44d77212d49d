//! Manifests of the format before schema 1, and manifests in YAML.
//!
//! An older manifest has only `name`, `version`, `license`, `files` [{path, size, sha256}] and `magnet_uri`. It has no
//! pieces roots, so it can be converted only with the info dictionary that its swarm sends.

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;

use super::codec::{ManifestError, is_legacy, parse_json};
use super::magnet::Magnet;
use super::manifest::{MAX_MANIFEST, MAX_VALUES};
use super::metainfo::ParsedMetainfo;
use super::{Manifest, ModelName, Revision, Sha256Digest, path};
use crate::yaml::{self, YamlLimits};

/// The content of a file given to `registry import`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportedDocument {
    /// A manifest of schema 1, checked.
    Manifest(Box<Manifest>),
    /// A manifest of the older format.
    Legacy(Box<LegacyManifest>),
}

impl ImportedDocument {
    /// Reads a manifest of either format, in JSON or YAML.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let value = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => parse_json(bytes)?,
            _ => yaml::read(bytes, LIMITS)?,
        };
        if is_legacy(&value) {
            LegacyManifest::from_value(value).map(|manifest| Self::Legacy(Box::new(manifest)))
        } else {
            Manifest::from_value(value).map(|manifest| Self::Manifest(Box::new(manifest)))
        }
    }
}

/// One file of an older manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyFile {
    /// Relative path, unchecked: it is only compared with the paths of the torrent.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the file, if the manifest has it.
    pub sha256: Option<Sha256Digest>,
}

/// A manifest of the older format. It is never signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyManifest {
    /// The model.
    pub name: ModelName,
    /// The revision; the default revision if the manifest has none.
    pub version: Revision,
    /// One paragraph for people.
    pub description: Option<String>,
    /// Licence.
    pub license: Option<String>,
    /// The files.
    pub files: Vec<LegacyFile>,
    /// The magnet link of the swarm.
    pub magnet: Magnet,
}

#[derive(Deserialize)]
struct LegacyFileEntry {
    path: String,
    size: u64,
    sha256: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    name: ModelName,
    version: Option<Value>,
    description: Option<String>,
    license: Option<String>,
    #[serde(default)]
    files: Vec<LegacyFileEntry>,
    magnet_uri: String,
}

impl LegacyManifest {
    fn from_value(value: Value) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_value(value)?;
        let version = match raw.version {
            None | Some(Value::Null) => Revision::default(),
            // In YAML `version: 1.0` is a number.
            Some(Value::String(text)) => text.parse().map_err(serde_json::Error::custom)?,
            Some(other) => other.to_string().parse().map_err(serde_json::Error::custom)?,
        };
        let file = |file: LegacyFileEntry| {
            let sha256 = file.sha256.filter(|text| !text.is_empty()).map(|text| text.parse()).transpose();
            Ok(LegacyFile {
                path: file.path,
                size: file.size,
                sha256: sha256.map_err(serde_json::Error::custom)?,
            })
        };
        Ok(Self {
            name: raw.name,
            version,
            description: raw.description,
            license: raw.license,
            files: raw.files.into_iter().map(file).collect::<Result<_, serde_json::Error>>()?,
            magnet: raw.magnet_uri.parse()?,
        })
    }

    /// Makes an unsigned manifest with the torrent that the swarm sent. Every file of this manifest must be in the torrent
    /// with the same size.
    pub fn complete(&self, torrent: &ParsedMetainfo) -> Result<Manifest, ManifestError> {
        let shown = |path: &str| path.chars().take(120).collect::<String>();
        if torrent.info_hash != self.magnet.info_hash {
            return Err(ManifestError::Swarm(format!("it is the torrent {}", torrent.info_hash)));
        }
        let mut manifest = Manifest::from_metainfo(self.name.clone(), self.version.clone(), torrent)?;
        for file in &self.files {
            let at = (manifest.files)
                .binary_search_by(|here| path::compare(&here.path, &file.path))
                .map_err(|_| ManifestError::Swarm(format!("{:?} is not in it", shown(&file.path))))?;
            let here = &mut manifest.files[at];
            if here.size != file.size {
                let (path, size, stated) = (shown(&file.path), here.size, file.size);
                return Err(ManifestError::Swarm(format!("{path:?} has {size} bytes instead of {stated}")));
            }
            here.sha256 = file.sha256;
        }
        manifest.description.clone_from(&self.description);
        manifest.license.clone_from(&self.license);
        let mut magnet = Magnet::new(torrent.info_hash, &torrent.name);
        magnet.trackers.clone_from(&self.magnet.trackers);
        magnet
            .trackers
            .extend(torrent.trackers.iter().filter(|t| !self.magnet.trackers.contains(t)).cloned());
        manifest.magnet_uri = magnet.to_string();
        Ok(manifest)
    }
}

/// Bounds of a manifest in YAML. [`MAX_VALUES`] does not count the keys of maps.
const LIMITS: YamlLimits = YamlLimits { bytes: MAX_MANIFEST, values: 2 * MAX_VALUES };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::metainfo::parse_metainfo;

    const TORRENT: &[u8] = include_bytes!("../../tests/fixtures/v2.torrent");

    fn old(files: &str) -> String {
        let hash = parse_metainfo(TORRENT).unwrap().info_hash;
        format!(
            "name: org/model\nversion: 1.0\nlicense: mit\nfiles: {files}\nmagnet_uri: 'magnet:?xt=urn:btmh:1220{hash}&tr=udp%3A%2F%2Fmine:1'\n"
        )
    }

    fn legacy(text: &str) -> LegacyManifest {
        match ImportedDocument::parse(text.as_bytes()).unwrap() {
            ImportedDocument::Legacy(legacy) => *legacy,
            ImportedDocument::Manifest(_) => panic!("read as schema 1"),
        }
    }

    #[test]
    fn an_older_manifest_is_completed_by_its_torrent() {
        let sha = "ab".repeat(32);
        let legacy = legacy(&old(&format!(
            "[{{path: a.b, size: 5, sha256: {sha}}}, {{path: empty, size: 0, sha256: ''}}]"
        )));
        assert_eq!((legacy.name.to_string().as_str(), legacy.version.as_str()), ("org/model", "1.0"));
        let manifest = legacy.complete(&parse_metainfo(TORRENT).unwrap()).unwrap();
        assert_eq!(manifest.license.as_deref(), Some("mit"));
        assert_eq!(manifest.files.len(), 5);
        let hashes: Vec<_> =
            manifest.files.iter().filter_map(|f| Some((f.path.as_str(), f.sha256?.to_string()))).collect();
        assert_eq!(hashes, [("a.b", sha)]);
        assert!(manifest.magnet_uri.contains("mine") && manifest.magnet_uri.contains("t.example"));
        assert_eq!(manifest.signed_by(), None);
        assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
    }

    #[test]
    fn an_older_manifest_may_be_json_or_yaml() {
        let text = old("[]");
        let value: Value = yaml::read(text.as_bytes(), LIMITS).unwrap();
        assert_eq!(legacy(&serde_json::to_string(&value).unwrap()), legacy(&text));
        let error = Manifest::from_json(&serde_json::to_vec(&value).unwrap()).unwrap_err();
        assert!(matches!(error, ManifestError::Old));
    }

    #[test]
    fn an_older_manifest_of_other_files_is_refused() {
        let torrent = parse_metainfo(TORRENT).unwrap();
        for files in ["[{path: a.b, size: 6}]", "[{path: other, size: 5}]"] {
            assert!(
                matches!(legacy(&old(files)).complete(&torrent), Err(ManifestError::Swarm(_))),
                "{files}"
            );
        }
        let mut other = torrent.clone();
        other.info_hash.0[0] ^= 1;
        assert!(matches!(legacy(&old("[]")).complete(&other), Err(ManifestError::Swarm(_))));
    }

    #[test]
    fn yaml_bombs_are_refused() {
        let list = format!("a: &a [{}]\nb: [{}]\n", "0,".repeat(20_000), "*a,".repeat(20_000));
        let text = format!("a: &a '{}'\nb: [{}]\n", "x".repeat(1_000_000), "*a,".repeat(1000));
        for bomb in [list, text, "a: &a [*a]".to_owned(), "[ # ]\n".repeat(100_000)] {
            assert!(matches!(ImportedDocument::parse(bomb.as_bytes()), Err(ManifestError::Yaml(_))));
        }
    }

    #[test]
    fn other_documents_are_refused() {
        for text in
            ["", "7", "[]", "{}", "name: org/model", "a: 1", "{\"name\": \"org/model\"}", "\u{0}", "{"]
        {
            assert!(ImportedDocument::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
