//! Checks the shared directories outside the cache: a disk may be disconnected, a file changed.
//!
//! Each directory is checked every few seconds, a bounded number of files at a time. An absent directory is withdrawn,
//! checked again with growing pauses, and offered again when it returns unchanged. A changed file is proved again
//! before it is offered. `status` reports each problem and the command that helps.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{Node, NodeError, blocking};
use crate::model::hash::Control;
use crate::model::{InfoHash, Manifest};
use crate::store::Stamp;
use crate::store::placement::PlacedDirId;
use crate::store::tend::{CheckedFiles, Fault, FaultyFile};

/// How often the task searches for directories that are due.
const TICK: Duration = Duration::from_secs(1);

/// How often a directory without a fault is checked.
const EVERY: Duration = Duration::from_secs(5);

/// The longest pause between two checks of a directory with a fault; the first is [`TICK`], each further twice as long.
const LONGEST: Duration = Duration::from_secs(30);

/// The most files in one check of a directory.
const FILES_AT_A_TIME: usize = 256;

/// A file system that has not answered for this long counts as absent.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The state of one directory between two checks.
#[derive(Debug)]
struct DirCheck {
    due: Instant,
    pause: Duration,
    next: usize,
    /// The running check, its start, and whether its deadline has passed.
    running: Option<(JoinHandle<CheckedFiles>, Instant, bool)>,
    /// Faults of this pass over the files, and the stamps of changed files in the pass before.
    faulty: Vec<FaultyFile>,
    changed: HashMap<PathBuf, Option<Stamp>>,
    /// The task that proves changed files again.
    proving: Option<TendingTask>,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct TendingTask(JoinHandle<()>);

impl Drop for TendingTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DirCheck {
    fn new(now: Instant) -> Self {
        Self {
            due: now,
            pause: TICK,
            next: 0,
            running: None,
            faulty: Vec::new(),
            changed: HashMap::new(),
            proving: None,
        }
    }

    /// Applies the result of a check. Returns the faults of the whole directory when all files were checked.
    fn apply(&mut self, tended: CheckedFiles, now: Instant) -> Option<Vec<FaultyFile>> {
        self.faulty.extend(tended.faulty);
        self.next = tended.next;
        let all_absent = self.faulty.iter().all(|file| matches!(file.fault, Fault::Absent(_)));
        let is_over = self.next == 0;
        let faulty = is_over.then(|| std::mem::take(&mut self.faulty));
        let fine = faulty.as_ref().map_or(!all_absent, Vec::is_empty);
        self.pause = if fine { TICK } else { (self.pause * 2).min(LONGEST) };
        // A large directory continues soon: it needs several checks.
        self.due = now
            + match (&faulty, fine) {
                (None, _) => TICK,
                (Some(_), true) => EVERY,
                (Some(_), false) => self.pause,
            };
        faulty
    }
}

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<Node>) {
    let mut rounds: HashMap<PlacedDirId, DirCheck> = HashMap::new();
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let Some(node) = node.upgrade() else { return };
        if node.is_stopping() {
            return;
        }
        let manifests: HashMap<InfoHash, Arc<Manifest>> =
            node.library.manifests().into_iter().map(|m| (m.torrent.info_hash, m)).collect();
        let mut places = node.library.store.placed().all();
        // Faults of former states are not reported.
        places.retain(|place| manifests.contains_key(&place.info_hash));
        let known: HashSet<&PlacedDirId> = places.iter().collect();
        rounds.retain(|place, _| known.contains(place));
        node.places.retain(&known);
        for place in &places {
            let round = rounds.entry(place.clone()).or_insert_with(|| DirCheck::new(Instant::now()));
            check(&node, place, round, &manifests[&place.info_hash]).await;
        }
    }
}

/// Starts the check of a directory that is due, or applies the result of a check that has ended.
async fn check(node: &Arc<Node>, place: &PlacedDirId, round: &mut DirCheck, manifest: &Arc<Manifest>) {
    let now = Instant::now();
    match &mut round.running {
        Some((looking, _, _)) if looking.is_finished() => {}
        Some((_, since, given_up)) => {
            if now.duration_since(*since) >= ANSWERS_WITHIN && !*given_up {
                *given_up = true;
                let why = Fault::Absent("its file system does not answer".to_owned());
                let file = FaultyFile {
                    path: String::new(),
                    at: place.dir.clone(),
                    fault: why,
                    ours: false,
                    stamp: None,
                };
                node.places.report(place, manifest, &[file]);
                if node.library.store.placed().leave(place) {
                    files_moved(node, place);
                }
            }
            return;
        }
        None if round.due > now => return,
        None => {
            if round.proving.take_if(|proving| proving.0.is_finished()).is_none() && round.proving.is_some() {
                return;
            }
            let (store, fetch) = (node.library.store.clone(), node.fetch.clone());
            let (at, from) = (place.clone(), round.next);
            let looking = tokio::task::spawn_blocking(move || {
                store.placed().check(&at, from, FILES_AT_A_TIME, &|key| !fetch.waited_for(key).is_empty())
            });
            round.running = Some((looking, now, false));
            return;
        }
    }
    let Some((looking, _, _)) = round.running.take() else { return };
    // A panic in there was reported.
    let Ok(tended) = looking.await else { return };
    if tended.moved {
        files_moved(node, place);
    }
    let Some(faulty) = round.apply(tended, now) else { return };
    node.places.report(place, manifest, &faulty);
    let is_back = faulty.iter().all(|file| file.fault == Fault::Touched);
    if is_back && node.places.is_expected(&place.info_hash) {
        files_moved(node, place);
    }
    if faulty.iter().any(|file| file.fault == Fault::Touched) {
        node.places.touch(place.info_hash);
    }
    // The twin is seeded whole or not at all.
    if !is_back {
        node.seeds.leave_hybrid(manifest);
    } else if let Err(error) = node.seeds.rejoin_hybrid(manifest) {
        tracing::warn!(%error, model = %manifest.model_ref(), "could not seed a hybrid torrent");
    }
    let (mut changed, mut settled) = (HashMap::new(), Vec::new());
    for file in faulty.into_iter().filter(|file| matches!(file.fault, Fault::Changed)) {
        // The stamp of a file that is being written changes until the next check.
        if round.changed.get(&file.at).is_some_and(|stamp| *stamp == file.stamp) {
            settled.push(file);
        } else {
            changed.insert(file.at, file.stamp);
        }
    }
    round.changed = changed;
    if round.changed.is_empty() && settled.is_empty() {
        return;
    }
    round.due = now + 2 * TICK;
    if !settled.is_empty() {
        let (node, manifest) = (Arc::downgrade(node), manifest.clone());
        round.proving = Some(TendingTask(tokio::spawn(async move {
            for file in settled {
                let Some(node) = node.upgrade() else { return };
                prove_again(&node, &manifest, file).await;
            }
        })));
    }
}

/// Updates the engine after files of a directory have gone or returned, and offers returned files again.
fn files_moved(node: &Arc<Node>, place: &PlacedDirId) {
    for revision in node.fetch.joined() {
        let is_whole = revision.is_complete();
        node.fetch.relocate(&revision);
        let twin_left = (revision.manifest.torrent.info_hash == place.info_hash || !is_whole)
            && node.seeds.leave_hybrid(&revision.manifest);
        if (twin_left || node.places.is_expected(&revision.manifest.torrent.info_hash))
            && is_whole
            && let Err(error) = node.seeds.join(&revision)
        {
            tracing::warn!(%error, model = %revision.manifest.model_ref(), "could not seed a model");
        }
    }
    if node.places.is_expected(&place.info_hash) && node.fetch.joined_as(&place.info_hash).is_none() {
        // This skips withheld models, and models without any stored byte.
        if let Err(error) = node.seed_local() {
            tracing::warn!(%error, "could not seed files that have returned");
        }
    }
    node.changed();
}

/// Reads a changed file again, offers its right pieces, and withdraws the wrong ones.
async fn prove_again(node: &Arc<Node>, manifest: &Arc<Manifest>, file: FaultyFile) {
    let _one_at_a_time = node.places.proving.lock().await;
    // Another job has the turn: it moves or reads the files itself.
    let Some(turn) = node.jobs.try_turn(&manifest.torrent.info_hash) else { return };
    let (holder, manifest) = (node.clone(), manifest.clone());
    let (at, place) =
        (file.at.clone(), PlacedDirId { info_hash: manifest.torrent.info_hash, dir: file.at.clone() });
    let proved = blocking::cancellable(move |cancel| {
        let _until_done = turn;
        let store = &holder.library.store;
        let revision = store.revision(manifest.clone())?;
        let Some(index) = manifest.files.iter().position(|entry| entry.path == file.path) else {
            return Ok(None);
        };
        let known = store.torrents.piece_hashes(&manifest, store.torrents.layers(&manifest)?)?;
        let watch = Control { progress: &|_| (), cancel };
        let layer = known.layer(index);
        Ok::<_, NodeError>(Some(store.placed().prove(&revision, index, &file.at, layer.as_deref(), watch)?))
    });
    match proved.await {
        Ok(Some((wrong, moved))) => {
            tracing::info!(path = %at.display(), wrong, "proved a changed file again");
            if moved {
                files_moved(node, &place);
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, path = %at.display(), "could not prove a changed file again"),
    }
}
