//! A node that starts while a command changes files that it has already read.

use std::time::Duration;

use silmaril::config::Config;
use silmaril::node::control::DaemonClient;
use silmaril::node::{Library, Node, NodeError, NodeOptions};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rig::{acme_m, config, in_home, manifest_without_holders};
use crate::support::process::PATIENCE;

/// Free: no other process is in the network namespace.
const PORT: u16 = 6881;
/// How often the port is polled: there is no event for a listener.
const POLL_EVERY: Duration = Duration::from_millis(1);

#[test]
fn a_starting_node_learns_of_a_new_manifest() {
    in_home(async |home| {
        let base = home.join("base");
        let manifest = manifest_without_holders(home);
        let mut network = config(&base).network;
        network.listen_port = PORT;
        let starting = tokio::spawn(Node::start(Config { network, ..config(&base) }, NodeOptions::default()));
        // The registry is read before the engine starts, and the socket served a moment after that.
        let listens = async {
            while TcpStream::connect(("127.0.0.1", PORT)).await.is_err() {
                tokio::time::sleep(POLL_EVERY).await;
            }
        };
        timeout(PATIENCE, listens).await.unwrap();
        let library = Library::open(config(&base)).unwrap();
        library.import(&manifest, "a test", None, false).unwrap();
        if let Some(client) = DaemonClient::connect(&library.paths).await.unwrap() {
            assert!(matches!(client.reload().await, Ok(()) | Err(NodeError::HostLost)));
        }
        let node = timeout(PATIENCE, starting).await.unwrap().unwrap().unwrap();
        assert!(node.library.registry.get(&acme_m()).is_some(), "the node does not know the model");
        node.stop().await;
    });
}
