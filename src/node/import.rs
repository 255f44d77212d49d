//! `registry import`: manifests, torrents and magnets from elsewhere, checked before anything is stored.

use std::sync::Arc;

use crate::model::{Manifest, ModelRef};
use crate::node::{Library, NodeError};

impl Library {
    /// Checks the text of a manifest (JSON or YAML) or a .torrent and stores its manifest. `origin` names it in
    /// errors; `name` is needed for a .torrent, which does not know its organisation. A running node is told.
    pub fn import(
        &self,
        _bytes: &[u8],
        _origin: &str,
        _name: Option<&ModelRef>,
    ) -> Result<Arc<Manifest>, NodeError> {
        todo!()
    }
}
