//! What is said to the engine: the only place that calls it.

use std::sync::Arc;

use fixedbitset::FixedBitSet;
use tokio::time::Instant;

use super::saving::{Prepared, Save};
use super::state::{Command, State};
use super::transfer::Phase;
use super::unproved::Unproved;
use super::{Exposure, Fetch, ReadError, lock, saving, unproved, web};
use crate::model::{InfoHash, PieceHashes};
use crate::torrent::{EngineError, TorrentId};

impl Fetch {
    /// Issues all queued commands in order. When it returns, those that were queued before it was called have
    /// been issued.
    pub(super) fn issue(&self) {
        let _one_at_a_time = lock(&self.issuing);
        loop {
            // The guard is a temporary of this statement: the engine is called without it.
            let Some(command) = lock(&self.state).outbox.pop_front() else { return };
            self.say(command);
        }
    }

    fn say(&self, command: Command) {
        let (id, result) = match command {
            Command::Add(ih) => return self.add(ih),
            Command::Orders(id, orders) => {
                let set = if orders.priorities.is_empty() {
                    Ok(())
                } else {
                    self.engine.set_priority(id, &orders.priorities)
                };
                let request = |result: Result<(), EngineError>, &(piece, deadline): &(_, _)| {
                    result.and(self.engine.request(id, piece, deadline))
                };
                (id, orders.requests.iter().fold(set, request))
            }
            Command::Remove(id) => (id, self.engine.remove(id)),
            Command::Withdraw(id, pieces) => (id, self.engine.withdraw(id, &pieces)),
            Command::Withhold(id) => (id, self.engine.set_withheld(id, true)),
            Command::Reannounce(id) => (id, self.engine.reannounce(id)),
            Command::Redial(id) => (id, self.engine.redial(id)),
            Command::Connect(id, peer) => (id, self.engine.connect_peer(id, peer)),
            Command::SaveResume(id) => (id, self.engine.save_resume(id)),
            Command::ExportMetainfo(id) => (id, self.engine.export_metainfo(id)),
            Command::Ask(job) => {
                if let Some(web) = &self.settings.web {
                    self.runtime.spawn(web::run(self.myself.clone(), web.source.clone(), *job));
                }
                return;
            }
            Command::Prove(proof) => {
                self.runtime.spawn(unproved::run(self.myself.clone(), *proof));
                return;
            }
            Command::Give(id, piece, bytes) => (id, self.engine.give_piece(id, piece, bytes)),
        };
        if let Err(error) = result {
            self.settled(|state, _| state.refused(id, &error));
            self.changed.notify_waiters();
        }
    }

    /// Changes the state by what the engine answered; the commands that follow from it are issued by who issues now.
    fn settled(&self, change: impl FnOnce(&mut State, Instant)) {
        let earlier = {
            let mut state = lock(&self.state);
            let now = Instant::now();
            change(&mut state, now);
            state.settle(now);
            state.is_due_earlier()
        };
        if earlier {
            self.timer.notify_one();
        }
    }

    /// Adds a torrent that is still queued.
    fn add(&self, ih: InfoHash) {
        let with_hashes;
        let (revision, peers, exposure, mut use_saved) = {
            let state = lock(&self.state);
            match state.transfers.get(&ih).filter(|t| t.phase == Phase::Queued) {
                Some(transfer) => {
                    with_hashes = transfer.web.is_some();
                    let (peers, exposure) = (state.peers_of(&ih), state.exposure(&ih));
                    (transfer.revision.clone(), peers, exposure, !transfer.distrust_saved)
                }
                None => return,
            }
        };
        let hidden = exposure == Exposure::Hidden;
        loop {
            let Prepared { mut torrent, with_layers, given, hashes, unproved } = saving::add_torrent(
                &self.paths,
                &self.settings,
                &peers,
                &revision,
                hidden,
                use_saved,
                with_hashes,
            );
            torrent.discovery = exposure.restrict(torrent.discovery);
            let have = torrent.have.clone();
            let result = self.engine.add(torrent);
            if with_layers && matches!(result, Err(EngineError::BadTorrent(_))) {
                tracing::warn!(%ih, "The saved metainfo is damaged; going on with the manifest's.");
                self.saver.save(Save::ForgetMetainfo(ih));
                use_saved = false;
                continue;
            }
            let known = Known { have, unproved, given, with_layers, hashes };
            return self.settled(|state, now| state.added(ih, result, known, now));
        }
    }
}

/// What a torrent was added with.
struct Known {
    have: FixedBitSet,
    unproved: FixedBitSet,
    given: Vec<u64>,
    with_layers: bool,
    hashes: Option<Arc<PieceHashes>>,
}

impl State {
    fn added(&mut self, ih: InfoHash, result: Result<TorrentId, EngineError>, known: Known, now: Instant) {
        match result {
            Ok(id) => {
                self.ids.insert(id, ih);
                match self.transfers.get_mut(&ih).filter(|t| t.phase == Phase::Queued) {
                    Some(transfer) => {
                        transfer.engine_has = known.have;
                        transfer.given = known.given;
                        transfer.metainfo_saved = known.with_layers;
                        if let (Some(web), Some(hashes)) = (&mut transfer.web, known.hashes) {
                            web.knows(hashes);
                        }
                        transfer.unproved = Unproved::new(known.unproved);
                        let proofs = transfer.unproved.any();
                        transfer.entered_engine(id);
                        if std::mem::take(&mut transfer.again) {
                            self.add_anew(ih, now);
                        }
                        if proofs {
                            self.expect_proofs(now);
                        }
                    }
                    None => {
                        // It was left or held meanwhile.
                        self.leaving.insert(ih, id);
                        self.outbox.push_back(Command::Remove(id));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%ih, %error, "The engine refused a torrent.");
                let Some(transfer) = self.transfers.get_mut(&ih) else { return };
                transfer.failed(&error.to_string(), now);
                self.fail_waiters_of(ih, &ReadError::Broken(error.to_string()), now);
            }
        }
    }

    /// The engine refused a command.
    fn refused(&mut self, id: TorrentId, error: &EngineError) {
        let Some(transfer) = self.ids.get(&id).and_then(|ih| self.transfers.get_mut(ih)) else { return };
        transfer.saving = false;
        transfer.exporting = false;
        match error {
            // Its `Removed` is on the way.
            EngineError::UnknownTorrent => {}
            EngineError::BadTorrent(_)
            | EngineError::BadItem(_)
            | EngineError::Busy
            | EngineError::Internal(_)
            | EngineError::MessageTooLong(_)
            | EngineError::Listen { .. } => {
                tracing::warn!(%error, "The engine refused a command.");
                transfer.last_error = Some(error.to_string());
            }
        }
    }
}
