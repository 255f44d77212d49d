//! Peers that try to prevent a node from getting the info dictionary of a magnet link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use silmaril::config::{Encryption, NetworkConfig};
use silmaril::model::metainfo::parse_metainfo;
use silmaril::torrent::{Event, Swarms, TorrentId};

use super::metadata_peer::{BLOCK, METADATA, Manner, MetadataPeer, data, reject};
use crate::engine::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;
use crate::support::process::{PATIENCE, until};
use crate::support::raw_peer_message::Message;

/// A torrent whose info dictionary has several blocks.
struct Magnet {
    link: String,
    sample: Sample,
    info: Vec<u8>,
}

impl Magnet {
    fn new() -> Self {
        let names: Vec<String> = (0..900).map(|number| format!("part-{number:04}-of-many")).collect();
        let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 10)).collect();
        let sample = Sample::new(&files, 64 * 1024, false);
        let info = parse_metainfo(&sample.metainfo).unwrap().info;
        assert!(info.len() > 3 * BLOCK, "{} bytes are too few blocks", info.len());
        let link = format!("magnet:?xt=urn:btmh:1220{}", sample.info_hash);
        Self { link, sample, info }
    }

    fn peer(&self, manner: Manner) -> MetadataPeer {
        MetadataPeer::listen(&self.sample.info_hash, &self.info, manner)
    }

    fn honest(&self) -> MetadataPeer {
        self.peer(Manner::honest(&self.info))
    }

    fn size(&self) -> i64 {
        self.info.len() as i64
    }
}

/// A client without encryption, because a raw peer does not support encryption.
fn client() -> Client {
    Client::with(NetworkConfig { encryption: Encryption::Off, ..network() })
}

fn wait_for_metadata(client: &mut Client, id: TorrentId, magnet: &Magnet) {
    let info = client.wait_for("metadata", SOON, |event| match event {
        Event::Metadata(of, info) if *of == id => Some(info.clone()),
        _ => None,
    });
    assert!(info == magnet.info, "a false info dictionary was accepted");
}

fn nothing(_: &[u8], _: usize) -> Vec<Message> {
    vec![]
}

fn false_block(info: &[u8], block: usize, total: usize) -> Vec<Message> {
    let wrong: Vec<u8> = info.iter().map(|byte| byte ^ 0x55).collect();
    vec![data(&wrong, block, total)]
}

fn raw(body: &[u8]) -> Vec<Message> {
    vec![Message::Extended(METADATA, body.to_vec())]
}

/// Peers that announce or send impossible data. Each must be disconnected and remembered.
fn liars(size: i64) -> Vec<Manner> {
    let right = vec![size];
    let small = |size: usize| {
        Manner::new("half the size", vec![size as i64], move |info, block| false_block(info, block, size))
    };
    vec![
        Manner::new("wrong blocks", right.clone(), |info, block| false_block(info, block, info.len())),
        Manner::new("one wrong block", right.clone(), |info, block| match block {
            1 => false_block(info, block, info.len()),
            _ => vec![data(info, block, info.len())],
        }),
        small(size as usize / 2),
        Manner::new("one byte", vec![1], |_, block| vec![data(&[0], block, 1)]),
        Manner::new("one byte too few", vec![size - 1], |info, block| {
            vec![data(info, block, info.len() - 1)]
        }),
        Manner::new("one byte too many", vec![size + 1], |info, block| {
            vec![data(info, block, info.len() + 1)]
        }),
        Manner::new("another size in the answers", right.clone(), |info, block| {
            vec![data(info, block, info.len() + BLOCK)]
        }),
        Manner::new("a short block", right.clone(), |info, block| {
            let Message::Extended(id, mut body) = data(info, block, info.len()) else { unreachable!() };
            body.pop();
            vec![Message::Extended(id, body)]
        }),
        Manner::new("a long block", right.clone(), |info, block| {
            let Message::Extended(id, mut body) = data(info, block, info.len()) else { unreachable!() };
            body.push(0);
            vec![Message::Extended(id, body)]
        }),
        Manner::new("a size that changes", vec![size, size + 7], nothing),
        Manner::new("a size that becomes 0", vec![size, 0], nothing),
        Manner::new("more than is accepted", vec![(16 << 20) + 1], nothing),
        Manner::new("more than a number holds", vec![i64::MAX], nothing),
        Manner::new("no dictionary", right.clone(), |_, _| raw(b"i5e")),
        Manner::new("no kind of message", right.clone(), |_, _| raw(b"d5:piecei0ee")),
        Manner::new("a message that is too long", right.clone(), |_, _| raw(&[b'l'; 18 * 1024])),
        Manner {
            repeats: true,
            ..Manner::new("a size that changes with each request", vec![size, 77], nothing)
        },
    ]
}

/// Peers that delay the fetch and send no false data.
fn idlers(size: i64) -> Vec<Manner> {
    vec![
        Manner::new("silent", vec![size], nothing),
        Manner::new("rejects", vec![size], |_, block| vec![reject(block)]),
        Manner::new("the first block alone", vec![size], |info, block| match block {
            0 => vec![data(info, 0, info.len())],
            _ => vec![],
        }),
        Manner::new("blocks that were not requested", vec![size], |info, block| {
            vec![data(info, block + 1, info.len()); 3]
        }),
        Manner::new("size 0", vec![0], nothing),
        Manner::new("a negative size", vec![-5], nothing),
        Manner::new("kinds of messages that do not exist", vec![size], |_, block| {
            raw(format!("d8:msg_typei9e5:piecei{block}ee").as_bytes())
        }),
        Manner::new("negative blocks", vec![size], |_, _| {
            raw(b"d8:msg_typei1e5:piecei-1e10:total_sizei5eeabcde")
        }),
        Manner::new("the largest accepted size, silent", vec![16 << 20], nothing),
    ]
}

/// Checks that an honest peer supplies each block of the metadata once, next to a peer with this manner.
fn gets_all_from_an_honest_peer(client: &mut Client, id: TorrentId, magnet: &Magnet, manner: &str) {
    let honest = magnet.honest();
    client.session.connect_peer(id, honest.address).unwrap();
    wait_for_metadata(client, id, magnet);
    let blocks = magnet.info.len().div_ceil(BLOCK);
    assert_eq!(honest.requests(), blocks, "next to the peer with {manner}");
    client.session.remove(id).unwrap();
    client.wait_for("removal", SOON, |event| matches!(event, Event::Removed(of) if *of == id).then_some(()));
}

#[test]
fn liars_are_disconnected_and_remembered() {
    in_private_net(|| {
        let magnet = Magnet::new();
        let mut client = client();
        for manner in liars(magnet.size()) {
            let liar = magnet.peer(manner);
            let id = client.session.fetch_metadata(&magnet.link, &[liar.address]).unwrap();
            until(&format!("the peer with {} is disconnected", liar.what()), PATIENCE, || liar.ends() > 0);
            let requests = liar.requests();
            // The gate refuses it: the connection ends right after the handshakes, and nothing is requested.
            client.session.connect_peer(id, liar.address).unwrap();
            until(&format!("the peer with {} is refused", liar.what()), PATIENCE, || liar.ends() > 1);
            assert_eq!(liar.requests(), requests, "the peer with {} was asked again", liar.what());
            gets_all_from_an_honest_peer(&mut client, id, &magnet, liar.what());
        }
    });
}

#[test]
fn the_honest_peer_gets_its_turn_with_each_idler() {
    in_private_net(|| {
        let magnet = Magnet::new();
        let mut client = client();
        for manner in idlers(magnet.size()) {
            let idler = magnet.peer(manner);
            let id = client.session.fetch_metadata(&magnet.link, &[idler.address]).unwrap();
            until(&format!("the peer with {} is connected", idler.what()), PATIENCE, || {
                idler.connections() > 0
            });
            gets_all_from_an_honest_peer(&mut client, id, &magnet, idler.what());
        }
    });
}

#[test]
fn an_honest_peer_wins_against_many_hostile_ones() {
    in_private_net(|| {
        let magnet = Magnet::new();
        let mut client = client();
        let size = magnet.size();
        let hostile: Vec<MetadataPeer> =
            liars(size).into_iter().chain(idlers(size)).map(|manner| magnet.peer(manner)).collect();
        let peers: Vec<_> = hostile.iter().map(|peer| peer.address).collect();
        let begin = Instant::now();
        let id = client.session.fetch_metadata(&magnet.link, &peers).unwrap();
        let connected = |peer: &MetadataPeer| peer.connections() > 0;
        until("all hostile peers are connected", PATIENCE, || hostile.iter().all(connected));
        let honest = magnet.honest();
        client.session.connect_peer(id, honest.address).unwrap();
        wait_for_metadata(&mut client, id, &magnet);
        println!("{} hostile peers delayed the metadata by {:.1?}", hostile.len(), begin.elapsed());
        assert_eq!(
            honest.requests(),
            magnet.info.len().div_ceil(BLOCK),
            "the honest peer was asked more than once"
        );
    });
}

/// The slow peers are connected first and send one block per second of a large dictionary, so they never finish.
#[test]
fn an_honest_peer_wins_against_slow_ones() {
    in_private_net(|| {
        let magnet = Magnet::new();
        let mut client = client();
        let slow = |_: usize| {
            magnet.peer(Manner::new("slow", vec![16 << 20], |info, block| {
                std::thread::sleep(Duration::from_secs(1));
                false_block(info, block, 16 << 20)
            }))
        };
        let slow: Vec<MetadataPeer> = (0..12).map(slow).collect();
        let peers: Vec<_> = slow.iter().map(|peer| peer.address).collect();
        let id = client.session.fetch_metadata(&magnet.link, &peers).unwrap();
        until("two of the slow peers are asked", PATIENCE, || {
            slow.iter().filter(|peer| peer.requests() > 0).count() > 1
        });
        let honest = magnet.honest();
        client.session.connect_peer(id, honest.address).unwrap();
        wait_for_metadata(&mut client, id, &magnet);
        assert_eq!(honest.requests(), magnet.info.len().div_ceil(BLOCK));
    });
}

#[test]
fn a_single_slow_honest_peer_is_not_disconnected() {
    in_private_net(|| {
        let magnet = Magnet::new();
        let mut client = client();
        let first = Arc::new(std::sync::Mutex::new(true));
        let slow = magnet.peer(Manner::new("slow", vec![magnet.size()], move |info, block| {
            if std::mem::take(&mut *first.lock().unwrap()) {
                std::thread::sleep(Duration::from_millis(3500));
            }
            vec![data(info, block, info.len())]
        }));
        let id = client.session.fetch_metadata(&magnet.link, &[slow.address]).unwrap();
        wait_for_metadata(&mut client, id, &magnet);
        assert_eq!(slow.ends(), 0, "the slow peer was disconnected");
    });
}
