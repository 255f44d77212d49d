//! Records spread from one node to all.

use std::time::Duration;

use silmaril::catalog::CatalogSettings;
use silmaril::catalog::gossip::SPREAD_EVERY;
use silmaril::model::InfoHash;
use silmaril::torrent::{GivenPeers, Meeting, Overlay};
use tokio::time::Instant;

use super::rig::{EPOCH, Model, PATIENCE, World, key, records, within};
use crate::support::clock::pass;
use crate::support::overlay::Network;

#[tokio::test(start_paused = true)]
async fn new_node_receives_all_records() {
    let world = World::new(Network::new());
    let old = world.member(&[]);
    for owner in 0..3 {
        for record in records(key(owner), 150) {
            old.store.insert(&[record], EPOCH, &|_| false).unwrap();
        }
    }
    let begun = Instant::now();
    let new = world.member(&[]);
    new.knows(450).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    assert_eq!(old.catalog.status().peers, 1);
}

#[tokio::test(start_paused = true)]
async fn new_record_is_pushed_before_any_digest() {
    let world = World::new(Network::new());
    let members = world.members(12);
    within(PATIENCE, || members.iter().all(|m| m.catalog.status().peers == 11)).await;
    let begun = Instant::now();
    members[3].share(&Model::new(key(0), "org/new")).await;
    within(PATIENCE, || members.iter().filter(|m| m.store.len() == 1).count() >= 10).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    within(SPREAD_EVERY * 2, || members.iter().all(|m| m.store.len() == 1)).await;
}

#[tokio::test(start_paused = true)]
async fn lost_messages_are_repaired() {
    let network = Network::new();
    let world = World::new(network.clone());
    let members = world.members(6);
    within(PATIENCE, || members.iter().all(|m| m.catalog.status().peers == 5)).await;
    network.lose_one_in(3);
    for (n, member) in members.iter().enumerate() {
        member.share(&Model::new(key(n), "org/new")).await;
    }
    within(Duration::from_secs(3600), || members.iter().all(|m| m.store.len() == 6)).await;
}

#[tokio::test(start_paused = true)]
async fn record_outlives_its_publisher() {
    let world = World::new(Network::new());
    let (publisher, keeper) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/gone");
    publisher.share(&model).await;
    keeper.knows(1).await;
    publisher.vanish();
    let newcomer = world.member(&[]);
    newcomer.knows(1).await;
    let found = newcomer.resolve(&model.model_ref(), 10).await;
    assert_eq!(found[0].manifest, model.candidate().manifest);
}

#[tokio::test(start_paused = true)]
async fn one_connection_joins_two_networks() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let hub = world.member(&[]);
    let around: Vec<_> = (0..3).map(|_| world.member(&[hub.engine.address()])).collect();
    let other = world.member(&[]);
    let joined = world.member(&[other.engine.address()]);
    around[0].share(&Model::new(key(0), "org/here")).await;
    joined.share(&Model::new(key(1), "org/there")).await;
    within(PATIENCE, || around.iter().all(|m| m.store.len() == 1) && other.store.len() == 1).await;
    hub.catalog.introduce(&[other.engine.address()]);
    within(SPREAD_EVERY * 4, || around.iter().chain([&joined]).all(|m| m.store.len() == 2)).await;
}

#[tokio::test(start_paused = true)]
async fn lonely_node_calls_given_peers_again() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let other = world.member(&[]);
    let address = other.engine.address();
    let lonely = world.member_with(CatalogSettings { dht: false, peers: GivenPeers::of([address]) });
    within(PATIENCE, || lonely.catalog.status().peers == 1).await;
    other.vanish();
    within(PATIENCE, || lonely.catalog.status().peers == 0).await;
    let called = network.calls().len();
    pass(Duration::from_secs(120)).await;
    let again = network.calls().len() - called;
    assert!((2..10).contains(&again), "called {again} times in two minutes");
}

#[tokio::test(start_paused = true)]
async fn older_records_are_fetched_after_newer_ones() {
    let world = World::new(Network::new());
    let (old, new) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || new.catalog.status().peers == 1).await;
    let all = records(key(0), 20);
    new.store.insert(&all[19..], EPOCH, &|_| false).unwrap();
    old.store.insert(&all, EPOCH, &|_| false).unwrap();
    // The repeated comparison of digests shows that the peer has more records.
    within(Duration::from_secs(3600), || new.store.len() == 20).await;
}

#[tokio::test(start_paused = true)]
async fn expired_records_are_deleted_and_refused() {
    let world = World::new(Network::new());
    let (a, b) = (world.member(&[]), world.member(&[]));
    a.catalog.publish(Model::new(key(0), "org/old").record, true).await.unwrap();
    a.catalog.publish(Model::signed(key(1), "org/refreshed", 1, EPOCH + 3600).record, true).await.unwrap();
    b.knows(2).await;
    world.set_forward(30 * 24 * 3600 + 1800);
    within(Duration::from_secs(4000), || a.store.len() == 1 && b.store.len() == 1).await;
    assert!(b.resolve(&"org/old".parse().unwrap(), 1).await.is_empty());
}

#[tokio::test(start_paused = true)]
#[ignore = "takes a minute: `make test` runs it last"]
async fn hundred_thousand_records_in_one_exchange() {
    let world = World::new(Network::new());
    let old = world.member(&[]);
    for _ in 0..100 {
        let key = silmaril::model::keys::PublisherKeypair::generate().unwrap();
        old.store.insert(&records(&key, 1_000), EPOCH, &|_| false).unwrap();
    }
    let begun = (Instant::now(), std::time::Instant::now());
    let new = world.member(&[]);
    new.knows(100_000).await;
    let sent = old.engine_sent();
    let (messages, bytes) = (sent.len(), sent.iter().sum::<usize>());
    println!(
        "100 000 records: {messages} messages, {:.1} MB, {:?} with 20 ms a message, {:?} of this machine",
        bytes as f64 / 1e6,
        begun.0.elapsed(),
        begun.1.elapsed(),
    );
    assert!(bytes < 100_000 * 600);
    // Nodes with the same records send nothing.
    let before = old.engine_messages();
    pass(SPREAD_EVERY * 3).await;
    assert!(old.engine_messages() - before <= 2);
}

#[tokio::test(start_paused = true)]
async fn hosts_with_many_common_models_keep_all_connections() {
    let world = World::new(Network::new());
    let members = world.members(2);
    within(PATIENCE, || members.iter().all(|m| m.catalog.status().peers == 1)).await;
    for (engine, model) in members.iter().flat_map(|m| (0..40).map(move |model| (&m.engine, model))) {
        engine.meet(Meeting::Model(InfoHash([model; 32])), &[]).unwrap();
    }
    within(PATIENCE, || members[0].engine.connected().len() == 41).await;
    // Longer than the time limit of a hello.
    pass(Duration::from_secs(120)).await;
    assert_eq!(members[0].engine.connected().len(), 41);
    assert_eq!(members[1].engine.connected().len(), 41);
}
