//! The entries of a node in the DHT.

use std::time::Duration;

use silmaril::catalog::service::{ANNOUNCE_EVERY, ANNOUNCE_PAUSE, STORE_EVERY, STORE_PAUSE, topic_of};
use silmaril::torrent::Topic;
use tokio::time::Instant;

use super::rig::{Model, PATIENCE, World, key, within};
use crate::support::clock::pass;
use crate::support::overlay::Network;

fn models(count: usize) -> Vec<Model> {
    (0..count).map(|n| Model::new(key(n % 4), &format!("org/model{n}"))).collect()
}

#[tokio::test(start_paused = true)]
async fn names_are_announced_repeatedly_and_spread_out() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let member = world.member(&[]);
    let models = models(30);
    models.iter().for_each(|model| member.hold(model));
    member.catalog.holdings_changed();
    pass(Duration::from_secs(60)).await;
    assert!(network.announcements().is_empty(), "announced while the DHT has no nodes");
    network.turn_on_dht();
    within(Duration::from_secs(60), || network.announcements().len() == 30).await;
    let announced = network.announcements();
    let mut topics: Vec<Topic> = announced.iter().map(|(_, topic)| *topic).collect();
    let mut expected: Vec<Topic> = models.iter().map(|model| topic_of(&model.model_ref().name)).collect();
    topics.sort();
    expected.sort();
    assert_eq!(topics, expected);
    let gaps = announced.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(gaps.min().unwrap() >= ANNOUNCE_PAUSE);
    pass(ANNOUNCE_EVERY).await;
    assert_eq!(network.announcements().len(), 60);
}

#[tokio::test(start_paused = true)]
async fn new_names_are_announced_and_removed_ones_are_not() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let member = world.member(&[]);
    within(PATIENCE, || member.catalog.status().dht_nodes > 0).await;
    let begun = Instant::now();
    member.hold(&models(1)[0]);
    member.catalog.holdings_changed();
    within(PATIENCE, || network.announcements().len() == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    member.hold_nothing();
    pass(ANNOUNCE_EVERY * 3).await;
    assert_eq!(network.announcements().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn records_are_stored_repeatedly_and_spread_out() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (publisher, holder) = (world.member(&[]), world.member(&[]));
    let begun = Instant::now();
    for model in &models(10) {
        publisher.catalog.publish(model.record.clone(), true).await.unwrap();
    }
    within(PATIENCE, || network.puts().len() == 10).await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    let gaps: Vec<Duration> = network.puts().windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| *gap >= STORE_PAUSE), "{gaps:?}");
    pass(STORE_EVERY).await;
    assert_eq!(network.puts().len(), 20);
    // A holder of a model keeps its record in the DHT without the publisher.
    publisher.vanish();
    let held = &models(1)[0];
    holder.learn(held);
    holder.hold(held);
    holder.catalog.holdings_changed();
    within(PATIENCE, || network.puts().len() == 21).await;
    assert_eq!(network.puts()[20].1, held.record.to_item());
}

#[tokio::test(start_paused = true)]
async fn newer_record_replaces_the_older_in_the_dht() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let member = world.member(&[]);
    let begun = world.now();
    for sequence in 1..=3 {
        let model = Model::signed(key(0), "org/moving", sequence, begun);
        member.catalog.publish(model.record.clone(), true).await.unwrap();
    }
    pass(STORE_EVERY * 2).await;
    let puts = network.puts();
    assert!(puts.len() <= 5, "{} puts", puts.len());
    assert!(puts[puts.len() - 2..].iter().all(|(_, item)| item.sequence == 3));
}
