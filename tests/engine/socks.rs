//! A SOCKS5 proxy (RFC 1928, RFC 1929) that answers in unusual ways.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use silmaril::config::NetworkConfig;
use silmaril::torrent::Event;

use super::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;

fn accept(listener: &TcpListener) -> TcpStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// A client behind a proxy, with one peer.
fn behind(proxy: &TcpListener, login: &str, peer: SocketAddr) -> Client {
    let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
    let here = tempfile::tempdir().unwrap();
    let proxy = Some(format!("socks5://{login}{}", proxy.local_addr().unwrap()).parse().unwrap());
    let mut client = Client::unheard(NetworkConfig { proxy, ..network() });
    client.session.trust_hosts(&[peer]);
    let mut add = sample.add(here.path());
    add.peers = vec![peer];
    client.add(add);
    client
}

/// The connection for a peer; connections for UDP are closed. Returns after the request to connect.
fn connecting(proxy: &TcpListener, login: Option<(&str, &str)>) -> TcpStream {
    loop {
        let mut stream = accept(proxy);
        let [version, methods] = read(&mut stream);
        assert_eq!(version, 5);
        std::io::copy(&mut (&mut stream).take(methods.into()), &mut std::io::sink()).unwrap();
        match login {
            None => stream.write_all(&[5, 0]).unwrap(),
            Some((user, password)) => {
                stream.write_all(&[5, 2]).unwrap();
                let mut expected = vec![1, user.len() as u8];
                expected.extend(user.as_bytes());
                expected.push(password.len() as u8);
                expected.extend(password.as_bytes());
                let mut sent = vec![0; expected.len()];
                stream.read_exact(&mut sent).unwrap();
                assert_eq!(sent, expected, "the login");
                stream.write_all(&[1, 0]).unwrap();
            }
        }
        let [_, command, _, kind] = read(&mut stream);
        assert_eq!(kind, 1, "an IPv4 address");
        let _address: [u8; 6] = read(&mut stream);
        if command == 1 {
            return stream;
        }
    }
}

/// The engine still runs: it calls the peer again.
fn assert_calls_again(proxy: &TcpListener, login: Option<(&str, &str)>) {
    connecting(proxy, login);
}

#[test]
fn replies_with_names_of_every_length_are_survived() {
    in_private_net(|| {
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = behind(&proxy, "", "198.51.100.9:6881".parse().unwrap());
        for length in [0, 1, 2, 3, 4, 255] {
            let mut stream = connecting(&proxy, None);
            let mut reply = vec![5, 0, 0, 3, length];
            reply.extend(vec![b'x'; usize::from(length) + 2]);
            // The client may close the connection when it has read the invalid part.
            let _ = stream.write_all(&reply);
        }
        for reply in
            [&[5, 0, 0, 9, 1, 2, 3, 4, 5, 6][..], &[4, 0, 0, 1], &[5, 1, 0, 1, 0, 0, 0, 0, 0, 0], &[5, 0]]
        {
            let _ = connecting(&proxy, None).write_all(reply);
        }
        assert_calls_again(&proxy, None);
        drop(client);
    });
}

#[test]
fn reply_with_a_name_leads_to_the_peer() {
    in_private_net(|| {
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = behind(&proxy, "", "198.51.100.9:6881".parse().unwrap());
        let mut stream = connecting(&proxy, None);
        let name = b"proxy.example";
        stream.write_all(&[&[5, 0, 0, 3, name.len() as u8][..], name, &[0, 80]].concat()).unwrap();
        // A handshake of BEP 3 or an encrypted one: the client is connected to the peer.
        let _: [u8; 20] = read(&mut stream);
        client.wait_for("figures", SOON, |event| matches!(event, Event::Stats(..)).then_some(()));
        assert!(client.session.shutdown(SOON));
    });
}

#[test]
fn longest_login_is_sent_completely() {
    in_private_net(|| {
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (user, password) = ("u".repeat(255), "p".repeat(255));
        let client = behind(&proxy, &format!("{user}:{password}@"), "198.51.100.9:6881".parse().unwrap());
        connecting(&proxy, Some((&user, &password)));
        drop(client);
        // The part beyond the longest login is cut.
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = behind(&proxy, &format!("{user}x:{password}y@"), "198.51.100.9:6881".parse().unwrap());
        connecting(&proxy, Some((&user, &password)));
        drop(client);
    });
}
