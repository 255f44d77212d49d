//! A node in this process, and its clients.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use silmaril::config::Config;
use silmaril::model::ModelRef;
use silmaril::node::Library;
use silmaril::node::control::DaemonClient;
use silmaril::node::share::ShareRequest;

use crate::engine::rig::network;
use crate::support::fixtures::{model_dir, noise};
use crate::support::private_net::in_private_net;

/// Runs a test in a network of its own, with a home directory.
pub fn in_home(test: impl AsyncFnOnce(&Path) + Send + 'static) {
    in_private_net(|| {
        let home = tempfile::tempdir().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(test(home.path()));
    });
}

/// The configuration of a node that stays on loopback.
pub fn config(base: &Path) -> Config {
    Config { network: network(), ..Config::defaults(base) }
}

/// A client of the running node.
pub async fn client(base: &Path) -> DaemonClient {
    DaemonClient::connect(&config(base).paths()).await.unwrap().unwrap()
}

/// Shares a directory as `acme/m`, unsigned, so that another model may replace it.
pub fn share_as_acme_m(dir: &Path) -> ShareRequest {
    ShareRequest {
        path: dir.to_owned(),
        name: "acme/m".parse().unwrap(),
        version: "main".parse().unwrap(),
        license: Some("mit".to_owned()),
        piece_length: 1 << 16,
        sign: false,
        hybrid: false,
        web_seeds: vec![],
        follow_links: Default::default(),
        skip_dht: false,
    }
}

/// The model of these tests.
pub fn acme_m() -> ModelRef {
    "acme/m".parse().unwrap()
}

/// A manifest of [`acme_m`] of a host that does not run: no peer has its bytes.
pub fn manifest_without_holders(home: &Path) -> Vec<u8> {
    let dir = model_dir(&home.join("theirs"), &[("w.bin", &noise(1, 100_000))]);
    let library = Library::open(config(&home.join("other"))).unwrap();
    library.publish(&share_as_acme_m(&dir), &|_, _| (), &AtomicBool::new(false)).unwrap();
    library.manifest(&acme_m()).unwrap().to_json()
}
