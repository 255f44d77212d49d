//! Making verified bytes survive a power cut: the data reaches the disk first, then the synced copy of its map.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::blockmap::BlockMap;
use super::content::{Content, Home};
use super::placement::Stamp;
use super::{Store, StoreError, mapfile};
use crate::{fsutil, nofollow};

/// What is to be recorded as synced of a content.
struct Unsynced {
    content: Arc<Content>,
    data: PathBuf,
    map: BlockMap,
    inserts: u64,
    removals: u64,
    /// How the file looks, if all of it is verified.
    stamp: Option<Stamp>,
}

impl Store {
    /// Makes everything verified so far survive a power cut. Called every half minute or so and on a clean stop.
    /// Continues after an error and returns the first.
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut first = None;
        let mut note = |content: &Content, result: io::Result<()>| {
            if let Err(e) = result {
                first.get_or_insert_with(|| StoreError::io(&content.path(), e));
            }
        };
        let mut unsynced = Vec::new();
        for content in self.live_contents() {
            match content.unsynced() {
                Ok(found) => unsynced.extend(found),
                Err(e) => note(&content, Err(e)),
            }
            if content.own_path().is_some() {
                note(&content, content.record_use());
            }
        }
        // New files are many when a model has many small files, and have no synced copy that could be lost.
        let (new, known): (Vec<_>, Vec<_>) =
            unsynced.into_iter().partition(|one| !nofollow::exists(&mapfile::synced_path(&one.data)));
        let (new, few) = match new.len() > nofollow::MAX_SINGLE_SYNCS {
            true => (new, Vec::new()),
            false => (Vec::new(), new),
        };
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
}

impl Content {
    /// What is not synced yet; none if all is. Takes back the bytes of a file that is gone.
    fn unsynced(self: &Arc<Self>) -> io::Result<Option<Unsynced>> {
        // Looked at under the journal, so that the file is not just being renamed.
        let mut journal = self.journal();
        let (data, map, inserts, removals) = {
            let state = self.state();
            let Home::Own(data) = &state.home else { return Ok(None) };
            if state.inserts == state.synced {
                return Ok(None);
            }
            (data.clone(), state.map.clone(), state.inserts, state.removals)
        };
        let stamp = match nofollow::metadata(&data) {
            Ok(found) => Some(Stamp::of(&found)).filter(|_| map.is_full()),
            Err(_) if map.is_clear() => None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return self.take_back(&mut journal, 0..self.len()).map(|()| None);
            }
            Err(e) => return Err(e),
        };
        Ok(Some(Unsynced { content: self.clone(), data, map, inserts, removals, stamp }))
    }
}

impl Unsynced {
    /// Whether the map still describes the file. With the journal held. Blocks that were taken back meanwhile must not be in
    /// the copy; the next sync finds a quiet moment.
    fn is_current(&self) -> bool {
        let state = self.content.state();
        state.removals == self.removals && matches!(&state.home, Home::Own(data) if *data == self.data)
    }

    /// Notes that the synced copy of the map is on the disk. With the journal held.
    fn is_synced_now(&self) {
        self.content.state().synced = self.inserts;
    }

    fn write_stamp(&self) -> io::Result<()> {
        self.stamp.as_ref().map_or(Ok(()), |stamp| mapfile::write_stamp(&self.data, stamp))
    }

    /// Makes one content durable.
    fn sync(&self) -> io::Result<()> {
        // Without the journal, since this waits for the disk. A file that is renamed meanwhile is not current below.
        if !self.map.is_clear() {
            match nofollow::read(&self.data) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                opened => fsutil::flush(&opened?)?,
            }
        }
        let _journal = self.content.journal();
        if self.is_current() {
            mapfile::write_synced(&self.data, &self.map, &self.content.shared.boot)?;
            self.write_stamp()?;
            self.is_synced_now();
        }
        Ok(())
    }
}

/// Makes many contents durable that have no synced copies, with few waits for the disk.
fn sync_together(new: &[Unsynced]) -> io::Result<()> {
    nofollow::sync_all(new.iter().map(|one| &one.data))?;
    let (mut written, mut paths) = (Vec::new(), BTreeSet::new());
    for one in new {
        let _journal = one.content.journal();
        if !one.is_current() {
            continue;
        }
        match mapfile::write_first_synced(&one.data, &one.map, &one.content.shared.boot) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            path => paths.insert(path?),
        };
        one.write_stamp()?;
        paths.insert(fsutil::parent(&one.data).to_owned());
        written.push(one);
    }
    nofollow::sync_all(&paths)?;
    for one in written {
        let _journal = one.content.journal();
        if one.is_current() {
            one.is_synced_now();
        }
    }
    Ok(())
}
