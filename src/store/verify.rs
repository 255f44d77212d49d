//! Reading verified bytes again to find damage.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};

use super::blockmap::BlockMap;
use super::content::{ATTEMPTS, Content, ContentVersion, Location};
use super::copy::copy_verified;
use super::data::remove_data;
use super::mapfile::Loaded;
use super::placement::{PlacedFile, Stamp};
use super::{Store, StoreError, StoredRevision};
use crate::model::hash::{Control, FileHashes, HashError, hash_file};
use crate::model::merkle::Hash;
use crate::model::{BLOCK_LEN, PieceHashes, PieceIndex};
use crate::{fsutil, nofollow};

/// The result of reading a file again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Bytes that were compared with a hash.
    pub checked: u64,
    /// Cached bytes that were not checked: parts of pieces, and pieces without a known hash.
    pub unchecked: u64,
    /// Ranges that were wrong and are missing now, in order.
    pub damaged: Vec<Range<u64>>,
    /// Whether the SHA-256 of the manifest fits; none if the manifest has none or the file is not complete. False
    /// without damage means that the manifest contradicts itself.
    pub sha256_fits: Option<bool>,
}

/// Progress and cancellation while files are read.
pub type Watch<'a> = Control<'a>;

impl Store {
    /// Reads the cached bytes of one file of a revision (an index into its manifest) and compares them with the piece
    /// hashes in `known`, the pieces root and SHA-256. Wrong bytes become missing, and unproved bytes that are right become
    /// readable. If a placed file is damaged, its good pieces are copied to the cache, and the file is not changed. Without
    /// piece hashes one wrong byte makes all bytes of a complete file missing. Uses all cores; call it from a thread of its
    /// own.
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
            let (path, seen) = content.path_and_version();
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
            if report.damaged.is_empty() || self.remove_damaged(content, seen, &report.damaged)? {
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
                self.parts.granules.save(&key, &hashes.granules);
            }
            let expected = revision.manifest.files[file].sha256;
            let sha256_fits = expected.map(|sha256| sha256 == hashes.sha256);
            return Ok(VerifyReport { checked: len, sha256_fits, ..Default::default() });
        }
        let damaged = differing(&hashes, layer, len, revision.layout.piece_length());
        Ok(VerifyReport { checked: len, damaged, ..Default::default() })
    }

    /// Makes damaged ranges missing. The other bytes of a placed file are saved to the cache, unless another placed file has
    /// all bytes. Does nothing, and returns false, if the content has moved or lost blocks since it had the version `seen`:
    /// the bytes at the new location may be right.
    fn remove_damaged(
        &self,
        content: &Content,
        seen: ContentVersion,
        damaged: &[Range<u64>],
    ) -> Result<bool, StoreError> {
        // No file is renamed while this is held.
        let _moving = self.moving.lock();
        if content.version() != seen {
            return Ok(false);
        }
        if let Location::Placed(placed) = content.location() {
            let is_another = |file: &PlacedFile| file.path != placed.path;
            let found = content.key().map(|key| self.parts.placements.find_all(&key)).unwrap_or_default();
            if !found.iter().any(is_another) {
                self.salvage(content, &placed.path, placed.stamp, damaged);
            }
        }
        let failed = |e| StoreError::io(&content.path(), e);
        {
            let mut writer = content.writer();
            if let Location::Placed(placed) = content.location() {
                return writer.distrust(&placed).map(|()| true).map_err(failed);
            }
        }
        damaged.iter().try_for_each(|range| content.mark_missing(range.clone()).map_err(failed))?;
        Ok(true)
    }

    /// Saves the good pieces of a damaged file to the store's own file, if that has fewer bytes, and moves the content there. A
    /// failure is logged: the pieces are then fetched again.
    pub(super) fn salvage(&self, content: &Content, from: &Path, stamp: Stamp, damaged: &[Range<u64>]) {
        let Some(key) = content.key() else { return };
        let mut map = BlockMap::all(key.len);
        for range in damaged {
            map.remove(range);
        }
        let mut writer = content.writer();
        let (data, placed) = match content.location() {
            Location::Own(data) => (data, None),
            Location::Placed(placed) => (self.parts.files.cached(&key), Some(placed)),
            Location::Empty | Location::Memory(_) => return,
        };
        let save = || -> io::Result<bool> {
            if self.parts.files.load_map(&data, key.len)?.map.bytes() >= map.bytes() {
                return Ok(false);
            }
            remove_data(&data)?;
            nofollow::create_dir_all(fsutil::parent(&data))?;
            let copied = copy_verified(from, &data, &map, key.len)?;
            // An edit between hashing and copying would be in the copy.
            if Stamp::of(&copied) != stamp {
                nofollow::remove_if_there(&data)?;
                return Ok(false);
            }
            self.parts.files.write_maps(&data, &map)?;
            Ok(true)
        };
        match save() {
            Ok(true) => {
                writer.move_to(Location::Own(data), Loaded::of(map.clone(), true, true));
                if let Some(placed) = placed
                    && let Err(e) = self.parts.placements.distrust(&key, &placed.path)
                {
                    tracing::warn!(error = %e, file = %placed.path.display(), "could not record a damaged file");
                }
            }
            Ok(false) => {}
            Err(e) => {
                tracing::warn!(error = %e, file = %from.display(), "could not save the good pieces of a damaged file");
                if placed.is_none()
                    && let Ok(loaded) = self.parts.files.load_map(&data, key.len)
                {
                    writer.move_to(Location::Own(data), loaded);
                }
            }
        }
    }
}

pub(super) fn cancelled(path: &Path) -> StoreError {
    StoreError::io(path, io::Error::new(io::ErrorKind::Interrupted, "cancelled"))
}

/// The pieces of a file with a wrong hash; the whole file if the piece hashes are not known.
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

/// Checks a file whose bytes are all cached, some of them unproved: the pieces root proves them together, also without piece
/// hashes. If it does not, the pieces are checked one by one. None if the content has moved or lost blocks.
fn verify_by_root(
    revision: &StoredRevision,
    file: usize,
    (path, seen): (&Path, ContentVersion),
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

/// Checks the pieces of a content that is not complete, if their hashes are known and all their bytes are cached. None if the
/// content has moved or lost blocks.
fn verify_pieces(
    content: &Content,
    seen: ContentVersion,
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

/// Whether an error of reading means that the bytes are lost. Other errors may be temporary.
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
