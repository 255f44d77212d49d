//! Peers that lie, flood, or say nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use silmaril::catalog::gossip::MAX_PARTNERS;
use silmaril::catalog::gossip::answers::WANT_ID;
use silmaril::catalog::gossip::budget::{MAX_EXCESS, UNASKED_BYTES};
use silmaril::catalog::message::{Have, MANIFEST_PART, Message};
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
    Message::Records { query: None, records, complete: Vec::new(), cursor: None }
}

fn claim(publisher: PublisherKey, sequence: i64, count: u32) -> Have {
    Have { publisher, sequence, count }
}

#[tokio::test(start_paused = true)]
async fn who_sends_garbage_or_forged_records_is_banned() {
    let good = push(vec![Model::new(key(0), "org/model").record]).encode();
    let at = good.windows(8).position(|bytes| bytes == b"3:sig64:").unwrap() + 20;
    let forged = [&good[..at], &[good[at] ^ 1], &good[at + 1..]].concat();
    for lie in [b"garbage".to_vec(), Vec::new(), b"d1:t6:lookupe".to_vec(), forged] {
        let world = World::new(Network::new());
        let (member, mut liar) = (world.member(&[]), world.stranger());
        let peer = liar.greets(0).await;
        liar.engine.send(peer, &lie).unwrap();
        liar.is_left(peer).await;
        assert!(member.engine.banned().contains(&liar.engine.address().ip()), "after {lie:?}");
        assert_eq!(member.store.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_begin_with_a_hello_is_hung_up_on() {
    let world = World::new(Network::new());
    let (member, mut rude) = (world.member(&[]), world.stranger());
    let (peer, _) = rude.hears().await;
    rude.says(peer, &push(records(key(0), 1)));
    rude.is_left(peer).await;
    assert_eq!(member.store.len(), 0);
    let mut silent = world.stranger();
    let (peer, _) = silent.hears().await;
    let begun = Instant::now();
    silent.is_left(peer).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(!member.engine.banned().contains(&silent.engine.address().ip()));
}

#[tokio::test(start_paused = true)]
async fn records_of_the_future_the_past_and_replayed_ones_do_not_count() {
    let world = World::new(Network::new());
    let (member, mut liar) = (world.member(&[]), world.stranger());
    let newest = Model::signed(key(0), "org/moving", 5, EPOCH);
    member.learns(&newest);
    let peer = liar.greets(0).await;
    let signed = |name, sequence, time| Model::signed(key(0), name, sequence, time).record;
    liar.says(
        peer,
        &push(vec![
            signed("org/future", 6, EPOCH + MAX_AHEAD + 100),
            signed("org/past", 7, EPOCH - EXPIRY - 100),
            signed("org/moving", 4, EPOCH),
        ]),
    );
    let honest = signed("org/honest", 8, EPOCH);
    liar.says(peer, &push(vec![honest.clone()]));
    member.knows(2).await;
    let moving = member.store.of_name(&newest.model_ref().name);
    assert_eq!(moving, std::slice::from_ref(&newest.record));
    assert!(member.engine.banned().is_empty(), "a clock may be wrong");
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_dropped_unread_and_its_sender_banned_while_others_are_served() {
    let world = World::new(Network::new());
    let (member, honest) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || member.catalog.status().peers == 1).await;
    let mut flooder = world.stranger();
    let peer = flooder.greets(0).await;
    // The second to greet is the other member.
    flooder.greets(0).await;
    let page = Message::Have { known: vec![claim(PublisherKey([1; 32]), 1, 1); 1000], more: false }.encode();
    let sends = (UNASKED_BYTES.burst as usize + MAX_EXCESS) / page.len() + 2;
    for _ in 0..sends {
        flooder.engine.send(peer, &page).unwrap();
    }
    flooder.is_left(peer).await;
    let banned = [&member, &honest].iter().filter(|m| !m.engine.banned().is_empty()).count();
    assert_eq!(banned, 1);
    let model = Model::new(key(0), "org/model");
    honest.share(&model).await;
    member.knows(1).await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_records_by_one_key_push_nobody_else_out() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    let honest = Model::new(key(1), "org/honest");
    member.learns(&honest);
    let mut spammer = world.stranger();
    let peer = spammer.greets(10_000).await;
    let all = records(key(0), 10_000);
    spammer.says(peer, &Message::Have { known: vec![claim(key(0).public(), 10_000, 10_000)], more: false });
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    spammer.answers(move |message| match message {
        Message::Want { after } if !after.is_empty() => {
            let from = after[0].1 as usize;
            let some = all[from.min(all.len())..].iter().take(120).cloned().collect::<Vec<_>>();
            counted.fetch_add(some.len(), Ordering::Relaxed);
            let cursor = (!some.is_empty()).then(|| vec![1]);
            vec![Message::Records { query: Some(WANT_ID), records: some, complete: Vec::new(), cursor }]
        }
        _ => Vec::new(),
    });
    within(Duration::from_secs(600), || sent.load(Ordering::Relaxed) >= 2_000).await;
    pass(Duration::from_secs(600)).await;
    assert!(member.store.len() <= 2_001, "{} records", member.store.len());
    assert_eq!(member.store.of_name(&honest.model_ref().name).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_claims_huge_counts_and_has_nothing_is_left_while_others_are_heard() {
    let world = World::new(Network::new());
    let (member, honest) = (world.member(&[]), world.member(&[]));
    let mut liar = world.stranger();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let mut peers = vec![liar.greets(u32::MAX).await, liar.greets(u32::MAX).await];
    for peer in &peers {
        for page in 0..10u8 {
            let fake =
                |n: usize| PublisherKey([n as u8, (n >> 8) as u8, page].repeat(11)[..32].try_into().unwrap());
            let known = (0..1000).map(|n| claim(fake(n), i64::MAX, u32::MAX)).collect();
            liar.says(*peer, &Message::Have { known, more: true });
        }
        let known = vec![claim(key(0).public(), i64::MAX, u32::MAX)];
        liar.says(*peer, &Message::Have { known, more: true });
    }
    honest.share(&Model::new(key(0), "org/model")).await;
    while !peers.is_empty() {
        match liar.next().await {
            OverlayEvent::Said(peer, bytes) => {
                if let Some(Message::Want { .. }) = Message::decode(&bytes).unwrap() {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let (records, complete) = (Vec::new(), Vec::new());
                    let nothing =
                        Message::Records { query: Some(WANT_ID), records, complete, cursor: Some(vec![1]) };
                    liar.says(peer, &nothing);
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
async fn who_answers_no_request_does_not_keep_records_from_us() {
    let world = World::new(Network::new());
    let all = records(key(0), 10);
    let mut silent = world.stranger();
    let member = world.member(&[]);
    let peer = silent.greets(10).await;
    silent.says(peer, &Message::Have { known: vec![claim(key(0).public(), 10, 10)], more: false });
    silent.hears_of(|_, message| matches!(message, Message::Want { .. }).then_some(())).await;
    let honest = world.member(&[]);
    honest.store.insert(&all, EPOCH, &|_| false).unwrap();
    let begun = Instant::now();
    member.knows(10).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn answers_with_garbage_do_not_become_results() {
    let world = World::new(Network::new());
    let (asker, honest) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/llama");
    let other = Model::new(key(1), "org/other");
    let wrong = other.record.clone();
    world.stranger().answers(move |message| match message {
        Message::Lookup { id, .. } => {
            vec![Message::Holds { id, records: vec![wrong.clone()], held: Vec::new() }]
        }
        Message::Query { id, .. } => {
            let (records, complete) = (vec![wrong.clone()], vec![0]);
            vec![Message::Records { query: Some(id), records, complete, cursor: Some(b"nonsense".to_vec()) }]
        }
        Message::GetManifest { manifest, part } => {
            vec![Message::Manifest { manifest, part, bytes: vec![0; MANIFEST_PART] }]
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
async fn whoever_asks_too_much_gets_a_bounded_number_of_answers() {
    let world = World::new(Network::new());
    let (member, mut greedy) = (world.member(&[]), world.stranger());
    for record in records(key(0), 100) {
        member.store.insert(&[record], EPOCH, &|_| false).unwrap();
    }
    let peer = greedy.greets(0).await;
    for id in 1..=1000 {
        let query = "".parse().unwrap();
        greedy.says(peer, &Message::Query { id, query, cursor: None });
    }
    pass(Duration::from_secs(10)).await;
    let answers = member.engine_messages();
    // What may be answered at once, and what waits.
    assert!((30..130).contains(&answers), "{answers} answers in ten seconds");
    for part in 0..1000 {
        greedy.says(peer, &Message::GetManifest { manifest: Sha256Digest([0; 32]), part });
    }
    pass(Duration::from_secs(10)).await;
    let answers = member.engine_messages() - answers;
    assert!(answers < 400, "{answers} parts in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn addresses_that_never_answer_do_not_spoil_a_search_in_the_dht() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/model");
    holder.share(&model).await;
    for host in 1..=200 {
        let nobody = std::net::SocketAddr::from(([192, 0, 2, host], 1));
        network.announce_falsely(topic_of(&model.model_ref().name), nobody);
    }
    within(PATIENCE, || network.announcements().len() == 1).await;
    assert_eq!(asker.resolve(&model.model_ref(), 10).await.len(), 1);
    assert!(network.calls().len() < 60, "{} calls", network.calls().len());
}

#[tokio::test(start_paused = true)]
async fn no_more_partners_than_there_are_places_but_all_are_answered() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let member = world.member(&[]);
    member.store.insert(&records(key(0), 1), EPOCH, &|_| false).unwrap();
    for _ in 0..MAX_PARTNERS + 5 {
        let stranger = world.stranger();
        stranger.engine.call(stranger.swarm, member.engine.address()).unwrap();
        stranger.answers(|_| Vec::new());
    }
    within(PATIENCE, || member.catalog.status().peers == MAX_PARTNERS + 5).await;
    let sent = member.engine_messages();
    member.catalog.publish(Model::new(key(1), "org/new").record, true).await.unwrap();
    pass(Duration::from_secs(60)).await;
    let told = member.engine_messages() - sent;
    assert!((MAX_PARTNERS..=MAX_PARTNERS + 10).contains(&told), "told {told} times");
    let mut late = world.stranger();
    late.engine.call(late.swarm, member.engine.address()).unwrap();
    let peer = late.greets(0).await;
    late.says(peer, &Message::Want { after: Vec::new() });
    let known = late.hears_of(|_, message| match message {
        Message::Have { known, .. } => Some(known.len()),
        _ => None,
    });
    assert_eq!(known.await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_digest_that_begins_anew_whenever_it_is_not_read_on_is_left_alone() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    let known = Model::new(key(0), "org/model");
    member.share(&known).await;
    let mut liar = world.stranger();
    let peer = liar.greets(1).await;
    let mut asked = 0;
    // Each page is in order, and says what is known already.
    let of = known.record.record();
    let page = Message::Have { known: vec![claim(of.publisher, of.sequence, 1)], more: true };
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        liar.says(peer, &page);
        let soon = Instant::now() + Duration::from_millis(200);
        while let Ok((_, message)) = tokio::time::timeout_at(soon, liar.hears()).await {
            asked += u32::from(matches!(message, Message::Want { after } if after.is_empty()));
        }
    }
    assert!((1..=6).contains(&asked), "{asked} pages are asked for");
}

#[tokio::test(start_paused = true)]
async fn a_digest_without_end_is_not_read_for_ever() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    let known = Model::new(key(0), "org/model");
    member.share(&known).await;
    let mut liar = world.stranger();
    let peer = liar.greets(1).await;
    let of = known.record.record();
    let page = Message::Have { known: vec![claim(of.publisher, of.sequence, 1)], more: true };
    let mut asked = 0;
    liar.says(peer, &page);
    let until = Instant::now() + Duration::from_secs(20);
    while let Ok((peer, message)) = tokio::time::timeout_at(until, liar.hears()).await {
        if matches!(message, Message::Want { after } if after.is_empty()) {
            asked += 1;
            liar.says(peer, &page);
        }
        assert!(asked < 20, "page after page is asked for");
    }
    assert!(asked > 0, "the digest is not even begun");
}
