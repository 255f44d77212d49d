//! The manifests this node holds.

use std::sync::Arc;

use crate::model::{Manifest, ModelRef};
use crate::paths::Paths;

/// All known manifests, by model and revision. Files below `registry/`; a damaged one is skipped and said.
pub struct Registry;

impl Registry {
    /// Reads `registry/`.
    pub fn open(_paths: &Paths) -> Result<Self, super::StoreError> {
        todo!()
    }

    /// Stores a checked manifest atomically, replacing the one of the same revision.
    pub fn insert(&self, _manifest: Manifest) -> Result<Arc<Manifest>, super::StoreError> {
        todo!()
    }

    /// The manifest of a revision.
    pub fn get(&self, _model: &ModelRef) -> Option<Arc<Manifest>> {
        todo!()
    }

    /// All manifests, by name and revision.
    pub fn all(&self) -> Vec<Arc<Manifest>> {
        todo!()
    }

    /// Forgets a revision.
    pub fn remove(&self, _model: &ModelRef) -> Result<bool, super::StoreError> {
        todo!()
    }

    /// Reads `registry/` again, after another process wrote there.
    pub fn reload(&self) -> Result<(), super::StoreError> {
        todo!()
    }
}
