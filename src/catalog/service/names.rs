//! What this node keeps in the DHT: that it holds models of a name (BEP 5), and records (BEP 44).
//!
//! The DHT forgets, so all is said again in turn, spread over time. Nothing is said while the routing table is empty.
//! What is no longer held is not said again; BEP 5 knows no withdrawing, so other nodes forget it after 45 minutes at
//! the latest, and a node that is asked for it meanwhile says that it does not hold it.

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

/// How often a record is stored again; DHT nodes keep it about two hours, and come and go.
pub const STORE_EVERY: Duration = Duration::from_secs(45 * 60);

/// When a record is stored again that no node took; twice as long each time, since the DHT may have a newer one.
const STORE_AGAIN: Duration = Duration::from_secs(60);

/// The time between two announcements. Each is a lookup of some twenty packets.
pub const ANNOUNCE_PAUSE: Duration = Duration::from_millis(200);

/// The time between two records stored.
pub const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked what is held, besides being told that it changed.
const LOOK_EVERY: Duration = Duration::from_secs(15 * 60);

/// Names and records that are kept in the DHT at most. At the pauses above, a round of so many names takes an hour.
const MAX_NAMES: usize = 20_000;
const MAX_RECORDS: usize = 5_000;

/// Where in the DHT those meet who hold models of a name.
pub fn topic_of(name: &ModelName) -> Topic {
    Topic::of(&format!("silmaril:name:{name}"))
}

/// What changes what is kept.
#[derive(Debug)]
pub(super) enum Command {
    /// The models held have changed.
    Held,
    /// A record of our own is to be kept.
    Own(SharedRecord),
    /// So many nodes have stored a record.
    Stored(PublisherKey, [u8; 20], u32),
}

/// A record in the DHT.
struct Kept {
    record: SharedRecord,
    /// Kept whether or not its model is held here.
    own: bool,
    due: Instant,
    /// How often nobody took it, in a row.
    refused: u32,
}

struct Names {
    core: Arc<Core>,
    /// When each is announced next.
    names: HashMap<ModelName, Instant>,
    records: HashMap<(PublisherKey, [u8; 20]), Kept>,
    next_look: Instant,
    /// Before these, nothing is said.
    next_announcement: Instant,
    next_store: Instant,
}

/// Keeps everything in the DHT, until the catalog stops.
pub(super) async fn run(core: Arc<Core>, mut commands: mpsc::Receiver<Command>) {
    if !core.settings.dht {
        return;
    }
    let now = Instant::now();
    let mut nodes = core.dht_nodes.subscribe();
    let mut kept = Names {
        core,
        names: HashMap::new(),
        records: HashMap::new(),
        next_look: now,
        next_announcement: now,
        next_store: now,
    };
    loop {
        if Instant::now() >= kept.next_look {
            kept.look();
        }
        let ready = *nodes.borrow_and_update() > 0;
        let next = if ready { kept.say() } else { kept.next_look };
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => kept.obey(command),
                None => return,
            },
            _ = nodes.wait_for(|nodes| (*nodes > 0) != ready) => {}
            () = tokio::time::sleep_until(next.min(kept.next_look)) => {}
        }
    }
}

impl Names {
    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Held => self.next_look = now,
            Command::Own(record) => self.keep(record, true, now),
            Command::Stored(publisher, salt, nodes) => {
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
                self.records.insert(key, Kept { record, own, due: now, refused: 0 });
            }
            None => tracing::warn!("there are too many records of models held here to keep all in the DHT"),
        }
    }

    /// Compares with what is held now.
    fn look(&mut self) {
        let now = Instant::now();
        self.next_look = now + LOOK_EVERY;
        let names: HashSet<ModelName> =
            self.core.known.holdings.names().into_iter().take(MAX_NAMES).collect();
        self.names.retain(|name, _| names.contains(name));
        let mut held = HashSet::new();
        for name in names {
            for here in self.core.known.holdings.of_name(&name) {
                if let Some(record) = self.core.known.store.of(&here.publisher, &here.model) {
                    held.insert((here.publisher, record.record().salt()));
                    self.keep(record, false, now);
                }
            }
            self.names.entry(name).or_insert(now);
        }
        self.records.retain(|key, kept| kept.own || held.contains(key));
    }

    /// Says one of each that are due. Gives when the next is.
    fn say(&mut self) -> Instant {
        let now = Instant::now();
        if now >= self.next_announcement
            && let Some((name, due)) =
                self.names.iter_mut().filter(|(_, due)| **due <= now).min_by_key(|(_, due)| **due)
        {
            *due = now + ANNOUNCE_EVERY;
            self.next_announcement = now + ANNOUNCE_PAUSE;
            if let Err(error) = self.core.overlay.announce(topic_of(name)) {
                tracing::debug!(%name, %error, "a name is not announced");
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
                tracing::debug!(%error, "a record is not stored in the DHT");
            }
        }
        let name = self.names.values().min().map(|due| (*due).max(self.next_announcement));
        let record = self.records.values().map(|kept| kept.due).min().map(|due| due.max(self.next_store));
        name.into_iter().chain(record).min().unwrap_or(self.next_look)
    }
}
