//! Measures how much longer `get` takes while hostile peers of one kind are connected. The goal is 1.5 times. Run by
//! `make measure`; `SILMARIL_MEASURE` limits it to the kinds that contain one of these texts (comma-separated).

use std::any::Any;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::answers;
use super::costs::{Silent, many_addresses, send_all};
use super::crowd::Crowd;
use super::floods::{floods, repeated};
use super::lab::{Lab, door, model};
use super::liars::{liar, liar_that_falls_silent};
use super::offers::offers_all;
use super::strike::{Hammer, Strike};
use super::strikes;
use super::together::{Attack, Pretenders};
use super::wasters::Wasters;
use crate::support::fixtures::noise;
use crate::support::private_net::in_namespace;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_leech::blocks_of;
use crate::support::raw_peer_message::{Block, Message};
use crate::support::raw_peer_seed::{Conduct, RawSeed};

/// The median of so many runs counts.
const RUNS: usize = 3;

/// Bytes of the long file, and the rate of the honest seed: `get` takes some seconds.
const SIZE: usize = 40 << 20;
const RATE: &str = "80mbit";

/// The highest ratio that is not marked in the table.
const GOAL: f64 = 1.5;

/// Hostile peers that run until they are dropped.
struct Running {
    /// Peers that `get` calls. The rest connect to their victim.
    called: Vec<String>,
    _peers: Box<dyn Any>,
}

impl Running {
    fn none() -> Self {
        Self::of(())
    }

    fn of(peers: impl Any) -> Self {
        Self { called: vec![], _peers: Box::new(peers) }
    }

    /// Peers that `get` calls, one for each conduct.
    fn called(lab: &Lab, conducts: impl IntoIterator<Item = Conduct>) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(7001);
        let listen =
            |conduct| RawSeed::listen(&lab.evil, PORT.fetch_add(1, Ordering::Relaxed), &lab.content, conduct);
        let seeds: Vec<RawSeed> = conducts.into_iter().map(listen).collect();
        Self { called: seeds.iter().map(RawSeed::peer).collect(), _peers: Box::new(seeds) }
    }
}

/// A kind of hostile peers, and how they start.
type Kind<'a> = (&'static str, Box<dyn Fn() -> Running + 'a>);

/// Peers that connect to `get` and send these messages, again and again.
fn hammer<'a>(lab: &'a Lab, what: &'static str, strikes: Vec<Strike>) -> Kind<'a> {
    (what, Box::new(move || Running::of(Hammer::on(lab, &lab.getter, strikes.clone()))))
}

fn called<'a>(lab: &'a Lab, what: &'static str, conducts: fn() -> Vec<Conduct>) -> Kind<'a> {
    (what, Box::new(move || Running::called(lab, conducts())))
}

/// How long `get` takes from the honest seed and the hostile peers.
fn time(lab: &Lab, running: &Running) -> Duration {
    let peers = [vec![door(&lab.sharer).to_string()], running.called.clone()].concat();
    let begin = Instant::now();
    lab.assert_got(lab.get(&peers, &[]));
    let took = begin.elapsed();
    // A new node does not know the peers that the former one has found out.
    lab.getter.stop_background_daemon();
    std::fs::remove_dir_all(lab.getter.home().join("out")).unwrap();
    let _ = std::fs::remove_dir_all(lab.getter.base().join("cache"));
    took
}

fn median(lab: &Lab, start: &dyn Fn() -> Running) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS).map(|_| time(lab, &start())).collect();
    times.sort();
    times[RUNS / 2]
}

fn measure(lab: &Lab, kinds: Vec<Kind>) {
    lab.sharer.limit_rate(RATE);
    let only = std::env::var("SILMARIL_MEASURE").unwrap_or_default();
    let is_wanted = |what: &str| only.split(',').any(|part| what.contains(part));
    let alone = median(lab, &Running::none);
    println!("{alone:.2?} without hostile peers");
    for (what, start) in kinds.into_iter().filter(|(what, _)| is_wanted(what)) {
        let with = median(lab, &*start);
        let ratio = with.as_secs_f64() / alone.as_secs_f64();
        let mark = if ratio > GOAL { " (above the goal)" } else { "" };
        println!("{with:.2?}, {ratio:.2} times{mark}: {what}");
    }
}

fn conducts(peers: answers::Peers) -> Vec<Conduct> {
    peers.into_iter().map(|(_, conduct)| conduct).collect()
}

/// The same peers, which answer no request for a block. Otherwise `get` would fetch most blocks from them.
fn without_blocks(peers: answers::Peers) -> Vec<Conduct> {
    conducts(peers).into_iter().map(|conduct| conduct.with_blocks(|_, _| vec![])).collect()
}

#[test]
#[ignore = "a measurement, printed by make measure"]
fn time_of_get_with_peers_that_send_hashes_and_floods() {
    let mut files = model();
    files[0].1 = noise(1, SIZE);
    let lab = Lab::with(&files, "64KiB", "");
    let content = &lab.content;
    let file = content.file("b.bin");
    let shifted = vec![strikes::shifted_pairs(file), strikes::shifted_pieces(content, file)];
    let random = Strike::new("random hash messages", &strikes::random(content, 7, 2000));
    let requests = Strike::new("hash requests", &vec![Message::HashRequest(content.any_range()); 2000]);
    let kinds = vec![
        hammer(&lab, "shifted block hashes", shifted),
        hammer(&lab, "neighbours of genuine hashes", strikes::neighbours(content, file)),
        hammer(&lab, "zero and unknown roots, absurd ranges", strikes::absurd(content)),
        hammer(&lab, "zero hashes", strikes::zeros(content, file)),
        hammer(&lab, "hashes across known pieces", strikes::straddling(content, file)),
        hammer(&lab, "random hash messages", vec![random.clone(), random.split(&[1, 7, 100])]),
        hammer(&lab, "hash requests that are not read", vec![requests]),
        hammer(&lab, "floods and malformed messages", floods(content)),
        called(&lab, "8 peers with wrong hashes", || without_blocks(answers::wrong_hashes())),
        called(&lab, "8 peers with hashes of other ranges", || without_blocks(answers::other_ranges())),
        called(&lab, "9 peers with hashes out of turn", || without_blocks(answers::out_of_turn())),
        called(&lab, "9 peers with wrong blocks", || conducts(answers::wrong_blocks())),
        called(&lab, "peers with wrong blocks and block hashes", || {
            conducts(answers::wrong_blocks_and_block_hashes())
        }),
        called(&lab, "6 peers with some wrong blocks", || (0..6).map(liar).collect()),
        called(&lab, "6 peers with wrong blocks that fall silent", || {
            (0..6).map(liar_that_falls_silent).collect()
        }),
    ];
    measure(&lab, kinds);
}

#[test]
#[ignore = "a measurement, printed by make measure"]
fn time_of_get_with_peers_that_are_idle_or_greedy() {
    let lab = Lab::with(&[("w.bin", noise(5, SIZE))], "1MiB", "");
    let addresses = &many_addresses(&lab.evil, 80);
    let (lab, eight) = (&lab, &addresses[..8]);
    let pretenders = |attack| move || Running::of(Pretenders::on(lab, &[&lab.getter], eight, attack));
    let wasters = |blocks: fn(Vec<Block>) -> Vec<Block>, messages| {
        move || {
            let blocks = blocks(blocks_of(&lab.content, 0..lab.content.pieces));
            Running::of(Wasters::on(lab, eight, &blocks, messages))
        }
    };
    let mixed = |blocks: Vec<Block>| (0..blocks.len()).map(|i| blocks[i * 997 % blocks.len()]).collect();
    let unchokes = repeated("unchokes", 2000, &[Message::Unchoke]);
    let busy = Strike { bytes: [Message::HaveAll.encode(), unchokes.bytes].concat(), ..unchokes };
    let kinds: Vec<Kind> = vec![
        called(lab, "4 seeds that answer no block request", || {
            vec![Conduct::honest().with_blocks(|_, _| vec![]); 4]
        }),
        called(lab, "4 seeds that answer no hash request", || {
            vec![Conduct::honest().with_hashes(|_, _| vec![]); 4]
        }),
        called(lab, "4 seeds that reject block requests", || {
            vec![Conduct::honest().with_blocks(|_, block| vec![Message::Reject(block)]); 4]
        }),
        called(lab, "4 seeds that choke at each block request", || {
            vec![Conduct::honest().with_blocks(|_, _| vec![Message::Choke, Message::Unchoke]); 4]
        }),
        called(lab, "4 peers that offer parts and send nothing", || {
            vec![offers_all(40).with_blocks(|_, _| vec![]).with_hashes(|_, _| vec![]); 4]
        }),
        called(lab, "4 peers that offer parts and reject requests", || {
            vec![offers_all(40).with_blocks(|_, block| vec![Message::Reject(block)]); 4]
        }),
        called(lab, "4 peers that offer parts and send wrong blocks", || {
            let wrong =
                |block: Block| Message::Piece(block.piece, block.begin, vec![0x55; block.length as usize]);
            vec![offers_all(40).with_blocks(move |_, block| vec![wrong(block)]); 4]
        }),
        ("8 silent seeds that call", Box::new(pretenders(Attack::SilentSeed))),
        ("8 slow seeds that call", Box::new(pretenders(Attack::SlowSeed))),
        ("8 readers with false claims", Box::new(pretenders(Attack::Claims))),
        hammer(lab, "a peer that sends UNCHOKE without end", vec![busy]),
        ("8 peers that repeat requests to the seed", {
            Box::new(wasters(|blocks| blocks[..16].to_vec(), |block| vec![Message::Request(block)]))
        }),
        ("8 peers that cancel requests to the seed", {
            Box::new(wasters(mixed, |block| vec![Message::Request(block), Message::Cancel(block)]))
        }),
        ("80 hosts that are silent at the seed", {
            Box::new(|| Running::of(Silent::hosts(lab, addresses.clone())))
        }),
        ("32 idle connections of 16 hosts to the seed", {
            Box::new(|| Running::of(Crowd::on(lab, &lab.sharer, &addresses[..16], 2)))
        }),
        ("20 peers that do not read their blocks", Box::new(|| Running::of(unread(lab, &addresses[..20])))),
        ("200 connections without a handshake to the seed", {
            Box::new(|| {
                let (to, connect) = (door(&lab.sharer), |to| TcpStream::connect(to).ok());
                let open = move || (0..200).filter_map(|_| connect(to)).collect::<Vec<_>>();
                Running::of(in_namespace(lab.evil.namespace(), open))
            })
        }),
    ];
    measure(lab, kinds);
}

/// Peers that request blocks from the seed and do not read them.
fn unread(lab: &Lab, addresses: &[Ipv4Addr]) -> Vec<RawPeer> {
    let connect = |from: &Ipv4Addr| {
        let mut peer = lab.dial_from(&lab.evil, Some(*from), &lab.sharer);
        peer.send(&Message::Interested).unwrap();
        let blocks = blocks_of(&lab.content, 0..lab.content.pieces).into_iter().cycle();
        send_all(&mut peer, blocks.take(2000).map(Message::Request));
        peer
    };
    addresses.iter().map(connect).collect()
}
