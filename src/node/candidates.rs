//! Whose model a name stands for, among candidates of which some may lie.
//!
//! A candidate counts by its signature alone: a record is signed itself; what a peer merely says to hold counts once its
//! manifest has come and carries the signature.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{NodeError, chain};
use crate::catalog::record::SharedRecord;
use crate::catalog::{Candidate, CatalogError};
use crate::model::{InfoHash, Manifest, ModelRef, PublisherKey};
use crate::trust::Trust;
use crate::trust::{Pinning, TrustError};

/// As many candidates without a record are looked at; whoever lies can invent any number.
const MAX_CLAIMS: usize = 16;

/// A candidate, and its manifest once that was checked.
struct Offer {
    candidate: Candidate,
    checked: Option<Manifest>,
}

impl Offer {
    /// Whether a signature vouches for it.
    fn is_signed(&self) -> bool {
        self.candidate.record.is_some() || self.checked.is_some()
    }

    fn sequence(&self) -> i64 {
        self.candidate.record.as_ref().map_or(i64::MIN, |record| record.record().sequence)
    }

    /// Orders what one publisher offers, the newest last: by the records, then by the signed times of manifests.
    fn age(&self) -> (i64, Option<jiff::Timestamp>) {
        let made = self.checked.as_ref().and_then(|manifest| manifest.created_at.as_ref());
        (self.sequence(), made.and_then(|time| time.parse().ok()))
    }
}

/// How long anybody may take to say that a name's owner has replaced their key, before somebody else is refused it.
const SUCCEEDED_WITHIN: Duration = Duration::from_secs(4);

/// Who can be asked: the network.
pub(super) trait Askable: Sync {
    /// Fetches and checks a candidate's manifest within a time.
    fn fetch(
        &self,
        candidate: &Candidate,
        within: Duration,
    ) -> impl Future<Output = Result<Manifest, NodeError>> + Send;

    /// Whether it is said within a time that a publisher has replaced their key. The trust knows it then.
    fn succeeded(&self, owner: PublisherKey, within: Duration) -> impl Future<Output = bool> + Send;
}

/// What was chosen.
#[derive(Debug)]
pub(super) struct Settled {
    /// The manifest, checked.
    pub manifest: Manifest,
    /// Whether it pins its publisher.
    pub pinning: Pinning,
    /// What announced it; none where a peer handed it over.
    pub record: Option<SharedRecord>,
}

/// Chooses by the trust.
pub(super) async fn settle(
    trust: &Trust,
    model: &ModelRef,
    wanted: Option<&str>,
    found: Vec<Candidate>,
    network: &impl Askable,
    until: Instant,
) -> Result<Settled, NodeError> {
    let left = || until.saturating_duration_since(Instant::now());
    let mut offers = offers(found);
    let mut heard = false;
    let mut failure: NodeError = CatalogError::NotFound(model.clone()).into();
    while !offers.is_empty() {
        let known: Vec<(PublisherKey, InfoHash)> =
            offers.iter().map(|offer| (offer.candidate.publisher, offer.candidate.info_hash)).collect();
        let choice = match trust.choose(&model.name, &known, wanted) {
            Ok(choice) => choice,
            // Somebody who only says something may be what the others are weighed against.
            Err(_) if offers.iter().any(|offer| !offer.is_signed()) => {
                // Somebody else's manifest may be left to fetch after these; above all one that is announced.
                let announced = offers.iter().any(Offer::is_signed);
                let within = if announced { left() / 4 } else { left() / 2 };
                failure = check_claims(&mut offers, network, within).await.unwrap_or(failure);
                continue;
            }
            // Who was just met may not have told yet that it is the owner by another key.
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
        // Which of several claims is the newest, their manifests tell.
        if claims.clone().count() > 1 && claims.clone().any(|offer| !offer.is_signed()) {
            failure = check_claims(&mut offers, network, left() / 2).await.unwrap_or(failure);
            continue;
        }
        let Some(chosen) = newest(&offers, theirs) else { break };
        let Offer { candidate, checked } = offers.remove(chosen);
        let others = offers.iter().any(|offer| offer.candidate.publisher == choice.publisher);
        let checked = match checked {
            Some(manifest) => Ok(manifest),
            None => network.fetch(&candidate, if offers.is_empty() { left() } else { left() / 2 }).await,
        };
        match checked {
            Ok(manifest) => {
                return Ok(Settled { manifest, pinning: choice.pinning, record: candidate.record });
            }
            // The name stays theirs who announced it: that nobody hands out their manifest makes it no one else's.
            Err(e @ NodeError::Catalog(_)) if candidate.record.is_some() && !others => return Err(e),
            // Nor does an older state of theirs.
            Err(e @ NodeError::Older { .. }) if !others => return Err(e),
            Err(e) => {
                tracing::info!("a candidate for {model} is of no use: {}", chain(&e));
                failure = e;
            }
        }
    }
    Err(failure)
}

/// The newest acceptable manifest of one publisher among candidates, for a path that names the publisher. `found` may
/// hold candidates of others.
pub(super) async fn of_publisher(
    model: &ModelRef,
    publisher: PublisherKey,
    found: Vec<Candidate>,
    network: &impl Askable,
    until: Instant,
) -> Result<Settled, NodeError> {
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
                return Ok(Settled { manifest, pinning: Pinning::Leave, record: candidate.record });
            }
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

/// The newest of the offers that are `wanted`.
fn newest(offers: &[Offer], wanted: impl Fn(&Offer) -> bool) -> Option<usize> {
    // Of equal ones the first.
    let all = offers.iter().enumerate().rev().filter(|(_, offer)| wanted(offer));
    all.max_by_key(|(_, offer)| offer.age()).map(|(at, _)| at)
}

/// The newest records first, then what is merely said, of which there are not more than a bound.
fn offers(found: Vec<Candidate>) -> Vec<Offer> {
    let (recorded, claimed): (Vec<_>, Vec<_>) = found.into_iter().partition(|c| c.record.is_some());
    let all = recorded.into_iter().chain(claimed.into_iter().take(MAX_CLAIMS));
    let mut offers: Vec<Offer> = all.map(|candidate| Offer { candidate, checked: None }).collect();
    offers.sort_by_key(|offer| std::cmp::Reverse(offer.sequence()));
    offers
}

/// Fetches the manifests of those that have no record, all at once, and drops those that are not what was said.
/// Returns why the last of them was dropped.
async fn check_claims(
    offers: &mut Vec<Offer>,
    network: &impl Askable,
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

/// Reads a manifest that is to be a candidate's; what is wrong with it goes on from "the manifest of …".
pub(super) fn check(model: &ModelRef, candidate: &Candidate, json: &[u8]) -> Result<Manifest, String> {
    if candidate.manifest.0 != <[u8; 32]>::from(Sha256::digest(json)) {
        return Err("is another than announced".to_owned());
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
    use crate::config::TrustPolicy;
    use crate::keys::PublisherKeypair;
    use crate::model::{FileEntry, PiecesRoot, Sha256Digest};
    use crate::paths::Paths;
    use crate::trust::Standing;

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
    fn a_manifest_must_be_all_that_was_announced() {
        let (key, other) = (PublisherKeypair::generate().unwrap(), PublisherKeypair::generate().unwrap());
        let model: ModelRef = "a/b@v1".parse().unwrap();
        let manifest = signed("a/b@v1", &key);
        let json = manifest.to_json();
        let honest = candidate(&manifest, &json);
        assert_eq!(check(&model, &honest, &json).unwrap(), manifest);

        let lies = [
            (Candidate { manifest: Sha256Digest([0; 32]), ..honest.clone() }, "another than announced"),
            (Candidate { publisher: other.public(), ..honest.clone() }, "not signed by them"),
            (Candidate { info_hash: InfoHash([1; 32]), ..honest.clone() }, "has the torrent"),
        ];
        for (lie, said) in lies {
            let error = check(&model, &lie, &json).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        for elsewhere in ["a/b", "a/b@v2", "a/c@v1"] {
            let manifest = signed(elsewhere, &key);
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

    /// The trust of a fresh base directory, and what hands out manifests: these, and nothing else.
    struct Network {
        _dir: tempfile::TempDir,
        trust: Trust,
        model: ModelRef,
        held: HashMap<Sha256Digest, Vec<u8>>,
        /// What is said of a key after a while, and nobody knows before.
        succession: Option<(PublisherKey, PublisherKey)>,
        /// A manifest whose state is older than the known one.
        older: Option<Sha256Digest>,
    }

    impl Network {
        fn new(held: &[&Manifest]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::below(dir.path());
            paths.create().unwrap();
            let digest = |json: &[u8]| Sha256Digest(Sha256::digest(json).into());
            let held = held.iter().map(|m| m.to_json()).map(|json| (digest(&json), json)).collect();
            let trust = Trust::open(&paths, TrustPolicy::Tofu);
            Self { _dir: dir, trust, model: "a/b".parse().unwrap(), held, succession: None, older: None }
        }

        async fn settle(
            &self,
            wanted: Option<&str>,
            found: &[Candidate],
        ) -> Result<(Manifest, Pinning), NodeError> {
            let until = Instant::now() + Duration::from_secs(10);
            let settled = settle(&self.trust, &self.model, wanted, found.to_vec(), self, until).await?;
            Ok((settled.manifest, settled.pinning))
        }
    }

    impl Askable for Network {
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
    async fn lies_do_not_stand_in_the_way_of_the_truth() {
        let (honest, liar) = (key(), key());
        let manifest = signed("a/b", &honest);
        let network = Network::new(&[&manifest]);
        let truth = recorded(&manifest, &honest);
        // Claims of manifests that nobody has, that are another's, that belong to another torrent.
        let invented = Candidate {
            publisher: liar.public(),
            manifest: Sha256Digest([9; 32]),
            info_hash: InfoHash([9; 32]),
            record: None,
            ..truth.clone()
        };
        let stolen = Candidate { manifest: truth.manifest, ..invented.clone() };
        let found = [invented.clone(), stolen, truth.clone(), invented.clone()];
        assert_eq!(network.settle(None, &found).await.unwrap().0, manifest);
        // Nobody but the liar is there.
        assert!(matches!(network.settle(None, &[invented]).await, Err(NodeError::Catalog(_))));
        assert_eq!(network.trust.standing(&network.model.name, Some(&liar.public())), Standing::Unknown);
    }

    #[tokio::test]
    async fn a_claim_whose_manifest_is_signed_counts_as_much_as_a_record() {
        let (one, other) = (key(), key());
        let (first, second) = (of_bytes("a/b", &one, 1), of_bytes("a/b", &other, 2));
        let network = Network::new(&[&first, &second]);
        let found = [recorded(&first, &one), candidate(&second, &second.to_json())];
        let error = network.settle(None, &found).await.unwrap_err();
        assert_eq!(error.kind(), crate::node::ErrorKind::Ambiguous, "{error}");
        let wanted = other.public().to_string();
        let (chosen, _) = network.settle(Some(&wanted), &found).await.unwrap();
        assert_eq!(chosen, second);
    }

    #[tokio::test]
    async fn a_name_goes_to_no_stranger_because_its_publisher_cannot_be_reached() {
        let (owner, stranger) = (key(), key());
        let (first, second) = (of_bytes("a/b", &owner, 1), of_bytes("a/b", &stranger, 2));
        let network = Network::new(&[&second]);
        let name = &network.model.name;
        let found = [recorded(&first, &owner), recorded(&second, &stranger)];
        network.trust.accept(name, Some(owner.public()), Pinning::Pin).unwrap();
        let error = network.settle(None, &found).await.unwrap_err();
        assert!(matches!(error, NodeError::Catalog(CatalogError::NoManifest { .. })), "{error}");
        let error = network.settle(None, &found[1..]).await.unwrap_err();
        assert_eq!(error.kind(), crate::node::ErrorKind::OtherPublisher, "{error}");
        let (_, pinning) = Network::new(&[&second]).settle(None, &found[1..]).await.unwrap();
        assert_eq!(pinning, Pinning::Pin);
    }

    #[tokio::test]
    async fn an_owner_whose_new_key_is_not_known_yet_is_waited_for_and_a_stranger_is_not() {
        let (former, present, stranger) = (key(), key(), key());
        let manifest = signed("a/b", &present);
        let mut network = Network::new(&[&manifest]);
        network.trust.accept(&network.model.name, Some(former.public()), Pinning::Pin).unwrap();
        let found = [recorded(&manifest, &present)];
        for said in [None, Some((stranger.public(), present.public()))] {
            network.succession = said;
            let error = network.settle(None, &found).await.unwrap_err();
            assert_eq!(error.kind(), crate::node::ErrorKind::OtherPublisher, "{error}");
        }
        network.succession = Some((former.public(), present.public()));
        assert_eq!(network.settle(None, &found).await.unwrap().0, manifest);
        assert_eq!(network.trust.pinned(&network.model.name).unwrap(), Some(present.public()));
    }

    #[tokio::test]
    async fn the_newest_record_is_taken_and_an_older_one_where_that_is_of_no_use() {
        let publisher = key();
        let (old, new) = (of_bytes("a/b", &publisher, 1), of_bytes("a/b", &publisher, 2));
        let claimed = candidate(&old, &old.to_json());
        let found = [claimed, recorded(&new, &publisher)];
        assert_eq!(Network::new(&[&old, &new]).settle(None, &found).await.unwrap().0, new);
        assert_eq!(Network::new(&[&old]).settle(None, &found).await.unwrap().0, old);
    }

    #[tokio::test]
    async fn the_newest_of_several_claims_is_taken() {
        let publisher = key();
        let made = |bytes: u8, time: &str| {
            let mut manifest = of_bytes("a/b", &publisher, bytes);
            manifest.created_at = Some(time.to_owned());
            manifest.sign(&publisher);
            manifest
        };
        let (old, new) = (made(1, "2020-01-01T00:00:00Z"), made(2, "2020-01-02T00:00:00Z"));
        let network = Network::new(&[&old, &new]);
        let claims = [&old, &new].map(|manifest| candidate(manifest, &manifest.to_json()));
        for found in [claims.clone(), [claims[1].clone(), claims[0].clone()]] {
            assert_eq!(network.settle(None, &found).await.unwrap().0, new);
            let until = Instant::now() + Duration::from_secs(10);
            let by = of_publisher(&network.model, publisher.public(), found.to_vec(), &network, until).await;
            assert_eq!(by.unwrap().manifest, new);
        }
    }

    #[tokio::test]
    async fn an_older_state_of_a_publisher_makes_way_for_no_stranger() {
        let (owner, stranger) = (key(), key());
        let (old, theirs) = (of_bytes("a/b", &owner, 1), of_bytes("a/b", &stranger, 2));
        let mut network = Network::new(&[&old, &theirs]);
        network.older = Some(candidate(&old, &old.to_json()).manifest);
        // Listed, so that the owner is chosen before the stranger.
        network.trust.add(owner.public(), None, &[]).unwrap();
        let found = [recorded(&old, &owner), recorded(&theirs, &stranger)];
        let error = network.settle(None, &found).await.unwrap_err();
        assert_eq!(error.kind(), crate::node::ErrorKind::Older, "{error}");
    }

    #[test]
    fn whoever_says_much_is_not_asked_for_all_of_it() {
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
