//! Manifests that are read by the fingerprint of their publisher, and not by their name:
//! `registry/.by/PUBLISHER/[datasets/]org/name/revision.json`.
//!
//! The registry has one manifest for each model and revision. When several publishers dispute a name, the manifests of
//! the publishers that a user reads by fingerprint are here, so that no manifest replaces another.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use super::{Registry, StoreError};
use crate::fsutil;
use crate::model::{Manifest, ModelRef, PublisherKey};
use crate::paths::Paths;

/// The manifests of further publishers, by publisher.
pub struct ByPublisher {
    dir: PathBuf,
    of: RwLock<BTreeMap<PublisherKey, Arc<Registry>>>,
}

impl ByPublisher {
    /// Reads `registry/.by/`.
    pub fn open(paths: &Paths) -> Result<Self, StoreError> {
        let dir = paths.by_publisher();
        let of = publishers(&dir)?.into_iter().map(|key| Ok((key, Arc::new(open_of(&dir, &key)?))));
        let of = of.collect::<Result<_, StoreError>>()?;
        Ok(Self { dir, of: RwLock::new(of) })
    }

    /// Stores a checked manifest of its publisher atomically, like [`Registry::insert_to_read`]. An unsigned manifest is not
    /// stored.
    pub fn insert(&self, manifest: Manifest) -> Result<Arc<Manifest>, StoreError> {
        let Some(key) = manifest.signed_by() else { return Ok(Arc::new(manifest)) };
        let known = self.of.read().get(&key).cloned();
        let registry = match known {
            Some(known) => known,
            None => {
                let new = Arc::new(open_of(&self.dir, &key)?);
                let mut of = self.of.write();
                of.entry(key).or_insert(new).clone()
            }
        };
        registry.insert_to_read(manifest)
    }

    /// A publisher's manifest of a revision.
    pub fn get(&self, key: &PublisherKey, model: &ModelRef) -> Option<Arc<Manifest>> {
        self.of.read().get(key)?.get(model).filter(|manifest| manifest.signed_by() == Some(*key))
    }

    /// [`Registry::since`] of a publisher's manifest.
    pub fn since(&self, key: &PublisherKey, model: &ModelRef) -> (Option<SystemTime>, bool) {
        self.of.read().get(key).map_or((None, false), |registry| registry.since(model))
    }

    /// All manifests, by publisher, name and revision.
    pub fn all(&self) -> Vec<Arc<Manifest>> {
        let of = self.of.read();
        let all = of.iter().flat_map(|(key, registry)| registry.all().into_iter().map(|m| (*key, m)));
        all.filter(|(key, manifest)| manifest.signed_by() == Some(*key))
            .map(|(_, manifest)| manifest)
            .collect()
    }

    /// The manifests that are only in memory, because the disk was full. [`insert`](Self::insert) saves them.
    pub fn unsaved(&self) -> Vec<Arc<Manifest>> {
        self.of.read().values().flat_map(|registry| registry.unsaved()).collect()
    }

    /// The manifests of one revision, by publisher.
    pub fn of_model(&self, model: &ModelRef) -> Vec<Arc<Manifest>> {
        let keys: Vec<PublisherKey> = self.of.read().keys().copied().collect();
        keys.iter().filter_map(|key| self.get(key, model)).collect()
    }

    /// Forgets a publisher's manifest of a revision.
    pub fn remove(&self, key: &PublisherKey, model: &ModelRef) -> Result<(), StoreError> {
        let Some(registry) = self.of.read().get(key).cloned() else { return Ok(()) };
        registry.remove(model)?;
        // A directory that is not empty stays.
        let _ = fs::remove_dir(self.dir.join(key.to_string()));
        Ok(())
    }

    /// Reads `registry/.by/` again, after another process wrote there. Returns whether any manifest changed.
    pub fn reload(&self) -> Result<bool, StoreError> {
        let mut changed = false;
        for key in publishers(&self.dir)? {
            if !self.of.read().contains_key(&key) {
                let new = Arc::new(open_of(&self.dir, &key)?);
                self.of.write().entry(key).or_insert(new);
                changed = true;
            }
        }
        let known: Vec<Arc<Registry>> = self.of.read().values().cloned().collect();
        for registry in known {
            changed |= registry.reload()?;
        }
        Ok(changed)
    }
}

fn open_of(dir: &Path, key: &PublisherKey) -> Result<Registry, StoreError> {
    Registry::open_at(dir.join(key.to_string()))
}

/// The publishers with a directory below `dir`. Links and other names are ignored.
fn publishers(dir: &Path) -> Result<Vec<PublisherKey>, StoreError> {
    let entries = fsutil::existing(fs::read_dir(dir)).map_err(|e| StoreError::io(dir, e))?;
    let mut keys = Vec::new();
    for entry in entries.into_iter().flatten() {
        let entry = entry.map_err(|e| StoreError::io(dir, e))?;
        let is_dir = entry.file_type().map_err(|e| StoreError::io(dir, e))?.is_dir();
        let key = entry.file_name().to_str().and_then(|name| name.parse::<PublisherKey>().ok());
        keys.extend(key.filter(|_| is_dir));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::keys::PublisherKeypair;
    use crate::store::tests::{home, manifest};

    #[test]
    fn manifests_of_several_publishers_survive_a_restart() {
        let home = home();
        let registry = Registry::open(&home.paths).unwrap();
        let by_publisher = ByPublisher::open(&home.paths).unwrap();
        let keys = [PublisherKeypair::generate().unwrap(), PublisherKeypair::generate().unwrap()];
        let signed = |key: &PublisherKeypair| {
            let mut signed = (*manifest("o/m", &[("a", b"x")])).clone();
            signed.sign(key);
            signed
        };
        for key in &keys {
            by_publisher.insert(signed(key)).unwrap();
        }
        let model = "o/m".parse().unwrap();
        let again = ByPublisher::open(&home.paths).unwrap();
        assert_eq!(again.of_model(&model).len(), 2);
        assert_eq!(*again.get(&keys[0].public(), &model).unwrap(), signed(&keys[0]));
        registry.reload().unwrap();
        assert!(registry.all().is_empty(), "a manifest that is read by its fingerprint has no name");
        by_publisher.remove(&keys[0].public(), &model).unwrap();
        assert!(again.reload().unwrap());
        assert_eq!(again.all().len(), 1);
    }
}
