//! Data on disk for the next run: resume data while pieces come, the metainfo with all layers afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::Exposure;
use super::parts::EngineBlocks;
use super::state::SharedState;
use super::transfer::AddedWith;
use crate::fsutil;
use crate::model::metainfo::parse_metainfo;
use crate::model::{InfoHash, PieceHashes, PieceLayers};
use crate::paths::Paths;
use crate::store::{Content, Stamp, StoredRevision};
use crate::torrent::{AddTorrent, Discovery, FileCare, FileStamp, Mode};

/// The longest metainfo or resume file that is read back, in bytes: 100 000 files with long paths, and the layers
/// of 40 TB at 4 MiB a piece.
const MAX_SAVED: u64 = 512 << 20;

/// A file to write or to remove.
#[derive(Debug)]
pub(super) enum Save {
    Resume(InfoHash, Vec<u8>),
    /// With all layers: resume data is no longer needed.
    Metainfo(InfoHash, Vec<u8>),
    /// The engine refused the saved metainfo.
    ForgetMetainfo(InfoHash),
    /// Answered when everything before it is on disk.
    Barrier(oneshot::Sender<()>),
}

/// Writes in a task of its own, in order, so that no event waits for the disk.
#[derive(Debug)]
pub(super) struct Saver(mpsc::UnboundedSender<Save>);

impl Saver {
    /// Starts the task. It ends after the last write when the `Saver` is dropped.
    pub(super) fn start(paths: Paths) -> Self {
        let (tx, mut rx) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(save) = rx.recv().await {
                let paths = paths.clone();
                // A panic was reported.
                let _ = tokio::task::spawn_blocking(move || write(&paths, save)).await;
            }
        });
        Self(tx)
    }

    pub(super) fn save(&self, save: Save) {
        // The task lives as long as `self`, unless the runtime ends.
        let _ = self.0.send(save);
    }

    /// Waits until everything before it is on disk. False when the runtime ends.
    pub(super) async fn flush(&self) -> bool {
        let (reached, on_disk) = oneshot::channel();
        self.save(Save::Barrier(reached));
        on_disk.await.is_ok()
    }
}

fn write(paths: &Paths, save: Save) {
    // Failures are logged only: peers send again what could not be saved.
    match save {
        Save::Resume(info_hash, bytes) => {
            replace(&paths.resume(&info_hash), &bytes);
        }
        Save::Metainfo(info_hash, bytes) => {
            if replace(&paths.metainfo(&info_hash), &bytes) {
                remove(&paths.resume(&info_hash));
            }
        }
        Save::ForgetMetainfo(info_hash) => remove(&paths.metainfo(&info_hash)),
        Save::Barrier(reached) => {
            let _ = reached.send(());
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> bool {
    let written = fsutil::write_atomic(path, bytes, fsutil::MODE_PRIVATE);
    written.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "could not save")).is_ok()
}

fn remove(path: &Path) {
    if let Err(error) = fsutil::remove_if_there(path) {
        tracing::warn!(path = %path.display(), %error, "could not remove");
    }
}

/// A torrent ready to be added, without its peers and discovery.
pub(super) struct Prepared {
    pub torrent: AddTorrent,
    pub with: AddedWith,
}

/// For the engine: the paths of a revision's files, the expected stamps of the files that it only reads, and how uploads of
/// each file are checked.
pub fn places(revision: &StoredRevision) -> (Vec<PathBuf>, Vec<Option<FileStamp>>, Vec<FileCare>) {
    let place = |content: &Arc<Content>| {
        let (path, stamp) = content.place();
        let stamp = stamp.map(|(stamp, changed_ns)| {
            let Stamp { size, mtime_ns, inode } = stamp;
            FileStamp { size, mtime_ns, inode, changed_ns }
        });
        (path, stamp)
    };
    let (paths, stamps) = revision.contents.iter().map(place).unzip();
    let doubted = revision.is_doubted();
    let care = revision.contents.iter().map(|content| FileCare { doubted, granules: content.granules() });
    (paths, stamps, care.collect())
}

/// Collects what the engine needs to join a swarm. Reads saved metainfo, unless the engine refused it (`use_saved`), and
/// resume data. `with_hashes`: the hashes of pieces are needed for HTTP.
pub(super) fn prepare(
    paths: &Paths,
    revision: &StoredRevision,
    exposure: Exposure,
    use_saved: bool,
    with_hashes: bool,
) -> Prepared {
    // Before the paths are read: a file that moves in between counts as moved.
    let given = revision.contents.iter().map(|c| c.moves()).collect();
    let info_hash = revision.manifest.torrent.info_hash;
    let saved = if use_saved { read(&paths.metainfo(&info_hash)) } else { None };
    // Saved metainfo of an imported torrent may lack layers that the manifest has.
    let carries = revision.manifest.files.iter().any(|file| file.piece_layer.is_some());
    let layers = match &saved {
        Some(bytes) if carries || with_hashes => parse_metainfo(bytes).map(|p| p.layers).unwrap_or_default(),
        _ => PieceLayers::default(),
    };
    let saved = saved.filter(|_| !carries || layers.len() >= revision.manifest.piece_layers().len());
    let hashes = with_hashes.then(|| Arc::new(PieceHashes::new(revision.manifest.clone(), layers)));
    let with_layers = saved.is_some();
    let (file_paths, file_stamps, file_care) = places(revision);
    let hidden = exposure == Exposure::Hidden;
    let (have, unproved) =
        if hidden { (revision.have_pieces(), revision.unproved_pieces()) } else { revision.offered_pieces() };
    let blocks = EngineBlocks::of(revision);
    let torrent = AddTorrent {
        info_hash,
        metainfo: saved.unwrap_or_else(|| revision.manifest.metainfo(None)),
        file_paths,
        file_stamps,
        file_care,
        // Reserved bytes are neither offered nor fetched.
        mode: if revision.is_complete() && have.is_full() { Mode::Seed } else { Mode::Lazy },
        have: have.clone(),
        blocks: blocks.ranges(),
        resume: if with_layers { None } else { read(&paths.resume(&info_hash)) },
        peers: Vec::new(),
        discovery: Discovery { dht: false, lan: false, pex: false },
        withheld: hidden,
    };
    Prepared { torrent, with: AddedWith { have, blocks, unproved, given, with_layers, hashes } }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    match fsutil::read_capped(path, MAX_SAVED) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "could not read");
            None
        }
    }
}

/// Waits until the requested resume data is on disk.
pub(super) async fn saved(state: &SharedState, saver: &Saver) {
    state.wait_until(|state| !state.transfers.all.values().any(|transfer| transfer.saving)).await;
    saver.flush().await;
}
