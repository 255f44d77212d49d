//! Lookups of a mount in the node: unknown models, and publishers.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::catalog::SearchPatience;
use crate::model::{Manifest, PublisherKey};
use crate::mount::{PublisherTrust, RequestedModel, ResolveError, Resolver, Resolving};
use crate::node::disputes::paths_by;
use crate::node::hub::{self, access::HubAccess};
use crate::node::readable::{self, LookupLimits};
use crate::node::{ErrorKind, Node, NodeError, chain, offline};
use crate::trust::TrustDocument;
use crate::trust::{Trust, TrustError};

/// Looks unknown models up in the network.
pub(super) struct NetworkNames {
    pub node: Weak<Node>,
    /// The access of the mount to the hub.
    pub access: Weak<HubAccess>,
    pub allow_other: bool,
}

impl Resolver for NetworkNames {
    fn resolve(&self, sought: RequestedModel, within: Duration) -> Resolving {
        let (node, access, allow_other) = (self.node.clone(), self.access.clone(), self.allow_other);
        Box::pin(async move {
            let node = node.upgrade().ok_or(ResolveError::NotFound)?;
            let access = access.upgrade();
            let limits = LookupLimits { within, patience: SearchPatience::Peers };
            let found = readable::look_up(&node, &sought, access.as_ref(), limits).await;
            let error = match found {
                Ok(found)
                    if access
                        .as_ref()
                        .is_none_or(|access| hub::may_read(&node.library, &found, access, allow_other)) =>
                {
                    None
                }
                Ok(_) => Some(NodeError::Restricted(sought.model.clone())),
                Err(e) if e.kind() == ErrorKind::HostLost => return Err(ResolveError::NotFound),
                Err(e) => Some(e),
            };
            note_lookup(&node, &sought, error.as_ref());
            error.map_or(Ok(()), |e| match e.kind() {
                ErrorKind::NotFound => Err(ResolveError::NotFound),
                ErrorKind::NoNetwork | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                    Err(ResolveError::Unreachable(chain(&e)))
                }
                ErrorKind::Ambiguous => Err(ResolveError::Disputed(chain(&e))),
                ErrorKind::Gated | ErrorKind::Unauthorised => Err(ResolveError::Denied(chain(&e))),
                _ => Err(ResolveError::Refused(chain(&e))),
            })
        })
    }

    fn over_budget(&self, sought: &RequestedModel, process: u32) {
        if let Some(node) = self.node.upgrade() {
            note_over_budget(&node, sought, process);
        }
    }
}

/// Records the result of a lookup of an unknown model, for `status`.
fn note_lookup(node: &Node, sought: &RequestedModel, error: Option<&NodeError>) {
    let Some(error) = error else { return node.unresolved.forget(sought) };
    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NoNetwork) {
        return node.unresolved.note(sought, true, why_not_found(node), Vec::new());
    }
    let paths = match error {
        NodeError::Trust(TrustError::Ambiguous { keys, .. }) => {
            paths_by(&sought.model, keys, &node.mounts.paths())
        }
        _ => Vec::new(),
    };
    node.unresolved.note(sought, false, chain(error), paths);
}

/// The reason why a name was not found.
fn why_not_found(node: &Node) -> String {
    let peers = node.catalog.as_ref().map_or(0, |part| part.catalog.status().peers);
    let dht = if node.settings.discovery.dht { ", and the DHT has named none so far" } else { "" };
    match peers {
        0 if !offline::has_network() => "this machine has no network".to_owned(),
        0 => format!("no peer is connected that could be asked{dht}"),
        1 => format!("the connected peer does not have it{dht}"),
        peers => format!("none of the {peers} connected peers has it{dht}"),
    }
}

/// Records a lookup that was refused because its process has used up its budget. Reads only /proc.
fn note_over_budget(node: &Node, sought: &RequestedModel, process: u32) {
    node.limited.note(process);
    let max = node.library.config.mount.max_lookups;
    let reason =
        format!("not looked up: process {process} looked up more than {max} unknown names in a minute");
    node.unresolved.note(sought, true, reason, Vec::new());
}

/// How long a mount may use an old list of pins.
const PINS_CACHED: Duration = Duration::from_secs(1);

/// Answers questions about publishers. A listing needs an answer for every entry, so the contents of the file are
/// cached for a moment.
pub(super) struct Publishers {
    trust: Arc<Trust>,
    latest: Mutex<Option<(Instant, Option<Arc<TrustDocument>>)>>,
}

impl Publishers {
    /// Answers from the trust of this node.
    pub fn new(trust: Arc<Trust>) -> Self {
        Self { trust, latest: Mutex::default() }
    }
}

impl PublisherTrust for Publishers {
    fn is_pinned(&self, manifest: &Manifest) -> bool {
        let mut latest = self.latest.lock();
        if latest.as_ref().is_none_or(|(when, _)| when.elapsed() >= PINS_CACHED) {
            let read = self.trust.document();
            let read = read.inspect_err(
                |error| tracing::error!(%error, "could not read the pins; no name counts as pinned"),
            );
            *latest = Some((Instant::now(), read.ok()));
        }
        let document = latest.as_ref().and_then(|(_, document)| document.as_ref());
        let pinned = document.and_then(|document| document.pinned(&manifest.name));
        pinned.is_some() && pinned == manifest.signed_by()
    }

    fn find_publisher(&self, text: &str) -> Option<PublisherKey> {
        // Known publishers only: a stranger could make a key with the same beginning.
        self.trust.find(text, []).ok()
    }
}
