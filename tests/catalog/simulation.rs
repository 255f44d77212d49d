//! How gossip scales: the same state machine on many nodes in one process, with a clock and links of its own.
//!
//! Nodes are linked at random; a message takes 20 to 200 ms, each link its own time, and is never lost. All nodes know
//! the same records at first; each node stores later records on its own. The large simulation prints a table:
//! `cargo test --release --test main catalog::simulation -- --ignored --nocapture`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use silmaril::catalog::Query;
use silmaril::catalog::gossip::Notice;
use silmaril::catalog::gossip::answers::RecordSource;
use silmaril::catalog::gossip::{Action, Gossip, GossipConnection, RecordOrigin, TICK};
use silmaril::catalog::message::{Have, HeldManifest, Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::record::SharedRecord;
use silmaril::catalog::service::WAVE;
use silmaril::catalog::store::{Page, StoreOutcome};
use silmaril::model::keys::PublisherKeypair;
use silmaril::model::{InfoHash, ModelRef, PublisherKey, Sha256Digest};
use silmaril::torrent::PeerId;

use super::rig::{EPOCH, Model};

/// Links that each node makes; it has about twice as many.
const LINKS: usize = 7;

/// Records known to all, by publisher, ascending by sequence.
struct Base {
    of: BTreeMap<PublisherKey, Vec<SharedRecord>>,
    digest: Vec<Have>,
}

impl Base {
    fn new(records: usize, publishers: usize) -> Arc<Self> {
        let keys: Vec<PublisherKeypair> =
            (0..publishers).map(|_| PublisherKeypair::generate().unwrap()).collect();
        let mut of: BTreeMap<PublisherKey, Vec<SharedRecord>> = BTreeMap::new();
        for n in 0..records {
            let key = &keys[n % publishers];
            let record =
                Model::signed(key, &format!("org{}/model-{n}", n % publishers), n as i64 + 1, EPOCH).record;
            of.entry(key.public()).or_default().push(record);
        }
        let digest = of.iter().map(|(publisher, records)| have(publisher, records)).collect();
        Arc::new(Self { of, digest })
    }
}

fn have(publisher: &PublisherKey, records: &[SharedRecord]) -> Have {
    let sequence = records.last().map_or(0, |record| record.record().sequence);
    Have { publisher: *publisher, sequence, count: records.len() as u32 }
}

/// The records of one node: the base or nothing, and later records.
struct Store {
    base: Option<Arc<Base>>,
    learnt: BTreeMap<PublisherKey, Vec<SharedRecord>>,
    count: usize,
}

impl Store {
    fn new(base: Option<Arc<Base>>) -> Self {
        let count = base.iter().flat_map(|base| base.of.values()).map(Vec::len).sum();
        Self { base, learnt: BTreeMap::new(), count }
    }

    fn of(&self, publisher: &PublisherKey) -> impl Iterator<Item = &SharedRecord> {
        let base = self.base.iter().filter_map(|base| base.of.get(publisher)).flatten();
        base.chain(self.learnt.get(publisher).into_iter().flatten())
    }

    fn take(&mut self, record: &SharedRecord) -> StoreOutcome {
        let publisher = record.record().publisher;
        if self.of(&publisher).any(|known| Arc::ptr_eq(known, record)) {
            return StoreOutcome::Known;
        }
        let learnt = self.learnt.entry(publisher).or_default();
        let at = learnt.partition_point(|known| known.record().sequence < record.record().sequence);
        learnt.insert(at, SharedRecord::clone(record));
        self.count += 1;
        StoreOutcome::Stored
    }
}

impl RecordSource for Store {
    fn count(&self) -> usize {
        self.count
    }

    fn have(&self, publisher: &PublisherKey) -> Option<Have> {
        let (count, last) = self.of(publisher).fold((0, None), |(n, _), record| (n + 1, Some(record)));
        last.map(|last| Have { publisher: *publisher, sequence: last.record().sequence, count })
    }

    fn page(&self, after: Option<&PublisherKey>, limit: usize) -> Vec<Have> {
        // Records beyond the base spread by digests of changes; a new node has no base.
        match &self.base {
            Some(base) => {
                let from = after.map_or(0, |after| base.digest.partition_point(|h| h.publisher <= *after));
                let page = base.digest[from..].iter().take(limit);
                page.filter_map(|h| self.have(&h.publisher)).collect()
            }
            None => {
                let rest = self.learnt.iter().skip_while(|(p, _)| after.is_some_and(|after| *p <= after));
                rest.take(limit).map(|(publisher, records)| have(publisher, records)).collect()
            }
        }
    }

    fn after(&self, publisher: &PublisherKey, sequence: i64, limit: usize) -> Vec<SharedRecord> {
        self.of(publisher).filter(|r| r.record().sequence > sequence).take(limit).cloned().collect()
    }

    fn search(&self, _: &Query, _: Option<&[u8]>, _: usize) -> Page {
        Page::default()
    }

    fn records_of(&self, model: &ModelRef) -> Vec<SharedRecord> {
        let all = self.base.iter().flat_map(|base| base.of.values()).chain(self.learnt.values()).flatten();
        all.filter(|record| record.model().is_some_and(|m| m.name == model.name)).cloned().collect()
    }

    fn successor(&self, _: &PublisherKey) -> Option<SharedRecord> {
        None
    }

    fn held(&self, _: &ModelRef) -> Vec<HeldManifest> {
        Vec::new()
    }

    fn is_complete(&self, _: &InfoHash) -> bool {
        false
    }

    fn manifest(&self, _: &Sha256Digest) -> Option<Arc<[u8]>> {
        None
    }
}

/// Messages and bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    messages: u64,
    bytes: u64,
}

struct SimNode {
    gossip: Gossip,
    store: Store,
    /// Of messages sent and received.
    traffic: Traffic,
    answers: usize,
    found: usize,
}

enum Happening {
    Tick,
    Connect(usize),
    Message(PeerId, Message),
}

struct Simulation {
    begun: Instant,
    now: Duration,
    nodes: Vec<SimNode>,
    /// For each connection: its node, the other end, and how long a message takes.
    links: HashMap<PeerId, (usize, PeerId, Duration)>,
    happenings: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    what: HashMap<u64, Happening>,
    last: u64,
    rng: fastrand::Rng,
}

impl Simulation {
    fn new(nodes: usize, base: &Arc<Base>) -> Self {
        let mut simulation = Self {
            begun: Instant::now(),
            now: Duration::ZERO,
            nodes: Vec::new(),
            links: HashMap::new(),
            happenings: BinaryHeap::new(),
            what: HashMap::new(),
            last: 0,
            rng: fastrand::Rng::with_seed(7),
        };
        for n in 0..nodes {
            simulation.add(Some(Arc::clone(base)));
            // Nodes start one after another within a minute.
            let at = Duration::from_secs(60).mul_f64(n as f64 / nodes as f64);
            for _ in 0..LINKS.min(n) {
                let other = simulation.rng.usize(..n);
                simulation.at(at, n, Happening::Connect(other));
            }
        }
        simulation
    }

    fn add(&mut self, base: Option<Arc<Base>>) -> usize {
        let index = self.nodes.len();
        let mut id = [0; 20];
        self.rng.fill(&mut id);
        let gossip = Gossip::new(id, self.rng.u64(..), self.begun + self.now);
        let (store, traffic) = (Store::new(base), Traffic::default());
        self.nodes.push(SimNode { gossip, store, traffic, answers: 0, found: 0 });
        let first = self.now + TICK.mul_f64(self.rng.f64());
        self.at(first, index, Happening::Tick);
        index
    }

    fn at(&mut self, time: Duration, node: usize, what: Happening) {
        self.last += 1;
        self.happenings.push(Reverse((time, self.last, node)));
        self.what.insert(self.last, what);
    }

    fn connect(&mut self, a: usize, b: usize) {
        let delay = Duration::from_millis(self.rng.u64(20..200));
        let (near, far) = (PeerId(self.last + 1), PeerId(self.last + 2));
        self.last += 2;
        self.links.insert(near, (a, far, delay));
        self.links.insert(far, (b, near, delay));
        for (node, peer, other) in [(a, near, b), (b, far, a)] {
            let address = SocketAddr::from(([10, 1, (other >> 8) as u8, other as u8], 6881));
            let connection = GossipConnection { of_catalog: true, address };
            self.step(node, |gossip, now, store| gossip.speaks(now, peer, connection, store));
        }
    }

    fn step(&mut self, node: usize, step: impl FnOnce(&mut Gossip, Instant, &Store)) {
        let now = self.begun + self.now;
        let state = &mut self.nodes[node];
        step(&mut state.gossip, now, &state.store);
        while let Some(action) = self.nodes[node].gossip.next_action() {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        let now = self.begun + self.now;
        let state = &mut self.nodes[node];
        match action {
            Action::Send(peer, message) => self.send(node, peer, message),
            Action::Answer(peer, request) => {
                let answer = request.answer(&state.store);
                state.gossip.answered(now, peer, &request, &answer, Duration::ZERO);
                self.send(node, peer, answer);
            }
            Action::Store(origin, records) => {
                let outcomes: Vec<StoreOutcome> =
                    records.iter().map(|record| state.store.take(record)).collect();
                state.gossip.stored(now, origin, &records, &outcomes, &state.store);
            }
            Action::Notify(Notice::Answered { answer: Some(PeerAnswer::Holds { records, .. }), .. }) => {
                state.answers += 1;
                state.found += records.len();
            }
            Action::Notify(_) => {}
            Action::Disconnect { why, .. } => panic!("node {node} disconnects an honest one: {why}"),
        }
    }

    fn send(&mut self, node: usize, peer: PeerId, message: Message) {
        let bytes = message.encode().len() as u64;
        let (other, far, delay) = {
            let (_, far, delay) = self.links[&peer];
            (self.links[&far].0, far, delay)
        };
        for end in [node, other] {
            self.nodes[end].traffic.messages += 1;
            self.nodes[end].traffic.bytes += bytes;
        }
        self.at(self.now + delay, other, Happening::Message(far, message));
    }

    /// Runs until a condition holds, which is checked every tick; returns how long that took.
    fn until(&mut self, longest: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begun = self.now;
        let mut look = begun;
        while let Some(Reverse((time, id, node))) = self.happenings.pop() {
            if time >= look {
                look = time + Duration::from_millis(50);
                if holds(self) {
                    self.happenings.push(Reverse((time, id, node)));
                    return Some(self.now - begun);
                }
                if time > begun + longest {
                    self.happenings.push(Reverse((time, id, node)));
                    return None;
                }
            }
            self.now = time;
            match self.what.remove(&id).unwrap() {
                Happening::Tick => {
                    self.step(node, |gossip, now, store| gossip.tick(now, store));
                    self.at(time + TICK, node, Happening::Tick);
                }
                Happening::Connect(other) => self.connect(node, other),
                Happening::Message(peer, message) => {
                    self.step(node, |gossip, now, store| gossip.message(now, peer, message, store));
                }
            }
        }
        unreachable!("nodes tick forever")
    }

    fn pass(&mut self, time: Duration) {
        assert!(self.until(time, |_| false).is_none());
    }

    fn publish(&mut self, node: usize, record: &SharedRecord) {
        let records = vec![SharedRecord::clone(record)];
        self.act(node, Action::Store(RecordOrigin::Own, records));
        self.step(node, |_, _, _| {});
    }

    /// Messages of all nodes, each counted once, since these figures.
    fn since(&self, before: Traffic) -> Traffic {
        let all = self.all();
        Traffic { messages: all.messages - before.messages, bytes: all.bytes - before.bytes }
    }

    fn all(&self) -> Traffic {
        let sum = |of: fn(&Traffic) -> u64| self.nodes.iter().map(|n| of(&n.traffic)).sum::<u64>() / 2;
        Traffic { messages: sum(|t| t.messages), bytes: sum(|t| t.bytes) }
    }

    fn how_many_know(&self, records: usize) -> usize {
        self.nodes.iter().filter(|n| n.store.count >= records).count()
    }
}

/// The measured figures.
#[derive(Debug)]
struct Figures {
    nodes: usize,
    records: usize,
    idle: Traffic,
    half: Duration,
    most: Duration,
    all: Duration,
    spread: Traffic,
    burst: Duration,
    burst_traffic: Traffic,
    sync: Duration,
    sync_traffic: Traffic,
    lookup: Duration,
    lookup_traffic: Traffic,
}

const IDLE: Duration = Duration::from_secs(600);
const BURST: usize = 100;

fn simulate(nodes: usize, records: usize, publishers: usize) -> Figures {
    let base = Base::new(records, publishers);
    let mut sim = Simulation::new(nodes, &base);
    sim.pass(Duration::from_secs(120));
    assert_eq!(sim.how_many_know(records), nodes);

    let before = sim.all();
    sim.pass(IDLE);
    let idle = sim.since(before);

    let before = sim.all();
    let key = PublisherKeypair::generate().unwrap();
    let begun = sim.now;
    let new = Model::signed(&key, "new/model", 1, EPOCH).record;
    sim.publish(nodes / 3, &new);
    let mut reach = |part: usize| {
        sim.until(Duration::from_secs(600), |s| s.how_many_know(records + 1) * 100 >= nodes * part).unwrap();
        sim.now - begun
    };
    let (half, most, all) = (reach(50), reach(99), reach(100));
    sim.pass(Duration::from_secs(60));
    let spread = sim.since(before);

    let (before, begun) = (sim.all(), sim.now);
    for n in 0..BURST {
        let name = format!("burst/model-{n}");
        let record = Model::signed(&PublisherKeypair::generate().unwrap(), &name, 1, EPOCH).record;
        let node = sim.rng.usize(..nodes);
        sim.publish(node, &record);
    }
    let known = records + 1 + BURST;
    sim.until(Duration::from_secs(600), |s| s.how_many_know(known) * 100 >= nodes * 99).unwrap();
    let burst = sim.now - begun;
    sim.until(Duration::from_secs(600), |s| s.how_many_know(known) == nodes).unwrap();
    sim.pass(Duration::from_secs(60));
    let burst_traffic = sim.since(before);

    let newcomer = sim.add(None);
    for _ in 0..2 * LINKS {
        let other = sim.rng.usize(..nodes);
        sim.connect(newcomer, other);
    }
    // In this simulation, digests of other nodes have only the base, not later records.
    let sync = sim.until(Duration::from_secs(600), |s| s.nodes[newcomer].store.count >= records).unwrap();
    let sync_traffic = sim.nodes[newcomer].traffic;
    sim.pass(Duration::from_secs(60));

    let before = sim.nodes[newcomer].traffic;
    let model = base.of.values().next().unwrap()[0].model().unwrap().model_ref();
    let asked: Vec<PeerId> =
        sim.nodes[newcomer].gossip.speakers().iter().map(|s| s.peer).take(WAVE).collect();
    for peer in &asked {
        let question = PeerQuestion::Lookup(model.clone());
        sim.step(newcomer, |gossip, now, _| {
            assert!(gossip.ask(now, *peer, question, 0, Duration::from_secs(3)));
        });
    }
    let lookup = sim.until(Duration::from_secs(10), |s| s.nodes[newcomer].answers == asked.len()).unwrap();
    assert_eq!(sim.nodes[newcomer].found, asked.len());
    let after = sim.nodes[newcomer].traffic;
    let lookup_traffic =
        Traffic { messages: after.messages - before.messages, bytes: after.bytes - before.bytes };

    Figures {
        nodes,
        records,
        idle,
        half,
        most,
        all,
        spread,
        burst,
        burst_traffic,
        sync,
        sync_traffic,
        lookup,
        lookup_traffic,
    }
}

impl Figures {
    fn print(&self) {
        let per_node = |traffic: Traffic| {
            let nodes = self.nodes as f64;
            (traffic.messages as f64 / nodes, traffic.bytes as f64 / nodes / 1024.0)
        };
        let (nodes, records) = (self.nodes, self.records);
        println!("| {nodes} nodes of {} peers, {records} records | time | messages | bytes |", 2 * LINKS);
        println!("|---|---|---|---|");
        let row = |what: &str, time: String, (messages, kib): (f64, f64), of: &str| {
            println!("| {what} | {time} | {messages:.1}{of} | {kib:.1} KiB{of} |");
        };
        let s = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        row("nothing new, ten minutes", s(IDLE), per_node(self.idle), " a node");
        let times = format!("{} half, {} 99 %, {} all", s(self.half), s(self.most), s(self.all));
        row("one new record", times, per_node(self.spread), " a node");
        let times = format!("{} 99 %", s(self.burst));
        row(
            &format!("{BURST} new records together, of as many publishers"),
            times,
            per_node(self.burst_traffic),
            " a node",
        );
        let total = |t: Traffic| (t.messages as f64, t.bytes as f64 / 1024.0);
        row("first exchange of a new node", s(self.sync), total(self.sync_traffic), "");
        row(&format!("lookup of a name at {WAVE} peers"), s(self.lookup), total(self.lookup_traffic), "");
    }
}

#[test]
fn small_network_spreads_records_fast_and_cheaply() {
    let figures = simulate(100, 400, 40);
    let nodes = figures.nodes as u64;
    assert!(figures.most < Duration::from_secs(5), "{figures:?}");
    assert!(figures.all < Duration::from_secs(45), "{figures:?}");
    // A record is pushed to four nodes; the digest of changes goes to nodes that may lack it.
    assert!(figures.spread.messages / nodes < 25, "{figures:?}");
    assert!(figures.burst_traffic.messages / nodes / (BURST as u64) < 10, "{figures:?}");
    // Without new records, nodes send nothing but a digest now and then.
    assert!(figures.idle.messages / nodes < 10, "{figures:?}");
    assert!(figures.sync < Duration::from_secs(5), "{figures:?}");
    assert!(figures.sync_traffic.bytes < 400 * 600 + 2 * LINKS as u64 * 44 * 40 * 3, "{figures:?}");
    assert_eq!(figures.lookup_traffic.messages, 2 * WAVE as u64);
}

#[test]
#[ignore = "takes minutes: `make test` runs it last, `make simulate` shows its table"]
fn thousand_nodes_with_twenty_thousand_records() {
    let figures = simulate(1_000, 20_000, 2_000);
    figures.print();
    assert!(figures.most < Duration::from_secs(30), "{figures:?}");
}
