//! A node in this process, and its clients.

use std::path::Path;

use silmaril::config::Config;
use silmaril::node::control::Client;
use silmaril::node::share::ShareRequest;

use crate::engine::rig::network;

/// The configuration of a node that stays on loopback.
pub fn config(base: &Path) -> Config {
    Config { network: network(), ..Config::defaults(base) }
}

/// A client of the node that runs.
pub async fn client(base: &Path) -> Client {
    Client::connect(&config(base).paths()).await.unwrap().unwrap()
}

/// Shares a directory as `acme/m`, unsigned, so that it may become another one.
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
    }
}
