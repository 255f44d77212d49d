//! Addresses that count as one host for limits.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The bits of an IPv6 address below its /64. A host that has one address of a /64 can usually use all of them.
const BELOW: u128 = u64::MAX as u128;

/// The IPv6 networks of this machine, and when they were read.
static OWN: Mutex<Option<(Instant, Arc<[u128]>)>> = Mutex::new(None);
/// The networks are read again after this time, because a machine may move to another network.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The IPv6 networks of this machine, at most a minute old.
fn own_networks() -> Arc<[u128]> {
    let mut known = OWN.lock();
    if let Some((_, networks)) = known.as_ref().filter(|(since, _)| since.elapsed() < READ_AGAIN_AFTER) {
        return Arc::clone(networks);
    }
    // Each line has the address in hex, the number of the interface, the length of the prefix, and more.
    let lines = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let address = |line: &str| u128::from_str_radix(line.split(' ').next()?, 16).ok();
    let networks: Arc<[u128]> = lines.lines().filter_map(address).map(network).collect();
    *known = Some((Instant::now(), Arc::clone(&networks)));
    networks
}

/// The addresses that one host can freely choose from: an IPv4 address, also if written as IPv6, or an IPv6 network of 64 bits.
/// On a LAN, all hosts share one such network: so each link-local or unique local address, and each address in a network of
/// this machine, is a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressGroup {
    first: IpAddr,
    last: IpAddr,
}

impl AddressGroup {
    /// The group of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(_) => Self::seen_from(ip, &own_networks()),
            single => Self { first: single, last: single },
        }
    }

    /// The group of an address, for a machine with these networks.
    fn seen_from(ip: IpAddr, own: &[u128]) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) if !is_of_lan(v6) && !own.contains(&network(v6.to_bits())) => {
                let first = network(v6.to_bits());
                let address = |bits| Ipv6Addr::from_bits(bits).into();
                Self { first: address(first), last: address(first | BELOW) }
            }
            single => Self { first: single, last: single },
        }
    }

    /// Whether it is this host itself, on which many independent nodes may run.
    pub fn is_loopback(self) -> bool {
        self.first.is_loopback()
    }
}

fn network(address: u128) -> u128 {
    address & !BELOW
}

fn is_of_lan(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local() || ip.is_unique_local() || ip.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(ip: &str) -> AddressGroup {
        AddressGroup::of(ip.parse().unwrap())
    }

    #[test]
    fn ipv6_network_is_one_group_except_on_a_lan() {
        assert_eq!(group("2001:db8:1:2::1"), group("2001:db8:1:2:ffff:1234::5"));
        assert_ne!(group("2001:db8:1:2::1"), group("2001:db8:1:3::1"));
        for lan in ["fe80::", "fd00:1:2:3::"] {
            assert_ne!(group(&format!("{lan}1")), group(&format!("{lan}2")));
        }
        let own = [network("2001:db8:1:2::".parse::<Ipv6Addr>().unwrap().to_bits())];
        let neighbour = |ip: &str| AddressGroup::seen_from(ip.parse().unwrap(), &own);
        assert_ne!(neighbour("2001:db8:1:2::1"), neighbour("2001:db8:1:2::2"));
        assert_eq!(neighbour("2001:db8:1:3::1"), neighbour("2001:db8:1:3::2"));
        assert_ne!(group("192.0.2.1"), group("192.0.2.2"));
        assert_eq!(group("192.0.2.1"), group("::ffff:192.0.2.1"));
        assert_ne!(group("::ffff:192.0.2.1"), group("::ffff:192.0.2.2"));
        let here = ["127.0.0.1", "::1", "::ffff:127.0.0.1"];
        assert!(here.into_iter().all(|ip| group(ip).is_loopback()));
        assert!(!group("::2").is_loopback());
    }

    #[test]
    fn range_covers_exactly_the_group() {
        let range = |ip| {
            let AddressGroup { first, last } = group(ip);
            (first.to_string(), last.to_string())
        };
        let all = ("2001:db8::".to_owned(), "2001:db8::ffff:ffff:ffff:ffff".to_owned());
        assert_eq!(range("2001:db8::7"), all);
        for single in ["fe80::7", "192.0.2.7", "::1"] {
            assert_eq!(range(single), (single.to_owned(), single.to_owned()));
        }
    }
}
