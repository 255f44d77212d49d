//! Peers that lie, flood, or keep silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use silmaril::catalog::gossip::MAX_PARTNERS;
use silmaril::catalog::gossip::budget::{MAX_EXCESS, UNASKED_BYTES};
use silmaril::catalog::message::{Have, MANIFEST_PART, Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::record::SharedRecord;
use silmaril::catalog::service::topic_of;
use silmaril::catalog::{EXPIRY, MAX_AHEAD};
use silmaril::model::{PublisherKey, Sha256Digest};
use silmaril::torrent::{Overlay, OverlayEvent};
use tokio::time::Instant;

use super::rig::{EPOCH, Model, PATIENCE, World, key, records, within};
use crate::support::clock::pass;
use crate::support::overlay::Network;

fn push(records: Vec<SharedRecord>) -> Message {
    Message::Pushed(records)
}

fn claim(publisher: PublisherKey, sequence: i64, count: u32) -> Have {
    Have { publisher, sequence, count }
}

#[tokio::test(start_paused = true)]
async fn sender_of_garbage_or_forged_records_is_banned() {
    let good = push(vec![Model::new(key(0), "org/model").record]).encode();
    let at = good.windows(8).position(|bytes| bytes == b"3:sig64:").unwrap() + 20;
    let forged = [&good[..at], &[good[at] ^ 1], &good[at + 1..]].concat();
    for lie in [b"garbage".to_vec(), Vec::new(), b"d1:t6:lookupe".to_vec(), forged] {
        let world = World::new(Network::new());
        let (member, mut liar) = (world.member(&[]), world.stranger());
        let peer = liar.greet(0).await;
        liar.engine.send(peer, &lie).unwrap();
        liar.wait_until_left(peer).await;
        assert!(member.engine.muted().contains(&liar.engine.address().ip()), "after {lie:?}");
        assert_eq!(member.store.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn peer_without_a_hello_is_disconnected() {
    let world = World::new(Network::new());
    let (member, mut rude) = (world.member(&[]), world.stranger());
    let (peer, _) = rude.receive().await;
    rude.send(peer, &push(records(key(0), 1)));
    rude.wait_until_left(peer).await;
    assert_eq!(member.store.len(), 0);
    let mut silent = world.stranger();
    let (peer, _) = silent.receive().await;
    let begun = Instant::now();
    silent.wait_until_left(peer).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(!member.engine.muted().contains(&silent.engine.address().ip()));
}

#[tokio::test(start_paused = true)]
async fn untimely_and_replayed_records_are_ignored() {
    let world = World::new(Network::new());
    let (member, mut liar) = (world.member(&[]), world.stranger());
    let newest = Model::signed(key(0), "org/moving", 5, EPOCH);
    member.learn(&newest);
    let peer = liar.greet(0).await;
    let signed = |name, sequence, time| Model::signed(key(0), name, sequence, time).record;
    liar.send(
        peer,
        &push(vec![
            signed("org/future", 6, EPOCH + MAX_AHEAD + 100),
            signed("org/past", 7, EPOCH - EXPIRY - 100),
            signed("org/moving", 4, EPOCH),
        ]),
    );
    let honest = signed("org/honest", 8, EPOCH);
    liar.send(peer, &push(vec![honest.clone()]));
    member.knows(2).await;
    let moving = member.store.of_name(&newest.model_ref().name);
    assert_eq!(moving, std::slice::from_ref(&newest.record));
    assert!(member.engine.muted().is_empty(), "muted, although a clock may be wrong");
}

#[tokio::test(start_paused = true)]
async fn flooding_peer_is_banned_while_other_peers_are_served() {
    let world = World::new(Network::new());
    let (member, honest) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || member.catalog.status().peers == 1).await;
    let mut flooder = world.stranger();
    let peer = flooder.greet(0).await;
    // The second greeting comes from the other member.
    flooder.greet(0).await;
    let page = Message::Have { known: vec![claim(PublisherKey([1; 32]), 1, 1); 1000], more: false }.encode();
    let sends = (UNASKED_BYTES.burst as usize + MAX_EXCESS) / page.len() + 2;
    for _ in 0..sends {
        flooder.engine.send(peer, &page).unwrap();
    }
    flooder.wait_until_left(peer).await;
    let muted = [&member, &honest].iter().filter(|m| !m.engine.muted().is_empty()).count();
    assert_eq!(muted, 1);
    let model = Model::new(key(0), "org/model");
    honest.share(&model).await;
    member.knows(1).await;
}

#[tokio::test(start_paused = true)]
async fn flood_by_one_key_displaces_no_other_publisher() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    let honest = Model::new(key(1), "org/honest");
    member.learn(&honest);
    let mut spammer = world.stranger();
    let peer = spammer.greet(10_000).await;
    let all = records(key(0), 10_000);
    spammer.send(peer, &Message::Have { known: vec![claim(key(0).public(), 10_000, 10_000)], more: false });
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    spammer.answers(move |message| match message {
        Message::Want { after } if !after.is_empty() => {
            let from = after[0].1 as usize;
            let some = all[from.min(all.len())..].iter().take(120).cloned().collect::<Vec<_>>();
            counted.fetch_add(some.len(), Ordering::Relaxed);
            vec![Message::Wanted { more: !some.is_empty(), records: some }]
        }
        _ => Vec::new(),
    });
    within(Duration::from_secs(600), || sent.load(Ordering::Relaxed) >= 2_000).await;
    pass(Duration::from_secs(600)).await;
    assert!(member.store.len() <= 2_001, "{} records", member.store.len());
    assert_eq!(member.store.of_name(&honest.model_ref().name).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn peer_with_false_claims_is_dropped() {
    let world = World::new(Network::new());
    let (member, honest) = (world.member(&[]), world.member(&[]));
    let mut liar = world.stranger();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let mut peers = vec![liar.greet(u32::MAX).await, liar.greet(u32::MAX).await];
    for peer in &peers {
        for page in 0..10u8 {
            let fake =
                |n: usize| PublisherKey([n as u8, (n >> 8) as u8, page].repeat(11)[..32].try_into().unwrap());
            let known = (0..1000).map(|n| claim(fake(n), i64::MAX, u32::MAX)).collect();
            liar.send(*peer, &Message::Have { known, more: true });
        }
        let known = vec![claim(key(0).public(), i64::MAX, u32::MAX)];
        liar.send(*peer, &Message::Have { known, more: true });
    }
    honest.share(&Model::new(key(0), "org/model")).await;
    while !peers.is_empty() {
        match liar.next().await {
            OverlayEvent::Received(peer, bytes) => {
                if let Some(Message::Want { .. }) = Message::decode(&bytes).unwrap() {
                    counted.fetch_add(1, Ordering::Relaxed);
                    liar.send(peer, &Message::Wanted { records: Vec::new(), more: true });
                }
            }
            OverlayEvent::Left(peer) => peers.retain(|p| *p != peer),
            _ => {}
        }
    }
    assert!(asked.load(Ordering::Relaxed) < 100, "asked {asked:?} times");
    member.knows(1).await;
}

#[tokio::test(start_paused = true)]
async fn silent_peer_does_not_block_records_of_other_peers() {
    let world = World::new(Network::new());
    let all = records(key(0), 10);
    let mut silent = world.stranger();
    let member = world.member(&[]);
    let peer = silent.greet(10).await;
    silent.send(peer, &Message::Have { known: vec![claim(key(0).public(), 10, 10)], more: false });
    silent.receive_matching(|_, message| matches!(message, Message::Want { .. }).then_some(())).await;
    let honest = world.member(&[]);
    honest.store.insert(&all, EPOCH, &|_| false).unwrap();
    let begun = Instant::now();
    member.knows(10).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn false_answers_do_not_become_results() {
    let world = World::new(Network::new());
    let (asker, honest) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/llama");
    let other = Model::new(key(1), "org/other");
    let wrong = other.record.clone();
    world.stranger().answers(move |message| match message {
        Message::Question(id, PeerQuestion::Lookup(_)) => {
            vec![Message::Answer(id, PeerAnswer::Holds { records: vec![wrong.clone()], held: Vec::new() })]
        }
        Message::Question(id, PeerQuestion::Query(..)) => {
            let (records, complete) = (vec![wrong.clone()], vec![0]);
            vec![Message::Answer(
                id,
                PeerAnswer::Found { records, complete, cursor: Some(b"nonsense".to_vec()) },
            )]
        }
        Message::Question(_, PeerQuestion::Part(manifest, part)) => {
            vec![Message::Answer(0, PeerAnswer::Part { manifest, part, bytes: vec![0; MANIFEST_PART] })]
        }
        _ => Vec::new(),
    });
    within(PATIENCE, || asker.catalog.status().peers == 2).await;
    honest.hold(&model);
    honest.catalog.publish(model.record.clone(), true).await.unwrap();
    let found = asker.resolve(&model.model_ref(), 10).await;
    assert_eq!(found.iter().map(|c| c.publisher).collect::<Vec<_>>(), [key(0).public()]);
    assert_eq!(asker.discover("llama").await.len(), 1);
    let fetched = asker.catalog.manifest(&model.model_ref(), &found[0], Duration::from_secs(10)).await;
    assert_eq!(fetched.unwrap(), *model.manifest);
}

#[tokio::test(start_paused = true)]
async fn answers_to_a_greedy_peer_are_bounded() {
    let world = World::new(Network::new());
    let (member, mut greedy) = (world.member(&[]), world.stranger());
    for record in records(key(0), 100) {
        member.store.insert(&[record], EPOCH, &|_| false).unwrap();
    }
    let peer = greedy.greet(0).await;
    for id in 1..=1000 {
        let query = "".parse().unwrap();
        greedy.send(peer, &Message::Question(id, PeerQuestion::Query(query, None)));
    }
    pass(Duration::from_secs(10)).await;
    let answers = member.engine_messages();
    // The answers that the budget permits immediately, and the questions that wait.
    assert!((30..130).contains(&answers), "{answers} answers in ten seconds");
    for part in 0..1000 {
        greedy.send(peer, &Message::Question(0, PeerQuestion::Part(Sha256Digest([0; 32]), part)));
    }
    pass(Duration::from_secs(10)).await;
    let answers = member.engine_messages() - answers;
    assert!(answers < 400, "{answers} parts in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn dead_addresses_in_the_dht_do_not_spoil_a_search() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/model");
    holder.share(&model).await;
    for host in 1..=200 {
        let unreachable = std::net::SocketAddr::from(([192, 0, 2, host], 1));
        network.announce_falsely(topic_of(&model.model_ref().name), unreachable);
    }
    within(PATIENCE, || network.announcements().len() == 1).await;
    assert_eq!(asker.resolve(&model.model_ref(), 10).await.len(), 1);
    assert!(network.calls().len() < 60, "{} calls", network.calls().len());
}

#[tokio::test(start_paused = true)]
async fn partners_are_bounded_but_all_peers_are_answered() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let member = world.member(&[]);
    member.store.insert(&records(key(0), 1), EPOCH, &|_| false).unwrap();
    for _ in 0..MAX_PARTNERS + 5 {
        let stranger = world.stranger();
        stranger.engine.connect(stranger.swarm, member.engine.address()).unwrap();
        stranger.answers(|_| Vec::new());
    }
    within(PATIENCE, || member.catalog.status().peers == MAX_PARTNERS + 5).await;
    let sent = member.engine_messages();
    member.catalog.publish(Model::new(key(1), "org/new").record, true).await.unwrap();
    pass(Duration::from_secs(60)).await;
    let digests = member.engine_messages() - sent;
    assert!((MAX_PARTNERS..=MAX_PARTNERS + 10).contains(&digests), "sent {digests} digests");
    let mut late = world.stranger();
    late.engine.connect(late.swarm, member.engine.address()).unwrap();
    let peer = late.greet(0).await;
    late.send(peer, &Message::Want { after: Vec::new() });
    let known = late.receive_matching(|_, message| match message {
        Message::Have { known, .. } => Some(known.len()),
        _ => None,
    });
    assert_eq!(known.await, 2);
}

#[tokio::test(start_paused = true)]
async fn digest_that_restarts_repeatedly_is_ignored() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    let known = Model::new(key(0), "org/model");
    member.share(&known).await;
    let mut liar = world.stranger();
    let peer = liar.greet(1).await;
    let mut asked = 0;
    // Each page is in order, and has only known records.
    let of = known.record.record();
    let page = Message::Have { known: vec![claim(of.publisher, of.sequence, 1)], more: true };
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        liar.send(peer, &page);
        let soon = Instant::now() + Duration::from_millis(200);
        while let Ok((_, message)) = tokio::time::timeout_at(soon, liar.receive()).await {
            asked += u32::from(matches!(message, Message::Want { after } if after.is_empty()));
        }
    }
    assert!((1..=6).contains(&asked), "{asked} pages are asked for");
}

#[tokio::test(start_paused = true)]
async fn endless_digest_is_not_read_forever() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    let known = Model::new(key(0), "org/model");
    member.share(&known).await;
    let mut liar = world.stranger();
    let peer = liar.greet(1).await;
    let of = known.record.record();
    let page = Message::Have { known: vec![claim(of.publisher, of.sequence, 1)], more: true };
    let mut asked = 0;
    liar.send(peer, &page);
    let until = Instant::now() + Duration::from_secs(20);
    while let Ok((peer, message)) = tokio::time::timeout_at(until, liar.receive()).await {
        if matches!(message, Message::Want { after } if after.is_empty()) {
            asked += 1;
            liar.send(peer, &page);
        }
        assert!(asked < 20, "too many pages are requested");
    }
    assert!(asked > 0, "the digest was never requested");
}
