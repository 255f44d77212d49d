//! Comparing files with the sha256 of their manifest. They are hashed while they arrive, as far as they are complete from their
//! beginning, so that little is left to do at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::progress::REPORT_EVERY;
use crate::model::Sha256Digest;
use crate::store::{ContentVersion, StoredRevision};

/// Bytes read at a time.
const CHUNK: u64 = 4 << 20;

/// The check of some files of a revision.
pub(super) struct HashCheck {
    revision: Arc<StoredRevision>,
    files: Vec<Mutex<FileCheck>>,
    /// The files are complete: hashing during the download is over.
    complete: AtomicBool,
}

/// How far one file is hashed.
struct FileCheck {
    /// Index into the manifest.
    file: usize,
    /// The hash of the bytes before `at`.
    hasher: Sha256,
    at: u64,
    /// When these bytes were read. If blocks were removed since, they do not count.
    version: ContentVersion,
}

impl HashCheck {
    /// `files` are indices into the manifest.
    pub fn new(revision: &Arc<StoredRevision>, files: &[usize]) -> Arc<Self> {
        let version = |file: usize| revision.contents[file].version();
        let begun =
            |&file| Mutex::new(FileCheck { file, hasher: Sha256::new(), at: 0, version: version(file) });
        let files = files.iter().map(begun).collect();
        Arc::new(Self { revision: revision.clone(), files, complete: AtomicBool::new(false) })
    }

    /// Hashes bytes while they arrive, on a thread that may block, until the future is dropped: it never ends.
    pub async fn follow(self: &Arc<Self>) {
        let mut clock = tokio::time::interval(REPORT_EVERY);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            // The thread ends soon after the last owner.
            let this = Arc::downgrade(self);
            if let Err(error) = tokio::task::spawn_blocking(move || pass(&this)).await {
                tracing::error!(%error, "files are not hashed while they arrive");
            }
        }
    }

    /// Hashes the rest, on as many threads as there are cores, and returns the paths of the files that differ from their
    /// sha256 or cannot be read. A file without sha256 counts as right when it is complete: its pieces root was checked when it
    /// arrived. `read` receives the number of bytes that are hashed already, and then as they are read. Blocks.
    pub fn damaged(&self, read: &(dyn Fn(u64) + Sync)) -> Vec<String> {
        self.complete.store(true, Ordering::Relaxed);
        read(self.files.iter().map(|one| one.lock().at).sum());
        let bad = |one: &&Mutex<FileCheck>| !one.lock().is_right(&self.revision, read);
        let path = |one: &Mutex<FileCheck>| self.revision.manifest.files[one.lock().file].path.clone();
        self.files.par_iter().filter(bad).map(path).collect()
    }
}

/// Hashes what has arrived since the last pass.
fn pass(check: &Weak<HashCheck>) {
    let count = check.upgrade().map_or(0, |check| check.files.len());
    for number in 0..count {
        loop {
            let Some(check) = check.upgrade().filter(|check| !check.complete.load(Ordering::Relaxed)) else {
                return;
            };
            let mut one = check.files[number].lock();
            if expected(&check.revision, one.file).is_none()
                || !matches!(one.advance(&check.revision), Ok(Some(1..)))
            {
                break;
            }
        }
    }
}

fn expected(revision: &StoredRevision, file: usize) -> Option<Sha256Digest> {
    revision.manifest.files[file].sha256
}

impl FileCheck {
    /// Hashes the next chunk. Returns its length, 0 at the end; none if it is not complete.
    fn advance(&mut self, revision: &StoredRevision) -> std::io::Result<Option<u64>> {
        let content = &revision.contents[self.file];
        let version = content.version();
        if version != self.version {
            (self.hasher, self.at, self.version) = (Sha256::new(), 0, version);
        }
        let end = content.len().min(self.at + CHUNK);
        let Some(bytes) = content.read(self.at..end)? else { return Ok(None) };
        self.hasher.update(&bytes);
        self.at = end;
        Ok(Some(bytes.len() as u64))
    }

    fn is_right(&mut self, revision: &StoredRevision, read: &(dyn Fn(u64) + Sync)) -> bool {
        let content = &revision.contents[self.file];
        let Some(expected) = expected(revision, self.file) else {
            read(content.len());
            return content.is_complete();
        };
        loop {
            match self.advance(revision) {
                Ok(Some(0)) if content.version() == self.version => {
                    return expected.0 == <[u8; 32]>::from(self.hasher.clone().finalize());
                }
                Ok(Some(bytes)) => read(bytes),
                Ok(None) => return false,
                Err(error) => {
                    tracing::error!(%error, path = %content.path().display(), "could not read a file");
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::ops::Range;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::model::{FileEntry, Manifest, PiecesRoot};
    use crate::paths::Paths;
    use crate::store::{Content, Store};

    const LEN: usize = 10 << 20;

    fn bytes(seed: u8) -> Vec<u8> {
        (0..LEN).map(|i| (i / 7) as u8 ^ (i / 4096) as u8 ^ seed).collect()
    }

    /// A revision with one file, of which no byte is here.
    fn revision(dir: &std::path::Path, bytes: &[u8]) -> (Arc<Store>, Arc<StoredRevision>) {
        let sha256 = Sha256Digest(Sha256::digest(bytes).into());
        let entry = FileEntry::new("w", LEN as u64, Some(sha256), Some(PiecesRoot([1; 32])));
        let manifest =
            Manifest::new("o/m".parse().unwrap(), Default::default(), 65_536, vec![entry]).unwrap();
        let store = Store::open(&Paths::below(dir)).unwrap();
        let revision = store.revision(Arc::new(manifest)).unwrap();
        (store, revision)
    }

    fn arrive(content: &Content, bytes: &[u8], range: Range<usize>) {
        fs::create_dir_all(content.path().parent().unwrap()).unwrap();
        let file = fs::File::options().create(true).truncate(false).write(true).open(content.path()).unwrap();
        file.write_all_at(&bytes[range.clone()], range.start as u64).unwrap();
        content.mark_verified(range.start as u64..range.end as u64).unwrap();
    }

    /// The damaged files, and how many bytes were reported.
    fn damaged(check: &HashCheck) -> (Vec<String>, u64) {
        let read = AtomicU64::new(0);
        let found = check.damaged(&|bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        });
        (found, read.into_inner())
    }

    #[test]
    fn bytes_are_hashed_while_they_arrive() {
        let (dir, right) = (tempfile::tempdir().unwrap(), bytes(1));
        let (_store, revision) = revision(dir.path(), &right);
        let content = &revision.contents[0];
        let check = HashCheck::new(&revision, &[0]);
        let hashed = || {
            pass(&Arc::downgrade(&check));
            check.files[0].lock().at
        };
        arrive(content, &right, 8 << 20..LEN);
        assert_eq!(hashed(), 0, "the beginning is missing");
        arrive(content, &right, 0..5 << 20);
        assert_eq!(hashed(), CHUNK);
        arrive(content, &right, 5 << 20..8 << 20);
        assert_eq!(hashed(), LEN as u64);
        assert_eq!(damaged(&check), (vec![], LEN as u64));
    }

    #[test]
    fn bytes_that_were_hashed_and_replaced_are_hashed_again() {
        let (dir, right, wrong) = (tempfile::tempdir().unwrap(), bytes(1), bytes(2));
        let (_store, revision) = revision(dir.path(), &right);
        let content = &revision.contents[0];
        for (first, then, found) in [(&right, &wrong, vec!["w".to_owned()]), (&wrong, &right, vec![])] {
            let check = HashCheck::new(&revision, &[0]);
            arrive(content, first, 0..LEN);
            pass(&Arc::downgrade(&check));
            content.mark_missing(0..LEN as u64).unwrap();
            arrive(content, then, 0..LEN);
            assert_eq!(damaged(&check).0, found);
            content.mark_missing(0..LEN as u64).unwrap();
        }
    }

    #[test]
    fn incomplete_file_is_damaged() {
        let (dir, right) = (tempfile::tempdir().unwrap(), bytes(1));
        let (_store, revision) = revision(dir.path(), &right);
        arrive(&revision.contents[0], &right, 0..5 << 20);
        assert_eq!(damaged(&HashCheck::new(&revision, &[0])), (vec!["w".to_owned()], CHUNK));
    }
}
