//! Bytes that an older version cached: they are proved before a read returns them, and not fetched again if they are right.

use std::time::Duration;

use silmaril::fetch::{FileRef, ReadError};

use super::real::Node;
use crate::engine::rig::{Client, SOON, Sample};
use crate::support::clock::pass;
use crate::support::old_cache::{flip, plant};
use crate::support::private_net::in_private_net;
use crate::support::rig::{MIB, Rig, TestModel, noise};

const PEER: &str = "10.0.0.9:1";
const STALL: Duration = Duration::from_secs(100);

/// A model of one file of four pieces, the first three of them in the cache of an older version; byte `wrong` has
/// changed.
fn old(rig: &Rig, wrong: Option<u64>) -> TestModel {
    let files = [("a", noise(1, 4 * MIB))];
    let path = rig.model("o/m", MIB, &files).revision.contents[0].path();
    plant(&path, &files[0].1, std::slice::from_ref(&(0..3 * MIB)));
    if let Some(at) = wrong {
        flip(&path, at);
    }
    rig.swarm.judges_pieces();
    let model = rig.model("o/m", MIB, &files);
    let content = &model.revision.contents[0];
    assert_eq!((content.cached_bytes(), content.unproved_bytes()), (0, 3 * MIB));
    model
}

fn unproved(model: &TestModel) -> Vec<u32> {
    model.revision.contents[0].unproved_pieces(MIB)
}

#[tokio::test(start_paused = true)]
async fn right_old_bytes_are_not_fetched_again() {
    let rig = Rig::new();
    let m = old(&rig, None);
    rig.swarm.peer(m.info_hash, PEER, None);
    assert_eq!(rig.fetch.try_read(&m.file(0), MIB, 10), None, "they are not proved");
    assert_eq!(rig.fetch.read(&m.file(0), MIB, 10).await.unwrap(), m.bytes(0, MIB, 10));
    assert!(
        rig.swarm.added(m.info_hash).unwrap().have.is_clear(),
        "they are not announced before they are proved"
    );
    assert!(!rig.swarm.requests(m.info_hash).contains(&1));
    assert!(rig.swarm.given(m.info_hash).contains(&1) && !unproved(&m).contains(&1));

    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    assert_eq!((rig.status(&m).downloaded, unproved(&m)), (MIB, vec![]));
    assert_eq!(m.revision.contents[0].read(0..4 * MIB).unwrap().unwrap(), *m.files[0]);
}

#[tokio::test(start_paused = true)]
async fn wrong_old_bytes_are_fetched_from_peers() {
    let rig = Rig::new();
    let m = old(&rig, Some(MIB + 5));
    rig.swarm.peer(m.info_hash, PEER, None);
    assert_eq!(rig.fetch.read(&m.file(0), 0, 2 * MIB).await.unwrap(), m.bytes(0, 0, 2 * MIB));
    assert!(rig.swarm.requests(m.info_hash).contains(&1) && !rig.swarm.requests(m.info_hash).contains(&0));
    let given = rig.swarm.given(m.info_hash);
    assert_eq!(
        given.iter().filter(|&&piece| piece == 1).count(),
        1,
        "the engine was given it once: {given:?}"
    );
    assert_eq!(rig.status(&m).last_error, None, "no peer sent bad data");
}

#[tokio::test(start_paused = true)]
async fn wrong_old_bytes_are_forgotten_without_peers() {
    let rig = Rig::new();
    let m = old(&rig, Some(MIB + 5));
    let Err(ReadError::TimedOut(_)) = rig.fetch.read(&m.file(0), MIB, 10).await else {
        panic!("wrong bytes were read")
    };
    assert!(!unproved(&m).contains(&1));
    assert!(!m.revision.contents[0].is_unproved(&(MIB..2 * MIB)));
}

#[tokio::test(start_paused = true)]
async fn old_bytes_are_proved_slowly_while_no_reader_waits() {
    let rig = Rig::new();
    let m = old(&rig, Some(2 * MIB));
    rig.fetch.join(&m.revision).unwrap();
    rig.idle().await;
    assert_eq!(rig.swarm.given(m.info_hash), Vec::<u32>::new(), "nothing is read at start");
    pass(Duration::from_millis(1500)).await;
    assert_eq!(rig.swarm.given(m.info_hash), [0]);
    pass(Duration::from_secs(1)).await;
    assert_eq!(rig.swarm.given(m.info_hash), [0, 1]);
    pass(Duration::from_secs(10)).await;
    assert_eq!(rig.swarm.given(m.info_hash), [0, 1, 2]);
    assert_eq!(
        rig.swarm.holds(m.info_hash).unwrap().into_iter().collect::<Vec<_>>(),
        [0, 1],
        "the third one is wrong"
    );
    assert_eq!((m.revision.contents[0].cached_bytes(), unproved(&m)), (2 * MIB, vec![]));
    assert!(rig.swarm.wanted(m.info_hash).is_empty(), "no reader wants it");
}

#[tokio::test(start_paused = true)]
async fn background_proofs_pause_for_readers() {
    let rig = Rig::new();
    let m = old(&rig, None);
    let waits = rig.read(&m, 0, 3 * MIB, 10);
    pass(Duration::from_secs(20)).await;
    assert_eq!(rig.swarm.given(m.info_hash), Vec::<u32>::new(), "a reader waits");
    rig.swarm.peer(m.info_hash, PEER, None);
    waits.await.unwrap().unwrap();
    pass(Duration::from_secs(20)).await;
    assert!(unproved(&m).is_empty());
}

#[tokio::test(start_paused = true)]
async fn old_bytes_with_unknown_hashes_are_kept() {
    let rig = Rig::new();
    let m = old(&rig, None);
    // The engine reports nothing about a piece while its hash is not known.
    rig.swarm.takes_pieces(false);
    let Err(ReadError::TimedOut(_)) = rig.fetch.read(&m.file(0), MIB, 10).await else {
        panic!("it was not proved")
    };
    pass(Duration::from_secs(1000)).await;
    let given = rig.swarm.given(m.info_hash);
    assert!(given.contains(&1));
    pass(Duration::from_secs(1000)).await;
    assert_eq!(rig.swarm.given(m.info_hash), given, "the file is skipped until a peer comes");
    assert_eq!(unproved(&m), [0, 1, 2]);
    rig.swarm.takes_pieces(true);
    rig.swarm.peer(m.info_hash, PEER, Some(&[]));
    pass(Duration::from_secs(10)).await;
    assert_eq!(unproved(&m), given, "the rest is tried again");
    rig.fetch.leave(&m.info_hash);
    rig.idle().await;
    rig.fetch.join(&m.revision).unwrap();
    pass(Duration::from_secs(10)).await;
    assert_eq!((unproved(&m), rig.status(&m).downloaded), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn missing_old_bytes_are_fetched_from_peers() {
    let rig = Rig::new();
    let m = old(&rig, None);
    rig.swarm.peer(m.info_hash, PEER, None);
    let path = m.revision.contents[0].path();
    std::fs::File::options().write(true).open(path).unwrap().set_len(MIB).unwrap();
    assert_eq!(rig.fetch.read(&m.file(0), MIB, 10).await.unwrap(), m.bytes(0, MIB, 10));
    assert_eq!(rig.fetch.read(&m.file(0), 0, 10).await.unwrap(), m.bytes(0, 0, 10));
    assert!(rig.swarm.requests(m.info_hash).contains(&1) && !rig.swarm.requests(m.info_hash).contains(&0));
}

#[test]
fn engine_proves_old_bytes_with_hashes_of_a_peer() {
    in_private_net(|| {
        let sample = Sample::new(&[("a.bin", 3 << 20), ("b.bin", 300_000)], 256 << 10, false);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let node = Node::with_cache(&sample, vec![seed.address], |revision| {
            for (content, (_, bytes)) in revision.contents.iter().zip(&sample.files) {
                plant(&content.path(), bytes, std::slice::from_ref(&(0..content.len())));
            }
            flip(&revision.contents[0].path(), 1 << 20);
            flip(&revision.contents[1].path(), 299_999);
        });
        assert_eq!(node.revision.cached_bytes(), 0);
        for (file, (_, bytes)) in sample.files.iter().enumerate() {
            let file = FileRef { revision: node.revision.clone(), file };
            let read = node.fetch.read(&file, 0, bytes.len() as u64);
            let read = node.runtime.block_on(async { tokio::time::timeout(3 * SOON, read).await });
            assert!(read.unwrap().unwrap() == *bytes, "wrong bytes of file {}", file.file);
        }
        // The two pieces that were wrong; a peer sends a whole piece for one byte.
        let came = node.fetch.progress(&sample.info_hash).unwrap().downloaded;
        assert!(came <= 300_000, "{came} bytes came");
        assert_eq!(node.revision.contents.iter().map(|c| c.unproved_bytes()).sum::<u64>(), 0);
    });
}
