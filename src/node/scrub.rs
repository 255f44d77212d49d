//! The background check: reads uploaded files again, slowly, and withdraws wrong pieces.
//!
//! A torrent is read every two weeks, and soon when the machine stopped while its files were in use, or when the change
//! time of a file has changed. Reading is limited to 4 MiB a second, in a thread of the lowest priority; an interrupted
//! pass continues where it stopped.

use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::Node;
use crate::catalog::now;
use crate::ffi::process::lowest_priority;
use crate::model::merkle::Hash;
use crate::model::{BLOCK_LEN, PieceHashes, PieceIndex};
use crate::store::{Content, Pass, StoredRevision};

/// How long after the start the first piece is read.
const START_AFTER: Duration = Duration::from_secs(10);

/// How often the task searches for a torrent that is due.
const SEARCH_EVERY: Duration = Duration::from_secs(10);

/// How often each torrent is read.
const PASS_EVERY: u64 = 14 * 24 * 3600;

/// Bytes a second: 345 GB a day.
const RATE: u64 = 4 << 20;

/// After how many pieces the progress is saved.
const SAVE_EVERY: u32 = 64;

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<Node>) {
    let Ok(reader) = PieceReader::start() else { return };
    tokio::time::sleep(START_AFTER).await;
    loop {
        let due = match node.upgrade() {
            Some(node) if !node.is_stopping() => next_due(&node),
            _ => return,
        };
        match due {
            Some(revision) => pass(&node, &revision, &reader).await,
            None => tokio::time::sleep(SEARCH_EVERY).await,
        }
    }
}

/// The torrent to read now.
fn next_due(node: &Node) -> Option<Arc<StoredRevision>> {
    let store = &node.library.store;
    let joined = node.fetch.joined();
    let urgency = |revision: &Arc<StoredRevision>| {
        let info_hash = &revision.manifest.torrent.info_hash;
        let soon = store.parts.scrub.is_doubted(info_hash) || node.places.is_touched(info_hash);
        if !soon && store.parts.scrub.pass(info_hash) == Pass::default() {
            // It was verified when it arrived.
            store.parts.scrub.set_pass(info_hash, Pass { at: now(), ..Pass::default() });
        }
        let at = store.parts.scrub.pass(info_hash).at;
        (soon || at + PASS_EVERY <= now()).then_some((!soon, at))
    };
    let due = joined.into_iter().filter(|revision| revision.cached_bytes() > 0);
    let due = due.filter_map(|revision| Some((urgency(&revision)?, revision)));
    due.min_by_key(|(urgency, _)| *urgency).map(|(_, revision)| revision)
}

/// Reads one torrent, or the rest of it.
async fn pass(node: &Weak<Node>, revision: &Arc<StoredRevision>, reader: &PieceReader) {
    let manifest = &revision.manifest;
    let info_hash = manifest.torrent.info_hash;
    let Some((store, mut pass)) = node.upgrade().map(|node| {
        let store = node.library.store.clone();
        let pass = store.parts.scrub.pass(&info_hash);
        // A change that is noticed from now on needs another pass.
        node.places.forget_touch(&info_hash);
        (store, pass)
    }) else {
        return;
    };
    if pass.began == 0 {
        pass = Pass { began: now(), next: 0, ..pass };
    }
    let (of, saved) = (manifest.clone(), store.clone());
    let known =
        tokio::task::spawn_blocking(move || saved.torrents.piece_hashes(&of, saved.torrents.layers(&of)?))
            .await;
    let Ok(Ok(known)) = known else {
        // Without hashes there is no reason to read it.
        return store.parts.scrub.set_pass(&info_hash, Pass { at: pass.began, ..Pass::default() });
    };
    let known = Arc::new(known);
    for (file, span) in revision.layout.spans().iter().enumerate() {
        let content = &revision.contents[file];
        let (began, mut all_right) = (content.change_time(), pass.next <= span.first_piece);
        for piece in pass.next.max(span.first_piece)..span.first_piece + span.pieces {
            if node.upgrade().is_none_or(|node| node.is_stopping()) {
                return store.parts.scrub.set_pass(&info_hash, pass);
            }
            let outcome = reader.check(content, file, piece - span.first_piece, revision, &known).await;
            all_right &= matches!(outcome, PieceCheck::Right(_));
            match outcome {
                PieceCheck::Right(bytes) => tokio::time::sleep(pause(bytes)).await,
                PieceCheck::Wrong(bytes) => {
                    let (node, info_hash) = (node.clone(), info_hash);
                    let withdrawing = tokio::task::spawn_blocking(move || {
                        node.upgrade().map(|node| node.fetch.withdraw_damaged(&info_hash, PieceIndex(piece)))
                    });
                    // A panic in the thread was reported.
                    let _ = withdrawing.await;
                    tokio::time::sleep(pause(bytes)).await;
                }
                PieceCheck::Unknown => {}
            }
            pass.next = piece + 1;
            if pass.next % SAVE_EVERY == 0 {
                store.parts.scrub.set_pass(&info_hash, pass);
            }
        }
        let settled = began.filter(|_| all_right).filter(|began| content.change_time() == Some(*began));
        if let Some(Err(error)) = settled.map(|began| store.placed().set_change_time(content, began)) {
            tracing::warn!(%error, path = %content.path().display(), "could not record a checked file");
        }
    }
    tracing::info!(model = %manifest.model_ref(), "read all stored pieces again");
    store.parts.scrub.set_pass(&info_hash, Pass { at: pass.began, ..Pass::default() });
}

fn pause(bytes: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / RATE as f64)
}

/// The result of reading a piece, with its length in bytes.
enum PieceCheck {
    Right(u64),
    Wrong(u64),
    /// It is absent, cannot be read, or its hash is not known.
    Unknown,
}

/// A piece to read.
struct PieceRead {
    content: Arc<Content>,
    range: std::ops::Range<u64>,
    file: usize,
    number: PieceIndex,
    known: Arc<PieceHashes>,
    answer: oneshot::Sender<PieceCheck>,
}

/// The thread that reads. It ends when this is dropped.
struct PieceReader(mpsc::Sender<PieceRead>);

impl PieceReader {
    fn start() -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<PieceRead>();
        let work = move || {
            lowest_priority();
            for PieceRead { content, range, file, number, known, answer } in queue {
                // The task may have ended.
                let _ = answer.send(check(&content, range, file, number, &known));
            }
        };
        std::thread::Builder::new().name("scrub".to_owned()).spawn(work)?;
        Ok(Self(jobs))
    }

    async fn check(
        &self,
        content: &Arc<Content>,
        file: usize,
        number: u32,
        revision: &StoredRevision,
        known: &Arc<PieceHashes>,
    ) -> PieceCheck {
        let step = u64::from(revision.layout.piece_length());
        let start = u64::from(number) * step;
        let range = start..(start + step).min(content.len());
        let (answer, answered) = oneshot::channel();
        let (content, known, number) = (content.clone(), known.clone(), PieceIndex(number));
        if self.0.send(PieceRead { content, range, file, number, known, answer }).is_err() {
            return PieceCheck::Unknown;
        }
        answered.await.unwrap_or(PieceCheck::Unknown)
    }
}

fn check(
    content: &Content,
    range: std::ops::Range<u64>,
    file: usize,
    number: PieceIndex,
    known: &PieceHashes,
) -> PieceCheck {
    let len = range.end - range.start;
    if known.hash(file, number).is_none() {
        return PieceCheck::Unknown;
    }
    match content.read_to_prove(range) {
        Ok(Some(bytes)) => {
            let leaves: Vec<Hash> =
                bytes.chunks(BLOCK_LEN as usize).map(|block| Sha256::digest(block).into()).collect();
            match known.fits(file, number, leaves) {
                Some(true) => PieceCheck::Right(len),
                Some(false) => PieceCheck::Wrong(len),
                None => PieceCheck::Unknown,
            }
        }
        Ok(None) => PieceCheck::Unknown,
        Err(error) => {
            tracing::debug!(%error, path = %content.path().display(), "could not check a piece");
            PieceCheck::Unknown
        }
    }
}
