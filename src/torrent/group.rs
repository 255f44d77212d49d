//! Which addresses count as one where the share of a host is bounded, or a host is banned.

use std::net::{IpAddr, Ipv6Addr};

/// The bits of an IPv6 address below its /64, all of which whoever has one address there can use.
const BELOW: u128 = u64::MAX as u128;

/// Addresses that one host may have as it likes: an IPv4 address, also where it is written as IPv6, and an IPv6 network
/// of 64 bits. Link-local addresses are each their own: all hosts of a LAN have theirs in one such network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressGroup(IpAddr);

impl AddressGroup {
    /// That of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) if !v6.is_unicast_link_local() && !v6.is_loopback() => {
                Self(Ipv6Addr::from_bits(v6.to_bits() & !BELOW).into())
            }
            single => Self(single),
        }
    }

    /// Whether it is this host's own, on which many nodes may run that have nothing to do with each other.
    pub fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }

    /// Its first and its last address.
    pub fn range(self) -> (IpAddr, IpAddr) {
        let last = match self.0 {
            // A network of 64 bits, as `of` made it.
            IpAddr::V6(v6) if !v6.is_unicast_link_local() && !v6.is_loopback() => {
                Ipv6Addr::from_bits(v6.to_bits() | BELOW).into()
            }
            single => single,
        };
        (self.0, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(ip: &str) -> AddressGroup {
        AddressGroup::of(ip.parse().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_is_one_host_and_neighbours_on_a_lan_are_not() {
        assert_eq!(group("2001:db8:1:2::1"), group("2001:db8:1:2:ffff:1234::5"));
        assert_ne!(group("2001:db8:1:2::1"), group("2001:db8:1:3::1"));
        assert_ne!(group("fe80::1"), group("fe80::2"));
        assert_ne!(group("192.0.2.1"), group("192.0.2.2"));
        assert_eq!(group("192.0.2.1"), group("::ffff:192.0.2.1"));
        assert_ne!(group("::ffff:192.0.2.1"), group("::ffff:192.0.2.2"));
        let here = ["127.0.0.1", "::1", "::ffff:127.0.0.1"];
        assert!(here.into_iter().all(|ip| group(ip).is_loopback()));
        assert!(!group("::2").is_loopback());
    }

    #[test]
    fn the_range_of_a_group_is_all_of_it_and_no_more() {
        let range = |ip| {
            let (first, last) = group(ip).range();
            (first.to_string(), last.to_string())
        };
        let all = ("2001:db8::".to_owned(), "2001:db8::ffff:ffff:ffff:ffff".to_owned());
        assert_eq!(range("2001:db8::7"), all);
        for single in ["fe80::7", "192.0.2.7", "::1"] {
            assert_eq!(range(single), (single.to_owned(), single.to_owned()));
        }
    }
}
