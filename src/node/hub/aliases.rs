//! Other names of models: former names, and names in another case. The hub redirects them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::model::{ModelName, ModelRef};
use crate::{fsutil, nofollow};

/// The most names that are stored; the first ones in their order are kept.
const MAX_STORED: usize = 4096;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Names under which models were looked up, with the names that the hub uses.
pub(super) struct Aliases {
    path: PathBuf,
    names: Mutex<BTreeMap<ModelRef, ModelRef>>,
}

impl Aliases {
    /// Reads the stored names. A damaged file counts as empty: its names are looked up again.
    pub fn open(path: PathBuf) -> Self {
        let read = nofollow::read_capped(&path, MAX_FILE).ok();
        let names = read.and_then(|bytes| serde_json::from_slice::<Vec<(ModelRef, ModelRef)>>(&bytes).ok());
        Self { path, names: Mutex::new(names.unwrap_or_default().into_iter().collect()) }
    }

    /// The name that the hub uses.
    pub fn get(&self, model: &ModelRef) -> Option<ModelRef> {
        self.names.lock().get(model).cloned()
    }

    /// The name that the hub uses for a name of which a revision was looked up.
    pub fn name(&self, name: &ModelName) -> Option<ModelName> {
        let names = self.names.lock();
        names.iter().find(|(model, _)| model.name == *name).map(|(_, canonical)| canonical.name.clone())
    }

    /// All names.
    pub fn all(&self) -> BTreeMap<ModelRef, ModelRef> {
        self.names.lock().clone()
    }

    /// Adds a name. Writes to the disk; a failure is logged.
    pub fn add(&self, model: &ModelRef, canonical: &ModelRef) {
        let names: Vec<(ModelRef, ModelRef)> = {
            let mut names = self.names.lock();
            if names.insert(model.clone(), canonical.clone()).as_ref() == Some(canonical) {
                return;
            }
            names.iter().take(MAX_STORED).map(|(model, name)| (model.clone(), name.clone())).collect()
        };
        let saved = serde_json::to_vec(&names).map_err(std::io::Error::from).and_then(|json| {
            nofollow::create_dir_all(fsutil::parent(&self.path))?;
            nofollow::write_atomic(&self.path, &json, fsutil::MODE_PRIVATE)
        });
        if let Err(error) = saved {
            tracing::warn!(%error, %model, "could not save another name of a model");
        }
    }
}
