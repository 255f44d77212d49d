//! The endpoint that this node serves for other programs.

mod models;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::hub::HubUser;
use crate::mount::ModelNames;
use crate::serve::{Endpoint, EndpointServer};
pub(super) use serve::{serve, serve_configured, serve_metrics};

/// Body of `POST /v1/serve`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServeRequest {
    /// Where to listen; none is the address of the configuration, otherwise the default.
    pub listen: Option<SocketAddr>,
    /// Whether hosts that reach the address need no token.
    pub open: bool,
}

/// The endpoint, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The address in use.
    pub address: SocketAddr,
    /// For `HF_ENDPOINT`, on this machine.
    pub url: String,
    /// Whether requests need `serve.token`.
    pub token: bool,
    /// Whether other hosts reach it without a token.
    pub open: bool,
    /// Files that are being sent.
    pub sending: usize,
}

/// The servers of one node.
#[derive(Default)]
pub(super) struct Endpoints {
    endpoint: Mutex<Option<Running>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    /// The reason why the endpoint of the configuration is not served.
    pub problem: Mutex<Option<String>>,
    metrics: Mutex<Option<EndpointServer>>,
    /// The reason why the figures of the configuration are not served.
    pub metrics_problem: Mutex<Option<String>>,
}

struct Running {
    server: EndpointServer,
    endpoint: Arc<Endpoint>,
    names: Arc<ModelNames>,
    token: bool,
    open: bool,
    /// The endpoint reads from the hub with the access of the node.
    _access: HubUser,
}

impl Running {
    fn status(&self) -> EndpointStatus {
        let address = self.server.address();
        EndpointStatus {
            address,
            url: format!("http://{}", reachable(address)),
            token: self.token,
            open: self.open,
            sending: self.endpoint.open_files(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.names.stop();
    }
}

/// The address with which a program of this machine reaches a listening address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

impl Endpoints {
    /// The endpoint in use; none if none is served.
    pub fn status(&self) -> Option<EndpointStatus> {
        self.endpoint.lock().as_ref().map(Running::status)
    }

    /// Whether an endpoint is served.
    pub fn is_serving(&self) -> bool {
        self.endpoint.lock().is_some()
    }

    /// The address that serves figures; none if none does.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.lock().as_ref().map(EndpointServer::address)
    }

    /// Ends the endpoint. Returns whether there was one.
    pub fn stop(&self) -> bool {
        self.endpoint.lock().take().is_some()
    }
}
