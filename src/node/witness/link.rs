//! The hub as the scheduler uses it: parts of files for comparisons, and what it reports about them.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use super::ask::{can_ask, request_part};
use super::contents::Contradiction;
use crate::fetch::{FileRef, HubBytes, HubWitness};
use crate::mirror::{HubSource, RemoteFile};
use crate::node::hub::remote;
use crate::node::{Node, blocking};
use crate::store::Verdict;

/// Connects the scheduler of a node with its witness.
pub(in crate::node) struct NodeWitness {
    pub node: Weak<Node>,
    /// Receives manifests that are refused.
    pub contradictions: mpsc::UnboundedSender<Contradiction>,
    /// Notified when a file has become complete.
    pub completed: Arc<Notify>,
}

impl HubWitness for NodeWitness {
    fn open(&self, file: &FileRef) -> Option<Arc<dyn HubBytes>> {
        let node = self.node.upgrade()?;
        let manifest = &file.revision.manifest;
        let model = manifest.model_ref();
        let access = node.hub.witness_access()?;
        if !can_ask(&node, &access, &model) {
            return None;
        }
        let witnessed = &node.library.store.witnessed;
        let Verdict::Listed(commit) = witnessed.verdict_of(manifest)? else { return None };
        let path = &manifest.files[file.file].path;
        let listing = witnessed.listing_of(manifest)?;
        let listed = listing.iter().find(|listed| listed.path == *path)?;
        if !node.witness.asks.charge_comparison(Instant::now()) {
            return None;
        }
        let source = Arc::new(access.source_at(&model.name, commit));
        Some(Arc::new(CommitFile { source, file: remote(listed) }))
    }

    fn contradicted(&self, file: &FileRef, difference: &str) {
        // The receiver ends with the node.
        let _ = self.contradictions.send((file.clone(), difference.to_owned()));
    }

    fn confirmed(&self, file: &FileRef) {
        let Some(node) = self.node.upgrade() else { return };
        let (manifest, file) = (file.revision.manifest.clone(), file.file);
        tokio::spawn(blocking::run(move || {
            node.library.store.witnessed.set_checked(&manifest, file);
            Ok(())
        }));
    }

    fn completed(&self) {
        self.completed.notify_one();
    }
}

/// A file of a commit at the hub.
struct CommitFile {
    source: Arc<HubSource>,
    file: RemoteFile,
}

impl HubBytes for CommitFile {
    fn part(&self, bytes: Range<u64>) -> BoxFuture<'static, Option<Vec<u8>>> {
        let (source, file) = (self.source.clone(), self.file.clone());
        async move {
            match request_part(&source, &file, bytes).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::debug!(path = file.path, %error, "the hub did not send a part of a file");
                    None
                }
            }
        }
        .boxed()
    }
}
