//! A node that starts while other commands change what it has read already.

use std::time::Duration;

use silmaril::config::Config;
use silmaril::node::control::Client;
use silmaril::node::{Library, Node, NodeError, NodeOptions};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rig::{acme_m, config, in_home, of_nobody};
use crate::support::process::PATIENCE;

/// Nobody else is in the namespace.
const PORT: u16 = 6881;
/// How often it is looked whether the node listens; nothing tells.
const LOOK_EVERY: Duration = Duration::from_millis(1);

#[test]
fn what_is_imported_while_a_node_starts_is_known_to_it() {
    in_home(async |home| {
        let base = home.join("base");
        let manifest = of_nobody(home);
        let mut network = config(&base).network;
        network.listen_port = PORT;
        let starting = tokio::spawn(Node::start(Config { network, ..config(&base) }, NodeOptions::default()));
        // The registry is read before the engine starts, and the socket served a moment after that.
        let listens = async {
            while TcpStream::connect(("127.0.0.1", PORT)).await.is_err() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        timeout(PATIENCE, listens).await.unwrap();
        let library = Library::open(config(&base)).unwrap();
        library.import(&manifest, "a test", None, false).unwrap();
        if let Some(client) = Client::connect(&library.paths).await.unwrap() {
            assert!(matches!(client.reload().await, Ok(()) | Err(NodeError::HostLost)));
        }
        let node = timeout(PATIENCE, starting).await.unwrap().unwrap().unwrap();
        assert!(node.library.registry.get(&acme_m()).is_some(), "it does not know the model");
        node.stop().await;
    });
}
