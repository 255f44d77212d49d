//! `adopt`: makes seeds of the files that other programs have downloaded, where they are.
//!
//! The layout of a directory suggests the name of a model ([`directories`]). The files of the model are known from its manifest, or
//! from the hub's list of its commit; which of them are here is decided by length and hash ([`matching`]). If all are, the
//! model gets the manifest that `mirror` would make. Small files that are missing are fetched from the hub for that. No file
//! of the user is copied, moved or changed.

mod directories;
mod hashes;
mod matching;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hub::HubUser;
use super::hub::access::HubAccess;
use super::hub::link_tree::FilesInPlace;
use super::readable::{self, LookupLimits};
use super::sharing::{Rule, WithheldReason};
use super::{ErrorKind, Node, NodeError, Surroundings, blocking, chain, hub, space};
use crate::catalog::SearchPatience;
use crate::model::{ModelRef, Revision, license};
use crate::mount::RequestedModel;
use crate::store::StoredRevision;
use directories::{FoundDirectories, FoundDirectory};
use hashes::StampedHasher;

/// How long the hub may take to describe a model.
const HUB_WITHIN: Duration = Duration::from_secs(30);
/// How long the swarm is searched for a manifest.
const SWARM_WITHIN: Duration = Duration::from_secs(6);

/// The body of `POST /v1/adopt`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// The directories, as absolute paths.
    pub dirs: Vec<PathBuf>,
    /// The most bytes of missing files of a model that are fetched from the hub.
    pub fetch_at_most: u64,
    /// How the command reaches the web.
    pub surroundings: Surroundings,
}

/// The progress of an `adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptProgress {
    /// The directory that is being compared.
    pub dir: PathBuf,
    /// Bytes hashed.
    pub done: u64,
    /// Bytes of all files that were found.
    pub total: u64,
}

/// The result for the files of one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdoptState {
    /// The files are seeded.
    Shared,
    /// The files are used on this host, and not shared, for the reason in `why`.
    Withheld,
    /// The files were adopted before.
    Known,
    /// So many files of the model are missing that it gets no manifest.
    Incomplete,
    /// No known model has these files, or its files could not be learned.
    Unknown,
}

/// The files of one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedDir {
    /// The model; none if it is not known.
    pub model: Option<ModelRef>,
    /// The directory.
    pub dir: PathBuf,
    /// The result.
    pub state: AdoptState,
    /// Number of files that belong to the model; of an unknown one, of all files.
    pub files: usize,
    /// Their bytes.
    pub size: u64,
    /// Bytes of files of the model that are not on this host.
    pub missing: u64,
    /// Bytes that were fetched from the hub.
    pub fetched: u64,
    /// The reason of the state.
    pub why: Option<String>,
}

/// Adopts the files of the directories. Dropping the future stops it; models that were adopted stay.
pub(super) async fn run(
    node: &Arc<Node>,
    request: &AdoptRequest,
    report: impl Fn(AdoptProgress) + Send + Sync + 'static,
) -> Result<Vec<AdoptedDir>, NodeError> {
    let paths = &node.library.paths;
    let mut avoided = vec![paths.base.clone(), paths.models.clone()];
    avoided
        .extend(crate::mount::list_mounts().map_err(NodeError::internal)?.into_iter().map(|m| m.mountpoint));
    let dirs = request.dirs.clone();
    let found = blocking::run(move || {
        let real = avoided.iter().filter_map(|dir| std::fs::canonicalize(dir).ok()).collect();
        Ok(FoundDirectories::find(&dirs, real))
    });
    let FoundDirectories { places, skipped, .. } = found.await?;
    let config = &node.library.config.hub;
    let access = HubAccess::new(&node.web, &config.endpoint, config.lazy, &request.surroundings)?;
    let mut adoption = Adoption {
        node,
        access: node.hub.with_access(access),
        fetch_at_most: request.fetch_at_most,
        total: places.iter().map(FoundDirectory::size).sum(),
        done: 0,
        report: Arc::new(report),
    };
    // The models of directories with a name may have files of unnamed ones.
    let (named, unnamed): (Vec<_>, Vec<_>) = places.into_iter().partition(|place| place.name.is_some());
    let mut adopted = Vec::new();
    for place in named.into_iter().chain(unnamed) {
        adopted.extend(adoption.adopt(place).await?);
    }
    adopted.extend(skipped.into_iter().map(|(dir, why)| AdoptedDir::unknown(dir, 0, 0, why)));
    Ok(adopted)
}

/// One run of the command.
struct Adoption<'a> {
    node: &'a Arc<Node>,
    access: HubUser,
    fetch_at_most: u64,
    /// Bytes of all files that were found.
    total: u64,
    /// Bytes of the places that are done.
    done: u64,
    report: Arc<dyn Fn(AdoptProgress) + Send + Sync>,
}

impl AdoptedDir {
    fn unknown(dir: PathBuf, files: usize, size: u64, why: String) -> Self {
        let state = AdoptState::Unknown;
        Self { model: None, dir, state, files, size, missing: 0, fetched: 0, why: Some(why) }
    }
}

impl Adoption<'_> {
    async fn adopt(&mut self, place: FoundDirectory) -> Result<Vec<AdoptedDir>, NodeError> {
        let size = place.size();
        let place = Arc::new(place);
        let adopted = match &place.name {
            Some(name) => {
                let model = ModelRef { name: name.clone(), revision: Revision::default() };
                let as_named = self.adopt_as(&model, &place).await.map(|adopted| vec![adopted]);
                self.or_for_manifests(as_named, &place).await
            }
            None => self.adopt_for_manifests(&place).await,
        };
        self.done += size;
        match adopted {
            Err(NodeError::Cancelled) => Err(NodeError::Cancelled),
            // A model that fails does not end the command.
            Err(error) => {
                let model = place.name.clone().map(|name| ModelRef { name, revision: Revision::default() });
                let unknown = AdoptedDir::unknown(place.dir.clone(), place.files.len(), size, chain(&error));
                Ok(vec![AdoptedDir { model, ..unknown }])
            }
            adopted => adopted,
        }
    }

    /// Adopts the files of a directory as those of a model.
    async fn adopt_as(&self, model: &ModelRef, place: &Arc<FoundDirectory>) -> Result<AdoptedDir, NodeError> {
        let revision = self.revision(model).await?;
        let adopted = self.adopt_revision(&revision, place).await?;
        let is_restricted = revision.hub.as_ref().is_some_and(|hub| hub.listing.is_restricted());
        if adopted.state != AdoptState::Incomplete || is_restricted {
            return Ok(adopted);
        }
        // A peer may have the manifest. Then the files that are here can be seeded without the missing ones.
        match self.look_in_swarm(model).await {
            Ok(known) if known.hub.is_none() => self.adopt_revision(&known, place).await,
            _ => Ok(adopted),
        }
    }

    /// The result for the name of a directory. If that is not the name of the model, the files are compared with the known
    /// models.
    async fn or_for_manifests(
        &self,
        as_named: Result<Vec<AdoptedDir>, NodeError>,
        place: &Arc<FoundDirectory>,
    ) -> Result<Vec<AdoptedDir>, NodeError> {
        let is_final = match &as_named {
            Ok(adopted) => adopted.iter().any(|found| found.state != AdoptState::Unknown),
            // A manifest of a stranger must not make a seed of a gated or private model.
            Err(error) => {
                matches!(error, NodeError::Cancelled)
                    || matches!(error.kind(), ErrorKind::Gated | ErrorKind::Unauthorised)
            }
        };
        if is_final {
            return as_named;
        }
        let by_hash = self.adopt_for_manifests(place).await?;
        if by_hash.iter().any(|found| found.model.is_some()) { Ok(by_hash) } else { as_named }
    }

    /// Adopts files that belong to models with a known manifest, from a directory without the name of a model.
    async fn adopt_for_manifests(&self, place: &Arc<FoundDirectory>) -> Result<Vec<AdoptedDir>, NodeError> {
        let library = self.node.library.clone();
        let sizes: std::collections::HashSet<u64> = place.files.values().map(|file| file.size).collect();
        let candidates = blocking::run(move || Ok(library.revisions())).await?;
        let mut all = Vec::new();
        for revision in candidates {
            if !revision.manifest.files.iter().any(|file| file.size > 0 && sizes.contains(&file.size)) {
                continue;
            }
            let adopted = self.adopt_revision(&revision, place).await?;
            if adopted.files > 0 {
                all.push(adopted);
            }
        }
        if all.is_empty() {
            let why = "no known model has these files".to_owned();
            all.push(AdoptedDir::unknown(place.dir.clone(), place.files.len(), place.size(), why));
        }
        Ok(all)
    }

    /// The model of a name: known here, at the hub, or in the swarm.
    async fn revision(&self, model: &ModelRef) -> Result<Arc<StoredRevision>, NodeError> {
        let sought = RequestedModel { model: model.clone(), publisher: None };
        if let Some(known) = readable::known(self.node, &sought)? {
            return Ok(known);
        }
        match hub::lookup::look_up(self.node, model, &self.access, HUB_WITHIN).await {
            Ok(found) => Ok(found),
            // A manifest of a stranger must not make a seed of a gated or private model.
            Err(refused) if matches!(refused.kind(), ErrorKind::Gated | ErrorKind::Unauthorised) => {
                Err(refused)
            }
            Err(of_hub) => self.look_in_swarm(model).await.map_err(|_| of_hub),
        }
    }

    async fn look_in_swarm(&self, model: &ModelRef) -> Result<Arc<StoredRevision>, NodeError> {
        let sought = RequestedModel { model: model.clone(), publisher: None };
        let limits = LookupLimits { within: SWARM_WITHIN, patience: SearchPatience::All };
        readable::look_up_in_swarm(self.node, &sought, &self.access, limits).await
    }

    async fn adopt_revision(
        &self,
        revision: &Arc<StoredRevision>,
        place: &Arc<FoundDirectory>,
    ) -> Result<AdoptedDir, NodeError> {
        let manifest = &revision.manifest;
        let mut adopted = AdoptedDir {
            model: Some(manifest.model_ref()),
            dir: place.dir.clone(),
            state: AdoptState::Known,
            files: 0,
            size: 0,
            missing: 0,
            fetched: 0,
            why: None,
        };
        let is_new = revision.contents.iter().all(|content| content.cached_bytes() == 0);
        let in_place = self.matching(revision, place).await?;
        let is_here = |file: &usize| in_place.contains_key(file) || place.has(&revision.contents[*file]);
        let here: Vec<usize> = (0..manifest.files.len()).filter(is_here).collect();
        adopted.files = here.len();
        adopted.size = here.iter().map(|&file| manifest.files[file].size).sum();
        let is_missing =
            |file: &usize| !in_place.contains_key(file) && !revision.contents[*file].is_complete();
        let missing: Vec<usize> = (0..manifest.files.len()).filter(is_missing).collect();
        adopted.missing = missing.iter().map(|&file| manifest.files[file].size).sum();
        if in_place.is_empty() {
            if missing.is_empty() || !here.is_empty() {
                return Ok(self.with_rule(adopted, AdoptState::Known));
            }
            let why = format!("no file here is one of {}", manifest.model_ref());
            return Ok(AdoptedDir { state: AdoptState::Unknown, why: Some(why), ..adopted });
        }
        match &revision.hub {
            None => self.place(revision, place, in_place, is_new).await?,
            Some(_) if adopted.missing > self.fetch_at_most => {
                let (count, dir) = (missing.len(), place.dir.display());
                let why = format!(
                    "{count} files are missing; `silmaril get {}` or `adopt --fetch` gets them",
                    manifest.model_ref()
                );
                tracing::debug!(%dir, "{why}");
                return Ok(AdoptedDir { state: AdoptState::Incomplete, why: Some(why), ..adopted });
            }
            Some(_) => {
                space::check(&self.node.library, revision, &missing, None)?;
                space::fetch_files((&self.node.library, &self.node.fetch), revision, &missing, None).await?;
                adopted.fetched = std::mem::take(&mut adopted.missing);
                let finished = hub::complete::finish_with(self.node, revision, &place.dir, in_place).await?;
                if finished.is_none() {
                    let why = "files changed while they were adopted; run it again".to_owned();
                    return Ok(AdoptedDir { state: AdoptState::Incomplete, why: Some(why), ..adopted });
                }
            }
        }
        Ok(self.with_rule(adopted, AdoptState::Shared))
    }

    /// The result by the rule of sharing of its model.
    fn with_rule(&self, adopted: AdoptedDir, state: AdoptState) -> AdoptedDir {
        let rule = adopted.model.as_ref().map(|model| self.node.library.sharing.of(model));
        match rule.and_then(|rule| rule.withheld) {
            Some(withheld) => {
                let why = Some(withheld.reason().to_owned());
                AdoptedDir { state: AdoptState::Withheld, why, ..adopted }
            }
            None => AdoptedDir { state, ..adopted },
        }
    }

    async fn matching(
        &self,
        revision: &Arc<StoredRevision>,
        place: &Arc<FoundDirectory>,
    ) -> Result<FilesInPlace, NodeError> {
        let (library, revision, place) = (self.node.library.clone(), revision.clone(), place.clone());
        let (report, total, before) = (self.report.clone(), self.total, self.done);
        blocking::cancellable(move |cancel| {
            let dir = place.dir.clone();
            let progress = |done| report(AdoptProgress { dir: dir.clone(), done: before + done, total });
            let at = library.paths.adopted_hashes();
            let mut hasher = StampedHasher::open(&at, library.config.torrent.piece_length, &progress, cancel);
            let found = matching::matching(&revision, &place, &mut hasher);
            if let Err(error) = hasher.save(&at) {
                tracing::warn!(%error, path = %at.display(), "could not save the hashes of adopted files");
            }
            found
        })
        .await
    }

    /// Records files of a model with a manifest, and seeds them.
    async fn place(
        &self,
        revision: &Arc<StoredRevision>,
        place: &Arc<FoundDirectory>,
        in_place: FilesInPlace,
        is_new: bool,
    ) -> Result<(), NodeError> {
        let manifest = &revision.manifest;
        let turn = self.node.jobs.turn(&manifest.torrent.info_hash).await;
        // The engine must not write to contents that move.
        let held = self.node.seeds.close(revision).await?;
        let (this, of, dir) = (self.node.clone(), revision.clone(), place.dir.clone());
        let placing = blocking::cancellable(move |_| {
            // The thread continues when the future is dropped.
            let _until_done = (turn, held, this.lock.clone());
            let model = of.manifest.model_ref();
            let permits = of.manifest.license.as_deref().is_some_and(license::permits_redistribution);
            if is_new && !permits && this.library.sharing.of(&model) == Rule::default() {
                // Before any peer learns of the files.
                this.library
                    .sharing
                    .set(&model, Rule { withheld: Some(WithheldReason::Licence), ..Rule::default() })?;
            }
            let found = in_place.into_iter().map(|(file, found)| (file, found.path, found.proof.stamp));
            this.library.store.placed().record_found(&of, &dir, found.collect())?;
            this.seeds.apply_rules(&of.manifest.torrent.info_hash);
            this.fetch.relocate(&of);
            this.changed();
            Ok(())
        });
        placing.await?;
        if self.node.library.sharing.of(&manifest.model_ref()).withheld.is_none() {
            self.node.seeds.join(revision)?;
        }
        Ok(())
    }
}
