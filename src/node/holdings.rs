//! What the catalog announces and sends to peers: the signed manifests of this node, and which of their models are
//! stored.
//!
//! All answers come from memory: an index of the registry by name and digest, which [`NodeHoldings::refresh`] builds
//! again when the registry has changed. The JSON of a manifest is encoded when a peer requests it. A bounded number of
//! bytes is cached, because peers request one part after another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};

use crate::catalog::{HeldModel, Holdings};
use crate::fetch::Fetch;
use crate::model::manifest::MAX_MANIFEST;
use crate::model::{InfoHash, Manifest, ModelName, ModelRef, PublisherKey, Sha256Digest};
use crate::node::sharing::SharingRules;
use crate::store::Registry;
use crate::trust::Trust;

/// How many bytes of the JSON of manifests are cached: a large manifest and several of usual size.
const MAX_TEXTS: usize = 24 << 20;

/// The manifests of a node, for its catalog.
pub(super) struct NodeHoldings {
    registry: Arc<Registry>,
    fetch: Arc<Fetch>,
    trust: Arc<Trust>,
    sharing: Arc<SharingRules>,
    index: RwLock<Arc<HoldingsIndex>>,
    /// Held while the index is built.
    refreshing: Mutex<()>,
    texts: Mutex<ManifestTexts>,
}

/// A signed manifest, and its JSON's length and digest.
#[derive(Clone)]
struct MeasuredManifest {
    manifest: Arc<Manifest>,
    publisher: PublisherKey,
    len: u32,
    digest: Sha256Digest,
}

#[derive(Default)]
struct HoldingsIndex {
    /// The generations of the registry and of the rules of sharing when this was built; none before the first time.
    generation: Option<(u64, u64)>,
    entries: HashMap<ModelRef, MeasuredManifest>,
    by_name: HashMap<ModelName, Vec<ModelRef>>,
    by_digest: HashMap<Sha256Digest, ModelRef>,
}

impl NodeHoldings {
    /// Empty until the first [`refresh`](Self::refresh).
    pub fn new(
        registry: Arc<Registry>,
        fetch: Arc<Fetch>,
        trust: Arc<Trust>,
        sharing: Arc<SharingRules>,
    ) -> Self {
        Self {
            registry,
            fetch,
            trust,
            sharing,
            index: RwLock::default(),
            refreshing: Mutex::default(),
            texts: Mutex::default(),
        }
    }

    /// Builds the index again if the registry or the rules have changed. Hashes new manifests, which blocks.
    pub fn refresh(&self) {
        let _refreshing = self.refreshing.lock();
        let generation = (self.registry.generation(), self.sharing.generation());
        let old = self.index();
        if old.generation == Some(generation) {
            return;
        }
        let mut new = HoldingsIndex { generation: Some(generation), ..HoldingsIndex::default() };
        for manifest in self.registry.all() {
            let Some(publisher) = manifest.signed_by() else { continue };
            let model = manifest.model_ref();
            if self.is_withheld(&model) {
                continue;
            }
            let entry = match old.entries.get(&model) {
                Some(same) if Arc::ptr_eq(&same.manifest, &manifest) => same.clone(),
                _ => {
                    let json = manifest.to_json();
                    let fits = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_MANIFEST);
                    let Some(len) = fits else {
                        tracing::warn!(%model, "the manifest is too long for peers and is not announced");
                        continue;
                    };
                    MeasuredManifest {
                        publisher,
                        len,
                        digest: Sha256Digest(Sha256::digest(&json).into()),
                        manifest,
                    }
                }
            };
            // A model that is not announced is found only by its digest.
            if self.sharing.is_announced(&model) {
                new.by_name.entry(model.name.clone()).or_default().push(model.clone());
            }
            new.by_digest.insert(entry.digest, model.clone());
            new.entries.insert(model, entry);
        }
        *self.index.write() = Arc::new(new);
    }

    /// The digest of a manifest of the registry, if it is signed.
    pub fn digest(&self, manifest: &Arc<Manifest>) -> Option<Sha256Digest> {
        let index = self.index();
        let entry = index.entries.get(&manifest.model_ref())?;
        Arc::ptr_eq(&entry.manifest, manifest).then_some(entry.digest)
    }

    fn index(&self) -> Arc<HoldingsIndex> {
        self.index.read().clone()
    }

    fn held(&self, model: &ModelRef, entry: &MeasuredManifest) -> HeldModel {
        let info_hash = entry.manifest.torrent.info_hash;
        HeldModel {
            model: model.clone(),
            publisher: entry.publisher,
            info_hash,
            manifest_len: entry.len,
            digest: entry.digest,
            complete: self.is_complete(&info_hash),
        }
    }

    /// Checked for every answer: the index is built a moment after the rules have changed.
    fn is_withheld(&self, model: &ModelRef) -> bool {
        self.sharing.of(model).withheld.is_some()
    }
}

impl Holdings for NodeHoldings {
    fn of_name(&self, name: &ModelName) -> Vec<HeldModel> {
        let index = self.index();
        let models = index.by_name.get(name).into_iter().flatten();
        let models = models.filter(|model| self.sharing.is_announced(model));
        models.filter_map(|model| Some(self.held(model, index.entries.get(model)?))).collect()
    }

    fn manifest(&self, digest: &Sha256Digest) -> Option<Arc<[u8]>> {
        let index = self.index();
        let model = index.by_digest.get(digest).filter(|model| !self.is_withheld(model))?;
        let entry = index.entries.get(model)?;
        let kept = self.texts.lock().get(digest);
        Some(kept.unwrap_or_else(|| {
            let json: Arc<[u8]> = entry.manifest.to_json().into();
            self.texts.lock().put(*digest, json.clone());
            json
        }))
    }

    fn names(&self) -> Vec<ModelName> {
        let here = self.fetch.joined().into_iter().filter(|revision| revision.cached_bytes() > 0);
        let open = here.filter(|revision| self.sharing.is_in_dht(&revision.manifest.model_ref()));
        let mut names: Vec<ModelName> = open.map(|revision| revision.manifest.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn is_complete(&self, info_hash: &InfoHash) -> bool {
        self.fetch.joined_as(info_hash).is_some_and(|revision| revision.is_complete())
    }

    fn kept(&self) -> Arc<HashSet<PublisherKey>> {
        self.trust.known_keys()
    }
}

/// JSON of the manifests requested last, at most [`MAX_TEXTS`] bytes, or one larger text.
struct ManifestTexts {
    kept: LruCache<Sha256Digest, Arc<[u8]>>,
    bytes: usize,
}

impl Default for ManifestTexts {
    fn default() -> Self {
        Self { kept: LruCache::unbounded(), bytes: 0 }
    }
}

impl ManifestTexts {
    fn get(&mut self, digest: &Sha256Digest) -> Option<Arc<[u8]>> {
        self.kept.get(digest).cloned()
    }

    fn put(&mut self, digest: Sha256Digest, json: Arc<[u8]>) {
        self.bytes += json.len();
        if let Some(former) = self.kept.put(digest, json) {
            self.bytes -= former.len();
        }
        while self.bytes > MAX_TEXTS && self.kept.len() > 1 {
            self.bytes -= self.kept.pop_lru().map_or(0, |(_, json)| json.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_texts_stay_within_their_bound() {
        let mut texts = ManifestTexts::default();
        let digest = |n: u8| Sha256Digest([n; 32]);
        for n in 0..10 {
            texts.put(digest(n), vec![n; MAX_TEXTS / 4].into());
            // Putting one twice counts it once.
            texts.put(digest(n), vec![n; MAX_TEXTS / 4].into());
        }
        assert_eq!(texts.bytes, MAX_TEXTS);
        assert!(texts.get(&digest(5)).is_none() && texts.get(&digest(6)).is_some());
        texts.put(digest(20), vec![0; 2 * MAX_TEXTS].into());
        assert_eq!((texts.kept.len(), texts.bytes), (1, 2 * MAX_TEXTS), "the last text is kept at any size");
        texts.put(digest(21), vec![0; 10].into());
        assert_eq!((texts.kept.len(), texts.bytes), (1, 10));
    }
}
