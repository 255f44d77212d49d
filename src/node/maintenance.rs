//! `verify` and `remove`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Library, NodeError};
use crate::model::ModelRef;
use crate::model::hash::Control;

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// The model.
    pub model: String,
    /// Bytes compared with their hashes and found right.
    pub right: u64,
    /// Bytes that are here but cannot be compared yet: parts of pieces, and pieces whose hashes are not known.
    pub unchecked: u64,
    /// Bytes that are not here.
    pub missing: u64,
    /// Files of which bytes were wrong. These bytes count as missing now and are fetched again when needed.
    pub damaged: Vec<String>,
    /// Files whose bytes fit the pieces root but not the sha256: the manifest contradicts itself.
    pub contradictory: Vec<String>,
}

impl Library {
    /// Reads every byte of a model that is here and compares it with its hashes. `progress` gets bytes read and
    /// bytes to read; once `cancel` is set it stops. The caller holds the node lock and the thread, for as long as
    /// the disk takes.
    pub fn verify(
        &self,
        model: &ModelRef,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Verified, NodeError> {
        let revision = self.revision(model)?;
        let manifest = &revision.manifest;
        let layers = self.store.layers(manifest)?;
        let done = AtomicU64::new(0);
        let total = manifest.total_size;
        let told =
            |bytes: u64| progress((done.fetch_add(bytes, Ordering::Relaxed) + bytes).min(total), total);
        let watch = Control { progress: &told, cancel };
        let mut found = Verified { model: model.to_string(), ..Verified::default() };
        let mut adopted = vec![false; revision.contents.len()];
        let mut wrong = vec![false; revision.contents.len()];
        for dir in self.store.places(manifest) {
            let files = self.store.unverified(&revision, &dir);
            let seen = self.store.adopt(&revision, &files, &dir, &layers, watch)?;
            seen.right.iter().for_each(|&file| adopted[file] = true);
            seen.wrong.iter().for_each(|&file| wrong[file] = true);
        }
        for (file, entry) in manifest.files.iter().enumerate() {
            let content = &revision.contents[file];
            if adopted[file] {
                found.right += entry.size;
                continue;
            }
            let report = self.store.verify(&revision, file, &layers, watch)?;
            let damaged: u64 = report.damaged.iter().map(|range| range.end - range.start).sum();
            found.right += report.checked.saturating_sub(damaged);
            found.unchecked += report.unchecked;
            found.missing += entry.size.saturating_sub(content.cached_bytes());
            if damaged > 0 || wrong[file] {
                found.damaged.push(entry.path.clone());
            } else if report.sha256_fits == Some(false) {
                found.contradictory.push(entry.path.clone());
            }
        }
        Ok(found)
    }

    /// Forgets a model: its manifest, what this program put into the models directory, and cached bytes that no
    /// other model uses. Files shared in place stay. The caller holds the node lock.
    pub fn remove(&self, model: &ModelRef) -> Result<(), NodeError> {
        let revision = self.revision(model)?;
        let others: Vec<_> = self.registry.all().into_iter().filter(|m| m.model_ref() != *model).collect();
        self.store.forget(&revision, &others)?;
        self.registry.remove(model)?;
        Ok(())
    }
}
