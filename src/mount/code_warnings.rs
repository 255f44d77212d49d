//! Logs a warning, once for each model and kind, when a program opens a file that can run code.

use std::collections::HashSet;

use parking_lot::Mutex;
use tracing::warn;

use crate::fetch::FileRef;
use crate::model::InfoHash;
use crate::model::code::{MAX_CONFIG, RunsCode, START, has_auto_map, is_pickle};

/// The warnings that were logged, and the configurations that were checked.
#[derive(Debug, Default)]
pub struct CodeWarnings(Mutex<Checked>);

#[derive(Debug, Default)]
struct Checked {
    warned: HashSet<(InfoHash, RunsCode)>,
    /// Configurations, by info hash and index of the file.
    configs: HashSet<(InfoHash, usize)>,
}

impl CodeWarnings {
    /// Checks a file that was opened. If its first bytes are not cached, only its name decides.
    pub fn check_opened(&self, file: &FileRef) {
        let kind = RunsCode::by_name(&file.revision.manifest.files[file.file].path);
        let Some(kind) = kind.filter(|kind| *kind != RunsCode::AutoMap) else { return };
        let start = || file.revision.contents[file.file].read(0..START).ok().flatten();
        if kind != RunsCode::Pickle || start().is_none_or(|start| is_pickle(&start)) {
            self.warn(file, kind);
        }
    }

    /// Checks a file whose last handle was closed. A configuration is checked once, when all of it is cached.
    pub fn check_closed(&self, file: &FileRef) {
        let entry = &file.revision.manifest.files[file.file];
        if RunsCode::by_name(&entry.path) != Some(RunsCode::AutoMap) || entry.size > MAX_CONFIG {
            return;
        }
        let info_hash = file.revision.manifest.torrent.info_hash;
        if self.checked().configs.contains(&(info_hash, file.file)) {
            return;
        }
        let Ok(Some(json)) = file.revision.contents[file.file].read(0..entry.size) else { return };
        self.checked().configs.insert((info_hash, file.file));
        if has_auto_map(&json) {
            self.warn(file, RunsCode::AutoMap);
        }
    }

    fn warn(&self, file: &FileRef, kind: RunsCode) {
        let manifest = &file.revision.manifest;
        if self.checked().warned.insert((manifest.torrent.info_hash, kind)) {
            let path = &manifest.files[file.file].path;
            let warning = kind.warning();
            warn!(model = %manifest.model_ref(), path, warning, "a file was opened that can run code");
        }
    }

    fn checked(&self) -> parking_lot::MutexGuard<'_, Checked> {
        self.0.lock()
    }
}
