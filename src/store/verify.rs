//! Reading bytes again to see whether they still are what they were verified to be.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use super::blockmap::BlockMap;
use super::content::{ATTEMPTS, Content, Home, Moment, remove_data};
use super::copy::copy_verified;
use super::placement::{PlacedFile, Stamp};
use super::{Store, StoreError, StoredRevision, mapfile};
use crate::model::hash::{Control, FileHashes, HashError, hash_file};
use crate::model::merkle::{Hash, PieceLayers};
use crate::model::{BLOCK_LEN, Manifest, PieceHashes, PieceIndex, metainfo, saved_layers};
use crate::{fsutil, nofollow};

/// What reading a file again showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Bytes that were compared with a hash.
    pub checked: u64,
    /// Bytes that are here but were not checked: parts of pieces, and pieces whose hashes are not known.
    pub unchecked: u64,
    /// What was wrong and is missing now, in order.
    pub damaged: Vec<Range<u64>>,
    /// Whether the SHA-256 of the manifest fits; none if the manifest has none or the file is not complete. False
    /// with nothing damaged means that the manifest contradicts itself.
    pub sha256_fits: Option<bool>,
}

/// What a caller hears and says while files are read.
pub type Watch<'a> = Control<'a>;

impl Store {
    /// The piece layers of a torrent, as far as its metainfo is kept here and has them.
    pub fn layers(&self, manifest: &Manifest) -> Result<PieceLayers, StoreError> {
        let Some(bytes) = self.load_metainfo(&manifest.torrent.info_hash)? else {
            return Ok(PieceLayers::default());
        };
        match metainfo::parse_metainfo(&bytes) {
            Ok(parsed) => Ok(parsed.layers),
            Err(e) => {
                let path = self.shared.paths.metainfo(&manifest.torrent.info_hash);
                tracing::warn!("{} cannot be used: {e}.", path.display());
                Ok(PieceLayers::default())
            }
        }
    }

    /// What the pieces of a torrent hash to: `layers` (see [`Store::layers`]), what the manifest carries, and the single
    /// hashes that were saved while it was fetched. All are proved.
    pub fn piece_hashes(
        &self,
        manifest: &Arc<Manifest>,
        layers: PieceLayers,
    ) -> Result<PieceHashes, StoreError> {
        let saved = self.load_resume(&manifest.torrent.info_hash)?;
        let partial = saved.map(|bytes| saved_layers::parse(&bytes, manifest)).unwrap_or_default();
        Ok(PieceHashes::new(manifest.clone(), layers).with_partial(partial))
    }

    /// Reads what is here of one file of a revision (an index into its manifest) and compares it with the piece
    /// hashes in `known` (see [`Store::piece_hashes`]), the pieces root and SHA-256. What is wrong becomes missing,
    /// unproved bytes that are right become readable; of a placed file the good pieces go to the cache, and the file
    /// itself is left as it is. Without piece hashes one wrong byte condemns a whole file that was complete. Uses all
    /// cores; call it from a thread of its own.
    pub fn verify(
        &self,
        revision: &StoredRevision,
        file: usize,
        known: &PieceHashes,
        watch: Watch<'_>,
    ) -> Result<VerifyReport, StoreError> {
        let content = &revision.contents[file];
        if content.is_empty() {
            return Ok(VerifyReport::default());
        }
        for _ in 0..ATTEMPTS {
            let (path, seen) = content.seen();
            // A file in memory has no path that can be hashed.
            let is_file = !content.is_in_memory();
            let found = if content.is_complete() && is_file {
                self.verify_whole(revision, file, &path, known.layer(file).as_deref(), watch).map(Some)
            } else if content.is_unproved(&(0..content.len())) && is_file {
                verify_by_root(revision, file, (&path, seen), known, watch)
            } else {
                verify_pieces(content, seen, file, known, revision.layout.piece_length(), watch)
            };
            let Some(mut report) = found? else { continue };
            report.damaged = merge(report.damaged);
            if report.damaged.is_empty() || self.give_up(content, seen, &report.damaged)? {
                return Ok(report);
            }
        }
        let moved = io::Error::new(io::ErrorKind::Interrupted, "the file was moved while it was read");
        Err(StoreError::io(&content.path(), moved))
    }

    fn verify_whole(
        &self,
        revision: &StoredRevision,
        file: usize,
        path: &Path,
        layer: Option<&[Hash]>,
        watch: Watch<'_>,
    ) -> Result<VerifyReport, StoreError> {
        let content = &revision.contents[file];
        let len = content.len();
        let all_damaged = VerifyReport { checked: len, damaged: whole(len), ..Default::default() };
        let hashes = match hash_file(path, revision.layout.piece_length(), watch) {
            Ok(hashes) if hashes.metadata.len() == len => hashes,
            Ok(_) | Err(HashError::Changed(_)) => return Ok(all_damaged),
            Err(HashError::Io { source, .. }) if is_damage(&source) => return Ok(all_damaged),
            Err(HashError::Io { path, source }) => return Err(StoreError::Io { path, source }),
            Err(HashError::Cancelled) => return Err(cancelled(path)),
        };
        if hashes.pieces_root == content.root() {
            if let Some(key) = content.key() {
                self.save_granules(&key, &hashes.granules);
            }
            let expected = revision.manifest.files[file].sha256;
            let sha256_fits = expected.map(|sha256| sha256 == hashes.sha256);
            return Ok(VerifyReport { checked: len, sha256_fits, ..Default::default() });
        }
        let damaged = differing(&hashes, layer, len, revision.layout.piece_length());
        Ok(VerifyReport { checked: len, damaged, ..Default::default() })
    }

    /// Makes ranges missing that turned out damaged since `seen`. Of a placed file that did not change meanwhile, the rest
    /// is saved to the cache. Does nothing, and returns false, if the content has moved or lost blocks since: the bytes
    /// may be right, where they are now.
    fn give_up(&self, content: &Content, seen: Moment, damaged: &[Range<u64>]) -> Result<bool, StoreError> {
        // Nothing is renamed while this is held.
        let _moving = self.moving();
        if content.moment() != seen {
            return Ok(false);
        }
        if let Home::Placed(placed) = content.home() {
            let is_another = |file: &PlacedFile| file.path != placed.path;
            let others = content.key().map(|key| self.shared.placements.find_all(&key)).unwrap_or_default();
            if !others.iter().any(is_another) {
                self.salvage(content, &placed.path, placed.stamp, damaged);
            }
        }
        let failed = |e| StoreError::io(&content.path(), e);
        {
            let mut journal = content.journal();
            if let Home::Placed(placed) = content.home() {
                return content.give_up_place(&mut journal, &placed).map(|()| true).map_err(failed);
            }
        }
        damaged.iter().try_for_each(|range| content.mark_missing(range.clone()).map_err(failed))?;
        Ok(true)
    }

    /// Saves the good pieces of a file that is otherwise damaged to the store's own file, if that has less, and goes
    /// on there. It is no loss but time if that fails.
    pub(super) fn salvage(&self, content: &Content, from: &Path, stamp: Stamp, damaged: &[Range<u64>]) {
        let Some(key) = content.key() else { return };
        let mut map = BlockMap::all(key.len);
        for range in damaged {
            map.remove(range);
        }
        let mut journal = content.journal();
        let (data, placed) = match content.home() {
            Home::Own(data) => (data, None),
            Home::Placed(placed) => (self.shared.cached(&key), Some(placed)),
            Home::Empty | Home::Memory(_) => return,
        };
        let save = || -> io::Result<bool> {
            if self.shared.load_map(&data, key.len)?.map.bytes() >= map.bytes() {
                return Ok(false);
            }
            remove_data(&data)?;
            nofollow::create_dir_all(fsutil::parent(&data))?;
            let copied = copy_verified(from, &data, &map, key.len)?;
            // An edit between hashing and copying would have got in.
            if Stamp::of(&copied) != stamp {
                nofollow::remove_if_there(&data)?;
                return Ok(false);
            }
            mapfile::write_live(&data, &map, &self.shared.boot)?;
            mapfile::write_synced(&data, &map, &self.shared.boot)?;
            Ok(true)
        };
        match save() {
            Ok(true) => {
                content.settle(&mut journal, Home::Own(data), map.clone(), true, true);
                if let Some(placed) = placed
                    && let Err(e) = self.shared.placements.distrust(&key, &placed.path)
                {
                    tracing::warn!("That {} is damaged could not be recorded: {e}.", placed.path.display());
                }
            }
            Ok(false) => {}
            Err(e) => {
                tracing::warn!("The good pieces of {} could not be saved: {e}.", from.display());
                if placed.is_none()
                    && let Ok(loaded) = self.shared.load_map(&data, key.len)
                {
                    content.settle_loaded(&mut journal, Home::Own(data), loaded);
                }
            }
        }
    }
}

pub(super) fn cancelled(path: &Path) -> StoreError {
    StoreError::io(path, io::Error::new(io::ErrorKind::Interrupted, "cancelled"))
}

/// The pieces of a file that are not what they should be; all of it where the piece hashes are not known.
pub(super) fn differing(
    hashes: &FileHashes,
    layer: Option<&[Hash]>,
    len: u64,
    piece_length: u32,
) -> Vec<Range<u64>> {
    let piece_length = u64::from(piece_length);
    let Some(layer) = layer.filter(|l| l.len() == hashes.layer.len()) else { return whole(len) };
    let pieces =
        (0u64..).zip(layer.iter().zip(&hashes.layer)).filter(|(_, (expected, found))| expected != found);
    pieces.map(|(piece, _)| piece * piece_length..((piece + 1) * piece_length).min(len)).collect()
}

/// Checks a file whose bytes are all here, some of them unproved: the pieces root proves them together, whatever piece
/// hashes are known. If it does not, the pieces are checked one by one. None if the content has moved or lost blocks.
fn verify_by_root(
    revision: &StoredRevision,
    file: usize,
    (path, seen): (&Path, Moment),
    known: &PieceHashes,
    watch: Watch<'_>,
) -> Result<Option<VerifyReport>, StoreError> {
    let content = &revision.contents[file];
    let (len, piece_length) = (content.len(), revision.layout.piece_length());
    match hash_file(path, piece_length, watch) {
        Ok(hashes) if hashes.metadata.len() == len && hashes.pieces_root == content.root() => {
            if !content.mark_proved(0..len, seen).map_err(|e| StoreError::io(path, e))? {
                return Ok(None);
            }
            let expected = revision.manifest.files[file].sha256;
            let sha256_fits = expected.map(|sha256| sha256 == hashes.sha256);
            Ok(Some(VerifyReport { checked: len, sha256_fits, ..Default::default() }))
        }
        Err(HashError::Cancelled) => Err(cancelled(path)),
        _ => verify_pieces(content, seen, file, known, piece_length, watch),
    }
}

/// Checks the pieces of a content that is not complete, those whose hashes are known and whose bytes are all here. None if
/// the content has moved or lost blocks.
fn verify_pieces(
    content: &Content,
    seen: Moment,
    file: usize,
    known: &PieceHashes,
    piece_length: u32,
    watch: Watch<'_>,
) -> Result<Option<VerifyReport>, StoreError> {
    let mut report = VerifyReport::default();
    let held = content.cached_bytes() + content.unproved_bytes();
    let (len, step) = (content.len(), u64::from(piece_length));
    let fail = |e| StoreError::io(&content.path(), e);
    for number in 0..u32::try_from(len.div_ceil(step)).unwrap_or(u32::MAX) {
        let start = u64::from(number) * step;
        let (range, number) = (start..(start + step).min(len), PieceIndex(number));
        if watch.cancel.load(Ordering::Relaxed) {
            return Err(cancelled(&content.path()));
        }
        if known.hash(file, number).is_none() {
            continue;
        }
        let unproved = content.is_unproved(&range);
        let read = if unproved { content.read_unproved(range.clone()) } else { content.read(range.clone()) };
        let fits = match read {
            Ok(None) => continue,
            Ok(Some(bytes)) => {
                let leaves = bytes.chunks(BLOCK_LEN as usize).map(|b| Sha256::digest(b).into()).collect();
                known.fits(file, number, leaves) == Some(true)
            }
            Err(e) if is_damage(&e) => false,
            Err(e) => return Err(fail(e)),
        };
        report.checked += range.end - range.start;
        (watch.progress)(range.end - range.start);
        if !fits {
            report.damaged.push(range);
        } else if unproved && !content.mark_proved(range, seen).map_err(fail)? {
            return Ok(None);
        }
    }
    report.unchecked = held.saturating_sub(report.checked);
    Ok(Some(report))
}

/// Whether an error of reading means that the bytes are lost, rather than that they could not be asked for.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof | InvalidData)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// The one range that covers a file.
fn whole(len: u64) -> Vec<Range<u64>> {
    std::iter::once(0..len).collect()
}

/// Joins neighbouring ranges.
pub(super) fn merge(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

/// A [`Watch`] that neither tells nor stops.
pub const UNWATCHED: Watch<'static> = Watch { progress: &|_| (), cancel: &NEVER };

static NEVER: AtomicBool = AtomicBool::new(false);
