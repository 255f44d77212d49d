//! Comparing files with the sha256 of their manifest.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::store::StoredRevision;

/// Bytes read at a time.
const CHUNK: u64 = 4 << 20;

/// Hashes files (indices into the manifest) on as many threads as there are cores and returns the paths of the files
/// that differ from their sha256 or cannot be read. A file without sha256 counts as right when it is complete: its
/// pieces root was checked when it arrived. `read` receives the number of bytes as they are read. Blocks.
pub(super) fn damaged(
    revision: &StoredRevision,
    files: &[usize],
    read: &(dyn Fn(u64) + Sync),
) -> Vec<String> {
    let bad = |&&file: &&usize| !matches(revision, file, read);
    files.par_iter().filter(bad).map(|&file| revision.manifest.files[file].path.clone()).collect()
}

fn matches(revision: &StoredRevision, file: usize, read: &(dyn Fn(u64) + Sync)) -> bool {
    let (entry, content) = (&revision.manifest.files[file], &revision.contents[file]);
    let Some(expected) = entry.sha256 else {
        read(entry.size);
        return content.is_complete();
    };
    let mut hasher = Sha256::new();
    let mut at = 0;
    while at < entry.size {
        let end = entry.size.min(at + CHUNK);
        match content.read(at..end) {
            Ok(Some(bytes)) => hasher.update(&bytes),
            Ok(None) => return false,
            Err(e) => {
                tracing::error!(error = %e, path = %content.path().display(), "could not read a file");
                return false;
            }
        }
        read(end - at);
        at = end;
    }
    expected.0 == <[u8; 32]>::from(hasher.finalize())
}
