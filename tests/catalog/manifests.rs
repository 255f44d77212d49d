//! Fetching a manifest from peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use silmaril::catalog::message::{HeldManifest, MANIFEST_PART, Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::service::PART_WITHIN;
use silmaril::catalog::{Candidate, CatalogError, SearchPatience};
use silmaril::torrent::{Meeting, Overlay};
use tokio::time::Instant;

use super::rig::{EPOCH, Member, Model, PATIENCE, World, key, within};
use crate::support::clock::pass;
use crate::support::overlay::Network;

const LONG: Duration = Duration::from_secs(30);

async fn fetch(member: &Member, model: &Model) -> Result<Vec<u8>, CatalogError> {
    member.catalog.manifest(&model.model_ref(), &model.candidate(), LONG).await
}

/// A manifest of this size, whose parts all differ.
fn large(bytes: usize) -> Model {
    let json = (0..bytes).map(|n| (n / 7 % 251) as u8).collect();
    Model::with_manifest(key(0), "org/large", 1, EPOCH, json)
}

#[tokio::test(start_paused = true)]
async fn large_manifest_is_fetched_from_one_of_many_peers() {
    let world = World::new(Network::new());
    let members = world.members(8);
    let model = large(3 * 1024 * 1024 + 17);
    members[5].hold(&model);
    within(PATIENCE, || members[0].catalog.status().peers == 7).await;
    let begun = Instant::now();
    assert_eq!(fetch(&members[0], &model).await.unwrap(), *model.manifest);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn largest_manifest_fits_the_budget() {
    let world = World::new(Network::new());
    let members = world.members(2);
    let model = large(16 * 1024 * 1024);
    members[1].hold(&model);
    assert_eq!(fetch(&members[0], &model).await.unwrap(), *model.manifest);
}

#[tokio::test(start_paused = true)]
async fn stalled_peer_is_replaced() {
    let world = World::new(Network::new());
    let asker = world.member(&[]);
    let model = large(20 * MANIFEST_PART);
    let json = Arc::clone(&model.manifest);
    world.stranger().answers(move |message| match message {
        // This peer has the first parts, and never sends the rest.
        Message::Question(_, PeerQuestion::Part(manifest, part)) if part < 3 => {
            let bytes = json.chunks(MANIFEST_PART).nth(part as usize).unwrap().to_vec();
            vec![Message::Answer(0, PeerAnswer::Part { manifest, part, bytes })]
        }
        _ => Vec::new(),
    });
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let begun = Instant::now();
    let (catalog, of, candidate) = (Arc::clone(&asker.catalog), model.model_ref(), model.candidate());
    let fetching = tokio::spawn(async move { catalog.manifest(&of, &candidate, LONG).await });
    pass(Duration::from_secs(1)).await;
    let holder = world.member(&[]);
    holder.hold(&model);
    assert_eq!(fetching.await.unwrap().unwrap(), *model.manifest);
    assert!(begun.elapsed() < PART_WITHIN * 2, "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn peer_with_a_false_manifest_is_banned_and_replaced() {
    let world = World::new(Network::new());
    let (asker, liar) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/model");
    liar.hold_falsely(model.held(), model.manifest.iter().map(|byte| byte ^ 1).collect());
    within(PATIENCE, || asker.catalog.status().peers == 1).await;
    let catalog = Arc::clone(&asker.catalog);
    let (of, candidate) = (model.model_ref(), model.candidate());
    let fetching = tokio::spawn(async move { catalog.manifest(&of, &candidate, LONG).await });
    within(PATIENCE, || asker.engine.muted().contains(&liar.engine.address().ip())).await;
    let honest = world.member(&[]);
    honest.hold(&model);
    assert_eq!(fetching.await.unwrap().unwrap(), *model.manifest);
}

#[tokio::test(start_paused = true)]
async fn false_length_in_a_record_bans_no_honest_peer() {
    let world = World::new(Network::new());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = large(3 * MANIFEST_PART);
    holder.hold(&model);
    for false_len in [MANIFEST_PART as u32, 100, 4 * MANIFEST_PART as u32] {
        let candidate = Candidate { manifest_len: false_len, ..model.candidate() };
        let answer = asker.catalog.manifest(&model.model_ref(), &candidate, LONG).await;
        assert!(matches!(answer, Err(CatalogError::NoManifest { .. })));
    }
    assert!(asker.engine.muted().is_empty());
    assert!(fetch(&asker, &model).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn impossible_length_is_refused_immediately() {
    let world = World::new(Network::new());
    let (asker, begun) = (world.member(&[]), Instant::now());
    let model = Model::new(key(0), "org/model");
    for len in [0, 16 * 1024 * 1024 + 1, u32::MAX] {
        let candidate = Candidate { manifest_len: len, ..model.candidate() };
        assert!(asker.catalog.manifest(&model.model_ref(), &candidate, LONG).await.is_err());
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn holder_is_met_in_the_models_swarm_which_is_then_left() {
    let network = Network::new();
    let world = World::new(network.clone());
    let model = Model::new(key(0), "org/model");
    let holder = world.member(&[]);
    holder.hold(&model);
    // They meet in no other swarm.
    holder.catalog.stop();
    let (seeding, mut events) = network.host();
    seeding.meet(Meeting::Model(model.candidate().info_hash), &[]).unwrap();
    let answering = model.clone();
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let engine = Arc::clone(&seeding);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let silmaril::torrent::OverlayEvent::Received(peer, bytes) = event else { continue };
            let reply = match Message::decode(&bytes).unwrap().unwrap() {
                Message::Hello { .. } => Message::Hello { version: 1, node: [7; 20], records: 0 },
                Message::Question(_, PeerQuestion::Part(manifest, part)) => {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Message::Answer(
                        0,
                        PeerAnswer::Part { manifest, part, bytes: answering.manifest.to_vec() },
                    )
                }
                other => panic!("{other:?} is of no use in a model's swarm"),
            };
            engine.send(peer, &reply.encode()).unwrap();
        }
    });
    let asker = world.member(&[]);
    let both = tokio::join!(fetch(&asker, &model), fetch(&asker, &model));
    assert_eq!((both.0.unwrap(), both.1.unwrap()), (model.manifest.to_vec(), model.manifest.to_vec()));
    assert_eq!(answers.load(Ordering::Relaxed), 1);
    within(PATIENCE, || asker.engine.meetings() == [super::rig::catalog_swarm()]).await;
}

#[tokio::test(start_paused = true)]
async fn announcer_of_the_name_is_called_for_its_manifest() {
    let network = Network::without_lan();
    network.turn_on_dht();
    let world = World::new(network.clone());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    let model = Model::new(key(0), "org/far");
    holder.share(&model).await;
    within(PATIENCE, || !network.announcements().is_empty()).await;
    assert_eq!(fetch(&asker, &model).await.unwrap(), *model.manifest);
}

#[tokio::test(start_paused = true)]
async fn missing_manifest_is_reported_in_time() {
    let world = World::new(Network::new());
    let members = world.members(4);
    let (model, begun) = (Model::new(key(0), "org/model"), Instant::now());
    assert!(matches!(fetch(&members[0], &model).await, Err(CatalogError::NoManifest { .. })));
    assert!(begun.elapsed() >= LONG && begun.elapsed() < LONG + Duration::from_millis(200));
    within(PATIENCE, || members[0].engine.meetings().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn silent_claimants_do_not_delay_the_honest_holder() {
    let world = World::new(Network::new());
    let asker = world.member(&[]);
    let model = Model::new(key(0), "org/model");
    let held = model.held();
    let claim = HeldManifest {
        publisher: held.publisher,
        manifest: held.digest,
        len: held.manifest_len,
        info_hash: held.info_hash,
        complete: true,
    };
    for _ in 0..30 {
        world.stranger().answers(move |message| match message {
            Message::Question(id, PeerQuestion::Lookup(_)) => {
                vec![Message::Answer(id, PeerAnswer::Holds { records: vec![], held: vec![claim] })]
            }
            _ => Vec::new(),
        });
    }
    within(PATIENCE, || asker.catalog.status().peers == 30).await;
    assert!(asker.catalog.resolve(&model.model_ref(), LONG, SearchPatience::All).await.is_ok());
    let holder = world.member(&[]);
    holder.hold(&model);
    within(PATIENCE, || asker.catalog.status().peers == 31).await;
    let begun = Instant::now();
    assert_eq!(fetch(&asker, &model).await.unwrap(), *model.manifest);
    assert!(begun.elapsed() < PART_WITHIN, "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn invented_manifests_do_not_use_up_memory() {
    let world = World::new(Network::new());
    let (asker, holder) = (world.member(&[]), world.member(&[]));
    world.stranger().answers(|message| match message {
        // Sends only the first parts, so that the asker waits for as many bytes as possible.
        Message::Question(_, PeerQuestion::Part(manifest, part @ 0..4)) => {
            vec![Message::Answer(0, PeerAnswer::Part { manifest, part, bytes: vec![0; MANIFEST_PART] })]
        }
        _ => Vec::new(),
    });
    within(PATIENCE, || asker.catalog.status().peers == 2).await;
    let invented = |n: u8| {
        let of = Model::new(key(1), "org/invented");
        let manifest = silmaril::model::Sha256Digest([n; 32]);
        Candidate { manifest, manifest_len: 16 << 20, record: None, ..of.candidate() }
    };
    let begun = Instant::now();
    for n in 0..8 {
        let (catalog, of, candidate) =
            (Arc::clone(&asker.catalog), Model::new(key(1), "org/invented").model_ref(), invented(n));
        tokio::spawn(async move { catalog.manifest(&of, &candidate, LONG).await });
    }
    pass(Duration::from_secs(1)).await;
    // A small manifest and the largest.
    for model in [Model::new(key(0), "org/model"), large(16 * 1024 * 1024)] {
        holder.hold(&model);
        assert_eq!(fetch(&asker, &model).await.unwrap(), *model.manifest);
    }
    assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
}
