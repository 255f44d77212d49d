//! HTTP for other programs: an endpoint with the read routes of a hub, so that a program that honours `HF_ENDPOINT` reads
//! models of the swarm without being changed.
//!
//! | module | what it owns |
//! |---|---|
//! | `server` | the listening socket and its connections |
//! | `local_user` | the user of a loopback connection |
//! | `slots` | which connections stay open if there are too many |
//! | `guard` | which requests are refused before a route sees them |
//! | `route` | paths of requests |
//! | `endpoint` | the routes: from a request to a response |
//! | `find` | names and revisions, as a mount finds them |
//! | `describe` | the JSON that describes a model and its files |
//! | `file`, `range`, `body` | the bytes of a file, streamed as they are proved |
//! | `registry` | the routes of a registry, for Ollama |
//! | `error` | errors with the codes of the hub |
//!
//! These rules always hold:
//! - Every byte of a file comes from [`Fetch`](crate::fetch::Fetch), so it is proved before it is sent, and many clients of
//!   one file cause one fetch. When a client disconnects, its body is dropped, which cancels its request.
//! - A model that is withheld is served only to a client that the hub permits to read it ([`ModelSource::may_read`]).
//! - A token of a client is never logged and never stored.

mod body;
mod describe;
mod endpoint;
mod error;
mod file;
mod find;
mod guard;
mod local_user;
mod range;
mod registry;
mod route;
mod server;
mod slots;

use std::sync::Arc;

use futures_util::future::BoxFuture;

pub(crate) use endpoint::Endpoint;
pub(crate) use error::HubError;
pub(crate) use guard::{Guard, is_loopback};
pub(crate) use server::{EndpointServer, Listener};

use crate::http::Token;
use crate::model::{ModelName, ModelRef};
use crate::mount::FindError;
use crate::store::StoredRevision;

/// The port of the endpoint if none is given.
pub const DEFAULT_PORT: u16 = 8910;

/// The models that an endpoint serves.
pub trait ModelSource: Send + Sync {
    /// Finds a model as a mount does. An unknown one is looked up in the network within `mount.resolve_timeout`.
    fn find<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Arc<StoredRevision>, FindError>>;

    /// The known revisions of a name, the default one first.
    fn revisions(&self, name: &ModelName) -> Vec<Arc<StoredRevision>>;

    /// Whether a revision is still one of those of its name. Does not wait.
    fn is_shown(&self, revision: &StoredRevision) -> bool;

    /// The reason why a model was not found, for people; none if nothing more is known.
    fn reason(&self, model: &ModelRef) -> Option<String>;

    /// Checks that a client may read a revision. `token` is the client's own token for the hub.
    fn may_read<'a>(
        &'a self,
        revision: &'a StoredRevision,
        token: Option<&'a Token>,
    ) -> BoxFuture<'a, Result<(), HubError>>;
}
