//! Swarms of models that are joined only to ask their peers for a manifest.

use std::sync::Arc;

use super::core::Core;
use crate::model::InfoHash;
use crate::torrent::Meeting;

/// Keeps a swarm joined. The last user leaves it.
pub(super) struct JoinedSwarm {
    core: Arc<Core>,
    info_hash: InfoHash,
    /// False where the engine has the torrent already: its peers can be asked without this.
    joined: bool,
}

impl JoinedSwarm {
    pub fn join(core: &Arc<Core>, info_hash: InfoHash) -> Self {
        let mut joined_swarms = core.model_swarms.lock();
        let joined = match joined_swarms.get_mut(&info_hash) {
            Some((_, users)) => {
                *users += 1;
                true
            }
            None => match core.overlay.meet(Meeting::Model(info_hash), &core.settings.peers.list()) {
                Ok(id) => {
                    joined_swarms.insert(info_hash, (id, 1));
                    true
                }
                Err(error) => {
                    tracing::debug!(%info_hash, %error, "could not join the swarm of a model");
                    false
                }
            },
        };
        drop(joined_swarms);
        Self { core: Arc::clone(core), info_hash, joined }
    }
}

impl Drop for JoinedSwarm {
    fn drop(&mut self) {
        let mut swarms = self.core.model_swarms.lock();
        let Some((id, users)) = swarms.get_mut(&self.info_hash).filter(|_| self.joined) else { return };
        *users -= 1;
        if *users == 0 {
            if let Err(error) = self.core.overlay.leave(*id) {
                tracing::debug!(info_hash = %self.info_hash, %error, "could not leave the swarm of a model");
            }
            swarms.remove(&self.info_hash);
        }
    }
}
