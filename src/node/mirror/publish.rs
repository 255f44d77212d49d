//! Makes a model from the downloaded files, and moves them to its directory.

use std::collections::HashMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::OwnedMutexGuard;

use super::job::MirrorJob;
use super::{MirrorReport, MirrorRequest};
use crate::mirror::{Downloaded, Snapshot};
use crate::model::describe::{DescribeOptions, Description, describe};
use crate::model::hash::FileHashes;
use crate::model::manifest::SourceEntry;
use crate::model::scan::OutsideLinks;
use crate::model::{Manifest, ModelRef, license};
use crate::node::sharing::Rule;
use crate::node::{Library, Node, NodeError, blocking, former_states};
use crate::store::{Kept, Stamp, StoredRevision};

/// A downloaded model that moves to its directory.
pub(super) struct MirroredModel {
    pub node: Arc<Node>,
    pub job: Arc<MirrorJob>,
    pub request: MirrorRequest,
    pub snapshot: Arc<Snapshot>,
    /// The origin of the files.
    pub source: SourceEntry,
    /// Addresses of the files over HTTP.
    pub web_seeds: Vec<String>,
    /// Held until the last file has moved.
    pub turn: OwnedMutexGuard<()>,
}

/// The parts from which the manifest of a repository is made.
pub(in crate::node) struct ManifestSource<'a> {
    pub library: &'a Library,
    /// The directory of the files.
    pub tree: &'a Path,
    pub model: &'a ModelRef,
    /// Bytes per piece.
    pub piece_length: u32,
    /// The origin of the files.
    pub source: SourceEntry,
    /// Addresses of the files over HTTP.
    pub web_seeds: Vec<String>,
    /// The licences to use, in this order, if the model card has none.
    pub licenses: [Option<String>; 2],
    /// The hashes of files, by path.
    pub known: HashMap<String, FileHashes>,
    pub sign: bool,
    pub cancel: &'a AtomicBool,
}

/// A manifest, signed if requested, and the metadata of its files.
pub(in crate::node) struct SignedManifest {
    pub manifest: Manifest,
    pub metadata: Vec<Metadata>,
}

/// Describes the files of a repository and signs the manifest. Saves the metainfo. Returns warnings, too. Blocks.
pub(in crate::node) fn signed_manifest(
    of: ManifestSource<'_>,
) -> Result<(SignedManifest, Vec<String>), NodeError> {
    let options = DescribeOptions {
        license: None,
        license_needed: false,
        whole: false,
        hybrid: false,
        piece_length: of.piece_length,
        description: None,
        source: Some(of.source),
        known: of.known,
        follow: OutsideLinks::new(),
        progress: &|_, _| {},
        cancel: of.cancel,
    };
    let Description { mut manifest, piece_layers, mut warnings, metadata, .. } =
        describe(of.tree, &of.model.name, &of.model.revision, &options)?;
    if manifest.license.is_none() {
        let candidates = of.licenses.iter().flatten();
        if let Some((id, unknown)) = candidates.filter_map(|text| license::check(text).ok()).next() {
            manifest.license = Some(id);
            warnings.extend(unknown);
        }
    }
    let has_seeds = !of.web_seeds.is_empty();
    manifest.web_seeds = of.web_seeds;
    if has_seeds && !manifest.carry_piece_layers(&piece_layers) {
        warnings.push(
            "the model has too many pieces for its manifest to carry their hashes: without any peer it is not read from \
             the hub; a larger torrent.piece_length changes that"
                .to_owned(),
        );
    }
    of.library.seal(&mut manifest, of.sign)?;
    let metainfo = manifest.metainfo(Some(&piece_layers));
    of.library.store.torrents.save_metainfo(&manifest.torrent.info_hash, &metainfo)?;
    Ok((SignedManifest { manifest, metadata }, warnings))
}

/// A manifest whose verified files are in the staging directory.
struct Ready {
    tree: PathBuf,
    manifest: Arc<Manifest>,
    rule: Rule,
    warnings: Vec<String>,
}

impl MirroredModel {
    /// Moves the files to the directory of the model, and deletes files of its former state.
    pub async fn put(self, downloaded: Downloaded) -> Result<MirrorReport, NodeError> {
        let mut report = MirrorReport {
            model: self.job.model.clone(),
            path: self.job.dest.clone(),
            source: self.job.repository.to_string(),
            commit: self.snapshot.commit.to_string(),
            files: downloaded.hashes.len(),
            total_size: downloaded.hashes.values().map(|hashes| hashes.metadata.len()).sum(),
            downloaded: downloaded.fetched,
            up_to_date: false,
            pointers: downloaded.pointers.clone(),
            info_hash: None,
            withheld: None,
            warnings: self.job.note.iter().chain(&self.snapshot.warnings).cloned().collect(),
        };
        if !downloaded.pointers.is_empty() {
            self.lay_out(downloaded).await?;
            return Ok(report);
        }
        let node = self.node.clone();
        let (place, ready) = self.ready(downloaded).await?;
        let revision = node.library.store.revision(ready.manifest.clone())?;
        let former = node.library.registry.get(&place.job.model);
        let replaced = former.filter(|m| m.torrent.info_hash != ready.manifest.torrent.info_hash);
        let replaced = replaced.map(|m| node.library.store.revision(m)).transpose()?;
        // No other job moves these files meanwhile, and the engine does not use them.
        let mut turns = vec![node.jobs.turn(&revision.manifest.torrent.info_hash).await];
        if let Some(replaced) = &replaced {
            turns.push(node.jobs.turn(&replaced.manifest.torrent.info_hash).await);
        }
        let mut held = vec![node.seeds.close(&revision).await?];
        if let Some(replaced) = &replaced {
            held.push(node.seeds.close(replaced).await?);
        }
        let (tree, new, old, rule) = (ready.tree, revision.clone(), replaced.clone(), ready.rule);
        let (this, job) = (node.clone(), place.job.clone());
        let entering = blocking::cancellable(move |_| {
            // The thread continues when the future is dropped.
            let _until_done = (turns, held, node.lock.clone());
            let kept = place.enter(&tree, &new, rule)?;
            if let Some(old) = &old {
                node.seeds.leave_unless_used(&old.manifest);
            }
            node.seeds.apply_rules(&new.manifest.torrent.info_hash);
            node.fetch.relocate(&new);
            node.changed();
            Ok(kept)
        });
        let kept = entering.await?;
        former_states::clear(&this, &revision.manifest, &job.dest).await?;
        report.info_hash = Some(revision.manifest.torrent.info_hash);
        report.withheld = ready.rule.withheld;
        report.warnings.extend(ready.warnings.into_iter().chain(kept.iter().map(Kept::to_string)));
        Ok(report)
    }

    /// Describes the files in the staging directory, signs the manifest, and records the files as verified.
    async fn ready(self, downloaded: Downloaded) -> Result<(Self, Ready), NodeError> {
        blocking::cancellable(move |cancel| {
            let Downloaded { dir: tree, hashes: known, .. } = downloaded;
            let library = &self.node.library;
            let (described, warnings) = signed_manifest(ManifestSource {
                library,
                tree: &tree,
                model: &self.job.model,
                piece_length: self.request.piece_length,
                source: self.source.clone(),
                web_seeds: self.web_seeds.clone(),
                licenses: [self.snapshot.license.clone(), self.request.license.clone()],
                known,
                sign: self.request.sign,
                cancel,
            })?;
            let SignedManifest { manifest, metadata } = described;
            let rule = self.request.rule(&self.snapshot, manifest.license.as_deref());
            library.trust.claim(&manifest.name, manifest.publisher)?;
            let store = &library.store;
            let stamps: Vec<Stamp> = metadata.iter().map(Stamp::of).collect();
            store.placed().record_own(&manifest, &tree, &stamps)?;
            Ok((self, Ready { tree, manifest: Arc::new(manifest), rule, warnings }))
        })
        .await
    }

    /// Moves a described model to its directory; returns edited files that were kept there. Blocks.
    fn enter(&self, tree: &Path, new: &StoredRevision, rule: Rule) -> Result<Vec<Kept>, NodeError> {
        let library = &self.node.library;
        let all: Vec<usize> = (0..new.contents.len()).collect();
        let kept = library.store.staging().publish(new, &all, &self.job.dest)?;
        library.store.placed().retire(new, tree)?;
        // Before any peer learns of the model.
        library.sharing.set(&self.job.model, rule)?;
        library.enter_own_state(&new.manifest)?;
        library.registry.insert(Manifest::clone(&new.manifest))?;
        clear_up(library, &self.job)?;
        Ok(kept)
    }

    /// Moves the files to the directory without making a model of them: some are pointers.
    async fn lay_out(self, downloaded: Downloaded) -> Result<(), NodeError> {
        blocking::cancellable(move |_| {
            let _until_done = (&self.turn, self.node.lock.clone());
            let paths: Vec<&str> = downloaded.hashes.keys().map(String::as_str).collect();
            self.node.library.store.partial_mirrors().lay_out(&downloaded.dir, &self.job.model, &paths)?;
            self.job.clear()
        })
        .await
    }
}

/// Deletes remains of an earlier mirror of a complete model, which may have been killed before it did that.
pub(super) async fn finish(
    node: &Arc<Node>,
    job: &Arc<MirrorJob>,
    present: &Arc<Manifest>,
    turn: OwnedMutexGuard<()>,
) -> Result<(), NodeError> {
    let moving = node.jobs.turn(&present.torrent.info_hash).await;
    let (library, lock, clearing) = (node.library.clone(), node.lock.clone(), job.clone());
    blocking::cancellable(move |_| {
        let _until_done = (turn, moving, lock);
        clear_up(&library, &clearing)
    })
    .await?;
    former_states::clear(node, present, &job.dest).await
}

/// Deletes files of a mirror without large files that are not part of the model, and the staging directory. An
/// interrupted call is repeated by the next mirror. Blocks.
fn clear_up(library: &Library, job: &MirrorJob) -> Result<(), NodeError> {
    library.store.partial_mirrors().clear(&job.model)?;
    job.clear()
}
