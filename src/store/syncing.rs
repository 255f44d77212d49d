//! Making verified bytes survive a power cut: the data reaches the disk first, then the synced copy of its map.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::StoreError;
use super::blockmap::BlockMap;
use super::content::{Content, Location};
use super::mapfile::{self, OwnStamp};
use crate::{fsutil, nofollow};

/// The blocks of a content that will be recorded as synced.
struct Unsynced {
    content: Arc<Content>,
    data: PathBuf,
    map: BlockMap,
    inserts: u64,
    removals: u64,
    /// The stamp of the file, if all of it is verified.
    stamp: Option<OwnStamp>,
}

/// See [`Store::sync`](super::Store::sync).
pub(super) fn sync(contents: &[Arc<Content>]) -> Result<(), StoreError> {
    let mut first = None;
    let mut note = |content: &Content, result: io::Result<()>| {
        if let Err(e) = result {
            first.get_or_insert_with(|| StoreError::io(&content.path(), e));
        }
    };
    let mut unsynced = Vec::new();
    for content in contents {
        match Unsynced::of(content) {
            Ok(found) => unsynced.extend(found),
            Err(e) => note(content, Err(e)),
        }
        if content.own_path().is_some() {
            note(content, content.record_use());
        }
    }
    // A model with many small files has many new files. They have no synced copy that could be lost.
    let (new, known): (Vec<_>, Vec<_>) =
        unsynced.into_iter().partition(|one| !nofollow::exists(&mapfile::synced_path(&one.data)));
    let (new, few) =
        if new.len() > nofollow::MAX_SINGLE_SYNCS { (new, Vec::new()) } else { (Vec::new(), new) };
    for one in known.iter().chain(&few) {
        note(&one.content, one.sync());
    }
    if let Some(one) = new.first()
        && let Err(e) = sync_together(&new)
    {
        note(&one.content, Err(e));
    }
    first.map_or(Ok(()), Err)
}

impl Unsynced {
    /// The bytes of a content that are not synced yet; none if all are. If the file is gone, its bytes are missing from then
    /// on.
    fn of(content: &Arc<Content>) -> io::Result<Option<Self>> {
        // Looked up under the journal, so that the file is not just being renamed.
        let mut writer = content.writer();
        let (data, map, inserts, removals) = {
            let state = content.state();
            let Location::Own(data) = &state.location else { return Ok(None) };
            if state.inserts == state.synced {
                return Ok(None);
            }
            (data.clone(), state.map.clone(), state.inserts, state.version.removals)
        };
        let stamp = match nofollow::metadata(&data) {
            Ok(found) => Some(OwnStamp::of(&found)).filter(|_| map.is_full()),
            Err(_) if map.is_clear() => None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return writer.remove_blocks(0..content.len()).map(|()| None);
            }
            Err(e) => return Err(e),
        };
        Ok(Some(Self { content: content.clone(), data, map, inserts, removals, stamp }))
    }

    /// Whether no block was removed from the map and the content has not moved since. Otherwise the synced copy must not be
    /// written, and the next sync repeats it. The caller holds the journal.
    fn is_current(&self) -> bool {
        let state = self.content.state();
        state.version.removals == self.removals
            && matches!(&state.location, Location::Own(data) if *data == self.data)
    }

    /// Records that the synced copy of the map is on the disk. The caller holds the journal.
    fn set_synced(&self) {
        self.content.state().synced = self.inserts;
    }

    /// Records the stamp of a complete file that has none. A recorded one stays: another program may have changed the file
    /// since.
    fn write_stamp(&self) -> io::Result<()> {
        let stamp = self.stamp.filter(|_| mapfile::stamp(&self.data).is_none());
        stamp.map_or(Ok(()), |stamp| mapfile::write_stamp(&self.data, &stamp))
    }

    /// Makes one content durable.
    fn sync(&self) -> io::Result<()> {
        // Without the journal, because this waits for the disk. A file that is renamed in this time is not current below.
        if !self.map.is_clear() {
            let Some(file) = fsutil::existing(nofollow::read(&self.data))? else { return Ok(()) };
            fsutil::flush(&file)?;
        }
        let _writer = self.content.writer();
        if self.is_current() {
            mapfile::write_synced(&self.data, &self.map, &self.content.parts.files.boot)?;
            self.write_stamp()?;
            self.set_synced();
        }
        Ok(())
    }
}

/// Makes many contents durable that have no synced copies, with few waits for the disk.
fn sync_together(new: &[Unsynced]) -> io::Result<()> {
    nofollow::sync_all(new.iter().map(|one| &one.data))?;
    let (mut written, mut paths) = (Vec::new(), BTreeSet::new());
    for one in new {
        let _writer = one.content.writer();
        if !one.is_current() {
            continue;
        }
        match mapfile::write_first_synced(&one.data, &one.map, &one.content.parts.files.boot) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            path => paths.insert(path?),
        };
        one.write_stamp()?;
        paths.insert(fsutil::parent(&one.data).to_owned());
        written.push(one);
    }
    nofollow::sync_all(&paths)?;
    for one in written {
        let _writer = one.content.writer();
        if one.is_current() {
            one.set_synced();
        }
    }
    Ok(())
}
