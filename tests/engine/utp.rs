//! uTP packets (BEP 29) that no honest peer sends.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use silmaril::config::{NetworkConfig, Utp};

use super::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;

const DATA: u8 = 0;
const FIN: u8 = 1;
const STATE: u8 = 2;
const RESET: u8 = 3;
const SYN: u8 = 4;

/// A packet without an extension.
fn packet(kind: u8, connection: u16, sequence: u16, acknowledged: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind << 4 | 1, 0];
    bytes.extend(connection.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend((1u32 << 20).to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend(data);
    bytes
}

fn socket(client: &Client) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(client.address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Opens a connection; returns the sequence number of the answer.
#[track_caller]
fn open(socket: &UdpSocket, connection: u16) -> u16 {
    socket.send(&packet(SYN, connection, 1, 0, &[])).unwrap();
    loop {
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).expect("the engine answers");
        let of = u16::from_be_bytes([answer[2], answer[3]]);
        if length >= 20 && answer[0] >> 4 == STATE && of == connection {
            return u16::from_be_bytes([answer[16], answer[17]]);
        }
    }
}

#[test]
fn packets_in_any_order_are_survived() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let mut client = Client::with(NetworkConfig { utp: Utp::On, ..network() });
        client.add(sample.add_seed());
        let mut random = fastrand::Rng::with_seed(30);
        for number in 0..200u16 {
            let connection = number * 2 + 100;
            let socket = socket(&client);
            let theirs = open(&socket, connection);
            // The initiator sends with the number after its receiving number.
            let to = connection + 1;
            for _ in 0..50 {
                let near = |random: &mut fastrand::Rng, to: u16| match random.u8(..4) {
                    0 => random.u16(..),
                    1 => to.wrapping_add(0x7ffe + random.u16(..4)),
                    _ => to.wrapping_add(random.u16(..8)).wrapping_sub(3),
                };
                let kind = [DATA, DATA, DATA, STATE, FIN, RESET, SYN, 7][random.usize(..8)];
                let (sequence, acknowledged) = (near(&mut random, 2), near(&mut random, theirs));
                let data = vec![0x13; random.usize(..64) * usize::from(kind != STATE)];
                let mut bytes = packet(kind, to, sequence, acknowledged, &data);
                match random.u8(..8) {
                    // A selective acknowledgement of every length, also one that is longer than the packet.
                    0 => {
                        bytes[1] = 1;
                        bytes.splice(
                            20..20,
                            [0, random.u8(..)].into_iter().chain(std::iter::repeat_n(0xaa, 8)),
                        );
                    }
                    1 => bytes.truncate(random.usize(..bytes.len())),
                    _ => {}
                }
                let _ = socket.send(&bytes);
            }
        }
        open(&socket(&client), 9000);
        assert!(client.session.shutdown(Duration::from_secs(10)));
    });
}
