//! Begins to serve the endpoint, and the figures of the node.

use std::sync::Arc;

use super::models::NodeModels;
use super::{EndpointStatus, Running, ServeRequest};
use crate::mount::{ModelNames, MountLayout, Owner};
use crate::node::mounts::look_up_in_network;
use crate::node::request_errors::EndpointError;
use crate::node::{Node, NodeError, chain, metrics};
use crate::serve::{DEFAULT_PORT, Endpoint, Guard, Listener, is_loopback};

/// Serves the endpoint from now on. A former endpoint at another address ends.
pub(in crate::node) async fn serve(
    node: &Arc<Node>,
    request: &ServeRequest,
) -> Result<EndpointStatus, NodeError> {
    let config = &node.library.config.serve;
    let address = request
        .listen
        .or(config.listen)
        .unwrap_or_else(|| (std::net::Ipv4Addr::LOCALHOST, DEFAULT_PORT).into());
    let (token, open) = (config.token.clone(), request.open || config.open);
    if !is_loopback(address.ip()) && token.is_none() && !open {
        return Err(EndpointError::Exposed(address).into());
    }
    let _one = node.endpoints.changing.lock().await;
    let is_same = |now: &EndpointStatus| {
        let is_address = now.address == address || address.port() == 0 && now.address.ip() == address.ip();
        is_address && now.open == open
    };
    if let Some(now) = node.endpoints.status() {
        if is_same(&now) {
            return Ok(now);
        }
        if now.address == address {
            let former = node.endpoints.endpoint.lock().take();
            if let Some(mut former) = former {
                former.server.end().await;
            }
        }
    }
    let listener = Listener::bind(address).await.map_err(|error| EndpointError::Listen { address, error })?;
    let runtime = tokio::runtime::Handle::current();
    let names = Arc::new(ModelNames::new(Owner::of_this_process(), MountLayout::Plain, runtime));
    let access = node.hub.with_access(node.hub.own.clone());
    look_up_in_network(node, &names, &access, false)?;
    node.mounts.add_names(&names);
    node.mounts.publish()?;
    let has_token = token.is_some();
    let guard = Guard { address: listener.address(), token };
    let models = NodeModels::new(node, names.clone());
    let endpoint = Endpoint::new(Arc::new(models), node.fetch.clone(), guard);
    let server = listener.serve(endpoint.router());
    tracing::info!(address = %server.address(), "serving the endpoint");
    let running = Running { server, endpoint, names, token: has_token, open, _access: access };
    let status = running.status();
    *node.endpoints.problem.lock() = None;
    *node.endpoints.endpoint.lock() = Some(running);
    Ok(status)
}

/// Serves the endpoint of the configuration, if it has one. A failure is logged and reported by `status`.
pub(in crate::node) async fn serve_configured(node: &Arc<Node>) {
    if node.library.config.serve.listen.is_none() {
        return;
    }
    if let Err(error) = serve(node, &ServeRequest::default()).await {
        tracing::error!(%error, "the endpoint is not served");
        *node.endpoints.problem.lock() = Some(chain(&error));
    }
}

/// Serves figures at the address of the configuration, if it has one. A failure is logged and reported by `status`.
pub(in crate::node) async fn serve_metrics(node: &Arc<Node>) {
    let Some(address) = node.library.config.metrics.listen else { return };
    match Listener::bind(address).await {
        Ok(listener) => {
            let guard = Guard { address: listener.address(), token: None };
            let server = listener.serve(metrics::router(Arc::downgrade(node), guard));
            tracing::info!(address = %server.address(), "serving metrics");
            *node.endpoints.metrics.lock() = Some(server);
        }
        Err(error) => {
            let error = EndpointError::Listen { address, error };
            tracing::error!(%error, "the metrics are not served");
            *node.endpoints.metrics_problem.lock() = Some(error.to_string());
        }
    }
}
