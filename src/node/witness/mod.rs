//! The hub as a witness: manifests of publishers that the user did not choose are compared with what the hub lists for their
//! commit.
//!
//! [`judge`] decides about the candidates of a name. [`ask`] sends the requests, with limits, and caches the answers. [`link`] sends
//! parts of files to the scheduler, which compares them before a reader gets bytes. [`complete`] compares complete files in the background, and [`contents`] deletes what contradicts the hub. Results are stored in [`Witnessed`](crate::store::Witnessed). Where the hub cannot be asked, or does not know the name or the commit,
//! names are decided as without a witness.

mod answers;
mod ask;
pub(super) mod complete;
pub(super) mod contents;
mod judge;
pub(super) mod link;

use std::sync::Arc;

use answers::Asks;
pub(super) use judge::HubJudge;
use tokio::sync::Notify;

use super::{Library, NodeError};
use crate::model::ModelName;
use crate::mount::NeverResolve;

/// What the witness of one node remembers of the hub.
pub(super) struct Witness {
    /// `security.hub_witness`.
    is_on: bool,
    /// Names that are never looked up.
    never: NeverResolve,
    asks: Asks,
    /// Held while a manifest is refused: two refusals must not delete one model at the same time.
    refusing: tokio::sync::Mutex<()>,
    /// Notified when a complete file may be compared with the hash that the hub lists.
    pub completed: Arc<Notify>,
}

impl Witness {
    /// Fails if the patterns of `mount.never_resolve` cannot be used.
    pub fn new(library: &Library) -> Result<Self, NodeError> {
        let never = NeverResolve::new(&library.config.mount.never_resolve).map_err(NodeError::internal)?;
        Ok(Self {
            is_on: library.config.security.hub_witness,
            never,
            asks: Asks::default(),
            refusing: Default::default(),
            completed: Arc::default(),
        })
    }

    /// Whether the hub may be asked about a name.
    fn may_ask(&self, name: &ModelName) -> bool {
        self.is_on
            && !self.never.matches_org(name.org())
            && !self.never.matches_model(name.org(), name.name())
    }
}
