//! The entries of this node in the DHT: names of models that it holds (BEP 5), and records (BEP 44).
//!
//! The DHT forgets, so all entries are repeated, spread over time. Nothing is sent while the routing table is empty. The
//! name of a removed model is not repeated. BEP 5 has no withdrawal, so other nodes forget the name after 45 minutes at the
//! latest; a node that is asked before answers that it does not hold the model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::core::Core;
use crate::catalog::record::SharedRecord;
use crate::model::{ModelName, PublisherKey};
use crate::torrent::Topic;

/// How often a name is announced; DHT nodes keep it 30 to 45 minutes.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(15 * 60);

/// How often a record is stored again; DHT nodes keep it about two hours, and may leave earlier.
pub const STORE_EVERY: Duration = Duration::from_secs(45 * 60);

/// How soon a record is stored again that no node accepted; doubled each time, since the DHT may have a newer one.
const STORE_AGAIN: Duration = Duration::from_secs(60);

/// The time between two announcements. Each is a lookup of some twenty packets.
pub const ANNOUNCE_PAUSE: Duration = Duration::from_millis(200);

/// The time between two stored records.
pub const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How often the models held are compared, in addition to commands that they changed.
const CHECK_EVERY: Duration = Duration::from_secs(15 * 60);

/// The most names and records that are kept in the DHT. With the pauses above, a round of so many names takes an hour.
const MAX_NAMES: usize = 20_000;
const MAX_RECORDS: usize = 5_000;

/// The topic in the DHT where holders of models of a name announce themselves.
pub fn topic_of(name: &ModelName) -> Topic {
    Topic::of(&format!("silmaril:name:{name}"))
}

/// A command to the keeper of the entries.
#[derive(Debug)]
pub(super) enum EntryCommand {
    /// The models of this node have changed.
    Held,
    /// Keep an own record.
    Own(SharedRecord),
    /// This many nodes have stored a record.
    Stored(PublisherKey, [u8; 20], u32),
}

/// A record in the DHT.
struct KeptRecord {
    record: SharedRecord,
    /// Kept even if this node does not hold its model.
    own: bool,
    due: Instant,
    /// How often in a row no node accepted it.
    refused: u32,
}

struct DhtEntries {
    core: Arc<Core>,
    /// When each name is announced next.
    names: HashMap<ModelName, Instant>,
    records: HashMap<(PublisherKey, [u8; 20]), KeptRecord>,
    next_check: Instant,
    /// The earliest times of the next announcement and the next stored record.
    next_announcement: Instant,
    next_store: Instant,
}

/// Keeps all entries in the DHT until the catalog stops.
pub(super) async fn run(core: Arc<Core>, mut commands: mpsc::Receiver<EntryCommand>) {
    if !core.settings.dht {
        return;
    }
    let now = Instant::now();
    let mut nodes = core.dht_nodes.subscribe();
    let mut kept = DhtEntries {
        core,
        names: HashMap::new(),
        records: HashMap::new(),
        next_check: now,
        next_announcement: now,
        next_store: now,
    };
    loop {
        if Instant::now() >= kept.next_check {
            kept.compare();
        }
        let ready = *nodes.borrow_and_update() > 0;
        let next = if ready { kept.send_due() } else { kept.next_check };
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => kept.execute(command),
                None => return,
            },
            _ = nodes.wait_for(|nodes| (*nodes > 0) != ready) => {}
            () = tokio::time::sleep_until(next.min(kept.next_check)) => {}
        }
    }
}

impl DhtEntries {
    fn execute(&mut self, command: EntryCommand) {
        let now = Instant::now();
        match command {
            EntryCommand::Held => self.next_check = now,
            EntryCommand::Own(record) => self.keep(record, true, now),
            EntryCommand::Stored(publisher, salt, nodes) => {
                let Some(kept) = self.records.get_mut(&(publisher, salt)) else { return };
                if nodes > 0 {
                    kept.refused = 0;
                } else {
                    kept.due = now + (STORE_AGAIN * (1 << kept.refused.min(8))).min(STORE_EVERY);
                    kept.refused += 1;
                }
            }
        }
    }

    fn keep(&mut self, record: SharedRecord, own: bool, now: Instant) {
        let key = (record.record().publisher, record.record().salt());
        let room = self.records.len() < MAX_RECORDS;
        match self.records.get_mut(&key) {
            Some(kept) => {
                kept.own |= own;
                if record.record().sequence > kept.record.record().sequence {
                    (kept.record, kept.due, kept.refused) = (record, now, 0);
                }
            }
            None if room => {
                self.records.insert(key, KeptRecord { record, own, due: now, refused: 0 });
            }
            None => tracing::warn!(max = MAX_RECORDS, "too many records to keep all in the DHT"),
        }
    }

    /// Compares the entries with the models of this node.
    fn compare(&mut self) {
        let now = Instant::now();
        self.next_check = now + CHECK_EVERY;
        let names: HashSet<ModelName> =
            self.core.local.holdings.names().into_iter().take(MAX_NAMES).collect();
        self.names.retain(|name, _| names.contains(name));
        let mut held = HashSet::new();
        for name in names {
            for model in self.core.local.holdings.of_name(&name) {
                if let Some(record) = self.core.local.store.of(&model.publisher, &model.model) {
                    held.insert((model.publisher, record.record().salt()));
                    self.keep(record, false, now);
                }
            }
            self.names.entry(name).or_insert(now);
        }
        self.records.retain(|key, kept| kept.own || held.contains(key));
    }

    /// Sends one name and one record that are due. Returns when the next is due.
    fn send_due(&mut self) -> Instant {
        let now = Instant::now();
        if now >= self.next_announcement
            && let Some((name, due)) =
                self.names.iter_mut().filter(|(_, due)| **due <= now).min_by_key(|(_, due)| **due)
        {
            *due = now + ANNOUNCE_EVERY;
            self.next_announcement = now + ANNOUNCE_PAUSE;
            if let Err(error) = self.core.overlay.announce(topic_of(name)) {
                tracing::debug!(%name, %error, "could not announce a name");
            }
        }
        if now >= self.next_store
            && let Some(kept) =
                self.records.values_mut().filter(|kept| kept.due <= now).min_by_key(|kept| kept.due)
        {
            kept.due = now + STORE_EVERY;
            self.next_store = now + STORE_PAUSE;
            let timely = kept.record.check_time(self.core.unix_time()).is_ok();
            if timely && let Err(error) = self.core.overlay.put_item(&kept.record.to_item()) {
                tracing::debug!(%error, "could not store a record in the DHT");
            }
        }
        let name = self.names.values().min().map(|due| (*due).max(self.next_announcement));
        let record = self.records.values().map(|kept| kept.due).min().map(|due| due.max(self.next_store));
        name.into_iter().chain(record).min().unwrap_or(self.next_check)
    }
}
