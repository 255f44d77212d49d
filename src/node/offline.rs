//! Whether this machine has a network at all.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use url::Url;

use super::node_catalog::NodeCatalog;
use super::{Library, NodeError};
use crate::model::ModelRef;
use crate::torrent::GivenPeers;

/// The flag of a route that can be used (`RTF_UP`).
const ROUTE_IS_UP: u32 = 1;

/// Checks whether this node can reach a peer or a server.
pub(super) struct NetworkReach {
    pub library: Arc<Library>,
    pub catalog: Option<Arc<NodeCatalog>>,
    /// The peers that the node was started with.
    pub peers: GivenPeers,
}

impl NetworkReach {
    /// Fails if a model cannot be fetched because the machine has no network: [`Self::is_offline`], and the hub is not
    /// on this machine.
    pub fn check_model(&self, model: &ModelRef, peers: &[SocketAddr]) -> Result<(), NodeError> {
        let is_hub_here = is_on_this_machine(&self.library.config.hub.endpoint);
        if is_hub_here || !self.is_offline(peers) { Ok(()) } else { Err(no_network(format!("get {model}"))) }
    }

    /// Fails if a repository at this address cannot be reached because the machine has no network.
    pub fn check_repository(&self, address: &Url, shown: &str) -> Result<(), NodeError> {
        let may_reach = is_on_this_machine(address) || self.library.config.network.proxy.is_some();
        if may_reach || has_network() { Ok(()) } else { Err(no_network(format!("mirror {shown}"))) }
    }

    /// Whether no peer can be reached: no interface but loopback is up, no peer is connected, and neither `peers`, nor
    /// the peers that the node was started with, nor a proxy can be on this machine.
    pub fn is_offline(&self, peers: &[SocketAddr]) -> bool {
        let has_peers = !peers.is_empty()
            || !self.peers.list().is_empty()
            || self.catalog.as_ref().is_some_and(|part| part.catalog.status().peers > 0);
        !has_peers && self.library.config.network.proxy.is_none() && !has_network()
    }
}

fn no_network(doing: String) -> NodeError {
    NodeError::NoNetwork { doing }
}

fn is_on_this_machine(address: &Url) -> bool {
    address.host().is_some_and(|host| match host {
        url::Host::Domain(name) => name == "localhost",
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.is_loopback(),
    })
}

/// Whether an interface other than loopback is up. True if the kernel does not answer.
pub(super) fn has_network() -> bool {
    let (Ok(routes), Ok(addresses)) =
        (fs::read_to_string("/proc/net/route"), fs::read_to_string("/proc/net/if_inet6").or_else(no_ipv6))
    else {
        return true;
    };
    let mut interfaces = with_routes(&routes).chain(with_addresses(&addresses));
    interfaces.any(|name| name != "lo" && has_carrier(name))
}

/// A kernel without IPv6 has no such file.
fn no_ipv6(error: std::io::Error) -> std::io::Result<String> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(String::new()) } else { Err(error) }
}

/// False for an interface whose cable is not plugged in, such as the bridge of a container runtime without containers.
/// /sys may show the interfaces of another network namespace.
fn has_carrier(interface: &str) -> bool {
    fs::read_to_string(format!("/sys/class/net/{interface}/carrier"))
        .map_or(true, |carrier| carrier.trim() != "0")
}

/// The interfaces of IPv4 routes that are up. A line: interface, destination, gateway and flags in hexadecimal, and
/// more.
fn with_routes(routes: &str) -> impl Iterator<Item = &str> {
    routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        (flags & ROUTE_IS_UP != 0).then_some(fields[0])
    })
}

/// The interfaces with IPv6 addresses, which are those that are up. A line ends with the interface.
fn with_addresses(addresses: &str) -> impl Iterator<Item = &str> {
    addresses.lines().filter_map(|line| line.split_ascii_whitespace().nth(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_routes_and_addresses_are_found() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            down0\t0001A8C0\t00000000\t0000\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(with_routes(routes).collect::<Vec<_>>(), ["eth0"]);
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fe80000000000000020000fffe000001 02 40 20 80     wlan0\n";
        assert_eq!(with_addresses(addresses).collect::<Vec<_>>(), ["lo", "wlan0"]);
        assert_eq!(with_routes("").count() + with_addresses("").count(), 0);
    }
}
