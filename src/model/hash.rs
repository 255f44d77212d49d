//! Hashing files: SHA-256 and the merkle tree of BEP 52 in one pass over the bytes.
//!
//! Three steps run in parallel: reading the next chunk, the SHA-256 of the file, and the leaves of the tree. Several files
//! are also hashed in parallel. If a file changes while it is hashed, that is an error, because the hashes would belong to
//! no state of the file.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::merkle::{self, Hash};
use super::{BLOCK_LEN, GRANULE_LEN, PiecesRoot, Sha256Digest};
use crate::nofollow;

/// Bytes read at a time: enough to amortise the start of work on other threads, few enough for their caches.
const CHUNK: usize = 2 << 20;
const BLOCK: usize = BLOCK_LEN as usize;
/// Blocks per granule.
const GRANULE_BLOCKS: usize = (GRANULE_LEN / BLOCK_LEN) as usize;
/// The fewest bytes for which the use of other threads is faster.
const PARALLEL: usize = 256 << 10;

/// The reason why a file could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// It could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A program changed it meanwhile.
    #[error("{} changed while it was hashed", .0.display())]
    Changed(PathBuf),
    /// The caller set [`Control::cancel`].
    #[error("cancelled")]
    Cancelled,
}

/// The hashes of one file.
#[derive(Debug, Clone)]
pub struct FileHashes {
    /// SHA-256 of all bytes.
    pub sha256: Sha256Digest,
    /// Merkle root; none for an empty file.
    pub pieces_root: Option<PiecesRoot>,
    /// The hashes of the pieces; empty for a file of one piece.
    pub layer: Vec<Hash>,
    /// The hashes of the granules, each 64 KiB; empty for a file of one granule, or if they were not computed.
    pub granules: Vec<Hash>,
    /// The file's metadata, the same before and after hashing.
    pub metadata: Metadata,
}

impl FileHashes {
    /// Whether these are the hashes of a file with this metadata, for a torrent with `piece_length` bytes per piece.
    pub fn hold_for(&self, metadata: &Metadata, piece_length: u32) -> bool {
        let len = metadata.len();
        let layer = match self.pieces_root {
            _ if len <= u64::from(piece_length) => self.pieces_root.is_some() == (len > 0),
            // The layer depends on the piece length; the root does not.
            Some(root) => {
                self.layer.len() as u64 == len.div_ceil(u64::from(piece_length))
                    && merkle::root(self.layer.clone(), merkle::piece_height(piece_length), 0) == root.0
            }
            None => false,
        };
        layer && same(&self.metadata, metadata)
    }
}

/// Progress and cancellation of hashing.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Called from several threads with the number of bytes that were hashed since the last call.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Set to stop early.
    pub cancel: &'a AtomicBool,
}

/// The tree of one file, built leaf by leaf.
struct FileTree {
    piece_length: u32,
    /// Leaves of the current piece.
    pending: Vec<Hash>,
    layer: Vec<Hash>,
    /// Leaves of the current granule.
    leaves: Vec<Hash>,
    granules: Vec<Hash>,
}

impl FileTree {
    fn push(&mut self, leaves: &[Hash]) {
        let per_piece = (u64::from(self.piece_length) / BLOCK_LEN) as usize;
        for leaf in leaves {
            self.leaves.push(*leaf);
            if self.leaves.len() == GRANULE_BLOCKS {
                self.granules.push(merkle::root(std::mem::take(&mut self.leaves), 0, GRANULE_BLOCKS));
            }
            self.pending.push(*leaf);
            if self.pending.len() == per_piece {
                self.layer.push(merkle::root(std::mem::take(&mut self.pending), 0, 0));
            }
        }
    }

    /// The root and, for more than one piece, the piece layer.
    fn finish(mut self, len: u64) -> (Option<PiecesRoot>, Vec<Hash>) {
        if len == 0 {
            return (None, Vec::new());
        }
        if len <= u64::from(self.piece_length) {
            let root = self.layer.pop().unwrap_or_else(|| merkle::root(self.pending, 0, 0));
            return (Some(PiecesRoot(root)), Vec::new());
        }
        if !self.pending.is_empty() {
            self.layer.push(merkle::piece_hash(self.pending, self.piece_length));
        }
        let root = merkle::root(self.layer.clone(), merkle::piece_height(self.piece_length), 0);
        (Some(PiecesRoot(root)), self.layer)
    }
}

/// Computes the hashes of one file from its bytes in order.
pub struct FileHasher {
    sha256: Sha256,
    tree: FileTree,
    /// Bytes of the current block.
    block: Vec<u8>,
    len: u64,
}

impl FileHasher {
    /// Hashes for a torrent with `piece_length` bytes per piece.
    pub fn new(piece_length: u32) -> Self {
        let tree = FileTree {
            piece_length,
            pending: Vec::new(),
            layer: Vec::new(),
            leaves: Vec::new(),
            granules: Vec::new(),
        };
        Self { sha256: Sha256::new(), tree, block: Vec::new(), len: 0 }
    }

    /// Hashes the next bytes, of any number. Long slices are hashed by several threads of rayon.
    pub fn update(&mut self, data: &[u8]) {
        if data.len() < PARALLEL {
            self.sha256.update(data);
            self.push_blocks(data, |blocks| blocks.chunks(BLOCK).map(leaf).collect());
        } else {
            let sha256 = std::mem::take(&mut self.sha256);
            let (sha256, ()) = rayon::join(
                || sha256.chain_update(data),
                || {
                    self.push_blocks(data, |blocks| {
                        blocks.par_chunks(BLOCK).with_min_len(16).map(leaf).collect()
                    })
                },
            );
            self.sha256 = sha256;
        }
        self.len += data.len() as u64;
    }

    /// Bytes hashed so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte was hashed so far.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The hashes of the file, which has this metadata.
    pub fn finish(mut self, metadata: Metadata) -> FileHashes {
        if !self.block.is_empty() {
            self.tree.push(&[leaf(&self.block)]);
        }
        if !self.tree.leaves.is_empty() {
            let last = std::mem::take(&mut self.tree.leaves);
            self.tree.granules.push(merkle::root(last, 0, GRANULE_BLOCKS));
        }
        let mut granules = std::mem::take(&mut self.tree.granules);
        if granules.len() == 1 {
            granules.clear();
        }
        let (pieces_root, layer) = self.tree.finish(self.len);
        let sha256 = Sha256Digest(self.sha256.finalize().into());
        FileHashes { sha256, pieces_root, layer, granules, metadata }
    }

    fn push_blocks(&mut self, data: &[u8], leaves: impl Fn(&[u8]) -> Vec<Hash>) {
        let mut rest = data;
        if !self.block.is_empty() {
            let (head, tail) = rest.split_at((BLOCK - self.block.len()).min(rest.len()));
            self.block.extend_from_slice(head);
            rest = tail;
            if self.block.len() == BLOCK {
                self.tree.push(&[leaf(&self.block)]);
                self.block.clear();
            }
        }
        let (whole, last) = rest.split_at(rest.len() / BLOCK * BLOCK);
        self.tree.push(&leaves(whole));
        self.block.extend_from_slice(last);
    }
}

fn leaf(block: &[u8]) -> Hash {
    Sha256::digest(block).into()
}

fn read_full(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether a file with the metadata `a` and later `b` was neither written nor replaced in between.
pub fn same(a: &Metadata, b: &Metadata) -> bool {
    let key = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ino(), m.dev());
    key(a) == key(b)
}

/// Hashes one file, at a path without links. Uses the thread pool of rayon and must be called outside of it.
pub fn hash_file(path: &Path, piece_length: u32, control: Control<'_>) -> Result<FileHashes, HashError> {
    let failed = |source| HashError::Io { path: path.to_owned(), source };
    let file = nofollow::read(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // One byte more than the length of the file, so that growth is noticed.
    let capacity = usize::try_from(metadata.len()).unwrap_or(usize::MAX).saturating_add(1).min(CHUNK);
    let (mut current, mut next) = (vec![0; capacity], Vec::new());
    let mut hasher = FileHasher::new(piece_length);
    let mut filled = read_full(&file, &mut current).map_err(failed)?;
    while filled > 0 {
        if control.cancel.load(Ordering::Relaxed) {
            return Err(HashError::Cancelled);
        }
        let data = &current[..filled];
        if hasher.len() + filled as u64 > metadata.len() {
            return Err(HashError::Changed(path.to_owned()));
        }
        let read = if filled < capacity {
            hasher.update(data);
            Ok(0)
        } else {
            next.resize(capacity, 0);
            rayon::join(|| read_full(&file, &mut next), || hasher.update(data)).0
        };
        (control.progress)(filled as u64);
        std::mem::swap(&mut current, &mut next);
        filled = read.map_err(failed)?;
    }
    // The open file must be unchanged, and the path must still name it.
    let after = file.metadata().map_err(failed)?;
    let named = nofollow::metadata(path).map_err(failed)?;
    if hasher.len() != metadata.len() || !same(&metadata, &after) || !same(&metadata, &named) {
        return Err(HashError::Changed(path.to_owned()));
    }
    Ok(hasher.finish(metadata))
}

/// Hashes several files at a time, the longest first. Returns the hashes in the order of `files`, or the first error.
pub fn hash_files(
    files: &[(PathBuf, u64)],
    piece_length: u32,
    control: Control<'_>,
) -> Result<Vec<FileHashes>, HashError> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(files[i].1));
    let done: Mutex<Vec<Option<FileHashes>>> = Mutex::new(files.iter().map(|_| None).collect());
    let failure = Mutex::new(None);
    let failed = AtomicBool::new(false);
    let taken = AtomicUsize::new(0);
    let work = || {
        while !failed.load(Ordering::Relaxed)
            && let Some(&i) = order.get(taken.fetch_add(1, Ordering::Relaxed))
        {
            match hash_file(&files[i].0, piece_length, control) {
                Ok(hashes) => done.lock()[i] = Some(hashes),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    failure.lock().get_or_insert(error);
                }
            }
        }
    };
    // These threads mostly wait for the threads of rayon, which hash all except short files.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    let done = done.into_inner();
    done.into_iter().collect::<Option<Vec<_>>>().ok_or(HashError::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::files::TorrentFile;
    use crate::model::known_answers::{CASES, content};
    use crate::model::metainfo::{info_dict, parse_metainfo, wrap};
    use crate::model::{PieceLayers, path};
    use std::io::Write as _;
    use std::sync::atomic::AtomicU64;

    static NEVER: AtomicBool = AtomicBool::new(false);
    const QUIET: Control<'static> = Control { progress: &|_| (), cancel: &NEVER };

    #[test]
    fn roots_and_layers_are_those_of_libtorrent() {
        for case in CASES {
            let dir = tempfile::tempdir().unwrap();
            let mut list: Vec<_> = case.files.to_vec();
            list.sort_by(|a, b| path::compare(a.0, b.0));
            let files: Vec<_> = list
                .iter()
                .map(|&(path, len, seed, _)| {
                    let path = dir.path().join(path);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(&path, content(len, seed)).unwrap();
                    (path, len)
                })
                .collect();
            let hashes = hash_files(&files, case.piece_length, QUIET).unwrap();
            let mut layers = PieceLayers::default();
            for (file, hashes) in list.iter().zip(&hashes) {
                let root = hashes.pieces_root.map(|root| root.to_string()).unwrap_or_default();
                assert_eq!(root, file.3, "{}: {}", case.what, file.0);
                assert_eq!(hashes.sha256.0, <[u8; 32]>::from(Sha256::digest(content(file.1, file.2))));
                if let Some(root) = hashes.pieces_root {
                    layers.insert(root, file.1, case.piece_length, hashes.layer.clone()).unwrap();
                }
            }
            let torrent_files = list.iter().zip(&hashes).map(|(file, hashes)| TorrentFile {
                path: file.0,
                size: file.1,
                pieces_root: hashes.pieces_root,
            });
            let torrent = wrap(&info_dict(case.name, case.piece_length, torrent_files), Some(&layers));
            let parsed = parse_metainfo(&torrent).unwrap();
            assert_eq!(parsed.info_hash.to_string(), case.info_hash, "{}", case.what);
            let at = b"d4:info".len() + parsed.info.len() + b"12:piece layers".len();
            let encoded = &torrent[at..torrent.len() - 1];
            assert_eq!(hex::encode(Sha256::digest(encoded)), case.layers_sha256, "{}", case.what);
        }
    }

    #[test]
    fn files_of_many_chunks_have_the_right_hashes() {
        let dir = tempfile::tempdir().unwrap();
        for len in [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + BLOCK + 1] {
            let file = dir.path().join(len.to_string());
            let bytes = content(len as u64, 7);
            std::fs::write(&file, &bytes).unwrap();
            let seen = AtomicU64::new(0);
            let progress = |n| {
                seen.fetch_add(n, Ordering::Relaxed);
            };
            let control = Control { progress: &progress, ..QUIET };
            let hashes = hash_file(&file, 1 << 20, control).unwrap();
            assert_eq!(seen.load(Ordering::Relaxed), len as u64);
            assert_eq!(hashes.sha256.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
            let all = bytes.chunks(BLOCK).map(|block| Sha256::digest(block).into()).collect();
            assert_eq!(hashes.pieces_root.unwrap().0, merkle::root(all, 0, 0));
            assert_eq!(hashes.layer.len(), len.div_ceil(1 << 20));
        }
    }

    #[test]
    fn hashes_do_not_depend_on_the_size_of_updates() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for (len, part) in
            [(0, 1), (1, 1), (100_000, 7), (BLOCK, BLOCK), (3 * CHUNK + 5, PARALLEL + 3), (70_001, 16_385)]
        {
            let bytes = content(len as u64, 3);
            std::fs::write(&file, &bytes).unwrap();
            let expected = hash_file(&file, 32768, QUIET).unwrap();
            let mut hasher = FileHasher::new(32768);
            bytes.chunks(part).for_each(|part| hasher.update(part));
            assert_eq!((hasher.len(), hasher.is_empty()), (len as u64, len == 0));
            let found = hasher.finish(file.metadata().unwrap());
            assert_eq!(found.sha256.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
            assert_eq!(
                (found.pieces_root, found.layer),
                (expected.pieces_root, expected.layer),
                "{len} by {part}"
            );
        }
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let changes: [&(dyn Fn() + Sync); 3] = [
            &|| std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap(),
            &|| std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5).unwrap(),
            &|| {
                std::fs::write(dir.path().join("g"), vec![0; 3 * CHUNK]).unwrap();
                std::fs::rename(dir.path().join("g"), &path).unwrap();
            },
        ];
        for change in changes {
            std::fs::write(&path, vec![0; 3 * CHUNK]).unwrap();
            let once = std::sync::Once::new();
            let progress = |_| once.call_once(change);
            let result = hash_file(&path, 16384, Control { progress: &progress, ..QUIET });
            assert!(matches!(result, Err(HashError::Changed(_))), "{result:?}");
        }
    }

    #[test]
    fn hashing_can_be_cancelled_and_errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![0; 3 * CHUNK]).unwrap();
        let cancel = AtomicBool::new(false);
        let progress = |_| cancel.store(true, Ordering::Relaxed);
        let result =
            hash_files(&[(path.clone(), 1)], 16384, Control { progress: &progress, cancel: &cancel });
        assert!(matches!(result, Err(HashError::Cancelled)), "{result:?}");
        let gone = dir.path().join("gone");
        let error = hash_files(&[(path, 1), (gone, 0)], 16384, QUIET).unwrap_err().to_string();
        assert!(error.contains("/gone"), "{error}");
    }
}
