//! The rules of sharing: which stored models are not shared, or shared without an announcement.
//!
//! `sharing.yaml` in the base directory, read once and written by the holder of the node's lock. A model that is not in
//! the file is shared and announced. If the file cannot be read, that is an error: otherwise a withheld model would be
//! shared.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::NodeError;
pub(crate) use super::withheld::WithheldReason;
use crate::fetch::Exposure;
use crate::fsutil;
use crate::model::ModelRef;
use crate::paths::Paths;
use crate::store::StoreError;
use crate::yaml::{self, YamlLimits};

/// Bounds of the file: more models than one disk holds.
const LIMITS: YamlLimits = YamlLimits { bytes: 16 << 20, values: 1_000_000 };

const HEADING: &str =
    "# Models that silmaril mirrored and does not share, or shares without announcing them.\n";

/// How one model is shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The reason why it is not shared; none if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<WithheldReason>,
    /// Shared without the DHT, LAN discovery and the catalog: only with peers that know this host in another way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unannounced: bool,
    /// Announced, but not in the DHT.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_dht: bool,
}

impl Rule {
    /// How the engine may expose its torrent.
    pub(super) fn exposure(self) -> Exposure {
        match self {
            Self { withheld: Some(_), .. } => Exposure::Hidden,
            Self { unannounced: true, .. } => Exposure::Unannounced,
            Self { without_dht: true, .. } => Exposure::WithoutDht,
            Self { .. } => Exposure::Public,
        }
    }
}

type Rules = BTreeMap<ModelRef, Rule>;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharingFile {
    #[serde(default)]
    models: Rules,
}

/// The rules of one base directory.
#[derive(Debug)]
pub struct SharingRules {
    path: PathBuf,
    /// `network.announce`.
    announce: bool,
    rules: Mutex<Rules>,
    generation: AtomicU64,
}

impl SharingRules {
    /// Reads the rules; no file means no rules. Without `announce` no model is announced, also if its rule permits it.
    pub fn open(paths: &Paths, announce: bool) -> Result<Self, NodeError> {
        let path = paths.sharing();
        let document = match fsutil::read_capped(&path, LIMITS.bytes as u64) {
            Ok(bytes) => yaml::read::<Option<SharingFile>>(&bytes, LIMITS)
                .map(Option::unwrap_or_default)
                .map_err(|e| StoreError::Damaged { path: path.clone(), reason: e.to_string() })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => SharingFile::default(),
            Err(source) => return Err(NodeError::Io { path, source }),
        };
        Ok(Self { path, announce, rules: Mutex::new(document.models), generation: AtomicU64::new(0) })
    }

    /// The rule of a model.
    pub fn of(&self, model: &ModelRef) -> Rule {
        self.rules.lock().get(model).copied().unwrap_or_default()
    }

    /// Whether a model is announced: by its name, its record, and as one that is held here.
    pub fn is_announced(&self, model: &ModelRef) -> bool {
        let Rule { withheld, unannounced, without_dht: _ } = self.of(model);
        self.announce && withheld.is_none() && !unannounced
    }

    /// Whether a model is also announced in the DHT.
    pub fn is_in_dht(&self, model: &ModelRef) -> bool {
        self.is_announced(model) && !self.of(model).without_dht
    }

    /// A number that grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Sets the rule of a model. It is on the disk before it has an effect.
    pub fn set(&self, model: &ModelRef, rule: Rule) -> Result<(), NodeError> {
        let mut rules = self.rules.lock();
        let mut models = rules.clone();
        if rule == Rule::default() {
            models.remove(model);
        } else {
            models.insert(model.clone(), rule);
        }
        if models == *rules {
            return Ok(());
        }
        let document = SharingFile { models };
        let text = yaml::write(&document)
            .map_err(|e| StoreError::Damaged { path: self.path.clone(), reason: e.to_string() })?;
        fsutil::write_atomic(&self.path, format!("{HEADING}{text}").as_bytes(), fsutil::MODE_PRIVATE)
            .map_err(|source| NodeError::Io { path: self.path.clone(), source })?;
        *rules = document.models;
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let sharing = SharingRules::open(&paths, true).unwrap();
        let (gated, quiet) = ("meta/llama@v1".parse().unwrap(), "acme/m".parse().unwrap());
        let withheld = Rule { withheld: Some(WithheldReason::Gated), ..Rule::default() };
        sharing.set(&gated, withheld).unwrap();
        sharing.set(&quiet, Rule { unannounced: true, ..Rule::default() }).unwrap();
        assert_eq!(sharing.generation(), 2);
        let again = SharingRules::open(&paths, true).unwrap();
        assert_eq!(again.of(&gated), withheld);
        assert!(again.of(&quiet).unannounced);
        again.set(&gated, Rule::default()).unwrap();
        assert_eq!(SharingRules::open(&paths, true).unwrap().of(&gated), Rule::default());
        let text = std::fs::read_to_string(paths.sharing()).unwrap();
        assert!(text.contains("acme/m") && !text.contains("meta/llama"), "{text}");
    }

    #[test]
    fn unreadable_rules_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for bad in ["models: [", "models: {acme/m: {withheld: perhaps}}", "modells: {}", &"[".repeat(100_000)]
        {
            std::fs::write(paths.sharing(), bad).unwrap();
            let error = SharingRules::open(&paths, true).unwrap_err().to_string();
            assert!(error.contains("sharing.yaml"), "{error}");
        }
    }
}
