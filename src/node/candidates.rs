//! Chooses a manifest for a name among candidates, some of which may be false.
//!
//! Only a signature makes a candidate count. A record carries its own signature. A peer's claim to hold a manifest
//! counts when the manifest has arrived and its signature is right.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{NodeError, chain};
use crate::catalog::record::SharedRecord;
use crate::catalog::trust::{Pinning, TrustError};
use crate::catalog::{Candidate, CatalogError, Trust};
use crate::model::{InfoHash, Manifest, ModelRef, PublisherKey};

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
pub(super) trait Network: Sync {
    /// Fetches and checks a candidate's manifest within a time.
    fn fetch(
        &self,
        candidate: &Candidate,
        within: Duration,
    ) -> impl Future<Output = Result<Manifest, NodeError>> + Send;

    /// Whether a record of a succession of this key arrives within a time. It is in the trust then.
    fn succeeded(&self, owner: PublisherKey, within: Duration) -> impl Future<Output = bool> + Send;
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

/// Chooses a manifest by the rules of the trust, before `until`.
pub(super) async fn choose(
    trust: &Trust,
    model: &ModelRef,
    wanted: Option<&str>,
    found: Vec<Candidate>,
    network: &impl Network,
    until: Instant,
) -> Result<Chosen, NodeError> {
    let left = || until.saturating_duration_since(Instant::now());
    let mut offers = offers(found);
    let mut heard = false;
    let mut failure: NodeError = CatalogError::NotFound(model.clone()).into();
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
                return Ok(Chosen { manifest, pinning: choice.pinning, record: candidate.record });
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

/// The newest acceptable manifest of one publisher among candidates, for a path that names the publisher. `found` may
/// contain candidates of other publishers.
pub(super) async fn of_publisher(
    model: &ModelRef,
    publisher: PublisherKey,
    found: Vec<Candidate>,
    network: &impl Network,
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
    network: &impl Network,
    within: Duration,
) -> Option<NodeError> {
    let fetched = futures_util::future::join_all(offers.iter().map(|offer| async move {
        match offer.is_signed() {
            true => None,
            false => Some(network.fetch(&offer.candidate, within).await),
        }
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
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::catalog::record::{Record, SignedRecord};
    use crate::catalog::trust::Standing;
    use crate::config::TrustPolicy;
    use crate::keys::PublisherKeypair;
    use crate::model::{FileEntry, PiecesRoot, Sha256Digest};
    use crate::paths::Paths;

    fn signed(name: &str, key: &PublisherKeypair) -> Manifest {
        of_bytes(name, key, 3)
    }

    fn of_bytes(name: &str, key: &PublisherKeypair, bytes: u8) -> Manifest {
        let model: ModelRef = name.parse().unwrap();
        let file = FileEntry::new("w.bin", 5, None, Some(PiecesRoot([bytes; 32])));
        let mut manifest = Manifest::new(model.name, model.revision, 1 << 22, vec![file]).unwrap();
        manifest.sign(key);
        manifest
    }

    fn candidate(manifest: &Manifest, json: &[u8]) -> Candidate {
        Candidate {
            publisher: manifest.publisher.unwrap(),
            info_hash: manifest.torrent.info_hash,
            manifest: Sha256Digest(Sha256::digest(json).into()),
            manifest_len: json.len() as u32,
            record: None,
        }
    }

    #[test]
    fn a_manifest_must_match_its_announcement() {
        let (key, other) = (PublisherKeypair::generate().unwrap(), PublisherKeypair::generate().unwrap());
        let model: ModelRef = "a/b@v1".parse().unwrap();
        let manifest = signed("a/b@v1", &key);
        let json = manifest.to_json();
        let honest = candidate(&manifest, &json);
        assert_eq!(check(&model, &honest, &json).unwrap(), manifest);

        let lies = [
            (
                Candidate { manifest: Sha256Digest([0; 32]), ..honest.clone() },
                "does not match the announced hash",
            ),
            (Candidate { publisher: other.public(), ..honest.clone() }, "not signed by them"),
            (Candidate { info_hash: InfoHash([1; 32]), ..honest.clone() }, "has the torrent"),
        ];
        for (lie, reason) in lies {
            let error = check(&model, &lie, &json).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for other in ["a/b", "a/b@v2", "a/c@v1"] {
            let manifest = signed(other, &key);
            let json = manifest.to_json();
            let error = check(&model, &candidate(&manifest, &json), &json).unwrap_err();
            assert!(error.contains("is that of"), "{error}");
        }
        let forged = String::from_utf8(json.clone()).unwrap().replace("\"size\": 5", "\"size\": 6");
        assert!(check(&model, &candidate(&manifest, forged.as_bytes()), forged.as_bytes()).is_err());
        let mut unsigned = manifest.clone();
        unsigned.signature = None;
        let json = unsigned.to_json();
        assert!(check(&model, &candidate(&manifest, &json), &json).is_err());
    }

    fn key() -> PublisherKeypair {
        PublisherKeypair::generate().unwrap()
    }

    /// A candidate with its record.
    fn recorded(manifest: &Manifest, key: &PublisherKeypair) -> Candidate {
        let record = Record::of_manifest(manifest, key.public(), 7, 1000);
        let record = SignedRecord::sign(record, key).unwrap();
        Candidate { record: Some(Arc::new(record)), ..candidate(manifest, &manifest.to_json()) }
    }

    /// The trust of a new base directory, and a network that has only these manifests.
    struct TestNetwork {
        _dir: tempfile::TempDir,
        trust: Trust,
        model: ModelRef,
        held: HashMap<Sha256Digest, Vec<u8>>,
        /// A succession whose record arrives only on request.
        succession: Option<(PublisherKey, PublisherKey)>,
        /// A manifest whose state is older than the known one.
        older: Option<Sha256Digest>,
    }

    impl TestNetwork {
        fn new(held: &[&Manifest]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::below(dir.path());
            paths.create().unwrap();
            let digest = |json: &[u8]| Sha256Digest(Sha256::digest(json).into());
            let held = held.iter().map(|m| m.to_json()).map(|json| (digest(&json), json)).collect();
            let trust = Trust::open(&paths, TrustPolicy::Tofu);
            Self { _dir: dir, trust, model: "a/b".parse().unwrap(), held, succession: None, older: None }
        }

        async fn choose(
            &self,
            wanted: Option<&str>,
            found: &[Candidate],
        ) -> Result<(Manifest, Pinning), NodeError> {
            let until = Instant::now() + Duration::from_secs(10);
            let settled = choose(&self.trust, &self.model, wanted, found.to_vec(), self, until).await?;
            Ok((settled.manifest, settled.pinning))
        }
    }

    impl Network for TestNetwork {
        async fn fetch(&self, candidate: &Candidate, _: Duration) -> Result<Manifest, NodeError> {
            match self.held.get(&candidate.manifest) {
                Some(_) if self.older == Some(candidate.manifest) => {
                    Err(NodeError::Older { model: self.model.clone(), given: None, known: None })
                }
                None => Err(CatalogError::NoManifest { model: self.model.clone() }.into()),
                Some(json) => check(&self.model, candidate, json)
                    .map_err(|reason| NodeError::Refused { origin: self.model.to_string(), reason }),
            }
        }

        async fn succeeded(&self, owner: PublisherKey, _: Duration) -> bool {
            let Some((_, successor)) = self.succession.filter(|(former, _)| *former == owner) else {
                return false;
            };
            self.trust.follow(Arc::new(move |key| (*key == owner).then_some(successor)));
            true
        }
    }

    #[tokio::test]
    async fn false_claims_do_not_hide_the_signed_record() {
        let (honest, liar) = (key(), key());
        let manifest = signed("a/b", &honest);
        let network = TestNetwork::new(&[&manifest]);
        let truth = recorded(&manifest, &honest);
        // Claims of manifests that no peer has, that another key signed, that belong to another torrent.
        let invented = Candidate {
            publisher: liar.public(),
            manifest: Sha256Digest([9; 32]),
            info_hash: InfoHash([9; 32]),
            record: None,
            ..truth.clone()
        };
        let stolen = Candidate { manifest: truth.manifest, ..invented.clone() };
        let found = [invented.clone(), stolen, truth.clone(), invented.clone()];
        assert_eq!(network.choose(None, &found).await.unwrap().0, manifest);
        // Only the false claim is offered.
        assert!(matches!(network.choose(None, &[invented]).await, Err(NodeError::Catalog(_))));
        assert_eq!(network.trust.standing(&network.model.name, Some(&liar.public())), Standing::Unknown);
    }

    #[tokio::test]
    async fn a_claim_with_a_signed_manifest_counts_like_a_record() {
        let (one, other) = (key(), key());
        let (first, second) = (of_bytes("a/b", &one, 1), of_bytes("a/b", &other, 2));
        let network = TestNetwork::new(&[&first, &second]);
        let found = [recorded(&first, &one), candidate(&second, &second.to_json())];
        let error = network.choose(None, &found).await.unwrap_err();
        assert_eq!(error.kind(), crate::node::ErrorKind::Ambiguous, "{error}");
        let wanted = other.public().to_string();
        let (chosen, _) = network.choose(Some(&wanted), &found).await.unwrap();
        assert_eq!(chosen, second);
    }

    #[tokio::test]
    async fn an_unreachable_publisher_keeps_the_name() {
        let (owner, stranger) = (key(), key());
        let (first, second) = (of_bytes("a/b", &owner, 1), of_bytes("a/b", &stranger, 2));
        let network = TestNetwork::new(&[&second]);
        let name = &network.model.name;
        let found = [recorded(&first, &owner), recorded(&second, &stranger)];
        network.trust.accept(name, Some(owner.public()), Pinning::Pin).unwrap();
        let error = network.choose(None, &found).await.unwrap_err();
        assert!(matches!(error, NodeError::Catalog(CatalogError::NoManifest { .. })), "{error}");
        let error = network.choose(None, &found[1..]).await.unwrap_err();
        assert_eq!(error.kind(), crate::node::ErrorKind::OtherPublisher, "{error}");
        let (_, pinning) = TestNetwork::new(&[&second]).choose(None, &found[1..]).await.unwrap();
        assert_eq!(pinning, Pinning::Pin);
    }

    #[tokio::test]
    async fn a_new_key_of_the_owner_is_awaited() {
        let (former, present, stranger) = (key(), key(), key());
        let manifest = signed("a/b", &present);
        let mut network = TestNetwork::new(&[&manifest]);
        network.trust.accept(&network.model.name, Some(former.public()), Pinning::Pin).unwrap();
        let found = [recorded(&manifest, &present)];
        for succession in [None, Some((stranger.public(), present.public()))] {
            network.succession = succession;
            let error = network.choose(None, &found).await.unwrap_err();
            assert_eq!(error.kind(), crate::node::ErrorKind::OtherPublisher, "{error}");
        }
        network.succession = Some((former.public(), present.public()));
        assert_eq!(network.choose(None, &found).await.unwrap().0, manifest);
        assert_eq!(network.trust.pinned(&network.model.name).unwrap(), Some(present.public()));
    }

    #[tokio::test]
    async fn the_newest_usable_record_is_chosen() {
        let publisher = key();
        let (old, new) = (of_bytes("a/b", &publisher, 1), of_bytes("a/b", &publisher, 2));
        let claimed = candidate(&old, &old.to_json());
        let found = [claimed, recorded(&new, &publisher)];
        assert_eq!(TestNetwork::new(&[&old, &new]).choose(None, &found).await.unwrap().0, new);
        assert_eq!(TestNetwork::new(&[&old]).choose(None, &found).await.unwrap().0, old);
    }

    #[tokio::test]
    async fn the_newest_of_several_claims_is_chosen() {
        let publisher = key();
        let made = |bytes: u8, time: &str| {
            let mut manifest = of_bytes("a/b", &publisher, bytes);
            manifest.created_at = Some(time.to_owned());
            manifest.sign(&publisher);
            manifest
        };
        let (old, new) = (made(1, "2020-01-01T00:00:00Z"), made(2, "2020-01-02T00:00:00Z"));
        let network = TestNetwork::new(&[&old, &new]);
        let claims = [&old, &new].map(|manifest| candidate(manifest, &manifest.to_json()));
        for found in [claims.clone(), [claims[1].clone(), claims[0].clone()]] {
            assert_eq!(network.choose(None, &found).await.unwrap().0, new);
            let until = Instant::now() + Duration::from_secs(10);
            let by = of_publisher(&network.model, publisher.public(), found.to_vec(), &network, until).await;
            assert_eq!(by.unwrap().manifest, new);
        }
    }

    #[tokio::test]
    async fn an_older_state_does_not_pass_the_name_on() {
        let (owner, stranger) = (key(), key());
        let (old, theirs) = (of_bytes("a/b", &owner, 1), of_bytes("a/b", &stranger, 2));
        let mut network = TestNetwork::new(&[&old, &theirs]);
        network.older = Some(candidate(&old, &old.to_json()).manifest);
        // Listed, so that the owner is chosen before the stranger.
        network.trust.add(owner.public(), None, &[]).unwrap();
        let found = [recorded(&old, &owner), recorded(&theirs, &stranger)];
        let error = network.choose(None, &found).await.unwrap_err();
        assert_eq!(error.kind(), crate::node::ErrorKind::Older, "{error}");
    }

    #[test]
    fn number_of_checked_claims_is_bounded() {
        let manifest = signed("a/b", &key());
        let claim = candidate(&manifest, &manifest.to_json());
        let signer = key();
        let mut found = vec![claim; 3 * MAX_CLAIMS];
        found.push(recorded(&signed("a/b", &signer), &signer));
        let offers = offers(found);
        assert_eq!(offers.len(), MAX_CLAIMS + 1);
        assert!(offers[0].is_signed());
    }
}
