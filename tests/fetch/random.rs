//! Random reads, stalls, lies, departures, deletions and cancellations against the true bytes.

use std::time::Duration;

use proptest::prelude::*;
use silmaril::fetch::{ReadError, Shedding};
use tokio::time::Instant;

use crate::support::clock::pass;
use crate::support::rig::{KIB, READ_TIMEOUT, Rig, TestModel, noise};
use crate::support::swarm::Delivery;

#[derive(Debug, Clone)]
enum Step {
    Read {
        model: usize,
        file: usize,
        offset: u64,
        len: u64,
    },
    Get {
        model: usize,
        file: usize,
    },
    /// Cancels the n-th read or job under way.
    Cancel(usize),
    Peer(usize),
    Vanish(usize),
    Stall,
    Flow,
    Slow(u64),
    Lie(usize),
    LoseEvents,
    Relocate(usize),
    Close {
        model: usize,
        file: usize,
    },
    Wait(u64),
    /// Marks verified bytes as wrong, as after damage of the disk.
    Damage {
        model: usize,
        file: usize,
        block: u64,
    },
    /// Deletes the deletable bytes of a file, as a full cache does.
    Shed {
        model: usize,
        file: usize,
        shedding: Shedding,
    },
}

/// Longer than a piece that has timed out fails immediately.
const FAILS_FAST: Duration = Duration::from_secs(6);

fn step() -> impl Strategy<Value = Step> {
    let place = (0..2usize, 0..3usize);
    prop_oneof![
        12 => (place.clone(), 0u64..420 * KIB, 0u64..150 * KIB)
            .prop_map(|((model, file), offset, len)| Step::Read { model, file, offset, len }),
        1 => place.clone().prop_map(|(model, file)| Step::Get { model, file }),
        3 => (0..20usize).prop_map(Step::Cancel),
        3 => (0..2usize).prop_map(Step::Peer),
        1 => (0..2usize).prop_map(Step::Vanish),
        1 => Just(Step::Stall),
        1 => Just(Step::Flow),
        1 => (1u64..5000).prop_map(Step::Slow),
        1 => (0..4usize).prop_map(Step::Lie),
        1 => Just(Step::LoseEvents),
        1 => (0..2usize).prop_map(Step::Relocate),
        1 => place.clone().prop_map(|(model, file)| Step::Close { model, file }),
        2 => (1u64..30_000).prop_map(Step::Wait),
        2 => (place.clone(), prop::bool::ANY).prop_map(|((model, file), spare)| {
            let shedding = if spare { Shedding::Spare } else { Shedding::AllButOldest };
            Step::Shed { model, file, shedding }
        }),
        1 => (place, 0u64..24).prop_map(|((model, file), block)| Step::Damage { model, file, block }),
    ]
}

fn models(rig: &Rig) -> [TestModel; 2] {
    let common = noise(1, 400 * KIB + 77);
    let a = [("a.bin", noise(2, 300 * KIB)), ("b.bin", common.clone()), ("c.safetensors", noise(3, 5))];
    let b = [("b.bin", common), ("d.bin", noise(4, 64 * KIB)), ("e.bin", noise(2, 300 * KIB))];
    [rig.model("o/a", 64 * KIB, &a), rig.model("o/b", 16 * KIB, &b)]
}

async fn run(steps: Vec<Step>) {
    let rig = Rig::with(|s| s.readahead_max = 256 * KIB);
    let models = models(&rig);
    let mut reads = Vec::new();
    let mut jobs = Vec::new();
    for step in steps {
        match step {
            Step::Read { model, file, offset, len } => {
                let m = models[model].clone();
                let (fetch, start) = (rig.fetch.clone(), Instant::now());
                reads.push(tokio::spawn(async move {
                    let result = fetch.read(&m.file(file), offset, len).await;
                    // At most three attempts of three timeouts each.
                    assert!(
                        start.elapsed() < 9 * READ_TIMEOUT + Duration::from_secs(5),
                        "it waited too long"
                    );
                    match result {
                        Ok(bytes) => assert_eq!(bytes, m.bytes(file, offset, len)),
                        Err(ReadError::TimedOut(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }));
            }
            Step::Get { model, file } => jobs.push(rig.get(&models[model], &[file], READ_TIMEOUT)),
            Step::Cancel(n) => {
                let all = reads.len() + jobs.len();
                match n % all.max(1) {
                    n if n < reads.len() => reads[n].abort(),
                    n if n < all => jobs[n - reads.len()].abort(),
                    _ => {}
                }
            }
            Step::Peer(model) => rig.swarm.peer(models[model].info_hash, "10.0.0.9:1", None),
            Step::Vanish(model) => rig.swarm.vanish(models[model].info_hash, "10.0.0.9:1"),
            Step::Stall => rig.swarm.delivery(Delivery::ByHand),
            Step::Flow => rig.swarm.delivery(Delivery::Immediate),
            Step::Slow(ms) => rig.swarm.delivery(Delivery::After(Duration::from_millis(ms))),
            Step::Lie(n) => rig.swarm.lie(n),
            Step::LoseEvents => rig.swarm.lose_events(),
            Step::Relocate(model) => rig.fetch.relocate(&models[model].revision),
            Step::Close { model, file } => rig.fetch.released(&models[model].file(file)),
            Step::Wait(ms) => pass(Duration::from_millis(ms)).await,
            Step::Damage { model, file, block } => {
                let content = &models[model].revision.contents[file];
                let start = (block * 16 * KIB).min(content.len());
                content.mark_missing(start..(start + 16 * KIB).min(content.len())).unwrap();
            }
            Step::Shed { model, file, shedding } => {
                let content = &models[model].revision.contents[file];
                let ranges = rig.fetch.deletable(content, shedding);
                rig.fetch.delete(content, &ranges, shedding).unwrap();
            }
        }
    }
    // In the end honest peers are connected: every read succeeds.
    rig.swarm.lie(0);
    rig.swarm.delivery(Delivery::Immediate);
    for m in &models {
        rig.swarm.peer(m.info_hash, "10.0.0.10:1", None);
    }
    for read in reads {
        match read.await {
            Ok(()) => {}
            Err(e) if e.is_cancelled() => {}
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    for job in jobs {
        match job.await {
            Ok(Ok(()) | Err(ReadError::TimedOut(_))) => {}
            Ok(Err(e)) => panic!("{e}"),
            Err(e) if e.is_cancelled() => {}
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    // A piece that has just timed out fails immediately for some seconds of the test's clock.
    tokio::time::sleep(FAILS_FAST).await;
    for m in &models {
        for (i, bytes) in m.files.iter().enumerate() {
            assert_eq!(&rig.fetch.read(&m.file(i), 0, u64::MAX).await.unwrap(), &**bytes);
            rig.fetch.released(&m.file(i));
        }
    }
    rig.idle().await;
    for m in &models {
        assert!(
            rig.swarm.wanted(m.info_hash).is_empty(),
            "pieces are wanted without a claim: {:?}",
            rig.swarm.wanted(m.info_hash)
        );
        assert_eq!(rig.status(m).waiting_reads, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn readers_get_the_true_bytes_or_an_honest_error(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps));
    }
}
