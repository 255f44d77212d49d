//! Resolves a name to a manifest: the catalog finds candidates, the trust chooses one, and its manifest is stored.
//!
//! Before the manifest matches its announcement, nothing is stored and no publisher is pinned.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accept::Intent;
use super::candidates::{Chosen, ManifestFetcher};
use super::hub::access::HubAccess;
use super::node_catalog::NodeCatalog;
use super::witness::HubJudge;
use super::{Library, Node, NodeError, blocking, candidates};
use crate::catalog::{Candidate, CatalogError, SearchPatience};
use crate::model::{Manifest, ModelRef, PublisherKey, Sha256Digest};
use crate::mount::RequestedModel;
use crate::store::{Announced, SignedState};
use crate::trust::Pinning;
use crate::trust::Trust;

/// How long the DHT may take to return the successor of a key, and how many successions are followed.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(8);
const MAX_SUCCESSIONS: usize = 8;

/// The model that is looked up, and the limits of the lookup.
#[derive(Clone, Copy)]
pub(super) struct Lookup<'a> {
    /// The model.
    pub model: &'a ModelRef,
    /// The publisher that the user names.
    pub publisher: Option<&'a str>,
    /// How long the caller waits for a name that no peer has.
    pub patience: SearchPatience,
    /// The use of the manifest.
    pub intent: Intent,
    /// How the hub is asked about manifests of strangers; none if it is not.
    pub witness: Option<&'a Arc<HubAccess>>,
}

/// Looks up the model at a path of a mount, for at most `within`. Fails immediately if there is no network.
pub(super) async fn look_up(
    node: &Arc<Node>,
    sought: &RequestedModel,
    witness: Option<&Arc<HubAccess>>,
    within: Duration,
    patience: SearchPatience,
) -> Result<Arc<Manifest>, NodeError> {
    let RequestedModel { model, publisher } = sought;
    node.reach.check_model(model, &[])?;
    let lookup = Lookup { model, publisher: None, patience, intent: Intent::Read, witness };
    match publisher {
        None => resolve(node, lookup, within).await,
        Some(publisher) => resolve_by(node, model, publisher, within, patience).await,
    }
}

/// The manifest of a model: the known one or, within a time, the one that the network has, if the trust accepts its
/// publisher. Simultaneous calls for one model share one lookup. A name is pinned only if the intent is [`Intent::Take`] and
/// the manifest was not known.
pub(super) async fn resolve(
    node: &Arc<Node>,
    lookup: Lookup<'_>,
    within: Duration,
) -> Result<Arc<Manifest>, NodeError> {
    let asked = Instant::now();
    let Lookup { model, publisher, patience, intent, .. } = lookup;
    let key = (model.clone(), publisher.map(str::to_owned), intent, patience);
    let until = tokio::time::Instant::now() + within;
    let Ok(mut failed) = tokio::time::timeout_at(until, node.lookups.turn(&key)).await else {
        return Err(CatalogError::NotFound(model.clone()).into());
    };
    if let Some(known) = node.library.registry.get(model).filter(|known| node.library.is_accepted(known)) {
        return Ok(known);
    }
    if let Some((_, failed)) = failed.as_ref().filter(|(when, _)| *when > asked) {
        return Err(failed.clone().into());
    }
    let left = until.saturating_duration_since(tokio::time::Instant::now());
    let resolved = resolve_in_network(node, lookup, left).await;
    if let Err(e) = &resolved {
        *failed = Some((Instant::now(), e.into()));
    }
    resolved
}

/// Like [`resolve`], also if a manifest is known: the found one replaces it. At least a quarter of the time is
/// left for the manifest.
pub(super) async fn resolve_in_network(
    node: &Arc<Node>,
    lookup: Lookup<'_>,
    within: Duration,
) -> Result<Arc<Manifest>, NodeError> {
    let Lookup { model, publisher, patience, intent, witness } = lookup;
    let part = node.catalog()?;
    let until = Instant::now() + within;
    let left = || until.saturating_duration_since(Instant::now());
    let mut found = part.catalog.resolve(model, within * 3 / 4, patience).await?;
    let from = manifest_peers(node, part, model, intent);
    let judge = HubJudge { node, access: witness, model };
    let known = registry_claim(&node.library, model, publisher);
    // The first peers to answer may not have the manifest: half of the time is left for other peers.
    let mut by = Instant::now() + left() / 2;
    let settled = loop {
        let mut offered = found.clone();
        if let Some(known) =
            known.as_ref().filter(|known| !offers(&node.library.trust, &offered, &known.publisher))
        {
            offered.push(known.clone());
        }
        let settled =
            candidates::choose(&node.library.trust, model, publisher, offered, &from, &judge, by).await;
        match settled {
            Err(NodeError::Catalog(CatalogError::NoManifest { .. })) if Instant::now() < until => {
                found = part.catalog.resolve(model, left() * 3 / 4, patience).await?;
                by = until;
            }
            settled => break settled?,
        }
    };
    admit(node, settled, intent).await
}

/// The manifest of a model by the publisher with a fingerprint, for a path that contains the fingerprint. Comes from
/// the network within a time. Pins nothing and does not change the owner of the name.
pub(super) async fn resolve_by(
    node: &Arc<Node>,
    model: &ModelRef,
    fingerprint: &str,
    within: Duration,
    patience: SearchPatience,
) -> Result<Arc<Manifest>, NodeError> {
    let part = node.catalog()?;
    let until = Instant::now() + within;
    let found = part.catalog.resolve(model, within * 3 / 4, patience).await?;
    let theirs = |candidate: &&Candidate| candidate.publisher.fingerprint() == fingerprint;
    let Some(publisher) = found.iter().find(theirs).map(|candidate| candidate.publisher) else {
        return Err(CatalogError::NotFound(model.clone()).into());
    };
    node.library.trust.may_read_by_key(&model.name, &publisher)?;
    let from = manifest_peers(node, part, model, Intent::Read);
    let settled = candidates::of_publisher(model, publisher, found, &from, until).await?;
    let holder = node.clone();
    let stored = blocking::cancellable(move |_| {
        holder.library.accept_by_publisher(settled.manifest, settled.record.as_deref())
    })
    .await?;
    meet_holders(node, &stored);
    node.changed();
    Ok(stored)
}

fn manifest_peers<'a>(
    node: &Arc<Node>,
    part: &'a NodeCatalog,
    model: &'a ModelRef,
    intent: Intent,
) -> ManifestPeers<'a> {
    let known = node.library.registry.get(model).map(|known| (known.digest().0, known));
    ManifestPeers { node: node.clone(), part, model, intent, known }
}

/// The known manifest of a name that is not pinned, as a candidate: another publisher must not get the name because the
/// known one cannot be reached now. None if the user names a publisher.
fn registry_claim(library: &Library, model: &ModelRef, publisher: Option<&str>) -> Option<Candidate> {
    let known = library.registry.get(model).filter(|known| library.is_accepted(known))?;
    let signer = known.signed_by()?;
    let owned = library.trust.pinned(&model.name).ok()?.is_some();
    let (manifest, len) = known.digest();
    let manifest_len = u32::try_from(len).ok()?;
    (!owned && publisher.is_none()).then(|| Candidate {
        publisher: signer,
        info_hash: known.torrent.info_hash,
        manifest,
        manifest_len,
        record: None,
    })
}

/// Whether a candidate is signed by any key of a publisher.
fn offers(trust: &Trust, candidates: &[Candidate], publisher: &PublisherKey) -> bool {
    let owner = trust.present_key(publisher);
    candidates.iter().any(|candidate| trust.present_key(&candidate.publisher) == owner)
}

/// The manifest of a model by a known publisher, from the record in the DHT.
pub(super) async fn resolve_of(
    node: &Arc<Node>,
    publisher: &str,
    model: &ModelRef,
    peers: &[SocketAddr],
    within: Duration,
    intent: Intent,
) -> Result<Arc<Manifest>, NodeError> {
    let part = node.catalog()?;
    let until = Instant::now() + within;
    part.catalog.introduce(peers);
    let known = part.store.digest().into_iter().map(|have| have.publisher);
    let publisher = node.library.trust.find(publisher, known)?;
    let publisher = node.library.trust.present_key(&publisher);
    let mut found = found_of(&node.library.trust, part, publisher, model, within * 3 / 4).await?;
    let from = manifest_peers(node, part, model, intent);
    let manifest = loop {
        let left = until.saturating_duration_since(Instant::now());
        match from.fetch(&found, left).await {
            Err(e) if Instant::now() < until => found = from.renewed(&e, &found).ok_or(e)?,
            fetched => break fetched?,
        }
    };
    admit(node, Chosen { manifest, pinning: Pinning::Pin, record: found.record }, intent).await
}

/// The candidate of a publisher, or of the successor of their key according to the DHT.
async fn found_of(
    trust: &Trust,
    part: &NodeCatalog,
    mut publisher: PublisherKey,
    model: &ModelRef,
    within: Duration,
) -> Result<Candidate, NodeError> {
    let until = Instant::now() + within;
    let left = || until.saturating_duration_since(Instant::now());
    for _ in 0..MAX_SUCCESSIONS {
        // At the same time: most publishers have no successor, and the DHT needs long to find none.
        let found = part.catalog.resolve_of(publisher, model, left());
        let named = part.catalog.successor(publisher, SUCCESSOR_WITHIN.min(left() / 2));
        tokio::pin!(found, named);
        let (early, next) = tokio::select! {
            next = &mut named => (None, next),
            early = &mut found => (Some(early), named.await),
        };
        let next = next.map(|next| trust.present_key(&next));
        match (next.filter(|next| *next != publisher), early) {
            (Some(next), _) => publisher = next,
            (None, Some(found)) => return Ok(found?),
            (None, None) => return Ok(found.await?),
        }
    }
    Err(CatalogError::NotFound(model.clone()).into())
}

/// Whether the publisher of a known model has announced a newer state. Reads the disk.
pub(super) fn is_outdated(node: &Node, known: &Manifest) -> bool {
    let (Some(part), Some(signer)) = (&node.catalog, known.signed_by()) else { return false };
    // The key may have been replaced since it signed the manifest.
    let publisher = node.library.trust.present_key(&signer);
    let model = known.model_ref();
    let Some(announced) = part.store.of(&publisher, &model) else { return false };
    let Ok(states) = node.library.newest_states(&model) else { return false };
    let record = announced.record();
    let time = i64::try_from(record.time).unwrap_or(i64::MAX);
    let state = SignedState {
        info_hash: known.torrent.info_hash,
        created_at: None,
        announced: Some(Announced { sequence: record.sequence, time }),
        only_read: false,
    };
    let older = |(key, known): (&PublisherKey, &SignedState)| {
        node.library.trust.present_key(key) == publisher && state.is_older_than(known, *key == publisher)
    };
    !states.iter().any(older)
        && announced.model().is_some_and(|model| model.info_hash != known.torrent.info_hash)
}

/// Stores a checked manifest if the trust accepts its publisher, and shows it in the mounts.
async fn admit(node: &Arc<Node>, settled: Chosen, intent: Intent) -> Result<Arc<Manifest>, NodeError> {
    let holder = node.clone();
    let (stored, former) = blocking::cancellable(move |_| {
        let Chosen { manifest, pinning, record } = settled;
        let former = holder.library.registry.get(&manifest.model_ref());
        let stored = holder.library.accept(manifest, record.as_deref(), intent, pinning)?;
        // So that the record survives the end of this process like the manifest.
        if let Some(Err(e)) = holder.catalog.as_ref().map(|part| part.store.flush()) {
            tracing::warn!(error = %e, name = %stored.name, "could not save the record");
        }
        Ok((stored, former))
    })
    .await?;
    if let Some(former) = former.filter(|former| former.torrent.info_hash != stored.torrent.info_hash) {
        node.seeds.leave_unless_used(&former);
    }
    meet_holders(node, &stored);
    node.changed();
    Ok(stored)
}

/// Introduces the peers that hold a model to its swarm.
fn meet_holders(node: &Node, manifest: &Manifest) {
    if let Some(part) = &node.catalog {
        let info_hash = manifest.torrent.info_hash;
        node.fetch.introduce(&info_hash, &part.catalog.holders(&info_hash));
    }
}

/// Fetches the manifests of a model from peers.
struct ManifestPeers<'a> {
    node: Arc<Node>,
    part: &'a NodeCatalog,
    model: &'a ModelRef,
    intent: Intent,
    /// The known manifest with its digest.
    known: Option<(Sha256Digest, Arc<Manifest>)>,
}

impl ManifestPeers<'_> {
    /// If no peer had the manifest: a newer record of its publisher that arrived meanwhile.
    fn renewed(&self, failure: &NodeError, known: &Candidate) -> Option<Candidate> {
        if !matches!(failure, NodeError::Catalog(CatalogError::NoManifest { .. })) {
            return None;
        }
        let known = (known.publisher, known.record.as_ref()?.record().sequence);
        let newest = self.part.store.of(&known.0, self.model)?;
        Candidate::of_record(&newest).filter(|_| newest.record().sequence > known.1)
    }
}

impl ManifestFetcher for ManifestPeers<'_> {
    /// Fails as soon as a newer record replaces that of the candidate. Refuses a state older than the known one, unless
    /// the user allows it.
    async fn fetch(&self, candidate: &Candidate, within: Duration) -> Result<Manifest, NodeError> {
        if let Some((_, known)) = self.known.as_ref().filter(|(digest, _)| *digest == candidate.manifest) {
            return Ok(Manifest::clone(known));
        }
        let json = tokio::select! {
            json = self.part.catalog.manifest(self.model, candidate, within) => json?,
            () = self.part.catalog.replaced(self.model, candidate) => {
                return Err(CatalogError::NoManifest { model: self.model.clone() }.into());
            }
        };
        let (model, candidate) = (self.model.clone(), candidate.clone());
        let (node, allows_older) = (self.node.clone(), self.intent.allows_older());
        blocking::cancellable(move |_| {
            let manifest =
                candidates::check(&model, &candidate, &json).map_err(|reason| NodeError::Refused {
                    origin: model.to_string(),
                    reason: format!(
                        "the manifest announced by {} {reason}",
                        candidate.publisher.fingerprint()
                    ),
                })?;
            if !allows_older {
                node.library.check_state(&manifest, candidate.record.as_deref())?;
            }
            Ok(manifest)
        })
        .await
    }

    async fn succeeded(&self, owner: PublisherKey, within: Duration) -> bool {
        // The catalog stores the answer of the DHT like the records of peers.
        let asking = async {
            self.part.catalog.successor(owner, within).await;
            std::future::pending::<()>().await;
        };
        let arrives = async {
            tokio::select! {
                () = self.part.catalog.succeeded(owner) => {}
                () = asking => {}
            }
        };
        tokio::time::timeout(within, arrives).await.is_ok()
    }
}
