//! One request over HTTP, from its start to the last piece.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::requests::bytes_came;
use super::{BLOCK_WITHIN, OPEN_WITHIN, PieceDownload, WebBody, WebError, WebSource};
use crate::fetch::claim::ClaimId;
use crate::fetch::core::Core;
use crate::model::merkle::Hash;
use crate::model::{BLOCK_LEN, InfoHash, PieceIndex};

/// How often bytes that came are reported, so that the deadlines of reads are postponed.
const REPORT_EVERY: Duration = Duration::from_millis(500);

const BLOCK: usize = BLOCK_LEN as usize;

/// Runs a request to its end, or until it is no longer needed.
pub(in crate::fetch) async fn run(core: Weak<Core>, source: Arc<dyn WebSource>, mut download: PieceDownload) {
    let ended = std::mem::replace(&mut download.ended, oneshot::channel().1);
    let request = (download.info_hash, download.id);
    let result = tokio::select! {
        biased;
        _ = ended => return,
        result = fetch_pieces(&core, &*source, download) => result,
    };
    if let Some(core) = core.upgrade() {
        core.with(|state| state.web.request_ended(&mut state.transfers, request, result));
    }
}

async fn fetch_pieces(
    core: &Weak<Core>,
    source: &dyn WebSource,
    download: PieceDownload,
) -> Result<(), WebError> {
    let url = &download.request.url;
    let opened = timeout(OPEN_WITHIN, source.open(download.request.clone())).await;
    let body = opened.map_err(|_| {
        WebError::Unreachable(format!("{url} did not answer within {} s", OPEN_WITHIN.as_secs()))
    })??;
    let mut incoming = IncomingPieces {
        body,
        rest: Bytes::new(),
        core,
        request: (download.info_hash, download.id),
        unreported: 0,
        reported: Instant::now(),
    };
    let result = receive_pieces(&mut incoming, &download).await;
    incoming.report();
    result
}

async fn receive_pieces(incoming: &mut IncomingPieces<'_>, download: &PieceDownload) -> Result<(), WebError> {
    let url = &download.request.url;
    let mut at = download.request.range.start;
    for piece in download.pieces.clone() {
        let len = download.piece_length.min(download.request.range.end - at);
        at += len;
        let blocks = u32::try_from(len.div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let Ok(memory) = download.memory.clone().acquire_many_owned(blocks).await else { return Ok(()) };
        let (bytes, leaves) = incoming.piece(len as usize, url).await?;
        let number = PieceIndex(piece - download.first_piece);
        match download.hashes.fits(download.file, number, leaves) {
            Some(true) => {}
            Some(false) => {
                return Err(WebError::Lied(format!("{url} sent bytes that do not match the manifest")));
            }
            None => return Ok(()),
        }
        incoming.report();
        let Some(core) = incoming.core.upgrade() else { return Ok(()) };
        let request = incoming.request;
        core.with(|state| {
            state.web.piece_came(&mut state.transfers, request, piece, bytes, memory);
        });
    }
    Ok(())
}

/// The bytes of a response.
struct IncomingPieces<'a> {
    body: WebBody,
    /// Received, and not used yet.
    rest: Bytes,
    core: &'a Weak<Core>,
    request: (InfoHash, ClaimId),
    /// Bytes.
    unreported: u64,
    reported: Instant,
}

impl IncomingPieces<'_> {
    /// The next `len` bytes, and the hashes of their blocks.
    async fn piece(&mut self, len: usize, url: &str) -> Result<(Vec<u8>, Vec<Hash>), WebError> {
        // Without a capacity: a server that sends nothing costs no memory.
        let mut bytes = Vec::new();
        let mut leaves = Vec::new();
        while bytes.len() < len {
            let block = BLOCK.min(len - bytes.len());
            let begin = bytes.len();
            let until = Instant::now() + BLOCK_WITHIN;
            while bytes.len() < begin + block {
                if self.rest.is_empty() {
                    let slow = |_| {
                        let seconds = BLOCK_WITHIN.as_secs();
                        WebError::Unreachable(format!("{url} sent less than 16 KiB in {seconds} s"))
                    };
                    let next = timeout_at(until, self.body.next()).await.map_err(slow)?;
                    let ended = || WebError::Unreachable(format!("{url} sent less than it was asked for"));
                    self.rest = next.ok_or_else(ended)??;
                    self.unreported += self.rest.len() as u64;
                    if self.reported.elapsed() >= REPORT_EVERY {
                        self.report();
                    }
                }
                let part = self.rest.split_to(self.rest.len().min(begin + block - bytes.len()));
                bytes.extend_from_slice(&part);
            }
            leaves.push(Sha256::digest(&bytes[begin..]).into());
        }
        Ok((bytes, leaves))
    }

    fn report(&mut self) {
        self.reported = Instant::now();
        let bytes = std::mem::take(&mut self.unreported);
        if let Some(core) = self.core.upgrade().filter(|_| bytes > 0) {
            core.with(|state| bytes_came(&mut state.transfers, self.request, bytes));
        }
    }
}
