//! Issues commands: the only place that calls the engine, except for deletion.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::core::Core;
use super::effects::EngineCommand;
use super::saving::{Prepared, Save, Saver};
use super::state::SharedState;
use super::transfer::Phase;
use super::{FetchSettings, saving, unproved, web};
use crate::model::InfoHash;
use crate::paths::Paths;
use crate::torrent::{EngineError, Swarms};

/// Issues the commands of the state one after another, so that the engine receives them in their order.
pub(super) struct Issuer {
    /// For tasks, which must not keep it alive.
    pub core: Weak<Core>,
    pub engine: Arc<dyn Swarms>,
    pub saver: Saver,
    /// Held while commands are issued, and while pieces are deleted. Locked before the state.
    pub issuing: Mutex<()>,
    paths: Paths,
    settings: Arc<FetchSettings>,
    /// Where requests run: a caller may be on a thread outside the runtime.
    runtime: tokio::runtime::Handle,
}

impl Issuer {
    pub(super) fn new(
        core: Weak<Core>,
        engine: Arc<dyn Swarms>,
        paths: Paths,
        settings: Arc<FetchSettings>,
    ) -> Self {
        Self {
            core,
            engine,
            saver: Saver::start(paths.clone()),
            issuing: Mutex::new(()),
            paths,
            settings,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Issues all queued commands. When it returns, the commands that were queued before the call have been issued.
    pub(super) fn issue(&self, state: &SharedState) {
        let _one_at_a_time = self.issuing.lock();
        loop {
            // The guard is a temporary of this statement: the engine is called without it.
            let Some(command) = state.lock().transfers.effects.next_command() else { return };
            self.execute(command, state);
        }
    }

    fn execute(&self, command: EngineCommand, state: &SharedState) {
        let (id, result) = match command {
            EngineCommand::Add(info_hash) => return self.add(info_hash, state),
            EngineCommand::Orders(id, orders) => {
                let set = if orders.priorities.is_empty() {
                    Ok(())
                } else {
                    self.engine.set_priority(id, &orders.priorities)
                };
                let request = |result: Result<(), EngineError>, &(piece, deadline): &(_, _)| {
                    result.and(self.engine.request(id, piece, deadline))
                };
                let blocks = |result: Result<(), EngineError>, (piece, blocks, deadline): &(_, Vec<_>, _)| {
                    result.and(self.engine.request_blocks(id, *piece, blocks, *deadline))
                };
                let requested = orders.requests.iter().fold(set, request);
                (id, orders.blocks.iter().fold(requested, blocks))
            }
            EngineCommand::Remove(id) => (id, self.engine.remove(id)),
            EngineCommand::Withdraw(id, pieces) => (id, self.engine.withdraw(id, &pieces)),
            EngineCommand::Withhold(id) => (id, self.engine.set_withheld(id, true)),
            EngineCommand::Reannounce(id) => (id, self.engine.reannounce(id)),
            EngineCommand::Redial(id) => (id, self.engine.redial(id)),
            EngineCommand::Connect(id, peer) => (id, self.engine.connect_peer(id, peer)),
            EngineCommand::SaveResume(id) => (id, self.engine.save_resume(id)),
            EngineCommand::ExportMetainfo(id) => (id, self.engine.export_metainfo(id)),
            EngineCommand::Download(download) => {
                if let Some(web) = &self.settings.web {
                    self.runtime.spawn(web::run(self.core.clone(), web.source.clone(), *download));
                }
                return;
            }
            EngineCommand::Prove(proof) => {
                self.runtime.spawn(unproved::run(self.core.clone(), *proof));
                return;
            }
            EngineCommand::Give(id, piece, bytes) => (id, self.engine.give_piece(id, piece, bytes)),
        };
        if let Err(error) = result {
            // The loop in `issue` issues the commands that follow.
            state.change(|state| state.refused(id, &error));
            state.engine_changed.notify_waiters();
        }
    }

    /// Adds a torrent that is still queued.
    fn add(&self, info_hash: InfoHash, state: &SharedState) {
        let (revision, peers, exposure, mut use_saved, with_hashes) = {
            let state = state.lock();
            let transfers = &state.transfers;
            match transfers.all.get(&info_hash).filter(|t| t.phase == Phase::Queued) {
                Some(transfer) => (
                    transfer.revision.clone(),
                    transfers.named_peers(&info_hash),
                    transfers.exposure(&info_hash),
                    !transfer.distrust_saved,
                    transfer.web.is_some(),
                ),
                None => return,
            }
        };
        loop {
            let Prepared { mut torrent, with } =
                saving::prepare(&self.paths, &revision, exposure, use_saved, with_hashes);
            torrent.peers.clone_from(&peers);
            torrent.discovery = exposure.restrict(self.settings.discovery);
            let result = self.engine.add(torrent);
            if with.with_layers && matches!(result, Err(EngineError::BadTorrent(_))) {
                tracing::warn!(%info_hash, "the saved metainfo is damaged; using the manifest's");
                self.saver.save(Save::ForgetMetainfo(info_hash));
                use_saved = false;
                continue;
            }
            state.change(|state| state.added(info_hash, result, with));
            return;
        }
    }
}
