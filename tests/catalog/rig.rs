//! Nodes with a catalog each on a network in memory, and hosts whose messages a test writes.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use silmaril::catalog::message::Message;
use silmaril::catalog::record::SharedRecord;
use silmaril::catalog::{
    Candidate, Catalog, CatalogSettings, CatalogStore, FoundModel, HeldModel, Holdings, ModelRecord, Record,
    RecordBody, SearchPatience, SignedRecord, UnixTime,
};
use silmaril::model::keys::PublisherKeypair;
use silmaril::model::{InfoHash, ModelName, ModelRef, PublisherKey, Sha256Digest};
use silmaril::torrent::{GivenPeers, Meeting, Overlay, OverlayEvent, PeerId, Topic, TorrentId};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::clock::pass;
use crate::support::overlay::{Network, Node};

/// The wall clock's time when a test begins.
pub const EPOCH: UnixTime = 1_800_000_000;

/// How long tests wait, by tokio's stopped clock.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The models of a node.
#[derive(Default)]
pub struct Held(Mutex<Vec<(HeldModel, Arc<[u8]>)>>);

impl Holdings for Held {
    fn of_name(&self, name: &ModelName) -> Vec<HeldModel> {
        let held = self.0.lock().unwrap();
        let models = held.iter().map(|(held, _)| held);
        models.filter(|held| held.model.name == *name).cloned().collect()
    }

    fn manifest(&self, digest: &Sha256Digest) -> Option<Arc<[u8]>> {
        let held = self.0.lock().unwrap();
        held.iter().find(|(held, _)| held.digest == *digest).map(|(_, json)| Arc::clone(json))
    }

    fn names(&self) -> Vec<ModelName> {
        self.0.lock().unwrap().iter().map(|(held, _)| held.model.name.clone()).collect()
    }

    fn is_complete(&self, info_hash: &InfoHash) -> bool {
        self.0.lock().unwrap().iter().any(|(held, _)| held.info_hash == *info_hash && held.complete)
    }

    fn kept(&self) -> Arc<HashSet<PublisherKey>> {
        Arc::default()
    }
}

/// Starts nodes of one network with one clock.
pub struct World {
    pub network: Network,
    clock: Arc<dyn Fn() -> UnixTime + Send + Sync>,
    ahead: Arc<AtomicU64>,
}

/// A node.
pub struct Member {
    pub catalog: Arc<Catalog>,
    pub engine: Arc<Node>,
    pub store: Arc<CatalogStore>,
    pub held: Arc<Held>,
    network: Network,
    _dir: TempDir,
}

impl World {
    pub fn new(network: Network) -> Self {
        let (begun, ahead) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let set = Arc::clone(&ahead);
        let clock = Arc::new(move || EPOCH + begun.elapsed().as_secs() + set.load(Ordering::Relaxed));
        Self { network, clock, ahead }
    }

    /// Sets the wall clock forward, by which records expire.
    pub fn set_forward(&self, seconds: u64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }

    pub fn now(&self) -> UnixTime {
        (self.clock)()
    }

    /// Starts a node with these given peers.
    pub fn member(&self, peers: &[SocketAddr]) -> Member {
        self.member_with(CatalogSettings { dht: true, peers: GivenPeers::of(peers.iter().copied()) })
    }

    pub fn member_with(&self, settings: CatalogSettings) -> Member {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(CatalogStore::open(dir.path(), self.now()).unwrap());
        let (engine, mut events) = self.network.host();
        let held = Arc::new(Held::default());
        let catalog = Catalog::start_at(
            Arc::clone(&engine) as Arc<dyn Overlay>,
            Arc::clone(&store),
            Arc::clone(&held) as Arc<dyn Holdings>,
            settings,
            Arc::clone(&self.clock),
        );
        let hearing = Arc::downgrade(&catalog);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Some(catalog) = hearing.upgrade() else { return };
                catalog.handle(event);
            }
        });
        Member { catalog, engine, store, held, network: self.network.clone(), _dir: dir }
    }

    pub fn members(&self, count: usize) -> Vec<Member> {
        (0..count).map(|_| self.member(&[])).collect()
    }

    /// Starts a host in the catalog's swarm whose messages the test writes.
    pub fn stranger(&self) -> Stranger {
        let (engine, events) = self.network.host();
        let swarm = engine.meet(catalog_swarm(), &[]).unwrap();
        Stranger { engine, events, swarm }
    }
}

/// The catalog's swarm.
pub fn catalog_swarm() -> Meeting {
    Meeting::Topic(Topic::of("silmaril:catalog:1"))
}

impl Member {
    /// Shares a model: holds it, and publishes its record.
    pub async fn share(&self, model: &Model) {
        self.hold(model);
        self.catalog.publish(model.record.clone(), true).await.unwrap();
        self.catalog.holdings_changed();
    }

    /// Stores a model's record without spreading it.
    pub fn learn(&self, model: &Model) {
        self.store.insert(std::slice::from_ref(&model.record), EPOCH, &|_| false).unwrap();
    }

    /// Holds a model.
    pub fn hold(&self, model: &Model) {
        self.held.0.lock().unwrap().push((model.held(), Arc::clone(&model.manifest)));
    }

    /// Holds a manifest under a wrong digest.
    pub fn hold_falsely(&self, held: HeldModel, manifest: Arc<[u8]>) {
        self.held.0.lock().unwrap().push((held, manifest));
    }

    /// Removes all models.
    pub fn hold_nothing(&self) {
        self.held.0.lock().unwrap().clear();
        self.catalog.holdings_changed();
    }

    /// The number of messages that the node has sent.
    pub fn engine_messages(&self) -> usize {
        self.engine_sent().len()
    }

    /// The lengths of the messages that the node has sent.
    pub fn engine_sent(&self) -> Vec<usize> {
        self.network.sent_by(&self.engine)
    }

    /// Disappears without closing its connections.
    pub fn vanish(&self) {
        self.catalog.stop();
        self.network.cut_off(&self.engine);
    }

    pub async fn knows(&self, records: usize) {
        within(PATIENCE, || self.store.len() >= records).await;
        assert_eq!(self.store.len(), records);
    }

    pub async fn resolve(&self, model: &ModelRef, seconds: u64) -> Vec<Candidate> {
        self.catalog
            .resolve(model, Duration::from_secs(seconds), SearchPatience::All)
            .await
            .unwrap_or_default()
    }

    pub async fn discover(&self, query: &str) -> BTreeMap<String, FoundModel> {
        let mut found = BTreeMap::new();
        self.catalog
            .discover(&query.parse().unwrap(), Duration::from_secs(15), |result| {
                let model = result.record.model().unwrap().model_ref();
                found.insert(format!("{model} {}", result.record.record().publisher), result.clone());
            })
            .await
            .unwrap();
        found
    }
}

/// Waits until a condition holds, on tokio's clock.
pub async fn within(time: Duration, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + time;
    while !holds() {
        assert!(Instant::now() < deadline, "the condition did not hold within {time:?}");
        pass(Duration::from_millis(50)).await;
    }
}

/// Keys for tests: making a key takes a while in a debug build.
static KEYS: LazyLock<Vec<PublisherKeypair>> =
    LazyLock::new(|| (0..8).map(|_| PublisherKeypair::generate().unwrap()).collect());

pub fn key(index: usize) -> &'static PublisherKeypair {
    &KEYS[index]
}

/// A model with the parts of its manifest that the catalog uses: the bytes and their digest.
#[derive(Clone)]
pub struct Model {
    pub record: SharedRecord,
    pub manifest: Arc<[u8]>,
}

impl Model {
    /// The first version of a model, signed when a test begins.
    pub fn new(key: &PublisherKeypair, name: &str) -> Self {
        Self::signed(key, name, 1, EPOCH)
    }

    pub fn signed(key: &PublisherKeypair, name: &str, sequence: i64, time: UnixTime) -> Self {
        let manifest = format!(r#"{{"of":"{name}","by":"{}","no":{sequence}}}"#, key.public());
        Self::with_manifest(key, name, sequence, time, manifest.into_bytes())
    }

    pub fn with_manifest(
        key: &PublisherKeypair,
        name: &str,
        sequence: i64,
        time: UnixTime,
        manifest: Vec<u8>,
    ) -> Self {
        let digest = Sha256Digest(Sha256::digest(&manifest).into());
        let model: ModelRef = name.parse().unwrap();
        let announced = ModelRecord {
            name: model.name,
            version: model.revision,
            info_hash: InfoHash(Sha256::digest(digest.0).into()),
            manifest: digest,
            manifest_len: manifest.len() as u32,
            size: 1_000_000,
            files: 3,
            license: Some("mit".to_owned()),
            tags: vec!["text-generation".to_owned()],
        };
        Self { record: sign(key, sequence, time, announced), manifest: manifest.into() }
    }

    pub fn model_ref(&self) -> ModelRef {
        self.record.model().unwrap().model_ref()
    }

    pub fn held(&self) -> HeldModel {
        let announced = self.record.model().unwrap();
        HeldModel {
            model: announced.model_ref(),
            publisher: self.record.record().publisher,
            info_hash: announced.info_hash,
            manifest_len: self.manifest.len() as u32,
            digest: announced.manifest,
            complete: true,
        }
    }

    pub fn candidate(&self) -> Candidate {
        Candidate::of_record(&self.record).unwrap()
    }
}

pub fn sign(key: &PublisherKeypair, sequence: i64, time: UnixTime, model: ModelRecord) -> SharedRecord {
    let record = Record { publisher: key.public(), sequence, time, body: RecordBody::Model(model) };
    Arc::new(SignedRecord::sign(record, key).unwrap())
}

/// Records of one publisher, numbered from 1.
pub fn records(key: &PublisherKeypair, count: usize) -> Vec<SharedRecord> {
    (1..=count)
        .map(|n| Model::signed(key, &format!("org{}/model{n}", n % 7), n as i64, EPOCH).record)
        .collect()
}

/// A host whose messages the test writes.
pub struct Stranger {
    pub engine: Arc<Node>,
    events: mpsc::UnboundedReceiver<OverlayEvent>,
    pub swarm: TorrentId,
}

impl Stranger {
    /// The next event.
    pub async fn next(&mut self) -> OverlayEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event").unwrap()
    }

    /// The next message and its sender.
    pub async fn receive(&mut self) -> (PeerId, Message) {
        loop {
            if let OverlayEvent::Received(peer, bytes) = self.next().await {
                return (peer, Message::decode(&bytes).unwrap().unwrap());
            }
        }
    }

    /// The next message that `interest` accepts.
    pub async fn receive_matching<T>(&mut self, interest: impl Fn(PeerId, Message) -> Option<T>) -> T {
        loop {
            let (peer, message) = self.receive().await;
            if let Some(found) = interest(peer, message) {
                return found;
            }
        }
    }

    /// Waits for a hello, and answers as a node with this many records.
    pub async fn greet(&mut self, records: u32) -> PeerId {
        let peer = self
            .receive_matching(|peer, message| matches!(message, Message::Hello { .. }).then_some(peer))
            .await;
        self.send(peer, &Message::Hello { version: 1, node: node_id(&self.engine), records });
        peer
    }

    pub fn send(&self, peer: PeerId, message: &Message) {
        self.engine.send(peer, &message.encode()).unwrap();
    }

    /// Waits until the peer closes the connection.
    pub async fn wait_until_left(&mut self, by: PeerId) {
        while self.next().await != OverlayEvent::Left(by) {}
    }

    /// Answers all messages from now on.
    pub fn answers(mut self, mut with: impl FnMut(Message) -> Vec<Message> + Send + 'static) {
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                let OverlayEvent::Received(peer, bytes) = event else { continue };
                let Ok(Some(message)) = Message::decode(&bytes) else { continue };
                if let Message::Hello { .. } = message {
                    let hello = Message::Hello { version: 1, node: node_id(&self.engine), records: 0 };
                    self.send(peer, &hello);
                }
                for answer in with(message) {
                    self.send(peer, &answer);
                }
            }
        });
    }
}

fn node_id(engine: &Node) -> [u8; 20] {
    Topic::of(&engine.address().to_string()).0
}
