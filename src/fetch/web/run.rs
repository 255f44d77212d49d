//! One request: from asking to the last piece.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::{BLOCK_WITHIN, OPEN_WITHIN, WebBody, WebError, WebRequest, WebSource};
use crate::fetch::Fetch;
use crate::fetch::wants::ClaimId;
use crate::model::merkle::Hash;
use crate::model::{BLOCK_LEN, InfoHash, PieceHashes, PieceIndex};

/// How often bytes that came are told, so that those who wait know that something comes.
const TELL_EVERY: Duration = Duration::from_millis(500);

const BLOCK: usize = BLOCK_LEN as usize;

/// What is to be done.
#[derive(Debug)]
pub(in crate::fetch) struct Job {
    pub ih: InfoHash,
    /// The request's name in the state.
    pub id: ClaimId,
    pub file: usize,
    pub request: WebRequest,
    /// The file's first piece.
    pub first_piece: u32,
    /// The pieces of the torrent that the range holds.
    pub pieces: Range<u32>,
    pub piece_length: u64,
    pub hashes: Arc<PieceHashes>,
    /// What bounds the bytes in memory, in blocks.
    pub memory: Arc<Semaphore>,
    /// Fails when nobody wants it any more.
    pub ended: oneshot::Receiver<()>,
}

/// Runs a request to its end, or until nobody wants it any more.
pub(in crate::fetch) async fn run(fetch: Weak<Fetch>, source: Arc<dyn WebSource>, mut job: Job) {
    let ended = std::mem::replace(&mut job.ended, oneshot::channel().1);
    let (ih, id) = (job.ih, job.id);
    let result = tokio::select! {
        biased;
        _ = ended => return,
        result = fetch_pieces(&fetch, &*source, job) => result,
    };
    if let Some(fetch) = fetch.upgrade() {
        fetch.with(|state, now| state.web_request_ended(ih, id, result, now));
    }
}

async fn fetch_pieces(fetch: &Weak<Fetch>, source: &dyn WebSource, job: Job) -> Result<(), WebError> {
    let url = &job.request.url;
    let opened = timeout(OPEN_WITHIN, source.open(job.request.clone())).await;
    let body = opened.map_err(|_| {
        WebError::Unreachable(format!("{url} did not answer within {} s", OPEN_WITHIN.as_secs()))
    })??;
    let mut incoming =
        Incoming { body, rest: Bytes::new(), fetch, ih: job.ih, id: job.id, untold: 0, told: Instant::now() };
    let result = take_pieces(&mut incoming, &job).await;
    incoming.tell();
    result
}

async fn take_pieces(incoming: &mut Incoming<'_>, job: &Job) -> Result<(), WebError> {
    let url = &job.request.url;
    let mut at = job.request.range.start;
    for piece in job.pieces.clone() {
        let len = job.piece_length.min(job.request.range.end - at);
        at += len;
        let blocks = u32::try_from(len.div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let Ok(memory) = job.memory.clone().acquire_many_owned(blocks).await else { return Ok(()) };
        let (bytes, leaves) = incoming.piece(len as usize, url).await?;
        let number = PieceIndex(piece - job.first_piece);
        match job.hashes.fits(job.file, number, leaves) {
            Some(true) => {}
            Some(false) => {
                return Err(WebError::Lied(format!("{url} has other bytes than the manifest says")));
            }
            None => return Ok(()),
        }
        incoming.tell();
        let Some(fetch) = incoming.fetch.upgrade() else { return Ok(()) };
        fetch.with(|state, now| state.web_piece_came(job.ih, job.id, piece, bytes, memory, now));
    }
    Ok(())
}

/// The bytes of an answer.
struct Incoming<'a> {
    body: WebBody,
    /// Came, and not used yet.
    rest: Bytes,
    fetch: &'a Weak<Fetch>,
    ih: InfoHash,
    id: ClaimId,
    untold: u64,
    told: Instant,
}

impl Incoming<'_> {
    /// The next `len` bytes, and the hashes of their blocks.
    async fn piece(&mut self, len: usize, url: &str) -> Result<(Vec<u8>, Vec<Hash>), WebError> {
        // It grows as bytes come, not before.
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
                    self.untold += self.rest.len() as u64;
                    if self.told.elapsed() >= TELL_EVERY {
                        self.tell();
                    }
                }
                let part = self.rest.split_to(self.rest.len().min(begin + block - bytes.len()));
                bytes.extend_from_slice(&part);
            }
            leaves.push(Sha256::digest(&bytes[begin..]).into());
        }
        Ok((bytes, leaves))
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        let bytes = std::mem::take(&mut self.untold);
        if let Some(fetch) = self.fetch.upgrade().filter(|_| bytes > 0) {
            fetch.with(|state, now| state.web_bytes_came(self.ih, self.id, bytes, now));
        }
    }
}
