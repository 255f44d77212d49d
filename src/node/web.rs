//! The access of this node to hubs, git servers and web seeds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Library, NodeError};
use crate::fetch::hub::REQUESTS;
use crate::fetch::web::{HttpSource, Lent, WebSettings};
use crate::http::{EnvironmentProxies, HttpClient, Token};
use crate::mirror::{HubLimits, token};

/// The settings in the environment of a command. The node uses it only for the work of that command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The proxies that its environment names.
    pub proxies: EnvironmentProxies,
    /// The token of its environment, for the hub.
    pub token: Option<Token>,
    /// Whether its environment forbids requests to the hub (`HF_HUB_OFFLINE`).
    #[serde(default)]
    pub hub_offline: bool,
}

impl Surroundings {
    fn is_empty(&self) -> bool {
        self.proxies.is_empty() && self.token.is_none()
    }
}

/// The HTTP client of a node, and the web as a source of bytes.
pub(super) struct Web {
    /// Uses the proxy of the configuration.
    pub client: HttpClient,
    library: Arc<Library>,
    /// The web as the seed of last resort; none with `hub.fallback: false`.
    source: Option<Arc<HttpSource>>,
    /// The token of the user who runs the node.
    pub token: Option<Token>,
    /// The limits of all requests to the hub.
    pub hub_limits: Arc<HubLimits>,
}

impl Web {
    /// Reads the user's token for the hub. A token that cannot be used is logged: models that everybody may read need
    /// none.
    pub fn new(library: Arc<Library>) -> Result<Self, NodeError> {
        let hub = &library.config.hub;
        let client = HttpClient::new(&library.config.network)?.allowing_private(&hub.endpoint);
        let token = token::find()
            .inspect_err(|error| tracing::warn!(%error, "the hub receives requests without a token"));
        let token = token.ok().flatten();
        let source =
            hub.fallback.then(|| Arc::new(HttpSource::new(client.clone(), &hub.endpoint, token.as_ref())));
        let hub_limits = HubLimits::new(REQUESTS);
        Ok(Self { client, library, source, token, hub_limits })
    }

    /// For the scheduler; none if it must not read from the web.
    pub fn settings(&self) -> Option<WebSettings> {
        let endpoint = || self.library.config.hub.endpoint.clone();
        self.source.as_ref().map(|source| WebSettings { source: source.clone(), endpoint: endpoint() })
    }

    /// Reads from the web with the proxies and token of a command until the returned guard is dropped. None if the web
    /// is not read, or if the command has neither.
    pub fn lend(&self, surroundings: &Surroundings) -> Result<Option<Lent>, NodeError> {
        let Some(source) = self.source.as_ref().filter(|_| !surroundings.is_empty()) else { return Ok(None) };
        Ok(Some(source.lend(self.client_with(surroundings)?, surroundings.token.as_ref())))
    }

    /// An HTTP client that uses the proxies of a command.
    pub fn client_with(&self, surroundings: &Surroundings) -> Result<HttpClient, NodeError> {
        if surroundings.proxies.is_empty() {
            return Ok(self.client.clone());
        }
        let config = &self.library.config;
        Ok(HttpClient::for_process(&config.network, &surroundings.proxies)?
            .allowing_private(&config.hub.endpoint)
            .counting_with(&self.client))
    }
}
