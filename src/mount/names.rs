//! Finds models by their names, for mounts, which show them as directories, and for the endpoint.
//!
//! A name that is not known is looked up in the network, with the limits of [`LookupRules`]. Simultaneous lookups of one
//! name are one query, and a name that was not found is not looked up again for a while.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, WeakShared};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::attr::{InodeKind, Owner};
use super::inode::Ino;
use super::lookups::{LookupRules, Lookups, Resolver};
use super::requester::Requester;
use super::tree::{Lookup, Tree};
use super::tree_error::TreeError;
use super::view::ShownModels;
use super::{MountLayout, RequestedModel};
use crate::model::{InfoHash, Kind, ModelName, ModelRef};
use crate::store::StoredRevision;

/// Why [`ModelNames::find`] returned no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No such model is known, and the network did not return it in time.
    #[error("no peer has it")]
    Absent,
    /// Several publishers dispute the name.
    #[error("several publishers dispute this name")]
    Disputed,
    /// The hub has it, and does not permit this user to read it.
    #[error("the hub does not permit access to it")]
    Denied,
    /// The names are not served any more.
    #[error("the daemon is stopping")]
    Stopped,
}

/// The models that one door shows, and their lookups.
pub struct ModelNames {
    pub(super) tree: Arc<Tree>,
    pub(super) lookups: Arc<Lookups>,
    /// The lookups of [`Self::find`] in progress.
    finding: Mutex<HashMap<ModelRef, WeakShared<Finding>>>,
}

type Finding = BoxFuture<'static, Result<Arc<StoredRevision>, FindError>>;

impl ModelNames {
    /// Shows no model until [`Self::publish`] is called. Queries run on `runtime`.
    pub fn new(owner: Owner, layout: MountLayout, runtime: tokio::runtime::Handle) -> Self {
        let tree = Arc::new(Tree::new(owner, layout));
        let lookups = Lookups::new(tree.clone(), runtime);
        Self { tree, lookups, finding: Mutex::default() }
    }

    /// Replaces the models. Refused models are looked up again, because the caller may publish after a change of the
    /// trusted publishers. A disputed name that was read before keeps its publisher. Returns these names.
    pub fn publish(&self, shown: impl Into<ShownModels>) -> BTreeSet<ModelRef> {
        let kept = self.tree.publish(shown);
        self.lookups.rules_changed();
        kept
    }

    /// From now on asks the resolver for unknown models. The resolver publishes a found model before its query ends.
    pub fn resolve_with(&self, resolver: Arc<dyn Resolver>, rules: LookupRules) {
        self.lookups.resolve_with(resolver, rules);
    }

    /// Forgets that the models of a name were not found: a record of the name has arrived, or a peer has it.
    pub fn name_appeared(&self, name: &ModelName) {
        self.lookups.name_appeared(name);
    }

    /// Ends all remembered misses: a new peer is connected that no query has reached.
    pub fn peer_appeared(&self) {
        self.lookups.peer_appeared();
    }

    /// Ends the misses of models whose holders could not be reached: a peer is connected that may hold them.
    pub fn holder_appeared(&self) {
        self.lookups.holder_appeared();
    }

    /// Number of lookups that wait for the network now.
    pub fn waiting(&self) -> usize {
        self.lookups.waiting()
    }

    /// Fails all waiting lookups, and all later ones.
    pub fn stop(&self) {
        self.lookups.stop();
    }

    /// The model at the path `[datasets/]org/name[@revision]` of a mount, which is looked up in the network if it is not
    /// known. The model counts as read. For names in the layout [`MountLayout::Plain`]. Simultaneous calls for one model
    /// count as one lookup, and all callers share the budget of processes that cannot be seen.
    pub async fn find(&self, model: &ModelRef) -> Result<Arc<StoredRevision>, FindError> {
        let finding = {
            let mut all = self.finding.lock();
            match all.get(model).and_then(WeakShared::upgrade) {
                Some(finding) => finding,
                None => {
                    let finding =
                        find(self.tree.clone(), self.lookups.clone(), model.clone()).boxed().shared();
                    all.retain(|_, finding| finding.upgrade().is_some());
                    all.extend(finding.downgrade().map(|weak| (model.clone(), weak)));
                    finding
                }
            }
        };
        finding.await
    }

    /// The known revisions of a name, the default one first. Does not use the network.
    pub fn revisions(&self, name: &ModelName) -> Vec<Arc<StoredRevision>> {
        self.tree.revisions(name)
    }

    /// Whether a revision with this torrent is known under its name. Does not use the network.
    pub fn shows(&self, info_hash: &InfoHash) -> bool {
        self.tree.shows(info_hash)
    }
}

async fn find(
    tree: Arc<Tree>,
    lookups: Arc<Lookups>,
    model: ModelRef,
) -> Result<Arc<StoredRevision>, FindError> {
    let kind = if model.name.kind() == Kind::Dataset { Some("datasets") } else { None };
    let mut above = Ino::ROOT;
    if let Some(kind) = kind {
        above = child(&lookups, above, kind).await?;
    }
    let dir = child(&lookups, above, model.name.org()).await?;
    let shown = if model.revision.is_default() {
        model.name.name().to_owned()
    } else {
        format!("{}@{}", model.name.name(), model.revision)
    };
    let found = child(&lookups, dir, &shown).await?;
    let found = match tree.link(found) {
        // The default revision, where only another one is known, or the name that the hub uses: `../org/name`.
        Ok(target) => {
            let mut at = dir;
            for part in target.split('/') {
                at = if part == ".." { above } else { child(&lookups, at, part).await? };
            }
            at
        }
        Err(_) => found,
    };
    tree.revision(found).ok_or(FindError::Absent)
}

async fn child(lookups: &Arc<Lookups>, dir: Ino, name: &str) -> Result<Ino, FindError> {
    let (answer, answered) = oneshot::channel();
    let reply = Box::new(move |found| drop(answer.send(found)));
    lookups.serve(dir, OsString::from(name), Requester::UNSEEN, reply);
    match answered.await {
        Ok(Ok(Lookup::Present { attr, .. })) if attr.kind != InodeKind::File => Ok(attr.ino),
        Ok(Ok(_)) => Err(FindError::Absent),
        Ok(Err(TreeError::Disputed)) => Err(FindError::Disputed),
        Ok(Err(TreeError::Denied)) => Err(FindError::Denied),
        Ok(Err(TreeError::Stopped)) | Err(_) => Err(FindError::Stopped),
        Ok(Err(_)) => Err(FindError::Absent),
    }
}

/// A model as it is requested, without a publisher.
impl From<ModelRef> for RequestedModel {
    fn from(model: ModelRef) -> Self {
        Self { model, publisher: None }
    }
}
