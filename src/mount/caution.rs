//! Warns in the log, once for each model and kind, when a program opens a file that can run code.

use std::collections::HashSet;

use parking_lot::Mutex;
use tracing::warn;

use crate::fetch::FileRef;
use crate::model::InfoHash;
use crate::model::code::{MAX_CONFIG, RunsCode, START, has_auto_map, is_pickle};

/// What was warned of, and which configurations were looked into.
#[derive(Debug, Default)]
pub struct Caution(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    warned: HashSet<(InfoHash, RunsCode)>,
    looked_into: HashSet<(InfoHash, usize)>,
}

impl Caution {
    /// A file was opened. Bytes that are not here yet do not decide: the name does.
    pub fn opened(&self, file: &FileRef) {
        let kind = RunsCode::by_name(&file.revision.manifest.files[file.file].path);
        let Some(kind) = kind.filter(|kind| *kind != RunsCode::AutoMap) else { return };
        let start = || file.revision.contents[file.file].read(0..START).ok().flatten();
        if kind != RunsCode::Pickle || start().is_none_or(|start| is_pickle(&start)) {
            self.warn(file, kind);
        }
    }

    /// A file is no longer open. A configuration is looked into once, when it was read.
    pub fn closed(&self, file: &FileRef) {
        let entry = &file.revision.manifest.files[file.file];
        if RunsCode::by_name(&entry.path) != Some(RunsCode::AutoMap) || entry.size > MAX_CONFIG {
            return;
        }
        let info_hash = file.revision.manifest.torrent.info_hash;
        if self.seen().looked_into.contains(&(info_hash, file.file)) {
            return;
        }
        let Ok(Some(json)) = file.revision.contents[file.file].read(0..entry.size) else { return };
        self.seen().looked_into.insert((info_hash, file.file));
        if has_auto_map(&json) {
            self.warn(file, RunsCode::AutoMap);
        }
    }

    fn warn(&self, file: &FileRef, kind: RunsCode) {
        let manifest = &file.revision.manifest;
        if self.seen().warned.insert((manifest.torrent.info_hash, kind)) {
            let path = &manifest.files[file.file].path;
            warn!(model = %manifest.model_ref(), "A file was opened that can run code: {path} {}.", kind.warning());
        }
    }

    fn seen(&self) -> parking_lot::MutexGuard<'_, Seen> {
        self.0.lock()
    }
}
