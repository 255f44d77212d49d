//! Searches for a model by its name.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use silmaril::catalog::message::{HeldManifest, Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::service::{GRACE, LAN_SOON, LAN_WITHIN, MISS, WAVE, topic_of};
use silmaril::catalog::{
    CatalogError, CatalogSettings, News, Record, RecordBody, SearchPatience, SignedRecord,
};
use silmaril::model::ModelRef;
use silmaril::torrent::GivenPeers;
use tokio::time::Instant;

use super::rig::{EPOCH, Member, Model, PATIENCE, World, key, within};
use crate::support::clock::pass;
use crate::support::overlay::Network;

const LONG: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn stored_records_are_returned_without_peers() {
    let world = World::new(Network::without_lan());
    let member = world.member(&[]);
    pass(LAN_WITHIN).await;
    let model = Model::new(key(0), "org/known");
    member.learn(&model);
    let begun = Instant::now();
    let found = member.catalog.resolve(&model.model_ref(), LONG, SearchPatience::All).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].publisher, key(0).public());
    assert!(begun.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn revisions_are_distinguished() {
    let world = World::new(Network::without_lan());
    let member = world.member_with(CatalogSettings { dht: false, peers: GivenPeers::default() });
    member.share(&Model::new(key(0), "org/model@v1")).await;
    assert!(member.resolve(&"org/model".parse().unwrap(), 10).await.is_empty());
    assert_eq!(member.resolve(&"org/model@v1".parse().unwrap(), 10).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn peers_are_asked_for_unknown_records() {
    let world = World::new(Network::new());
    let (asker, other) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let model = Model::new(key(0), "org/quiet");
    other.learn(&model);
    let begun = Instant::now();
    let found = asker.catalog.resolve(&model.model_ref(), LONG, SearchPatience::All).await.unwrap();
    assert_eq!(found[0].record.as_ref().unwrap(), &model.record);
    assert!(begun.elapsed() < GRACE);
    // The catalog learns from the answer.
    asker.knows(1).await;
}

#[tokio::test(start_paused = true)]
async fn manifest_without_record_is_a_candidate() {
    let world = World::new(Network::new());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/unannounced");
    holder.hold(&model);
    let found = asker.resolve(&model.model_ref(), 10).await;
    assert_eq!((found.len(), found[0].manifest), (1, model.candidate().manifest));
    assert!(found[0].record.is_none());
}

#[tokio::test(start_paused = true)]
async fn announcer_in_the_dht_is_called_and_asked() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/far");
    holder.share(&model).await;
    within(PATIENCE, || network.announcements().iter().any(|(_, t)| *t == topic_of(&model.model_ref().name)))
        .await;
    let found = asker.resolve(&model.model_ref(), 10).await;
    assert_eq!(found[0].manifest, model.candidate().manifest);
    assert_eq!(asker.engine.connected(), [holder.engine.address()]);
}

#[tokio::test(start_paused = true)]
async fn dht_is_asked_again_until_a_host_announces() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/soon");
    let name = model.model_ref();
    let search = tokio::spawn({
        let catalog = Arc::clone(&asker.catalog);
        async move { catalog.resolve(&name, LONG, SearchPatience::All).await }
    });
    pass(Duration::from_secs(1)).await;
    holder.share(&model).await;
    assert_eq!(search.await.unwrap().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn false_records_of_a_name_do_not_hide_its_owner() {
    let world = World::new(Network::new());
    let members = world.members(5);
    members[0].share(&Model::new(key(0), "meta/llama")).await;
    within(PATIENCE, || members.iter().all(|m| m.store.len() == 1)).await;
    members[1].share(&Model::new(key(1), "meta/llama")).await;
    within(PATIENCE, || members.iter().all(|m| m.store.len() == 2)).await;
    let newcomer = world.member(&[]);
    let found = newcomer.resolve(&"meta/llama".parse().unwrap(), 10).await;
    let publishers: BTreeSet<_> = found.iter().map(|candidate| candidate.publisher).collect();
    assert_eq!(publishers, BTreeSet::from([key(0).public(), key(1).public()]));
}

#[tokio::test(start_paused = true)]
async fn former_key_comes_with_its_succession() {
    let world = World::new(Network::new());
    let (asker, other) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let (former, present) = (Model::new(key(0), "org/model"), Model::new(key(2), "org/model"));
    other.learn(&present);
    let step = |from: usize, to: usize| {
        let body = RecordBody::Successor(key(to).public());
        let record = Record { publisher: key(from).public(), sequence: i64::MAX, time: EPOCH, body };
        Arc::new(SignedRecord::sign(record, key(from)).unwrap())
    };
    // The answering peer holds a manifest of the former key, and has no record of it.
    other.hold(&former);
    other.store.insert(&[step(0, 1), step(1, 2)], EPOCH, &|_| false).unwrap();
    let found = asker.catalog.resolve(&former.model_ref(), LONG, SearchPatience::All).await.unwrap();
    assert_eq!(found.len(), 2);
    // The choice among candidates reads the store immediately.
    for (from, to) in [(0, 1), (1, 2)] {
        let known = asker.store.successor(&key(from).public()).expect("the succession is known");
        assert_eq!(known.record().body, RecordBody::Successor(key(to).public()));
    }
}

#[tokio::test(start_paused = true)]
async fn old_record_does_not_hide_a_newer_one_of_a_peer() {
    for dht in [false, true] {
        let world = World::new(Network::without_lan());
        let asker = world.member_with(CatalogSettings { dht, peers: GivenPeers::default() });
        let other = world.member_with(CatalogSettings { dht, peers: GivenPeers::default() });
        let old = Model::signed(key(0), "org/moving", 1, EPOCH);
        let new = Model::signed(key(0), "org/moving", 2, EPOCH);
        asker.learn(&old);
        other.learn(&new);
        let (catalog, name) = (Arc::clone(&asker.catalog), new.model_ref());
        let search = tokio::spawn(async move { catalog.resolve(&name, LONG, SearchPatience::All).await });
        pass(Duration::from_secs(2)).await;
        asker.catalog.introduce(&[other.engine.address()]);
        let found = search.await.unwrap().unwrap();
        assert_eq!((found.len(), found[0].manifest), (1, new.candidate().manifest));
    }
}

#[tokio::test(start_paused = true)]
async fn replaced_ends_when_a_newer_record_arrives() {
    let world = World::new(Network::without_lan());
    let member = world.member(&[]);
    let old = Model::signed(key(0), "org/moving", 1, EPOCH);
    member.share(&old).await;
    let (catalog, name, candidate) = (Arc::clone(&member.catalog), old.model_ref(), old.candidate());
    let replaced = tokio::spawn(async move { catalog.replaced(&name, &candidate).await });
    member.share(&Model::signed(key(1), "org/moving", 2, EPOCH)).await;
    pass(MISS * 2).await;
    assert!(!replaced.is_finished());
    member.share(&Model::signed(key(0), "org/moving", 2, EPOCH)).await;
    tokio::time::timeout(PATIENCE, replaced).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn newest_record_of_a_publisher_counts() {
    let world = World::new(Network::new());
    let (asker, other) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let old = Model::signed(key(0), "org/moving", 1, EPOCH);
    let new = Model::signed(key(0), "org/moving", 2, EPOCH);
    asker.learn(&old);
    other.learn(&new);
    let found = asker.resolve(&new.model_ref(), 10).await;
    assert_eq!((found.len(), found[0].manifest), (1, new.candidate().manifest));
}

#[tokio::test(start_paused = true)]
async fn miss_without_peers_waits_for_lan_discovery() {
    let world = World::new(Network::without_lan());
    let alone = world.member_with(CatalogSettings { dht: false, peers: GivenPeers::default() });
    let (name, begun) = ("org/nowhere".parse().unwrap(), Instant::now());
    let answer = alone.catalog.resolve(&name, Duration::from_secs(60), SearchPatience::All).await;
    assert!(matches!(answer, Err(CatalogError::NotFound(_))));
    let took = begun.elapsed();
    assert!(took >= LAN_WITHIN && took < LAN_WITHIN + Duration::from_secs(1), "it took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn search_ends_in_time_without_answers() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    // Waves of three seconds to so many peers take longer than the search.
    for _ in 0..WAVE * 5 {
        world.stranger().answers(|_| Vec::new());
    }
    within(PATIENCE, || member.catalog.status().peers == WAVE * 5).await;
    let begun = Instant::now();
    assert!(member.resolve(&"org/nowhere".parse().unwrap(), 10).await.is_empty());
    assert!(begun.elapsed() >= LONG && begun.elapsed() < LONG + Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn unknown_name_is_reported_soon() {
    let network = Network::new();
    let world = World::new(network.clone());
    let settings = || CatalogSettings { dht: false, peers: GivenPeers::default() };
    let members: Vec<_> = (0..4).map(|_| world.member_with(settings())).collect();
    within(PATIENCE, || members[0].catalog.status().peers == 3).await;
    let unknown = |n: u32| format!("org/unknown{n}").parse::<ModelRef>().unwrap();
    let takes = async |member: &Member, n| {
        let begun = Instant::now();
        assert!(matches!(
            member.catalog.resolve(&unknown(n), LONG, SearchPatience::All).await,
            Err(CatalogError::NotFound(_))
        ));
        begun.elapsed()
    };
    // Shortly after the start, peers may still be met.
    assert!(takes(&members[0], 0).await <= LAN_WITHIN);
    assert!(takes(&members[0], 1).await < Duration::from_millis(500));
    network.turn_on_dht();
    let with_dht = world.member(&[]);
    within(PATIENCE, || with_dht.catalog.status().peers == 4).await;
    pass(LAN_WITHIN * 2).await;
    let took = takes(&with_dht, 2).await;
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(6), "it took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn silent_peer_delays_a_result_only_by_the_grace() {
    let world = World::new(Network::new());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    world.stranger().answers(|_| Vec::new());
    let model = Model::new(key(0), "org/model");
    holder.hold(&model);
    within(PATIENCE, || asker.catalog.status().peers == 2).await;
    let begun = Instant::now();
    assert_eq!(asker.resolve(&model.model_ref(), 60).await.len(), 1);
    assert!(begun.elapsed() < GRACE + Duration::from_millis(300), "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn searches_for_one_model_are_shared() {
    let world = World::new(Network::new());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let model = Model::new(key(0), "org/wanted");
    holder.hold(&model);
    let sent = asker.engine_messages();
    let searches: Vec<_> = (0..50)
        .map(|_| {
            let (catalog, name) = (Arc::clone(&asker.catalog), model.model_ref());
            tokio::spawn(async move { catalog.resolve(&name, LONG, SearchPatience::All).await })
        })
        .collect();
    for search in searches {
        assert_eq!(search.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(asker.engine_messages() - sent, 1);
}

#[tokio::test(start_paused = true)]
async fn longer_search_continues_after_a_shorter_one() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/late");
    holder.hold(&model);
    let search = |seconds| {
        let (catalog, name) = (Arc::clone(&asker.catalog), model.model_ref());
        tokio::spawn(async move {
            catalog.resolve(&name, Duration::from_secs(seconds), SearchPatience::All).await
        })
    };
    let (short, long) = (search(2), search(20));
    assert!(short.await.unwrap().is_err());
    asker.catalog.introduce(&[holder.engine.address()]);
    assert_eq!(long.await.unwrap().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn miss_is_remembered_until_it_is_old_or_news_arrives() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let (asker, other) = (world.member(&[]), world.stranger());
    asker.catalog.introduce(&[other.engine.address()]);
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    other.answers(move |message| match message {
        Message::Question(id, PeerQuestion::Lookup(_)) => {
            counted.fetch_add(1, Ordering::Relaxed);
            vec![Message::Answer(id, PeerAnswer::Holds { records: Vec::new(), held: Vec::new() })]
        }
        _ => Vec::new(),
    });
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let name: ModelRef = "org/missing".parse().unwrap();
    // Counts the questions to the peer after another unsuccessful search.
    let asks = async |time: Duration| {
        assert!(asker.catalog.resolve(&name, time, SearchPatience::All).await.is_err());
        asked.load(Ordering::Relaxed)
    };
    assert_eq!(asks(LONG).await, 1);
    assert_eq!(asks(LONG).await, 1);
    // A longer search may find the name.
    assert_eq!(asks(LONG * 2).await, 2);
    pass(MISS).await;
    assert_eq!(asks(LONG).await, 3);
    // A new peer has connected.
    let third = world.member(&[asker.engine.address()]);
    within(PATIENCE, || asker.catalog.status().peers == 2).await;
    assert_eq!(asks(LONG).await, 4);
    assert_eq!(asks(LONG).await, 4);
    // A record of the name has arrived.
    third.share(&Model::new(key(0), "org/missing")).await;
    asker.knows(1).await;
    assert_eq!(asker.resolve(&name, 10).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn record_of_a_publisher_is_found_in_the_dht() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, publisher) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/model");
    publisher.share(&model).await;
    within(PATIENCE, || !network.puts().is_empty()).await;
    publisher.vanish();
    let found = asker.catalog.resolve_of(key(0).public(), &model.model_ref(), LONG).await.unwrap();
    assert_eq!(found.record.unwrap(), model.record);
    asker.knows(1).await;
    let other = asker.catalog.resolve_of(key(1).public(), &model.model_ref(), LONG).await;
    assert!(matches!(other, Err(CatalogError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn successor_is_found_in_the_dht() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, publisher) = (world.member(&[]), world.member(&[]));
    let record = Record {
        publisher: key(0).public(),
        sequence: 1,
        time: EPOCH,
        body: RecordBody::Successor(key(1).public()),
    };
    let record = Arc::new(SignedRecord::sign(record, key(0)).unwrap());
    publisher.catalog.publish(record, true).await.unwrap();
    within(PATIENCE, || !network.puts().is_empty()).await;
    publisher.vanish();
    assert_eq!(asker.catalog.successor(key(0).public(), LONG).await, Some(key(1).public()));
    assert_eq!(asker.catalog.successor(key(1).public(), LONG).await, None);
}

#[tokio::test(start_paused = true)]
async fn succession_is_learned_from_a_later_peer() {
    let world = World::new(Network::new());
    let asker = world.member(&[]);
    let succeeded = || tokio::time::timeout(LONG, asker.catalog.succeeded(key(0).public()));
    assert!(succeeded().await.is_err(), "no succession is known yet");
    let other = async {
        let other = world.member(&[]);
        let (publisher, body) = (key(0).public(), RecordBody::Successor(key(1).public()));
        let record = Record { publisher, sequence: i64::MAX, time: EPOCH, body };
        other.catalog.publish(Arc::new(SignedRecord::sign(record, key(0)).unwrap()), true).await.unwrap();
        other
    };
    let (noticed, _other) = tokio::join!(succeeded(), other);
    noticed.expect("the succession is not noticed");
}

#[tokio::test(start_paused = true)]
async fn newer_record_of_a_peer_beats_the_dht() {
    let network = Network::new();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, other) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let old = Model::signed(key(0), "org/moving", 1, EPOCH);
    let new = Model::signed(key(0), "org/moving", 2, EPOCH);
    network.put(old.record.to_item());
    other.learn(&new);
    let found = asker.catalog.resolve_of(key(0).public(), &new.model_ref(), LONG).await.unwrap();
    assert_eq!(found.record.unwrap(), new.record);
}

#[tokio::test(start_paused = true)]
async fn claims_of_one_peer_are_bounded() {
    let world = World::new(Network::new());
    let member = world.member(&[]);
    let model = Model::new(key(0), "org/model");
    let held = model.held();
    world.stranger().answers(move |message| match message {
        Message::Question(id, PeerQuestion::Lookup(_)) => {
            let claim = |n: u8| HeldManifest {
                publisher: silmaril::model::PublisherKey([n; 32]),
                manifest: held.digest,
                len: 100,
                info_hash: held.info_hash,
                complete: true,
            };
            vec![Message::Answer(
                id,
                PeerAnswer::Holds { records: Vec::new(), held: (0..100).map(claim).collect() },
            )]
        }
        _ => Vec::new(),
    });
    within(PATIENCE, || member.catalog.status().peers == 1).await;
    assert_eq!(member.resolve(&model.model_ref(), 10).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_all_waits() {
    let world = World::new(Network::without_lan());
    let member = world.member(&[]);
    let model = Model::new(key(0), "org/model");
    let (catalog, name) = (Arc::clone(&member.catalog), model.model_ref());
    let search = tokio::spawn(async move { catalog.resolve(&name, LONG, SearchPatience::All).await });
    pass(Duration::from_secs(1)).await;
    member.catalog.stop();
    let found = search.await.unwrap();
    assert!(matches!(found, Err(CatalogError::Stopped)), "{found:?}");
    assert!(member.engine.meetings().is_empty());
    assert!(matches!(member.catalog.publish(model.record.clone(), true).await, Err(CatalogError::Stopped)));
}

/// The news of a member's catalog from now on.
fn news_of(member: &Member) -> Arc<Mutex<Vec<String>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heard);
    member.catalog.report_news(move |news| {
        noted.lock().unwrap().push(match news {
            News::Name(name) => name.to_string(),
            News::Peer => "a peer".to_owned(),
            News::Holder => "a holder".to_owned(),
        });
    });
    heard
}

#[tokio::test(start_paused = true)]
async fn peers_end_a_lookup_and_the_dht_ends_its_miss() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, other, far) = (world.member(&[]), world.member(&[]), world.member(&[]));
    asker.catalog.introduce(&[other.engine.address()]);
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    pass(LAN_WITHIN).await;
    let news = news_of(&asker);
    let model = Model::new(key(0), "org/far");
    let begun = Instant::now();
    let found = asker.catalog.resolve(&model.model_ref(), LONG, SearchPatience::Peers).await;
    assert!(matches!(found, Err(CatalogError::NotFound(_))));
    assert!(begun.elapsed() < Duration::from_secs(1), "it took {:?}", begun.elapsed());
    far.share(&model).await;
    within(LONG, || news.lock().unwrap().contains(&"org/far".to_owned())).await;
    let found = asker.catalog.resolve(&model.model_ref(), LONG, SearchPatience::Peers).await.unwrap();
    assert_eq!(found[0].manifest, model.candidate().manifest);
}

#[tokio::test(start_paused = true)]
async fn answers_end_a_lookup_a_second_after_the_start() {
    let world = World::new(Network::new());
    let settings = || CatalogSettings { dht: false, peers: GivenPeers::default() };
    let _other = world.member_with(settings());
    pass(LAN_WITHIN).await;
    let (begun, asker) = (Instant::now(), world.member_with(settings()));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    for name in ["org/one", "org/two"] {
        let found = asker.catalog.resolve(&name.parse().unwrap(), LONG, SearchPatience::Peers).await;
        assert!(matches!(found, Err(CatalogError::NotFound(_))));
        let took = begun.elapsed();
        assert!(took >= LAN_SOON && took < LAN_SOON * 2, "{name} took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn patient_caller_waits_for_the_dht() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, other, far) = (world.member(&[]), world.member(&[]), world.member(&[]));
    asker.catalog.introduce(&[other.engine.address()]);
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    pass(LAN_WITHIN).await;
    let model = Model::new(key(0), "org/far");
    let (catalog, name) = (Arc::clone(&asker.catalog), model.model_ref());
    let search = tokio::spawn(async move { catalog.resolve(&name, LONG, SearchPatience::All).await });
    pass(Duration::from_secs(1)).await;
    far.share(&model).await;
    assert_eq!(search.await.unwrap().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_peers_the_dht_is_awaited_for_a_limited_time() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network);
    let alone = world.member(&[]);
    pass(LAN_WITHIN * 4).await;
    for (n, patience) in [SearchPatience::Peers, SearchPatience::All].into_iter().enumerate() {
        let (name, begun) = (format!("org/nowhere{n}").parse().unwrap(), Instant::now());
        assert!(alone.catalog.resolve(&name, LONG * 6, patience).await.is_err());
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(8) && took < Duration::from_secs(12), "it took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_peer_delays_only_the_first_lookup() {
    let world = World::new(Network::new());
    let settings = || CatalogSettings { dht: false, peers: GivenPeers::default() };
    let (asker, _other) = (world.member_with(settings()), world.member_with(settings()));
    world.stranger().answers(|_| Vec::new());
    within(PATIENCE, || asker.catalog.status().peers == 2).await;
    pass(LAN_WITHIN).await;
    let takes = async |name: &str| {
        let begun = Instant::now();
        assert!(asker.catalog.resolve(&name.parse().unwrap(), LONG, SearchPatience::Peers).await.is_err());
        begun.elapsed()
    };
    assert!(takes("org/one").await > Duration::from_secs(2));
    for name in ["org/two", "org/three"] {
        let took = takes(name).await;
        assert!(took < Duration::from_secs(1), "{name} took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_and_first_peers_are_news() {
    let world = World::new(Network::without_lan());
    let asker = world.member(&[]);
    let news = news_of(&asker);
    let peers: Vec<_> = (0..6).map(|_| world.member(&[])).collect();
    for (n, peer) in peers.iter().enumerate() {
        asker.catalog.introduce(&[peer.engine.address()]);
        within(PATIENCE, || asker.catalog.status().peers == n + 1).await;
    }
    let expected = [["a peer"; 4].as_slice(), &["a holder"; 2]].concat();
    assert_eq!(*news.lock().unwrap(), expected, "six peers know as much as four");
    news.lock().unwrap().clear();
    peers[0].share(&Model::new(key(0), "org/model")).await;
    asker.knows(1).await;
    assert_eq!(*news.lock().unwrap(), ["org/model"]);
}
