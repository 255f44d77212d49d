//! Classifies IP addresses, which decides whether they may be contacted, and removes secrets from URLs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use url::Host;

/// A URL without its secrets: no user, password, query or fragment.
pub fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs that cannot have a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// The part of the network that an address belongs to. Ordered by danger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The internet.
    Public,
    /// This machine, or a network that cannot be reached from the internet. Allowed for hosts that the user configured.
    Private,
    /// Link-local addresses and the metadata services of clouds, which return credentials. Never allowed.
    Forbidden,
}

/// Addresses of metadata services in the link-local range: most clouds, and the credentials of containers at AWS.
const METADATA_LINK_LOCAL: [Ipv4Addr; 3] =
    [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(169, 254, 170, 2), Ipv4Addr::new(169, 254, 170, 23)];

/// Addresses of metadata services outside the link-local ranges: Alibaba Cloud, Azure.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];

/// IPv6 addresses of metadata services, as prefixes of 16-bit groups: AWS (`fd00:ec2::254` and neighbouring services),
/// Google Cloud, Oracle Cloud, Scaleway.
const METADATA_V6: [&[u16]; 4] = [
    &[0xfd00, 0x0ec2],
    &[0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254],
    &[0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe],
    &[0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042],
];

/// Inclusive ranges of the addresses of metadata services, with the IPv6 forms that a network translates to their IPv4
/// addresses. The engine, which may connect to link-local peers, must not connect to these.
pub fn metadata_ranges() -> Vec<(IpAddr, IpAddr)> {
    let single = |ip: IpAddr| (ip, ip);
    let v4 = METADATA_LINK_LOCAL.into_iter().chain(METADATA_V4);
    let forms = v4.flat_map(|ip| {
        let groups = ip.to_ipv6_mapped().segments();
        let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, groups[6], groups[7]);
        [
            single(ip.into()),
            single(ip.to_ipv6_mapped().into()),
            single(nat64.into()),
            range(&[0x2002, groups[6], groups[7]]),
        ]
    });
    forms.chain(METADATA_V6.iter().map(|prefix| range(prefix))).collect()
}

/// The first and the last address that start with these groups.
fn range(prefix: &[u16]) -> (IpAddr, IpAddr) {
    let filled = |rest: u16| {
        let mut groups = [rest; 8];
        groups[..prefix.len()].copy_from_slice(prefix);
        Ipv6Addr::from(groups).into()
    };
    (filled(0), filled(0xffff))
}

/// The scope of an address. For an IPv6 address that contains an IPv4 address, the more dangerous scope of the two.
pub fn scope(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) => scope_v4(ip),
        IpAddr::V6(ip) => scope_v6(ip),
    }
}

fn scope_v4(ip: Ipv4Addr) -> Scope {
    let [a, b, c, _] = ip.octets();
    match () {
        () if ip.is_link_local() || METADATA_V4.contains(&ip) => Scope::Forbidden,
        // Private use (RFC 1918), loopback, "this network" (RFC 6890), shared by carriers (RFC 6598), protocol
        // assignments (RFC 6890), benchmarks (RFC 2544), multicast, reserved and broadcast.
        () if ip.is_private() || ip.is_loopback() || a == 0 || a >= 224 => Scope::Private,
        () if a == 100 && (64..128).contains(&b) => Scope::Private,
        () if (a == 192 && b == 0 && c == 0) || (a == 198 && (18..20).contains(&b)) => Scope::Private,
        () => Scope::Public,
    }
}

fn scope_v6(ip: Ipv6Addr) -> Scope {
    let embedded = embedded_v4(ip).into_iter().flatten().map(scope_v4).max();
    scope_of_prefix(ip).max(embedded.unwrap_or(Scope::Public))
}

fn scope_of_prefix(ip: Ipv6Addr) -> Scope {
    let groups = ip.segments();
    // fec0::/10 was for sites (RFC 3879), 64:ff9b:1::/48 is for translation within one network (RFC 8215).
    let site_local = groups[0] & 0xffc0 == 0xfec0;
    let local_translation = groups[..3] == [0x64, 0xff9b, 1];
    match () {
        () if ip.is_unicast_link_local() || METADATA_V6.iter().any(|prefix| groups.starts_with(prefix)) => {
            Scope::Forbidden
        }
        () if ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() => Scope::Private,
        () if ip.is_multicast() || site_local || local_translation => Scope::Private,
        () => Scope::Public,
    }
}

/// The IPv4 addresses that an IPv6 address contains, according to its form.
fn embedded_v4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let groups = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let last = v4(groups[6], groups[7]);
    match groups {
        // Mapped ::ffff:a.b.c.d, compatible ::a.b.c.d (RFC 4291), translated ::ffff:0:a.b.c.d (RFC 2765). `::` and `::1`
        // also have this form; read as IPv4 addresses they are private, too.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [Some(last), None],
        // NAT64 (RFC 6052), and its prefix for one network (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => [Some(last), None],
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [Some(v4(high, low)), None],
        // Teredo (RFC 4380): the server, and the client with all bits inverted.
        [0x2001, 0, high, low, ..] => [Some(v4(high, low)), Some(v4(!groups[6], !groups[7]))],
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x0200, 0x5efe, ..] => [Some(last), None],
        _ => [None, None],
    }
}

/// The scope and address of the host of a URL, if its text is enough. None for names that must be resolved.
pub(super) fn literal(host: &Host<&str>) -> Option<(Scope, Option<IpAddr>)> {
    match host {
        Host::Ipv4(ip) => Some((scope_v4(*ip), Some((*ip).into()))),
        Host::Ipv6(ip) => Some((scope_v6(*ip), Some((*ip).into()))),
        Host::Domain(name) => {
            // This name means this machine (RFC 6761). A proxy would resolve it to the proxy's own machine.
            let name = plain_name(name);
            (name == "localhost" || name.ends_with(".localhost")).then_some((Scope::Private, None))
        }
    }
}

/// A host name for comparisons: in lower case, without the final dot.
pub(super) fn plain_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The error for a host that may not be contacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedAddress {
    /// The host of the URL.
    pub host: String,
    /// The refused address of the host; none for names of this machine and for the proxy.
    pub address: Option<IpAddr>,
    /// Never [`Scope::Public`].
    pub scope: Scope,
}

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, scope } = self;
        match address.map(|address| address.to_string()).filter(|address| !host.contains(address)) {
            Some(address) => write!(f, "{host} has the address {address}, which is ")?,
            None => write!(f, "{host} is ")?,
        }
        f.write_str(match scope {
            Scope::Forbidden => "link-local or the metadata service of a cloud",
            Scope::Private | Scope::Public => {
                "in a private network, and is not a host that the user configured"
            }
        })
    }
}

impl std::error::Error for RefusedAddress {}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope_of(text: &str) -> Scope {
        scope(text.parse().unwrap_or_else(|e| panic!("{text}: {e}")))
    }

    #[test]
    fn shown_urls_have_no_secrets() {
        let url: Url = "https://me:pw@h.example/a%20b?X-Sig=1#x".parse().unwrap();
        assert_eq!(without_secrets(&url), "https://h.example/a%20b");
    }

    #[test]
    fn private_addresses_of_every_range_are_private() {
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.251",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "ff02::1",
            "64:ff9b:1::808:808",
        ] {
            assert_eq!(scope_of(private), Scope::Private, "{private}");
        }
    }

    #[test]
    fn link_local_and_metadata_addresses_are_forbidden() {
        for forbidden in [
            "169.254.0.1",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
        ] {
            assert_eq!(scope_of(forbidden), Scope::Forbidden, "{forbidden}");
        }
    }

    #[test]
    fn ranges_of_metadata_services_are_forbidden() {
        let ranges = metadata_ranges();
        for (first, last) in &ranges {
            assert!(first <= last && first.is_ipv4() == last.is_ipv4(), "{first} to {last}");
            assert_eq!(
                (scope(*first), scope(*last)),
                (Scope::Forbidden, Scope::Forbidden),
                "{first} to {last}"
            );
        }
        for inside in ["169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "fd00:ec2::254"] {
            let ip: IpAddr = inside.parse().unwrap();
            let holds = |(first, last): &(IpAddr, IpAddr)| {
                first.is_ipv4() == ip.is_ipv4() && *first <= ip && ip <= *last
            };
            assert!(ranges.iter().any(holds), "{inside}");
        }
    }

    #[test]
    fn neighbours_of_private_ranges_are_public() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.0.2.1",
            "192.167.0.1",
            "192.169.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "fe00::1",
            "2003::1",
            "64:ff9c::a00:1",
        ] {
            assert_eq!(scope_of(public), Scope::Public, "{public}");
        }
    }

    #[test]
    fn ipv6_forms_have_the_scope_of_their_ipv4_address() {
        for (v4, scope) in [
            ("169.254.169.254", Scope::Forbidden),
            ("100.100.100.200", Scope::Forbidden),
            ("10.0.0.1", Scope::Private),
            ("127.0.0.1", Scope::Private),
            ("192.168.1.1", Scope::Private),
            ("8.8.8.8", Scope::Public),
        ] {
            let ip: Ipv4Addr = v4.parse().unwrap();
            let [a, b, c, d] = ip.octets();
            let hex = format!("{a:02x}{b:02x}:{c:02x}{d:02x}");
            let inverted = format!("{:02x}{:02x}:{:02x}{:02x}", !a, !b, !c, !d);
            for form in [
                format!("::ffff:{v4}"),
                format!("::{v4}"),
                format!("::ffff:0:{v4}"),
                format!("64:ff9b::{v4}"),
                format!("2002:{hex}::1"),
                format!("2002:{hex}:1:2:3:4:5"),
                format!("2001:0:{hex}::"),
                format!("2001:0:4136:e378:8000:63bf:{inverted}"),
                format!("2001:db8::5efe:{hex}"),
                format!("2001:db8::200:5efe:{hex}"),
            ] {
                // In a Teredo address, zeros at the end are the client 255.255.255.255.
                let expected = if form.ends_with("::") { scope.max(Scope::Private) } else { scope };
                assert_eq!(scope_of(&form), expected, "{form} of {v4}");
            }
            let local = format!("64:ff9b:1::{v4}");
            assert_eq!(scope_of(&local), scope.max(Scope::Private), "{local}");
        }
    }

    #[test]
    fn addresses_in_unusual_spelling_are_recognised() {
        for (url, expected) in [
            ("http://2852039166/", Scope::Forbidden),
            ("http://0xa9.0xfe.0xa9.0xfe/", Scope::Forbidden),
            ("http://0251.0376.0251.0376/", Scope::Forbidden),
            ("http://169.254.43518/", Scope::Forbidden),
            ("http://[::ffff:a9fe:a9fe]/", Scope::Forbidden),
            ("http://%31%36%39.254.169.254/", Scope::Forbidden),
            ("http://１６９.254.169.254/", Scope::Forbidden),
            ("http://127.1/", Scope::Private),
            ("http://0/", Scope::Private),
            ("http://LOCALHOST/", Scope::Private),
            ("http://a.localhost./", Scope::Private),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(literal(&url.host().unwrap()).map(|(scope, _)| scope), Some(expected), "{url}");
        }
        assert_eq!(literal(&Host::Domain("localhost.example")), None);
    }
}
