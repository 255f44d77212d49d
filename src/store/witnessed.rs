//! The results of the comparison of manifests with the hub, which is the witness:
//! `witness/[datasets/]org/name/revision.json`.
//!
//! A manifest is identified by the hash of its JSON or by its signature. A refuted manifest stays refused after a restart and
//! without the hub. Of a manifest whose files the hub lists, the list is stored, so that its files can be checked later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::listed::CheckedContents;
use super::{ContentKey, HubFile, ListedFiles, StoreError};
use crate::model::{GitOid, Identity, Manifest, ModelRef, PiecesRoot, PublisherKey, Sha256Digest};
use crate::paths::manifest_below;
use crate::{fsutil, nofollow};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The most manifests that are remembered of one model, and the most models.
const MAX_MANIFESTS: usize = 64;
const MAX_MODELS: usize = 4096;

/// The most refuted manifests that are reported.
const MAX_REPORTED: usize = 64;

/// The result of the comparison of a manifest with the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It contradicts the hub; the text names the difference.
    Refuted(String),
    /// The hub lists the same files for this commit.
    Listed(GitOid),
    /// Another manifest of the name was confirmed, and this one was not.
    Outranked,
}

/// A judged manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// SHA-256 of its JSON.
    pub manifest: Sha256Digest,
    /// Its signature.
    pub signature: Option<String>,
    /// Its publisher.
    pub publisher: Option<PublisherKey>,
    /// The result.
    pub verdict: Verdict,
}

/// A refuted manifest, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefutedManifest {
    /// The name of the model.
    pub model: String,
    /// The key that signed it; none if it is not signed.
    pub publisher: Option<PublisherKey>,
    /// The fingerprint of the key, for people to compare.
    pub fingerprint: Option<String>,
    /// The difference between the manifest and the hub.
    pub difference: String,
}

/// The judged manifests of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct JudgedModel {
    /// The latest last.
    judgements: Vec<Judgement>,
    /// The files that the hub lists, by commit; only commits of listed manifests.
    listings: BTreeMap<GitOid, Arc<Vec<HubFile>>>,
    /// The pieces roots and lengths of contents that were hashed and have the hash that the hub lists.
    #[serde(default)]
    checked: BTreeSet<(Identity, PiecesRoot, u64)>,
}

impl JudgedModel {
    fn keep_bounds(&mut self) {
        let excess = self.judgements.len().saturating_sub(MAX_MANIFESTS);
        self.judgements.drain(..excess);
        let used: BTreeSet<GitOid> = (self.judgements.iter())
            .filter_map(|judgement| match judgement.verdict {
                Verdict::Listed(commit) => Some(commit),
                Verdict::Refuted(_) | Verdict::Outranked => None,
            })
            .collect();
        self.listings.retain(|commit, _| used.contains(commit));
        let listed: BTreeSet<Identity> =
            self.listings.values().flat_map(|files| files.iter().map(|file| file.identity)).collect();
        self.checked.retain(|(identity, ..)| listed.contains(identity));
    }
}

#[derive(Serialize, Deserialize)]
struct StoredModel {
    model: ModelRef,
    #[serde(flatten)]
    judged: JudgedModel,
}

/// The judged manifests of one base directory.
#[derive(Debug)]
pub struct Witnessed {
    dir: PathBuf,
    checked: CheckedContents,
    models: Mutex<BTreeMap<ModelRef, JudgedModel>>,
}

impl Witnessed {
    /// Reads the stored judgements. A damaged file is logged and skipped: its manifests are judged again.
    pub(super) fn open(dir: PathBuf) -> Self {
        let (mut models, mut dirs) = (BTreeMap::new(), vec![dir.clone()]);
        let checked = CheckedContents::default();
        while let Some(dir) = dirs.pop() {
            for (name, kind) in nofollow::read_dir(&dir).unwrap_or_default() {
                let path = dir.join(name);
                if kind.is_dir() {
                    dirs.push(path);
                } else if models.len() < MAX_MODELS && path.extension().is_some_and(|ext| ext == "json") {
                    let read = nofollow::read_capped(&path, MAX_FILE);
                    let parsed = read.and_then(|bytes| Ok(serde_json::from_slice::<StoredModel>(&bytes)?));
                    match parsed {
                        Ok(stored) => {
                            for &(identity, root, len) in &stored.judged.checked {
                                checked.insert(identity, ContentKey { root, len });
                            }
                            models.insert(stored.model, stored.judged);
                        }
                        Err(error) => {
                            tracing::warn!(%error, path = %path.display(), "skipping judgements of the hub that cannot be read");
                        }
                    }
                }
            }
        }
        Self { dir, checked, models: Mutex::new(models) }
    }

    /// The result for a manifest with this hash.
    pub fn verdict(&self, model: &ModelRef, manifest: &Sha256Digest) -> Option<Verdict> {
        let models = self.models.lock();
        let judgements = models.get(model)?.judgements.iter();
        judgements.rev().find(|one| one.manifest == *manifest).map(|one| one.verdict.clone())
    }

    /// The result for a manifest.
    pub fn verdict_of(&self, manifest: &Manifest) -> Option<Verdict> {
        let signature = manifest.signature.as_ref()?;
        let models = self.models.lock();
        let judgements = models.get(&manifest.model_ref())?.judgements.iter();
        let found = judgements.rev().find(|one| one.signature.as_ref() == Some(signature));
        found.map(|one| one.verdict.clone())
    }

    /// The difference between the manifest and the hub, if the manifest is refuted.
    pub fn refusal(&self, manifest: &Manifest) -> Option<String> {
        match self.verdict_of(manifest)? {
            Verdict::Refuted(difference) => Some(difference),
            Verdict::Listed(_) | Verdict::Outranked => None,
        }
    }

    /// The files that the hub lists for the commit of a manifest, if it lists the same files.
    pub fn listing_of(&self, manifest: &Manifest) -> Option<Arc<Vec<HubFile>>> {
        let Verdict::Listed(commit) = self.verdict_of(manifest)? else { return None };
        self.models.lock().get(&manifest.model_ref())?.listings.get(&commit).cloned()
    }

    /// The models with manifests of which the hub lists the files.
    pub fn listed_models(&self) -> Vec<ModelRef> {
        let models = self.models.lock();
        models
            .iter()
            .filter(|(_, judged)| !judged.listings.is_empty())
            .map(|(model, _)| model.clone())
            .collect()
    }

    /// The hashes that the hub lists for the files of a manifest, if it lists the same files.
    pub fn listed(&self, manifest: &Manifest) -> Option<ListedFiles> {
        ListedFiles::of(manifest, &self.listing_of(manifest)?, &self.checked)
    }

    /// Records that the complete bytes of a file of a manifest have the hash that the hub lists. Writes to the disk as
    /// [`Self::record`] does.
    pub fn set_checked(&self, manifest: &Manifest, file: usize) {
        let Some(listed) = self.listed(manifest) else { return };
        listed.set_checked(file);
        let identity = listed.identity(file);
        if let Some(key) = ContentKey::of(&manifest.files[file]) {
            self.change(&manifest.model_ref(), |judged| {
                judged.checked.insert((identity, key.root, key.len));
            });
        }
    }

    /// Refuted manifests, at most [`MAX_REPORTED`].
    pub fn refuted(&self) -> Vec<RefutedManifest> {
        let models = self.models.lock();
        let all =
            models.iter().flat_map(|(model, judged)| judged.judgements.iter().map(move |one| (model, one)));
        let refuted = all.filter_map(|(model, one)| match &one.verdict {
            Verdict::Refuted(difference) => Some(RefutedManifest {
                model: model.to_string(),
                publisher: one.publisher,
                fingerprint: one.publisher.map(|key| key.fingerprint()),
                difference: difference.clone(),
            }),
            Verdict::Listed(_) | Verdict::Outranked => None,
        });
        refuted.take(MAX_REPORTED).collect()
    }

    /// Records results for manifests of a model, and the files of the commits of listed ones. Writes to the disk; a failure is
    /// logged, and the results hold until the process ends.
    pub fn record(
        &self,
        model: &ModelRef,
        judgements: Vec<Judgement>,
        listings: impl IntoIterator<Item = (GitOid, Arc<Vec<HubFile>>)>,
    ) {
        self.change(model, |judged| {
            for one in judgements {
                // A refutation is final.
                let is_refuted = |known: &Judgement| {
                    known.manifest == one.manifest && matches!(known.verdict, Verdict::Refuted(_))
                };
                if judged.judgements.iter().any(is_refuted) {
                    continue;
                }
                judged.judgements.retain(|known| known.manifest != one.manifest);
                judged.judgements.push(one);
            }
            judged.listings.extend(listings);
        });
    }

    /// Changes the results of a model, and saves them if `change` changed anything.
    fn change(&self, model: &ModelRef, change: impl FnOnce(&mut JudgedModel)) {
        let stored = {
            let mut models = self.models.lock();
            if !models.contains_key(model) && models.len() >= MAX_MODELS {
                let unused = |judged: &JudgedModel| judged.listings.is_empty();
                let first = models.iter().find(|(_, judged)| unused(judged)).or_else(|| models.iter().next());
                if let Some(dropped) = first.map(|(model, _)| model.clone()) {
                    models.remove(&dropped);
                    let _ = nofollow::remove_if_there(&manifest_below(&self.dir, &dropped));
                }
            }
            let judged = models.entry(model.clone()).or_default();
            let former = judged.clone();
            change(judged);
            judged.keep_bounds();
            if *judged == former {
                return;
            }
            StoredModel { model: model.clone(), judged: judged.clone() }
        };
        if let Err(error) = self.write(&stored) {
            tracing::warn!(%error, %model, "could not save what the hub has shown about manifests");
        }
    }

    fn write(&self, stored: &StoredModel) -> Result<(), StoreError> {
        let path = manifest_below(&self.dir, &stored.model);
        let failed = |e| StoreError::io(&path, e);
        let json = serde_json::to_vec(stored).map_err(|e| failed(e.into()))?;
        nofollow::create_dir_all(fsutil::parent(&path)).map_err(failed)?;
        nofollow::write_atomic(&path, &json, fsutil::MODE_PRIVATE).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::keys::PublisherKeypair;
    use crate::model::{FileEntry, Identity, PiecesRoot, Revision};

    fn manifest(root: u8) -> Manifest {
        let files = vec![FileEntry::new("a", 3, None, Some(PiecesRoot([root; 32])))];
        let mut made = Manifest::new("acme/m".parse().unwrap(), Revision::default(), 1 << 14, files).unwrap();
        made.sign(&PublisherKeypair::generate().unwrap());
        made
    }

    fn judgement(manifest: &Manifest, verdict: Verdict) -> Judgement {
        Judgement {
            manifest: manifest.digest().0,
            signature: manifest.signature.clone(),
            publisher: manifest.publisher,
            verdict,
        }
    }

    #[test]
    fn results_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (right, wrong, other) = (manifest(1), manifest(2), manifest(3));
        let model = right.model_ref();
        let commit = GitOid([4; 20]);
        let file = HubFile { path: "a".to_owned(), size: 3, identity: Identity::Git(GitOid([5; 20])) };
        let listing = Arc::new(vec![file]);
        let first = Witnessed::open(dir.path().join("witness"));
        let results = vec![
            judgement(&right, Verdict::Listed(commit)),
            judgement(&wrong, Verdict::Refuted("a differs".to_owned())),
        ];
        first.record(&model, results, [(commit, listing.clone()), (GitOid([9; 20]), listing.clone())]);
        for witnessed in [&first, &Witnessed::open(dir.path().join("witness"))] {
            assert_eq!(witnessed.refusal(&wrong).as_deref(), Some("a differs"));
            assert_eq!(witnessed.listing_of(&right), Some(listing.clone()));
            assert_eq!(witnessed.verdict(&model, &right.digest().0), Some(Verdict::Listed(commit)));
            assert_eq!((witnessed.verdict_of(&other), witnessed.listing_of(&wrong)), (None, None));
            assert_eq!(witnessed.refuted().len(), 1);
            assert_eq!(witnessed.models.lock()[&model].listings.len(), 1, "an unused list is stored");
        }
    }

    #[test]
    fn refutation_is_final() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = manifest(1);
        let witnessed = Witnessed::open(dir.path().join("witness"));
        for verdict in
            [Verdict::Refuted("x".to_owned()), Verdict::Outranked, Verdict::Listed(GitOid([1; 20]))]
        {
            witnessed.record(&wrong.model_ref(), vec![judgement(&wrong, verdict)], []);
        }
        assert_eq!(witnessed.refusal(&wrong).as_deref(), Some("x"));
    }

    #[test]
    fn number_of_remembered_manifests_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let witnessed = Witnessed::open(dir.path().join("witness"));
        let one = manifest(1);
        let many = (0..=MAX_MANIFESTS).map(|i| Judgement {
            manifest: Sha256Digest([i as u8; 32]),
            ..judgement(&one, Verdict::Outranked)
        });
        witnessed.record(&one.model_ref(), many.collect(), []);
        assert_eq!(witnessed.models.lock()[&one.model_ref()].judgements.len(), MAX_MANIFESTS);
        assert_eq!(
            witnessed.verdict(&one.model_ref(), &Sha256Digest([0; 32])),
            None,
            "the oldest is dropped"
        );
    }
}
