//! The effective configuration: defaults, then the file, then the environment, then flags.
//!
//! A [`Config`] has passed every check: sizes and ports are in range, addresses have the right form, directories
//! are absolute. The file's own shape is in `file`, its values in `values`, finding it in `load`.

mod display;
mod file;
mod load;
mod names;
mod proxy;
mod values;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use load::{ConfigError, LoadOptions};
pub use proxy::{Proxy, ProxyError, ProxyKind};

/// Where things are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageConfig {
    /// The node's own directory.
    pub base_dir: PathBuf,
    /// Complete models, Hugging Face layout.
    pub models_dir: PathBuf,
}

/// Whether peers are spoken to in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Either way, encrypted first.
    Prefer,
    /// Only encrypted connections.
    Require,
    /// Only plain connections.
    Off,
}

/// Whether uTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Utp {
    /// Never, until the known faults of the engine's uTP are patched.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// Connections a torrent may have.
    pub max_connections: u32,
    /// Bytes per second; 0 is unlimited.
    pub upload_rate_limit: u64,
    /// Bytes per second; 0 is unlimited.
    pub download_rate_limit: u64,
    /// Whether the DHT is used.
    pub dht_enabled: bool,
    /// UDP port of the DHT; 0 means the listen port (libtorrent has one socket for both).
    pub dht_port: u16,
    /// TCP and uTP port; 0 is random.
    pub listen_port: u16,
    /// Address to listen on; none is all interfaces.
    pub listen_address: Option<IpAddr>,
    /// `host:port` of nodes that introduce us to the DHT.
    pub dht_bootstrap_nodes: Vec<String>,
    /// Trackers announced to for every torrent.
    pub trackers: Vec<String>,
    /// Whether this node tells others that it is there and what it holds. It looks peers up in any case.
    pub announce: bool,
    /// BEP 14 local service discovery.
    pub lan_discovery: bool,
    /// UPnP and NAT-PMP.
    pub port_mapping: bool,
    /// uTP.
    pub utp: Utp,
    /// Message stream encryption.
    pub encryption: Encryption,
    /// `socks5://[user:password@]host:port` or `http://...`; none is direct.
    pub proxy: Option<String>,
    /// Hosts that links of strangers may lead to although their addresses are private.
    pub allow_private_hosts: Vec<url::Host>,
}

/// Torrents.
#[derive(Debug, Clone, PartialEq)]
pub struct TorrentConfig {
    /// Bytes a piece of newly shared models.
    pub piece_length: u32,
    /// How long `get` waits without any progress.
    pub download_timeout: Duration,
}

/// How strictly publishers are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustPolicy {
    /// The first publisher accepted for a name is pinned.
    Tofu,
    /// Only listed publishers.
    Strict,
}

/// Security.
#[derive(Debug, Clone, PartialEq)]
pub struct SecurityConfig {
    /// Whether `get` checks sha256.
    pub verify_checksums: bool,
    /// Whether `share` signs.
    pub sign_manifests: bool,
    /// Trust policy.
    pub trust: TrustPolicy,
}

/// Which names `ls` of the mount lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// All that are known here.
    All,
    /// Those whose publisher is known: the first to sign a name is pinned to it.
    Pinned,
    /// Those with bytes here.
    Local,
}

/// The mount.
#[derive(Debug, Clone, PartialEq)]
pub struct MountConfig {
    /// How long a read waits for its pieces.
    pub read_timeout: Duration,
    /// How long the lookup of an unknown name waits.
    pub resolve_timeout: Duration,
    /// Names of organisations and models that are never looked up: globs of one component, in either case.
    pub never_resolve: Vec<String>,
    /// The unknown names that one process may have looked up in a minute; models that are found do not count.
    pub max_lookups: u32,
    /// The widest window, in bytes.
    pub readahead_max: u64,
    /// What `ls` lists.
    pub show: Show,
}

/// A size that may be a share of the disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SizeOrPercent {
    /// Bytes.
    Bytes(u64),
    /// Per cent of the file system that holds the cache.
    Percent(f64),
}

/// The cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheConfig {
    /// Bound of the cache.
    pub max_size: SizeOrPercent,
    /// Free space to keep on the cache's file system, in bytes.
    pub min_free: u64,
}

/// The hub.
#[derive(Debug, Clone, PartialEq)]
pub struct HubConfig {
    /// Base address of the hub.
    pub endpoint: String,
    /// Whether what no peer delivers is read over HTTP, from the hub and other web servers.
    pub fallback: bool,
}

impl HubConfig {
    /// [`Self::endpoint`] as an address.
    pub fn url(&self) -> url::Url {
        self.endpoint.parse().expect("the address was checked when the configuration was read")
    }
}

/// The effective configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where things are kept.
    pub storage: StorageConfig,
    /// The network.
    pub network: NetworkConfig,
    /// Torrents.
    pub torrent: TorrentConfig,
    /// Security.
    pub security: SecurityConfig,
    /// The mount.
    pub mount: MountConfig,
    /// The cache.
    pub cache: CacheConfig,
    /// The hub.
    pub hub: HubConfig,
}
