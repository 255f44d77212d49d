//! Torrents that leave the engine, for good or for a while: because their files moved, are thrown away, or are no
//! longer shared.

use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::state::{Command, State};
use super::transfer::Phase;
use super::web::TransferWeb;
use super::{Fetch, ReadError, lock};
use crate::model::{InfoHash, PieceHashes, PieceLayers};
use crate::store::ContentKey;
use crate::store::StoredRevision;

/// The engine still has the torrent at the end of the time that it had to release it.
#[derive(Debug, thiserror::Error)]
#[error("the engine does not release the torrent")]
pub struct NotReleased;

/// Keeps torrents out of the engine while bytes of theirs are thrown away. When it is dropped they are added
/// again, with what is left.
#[must_use]
pub struct EvictionHold {
    fetch: Arc<Fetch>,
    keys: Vec<ContentKey>,
}

impl Drop for EvictionHold {
    fn drop(&mut self) {
        self.fetch.with(|state, _| state.release_keys(&self.keys));
    }
}

impl Fetch {
    /// Takes all torrents that hold one of these contents out of the engine, so that their bytes can be thrown
    /// away: the engine never believes to have what is gone. Reads of them wait meanwhile. Fails if the engine
    /// has not released them `within` that time; nothing may be deleted then.
    pub async fn release_for_eviction(
        self: &Arc<Self>,
        keys: &[ContentKey],
        within: Duration,
    ) -> Result<EvictionHold, NotReleased> {
        let torrents = self.with(|state, now| state.hold(keys, now));
        let hold = EvictionHold { fetch: self.clone(), keys: keys.to_vec() };
        // One that was just being added has its number after this.
        self.issue();
        let gone = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !lock(&self.state).ids.values().any(|ih| torrents.contains(ih)) {
                    return;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(within, gone).await {
            Ok(()) => Ok(hold),
            Err(_) => Err(NotReleased),
        }
    }

    /// The bytes of a content that somebody waits for: not to be thrown away.
    pub fn waited_for(&self, root: &ContentKey) -> Vec<Range<u64>> {
        lock(&self.state).waited_for(root)
    }
}

impl State {
    pub(super) fn waited_for(&self, key: &ContentKey) -> Vec<Range<u64>> {
        let content = self.contents.get(key);
        content.map(|c| c.waiters.values().map(|w| w.range.clone()).collect()).unwrap_or_default()
    }

    fn hold(&mut self, keys: &[ContentKey], now: Instant) -> Vec<InfoHash> {
        let mut torrents: Vec<InfoHash> = keys
            .iter()
            .filter_map(|root| self.contents.get(root))
            .flat_map(|c| &c.uses)
            .map(|(ih, _)| *ih)
            .collect();
        torrents.sort_unstable();
        torrents.dedup();
        for key in keys {
            *self.held.entry(*key).or_default() += 1;
        }
        for ih in &torrents {
            let Some(transfer) = self.transfers.get_mut(ih) else { continue };
            if transfer.phase == Phase::Queued {
                transfer.phase = Phase::Held;
            } else {
                self.add_anew(*ih, now);
            }
        }
        torrents
    }

    /// Ends a hold of these contents; torrents that wait for nothing else are added again.
    fn release_keys(&mut self, keys: &[ContentKey]) {
        for key in keys {
            if let Entry::Occupied(mut count) = self.held.entry(*key) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        let waiting: Vec<InfoHash> =
            self.transfers.iter().filter(|(_, t)| t.phase == Phase::Held).map(|(ih, _)| *ih).collect();
        for ih in waiting {
            self.out_of_engine(ih);
        }
    }

    /// Whether the torrent has to stay out of the engine: bytes of one of its contents are being thrown away or moved.
    pub(super) fn is_held(&self, ih: &InfoHash) -> bool {
        let Some(transfer) = self.transfers.get(ih).filter(|_| !self.held.is_empty()) else { return false };
        transfer.revision.contents.iter().filter_map(|c| c.key()).any(|key| self.held.contains_key(&key))
    }

    pub(super) fn leave(&mut self, ih: InfoHash, now: Instant) {
        if !self.transfers.contains_key(&ih) {
            return;
        }
        self.introduced.remove(&ih);
        self.answer_all(&Err(ReadError::Left), |w| w.via.0 == ih);
        self.drop_windows_of(&ih);
        let Some(mut transfer) = self.transfers.remove(&ih) else { return };
        transfer.space.release_all(&self.settings.rooms);
        match transfer.phase {
            Phase::Adding(id) | Phase::Running(id) => {
                self.leaving.insert(ih, id);
                self.outbox.push_back(Command::Remove(id));
            }
            Phase::Removing { id, .. } => {
                self.leaving.insert(ih, id);
            }
            Phase::Queued | Phase::Held | Phase::Failed { .. } => {}
        }
        self.abandon_contents(ih, &transfer.revision, now);
    }

    pub(super) fn relocate(&mut self, revision: &Arc<StoredRevision>, now: Instant) {
        let ih = revision.manifest.torrent.info_hash;
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        if transfer.revision.manifest != revision.manifest {
            transfer.web = TransferWeb::of(&revision.manifest, self.settings.web.as_ref());
            if let Some(web) = &mut transfer.web {
                web.knows(Arc::new(PieceHashes::new(revision.manifest.clone(), PieceLayers::default())));
            }
        }
        transfer.revision = revision.clone();
        for content in &revision.contents {
            let Some(root) = content.key() else { continue };
            if let Some(state) = self.contents.get_mut(&root) {
                state.content = content.clone();
            }
            self.wake_ready(&root);
        }
        let exposure = self.exposure(&ih);
        if self.transfers.get(&ih).is_some_and(|t| t.is_outdated(exposure)) {
            self.add_anew(ih, now);
        }
    }
}
