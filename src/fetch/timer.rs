//! The one task that depends on the clock: deadlines, searches for peers, stale cursors, resume data.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::core::Core;
use super::effects::EngineCommand;
use super::search::Attempts;
use super::state::FetchState;
use super::transfer::Phase;
use super::transfers::AllTransfers;
use super::web::TransferWeb;
use crate::model::InfoHash;

/// The timer runs at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Runs until the scheduler is dropped.
pub(super) async fn run(core: Weak<Core>, wake: Arc<Notify>) {
    loop {
        let next = match core.upgrade() {
            Some(core) => core.with(|state| {
                let next = state.run_timer();
                core.starving.send_if_modified(|known| {
                    let starving = state.starving();
                    let changes = *known != starving;
                    *known = starving;
                    changes
                });
                next
            }),
            None => return,
        };
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

impl FetchState {
    /// Does all that is due. Returns when to run next.
    fn run_timer(&mut self) -> Instant {
        let now = self.transfers.effects.now;
        let Self { transfers, contents, proofs, web, .. } = self;
        contents.end_overdue_waits(transfers);
        transfers.finish_overdue_removals();
        for stuck in transfers.search_for_peers(&contents.waited_for_torrents()) {
            contents.reroute_shared(stuck, transfers);
        }
        contents.spread_long_waits(transfers);
        transfers.save_changed(false);
        transfers.all.values_mut().for_each(|transfer| transfer.end_overdue_verifications(now));
        if !self.stopped {
            proofs.prove_in_background(transfers, contents.waiters().next().is_none());
        }
        for transfer in transfers.all.values_mut() {
            web.request(transfer, &mut transfers.effects);
        }
        contents.rest_stale_cursors(transfers);
        let due = [contents.next_deadline(), transfers.next_due(), contents.next_stale(), proofs.next()];
        let next = due.into_iter().flatten().min().unwrap_or(now + LONGEST_SLEEP);
        transfers.effects.timer_runs(next);
        next
    }
}

impl AllTransfers {
    fn finish_overdue_removals(&mut self) {
        let now = self.effects.now;
        let overdue = |phase: &Phase| matches!(phase, Phase::Removing { until, .. } if *until <= now);
        let late = self.all.iter().filter(|(hash, t)| overdue(&t.phase) && !self.is_held(hash));
        for info_hash in late.map(|(hash, _)| *hash).collect::<Vec<_>>() {
            tracing::warn!(%info_hash, "the engine did not confirm the release of a torrent; adding it again");
            self.add_or_hold(info_hash);
        }
    }

    /// Calls the known peers of torrents that reads wait for and that send nothing, and searches for more, with growing
    /// pauses. Returns the torrents for which a search was started.
    fn search_for_peers(&mut self, waited_for: &HashSet<InfoHash>) -> Vec<InfoHash> {
        let now = self.effects.now;
        let mut stuck = Vec::new();
        for (info_hash, transfer) in &mut self.all {
            if !waited_for.contains(info_hash) {
                transfer.peers.search.end();
                transfer.peers.dial.end();
                continue;
            }
            let Some(id) = transfer.running() else { continue };
            let (silent, alive, silent_at) =
                (transfer.is_silent(now), transfer.is_alive(now), transfer.silent_at());
            let peers = &mut transfer.peers;
            if !silent {
                peers.dial.end();
                peers.dial.next = silent_at;
            } else if peers.dial.start_now(now) <= now {
                peers.dial.made(now);
                self.effects.send(EngineCommand::Redial(id));
            }
            if peers.search.start(now) > now {
                continue;
            }
            if alive {
                peers.search.end();
                peers.search.start(now);
                continue;
            }
            peers.search.made(now);
            self.effects.send(EngineCommand::Reannounce(id));
            stuck.push(*info_hash);
        }
        stuck
    }

    /// When the clock next matters to a transfer.
    fn next_due(&self) -> Option<Instant> {
        let next = |(info_hash, transfer): (&InfoHash, &super::transfer::Transfer)| {
            let removal = match transfer.phase {
                Phase::Removing { until, .. } if !self.is_held(info_hash) => Some(until),
                _ => None,
            };
            let running = transfer.running().is_some();
            let attempt = |attempts: &Attempts| attempts.next.filter(|_| running);
            let (search, dial) = (attempt(&transfer.peers.search), attempt(&transfer.peers.dial));
            let save = Some(transfer.next_save).filter(|_| running && transfer.resume_dirty);
            let web = transfer.web.as_ref().and_then(TransferWeb::next);
            [removal, search, dial, save, web, transfer.handed.next()].into_iter().flatten().min()
        };
        self.all.iter().filter_map(next).min()
    }
}
