//! How the hub is asked: with the proxies and the token of one command, only while the command or its mount lasts.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::http::{HttpClient, Token};
use crate::mirror::{GitOid, HubLimits, HubRepository, HubSource, Reference};
use crate::model::{ModelName, ModelRef};
use crate::node::web::Web;
use crate::node::{NodeError, Surroundings};

/// Access to the hub for one mount or command.
pub(in crate::node) struct HubAccess {
    client: HttpClient,
    token: Option<Token>,
    endpoint: reqwest::Url,
    limits: Arc<HubLimits>,
    /// Whether requests are permitted.
    pub is_online: bool,
    /// The restricted models that the hub has sent with this token.
    accepted: Mutex<BTreeSet<ModelRef>>,
}

impl HubAccess {
    /// The access of a command. `lazy` is `hub.lazy`.
    pub fn new(
        web: &Web,
        endpoint: &reqwest::Url,
        lazy: bool,
        surroundings: &Surroundings,
    ) -> Result<Arc<Self>, NodeError> {
        Ok(Arc::new(Self {
            client: web.client_with(surroundings)?,
            token: surroundings.token.clone(),
            endpoint: endpoint.clone(),
            limits: web.hub_limits.clone(),
            is_online: lazy && !surroundings.hub_offline,
            accepted: Mutex::default(),
        }))
    }

    /// The access of the node itself, with the token file of the user who runs it.
    pub fn of_node(web: &Web, endpoint: &reqwest::Url, lazy: bool) -> Arc<Self> {
        Arc::new(Self {
            client: web.client.clone(),
            token: web.token.clone(),
            endpoint: endpoint.clone(),
            limits: web.hub_limits.clone(),
            is_online: lazy,
            accepted: Mutex::default(),
        })
    }

    /// A repository of the hub.
    pub fn source(&self, repository: &ModelName, reference: Option<Reference>) -> HubSource {
        let repository = HubRepository { endpoint: self.endpoint.clone(), id: repository.clone() };
        let source =
            HubSource::new(self.client.clone(), repository, reference, self.token.as_ref(), Arc::default());
        source.limited(self.limits.clone()).in_one_attempt()
    }

    /// [`Self::source`] at a commit.
    pub fn source_at(&self, repository: &ModelName, commit: GitOid) -> HubSource {
        // The text of a commit is a valid reference.
        self.source(repository, commit.to_string().parse().ok())
    }

    /// Whether requests have a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Records that the hub has sent a file of a restricted model with this token.
    pub fn accept(&self, model: &ModelRef) {
        self.accepted.lock().insert(model.clone());
    }

    /// Whether the hub has sent a file of a restricted model with this token.
    pub fn is_accepted(&self, model: &ModelRef) -> bool {
        self.accepted.lock().contains(model)
    }

    /// Whether the hub could not be reached a moment ago.
    pub fn is_unreachable(&self) -> bool {
        self.limits.is_unreachable()
    }

    /// The pause that the hub has asked for.
    pub fn pause(&self) -> Option<std::time::Duration> {
        self.limits.pause()
    }
}
