//! The thread that turns the engine's events into [`Event`]s.
//!
//! It also resumes torrents that libtorrent stopped because of a disk error, after a pause, so that a disk that stays full
//! costs one attempt at a time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::session::SessionShared;
use super::{DiskErrorKind, Event, PeerId, SwarmStats, TorrentId};
use crate::ffi::{RawEvent, RawKind};
use crate::model::PieceIndex;

/// How long a torrent pauses after a disk error.
const RECOVER_AFTER: Duration = Duration::from_millis(1500);

/// How often figures are requested.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Equal disk errors are reported once in this time: each block in flight causes one.
const REPEAT_ERROR_AFTER: Duration = Duration::from_secs(1);

pub(super) struct EventPump {
    shared: Arc<SessionShared>,
    next_stats: Instant,
    recover: HashMap<TorrentId, Recovery>,
    errors: HashMap<(TorrentId, PathBuf, DiskErrorKind), Instant>,
    /// Addresses on which another program listens.
    pub in_use: Vec<SocketAddr>,
}

fn kind_of(errno: i32) -> DiskErrorKind {
    match Errno::from_raw_os_error(errno) {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => DiskErrorKind::Full,
        Errno::ROFS | Errno::ACCESS | Errno::PERM => DiskErrorKind::ReadOnly,
        Errno::NOENT | Errno::NODATA | Errno::NOTDIR | Errno::STALE | Errno::LOOP => DiskErrorKind::Missing,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => DiskErrorKind::Shortage,
        _ => DiskErrorKind::Other,
    }
}

fn address_of(event: &RawEvent) -> Option<SocketAddr> {
    let ip: IpAddr = event.address.split('%').next()?.parse().ok()?;
    Some(SocketAddr::new(ip, event.port))
}

/// The time at which a torrent is resumed after a disk error.
#[derive(Debug, Clone, Copy)]
struct Recovery {
    due: Instant,
    /// Whether more errors were reported since. An error is reported before the torrent stops for it, so the torrent may stop
    /// again after it was resumed.
    again: bool,
}

impl EventPump {
    pub fn new(shared: Arc<SessionShared>) -> Self {
        Self {
            shared,
            next_stats: Instant::now() + STATS_INTERVAL,
            recover: HashMap::new(),
            errors: HashMap::new(),
            in_use: Vec::new(),
        }
    }

    /// Runs until the session stops, and then sends the last events.
    pub fn run(mut self) {
        while !self.shared.stopping.load(Ordering::Acquire) {
            let answers = self.timers();
            self.send(answers);
            let next = self
                .recover
                .values()
                .map(|recovery| recovery.due)
                .chain([self.next_stats])
                .min()
                .unwrap_or(self.next_stats);
            let events = self.turn(next.saturating_duration_since(Instant::now()));
            self.send(events);
        }
        // Answers that arrived just before the end.
        let events = self.turn(Duration::ZERO);
        self.send(events);
        self.send(self.shared.all_left(None));
    }

    pub fn send(&self, events: Vec<Event>) {
        for event in events {
            self.shared.send(event);
        }
        // The lock is taken and released, so that a thread that is about to wait does not miss the notification.
        drop(self.shared.turn.lock());
        self.shared.turned.notify_all();
    }

    /// Waits for events, at most `within`, and translates them.
    pub fn turn(&mut self, within: Duration) -> Vec<Event> {
        // Rounded up, so that a wait that is nearly over does not become a busy loop.
        let milliseconds = within.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
        match self.shared.engine.wait(milliseconds) {
            Ok(raw) => raw.into_iter().flat_map(|event| self.translate_all(event)).collect(),
            Err(error) => {
                tracing::error!(%error, "could not read the engine's events");
                vec![Event::EventsLost]
            }
        }
    }

    /// Does all that is due. Returns the events that follow.
    fn timers(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let mut answers = Vec::new();
        if now >= self.next_stats {
            self.next_stats = now + STATS_INTERVAL;
            if let Err(error) = self.shared.engine.post_stats() {
                tracing::debug!(%error, "could not request figures");
            }
            self.errors.retain(|_, reported| now.duration_since(*reported) < REPEAT_ERROR_AFTER);
            self.shared.search_for_meetings(now);
            answers = self.shared.end_late_queries(now);
        }
        let engine = &self.shared.engine;
        self.recover.retain(|id, recovery| {
            if recovery.due > now {
                return true;
            }
            if let Err(error) = engine.recover(id.0) {
                tracing::debug!(torrent = id.0, %error, "could not resume the torrent");
            }
            recovery.due = now + RECOVER_AFTER;
            std::mem::take(&mut recovery.again)
        });
        answers
    }

    fn translate_all(&mut self, raw: RawEvent) -> Vec<Event> {
        let gone = (raw.kind == RawKind::Removed).then_some(TorrentId(raw.torrent));
        // The peers of a removed torrent have left, although libtorrent may report it in the other order.
        let mut events = gone.map(|torrent| self.shared.all_left(Some(torrent))).unwrap_or_default();
        events.extend(self.translate(raw));
        events
    }

    fn translate(&mut self, raw: RawEvent) -> Option<Event> {
        let id = TorrentId(raw.torrent);
        let piece = PieceIndex(raw.piece);
        Some(match raw.kind {
            RawKind::Added => {
                self.shared.look_up(id);
                Event::Added(id)
            }
            RawKind::Failed => Event::Failed(id, raw.text),
            RawKind::PieceVerified => Event::PieceVerified(id, piece),
            RawKind::PieceRejected => Event::PieceRejected(id, piece),
            RawKind::BlocksVerified => {
                Event::BlocksVerified(id, piece, raw.first..raw.first.saturating_add(raw.count))
            }
            RawKind::BlocksRefused => Event::BlocksRefused(id, piece),
            RawKind::Withdrawn => Event::Withdrawn(id, piece),
            RawKind::PieceDamaged => Event::PieceDamaged(id, piece),
            RawKind::PeerConnected => {
                let peer = address_of(&raw)?;
                if let Some(record) = self.shared.torrents.lock().get_mut(&id) {
                    record.connected += 1;
                    if raw.flag {
                        record.remember(peer);
                    }
                }
                Event::PeerConnected(id, peer)
            }
            RawKind::PeerDisconnected => {
                let peer = address_of(&raw)?;
                if let Some(record) = self.shared.torrents.lock().get_mut(&id) {
                    record.connected = record.connected.saturating_sub(1);
                }
                Event::PeerDisconnected(id, peer, raw.text)
            }
            RawKind::Stats => Event::Stats(
                id,
                SwarmStats {
                    downloaded: raw.downloaded,
                    uploaded: raw.uploaded,
                    download_rate: raw.download_rate,
                    upload_rate: raw.upload_rate,
                    peers: raw.peers,
                    seeds: raw.seeds,
                },
            ),
            RawKind::SilentSeeds => Event::SilentSeeds(id, raw.seeds),
            RawKind::Readers => Event::Readers(id, raw.count),
            RawKind::DiskError => return self.disk_error(id, raw),
            RawKind::Stopped => {
                self.recover_later(id, Instant::now());
                tracing::debug!(torrent = id.0, reason = raw.text, "the torrent stopped; resuming it later");
                return None;
            }
            RawKind::ResumeData => Event::ResumeData(id, raw.data),
            RawKind::Metainfo => Event::Metainfo(id, raw.flag.then_some(raw.data)),
            RawKind::Metadata => Event::Metadata(id, raw.data),
            RawKind::Removed => {
                self.recover.remove(&id);
                self.errors.retain(|(torrent, _, _), _| *torrent != id);
                Event::Removed(id)
            }
            RawKind::Listening => {
                let address = address_of(&raw)?;
                if address.port() != self.shared.dht_port {
                    self.shared.listen_port.store(address.port(), Ordering::Relaxed);
                }
                Event::Listening(address)
            }
            RawKind::PeerSpeaks => {
                let address = address_of(&raw)?;
                return self.shared.peer_speaks(id, PeerId(raw.peer), address, raw.flag);
            }
            RawKind::PeerMessage => return self.shared.message_came(PeerId(raw.peer), raw.data),
            RawKind::PeerLeft => return self.shared.peer_left(PeerId(raw.peer)),
            RawKind::DhtPeers => return self.shared.dht_peers(raw),
            RawKind::DhtFound => return self.shared.dht_found(raw),
            RawKind::DhtStored => return self.shared.dht_stored(raw),
            RawKind::DhtNodes => return self.shared.dht_nodes(raw.peers),
            RawKind::ListenFailed => {
                let address = address_of(&raw)?;
                if raw.flag {
                    self.in_use.push(address);
                }
                Event::ListenFailed(address, raw.text)
            }
            RawKind::EventsLost => Event::EventsLost,
            other => {
                tracing::warn!(kind = other.repr, "the engine sent an unknown event");
                return None;
            }
        })
    }

    fn recover_later(&mut self, id: TorrentId, now: Instant) {
        let recovery = self.recover.entry(id);
        recovery
            .and_modify(|recovery| recovery.again = true)
            .or_insert(Recovery { due: now + RECOVER_AFTER, again: false });
    }

    fn disk_error(&mut self, id: TorrentId, raw: RawEvent) -> Option<Event> {
        let now = Instant::now();
        self.recover_later(id, now);
        let path = PathBuf::from(OsString::from_vec(raw.path));
        let kind = kind_of(raw.code);
        let reported = self.errors.get(&(id, path.clone(), kind));
        if reported.is_some_and(|at| now.duration_since(*at) < REPEAT_ERROR_AFTER) {
            return None;
        }
        self.errors.insert((id, path.clone(), kind), now);
        let reason = match raw.code {
            _ if raw.text.contains(' ') => raw.text,
            code if code == Errno::LOOP.raw_os_error() => {
                format!("{}: a link, a special file or another user's directory is in its place", raw.text)
            }
            code if code == Errno::STALE.raw_os_error() => {
                format!("{}: the file has been changed or replaced", raw.text)
            }
            code => format!("{}: {}", raw.text, std::io::Error::from_raw_os_error(code)),
        };
        Some(Event::DiskError(id, path, kind, reason))
    }
}
