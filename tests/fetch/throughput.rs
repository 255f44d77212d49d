//! A stream through the windows against a whole-file job, over real engines on loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use silmaril::fetch::{Fetch, FetchSettings, FileRef};
use silmaril::model::{Manifest, metainfo};
use silmaril::paths::Paths;
use silmaril::store::{Store, StoredRevision};
use silmaril::torrent::{Discovery, Session, SessionSettings};

use crate::engine::rig::{Client, Sample, network};
use crate::support::private_net::in_private_net;
use crate::support::rig::{KIB, MIB};

const LEN: usize = 512 << 20;

/// A node's parts over a real engine, with one peer.
struct Node {
    fetch: Arc<Fetch>,
    session: Arc<Session>,
    revision: Arc<StoredRevision>,
    _dir: tempfile::TempDir,
}

fn node(sample: &Sample, peer: std::net::SocketAddr) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::below(dir.path());
    let store = Store::open(&paths).unwrap();
    let parsed = metainfo::parse_metainfo(&sample.metainfo).unwrap();
    let manifest =
        Manifest::from_metainfo("o/sample".parse().unwrap(), "main".parse().unwrap(), &parsed).unwrap();
    let revision = store.revision(Arc::new(manifest)).unwrap();
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let session = Arc::new(Session::start(SessionSettings { network: network() }, sender).unwrap());
    let settings = FetchSettings {
        read_timeout: Duration::from_secs(30),
        readahead_max: 32 * MIB,
        trackers: vec![],
        discovery: Discovery { dht: false, lan: false, pex: false },
        peers: vec![peer],
    };
    let fetch = Fetch::new(session.clone(), paths, settings);
    let handler = fetch.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            handler.handle(event);
        }
    });
    Node { fetch, session, revision, _dir: dir }
}

/// Reads as the kernel does for `cat`: requests of 128 KiB in order, up to `ahead` of them at once.
async fn stream(node: &Node, ahead: usize) {
    let file = FileRef { revision: node.revision.clone(), file: 0 };
    let mut reads = std::collections::VecDeque::new();
    for at in (0..LEN as u64).step_by(128 << 10) {
        while reads.len() >= ahead {
            let read: tokio::task::JoinHandle<Vec<u8>> = reads.pop_front().unwrap();
            assert_eq!(read.await.unwrap().len() as u64, 128 * KIB);
        }
        let (fetch, file) = (node.fetch.clone(), file.clone());
        reads.push_back(tokio::spawn(async move {
            match fetch.try_read(&file, at, 128 * KIB) {
                Some(bytes) => bytes,
                None => fetch.read(&file, at, 128 * KIB).await.unwrap(),
            }
        }));
    }
    for read in reads {
        read.await.unwrap();
    }
}

#[test]
#[ignore = "a measurement: run it alone on a quiet machine, with --release"]
fn a_stream_is_nearly_as_fast_as_the_engine() {
    in_private_net(|| {
        let sample = Sample::new(&[("weights.bin", LEN)], 4 << 20, false);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut best = [f64::MAX; 2];
            for round in 0..3 {
                for (how, best) in best.iter_mut().enumerate() {
                    let node = node(&sample, seed.address);
                    let start = Instant::now();
                    if how == 0 {
                        node.fetch.fetch_files(&node.revision, &[0], Duration::from_secs(30)).await.unwrap();
                    } else {
                        stream(&node, 2).await;
                    }
                    let took = start.elapsed().as_secs_f64();
                    let what = ["job", "stream"][how];
                    eprintln!("round {round}: {what} {:.0} MiB/s", LEN as f64 / MIB as f64 / took);
                    *best = best.min(took);
                    node.fetch.stop();
                    let session = node.session.clone();
                    tokio::task::spawn_blocking(move || session.shutdown(Duration::from_secs(5)))
                        .await
                        .unwrap();
                }
            }
            assert!(
                best[0] / best[1] >= 0.8,
                "the stream has {:.0} % of the job's speed",
                100.0 * best[0] / best[1]
            );
        });
    });
}
