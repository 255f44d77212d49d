//! The packets that a host sends, as the kernel passes them to its interfaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt};

use super::host::Host;
use super::private_net::in_namespace;

/// `ETH_P_ALL` of the kernel: packets of every protocol, received and sent.
const ALL: u16 = 3;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Records the packets of a host on all of its interfaces, the loopback included.
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    pub fn on(host: &Host) -> Self {
        let socket = in_namespace(host.namespace(), || {
            // Such a socket receives packets without their link header.
            let protocol = Protocol::from_raw(u32::from(ALL.to_be()).try_into().unwrap());
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket =
                socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, Some(protocol)).unwrap();
            sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20).unwrap();
            socket
        });
        Self { socket }
    }

    /// Where the TCP and UDP packets since the last call went, those that the host received included.
    pub fn destinations(&self) -> BTreeSet<SocketAddr> {
        let mut packet = [0; 200];
        let mut found = BTreeSet::new();
        while let Ok((_, length)) = recv(&self.socket, &mut packet[..], RecvFlags::TRUNC) {
            let length = length.min(packet.len());
            found.extend(destination(&packet[..length]));
        }
        found
    }
}

/// The destination of an IP packet. `None` for other protocols than TCP and UDP.
fn destination(packet: &[u8]) -> Option<SocketAddr> {
    let (address, protocol, header): (IpAddr, u8, usize) = match packet.first()? >> 4 {
        4 => {
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (Ipv4Addr::from(to).into(), *packet.get(9)?, usize::from(packet[0] & 15) * 4)
        }
        6 => {
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (Ipv6Addr::from(to).into(), *packet.get(6)?, 40)
        }
        _ => return None,
    };
    let port = packet.get(header + 2..header + 4)?;
    (protocol == TCP || protocol == UDP)
        .then(|| SocketAddr::new(address, u16::from_be_bytes([port[0], port[1]])))
}
