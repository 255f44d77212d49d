//! The faults of shared directories outside the cache, for `status`: a disk may be disconnected, a file changed.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Library;
use crate::fetch::TransferStatus;
use crate::model::{InfoHash, Manifest};
use crate::store::placement::PlacedDirId;
use crate::store::tend::{Fault, FaultyFile};

/// The most faults reported for one directory.
const MAX_REPORTED: usize = 16;

/// A fault of files that were verified, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageProblem {
    /// The model.
    pub model: String,
    /// The file or directory.
    pub path: PathBuf,
    /// The fault.
    pub reason: String,
    /// How to repair it.
    pub help: String,
}

/// The faults of all shared directories.
#[derive(Debug, Default)]
pub(super) struct DirectoryFaults {
    faults: Mutex<Faults>,
    /// Held while a file is proved again: one at a time, since each uses all cores.
    pub proving: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Faults {
    problems: BTreeMap<PlacedDirId, Vec<StorageProblem>>,
    /// Torrents without any stored byte, which are seeded when their files return.
    expected: HashSet<InfoHash>,
    /// Torrents with a file of which only the change time has changed.
    touched: HashSet<InfoHash>,
}

impl DirectoryFaults {
    /// Marks a torrent without any stored byte: it is seeded when its files return.
    pub fn expect(&self, info_hash: InfoHash) {
        self.faults.lock().expected.insert(info_hash);
    }

    /// Removes the mark of [`Self::expect`].
    pub fn forget(&self, info_hash: &InfoHash) {
        self.faults.lock().expected.remove(info_hash);
    }

    /// Whether the change time of a file differs from that of its verification, and the file was not read since.
    pub fn is_touched(&self, info_hash: &InfoHash) -> bool {
        self.faults.lock().touched.contains(info_hash)
    }

    /// Removes the mark of [`Self::is_touched`]: the files are read again from now on.
    pub fn forget_touch(&self, info_hash: &InfoHash) {
        self.faults.lock().touched.remove(info_hash);
    }

    pub fn is_expected(&self, info_hash: &InfoHash) -> bool {
        self.faults.lock().expected.contains(info_hash)
    }

    /// Marks a torrent: see [`Self::is_touched`].
    pub fn touch(&self, info_hash: InfoHash) {
        self.faults.lock().touched.insert(info_hash);
    }

    /// Forgets the faults of all other directories.
    pub fn retain(&self, known: &HashSet<&PlacedDirId>) {
        self.faults.lock().problems.retain(|place, _| known.contains(place));
    }

    /// The faults that `status` reports.
    pub fn problems(&self) -> Vec<StorageProblem> {
        self.faults.lock().problems.values().flatten().cloned().collect()
    }

    /// Replaces the faults that `status` reports for a directory.
    pub fn report(&self, place: &PlacedDirId, manifest: &Arc<Manifest>, faulty: &[FaultyFile]) {
        let problems = problems(place, manifest, faulty);
        let mut known = self.faults.lock();
        let former = known.problems.get(place);
        for new in problems.iter().filter(|new| former.is_none_or(|former| !former.contains(new))) {
            tracing::warn!(model = new.model, path = %new.path.display(), reason = new.reason, "a shared file has a fault");
        }
        if problems.is_empty() {
            known.problems.remove(place);
        } else {
            known.problems.insert(place.clone(), problems);
        }
    }
}

/// The fault that `status` reports for damaged bytes of the cache.
pub(super) fn damage_in_cache(library: &Library, transfer: &TransferStatus) -> Option<StorageProblem> {
    let model = transfer.model.clone();
    (transfer.damaged_bytes > 0).then(|| StorageProblem {
        path: library.paths.cache(),
        reason: format!(
            "damaged: {} bytes of it were wrong and are not offered; they are fetched again when they are read",
            transfer.damaged_bytes
        ),
        help: format!(
            "`silmaril verify {model}` checks the rest; damage that returns means that the disk or the memory fails"
        ),
        model,
    })
}

/// The faults to report for a directory.
fn problems(place: &PlacedDirId, manifest: &Manifest, faulty: &[FaultyFile]) -> Vec<StorageProblem> {
    let model = manifest.model_ref().to_string();
    let absent = |file: &&FaultyFile| matches!(file.fault, Fault::Absent(_));
    let contents = manifest.files.iter().filter(|file| file.size > 0).count();
    let all_absent =
        faulty.iter().filter(absent).count() >= contents.min(2) && faulty.iter().all(|f| absent(&f));
    if let Some(FaultyFile { fault: Fault::Absent(why), .. }) = faulty.first().filter(|_| all_absent) {
        return vec![StorageProblem {
            reason: format!("it is absent, so the model is not offered from there: {why}"),
            help: format!(
                "connect its disk or move it back, and it is offered again by itself; if it is lost, \
                 `silmaril remove {model}`"
            ),
            path: place.dir.clone(),
            model,
        }];
    }
    let of = |file: &FaultyFile| {
        let repair = if file.ours {
            format!("`silmaril verify {model}` and `silmaril get {model}` fetch it again")
        } else {
            "restore the file, and it is offered again by itself; or `silmaril share` its directory again, to \
             publish it as it is now"
                .to_owned()
        };
        let (problem, help) = match &file.fault {
            Fault::Absent(why) => (format!("it is absent and is not offered: {why}"), repair),
            Fault::Changed => (
                "it has changed since it was verified; it is not offered until it is proved again".to_owned(),
                "it is proved again by itself when it no longer changes".to_owned(),
            ),
            Fault::OtherLength => ("damaged: its length is not the one that was shared".to_owned(), repair),
            Fault::Damaged(bytes) => {
                (format!("damaged: {bytes} bytes are wrong and are not offered"), repair)
            }
            Fault::Touched => return None,
        };
        Some(StorageProblem { model: model.clone(), path: file.at.clone(), reason: problem, help })
    };
    let mut problems: Vec<_> = faulty.iter().filter_map(of).collect();
    let left = problems.len().saturating_sub(MAX_REPORTED);
    problems.truncate(MAX_REPORTED);
    if left > 0 {
        problems.push(StorageProblem {
            path: place.dir.clone(),
            reason: format!("{left} more of its files are absent or damaged"),
            help: format!("`silmaril verify {model}` reads them all"),
            model,
        });
    }
    problems
}
