//! Hostile hosts: members of the catalog's swarm that send wrong answers, too many messages, forged records or
//! nothing.
//!
//! Each one runs the real engine on a host of its own, because its victims mute its address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use silmaril::catalog::message::{Have, HeldManifest, MANIFEST_PART, Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::record::SharedRecord;
use silmaril::catalog::{ModelRecord, Record, RecordBody, SignedRecord};
use silmaril::model::keys::PublisherKeypair;
use silmaril::model::{InfoHash, ModelName, ModelRef, PublisherKey, Sha256Digest};
use silmaril::torrent::overlay::MAX_MESSAGE;
use silmaril::torrent::{Event, Meeting, Overlay, OverlayEvent, PeerId, Session, SessionSettings, Topic};

use super::fixtures::noise;
use super::host::Host;
use super::private_net::in_namespace;

/// The attack of a hostile host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Sends records whose signatures belong to other records.
    Forge,
    /// Sends bytes that are no message.
    Garbage,
    /// Sends tens of thousands of valid records of one key.
    FloodOfOne,
    /// Sends valid records, each of a new key.
    FloodOfMany,
    /// Repeatedly announces the name of another publisher's model with new keys.
    Squat,
    /// Sends records with timestamps in the future and in the distant past.
    Untimely,
    /// Sends wrong answers to all questions, and answers each digest with a longer one.
    Lie,
    /// Claims to have all records, and never answers.
    Silence,
    /// Sends requests without end, and reads no answer.
    Ask,
}

pub const ALL: [Attack; 9] = [
    Attack::Forge,
    Attack::Garbage,
    Attack::FloodOfOne,
    Attack::FloodOfMany,
    Attack::Squat,
    Attack::Untimely,
    Attack::Lie,
    Attack::Silence,
    Attack::Ask,
];

/// A running hostile host. Dropping it ends the attack.
pub struct Hostile {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    /// Makes a host attack these peers. `name` is the name that the attack announces, if it announces one.
    pub fn on(host: &Host, attack: Attack, peers: &[SocketAddr], name: &str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (namespace, peers, address) = (host.namespace().to_owned(), peers.to_vec(), host.addr());
        let name: ModelName = name.parse().unwrap();
        let (stopping, counting) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            in_namespace(&namespace, move || {
                let mut network =
                    silmaril::config::Config::defaults(std::path::Path::new("/nonexistent")).network;
                network.listen_address = Some(address.into());
                network.dht_bootstrap_nodes.clear();
                (network.dht_enabled, network.port_mapping) = (false, false);
                attack_with(SessionSettings::from(&network), attack, &peers, name, &stopping, &counting);
            });
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The number of messages that are sent to a peer in one burst.
const BURST: u64 = 50;
/// The pause between two bursts, in which answers are read. Both are chosen for the highest rate of messages.
const LISTEN: Duration = Duration::from_millis(10);

fn attack_with(
    settings: SessionSettings,
    attack: Attack,
    peers: &[SocketAddr],
    name: ModelName,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let session = Session::start(settings, sender).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let swarm = session.meet(Meeting::Topic(Topic::of("silmaril:catalog:1")), peers).unwrap();
    let mut messages = AttackMessages::new(attack, name);
    let mut connected: Vec<PeerId> = Vec::new();
    let send = |peer: PeerId, message: &[u8]| {
        if session.send(peer, message).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let heard = runtime.block_on(async { tokio::time::timeout(LISTEN, events.recv()).await });
        match heard {
            Ok(Some(Event::Overlay(OverlayEvent::Speaks { peer, .. }))) => {
                connected.push(peer);
                send(peer, &hello(u32::MAX).encode());
                continue;
            }
            Ok(Some(Event::Overlay(OverlayEvent::Left(peer)))) => connected.retain(|p| *p != peer),
            Ok(Some(Event::Overlay(OverlayEvent::Received(peer, bytes)))) if attack == Attack::Lie => {
                if let Ok(Some(message)) = Message::decode(&bytes) {
                    messages.lies(message).iter().for_each(|lie| send(peer, lie));
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => {
                for peer in &connected {
                    (0..BURST).for_each(|_| messages.next().iter().for_each(|message| send(*peer, message)));
                }
                if connected.is_empty() {
                    peers.iter().for_each(|peer| drop(session.connect(swarm, *peer)));
                }
            }
        }
    }
}

fn hello(records: u32) -> Message {
    let mut node = [0; 20];
    getrandom::fill(&mut node).unwrap();
    Message::Hello { version: 1, node, records }
}

fn pushed(record: SharedRecord) -> Vec<u8> {
    Message::Pushed(vec![record]).encode()
}

/// Makes the messages of an attack.
struct AttackMessages {
    attack: Attack,
    name: ModelName,
    key: PublisherKeypair,
    count: u64,
}

impl AttackMessages {
    fn new(attack: Attack, name: ModelName) -> Self {
        Self { attack, name, key: PublisherKeypair::generate().unwrap(), count: 0 }
    }

    fn record(&self, key: &PublisherKeypair, name: &ModelName, time: u64) -> SharedRecord {
        let bytes = |seed: u64| -> [u8; 32] { noise(seed, 32).try_into().unwrap() };
        let body = RecordBody::Model(ModelRecord {
            name: name.clone(),
            version: "main".parse().unwrap(),
            info_hash: InfoHash(bytes(self.count)),
            manifest: Sha256Digest(bytes(self.count + 1)),
            manifest_len: 16 << 20,
            size: u64::from(u32::MAX),
            files: 100_000,
            license: Some("mit".to_owned()),
            tags: (0..20).map(|i| format!("tag-{}-{i}", self.count)).collect(),
        });
        let record = Record { publisher: key.public(), sequence: self.count as i64 + 1, time, body };
        Arc::new(SignedRecord::sign(record, key).unwrap())
    }

    fn named(&self) -> ModelName {
        format!("flood/model-{}", self.count).parse().unwrap()
    }

    /// The next unsolicited message, if the attack has one.
    fn next(&mut self) -> Option<Vec<u8>> {
        self.count += 1;
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let fresh = || PublisherKeypair::generate().unwrap();
        Some(match self.attack {
            Attack::Forge => {
                let mut forged = pushed(self.record(&self.key, &self.named(), now));
                let at = forged.windows(7).position(|w| w == b"3:sig64").unwrap() + 10;
                forged[at] ^= 1;
                forged
            }
            Attack::Garbage => noise(self.count, 1 + (self.count as usize * 977) % MAX_MESSAGE),
            Attack::FloodOfOne => pushed(self.record(&self.key, &self.named(), now)),
            Attack::FloodOfMany => pushed(self.record(&fresh(), &self.named(), now)),
            Attack::Squat => pushed(self.record(&self.key, &self.name, now)),
            Attack::Untimely => {
                let time = if self.count.is_multiple_of(2) { now + 3 * 24 * 3600 } else { 1_000_000 };
                pushed(self.record(&self.key, &self.named(), time))
            }
            Attack::Lie => self.claims().encode(),
            Attack::Silence => return None,
            Attack::Ask => match self.count % 4 {
                0 => self.question(PeerQuestion::Query("a".parse().unwrap(), None)),
                1 => self.question(PeerQuestion::Lookup(self.model())),
                2 => self.question(PeerQuestion::Part(Sha256Digest([1; 32]), self.count as u32)),
                _ => Message::Want { after: vec![] }.encode(),
            },
        })
    }

    fn question(&self, question: PeerQuestion) -> Vec<u8> {
        Message::Question(self.count as u32, question).encode()
    }

    fn model(&self) -> ModelRef {
        ModelRef { name: self.name.clone(), revision: Default::default() }
    }

    /// A page of a digest that never ends.
    fn claims(&mut self) -> Message {
        let known = (0..500)
            .map(|_| {
                self.count += 1;
                let publisher = PublisherKey(noise(self.count, 32).try_into().unwrap());
                Have { publisher, sequence: i64::MAX, count: u32::MAX }
            })
            .collect();
        Message::Have { known, more: true }
    }

    /// False answers to a question.
    fn lies(&mut self, question: Message) -> Vec<Vec<u8>> {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        self.count += 1;
        match question {
            Message::Question(id, PeerQuestion::Lookup(_)) => {
                let held = (0..100)
                    .map(|i| HeldManifest {
                        publisher: self.key.public(),
                        manifest: Sha256Digest(noise(i, 32).try_into().unwrap()),
                        len: 16 << 20,
                        info_hash: InfoHash([2; 32]),
                        complete: true,
                    })
                    .collect();
                vec![Message::Answer(id, PeerAnswer::Holds { records: vec![], held }).encode()]
            }
            Message::Question(_, PeerQuestion::Part(manifest, part)) => {
                let bytes = noise(u64::from(part), MANIFEST_PART);
                vec![Message::Answer(0, PeerAnswer::Part { manifest, part, bytes }).encode()]
            }
            Message::Question(id, PeerQuestion::Query(..)) => {
                let found = vec![self.record(&self.key, &self.named(), now)];
                let cursor = Some(noise(self.count, 64));
                vec![
                    Message::Answer(id, PeerAnswer::Found { records: found, complete: vec![0], cursor })
                        .encode(),
                ]
            }
            Message::Want { .. } => {
                vec![self.claims().encode(), Message::Wanted { records: vec![], more: false }.encode()]
            }
            _ => vec![],
        }
    }
}
