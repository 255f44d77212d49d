//! What is kept on disk between two runs: resume data while pieces come, the metainfo with all layers afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::sync::{mpsc, oneshot};

use super::state::Command;
use super::{Fetch, FetchSettings};
use crate::fsutil;
use crate::model::metainfo::parse_metainfo;
use crate::model::{InfoHash, PieceHashes, PieceLayers};
use crate::paths::Paths;
use crate::store::{Content, Stamp, StoredRevision};
use crate::torrent::{AddTorrent, FileCare, FileStamp, Mode};

/// The longest metainfo or resume file that is read back, in bytes: 100 000 files with long paths, and the layers
/// of 40 TB at 4 MiB a piece.
const MAX_SAVED: u64 = 512 << 20;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Save {
    Resume(InfoHash, Vec<u8>),
    /// All layers are known: resume data is no longer needed.
    Metainfo(InfoHash, Vec<u8>),
    /// The engine refused what was saved.
    ForgetMetainfo(InfoHash),
    /// Tells when everything before it is on disk.
    Barrier(oneshot::Sender<()>),
}

/// Writes one thing after the other, in a task of its own, so that no event waits for the disk.
#[derive(Debug)]
pub(super) struct Saver(mpsc::UnboundedSender<Save>);

impl Saver {
    /// Starts the task. It ends after the last write when the `Saver` is dropped.
    pub(super) fn start(paths: Paths) -> Self {
        let (tx, mut rx) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(save) = rx.recv().await {
                let paths = paths.clone();
                // It panics only if this code does, and then the panic was reported.
                let _ = tokio::task::spawn_blocking(move || write(&paths, save)).await;
            }
        });
        Self(tx)
    }

    pub(super) fn save(&self, save: Save) {
        // The task lives as long as `self`, or the runtime is going down.
        let _ = self.0.send(save);
    }
}

fn write(paths: &Paths, save: Save) {
    // A failure is logged. What could not be saved is fetched from peers again.
    let _ = match save {
        Save::Resume(ih, bytes) => {
            let path = paths.resume(&ih);
            said(fsutil::write_atomic(&path, &bytes, fsutil::MODE_PRIVATE), &path)
        }
        Save::Metainfo(ih, bytes) => {
            let path = paths.metainfo(&ih);
            said(fsutil::write_atomic(&path, &bytes, fsutil::MODE_PRIVATE), &path).and_then(|()| {
                said(fsutil::remove_if_there(&paths.resume(&ih)).map(drop), &paths.resume(&ih))
            })
        }
        Save::ForgetMetainfo(ih) => {
            let path = paths.metainfo(&ih);
            said(fsutil::remove_if_there(&path).map(drop), &path)
        }
        Save::Barrier(reached) => reached.send(()).ok(),
    };
}

fn said(result: std::io::Result<()>, path: &Path) -> Option<()> {
    result.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "Could not be saved.")).ok()
}

/// A torrent ready to be added.
pub(super) struct Prepared {
    pub torrent: AddTorrent,
    /// Whether the metainfo is one that was saved with all layers.
    pub with_layers: bool,
    /// `Content::moves` of the files, from before their paths were read.
    pub given: Vec<u64>,
    /// What is known of the pieces' hashes, where that was asked for.
    pub hashes: Option<Arc<PieceHashes>>,
    /// The pieces that are cached and not proved.
    pub unproved: FixedBitSet,
}

/// Gathers all that the engine needs to join.
/// Where the engine finds the files of a revision, how those look that it only reads, and how uploads are checked.
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

pub(super) fn add_torrent(
    paths: &Paths,
    settings: &FetchSettings,
    peers: &[std::net::SocketAddr],
    revision: &StoredRevision,
    hidden: bool,
    use_saved: bool,
    with_hashes: bool,
) -> Prepared {
    let given = revision.contents.iter().map(|c| c.moves()).collect();
    let ih = revision.manifest.torrent.info_hash;
    let read = |path: &Path| match fsutil::read_capped(path, MAX_SAVED) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "Could not be read.");
            None
        }
    };
    let saved = if use_saved { read(&paths.metainfo(&ih)) } else { None };
    // What was saved of a torrent of others may lack layers that the manifest carries.
    let carries = revision.manifest.files.iter().any(|file| file.piece_layer.is_some());
    let layers = match &saved {
        Some(bytes) if carries || with_hashes => parse_metainfo(bytes).map(|p| p.layers).unwrap_or_default(),
        _ => PieceLayers::default(),
    };
    let saved = saved.filter(|_| !carries || layers.len() >= revision.manifest.piece_layers().len());
    let hashes = with_hashes.then(|| Arc::new(PieceHashes::new(revision.manifest.clone(), layers)));
    let with_layers = saved.is_some();
    let (file_paths, file_stamps, file_care) = places(revision);
    let (have, unproved) = match hidden {
        true => (revision.have_pieces(), revision.unproved_pieces()),
        false => revision.offered_pieces(),
    };
    let torrent = AddTorrent {
        info_hash: ih,
        metainfo: saved.unwrap_or_else(|| revision.manifest.metainfo(None)),
        file_paths,
        file_stamps,
        file_care,
        // Where bytes are reserved, they are neither offered nor fetched.
        mode: if revision.is_complete() && have.is_full() { Mode::Seed } else { Mode::Lazy },
        have,
        resume: if with_layers { None } else { read(&paths.resume(&ih)) },
        peers: peers.to_vec(),
        discovery: settings.discovery,
        withheld: hidden,
    };
    Prepared { torrent, with_layers, given, hashes, unproved }
}

impl Fetch {
    /// Writes resume data of everything that changed; done when all is on disk or `within` has passed.
    pub async fn flush(&self, within: Duration) {
        self.with(|state, _| {
            for transfer in state.transfers.values_mut() {
                let Some(id) = transfer.running().filter(|_| transfer.resume_dirty) else { continue };
                transfer.resume_dirty = false;
                transfer.saving = true;
                state.outbox.push_back(Command::SaveResume(id));
            }
        });
        let flushed = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !self.with(|state, _| state.transfers.values().any(|t| t.saving)) {
                    break;
                }
                changed.await;
            }
            let (reached, barrier) = oneshot::channel();
            self.saver.save(Save::Barrier(reached));
            // An error means that the runtime is going down.
            let _ = barrier.await;
        };
        if tokio::time::timeout(within, flushed).await.is_err() {
            tracing::warn!(?within, "Resume data could not all be written in time.");
        }
    }
}
