//! The small files of a model, fetched together: a program that opens the configuration or the index of a model reads
//! the tokenizer and other small files next, one after another.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::FileRef;
use crate::model::InfoHash;
use crate::store::StoredRevision;

/// Largest file that is fetched, in bytes. Most tokenizers are smaller.
const MAX_FILE: u64 = 4 << 20;
/// Most bytes that are fetched for one model.
const MAX_BYTES: u64 = 32 << 20;
/// Most models that are remembered.
const MAX_MODELS: usize = 4096;

/// The models whose small files were fetched or are being fetched.
#[derive(Debug, Default)]
pub(super) struct Prefetched(Mutex<BTreeSet<InfoHash>>);

/// Whether programs open this file before the other files of a model.
fn is_first(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(
        name,
        "config.json" | "model_index.json" | "tokenizer_config.json" | "adapter_config.json" | "params.json"
    ) || name.ends_with(".index.json")
}

/// The files that are fetched, the smallest first.
fn small_files(revision: &StoredRevision) -> Vec<usize> {
    let files = &revision.manifest.files;
    let mut small: Vec<usize> = (0..files.len())
        .filter(|&file| files[file].size <= MAX_FILE && !revision.contents[file].is_complete())
        .collect();
    small.sort_by_key(|&file| files[file].size);
    let mut left = MAX_BYTES;
    small.retain(|&file| {
        let fits = files[file].size <= left;
        left = left.saturating_sub(files[file].size);
        fits
    });
    small
}

impl Prefetched {
    /// The small files to fetch after a program has opened a file: none unless that is the configuration or the index of a
    /// model, and the model's small files were not fetched before.
    pub(super) fn begin(&self, file: &FileRef) -> Vec<usize> {
        if file.revision.is_local || !is_first(&file.revision.manifest.files[file.file].path) {
            return Vec::new();
        }
        {
            let mut done = self.0.lock();
            if done.len() >= MAX_MODELS {
                done.clear();
            }
            if !done.insert(file.info_hash()) {
                return Vec::new();
            }
        }
        small_files(&file.revision)
    }

    /// The files could not be fetched: they are fetched after the next opening.
    pub(super) fn forget(&self, info_hash: &InfoHash) {
        self.0.lock().remove(info_hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_and_indexes_are_opened_first() {
        for path in ["config.json", "model.safetensors.index.json", "unet/config.json", "model_index.json"] {
            assert!(is_first(path), "{path}");
        }
        for path in ["README.md", "myconfig.json", "model.safetensors", "config.json.bak", "config.json/a"] {
            assert!(!is_first(path), "{path}");
        }
    }
}
