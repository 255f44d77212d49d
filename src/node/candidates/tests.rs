use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::catalog::record::{Record, SignedRecord};
use crate::config::TrustPolicy;
use crate::model::keys::PublisherKeypair;
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
    hub: TestHub,
}

/// A hub that knows the files of some manifests.
#[derive(Default)]
struct TestHub {
    is_reached: bool,
    /// By the info hash: whether the hub lists its files.
    lists: HashMap<InfoHash, bool>,
}

impl Judge for TestHub {
    fn is_able(&self) -> bool {
        self.is_reached
    }

    fn refuted(&self, _: &Candidate) -> Option<NodeError> {
        None
    }

    async fn judge(&self, manifests: &[&Manifest], _: Instant) -> Vec<Opinion> {
        let opinion = |manifest: &&Manifest| match self.lists.get(&manifest.torrent.info_hash) {
            Some(true) if self.is_reached => Opinion::Best { is_shared: false },
            Some(false) if self.is_reached => {
                Opinion::Refuted(Box::new(NodeError::refuted(manifest.model_ref(), "p", "w.bin differs")))
            }
            _ => Opinion::Unknown,
        };
        manifests.iter().map(opinion).collect()
    }
}

impl TestNetwork {
    fn new(held: &[&Manifest]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        paths.create().unwrap();
        let digest = |json: &[u8]| Sha256Digest(Sha256::digest(json).into());
        let held = held.iter().map(|m| m.to_json()).map(|json| (digest(&json), json)).collect();
        let trust = Trust::open(&paths, TrustPolicy::Tofu);
        Self {
            _dir: dir,
            trust,
            model: "a/b".parse().unwrap(),
            held,
            succession: None,
            older: None,
            hub: TestHub::default(),
        }
    }

    async fn choose(
        &self,
        wanted: Option<&str>,
        found: &[Candidate],
    ) -> Result<(Manifest, Pinning), NodeError> {
        let until = Instant::now() + Duration::from_secs(10);
        let settled =
            choose(&self.trust, &self.model, wanted, found.to_vec(), self, &self.hub, until).await?;
        Ok((settled.manifest, settled.pinning))
    }
}

impl ManifestFetcher for TestNetwork {
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

#[tokio::test]
async fn hub_decides_between_two_strangers_while_it_is_reached() {
    let (one, other) = (key(), key());
    let (right, wrong) = (of_bytes("a/b", &one, 1), of_bytes("a/b", &other, 2));
    let mut network = TestNetwork::new(&[&right, &wrong]);
    network.hub.lists = HashMap::from([(right.torrent.info_hash, true), (wrong.torrent.info_hash, false)]);
    let found = [recorded(&right, &one), recorded(&wrong, &other)];
    let error = network.choose(None, &found).await.unwrap_err();
    assert_eq!(error.kind(), crate::node::ErrorKind::Ambiguous, "{error}");
    network.hub.is_reached = true;
    assert_eq!(network.choose(None, &found).await.unwrap(), (right.clone(), Pinning::Pin));
    // A confirmed manifest is preferred to one about which the hub knows nothing.
    network.hub.lists.remove(&wrong.torrent.info_hash);
    assert_eq!(network.choose(None, &found).await.unwrap().0, right);
    network.hub.lists.clear();
    let error = network.choose(None, &found).await.unwrap_err();
    assert_eq!(error.kind(), crate::node::ErrorKind::Ambiguous, "{error}");
}

#[tokio::test]
async fn manifest_of_a_lone_stranger_that_contradicts_the_hub_is_refused() {
    let stranger = key();
    let wrong = of_bytes("a/b", &stranger, 2);
    let mut network = TestNetwork::new(&[&wrong]);
    network.hub = TestHub { is_reached: true, lists: HashMap::from([(wrong.torrent.info_hash, false)]) };
    let found = [recorded(&wrong, &stranger)];
    let error = network.choose(None, &found).await.unwrap_err();
    assert_eq!(error.kind(), crate::node::ErrorKind::Refuted, "{error}");
    assert!(error.to_string().contains("w.bin differs"), "{error}");
    // The choice of the user is above the witness.
    let wanted = stranger.public().to_string();
    assert_eq!(network.choose(Some(&wanted), &found).await.unwrap().0, wrong);
    network.trust.add(stranger.public(), None, &[]).unwrap();
    assert_eq!(network.choose(None, &found).await.unwrap().0, wrong);
}

#[tokio::test]
async fn unreachable_manifest_does_not_lose_to_one_that_the_hub_does_not_confirm() {
    let (one, other) = (key(), key());
    let (known, absent) = (of_bytes("a/b", &one, 1), of_bytes("a/b", &other, 2));
    let mut network = TestNetwork::new(&[&known]);
    network.hub.is_reached = true;
    let found = [recorded(&known, &one), recorded(&absent, &other)];
    let error = network.choose(None, &found).await.unwrap_err();
    assert_eq!(error.kind(), crate::node::ErrorKind::Ambiguous, "{error}");
    network.hub.lists.insert(known.torrent.info_hash, true);
    assert_eq!(network.choose(None, &found).await.unwrap().0, known);
}
