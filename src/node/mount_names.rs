//! What a mount asks the node: models that are not known here, and publishers.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{ErrorKind, Node, chain};
use crate::catalog::Patience;
use crate::model::{Manifest, PublisherKey};
use crate::mount::{PublisherTrust, RequestedModel, ResolveError, Resolver, Resolving};
use crate::trust::Document;
use crate::trust::Trust;

/// Asks the network for models that are looked up and not known.
pub(super) struct NetworkNames(pub Weak<Node>);

impl Resolver for NetworkNames {
    fn resolve(&self, sought: RequestedModel, within: Duration) -> Resolving {
        let node = self.0.clone();
        Box::pin(async move {
            let node = node.upgrade().ok_or(ResolveError::NotFound)?;
            let error = match node.look_up(&sought, within, Patience::Peers).await {
                Ok(_) => None,
                Err(e) if e.kind() == ErrorKind::HostLost => return Err(ResolveError::NotFound),
                Err(e) => Some(e),
            };
            node.note_lookup(&sought, error.as_ref());
            error.map_or(Ok(()), |e| match e.kind() {
                ErrorKind::NotFound => Err(ResolveError::NotFound),
                ErrorKind::NoNetwork | ErrorKind::TimedOut => Err(ResolveError::Unreachable(chain(&e))),
                ErrorKind::Ambiguous => Err(ResolveError::Disputed(chain(&e))),
                _ => Err(ResolveError::Refused(chain(&e))),
            })
        })
    }

    fn over_budget(&self, sought: &RequestedModel, process: u32) {
        if let Some(node) = self.0.upgrade() {
            node.note_over_budget(sought, process);
        }
    }
}

/// How long it may take until a mount knows of a name that was pinned or given away.
const PINS_LAST: Duration = Duration::from_secs(1);

/// Answers questions about publishers. A listing asks for every entry, so the contents of the file are kept for a moment.
pub(super) struct Publishers {
    trust: Arc<Trust>,
    latest: Mutex<Option<(Instant, Option<Arc<Document>>)>>,
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
        if latest.as_ref().is_none_or(|(when, _)| when.elapsed() >= PINS_LAST) {
            let read = self.trust.document();
            let read = read.inspect_err(|error| tracing::error!("no name counts as pinned: {error}"));
            *latest = Some((Instant::now(), read.ok()));
        }
        let document = latest.as_ref().and_then(|(_, document)| document.as_ref());
        let pinned = document.and_then(|document| document.pinned(&manifest.name));
        pinned.is_some() && pinned == manifest.signed_by()
    }

    fn find_publisher(&self, text: &str) -> Option<PublisherKey> {
        // Beginnings of the keys of strangers could be made to fit.
        self.trust.find(text, []).ok()
    }
}
