//! The budget of new records that the hosts of one address group may make this node store. All their connections share it,
//! and a reconnection does not refill it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::budget::{Bucket, NEW_RECORDS};
use crate::torrent::{AddressGroup, PeerId};

/// Address groups that are remembered. Beyond it, the group that has spent least is forgotten.
const MAX_PURSES: usize = 4096;

/// The owner of a budget. On the loopback address, many unrelated nodes may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    Addresses(AddressGroup),
    Connection(PeerId),
}

/// The new records that each owner may still send.
#[derive(Debug, Default)]
pub(super) struct Purses(HashMap<Whose, Bucket>);

impl Purses {
    /// The budget of a peer at an address.
    pub fn of(&mut self, now: Instant, peer: PeerId, address: SocketAddr) -> &mut Bucket {
        let group = AddressGroup::of(address.ip());
        let whose = if group.is_loopback() { Whose::Connection(peer) } else { Whose::Addresses(group) };
        if self.0.len() >= MAX_PURSES && !self.0.contains_key(&whose) {
            let fullest = self.0.iter_mut().map(|(whose, purse)| (*whose, purse.available(now)));
            if let Some((fullest, _)) = fullest.max_by(|a, b| a.1.total_cmp(&b.1)) {
                self.0.remove(&fullest);
            }
        }
        self.0.entry(whose).or_insert_with(|| Bucket::new(NEW_RECORDS, now))
    }

    /// Forgets budgets that are full again.
    pub fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, purse| purse.available(now) < NEW_RECORDS.burst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(n: u16, port: u16) -> SocketAddr {
        ([10, 0, (n >> 8) as u8, n as u8], port).into()
    }

    #[test]
    fn reconnection_does_not_refill_a_budget() {
        let (mut purses, now) = (Purses::default(), Instant::now());
        purses.of(now, PeerId(1), address(1, 1)).spend(now, NEW_RECORDS.burst);
        purses.tidy(now);
        assert_eq!(purses.of(now, PeerId(2), address(1, 2)).available(now), 0.0);
        assert_eq!(purses.of(now, PeerId(3), address(2, 1)).available(now), NEW_RECORDS.burst);
        let later = now + Duration::from_secs(3600);
        purses.tidy(later);
        assert!(purses.0.is_empty());
        // Each node of this host has its own budget.
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        purses.of(now, PeerId(1), here(1)).spend(now, 1000.0);
        assert_eq!(purses.of(now, PeerId(2), here(1)).available(now), NEW_RECORDS.burst);
    }

    #[test]
    fn ipv6_addresses_of_one_network_share_a_budget() {
        let (mut purses, now) = (Purses::default(), Instant::now());
        let of = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 1);
        purses.of(now, PeerId(1), of("2001:db8::1")).spend(now, NEW_RECORDS.burst);
        assert_eq!(purses.of(now, PeerId(2), of("2001:db8::2")).available(now), 0.0);
        assert_eq!(purses.of(now, PeerId(3), of("2001:db8:0:1::2")).available(now), NEW_RECORDS.burst);
    }

    #[test]
    fn fullest_budget_is_forgotten_first() {
        let (mut purses, now) = (Purses::default(), Instant::now());
        for n in 0..MAX_PURSES as u16 + 100 {
            let spent = if n == 0 { 1000.0 } else { 1.0 };
            purses.of(now, PeerId(1), address(n, 1)).spend(now, spent);
        }
        assert_eq!(purses.0.len(), MAX_PURSES);
        assert!(purses.of(now, PeerId(1), address(0, 1)).available(now) < NEW_RECORDS.burst - 999.0);
    }
}
