//! Requests over HTTP that are under way.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::choose::{Choices, NextRequest, RequestPlan};
use super::shared::{Slot, WebShared};
use super::transfer_web::RunningRequest;
use super::{FOR_READERS, PER_TORRENT, PieceDownload, WebError, WebRequest};
use crate::fetch::claim::ClaimId;
use crate::fetch::effects::{Effects, EngineCommand};
use crate::fetch::handed::HandedFrom;
use crate::fetch::transfer::Transfer;
use crate::fetch::transfers::AllTransfers;
use crate::model::{InfoHash, PieceIndex};

/// After this many requests without a whole piece, the bytes of the next one do not count as progress.
const MAX_FAILED: u32 = 8;

/// The shortest time between two choices of requests for one torrent: with small pieces, much happens in one second.
const CHOOSE_EVERY: Duration = Duration::from_millis(10);

impl WebShared {
    /// Ends requests of a torrent that are not needed, and begins those that are due.
    pub(in crate::fetch) fn request(&mut self, transfer: &mut Transfer, effects: &mut Effects) {
        let now = effects.now;
        let piece_length = transfer.revision.layout.piece_length();
        let Some(web) = &mut transfer.web else { return };
        web.requests.retain(|request| request.is_needed(&transfer.wants, piece_length));
        if let Some(next) = web.chosen.map(|at| at + CHOOSE_EVERY).filter(|&next| next > now) {
            web.next = Some(web.next.map_or(next, |at| at.min(next)));
            return effects.wake_by(next);
        }
        web.chosen = Some(now);
        loop {
            let next = self.next_request(transfer, now);
            let Some(web) = &mut transfer.web else { return };
            match next {
                NextRequest::Start(plan) => {
                    // When a slot is free, the timer runs.
                    let Some(slot) = self.slot(plan.for_reader) else { return web.set_next(None, effects) };
                    self.begin(transfer, plan, slot, effects);
                }
                NextRequest::None { until } => return web.set_next(until, effects),
            }
        }
    }

    fn next_request(&self, transfer: &Transfer, now: Instant) -> NextRequest {
        let requests = transfer.web.as_ref().map_or(0, |web| web.requests.len());
        if requests >= PER_TORRENT || transfer.running().is_none() || !transfer.wants.any() {
            return NextRequest::None { until: None };
        }
        match Choices::at(transfer, now) {
            Some(choices) => choices.next(&self.servers, requests >= PER_TORRENT - FOR_READERS),
            None => NextRequest::None { until: None },
        }
    }

    fn begin(&self, transfer: &mut Transfer, plan: RequestPlan, slot: Slot, effects: &mut Effects) {
        let RequestPlan { source, url, file, pieces, .. } = plan;
        let info_hash = transfer.info_hash();
        let Some(web) = &mut transfer.web else { return };
        let Some(hashes) = web.hashes.clone() else { return };
        let id = effects.new_id();
        let span = transfer.revision.layout.spans()[file];
        let piece_length = u64::from(transfer.revision.layout.piece_length());
        let at = |piece: u32| (u64::from(piece - span.first_piece) * piece_length).min(span.len);
        let request = WebRequest { url, range: at(pieces.start)..at(pieces.end), file_len: span.len };
        tracing::debug!(%info_hash, url = request.url, range = ?request.range, "requesting pieces over HTTP");
        let (end, ended) = oneshot::channel();
        let download = PieceDownload {
            info_hash,
            id,
            file,
            request,
            first_piece: span.first_piece,
            pieces: pieces.clone(),
            piece_length,
            hashes,
            memory: self.memory.clone(),
            ended,
        };
        // Only after peers had their time: a reader may also have waited while peers sent slowly.
        web.alone |= transfer.peers.connected.is_empty();
        let wanted = pieces.clone().filter(|&p| transfer.wants.is_claimed(p)).collect();
        web.requests.push(RunningRequest { id, source, file, rest: pieces, wanted, _slot: slot, _end: end });
        effects.send(EngineCommand::Download(Box::new(download)));
    }

    /// Records a piece that came over HTTP and matches its hash: the engine gets it, unless it has it by now.
    pub(super) fn piece_came(
        &mut self,
        transfers: &mut AllTransfers,
        (info_hash, id): (InfoHash, ClaimId),
        piece: u32,
        bytes: Vec<u8>,
        memory: OwnedSemaphorePermit,
    ) {
        let Some(transfer) = transfers.all.get_mut(&info_hash) else { return };
        let (Some(engine), Some(web)) = (transfer.running(), &mut transfer.web) else { return };
        let Some(request) = web.requests.iter_mut().find(|r| r.id == id) else { return };
        request.rest.start = piece + 1;
        web.sources.delivered(request.source, request.file, &mut self.servers);
        web.trouble = None;
        web.failed_in_a_row = 0;
        transfers.effects.mark_changed(info_hash);
        let owner = transfer.revision.layout.owner(PieceIndex(piece));
        let verified = owner.is_none_or(|(file, range)| transfer.revision.contents[file].has(range));
        if verified || transfer.engine_has.contains(piece as usize) {
            return;
        }
        let until = transfer.handed.insert(piece, HandedFrom::Web, memory, transfers.effects.now);
        transfers.effects.send(EngineCommand::Give(engine, PieceIndex(piece), bytes));
        transfers.effects.wake_by(until);
    }

    /// Records the end of a request.
    pub(super) fn request_ended(
        &mut self,
        transfers: &mut AllTransfers,
        (info_hash, id): (InfoHash, ClaimId),
        result: Result<(), WebError>,
    ) {
        let Some(transfer) = transfers.all.get_mut(&info_hash) else { return };
        let Some(web) = &mut transfer.web else { return };
        let Some(at) = web.requests.iter().position(|r| r.id == id) else { return };
        let request = web.requests.swap_remove(at);
        transfers.effects.mark_changed(info_hash);
        if let Err(error) = result {
            tracing::warn!(%info_hash, %error, "a request over HTTP failed");
            web.sources.failed(
                request.source,
                request.file,
                &error,
                &mut self.servers,
                transfers.effects.now,
            );
            web.failed_in_a_row = web.failed_in_a_row.saturating_add(1);
            web.trouble = Some(error.to_string());
            transfer.last_error = Some(error.to_string());
        }
    }
}

/// Records bytes that came over HTTP.
pub(super) fn bytes_came(transfers: &mut AllTransfers, (info_hash, id): (InfoHash, ClaimId), bytes: u64) {
    let now = transfers.effects.now;
    let Some(transfer) = transfers.all.get_mut(&info_hash) else { return };
    let web = transfer.web.as_mut().filter(|web| web.requests.iter().any(|r| r.id == id));
    let Some(web) = web else { return };
    web.received += bytes;
    web.meter.add(bytes, now);
    if web.failed_in_a_row < MAX_FAILED {
        transfer.progressed(now);
    }
}
