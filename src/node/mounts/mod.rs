//! The mounts that this node serves.
//!
//! The command `mount` mounts in its own mount namespace and passes the connection to the kernel to the node, which
//! then answers the kernel. A mount that is `held` ends with its command: with `mount --foreground`, and in another
//! mount namespace, where only a process of that namespace can unmount.

mod names;
mod serve;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::disputes::Disputes;
use super::hub::{HubModels, HubUser};
use super::{NodeError, Surroundings};
use crate::catalog::News;
use crate::fetch::web::Lent;
use crate::mount::{ModelNames, MountLayout, MountLocation, Mounted, Namespaces};
use crate::torrent::PeersGuard;
pub(super) use serve::{MountGuard, look_up_in_network, serve};

/// Body of `POST /v1/mount`; the connection to the kernel is passed with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountRequest {
    /// The mount point and its namespaces.
    pub place: MountLocation,
    /// The options of the command.
    pub options: ServeOptions,
    /// Whether the mount ends with the request.
    pub held: bool,
    /// How the command reaches the web.
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// How a mount is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeOptions {
    /// Whether other users may read. The kernel checks that.
    pub allow_other: bool,
    /// Whether unknown models are looked up in the network.
    pub resolve: bool,
    /// Hosts that have models, called for every torrent while the mount lasts.
    #[serde(rename = "given_peers")]
    pub peers: Vec<SocketAddr>,
    /// How models are arranged.
    #[serde(default)]
    pub layout: MountLayout,
}

/// A mount, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatus {
    /// The mount point, as the process that mounted sees it.
    pub path: PathBuf,
    /// How it is served.
    #[serde(flatten)]
    pub options: ServeOptions,
    /// Whether it ends with its command.
    pub held: bool,
}

/// Body of `POST /v1/unmount`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnmountRequest {
    /// The mount point.
    pub path: PathBuf,
    /// The namespaces of the process that sends the request.
    pub namespaces: Namespaces,
}

/// The mounts of one node, in the order in which they were mounted.
pub(super) struct Mounts {
    disputes: Arc<Disputes>,
    hub: Arc<HubModels>,
    served: Mutex<Vec<Arc<ServedMount>>>,
    /// The names of other doors, which show the same models.
    doors: Mutex<Vec<Weak<ModelNames>>>,
    /// One publication at a time, so that a former state never replaces a newer one.
    publishing: Mutex<()>,
}

/// One mount.
pub(super) struct ServedMount {
    request: MountRequest,
    mounted: Mounted,
    _peers: PeersGuard,
    _lent: Option<Lent>,
    /// How the hub is asked for this mount. The token is forgotten with the mount.
    access: HubUser,
}

impl ServedMount {
    /// Resolves when the mount closes or is gone.
    pub async fn closing(&self) {
        self.mounted.closing().await;
    }

    fn is_at(&self, path: &Path, namespaces: &Namespaces) -> bool {
        self.request.place.path == path && self.request.place.namespaces == *namespaces
    }
}

impl Mounts {
    /// None yet.
    pub fn new(disputes: Arc<Disputes>, hub: Arc<HubModels>) -> Self {
        let (served, doors, publishing) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { disputes, hub, served, doors, publishing }
    }

    /// The mount points.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.served.lock().iter().map(|served| served.request.place.path.clone()).collect()
    }

    /// The mount points that this process can unmount.
    pub fn paths_here(&self) -> Vec<PathBuf> {
        let is_here = |place: &&MountLocation| place.namespaces.share_mount_table();
        let served = self.served.lock();
        served
            .iter()
            .map(|served| &served.request.place)
            .filter(is_here)
            .map(|place| place.path.clone())
            .collect()
    }

    /// For `status`.
    pub fn status(&self) -> Vec<MountStatus> {
        let of = |served: &Arc<ServedMount>| MountStatus {
            path: served.request.place.path.clone(),
            options: served.request.options.clone(),
            held: served.request.held,
        };
        self.served.lock().iter().map(of).collect()
    }

    /// Whether there is no mount.
    pub fn is_empty(&self) -> bool {
        self.served.lock().is_empty()
    }

    /// Unmounts all, at the same time.
    pub async fn stop(&self) {
        let all = std::mem::take(&mut *self.served.lock());
        let mut stopping = tokio::task::JoinSet::new();
        for served in all {
            stopping.spawn(async move { served.mounted.stop().await });
        }
        while stopping.join_next().await.is_some() {}
    }

    /// Unmounts a path. Returns whether this node served a mount there.
    pub async fn unmount(&self, request: &UnmountRequest) -> bool {
        let served = {
            let mut all = self.served.lock();
            let at = all.iter().position(|served| served.is_at(&request.path, &request.namespaces));
            at.map(|at| all.remove(at))
        };
        let Some(served) = served else { return false };
        served.mounted.stop().await;
        true
    }

    /// From now on updates these names like those of a mount.
    pub fn add_names(&self, names: &Arc<ModelNames>) {
        self.doors.lock().push(Arc::downgrade(names));
    }

    fn other_names(&self) -> Vec<Arc<ModelNames>> {
        let mut doors = self.doors.lock();
        doors.retain(|names| names.strong_count() > 0);
        doors.iter().filter_map(Weak::upgrade).collect()
    }

    /// Updates the models that all mounts show.
    pub fn publish(&self) -> Result<(), NodeError> {
        let _one_at_a_time = self.publishing.lock();
        // Other doors ask the hub about the token of each client.
        let doors = self.other_names().into_iter().map(|names| (names, self.hub.own.clone(), false));
        let served = self.served.lock().clone();
        let mounts = served.iter().map(|served| {
            let allow_other = served.request.options.allow_other;
            (served.mounted.names().clone(), (*served.access).clone(), allow_other)
        });
        let all: Vec<_> = doors.chain(mounts).collect();
        let mut kept = BTreeSet::new();
        for (names, access, allow_other) in &all {
            let mut shown = self.disputes.shown()?;
            self.hub.remove_restricted(&mut shown, access, *allow_other);
            // First, so that a model with a manifest and the user's own files are shown under their names instead.
            shown.revisions.splice(0..0, self.hub.shown(access, *allow_other));
            shown.aliases = self.hub.aliases();
            kept.extend(names.publish(shown));
        }
        if !all.is_empty() {
            self.disputes.set_kept(kept);
        }
        Ok(())
    }

    /// Informs the mounts of new names, peers and holders, so that they repeat failed lookups.
    pub fn news(&self, news: News<'_>) {
        let mut all = self.other_names();
        let served = self.served.lock();
        let resolving = served.iter().filter(|served| served.request.options.resolve);
        all.extend(resolving.map(|served| served.mounted.names().clone()));
        drop(served);
        for names in all {
            match news {
                News::Name(name) => names.name_appeared(name),
                News::Peer => names.peer_appeared(),
                News::Holder => names.holder_appeared(),
            }
        }
    }
}
