//! The one task that looks at the clock: deadlines, searches for peers, stale cursors, resume data.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::state::{Command, State};
use super::transfer::{Phase, Search};
use super::waiters::{Answer, Kind, earliest};
use super::wants::ClaimId;
use super::web::TransferWeb;
use super::{Fetch, ReadError};
use crate::model::InfoHash;
use crate::store::ContentKey;

/// How often resume data of a torrent that changed is written.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(30);

/// The timer sleeps no longer than this, whatever it believes.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Runs until `Fetch` is dropped.
pub(super) async fn run(fetch: Weak<Fetch>, wake: Arc<Notify>) {
    loop {
        let next = match fetch.upgrade() {
            Some(fetch) => fetch.tick(),
            None => return,
        };
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

impl Fetch {
    /// Does all that is due. Returns when to look again.
    fn tick(&self) -> Instant {
        self.with(|state, now| {
            state.end_overdue_waits(now);
            state.finish_overdue_removals(now);
            state.search_for_peers(now);
            self.tell_starving(state);
            state.spread_long_waits(now);
            state.save_what_changed(now);
            state.end_overdue_proofs(now);
            state.prove_in_background(now);
            state.ask_the_web_for_all(now);
            state.rest_stale_cursors(now);
            state.wake_at = None;
            let next = state.next_look().unwrap_or(now + LONGEST_SLEEP);
            state.timer_at = next;
            next
        })
    }
}

impl Fetch {
    fn tell_starving(&self, state: &State) {
        let starving = state.transfers.iter().filter(|(_, t)| t.dial.goes_on()).map(|(ih, _)| *ih).collect();
        self.starving.send_if_modified(|known| {
            let changes = *known != starving;
            *known = starving;
            changes
        });
    }
}

impl State {
    fn end_overdue_waits(&mut self, now: Instant) {
        let mut over: Vec<(ContentKey, ClaimId)> = Vec::new();
        for root in &self.hot {
            let Some(content) = self.contents.get_mut(root) else { continue };
            for (id, waiter) in content.waiters.iter_mut().filter(|(_, w)| w.deadline.due() <= now) {
                let sources: HashSet<InfoHash> =
                    waiter.claims.iter().map(|(ih, _)| *ih).chain([waiter.via.0]).collect();
                let progress = sources
                    .iter()
                    .filter_map(|ih| self.transfers.get(ih))
                    .filter_map(|t| t.last_progress)
                    .max();
                if waiter.deadline.expired(now, progress) {
                    over.push((*root, *id));
                }
            }
        }
        for (root, id) in over {
            let answer = self.time_out(&root, id, now);
            self.answer(&root, id, answer);
        }
    }

    fn time_out(&mut self, root: &ContentKey, id: ClaimId, now: Instant) -> Answer {
        let Some(waiter) = self.contents.get(root).and_then(|c| c.waiters.get(&id)) else {
            return Err(ReadError::Stopped);
        };
        let why = self.transfers.get(&waiter.via.0).map_or_else(String::new, |t| t.why_nothing_comes());
        for (ih, piece) in &waiter.claims {
            let Some(transfer) = self.transfers.get_mut(ih) else { continue };
            if waiter.kind == Kind::Read {
                transfer.remember_timeout([*piece], now);
            }
            transfer.last_error = Some(format!("timed out: {why}"));
        }
        Err(ReadError::TimedOut(why))
    }

    fn finish_overdue_removals(&mut self, now: Instant) {
        let overdue = |phase: &Phase| matches!(phase, Phase::Removing { until, .. } if *until <= now);
        let late: Vec<InfoHash> = self
            .transfers
            .iter()
            .filter(|(ih, t)| overdue(&t.phase) && !self.is_held(ih))
            .map(|(ih, _)| *ih)
            .collect();
        for ih in late {
            tracing::warn!(%ih, "The engine did not say that it let go of a torrent; adding it anew all the same.");
            self.out_of_engine(ih);
        }
    }

    /// Calls the known peers of torrents that reads wait for and that give nothing, and searches for more, less and less
    /// often.
    fn search_for_peers(&mut self, now: Instant) {
        let waited_for: HashSet<InfoHash> =
            self.waiters().flat_map(|w| w.claims.iter().map(|(ih, _)| *ih).chain([w.via.0])).collect();
        let mut stuck = Vec::new();
        for (ih, transfer) in &mut self.transfers {
            if !waited_for.contains(ih) {
                transfer.search.end();
                transfer.dial.end();
                continue;
            }
            let Some(id) = transfer.running() else { continue };
            if transfer.is_silent(now) {
                if transfer.dial.start_now(now) <= now {
                    transfer.dial.made(now);
                    self.outbox.push_back(Command::Redial(id));
                }
            } else {
                transfer.dial.end();
                transfer.dial.next = transfer.silent_at();
            }
            if transfer.search.start(now) > now {
                continue;
            }
            if transfer.is_alive(now) {
                transfer.search.end();
                transfer.search.start(now);
                continue;
            }
            transfer.search.made(now);
            self.outbox.push_back(Command::Reannounce(id));
            stuck.push(*ih);
        }
        for ih in stuck {
            self.reroute_waiters_of(ih, now);
        }
    }

    fn save_what_changed(&mut self, now: Instant) {
        for (ih, transfer) in &mut self.transfers {
            let Some(id) = transfer.running() else { continue };
            if !transfer.resume_dirty || now < transfer.next_save {
                continue;
            }
            transfer.next_save = now + SAVE_EVERY;
            transfer.resume_dirty = false;
            transfer.saving = true;
            self.outbox.push_back(Command::SaveResume(id));
            if transfer.engine_has.is_full() && !transfer.metainfo_saved && !transfer.exporting {
                tracing::debug!(%ih, "Asking again for all piece layers.");
                transfer.exporting = true;
                self.outbox.push_back(Command::ExportMetainfo(id));
            }
        }
    }

    fn next_look(&self) -> Option<Instant> {
        let waits = self.hot.iter().filter_map(|root| earliest(&self.contents.get(root)?.waiters)).min();
        let transfers = self
            .transfers
            .iter()
            .filter_map(|(ih, t)| {
                let removal = match t.phase {
                    Phase::Removing { until, .. } if !self.is_held(ih) => Some(until),
                    _ => None,
                };
                let waits = |search: &Search| search.next.filter(|_| t.running().is_some());
                let (search, dial) = (waits(&t.search), waits(&t.dial));
                let save = t.running().filter(|_| t.resume_dirty).map(|_| t.next_save);
                let web = t.web.as_ref().and_then(TransferWeb::next);
                [removal, search, dial, save, web, t.handed.next()].into_iter().flatten().min()
            })
            .min();
        [waits, transfers, self.next_stale(), self.next_proof].into_iter().flatten().min()
    }
}
