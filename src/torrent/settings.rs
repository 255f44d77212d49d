//! The configuration as settings of libtorrent.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread::available_parallelism;

use crate::config::{Encryption, HostPort, NetworkConfig, ProxyKind, Utp};
use crate::descriptors::Shares;
use crate::ffi::{RawSetting, RawSettingKind};

/// The settings of a [`super::Session`].
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// The network section of the configuration; every key has its effect.
    pub network: NetworkConfig,
    /// The result of [`Session::dht_state`](super::Session::dht_state) in the last run, or empty. Ignored if damaged.
    pub dht_state: Vec<u8>,
}

impl From<&NetworkConfig> for SessionSettings {
    fn from(network: &NetworkConfig) -> Self {
        Self { network: network.clone(), dht_state: Vec::new() }
    }
}

/// Whether an address is private: loopback, RFC 1918, link-local, RFC 4193.
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

/// libtorrent expects an `int`; 0 is unlimited.
fn rate(bytes_per_second: u64) -> i64 {
    bytes_per_second.min(i32::MAX as u64) as i64
}

impl SessionSettings {
    /// Threads that read, write and hash.
    pub(super) fn disk_threads(&self) -> i32 {
        // With two, one slow disk operation does not delay another; beyond four the network thread is the limit.
        available_parallelism().map_or(2, |n| n.get().clamp(2, 4)) as i32
    }

    /// Files of torrents that the engine keeps open.
    pub(super) fn open_files(&self) -> i32 {
        i32::try_from(Shares::now().cached).unwrap_or(i32::MAX)
    }

    /// The addresses on which the session listens. If `dht_port` differs from `listen_port`, it gets a socket of its own:
    /// libtorrent runs a DHT node on every socket on which it listens.
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

    /// The configured nodes of a private DHT: one where all nodes have private addresses. They are other hosts of the user,
    /// and listen for peers on the same port.
    pub(super) fn private_dht_nodes(&self) -> Option<Vec<SocketAddr>> {
        let nodes = self.network.dht_bootstrap_nodes.iter();
        nodes.map(|node| Some(SocketAddr::new(node.ip().filter(|ip| is_private(*ip))?, node.port))).collect()
    }

    /// libtorrent's settings.
    pub(super) fn raw(&self) -> Vec<RawSetting> {
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
            // libtorrent's `proxy_type_t`.
            let kind = match (proxy.kind, proxy.login.is_some()) {
                (ProxyKind::Socks5, false) => 2,
                (ProxyKind::Socks5, true) => 3,
                (ProxyKind::Http, false) => 4,
                (ProxyKind::Http, true) => 5,
            };
            let (user, password) = proxy.login.clone().unwrap_or_default();
            settings.extend([
                integer("proxy_type", kind),
                text("proxy_hostname", proxy.address.host_text()),
                integer("proxy_port", proxy.address.port.into()),
                text("proxy_username", user),
                text("proxy_password", password),
                boolean("proxy_hostnames", true),
                boolean("proxy_peer_connections", true),
                boolean("proxy_tracker_connections", true),
            ]);
        }
        settings
    }

    fn dht(&self, settings: &mut Vec<RawSetting>) {
        let nodes: Vec<_> = self.network.dht_bootstrap_nodes.iter().map(HostPort::to_string).collect();
        // Set even when empty: libtorrent's default is a public node.
        settings.push(text("dht_bootstrap_nodes", nodes.join(",")));
        settings.push(boolean("enable_dht", self.network.dht_enabled));
        // Bytes per second. While the limit is exceeded no query is answered: announcing the names of a hundred models
        // uses up the default of 8000 for minutes.
        let mut upload_limit = 50_000;
        // The bootstrap node of a private network has no configured nodes: its network counts as private too.
        if self.private_dht_nodes().is_some() {
            // These settings admit one node per /24 and node ids derived from public addresses only: in a private network
            // they leave the routing table almost empty.
            for name in [
                "dht_restrict_routing_ips",
                "dht_restrict_search_ips",
                "dht_prefer_verified_node_ids",
                "dht_enforce_node_id",
            ] {
                settings.push(boolean(name, false));
            }
            // Packets per second of one node; a node that sends more for ten seconds is ignored for five minutes. In a
            // network of a few nodes, each receives a large part of the queries and announcements of every other one.
            settings.push(integer("dht_block_ratelimit", 1000));
            upload_limit = 2_000_000;
        }
        settings.push(integer("dht_upload_rate_limit", upload_limit));
    }

    fn transport(&self, settings: &mut Vec<RawSetting>) {
        // The uTP of libtorrent up to 2.0.14 has memory errors that a peer can trigger. It also reaches 12 MiB/s where TCP
        // reaches 240. `auto` means off until the faults are patched.
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
        // the throughput and adds no protection to the hashes.
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

/// A port that is free on all addresses, for TCP and UDP; 0 if none was found. libtorrent would choose another port for each
/// interface, and local service discovery (BEP 14) would announce the port of the first one, the loopback, on all of them: no
/// peer would find this node.
fn free_port(addresses: &[IpAddr]) -> u16 {
    let any = || TcpListener::bind((*addresses.first()?, 0)).ok()?.local_addr().ok().map(|a| a.port());
    (0..32).map_while(|_| any()).find(|&port| is_free(addresses, port)).unwrap_or(0)
}

fn is_free(addresses: &[IpAddr], port: u16) -> bool {
    // On a host without IPv6, no IPv6 port is in use.
    let free = |bound: std::io::Result<()>| !bound.is_err_and(|e| e.kind() == ErrorKind::AddrInUse);
    addresses.iter().all(|&address| {
        free(TcpListener::bind((address, port)).map(drop)) && free(UdpSocket::bind((address, port)).map(drop))
    })
}

/// Settings that do not depend on the configuration, with the reason of each.
fn tuned() -> Vec<RawSetting> {
    vec![
        // A lazy torrent is "finished" whenever no read waits. By default it then disconnects all seeds and does not connect
        // again for 60 s.
        boolean("close_redundant_connections", false),
        integer("min_reconnect_time", 1),
        // By default libtorrent stops after 3 failed attempts to connect to a peer. A named peer, or one on the LAN, may be
        // off for a night: the attempts never end. libtorrent counts to 31 and waits a second more after each failure, so a
        // peer that stays off costs a packet every half minute.
        integer("max_failcount", 32),
        // Seconds. An attempt sends a packet after 0, 1 and 3 seconds, and then with longer and longer pauses: a host that is
        // reachable again answers a new attempt sooner than the next packet of an old one.
        integer("peer_connect_timeout", 5),
        // Seconds without payload before a peer is dropped: an idle mount keeps its peers.
        integer("inactivity_timeout", 3600),
        // Outgoing connections start on this tick: 0.5 s by default, 0.1 s for five times as many wake-ups.
        integer("tick_interval", 100),
        // libtorrent would try ten more ports, then any; a port in use must be reported.
        integer("max_retry_port_bind", 0),
        boolean("listen_system_port_fallback", false),
        // Several peers behind one address: a NAT, or one machine.
        boolean("allow_multiple_connections_per_ip", true),
        // Each torrent has its own bound, and this one must not be tighter. Each connection is a descriptor.
        integer("connections_limit", Shares::now().connections as i64),
        // A torrent of 100 000 pieces sends an alert for each when it is added.
        integer("alert_queue_size", 1_000_000),
        // Every peer that asks is served; bandwidth is limited by rates, not by slots.
        integer("unchoke_slots_limit", -1),
        // Enough requests in flight for a gigabit at 100 ms; the window grows as needed (slow start).
        integer("max_out_request_queue", 1500),
        integer("max_allowed_in_request_queue", 5000),
        // Seconds of requests queued at a peer. An urgent piece waits for that queue: 3 s by default.
        integer("request_queue_time", 1),
        // The default of 1 MiB throttles; a greater value makes reads no faster and costs memory.
        integer("max_queued_disk_bytes", 32 * 1024 * 1024),
        // A receive buffer becomes smaller only when its peer sends more. 2 MiB by default.
        integer("max_peer_recv_buffer_size", 256 * 1024),
        integer("send_buffer_watermark", 8 * 1024 * 1024),
        integer("send_buffer_low_watermark", 1024 * 1024),
        integer("send_buffer_watermark_factor", 150),
        integer("send_socket_buffer_size", 2 * 1024 * 1024),
        integer("recv_socket_buffer_size", 2 * 1024 * 1024),
        // A reader waits for the last blocks of its piece: a second peer may be asked for them early.
        boolean("strict_end_game_mode", false),
        // Seconds; trackers that do not answer must not delay the end.
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
    fn random_port_is_the_same_on_every_interface() {
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
            let raw = SessionSettings::from(&network).raw();
            ["enable_incoming_utp", "enable_outgoing_utp"]
                .map(|name| raw.iter().find(|setting| setting.name == name).unwrap().number == 1)
        };
        assert_eq!(utp(Utp::Auto), [false, false]);
        assert_eq!(utp(Utp::Off), [false, false]);
        assert_eq!(utp(Utp::On), [true, true]);
    }

    #[test]
    fn port_in_use_is_not_free() {
        let taken = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        assert!(!is_free(&addresses, port));
        drop(taken);
        assert!(is_free(&addresses, port));
    }

    #[test]
    fn engine_receives_the_parts_of_the_proxy() {
        let mut network = crate::config::Config::defaults(std::path::Path::new("/nowhere")).network;
        let mut proxy = |text: &str| {
            network.proxy = Some(text.parse().unwrap());
            let raw = SessionSettings::from(&network).raw();
            let of = |name: &str| raw.iter().find(|setting| setting.name == name).unwrap();
            let texts =
                ["proxy_hostname", "proxy_username", "proxy_password"].map(|name| of(name).text.clone());
            ([of("proxy_type").number, of("proxy_port").number], texts)
        };
        assert_eq!(proxy("socks5://[::1]:9"), ([2, 9], ["::1", "", ""].map(str::to_owned)));
        let login = proxy("http://me:se@cret@proxy.example:3128/");
        assert_eq!(login, ([5, 3128], ["proxy.example", "me", "se@cret"].map(str::to_owned)));
    }

    #[test]
    fn dht_is_private_if_all_its_nodes_are() {
        let mut network = crate::config::Config::defaults(std::path::Path::new("/nowhere")).network;
        let mut own = |nodes: &[&str]| {
            network.dht_bootstrap_nodes = nodes.iter().map(|node| node.parse().unwrap()).collect();
            SessionSettings::from(&network).private_dht_nodes()
        };
        assert_eq!(own(&["10.0.0.1:5", "[fd00::1]:6"]).unwrap()[1], "[fd00::1]:6".parse().unwrap());
        assert_eq!(own(&[]), Some(vec![]));
        assert_eq!(own(&["10.0.0.1:5", "1.1.1.1:5"]), None);
        assert_eq!(own(&["dht.example:5"]), None);
    }

    #[test]
    fn private_networks_are_recognized() {
        for own in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.1.1", "::1", "fd00::1", "fe80::1"] {
            assert!(is_private(own.parse().unwrap()), "{own}");
        }
        for public in ["1.1.1.1", "2606:4700::1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }
}
