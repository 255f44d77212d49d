//! Chooses a manifest for a name among candidates, some of which may be false.
//!
//! Only a signature makes a candidate count. A record carries its own signature. A peer's claim to hold a manifest
//! counts when the manifest has arrived and its signature is right.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{NodeError, chain};
use crate::catalog::record::SharedRecord;
use crate::catalog::{Candidate, CatalogError};
use crate::model::{InfoHash, Manifest, ModelRef, PublisherKey};
use crate::trust::Trust;
use crate::trust::{Pinning, Standing, TrustError};

/// The most candidates without a record that are checked: a hostile peer can invent any number.
const MAX_CLAIMS: usize = 16;

/// A candidate, and its manifest once that was checked.
struct Offer {
    candidate: Candidate,
    checked: Option<Manifest>,
}

impl Offer {
    /// Whether its signature was checked.
    fn is_signed(&self) -> bool {
        self.candidate.record.is_some() || self.checked.is_some()
    }

    fn sequence(&self) -> i64 {
        self.candidate.record.as_ref().map_or(i64::MIN, |record| record.record().sequence)
    }

    /// Orders the offers of one publisher, the newest last: by records, then by the signed times of manifests.
    fn age(&self) -> (i64, Option<jiff::Timestamp>) {
        let made = self.checked.as_ref().and_then(|manifest| manifest.created_at.as_ref());
        (self.sequence(), made.and_then(|time| time.parse().ok()))
    }
}

/// How long the network may take to report that the owner of a name has replaced their key, before another publisher is
/// refused.
const SUCCEEDED_WITHIN: Duration = Duration::from_secs(4);

/// Fetches manifests and successions.
pub(super) trait ManifestFetcher: Sync {
    /// Fetches and checks a candidate's manifest within a time.
    fn fetch(
        &self,
        candidate: &Candidate,
        within: Duration,
    ) -> impl Future<Output = Result<Manifest, NodeError>> + Send;

    /// Whether a record of a succession of this key arrives within a time. It is in the trust then.
    fn succeeded(&self, owner: PublisherKey, within: Duration) -> impl Future<Output = bool> + Send;
}

/// What the hub has shown about a manifest.
#[derive(Debug)]
pub(super) enum Opinion {
    /// Nothing that decides.
    Unknown,
    /// The hub lists its files for a commit, and no other candidate is better.
    Best {
        /// Whether other publishers have the same files.
        is_shared: bool,
    },
    /// It contradicts the hub; the error names the difference.
    Refuted(Box<NodeError>),
}

/// Asks the hub about manifests of publishers that the user did not choose.
pub(super) trait Judge: Sync {
    /// Whether the hub can be asked now.
    fn is_able(&self) -> bool;

    /// The reason why a candidate is refused without asking the hub again.
    fn refuted(&self, candidate: &Candidate) -> Option<NodeError>;

    /// One opinion for each manifest, before `until`.
    fn judge(&self, manifests: &[&Manifest], until: Instant) -> impl Future<Output = Vec<Opinion>> + Send;
}

/// The chosen manifest.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The manifest, checked.
    pub manifest: Manifest,
    /// Whether it pins its publisher.
    pub pinning: Pinning,
    /// The record that announced it; none if only a peer claimed to hold it.
    pub record: Option<SharedRecord>,
}

/// Chooses a manifest by the rules of the trust, before `until`. `judge` refuses manifests of unlisted publishers that contradict
/// the hub, and decides between such publishers; not if the user names the publisher.
pub(super) async fn choose(
    trust: &Trust,
    model: &ModelRef,
    wanted: Option<&str>,
    found: Vec<Candidate>,
    network: &impl ManifestFetcher,
    judge: &impl Judge,
    until: Instant,
) -> Result<Chosen, NodeError> {
    let left = || until.saturating_duration_since(Instant::now());
    let mut offers = offers(found);
    let (mut heard, mut judged, mut is_shared) = (false, false, false);
    let mut failure: NodeError = CatalogError::NotFound(model.clone()).into();
    if wanted.is_none() {
        failure = drop_refuted(trust, model, judge, &mut offers).unwrap_or(failure);
    }
    while !offers.is_empty() {
        let known: Vec<(PublisherKey, InfoHash)> =
            offers.iter().map(|offer| (offer.candidate.publisher, offer.candidate.info_hash)).collect();
        let choice = match trust.choose(&model.name, &known, wanted) {
            Ok(choice) => choice,
            // A claim that is not checked yet may change the choice.
            Err(_) if offers.iter().any(|offer| !offer.is_signed()) => {
                // Time must remain to fetch the manifest of a record after the claims.
                let announced = offers.iter().any(Offer::is_signed);
                let within = if announced { left() / 4 } else { left() / 2 };
                failure = check_claims(&mut offers, network, within).await.unwrap_or(failure);
                continue;
            }
            // The record of a succession may arrive a moment after the first contact with a peer.
            Err(e @ TrustError::OtherPublisher { .. }) if !heard => {
                heard = true;
                let Some(owner) = trust.pinned(&model.name)? else { continue };
                let offered = known.iter().any(|(publisher, _)| *publisher == owner);
                if offered || !network.succeeded(owner, left().min(SUCCEEDED_WITHIN)).await {
                    return Err(e.into());
                }
                continue;
            }
            Err(TrustError::Ambiguous { .. }) if wanted.is_none() && !judged && judge.is_able() => {
                judged = true;
                fetch_all(&mut offers, network, left() / 2).await;
                let decided = judge_all(&mut offers, judge, until).await;
                is_shared = decided.is_shared;
                failure = decided.failure.unwrap_or(failure);
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let theirs = |offer: &Offer| offer.candidate.publisher == choice.publisher;
        let claims = offers.iter().filter(|offer| theirs(offer) && offer.candidate.record.is_none());
        // Only the manifests show which of several claims is the newest.
        if claims.clone().count() > 1 && claims.clone().any(|offer| !offer.is_signed()) {
            failure = check_claims(&mut offers, network, left() / 2).await.unwrap_or(failure);
            continue;
        }
        let Some(chosen) = newest(&offers, theirs) else { break };
        let Offer { candidate, checked } = offers.remove(chosen);
        let has_more = offers.iter().any(|offer| offer.candidate.publisher == choice.publisher);
        let checked = match checked {
            Some(manifest) => Ok(manifest),
            None => network.fetch(&candidate, if offers.is_empty() { left() } else { left() / 2 }).await,
        };
        match checked {
            Ok(manifest) => {
                let is_stranger = wanted.is_none()
                    && trust.standing(&model.name, Some(&choice.publisher)) == Standing::Unknown;
                if is_stranger
                    && !judged
                    && let Some(Opinion::Refuted(error)) = judge.judge(&[&manifest], until).await.pop()
                {
                    failure = *error;
                    continue;
                }
                let pinning = if is_shared { Pinning::Leave } else { choice.pinning };
                return Ok(Chosen { manifest, pinning, record: candidate.record });
            }
            // A name does not pass to another publisher because no peer has the manifest of its publisher.
            Err(e @ NodeError::Catalog(_)) if candidate.record.is_some() && !has_more => return Err(e),
            // The same holds for an older state of that publisher.
            Err(e @ NodeError::Older { .. }) if !has_more => return Err(e),
            Err(e) => {
                tracing::info!(%model, error = chain(&e), "a candidate is of no use");
                failure = e;
            }
        }
    }
    Err(failure)
}

/// Drops the candidates of unlisted publishers that were refuted before. Returns the error of one of them.
fn drop_refuted(
    trust: &Trust,
    model: &ModelRef,
    judge: &impl Judge,
    offers: &mut Vec<Offer>,
) -> Option<NodeError> {
    let mut failure = None;
    offers.retain(|offer| {
        let error = judge.refuted(&offer.candidate);
        let publisher = &offer.candidate.publisher;
        let stays = error.is_none() || trust.standing(&model.name, Some(publisher)) != Standing::Unknown;
        if !stays {
            failure = error;
        }
        stays
    });
    failure
}

/// The result of [`judge_all`].
#[derive(Default)]
struct Decided {
    /// Whether several publishers have the files of the best manifest.
    is_shared: bool,
    /// The error of a refuted manifest.
    failure: Option<NodeError>,
}

/// Asks the hub about all manifests that were fetched. Drops the refuted ones, and, if there is a best one, the rest.
async fn judge_all(offers: &mut Vec<Offer>, judge: &impl Judge, until: Instant) -> Decided {
    let mut decided = Decided::default();
    let fetched: Vec<&Manifest> = offers.iter().filter_map(|offer| offer.checked.as_ref()).collect();
    let mut opinions = judge.judge(&fetched, until).await.into_iter();
    let has_best = |opinions: &[Opinion]| opinions.iter().any(|of| matches!(of, Opinion::Best { .. }));
    let only_best = has_best(opinions.as_slice());
    let mut keeps = |offer: &Offer| match offer.checked.as_ref().and_then(|_| opinions.next()) {
        Some(Opinion::Refuted(error)) => {
            decided.failure = Some(*error);
            false
        }
        Some(Opinion::Best { is_shared }) => {
            decided.is_shared |= is_shared;
            true
        }
        Some(Opinion::Unknown) | None => !only_best,
    };
    offers.retain(|offer| keeps(offer));
    decided
}

/// Fetches the manifests that are not fetched yet, all at the same time. Candidates without one stay.
async fn fetch_all(offers: &mut [Offer], network: &impl ManifestFetcher, within: Duration) {
    let fetching = offers.iter_mut().map(|offer| async move {
        if offer.checked.is_none() {
            offer.checked = network.fetch(&offer.candidate, within).await.ok();
        }
    });
    futures_util::future::join_all(fetching).await;
}

/// The newest acceptable manifest of one publisher among candidates, for a path that names the publisher. `found` may
/// contain candidates of other publishers.
pub(super) async fn of_publisher(
    model: &ModelRef,
    publisher: PublisherKey,
    found: Vec<Candidate>,
    network: &impl ManifestFetcher,
    until: Instant,
) -> Result<Chosen, NodeError> {
    let left = || until.saturating_duration_since(Instant::now());
    let theirs = found.into_iter().filter(|candidate| candidate.publisher == publisher).collect();
    let mut failure: NodeError = CatalogError::NotFound(model.clone()).into();
    let mut offers = offers(theirs);
    if offers.len() > 1 {
        failure = check_claims(&mut offers, network, left() / 2).await.unwrap_or(failure);
    }
    while let Some(next) = newest(&offers, |_| true) {
        let Offer { candidate, checked } = offers.remove(next);
        let fetched = match checked {
            Some(manifest) => Ok(manifest),
            None => network.fetch(&candidate, if offers.is_empty() { left() } else { left() / 2 }).await,
        };
        match fetched {
            Ok(manifest) => {
                return Ok(Chosen { manifest, pinning: Pinning::Leave, record: candidate.record });
            }
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

/// The newest of the offers that are `wanted`.
fn newest(offers: &[Offer], wanted: impl Fn(&Offer) -> bool) -> Option<usize> {
    // The first of equal ones.
    let all = offers.iter().enumerate().rev().filter(|(_, offer)| wanted(offer));
    all.max_by_key(|(_, offer)| offer.age()).map(|(at, _)| at)
}

/// The newest records first, then at most [`MAX_CLAIMS`] candidates without a record.
fn offers(found: Vec<Candidate>) -> Vec<Offer> {
    let (recorded, claimed): (Vec<_>, Vec<_>) = found.into_iter().partition(|c| c.record.is_some());
    let all = recorded.into_iter().chain(claimed.into_iter().take(MAX_CLAIMS));
    let mut offers: Vec<Offer> = all.map(|candidate| Offer { candidate, checked: None }).collect();
    offers.sort_by_key(|offer| std::cmp::Reverse(offer.sequence()));
    offers
}

/// Fetches the manifests of the candidates without a record, all at the same time, and drops the candidates that do not
/// match their manifest. Returns the error of the last dropped one.
async fn check_claims(
    offers: &mut Vec<Offer>,
    network: &impl ManifestFetcher,
    within: Duration,
) -> Option<NodeError> {
    let fetched = futures_util::future::join_all(offers.iter().map(|offer| async move {
        if offer.is_signed() { None } else { Some(network.fetch(&offer.candidate, within).await) }
    }));
    let mut failure = None;
    let fetched = fetched.await;
    let all = std::mem::take(offers).into_iter().zip(fetched);
    offers.extend(all.filter_map(|(offer, fetched)| match fetched {
        None => Some(offer),
        Some(Ok(manifest)) => Some(Offer { checked: Some(manifest), ..offer }),
        Some(Err(e)) => {
            failure = Some(e);
            None
        }
    }));
    failure
}

/// Parses the manifest of a candidate and compares it with the candidate. The error continues "the manifest announced
/// by …".
pub(super) fn check(model: &ModelRef, candidate: &Candidate, json: &[u8]) -> Result<Manifest, String> {
    if candidate.manifest.0 != <[u8; 32]>::from(Sha256::digest(json)) {
        return Err("does not match the announced hash".to_owned());
    }
    let manifest = Manifest::from_json(json).map_err(|e| format!("is no manifest: {e}"))?;
    if manifest.signed_by() != Some(candidate.publisher) {
        return Err("is not signed by them".to_owned());
    }
    if manifest.model_ref() != *model {
        return Err(format!("is that of {}", manifest.model_ref()));
    }
    if manifest.torrent.info_hash != candidate.info_hash {
        return Err(format!("has the torrent {}", manifest.torrent.info_hash));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests;
