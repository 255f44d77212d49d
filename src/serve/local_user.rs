//! The user of this machine that has the other end of a loopback connection.
//!
//! TCP has no credentials of its peer, but the kernel reports the owner of each socket (sock_diag(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`: the type of the request and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `TCP_ESTABLISHED`. The kernel does not know the owner of a socket that its program has closed.
const ESTABLISHED: u8 = 1;
/// The positions of the state and of the user in the answer (`inet_diag_msg`).
const STATE_AT: usize = HEADER + 1;
const USER_AT: usize = HEADER + 64;

/// The user that has the end `client` of the connection from `client` to `server`. None if the kernel does not report it, or
/// the end is closed. Does not block.
pub(super) fn owner_of(client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let mut answer = [0; 512];
    let received = ask(&request(client, server), &mut answer)
        .inspect_err(|error| tracing::debug!(%error, "the user of a connection is not known"))
        .ok()?;
    let answer = answer.get(..received)?;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let user = u32::from_ne_bytes(answer.get(USER_AT..USER_AT + 4)?.try_into().ok()?);
    (kind == BY_FAMILY && answer[STATE_AT] == ESTABLISHED).then_some(user)
}

/// `inet_diag_req_v2` of `linux/inet_diag.h` for one socket, behind its header.
fn request(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => [ip.octets().as_slice(), &[0; 12]].concat(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let body = [
        &[family.as_raw() as u8, TCP, 0, 0],
        // All states.
        u32::MAX.to_ne_bytes().as_slice(),
        &client.port().to_be_bytes(),
        &server.port().to_be_bytes(),
        &address(client.ip()),
        &address(server.ip()),
        // Any interface, and no cookie.
        &[0; 4],
        &[0xff; 8],
    ]
    .concat();
    let length = (HEADER + body.len()) as u32;
    let header =
        [&length.to_ne_bytes(), BY_FAMILY.to_ne_bytes().as_slice(), &REQUEST.to_ne_bytes(), &[0; 8]].concat();
    [header, body].concat()
}

/// Sends a request to the kernel, which answers before `sendto` returns.
fn ask(request: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )?;
    rustix::net::sendto(&socket, request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(rustix::net::recv(&socket, answer, RecvFlags::DONTWAIT)?.1)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn owner_of_a_connection_is_its_user() {
        let own = rustix::process::geteuid().as_raw();
        for (address, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let listener = TcpListener::bind(address).unwrap();
            let stream = TcpStream::connect((to, listener.local_addr().unwrap().port())).unwrap();
            let (accepted, client) = listener.accept().unwrap();
            let server = accepted.local_addr().unwrap();
            assert_eq!(owner_of(client, server), Some(own), "{address}");
            drop(stream);
            assert_eq!(owner_of(client, server), None, "{address}");
        }
    }
}
