//! The table of all keys, each with its description, format and default.
//!
//! A new key is one new entry. Users read the descriptions in the file that `init` writes and in
//! `docs/CONFIGURATION.md`, which `UPDATE_DOCS=1 cargo test --lib config` updates.

use serde::Deserialize;

use super::format::{Format, List, Optional, Parsed};
use super::table::{self, KeyEntry, Section, configuration};
use super::values::*;

configuration! {
    /// Directories for files.
    storage: StorageConfig {
        /// The base directory: registry, cache, keys, log and control socket. `--home` and `SILMARIL_HOME` override it.
        base_dir: Directory = "~/.silmaril";
        /// Directory for complete models, in the layout of Hugging Face: `org/name/...`. By default `models` in the base
        /// directory.
        models_dir: Directory = "~/.silmaril/models";
    }

    /// Connections to peers, and the discovery of peers.
    network: NetworkConfig {
        /// Largest number of connections of one torrent; the engine uses at least 2.
        max_connections: Number<1, 65_535> = "50";
        /// Bytes per second to peers; 0 is unlimited.
        upload_rate_limit: Rate = "0";
        /// Bytes per second from peers, and the same limit again for web servers; 0 is unlimited.
        download_rate_limit: Rate = "0";
        /// Use the DHT, which finds peers without a server.
        dht_enabled: Flag = "true";
        /// UDP port of the DHT; 0 is the listen port.
        dht_port: Port = "0";
        /// TCP and UDP port for peers; 0 is a random port. Nodes do not call a port below 1024 that they know from the DHT or from
        /// peer exchange.
        listen_port: Port = "0";
        /// Address to listen on; empty is every interface.
        listen_address: Optional<Address> = "\"\"";
        /// Nodes through which this node joins the DHT.
        dht_bootstrap_nodes: List<BootstrapNode> = r#"["router.bittorrent.com:6881", "router.utorrent.com:6881", "dht.transmissionbt.com:6881", "dht.libtorrent.org:25401"]"#;
        /// Trackers for all torrents, such as `udp://tracker.example:6969`.
        trackers: List<Tracker> = "[]";
        /// Announce this node and its models in the DHT, the local network and the catalog. With false this node still searches
        /// peers, fetches, and uploads to connected peers, but it does not announce itself. Trackers are an exception: a tracker
        /// answers only to a node that announces itself, so it receives this node's address and the torrents, but a port on
        /// which nothing listens.
        announce: Flag = "true";
        /// Find peers on the local network (BEP 14).
        lan_discovery: Flag = "true";
        /// Ask the router to forward the listen port (UPnP, NAT-PMP).
        port_mapping: Flag = "true";
        /// uTP: on, off, or auto (off until the known faults of the engine's uTP are patched).
        utp: Utp = "auto";
        /// Encryption of connections to peers: prefer (encrypted handshakes; plain payload if the peer agrees), require or off.
        encryption: Encryption = "prefer";
        /// Proxy for peers, trackers and HTTP: `socks5://[user:password@]host:port` or `http://...`. If it is empty, peers and
        /// trackers are contacted directly, and HTTP uses the proxy of the environment.
        proxy: Optional<ProxyAddress> = "\"\"";
        /// Hosts with private addresses to which manifests, LFS servers and redirects may lead, such as a store of large files
        /// in the local network: host names or IP addresses, without port. The hub and hosts that you name on the command line
        /// need no entry.
        allow_private_hosts: List<AnyHost> = "[]";
    }

    /// Torrents.
    torrent: TorrentConfig {
        /// Piece length of newly shared models, in bytes.
        piece_length: PieceLength = "4MiB";
        /// Time after which `get`, `warm` and the import of a magnet link fail if there is no progress.
        download_timeout: Time = "1h";
    }

    /// Checks and signatures.
    security: SecurityConfig {
        /// Whether `get` checks the SHA-256 of every file.
        verify_checksums: Flag = "true";
        /// Whether `share` and `mirror` sign manifests with your key.
        sign_manifests: Flag = "true";
        /// tofu (a name belongs to the first publisher whose manifest for it is accepted) or strict (only publishers that you
        /// listed with `silmaril trust add`, and your own key, are accepted).
        trust: TrustPolicy = "tofu";
        /// Compare manifests of publishers that you did not choose with the list of files that the hub has for their commit. A
        /// manifest that contradicts the hub is refused, and the hub decides between publishers that dispute a name. The hub
        /// learns the names and commits of these manifests, and which parts of their files are compared. `hub.lazy: false`
        /// and `HF_HUB_OFFLINE=1` prevent it, too.
        hub_witness: Flag = "true";
    }

    /// Mounts.
    mount: MountConfig {
        /// Time that a read waits for its pieces before it fails.
        read_timeout: Time = "10m";
        /// Time that the first access to an unknown `org/name` waits for the network. `mount --no-resolve` does not wait.
        resolve_timeout: Time = "10s";
        /// Names of organisations and models that are never looked up on the network, because programs search for them in every
        /// directory, and models as `org/name`. A * matches any characters but a slash; upper and lower case are equal. Known
        /// models with these names are still shown. A list replaces the default.
        never_resolve: List<Pattern> = r#"[".*", "__*", "bin", "etc", "include", "lib", "lib32", "lib64", "libexec", "sbin", "share", "usr", "dist-packages", "node_modules", "site-packages", "autorun.inf", "cachedir.tag", "desktop.ini", "ehthumbs.db", "thumbs.db", "head", "package.json", "*.cfg", "*.dist-info", "*.dll", "*.dylib", "*.egg", "*.egg-info", "*.egg-link", "*.exe", "*.ini", "*.lock", "*.py", "*.pyc", "*.pyd", "*.pyi", "*.pyo", "*.so", "*.so.*", "*.toml", "*.whl", "nvidia/cu1[0-9]", "nvidia/cublas", "nvidia/cuda_*", "nvidia/cudnn", "nvidia/cufft", "nvidia/cufile", "nvidia/curand", "nvidia/cusolver", "nvidia/cusparse", "nvidia/cusparselt", "nvidia/nccl", "nvidia/nvjitlink", "nvidia/nvjpeg", "nvidia/nvshmem", "nvidia/nvtx"]"#;
        /// Number of unknown names that are looked up for one process in a minute. Models that are found do not count; a second
        /// of waiting for a name that is not found counts as two names. Further unknown names are absent, and `silmaril status`
        /// shows the process.
        max_lookups: Number<1, 10_000> = "16";
        /// Largest distance that pieces are fetched ahead of a sequential reader, and up to four times as far while other hosts
        /// read the same model; at most a quarter of `cache.max_size`.
        readahead_max: Window = "32MiB";
        /// Models that `ls` lists: all, pinned (models whose name belongs to a publisher, see `silmaril trust`) or local (models
        /// with cached or complete files on this machine).
        show: Show = "all";
    }

    /// The daemon.
    daemon: DaemonConfig {
        /// Time after which the daemon ends if it has nothing to seed, serve or mount.
        idle_timeout: Time = "1m";
    }

    /// The cache of partly read models.
    cache: CacheConfig {
        /// Largest size of the cache: a size or a share of the disk. A waiting read may exceed it by 8 MiB.
        max_size: Share = "10%";
        /// Space that always remains free on the disk of the cache. If there is no space, files are read through memory.
        min_free: Size = "1GiB";
    }

    /// The hub: Hugging Face, or a mirror of it.
    hub: HubConfig {
        /// The address of the hub. It also replaces https://huggingface.co in manifests.
        endpoint: Endpoint = "https://huggingface.co";
        /// Fetch pieces that no peer delivers over HTTP, from the hub and other web servers that a manifest names.
        fallback: Flag = "true";
        /// Read models that no peer has from the hub, a part at a time. The hub learns the names that are looked up.
        lazy: Flag = "true";
    }

    /// The endpoint for programs that read models of a hub: they use it with `HF_ENDPOINT` (see `silmaril env`).
    serve: ServeConfig {
        /// Address of the endpoint, which the daemon serves while it runs; port 0 is any free port. If it is empty, the endpoint
        /// runs only after `silmaril serve`. An address that other hosts reach needs `serve.token` or `serve.open`.
        listen: Optional<ListenAddress> = "\"\"";
        /// Token that every request must have, as `Authorization: Bearer`; clients of the hub send `HF_TOKEN`. With a token,
        /// gated and private models are not served, because clients cannot send their token of the hub as well.
        token: Optional<AccessToken> = "\"\"";
        /// Serve all hosts that reach the address, without a token.
        open: Flag = "false";
    }

    /// Figures for monitoring.
    metrics: MetricsConfig {
        /// Address that serves figures for Prometheus at `/metrics`, and `/healthz`; port 0 is any free port. If it is empty, only
        /// the control socket has them. Every host that reaches the address can read the names of your models.
        listen: Optional<ListenAddress> = "\"\"";
    }
}
