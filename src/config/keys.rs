//! The table of all keys: description, format and default of each, once.
//!
//! A new key is one entry. The descriptions are what users read, in the file that `init` writes and in
//! `docs/CONFIGURATION.md` (`UPDATE_DOCS=1 cargo test --lib config` writes it again).

use serde::Deserialize;

use super::format::{Format, List, Optional, Read};
use super::table::{self, Key, Section, configuration};
use super::values::*;

configuration! {
    /// Where files are kept.
    storage: StorageConfig {
        /// The base directory: registry, cache, keys, log and control socket. `SILMARIL_HOME` and `--home` come first.
        base_dir: Directory = "~/.silmaril";
        /// Complete models, in the layout of Hugging Face: `org/name/...`. By default `models` in the base directory.
        models_dir: Directory = "~/.silmaril/models";
    }

    /// Peers, and how they are found.
    network: NetworkConfig {
        /// Connections of one torrent; the engine uses 2 at least.
        max_connections: Number<1, 65_535> = "50";
        /// Bytes per second to peers; 0 is unlimited.
        upload_rate_limit: Rate = "0";
        /// Bytes per second from peers, and as many from web servers; 0 is unlimited.
        download_rate_limit: Rate = "0";
        /// Find peers without any server.
        dht_enabled: Flag = "true";
        /// UDP port of the DHT; 0 is the listen port.
        dht_port: Port = "0";
        /// TCP and UDP port for peers; 0 is random.
        listen_port: Port = "0";
        /// Address to listen on; empty is every interface.
        listen_address: Optional<Address> = "\"\"";
        /// Nodes that introduce this one to the DHT.
        dht_bootstrap_nodes: List<BootstrapNode> = r#"["router.bittorrent.com:6881", "router.utorrent.com:6881", "dht.transmissionbt.com:6881", "dht.libtorrent.org:25401"]"#;
        /// Trackers to announce every torrent to, such as `udp://tracker.example:6969`.
        trackers: List<Tracker> = "[]";
        /// Announce this node and its models: to the DHT, the local network and the catalog. With false it looks peers up and
        /// fetches, and serves the peers that it meets, but is not announced anywhere. A tracker answers only a node that
        /// names itself: the tracker learns this node's address and what is read, and receives a port that nothing listens on.
        announce: Flag = "true";
        /// Find peers on the local network (BEP 14).
        lan_discovery: Flag = "true";
        /// Ask the router to forward the listen port (UPnP, NAT-PMP).
        port_mapping: Flag = "true";
        /// uTP: on, off, or auto (off until the known faults of the engine's uTP are patched).
        utp: Utp = "auto";
        /// prefer (encrypted handshakes, payload in the clear where the peer agrees), require or off.
        encryption: Encryption = "prefer";
        /// Proxy for peers, trackers and HTTP: `socks5://[user:password@]host:port` or `http://...`. Empty is none for peers and
        /// trackers; HTTP then uses the proxy that the environment names, if any.
        proxy: Optional<ProxyAddress> = "\"\"";
        /// Hosts with private addresses that manifests, LFS servers and redirects may name, such as a store of large files in
        /// the local network: host names or IP addresses, without port. The hub and hosts named on the command line need no
        /// entry.
        allow_private_hosts: List<AnyHost> = "[]";
    }

    /// Torrents.
    torrent: TorrentConfig {
        /// Bytes of a piece of newly shared models.
        piece_length: PieceLength = "4MiB";
        /// How long `get`, `warm` and the import of a magnet link wait without any progress.
        download_timeout: Time = "1h";
    }

    /// Checks and signatures.
    security: SecurityConfig {
        /// Whether `get` checks the SHA-256 of every file.
        verify_checksums: Flag = "true";
        /// Whether `share` and `mirror` sign.
        sign_manifests: Flag = "true";
        /// tofu (a name belongs to the first publisher whose manifest of it is accepted) or strict (only publishers that you
        /// listed with `silmaril trust add`, and your own key, are accepted).
        trust: TrustPolicy = "tofu";
    }

    /// Mounts.
    mount: MountConfig {
        /// How long a read waits for its pieces before it fails.
        read_timeout: Time = "10m";
        /// How long the first access to an unknown `org/name` waits for the network (`mount --no-resolve`: not at all).
        resolve_timeout: Time = "10s";
        /// Names of organisations and models that are never looked up, because programs look for them in every directory. A *
        /// matches any characters; upper and lower case are equal. Known models of these names are shown all the same. A list
        /// replaces the default.
        never_resolve: List<Pattern> = r#"[".*", "__*", "bin", "etc", "include", "lib", "lib32", "lib64", "libexec", "sbin", "share", "usr", "dist-packages", "node_modules", "site-packages", "autorun.inf", "cachedir.tag", "desktop.ini", "ehthumbs.db", "thumbs.db", "head", "package.json", "*.cfg", "*.dist-info", "*.dll", "*.dylib", "*.egg", "*.egg-info", "*.egg-link", "*.exe", "*.ini", "*.lock", "*.py", "*.pyc", "*.pyd", "*.pyi", "*.pyo", "*.so", "*.so.*", "*.toml", "*.whl"]"#;
        /// Unknown names that one process may have looked up in a minute. Models that are found do not count; a second of
        /// waiting for one that is not found counts as two names. Further names are absent unless they are known already, and
        /// `silmaril status` names the process.
        max_lookups: Number<1, 10_000> = "16";
        /// How far ahead of a sequential reader pieces are fetched; at most a quarter of `cache.max_size`.
        readahead_max: Window = "32MiB";
        /// What `ls` lists: all, pinned (models whose name belongs to a publisher, see `silmaril trust`) or local (models with
        /// bytes on this machine).
        show: Show = "all";
    }

    /// The daemon.
    daemon: DaemonConfig {
        /// How long the background process stays when it has nothing to seed, serve or mount.
        idle_timeout: Time = "1m";
    }

    /// The cache of partly read models.
    cache: CacheConfig {
        /// Limit of the cache: a size or a share of the disk. A waiting read may exceed it by 8 MiB.
        max_size: Share = "10%";
        /// Free space that is always kept on the disk of the cache. Without space, files are read through memory.
        min_free: Size = "1GiB";
    }

    /// The hub: Hugging Face, or a mirror of it.
    hub: HubConfig {
        /// The address of the hub; https://huggingface.co in manifests means this one, too.
        endpoint: Endpoint = "https://huggingface.co";
        /// Read over HTTP, from the hub and other web servers that a manifest names, what no peer delivers.
        fallback: Flag = "true";
    }
}
