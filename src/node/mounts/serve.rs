//! Begins to serve a mount, and ends it with its command.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::names::{NetworkNames, Publishers};
use super::{MountRequest, ServeOptions, ServedMount, UnmountRequest};
use crate::config::Show;
use crate::mount::{
    FuseConnection, LookupRules, ModelNames, MountError, MountLocation, Mounted, NeverResolve,
};
use crate::node::hub::access::HubAccess;
use crate::node::{Node, NodeError};

/// How long a new mount waits for the first scan of the models directory.
const LOCAL_WITHIN: Duration = Duration::from_secs(2);

/// Serves a mount from now on. Returns when its models can be read. If this fails, the caller unmounts.
pub(in crate::node) async fn serve(
    node: &Arc<Node>,
    request: MountRequest,
    device: OwnedFd,
) -> Result<Arc<ServedMount>, NodeError> {
    let MountRequest { place, options, .. } = request.clone();
    let path = place.path.clone();
    if node.mounts.served.lock().iter().any(|served| served.is_at(&path, &place.namespaces)) {
        return Err(NodeError::Mount(MountError::Busy(path)));
    }
    let peers = node.settings.peers.add(&options.peers);
    call_for_all(node, &options.peers);
    let lent = node.web.lend(&request.surroundings)?;
    let config = &node.library.config.hub;
    let access = HubAccess::new(&node.web, &config.endpoint, config.lazy, &request.surroundings)?;
    let access = node.hub.with_access(access);
    let (fetch, runtime) = (node.fetch.clone(), tokio::runtime::Handle::current());
    let asks_hub = access.is_online;
    let connection = FuseConnection { device, place };
    let layout = options.layout;
    let serving =
        tokio::task::spawn_blocking(move || Mounted::serve(connection, layout, fetch, runtime, asks_hub));
    let mounted = serving.await.map_err(NodeError::internal)??;
    set_up(node, &mounted, &options, &access)?;
    let served = Arc::new(ServedMount { request, mounted, _peers: peers, _lent: lent, access });
    // So that unshared models are shown when the mount is ready. On a slow disk they appear later.
    let _ = tokio::time::timeout(LOCAL_WITHIN, node.local.first_scan()).await;
    node.mounts.served.lock().push(served.clone());
    node.mounts.publish()?;
    let (node, ends) = (Arc::downgrade(node), served.clone());
    tokio::spawn(async move {
        ends.mounted.gone().await;
        if let Some(node) = node.upgrade() {
            node.mounts.served.lock().retain(|served| !Arc::ptr_eq(served, &ends));
        }
    });
    Ok(served)
}

fn set_up(
    node: &Arc<Node>,
    mounted: &Mounted,
    options: &ServeOptions,
    access: &Arc<HubAccess>,
) -> Result<(), NodeError> {
    let publishers = Arc::new(Publishers::new(node.library.trust.clone()));
    mounted.set_trust(publishers.clone());
    let config = &node.library.config.mount;
    match config.show {
        Show::All => {}
        Show::Pinned => {
            mounted.list_only(move |revision| {
                revision.is_local || crate::mount::PublisherTrust::is_pinned(&*publishers, &revision.manifest)
            });
        }
        Show::Local => mounted.list_only(|revision| revision.held_bytes() > 0),
    }
    if options.resolve {
        look_up_in_network(node, mounted.names(), access, options.allow_other)
    } else {
        Ok(())
    }
}

/// Has unknown names looked up in the network, with the limits of the configuration.
pub(in crate::node) fn look_up_in_network(
    node: &Arc<Node>,
    names: &ModelNames,
    access: &Arc<HubAccess>,
    allow_other: bool,
) -> Result<(), NodeError> {
    let config = &node.library.config.mount;
    let rules = LookupRules {
        within: config.resolve_timeout,
        never: NeverResolve::new(&config.never_resolve).map_err(NodeError::internal)?,
        per_minute: config.max_lookups,
    };
    let (node, access) = (Arc::downgrade(node), Arc::downgrade(access));
    names.resolve_with(Arc::new(NetworkNames { node, access, allow_other }), rules);
    Ok(())
}

/// Connects to hosts that the user has named, in all swarms.
fn call_for_all(node: &Node, peers: &[SocketAddr]) {
    if peers.is_empty() {
        return;
    }
    node.session.trust_hosts(peers);
    node.call_in_catalog(peers);
    node.fetch.introduce_to_all(peers);
}

/// Unmounts when it goes out of scope: the command of the mount is gone.
pub(in crate::node) struct MountGuard {
    node: Arc<Node>,
    request: Option<UnmountRequest>,
}

impl MountGuard {
    /// Unmounts this place later.
    pub fn new(node: &Arc<Node>, place: &MountLocation) -> Self {
        let request = UnmountRequest { path: place.path.clone(), namespaces: place.namespaces };
        Self { node: node.clone(), request: Some(request) }
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        let (node, request) = (self.node.clone(), self.request.take());
        // It is dropped on the runtime of the node.
        if let (Some(request), Ok(runtime)) = (request, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { node.mounts.unmount(&request).await });
        }
    }
}
