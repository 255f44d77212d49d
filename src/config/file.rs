//! The configuration file as it is written: every key optional, unknown ones refused.

use std::path::Path;

use serde::Deserialize;

use super::values::*;
use super::{Config, ConfigError};
use crate::yaml::{self, Limits, YamlError};

/// Bounds of a configuration: it has a few kilobytes.
pub(super) const LIMITS: Limits = Limits { bytes: 1 << 20, values: 10_000 };

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    storage: Option<Storage>,
    network: Option<Network>,
    torrent: Option<Torrent>,
    security: Option<Security>,
    mount: Option<Mount>,
    cache: Option<Cache>,
    hub: Option<Hub>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Storage {
    base_dir: Option<Directory>,
    models_dir: Option<Directory>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    max_connections: Option<Connections>,
    upload_rate_limit: Option<Rate>,
    download_rate_limit: Option<Rate>,
    dht_enabled: Option<Flag>,
    dht_port: Option<Port>,
    listen_port: Option<Port>,
    listen_address: Option<ListenAddress>,
    dht_bootstrap_nodes: Option<Vec<HostPort>>,
    trackers: Option<Vec<Tracker>>,
    announce: Option<Flag>,
    lan_discovery: Option<Flag>,
    port_mapping: Option<Flag>,
    utp: Option<UtpValue>,
    encryption: Option<EncryptionValue>,
    proxy: Option<ProxyValue>,
    allow_private_hosts: Option<Vec<PrivateHost>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Torrent {
    piece_length: Option<PieceLength>,
    download_timeout: Option<Wait>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Security {
    verify_checksums: Option<Flag>,
    sign_manifests: Option<Flag>,
    trust: Option<TrustValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mount {
    read_timeout: Option<Wait>,
    resolve_timeout: Option<Wait>,
    never_resolve: Option<Vec<NamePattern>>,
    max_lookups: Option<Lookups>,
    readahead_max: Option<Window>,
    show: Option<ShowValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cache {
    max_size: Option<MaxSize>,
    min_free: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hub {
    endpoint: Option<Endpoint>,
    fallback: Option<Flag>,
}

/// Replaces a default where the file has a value.
macro_rules! overlay {
    ($section:expr => $target:expr; $($key:ident),* $(,)?) => {
        let section = $section;
        $(if let Some(value) = section.$key { $target.$key = value.0; })*
    };
}

impl File {
    /// Parses the text of a file; `path` is for errors only.
    pub(super) fn parse(text: &[u8], path: &Path) -> Result<Self, ConfigError> {
        // An empty document is a file without keys.
        yaml::read::<Option<Self>>(text, LIMITS)
            .map(Option::unwrap_or_default)
            .map_err(|YamlError { line, what }| ConfigError::Value { path: path.to_owned(), line, what })
    }

    /// The base directory the file wants.
    pub(super) fn base_dir(&self, home: &Path) -> Option<std::path::PathBuf> {
        Some(self.storage.as_ref()?.base_dir.as_ref()?.expand(home))
    }

    /// Where the file wants complete models.
    pub(super) fn models_dir(&self, home: &Path) -> Option<std::path::PathBuf> {
        Some(self.storage.as_ref()?.models_dir.as_ref()?.expand(home))
    }

    /// Puts the values of the file, except `storage`, over those of `config`.
    pub(super) fn apply(self, config: &mut Config) {
        let mut network = self.network.unwrap_or_default();
        let (nodes, trackers) = (network.dht_bootstrap_nodes.take(), network.trackers.take());
        let private_hosts = network.allow_private_hosts.take();
        overlay!(network => config.network; max_connections, upload_rate_limit, download_rate_limit, dht_enabled,
            dht_port, listen_port, listen_address, announce, lan_discovery, port_mapping, utp, encryption, proxy);
        if let Some(nodes) = nodes {
            config.network.dht_bootstrap_nodes = nodes.into_iter().map(|node| node.0).collect();
        }
        if let Some(trackers) = trackers {
            config.network.trackers = trackers.into_iter().map(|tracker| tracker.0).collect();
        }
        if let Some(hosts) = private_hosts {
            config.network.allow_private_hosts = hosts.into_iter().map(|host| host.0).collect();
        }
        overlay!(self.torrent.unwrap_or_default() => config.torrent; piece_length, download_timeout);
        overlay!(self.security.unwrap_or_default() => config.security; verify_checksums, sign_manifests, trust);
        let mut mount = self.mount.unwrap_or_default();
        if let Some(patterns) = mount.never_resolve.take() {
            config.mount.never_resolve = patterns.into_iter().map(|pattern| pattern.0).collect();
        }
        overlay!(mount => config.mount; read_timeout, resolve_timeout, max_lookups, readahead_max, show);
        overlay!(self.cache.unwrap_or_default() => config.cache; max_size, min_free);
        overlay!(self.hub.unwrap_or_default() => config.hub; endpoint, fallback);
    }
}
