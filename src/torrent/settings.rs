//! What the engine is told when it starts: the configuration, turned into libtorrent's settings.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread::available_parallelism;

use super::EngineError;
use crate::config::{Encryption, NetworkConfig, Utp};
use crate::descriptors::Shares;
use crate::ffi::{RawSetting, RawSettingKind};

/// How to start a [`super::Session`].
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The network section of the configuration; every key has its effect.
    pub network: NetworkConfig,
    /// What [`Session::dht_state`](super::Session::dht_state) gave when the engine ran last, or nothing. One that is
    /// damaged is ignored.
    pub dht_state: Vec<u8>,
}

impl From<&NetworkConfig> for SessionSettings {
    fn from(network: &NetworkConfig) -> Self {
        Self { network: network.clone(), dht_state: Vec::new() }
    }
}

/// A proxy, as libtorrent's settings want it.
#[derive(Debug, PartialEq, Eq)]
struct Proxy {
    /// libtorrent's `proxy_type_t`.
    kind: i64,
    host: String,
    port: u16,
    user: String,
    password: String,
}

/// Parses `socks5://[user:password@]host:port`, or `http://` likewise.
fn parse_proxy(text: &str) -> Result<Proxy, EngineError> {
    let bad =
        || EngineError::Setting(format!("proxy {text:?} is not like socks5://[user:password@]host:port"));
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    let (login, place) = match rest.trim_end_matches('/').rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest.trim_end_matches('/')),
    };
    let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad());
    }
    let (user, password) = login.map_or(("", ""), |login| login.split_once(':').unwrap_or((login, "")));
    let kind = match (scheme, login.is_some()) {
        ("socks5" | "socks5h", false) => 2,
        ("socks5" | "socks5h", true) => 3,
        ("http", false) => 4,
        ("http", true) => 5,
        _ => return Err(bad()),
    };
    Ok(Proxy { kind, host: host.into(), port, user: user.into(), password: password.into() })
}

/// Splits `host:port`, where an IPv6 host stands in brackets.
pub(super) fn host_and_port(node: &str) -> Option<(&str, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// Whether an address is of a network of one's own: loopback, RFC 1918, link-local, RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn integer(name: &str, number: i64) -> RawSetting {
    RawSetting { name: name.into(), kind: RawSettingKind::Integer, number, text: String::new() }
}

fn boolean(name: &str, on: bool) -> RawSetting {
    RawSetting { name: name.into(), kind: RawSettingKind::Boolean, number: on.into(), text: String::new() }
}

fn text(name: &str, text: impl Into<String>) -> RawSetting {
    RawSetting { name: name.into(), kind: RawSettingKind::Text, number: 0, text: text.into() }
}

/// libtorrent takes an `int` and reads 0 as unlimited.
fn rate(bytes_per_second: u64) -> i64 {
    bytes_per_second.min(i32::MAX as u64) as i64
}

impl SessionSettings {
    /// Threads that read, write and hash.
    pub(super) fn disk_threads(&self) -> i32 {
        // Two hide one slow disk operation from another; beyond four the network thread is the bound.
        available_parallelism().map_or(2, |n| n.get().clamp(2, 4)) as i32
    }

    /// Files of torrents that the engine keeps open.
    pub(super) fn open_files(&self) -> i32 {
        i32::try_from(Shares::now().cached).unwrap_or(i32::MAX)
    }

    /// Where the session listens. `dht_port`, when it is another port than `listen_port`, gets a socket of its own:
    /// libtorrent runs a DHT node on every socket it listens on, so that one answers there.
    fn listen_interfaces(&self) -> String {
        let addresses = match self.network.listen_address {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let mut ports = vec![match self.network.listen_port {
            0 => free_port(&addresses),
            port => port,
        }];
        if self.network.dht_enabled && self.network.dht_port != 0 && self.network.dht_port != ports[0] {
            ports.push(self.network.dht_port);
        }
        let interface = |address: &IpAddr, port: &u16| match address {
            IpAddr::V4(v4) => format!("{v4}:{port}"),
            IpAddr::V6(v6) => format!("[{v6}]:{port}"),
        };
        let all: Vec<_> = ports
            .iter()
            .flat_map(|port| addresses.iter().map(move |address| interface(address, port)))
            .collect();
        all.join(",")
    }

    /// The configured nodes, as host and port. A malformed one is an error.
    pub(super) fn dht_nodes(&self) -> Result<Vec<(&str, u16)>, EngineError> {
        let nodes = self.network.dht_bootstrap_nodes.iter();
        nodes
            .map(|node| {
                host_and_port(node)
                    .ok_or_else(|| EngineError::Setting(format!("DHT node {node:?} is not like host:port")))
            })
            .collect()
    }

    /// The configured nodes of the DHT, where it is a network of one's own: all are private addresses. They are other
    /// hosts of ours, and listen for peers on the same port.
    pub(super) fn own_dht_nodes(&self) -> Option<Vec<SocketAddr>> {
        let nodes = self.network.dht_bootstrap_nodes.iter().map(|node| {
            let (host, port) = host_and_port(node)?;
            Some(SocketAddr::new(host.parse().ok().filter(|ip| is_private(*ip))?, port))
        });
        nodes.collect()
    }

    /// libtorrent's settings.
    pub(super) fn raw(&self) -> Result<Vec<RawSetting>, EngineError> {
        let network = &self.network;
        let mut settings = tuned();
        settings.extend([
            text("user_agent", concat!("silmaril/", env!("CARGO_PKG_VERSION"))),
            text("handshake_client_version", concat!("silmaril/", env!("CARGO_PKG_VERSION"))),
            text("peer_fingerprint", peer_fingerprint()),
            text("listen_interfaces", self.listen_interfaces()),
            integer("upload_rate_limit", rate(network.upload_rate_limit)),
            integer("download_rate_limit", rate(network.download_rate_limit)),
            boolean("enable_lsd", network.lan_discovery),
            boolean("enable_upnp", network.port_mapping),
            boolean("enable_natpmp", network.port_mapping),
        ]);
        self.dht(&mut settings);
        self.transport(&mut settings);
        self.encryption(&mut settings);
        if let Some(proxy) = &network.proxy {
            let proxy = parse_proxy(proxy)?;
            settings.extend([
                integer("proxy_type", proxy.kind),
                text("proxy_hostname", proxy.host),
                integer("proxy_port", proxy.port.into()),
                text("proxy_username", proxy.user),
                text("proxy_password", proxy.password),
                boolean("proxy_hostnames", true),
                boolean("proxy_peer_connections", true),
                boolean("proxy_tracker_connections", true),
            ]);
        }
        Ok(settings)
    }

    fn dht(&self, settings: &mut Vec<RawSetting>) {
        // Set even when empty: libtorrent's default is a public node.
        settings.push(text("dht_bootstrap_nodes", self.network.dht_bootstrap_nodes.join(",")));
        settings.push(boolean("enable_dht", self.network.dht_enabled));
        // Bytes per second. While more is sent nobody else is answered: the default of 8000 is used up for minutes
        // by announcing the names of a hundred models.
        let mut upload_limit = 50_000;
        // The node that all others name names nobody: such a network is one's own too.
        if self.own_dht_nodes().is_some() {
            // These keep one node per /24 and want node numbers derived from public addresses: in a network of
            // one's own they leave the routing table all but empty.
            for name in [
                "dht_restrict_routing_ips",
                "dht_restrict_search_ips",
                "dht_prefer_verified_node_ids",
                "dht_enforce_node_id",
            ] {
                settings.push(boolean(name, false));
            }
            // Packets per second of one node; who sends more, for ten seconds, is ignored for five minutes. In a
            // network of a few nodes each gets a large part of what every other asks and announces.
            settings.push(integer("dht_block_ratelimit", 1000));
            upload_limit = 2_000_000;
        }
        settings.push(integer("dht_upload_rate_limit", upload_limit));
    }

    fn transport(&self, settings: &mut Vec<RawSetting>) {
        // The uTP of libtorrent up to 2.0.14 has faults of memory that a peer can trigger. It also reaches 12 MiB/s where
        // TCP reaches 240. `auto` means off until the faults are patched.
        let utp = match self.network.utp {
            Utp::Auto | Utp::Off => false,
            Utp::On => true,
        };
        settings.extend([
            boolean("enable_incoming_utp", utp),
            boolean("enable_outgoing_utp", utp),
            integer("mixed_mode_algorithm", 0), // prefer_tcp
        ]);
    }

    fn encryption(&self, settings: &mut Vec<RawSetting>) {
        // pe_forced 0, pe_enabled 1, pe_disabled 2; allowed level: plaintext 1, rc4 2, both 3.
        // `prefer` encrypts the handshake and leaves the payload in the clear where the peer agrees: RC4 costs 40 % of
        // the throughput and protects nothing that the hashes do not.
        let (policy, level, prefer_rc4) = match self.network.encryption {
            Encryption::Prefer => (1, 3, false),
            Encryption::Require => (0, 2, true),
            Encryption::Off => (2, 1, false),
        };
        settings.extend([
            integer("out_enc_policy", policy),
            integer("in_enc_policy", policy),
            integer("allowed_enc_level", level),
            boolean("prefer_rc4", prefer_rc4),
        ]);
    }
}

/// `-SM0100-`: two letters and four version digits, as most clients do (BEP 20).
fn peer_fingerprint() -> String {
    let digit =
        |text: &str| text.parse::<u32>().map_or('0', |n| char::from_digit(n.min(9), 10).unwrap_or('9'));
    format!(
        "-SM{}{}{}0-",
        digit(env!("CARGO_PKG_VERSION_MAJOR")),
        digit(env!("CARGO_PKG_VERSION_MINOR")),
        digit(env!("CARGO_PKG_VERSION_PATCH"))
    )
}

/// A port that is free on all addresses, for TCP and UDP; 0 where none was found. Left to itself libtorrent takes
/// another one for each interface, and local service discovery (BEP 14) then announces that of the first, the
/// loopback's, on all of them: nobody finds us.
fn free_port(addresses: &[IpAddr]) -> u16 {
    let any = || TcpListener::bind((*addresses.first()?, 0)).ok()?.local_addr().ok().map(|a| a.port());
    (0..32).map_while(|_| any()).find(|&port| is_free(addresses, port)).unwrap_or(0)
}

fn is_free(addresses: &[IpAddr], port: u16) -> bool {
    // A host without IPv6 has none of its ports in use.
    let free = |bound: std::io::Result<()>| !bound.is_err_and(|e| e.kind() == ErrorKind::AddrInUse);
    addresses.iter().all(|&address| {
        free(TcpListener::bind((address, port)).map(drop)) && free(UdpSocket::bind((address, port)).map(drop))
    })
}

/// What does not depend on the configuration, with the reason of each.
fn tuned() -> Vec<RawSetting> {
    vec![
        // A lazy torrent is "finished" whenever no read waits. By default it then hangs up on every seed and does not
        // call back for 60 s.
        boolean("close_redundant_connections", false),
        integer("min_reconnect_time", 1),
        // A peer is given up after 3 failed connects by default. One given by hand, or on the LAN, is gone for a night
        // and comes back: it is tried for ever. libtorrent counts to 31 and waits a second more after each, so that
        // one that stays away costs a packet every half minute.
        integer("max_failcount", 32),
        // Seconds. An attempt sends a packet after 0, 1 and 3 seconds, then later and later: a host that comes back answers
        // a new attempt sooner than the next packet of an old one.
        integer("peer_connect_timeout", 5),
        // Seconds without payload before a peer is dropped: an idle mount keeps its peers.
        integer("inactivity_timeout", 3600),
        // Outgoing connections start on this tick: 0.5 s by default, 0.1 s for five times as many wake-ups.
        integer("tick_interval", 100),
        // libtorrent would try ten more ports, then any; a port in use is to be told.
        integer("max_retry_port_bind", 0),
        boolean("listen_system_port_fallback", false),
        // Several peers behind one address: a NAT, or one machine.
        boolean("allow_multiple_connections_per_ip", true),
        // Per torrent there is a bound of its own; this one only must not be the tighter. Each connection is a
        // descriptor.
        integer("connections_limit", Shares::now().connections as i64),
        // A torrent of 100 000 pieces tells each one when it is added.
        integer("alert_queue_size", 1_000_000),
        // Everybody who asks is served; bandwidth is bound by rates, not slots.
        integer("unchoke_slots_limit", -1),
        // Enough in flight for a gigabit at 100 ms; the window is opened by need (slow start).
        integer("max_out_request_queue", 1500),
        integer("max_allowed_in_request_queue", 5000),
        // Seconds of requests queued at a peer. An urgent piece waits for that queue: 3 s by default.
        integer("request_queue_time", 1),
        // The default of 1 MiB throttles; above this reads do not get faster and memory grows.
        integer("max_queued_disk_bytes", 32 * 1024 * 1024),
        integer("send_buffer_watermark", 8 * 1024 * 1024),
        integer("send_buffer_low_watermark", 1024 * 1024),
        integer("send_buffer_watermark_factor", 150),
        integer("send_socket_buffer_size", 2 * 1024 * 1024),
        integer("recv_socket_buffer_size", 2 * 1024 * 1024),
        // A reader waits for the last blocks of its piece: a second peer may be asked for them early.
        boolean("strict_end_game_mode", false),
        // Seconds; trackers that hang must not hold up the end.
        integer("stop_tracker_timeout", 1),
        // Rates are of payload: protocol overhead is not charged to the reader.
        boolean("rate_limit_ip_overhead", false),
        // Both are libtorrent's defaults. Trackers on loopback are asked for /announce alone, and no
        // tracker is asked whose address is that of a metadata service.
        boolean("ssrf_mitigation", true),
        boolean("apply_ip_filter_to_trackers", true),
        boolean("announce_to_all_trackers", true),
        boolean("announce_to_all_tiers", true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_port_is_the_same_on_every_interface() {
        let network = crate::config::Config::defaults(std::path::Path::new("/nowhere")).network;
        assert_eq!((network.listen_port, network.listen_address), (0, None));
        let interfaces = SessionSettings::from(&network).listen_interfaces();
        let ports: Vec<&str> = interfaces.split(',').map(|i| i.rsplit_once(':').unwrap().1).collect();
        assert_eq!(ports.len(), 2, "{interfaces}");
        assert!(ports[0] == ports[1] && ports[0] != "0", "{interfaces}");
    }

    #[test]
    fn utp_is_off_unless_it_is_turned_on() {
        let mut network = crate::config::Config::defaults(std::path::Path::new("/nowhere")).network;
        assert_eq!(network.utp, Utp::Auto);
        let mut utp = |utp| {
            network.utp = utp;
            let raw = SessionSettings::from(&network).raw().unwrap();
            ["enable_incoming_utp", "enable_outgoing_utp"]
                .map(|name| raw.iter().find(|setting| setting.name == name).unwrap().number == 1)
        };
        assert_eq!(utp(Utp::Auto), [false, false]);
        assert_eq!(utp(Utp::Off), [false, false]);
        assert_eq!(utp(Utp::On), [true, true]);
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let taken = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        assert!(!is_free(&addresses, port));
        drop(taken);
        assert!(is_free(&addresses, port));
    }

    #[test]
    fn proxies_parse() {
        let plain = parse_proxy("socks5://127.0.0.1:1080").unwrap();
        assert_eq!((plain.kind, plain.host.as_str(), plain.port), (2, "127.0.0.1", 1080));
        let login = parse_proxy("http://me:se@cret@proxy.example:3128/").unwrap();
        assert_eq!((login.kind, login.user.as_str(), login.password.as_str()), (5, "me", "se@cret"));
        assert_eq!(parse_proxy("socks5://[::1]:9").unwrap().host, "::1");
        for bad in ["", "127.0.0.1:1080", "socks5://host", "socks5://:1", "ftp://host:1", "http://host:70000"]
        {
            assert!(parse_proxy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_split() {
        assert_eq!(host_and_port("dht.example:6881"), Some(("dht.example", 6881)));
        assert_eq!(host_and_port("[::1]:5"), Some(("::1", 5)));
        for bad in ["", "dht.example", ":1", "host:port", "host:70000"] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_dht_is_ones_own_when_all_its_nodes_are_private() {
        let mut network = crate::config::Config::defaults(std::path::Path::new("/nowhere")).network;
        let mut own = |nodes: &[&str]| {
            network.dht_bootstrap_nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
            SessionSettings::from(&network).own_dht_nodes()
        };
        assert_eq!(own(&["10.0.0.1:5", "[fd00::1]:6"]).unwrap()[1], "[fd00::1]:6".parse().unwrap());
        assert_eq!(own(&[]), Some(vec![]));
        assert_eq!(own(&["10.0.0.1:5", "1.1.1.1:5"]), None);
        assert_eq!(own(&["dht.example:5"]), None);
    }

    #[test]
    fn own_networks_are_private() {
        for own in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.1.1", "::1", "fd00::1", "fe80::1"] {
            assert!(is_private(own.parse().unwrap()), "{own}");
        }
        for public in ["1.1.1.1", "2606:4700::1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }
}
