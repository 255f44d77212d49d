//! Models that are read from the hub because no manifest of them is known.
//!
//! A name that is looked up gets the commit that the hub has then ([`lookup`]). The commit is stored, so the name means the same
//! files later and without a network. Bytes are read in parts ([`origin`], [`crate::fetch::hub`]). Complete files are
//! hashed, and when all files of a model are complete, its manifest is made and the model is shared by the rules of `mirror`
//! ([`complete`]). If a manifest becomes known earlier, the cached bytes move to it ([`hand_over`]).
//!
//! A restricted (gated or private) model is visible only through mounts and commands for which the hub has sent a file of it.

pub(super) mod access;
mod aliases;
pub(super) mod complete;
mod different;
pub(super) mod hand_over;
pub(super) mod link_tree;
pub(super) mod lookup;
mod origin;
pub(super) mod twins;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::jobs::Jobs;
use super::sharing::WithheldReason;
use super::{Library, NodeError};
use crate::fetch::hub::HubStatus;
use crate::fetch::{Fetch, FileRef};
use crate::model::{Manifest, ModelName, ModelRef, Revision};
use crate::mount::ShownModels;
use crate::store::{ContentKey, HubKey, HubListing, HubModel, StoreError, StoredRevision};
use access::HubAccess;
use aliases::Aliases;
use different::Different;
use origin::CommitOrigin;
pub(super) use origin::remote;

/// The models that are read from the hub.
pub(super) struct HubModels {
    library: Arc<Library>,
    fetch: Arc<Fetch>,
    /// The node's own access.
    pub own: Arc<HubAccess>,
    models: Mutex<BTreeMap<ModelRef, Arc<StoredRevision>>>,
    /// Names under which models were looked up, and the names that the hub uses for them.
    aliases: Aliases,
    /// The accesses of mounts and commands that last.
    users: Mutex<Vec<Arc<HubAccess>>>,
    /// One lookup at a time for each model.
    turns: Jobs<ModelRef>,
    /// Receives files whose bytes are all cached.
    complete: mpsc::UnboundedSender<FileRef>,
    /// Notified when a manifest of a model may have become known.
    changed: Notify,
    /// Notified when files of a model may be on this host.
    searches: Notify,
    /// Held during a search for files on this host.
    searching: tokio::sync::Mutex<()>,
    different: Mutex<Different>,
}

/// The hub's side of a revision; only for models that are read from a hub.
pub(super) fn hub_of(revision: &StoredRevision) -> &Arc<HubModel> {
    revision.hub.as_ref().expect("it is read from a hub")
}

impl HubModels {
    /// The stored models. Files that are complete are sent to the returned receiver.
    pub fn open(
        library: &Arc<Library>,
        fetch: &Arc<Fetch>,
        own: Arc<HubAccess>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<FileRef>) {
        let (complete, completed) = mpsc::unbounded_channel();
        let this = Arc::new(Self {
            library: library.clone(),
            fetch: fetch.clone(),
            own,
            models: Mutex::default(),
            aliases: Aliases::open(library.paths.hub_aliases()),
            users: Mutex::default(),
            turns: Jobs::default(),
            complete: complete.clone(),
            changed: Notify::new(),
            searches: Notify::new(),
            searching: tokio::sync::Mutex::default(),
            different: Mutex::default(),
        });
        fetch.hub.on_complete(move |file| {
            // The receiver ends with the node.
            let _ = complete.send(file);
        });
        for listing in library.store.hub().listings() {
            let model = listing.model.clone();
            match StoredRevision::of_hub(&library.store, listing) {
                Ok(revision) => this.insert(revision),
                Err(error) => tracing::warn!(%error, %model, "could not open a model of the hub"),
            }
        }
        (this, completed)
    }

    /// Shows a model, and reports its files that are complete already.
    fn insert(&self, revision: Arc<StoredRevision>) {
        let complete = (0..revision.contents.len()).filter(|&file| {
            revision.contents[file].hub_key().is_some() && revision.contents[file].is_complete()
        });
        complete.for_each(|file| self.report_complete(&revision, file));
        self.models.lock().insert(revision.manifest.model_ref(), revision);
    }

    /// Stores a commit and shows its files, in place of an earlier commit of the model. Writes to the disk.
    fn enter(&self, listing: HubListing) -> Result<Arc<StoredRevision>, NodeError> {
        match self.library.store.hub().save_listing(&listing) {
            Ok(()) => {}
            // It can be read all the same, through memory.
            Err(StoreError::Io { source, .. }) if is_full(&source) => {
                tracing::warn!(error = %source, model = %listing.model, "the disk has no space for the commit of a model");
            }
            Err(error) => return Err(error.into()),
        }
        let model = listing.model.clone();
        let revision = StoredRevision::of_hub(&self.library.store, listing).map_err(NodeError::internal)?;
        if let Some(earlier) = self.get(&model) {
            self.fetch.hub.retire(&earlier);
        }
        self.insert(revision.clone());
        self.refresh();
        Ok(revision)
    }

    /// Forgets a model; its bytes have moved. Writes to the disk.
    fn remove(&self, model: &ModelRef) -> Result<(), NodeError> {
        self.remove_shown(model);
        self.library.store.hub().remove_listing(model)?;
        Ok(())
    }

    /// Shows a model no longer, and ends its reads. Its commit stays on the disk.
    pub fn remove_shown(&self, model: &ModelRef) {
        let removed = self.models.lock().remove(model);
        if let Some(revision) = removed {
            self.fetch.hub.retire(&revision);
        }
    }

    /// The name that the hub uses for a model that was looked up under another name.
    pub fn canonical(&self, model: &ModelRef) -> Option<ModelRef> {
        self.aliases.get(model)
    }

    /// The name that the hub uses for a name of which a revision was looked up.
    pub fn canonical_name(&self, name: &ModelName) -> Option<ModelName> {
        self.aliases.name(name)
    }

    /// All other names of models.
    pub fn aliases(&self) -> BTreeMap<ModelRef, ModelRef> {
        self.aliases.all()
    }

    /// A known model.
    pub fn get(&self, model: &ModelRef) -> Option<Arc<StoredRevision>> {
        self.models.lock().get(model).cloned()
    }

    /// All known models, by name.
    pub fn all(&self) -> Vec<Arc<StoredRevision>> {
        self.models.lock().values().cloned().collect()
    }

    /// Removes the models that a mount with this access does not show.
    pub fn remove_restricted(&self, shown: &mut ShownModels, access: &HubAccess, allow_other: bool) {
        let may_read =
            |revision: &Arc<StoredRevision>| may_read(&self.library, revision, access, allow_other);
        shown.revisions.retain(may_read);
        shown.by_publisher.retain(may_read);
    }

    /// The models that a mount with this access shows. Only its user may read a restricted model.
    pub fn shown(&self, access: &HubAccess, allow_other: bool) -> Vec<Arc<StoredRevision>> {
        let models = self.all().into_iter();
        models.filter(|revision| may_read(&self.library, revision, access, allow_other)).collect()
    }

    /// Uses an access for reads until the returned guard is dropped.
    pub fn with_access(self: &Arc<Self>, access: Arc<HubAccess>) -> HubUser {
        self.users.lock().push(access.clone());
        self.refresh();
        HubUser { hub: self.clone(), access }
    }

    /// Chooses through which access each model is read: mounts and commands may have come or gone.
    pub fn refresh(&self) {
        let mut users = self.users.lock().clone();
        if users.is_empty() {
            users.push(self.own.clone());
        }
        let endpoint = self.library.config.hub.endpoint.to_string();
        for revision in self.all() {
            let listing = &hub_of(&revision).listing;
            let fits = |access: &&Arc<HubAccess>| {
                // The hub decides about the token file of the user who runs the node.
                let is_own = Arc::ptr_eq(access, &self.own) && access.has_token();
                access.is_online && (!listing.is_restricted() || is_own || access.is_accepted(&listing.model))
            };
            let access = users.iter().rev().find(fits);
            match access.filter(|_| listing.endpoint == endpoint) {
                Some(access) => {
                    self.fetch.hub.set_origin(&listing.model, Arc::new(CommitOrigin::new(access, listing)));
                }
                None => self.fetch.hub.remove_origin(&listing.model),
            }
        }
    }

    /// The access with which manifests are compared with the hub: that of the latest mount or command, or the node's own. None if
    /// none of them may ask.
    pub fn witness_access(&self) -> Option<Arc<HubAccess>> {
        let users = self.users.lock();
        let own = users.is_empty().then_some(&self.own);
        users.iter().rev().chain(own).find(|access| access.is_online).cloned()
    }

    /// For `status`: the models that are in use.
    pub fn status(&self) -> Vec<HubStatus> {
        let all = self.all();
        let used = all.iter().filter_map(|revision| self.fetch.hub.status(revision));
        used.filter(|status| status.downloaded > 0 || status.waiting_reads > 0 || status.trouble.is_some())
            .collect()
    }

    /// Has the models compared with the known manifests.
    pub fn manifests_changed(&self) {
        self.changed.notify_one();
        self.searches.notify_one();
    }

    /// Has a complete file checked, and the models that have it made shared if all their files are complete.
    fn report_complete(&self, revision: &Arc<StoredRevision>, file: usize) {
        // The receiver ends with the node.
        let _ = self.complete.send(FileRef { revision: revision.clone(), file });
    }

    fn are_different(&self, hub: &HubKey, key: &ContentKey) -> bool {
        self.different.lock().contains(hub, key)
    }

    fn record_different(&self, hub: HubKey, key: ContentKey) {
        self.different.lock().insert(hub, key);
    }
}

/// An access that a mount or command uses. Dropping it ends the use, and forgets the token.
pub(super) struct HubUser {
    hub: Arc<HubModels>,
    access: Arc<HubAccess>,
}

impl std::ops::Deref for HubUser {
    type Target = Arc<HubAccess>;

    fn deref(&self) -> &Arc<HubAccess> {
        &self.access
    }
}

impl Drop for HubUser {
    fn drop(&mut self) {
        self.hub.users.lock().retain(|user| !Arc::ptr_eq(user, &self.access));
        self.hub.refresh();
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Whether a mount or command with this access may read a model. A restricted model needs an access that the hub has
/// accepted, unless the user has placed its files in a directory of his own. A mount for other users never shows one.
pub(super) fn may_read(
    library: &Library,
    revision: &StoredRevision,
    access: &HubAccess,
    allow_other: bool,
) -> bool {
    if !is_restricted(library, revision) {
        return true;
    }
    let is_placed = || revision.contents.iter().any(|content| content.is_placed());
    !allow_other && (access.is_accepted(&revision.manifest.model_ref()) || is_placed())
}

/// Whether only users that the hub accepts may read a model: one that is read from the hub, or one that was, and has a manifest
/// of this host now. A manifest of another publisher came from a swarm, which gives the bytes to everyone.
pub(super) fn is_restricted(library: &Library, revision: &StoredRevision) -> bool {
    match &revision.hub {
        Some(hub) => hub.listing.is_restricted(),
        None if revision.is_local => false,
        None => is_restricted_manifest(library, &revision.manifest),
    }
}

fn is_restricted_manifest(library: &Library, manifest: &Manifest) -> bool {
    let rule = library.sharing.of(&manifest.model_ref());
    let is_withheld = matches!(rule.withheld, Some(WithheldReason::Gated | WithheldReason::Private));
    is_withheld && library.may_have_made(manifest)
}

/// The branch, tag or commit of the hub for a revision; none for the default branch. Revisions have no slashes: `refs-pr-1`
/// is `refs/pr/1` of the hub.
pub(super) fn reference_of(revision: &Revision) -> Option<crate::mirror::Reference> {
    if revision.is_default() {
        return None;
    }
    let text = revision.as_str();
    let named = |start: &str, of_hub: &str| Some(format!("{of_hub}{}", text.strip_prefix(start)?));
    let named = named("refs-pr-", "refs/pr/").or_else(|| named("refs-convert-", "refs/convert/"));
    named.as_deref().unwrap_or(text).parse().ok()
}
