//! `discover`: searches of the store and, live, of peers.

use std::time::Duration;

use silmaril::catalog::message::{Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::service::{MAX_PAGES, SETTLED};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

use super::rig::{EPOCH, Model, PATIENCE, World, key, records, within};
use crate::support::clock::pass;
use crate::support::overlay::Network;

#[tokio::test(start_paused = true)]
async fn results_are_merged_and_seeds_count_nodes() {
    let world = World::new(Network::new());
    let members = world.members(5);
    within(PATIENCE, || members[0].catalog.status().peers == 4).await;
    let model = Model::new(key(0), "org/llama");
    members[1].share(&model).await;
    for holder in [0, 2, 3] {
        members[holder].hold(&model);
    }
    members[4].share(&Model::new(key(1), "other/llama")).await;
    members[4].share(&Model::signed(key(1), "other/bert", 2, EPOCH)).await;
    within(PATIENCE, || members.iter().all(|m| m.store.len() == 3)).await;
    let found = members[0].discover("llama").await;
    let name = |model: &str, owner: usize| format!("{model} {}", key(owner).public());
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), {
        let mut names = vec![name("org/llama", 0), name("other/llama", 1)];
        names.sort();
        names
    });
    assert_eq!(found[&name("org/llama", 0)].seeds, 4);
    assert_eq!(found[&name("other/llama", 1)].seeds, 1);
}

#[tokio::test(start_paused = true)]
async fn new_node_finds_all_records_within_seconds() {
    let world = World::new(Network::new());
    let old = world.members(3);
    old[0].share(&Model::new(key(0), "org/model")).await;
    let begun = Instant::now();
    let fresh = world.member(&[]);
    assert_eq!(fresh.discover("").await.len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn records_announced_during_a_search_are_found() {
    let world = World::new(Network::new());
    let (asker, other) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let model = Model::new(key(0), "org/fresh");
    let announcing = async {
        // The peer has already answered that it has no results.
        pass(SETTLED / 4).await;
        other.share(&model).await;
    };
    let (found, ()) = tokio::join!(asker.discover("fresh"), announcing);
    let found: Vec<_> = found.into_values().collect();
    assert_eq!((found.len(), found[0].seeds), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn newest_record_of_a_model_is_the_result() {
    let world = World::new(Network::new());
    let (asker, other) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let (old, new) =
        (Model::signed(key(0), "org/moving", 1, EPOCH), Model::signed(key(0), "org/moving", 2, EPOCH));
    asker.learn(&old);
    asker.hold(&old);
    other.learn(&new);
    other.hold(&new);
    let found: Vec<_> = asker.discover("moving").await.into_values().collect();
    assert_eq!((found.len(), &found[0].record, found[0].seeds), (1, &new.record, 1));
    // Gossip or the search has brought the record.
    within(PATIENCE, || asker.store.of_name(&new.model_ref().name) == [new.record.clone()]).await;
}

#[tokio::test(start_paused = true)]
async fn many_results_are_fetched_in_pages() {
    let world = World::new(Network::new());
    let (asker, other) = (world.member(&[]), world.member(&[]));
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    for record in records(key(0), 130) {
        other.store.insert(&[record], EPOCH, &|_| false).unwrap();
    }
    assert_eq!(asker.discover("model").await.len(), 130);
    asker.knows(130).await;
}

#[tokio::test(start_paused = true)]
async fn search_waits_for_new_peers_and_all_answers() {
    let network = Network::without_lan();
    let world = World::new(network.clone());
    let holder = world.member(&[]);
    holder.share(&Model::new(key(0), "org/model")).await;
    let asker = world.member(&[]);
    let (catalog, begun) = (Arc::clone(&asker.catalog), Instant::now());
    let found = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&found);
    let search = tokio::spawn(async move {
        let count = |_: &_| {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        catalog.discover(&"".parse().unwrap(), Duration::from_secs(60), count).await.unwrap();
        begun.elapsed()
    });
    pass(Duration::from_secs(4)).await;
    asker.catalog.introduce(&[holder.engine.address()]);
    let took = search.await.unwrap();
    assert_eq!(found.load(Ordering::Relaxed), 1);
    assert!(took >= SETTLED + Duration::from_secs(4) && took < Duration::from_secs(8), "it took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn pages_of_one_peer_are_bounded_and_checked() {
    let world = World::new(Network::new());
    let (asker, honest) = (world.member(&[]), world.member(&[]));
    honest.share(&Model::new(key(1), "org/llama")).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let unwanted = Model::new(key(0), "org/bert").record;
    let many = records(key(2), MAX_PAGES * 4);
    world.stranger().answers(move |message| match message {
        Message::Question(id, PeerQuestion::Query(..)) => {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            let records = vec![unwanted.clone(), many[n].clone()];
            let cursor = Some(n.to_be_bytes().to_vec());
            vec![Message::Answer(id, PeerAnswer::Found { records, complete: vec![0, 1], cursor })]
        }
        _ => Vec::new(),
    });
    within(PATIENCE, || asker.catalog.status().peers == 2).await;
    let begun = Instant::now();
    let found = asker.discover("llama").await;
    assert_eq!(found.len(), 1);
    assert_eq!(asked.load(Ordering::Relaxed), MAX_PAGES);
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn search_ends_in_time_without_answers() {
    let world = World::new(Network::new());
    let asker = world.member(&[]);
    world.stranger().answers(|_| Vec::new());
    let begun = Instant::now();
    assert!(asker.discover("").await.is_empty());
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(15) && took < Duration::from_secs(16), "it took {took:?}");
}
