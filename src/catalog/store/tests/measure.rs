//! Measures the size and speed of a catalog of 100 000 records. `make measure` prints the figures, and fails if a search takes
//! too long. It is not an ordinary test: those run in parallel, in debug builds, on shared machines.

use std::time::{Duration, Instant};

use super::*;
use crate::catalog::message::{MAX_RECORDS, Message, Unchecked};

const RECORDS: usize = 100_000;
const PUBLISHERS: usize = 2_000;

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// The time limit of a search.
const SEARCHED_WITHIN: Duration = Duration::from_millis(50);

/// Prints the fastest, the median and the slowest time of twenty runs. The median must be below a bound.
fn time<T>(what: &str, bound: Duration, mut work: impl FnMut() -> T) -> T {
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..20 {
        let begin = Instant::now();
        last = Some(work());
        times.push(begin.elapsed());
    }
    times.sort();
    println!("{what}: {:.1?}, {:.1?} to {:.1?}", times[10], times[0], times[19]);
    assert!(times[10] < bound, "{what} takes {:.1?}, and may take {bound:?}", times[10]);
    last.unwrap()
}

#[test]
#[ignore = "it measures time: `make measure` runs it, alone and optimised"]
fn a_hundred_thousand_records() {
    const TAGS: [&str; 12] = [
        "transformers",
        "safetensors",
        "llama",
        "text-generation",
        "conversational",
        "en",
        "arxiv:2407.21783",
        "base_model:meta-llama/Llama-3.1-8B",
        "autotrain_compatible",
        "endpoints_compatible",
        "region:us",
        "code",
    ];
    let keys: Vec<_> = (0..PUBLISHERS).map(|_| PublisherKeypair::generate().unwrap()).collect();
    let begin = Instant::now();
    let records: Vec<SharedRecord> = (0..RECORDS)
        .map(|n| {
            let key = &keys[n % PUBLISHERS];
            let name = format!("organisation-{}/Some-Model-{}B-v{n}", n % 5000, n % 70);
            let mut record = model(key.public(), &name, n as i64, NOW);
            if let RecordBody::Model(model) = &mut record.body {
                model.tags = TAGS.iter().take(4 + n % 9).map(|tag| (*tag).to_owned()).collect();
                model.size = 1_000_000 * n as u64;
            }
            SharedRecord::new(SignedRecord::sign(record, key).unwrap())
        })
        .collect();
    println!("signing: {:.1?} each", begin.elapsed() / RECORDS as u32);

    let messages: Vec<Vec<u8>> =
        records.chunks(MAX_RECORDS / 2).map(|page| Message::Pushed(page.to_vec()).encode()).collect();
    let wire: usize = messages.iter().map(Vec::len).sum();
    println!("on the wire: {wire} bytes in {} messages, {} a record", messages.len(), wire / RECORDS);
    drop(records);

    let dir = tempfile::tempdir().unwrap();
    let before = resident();
    let (mut decoding, mut verifying, mut inserting) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    {
        let store = CatalogStore::open(dir.path(), NOW).unwrap();
        for message in &messages {
            let begin = Instant::now();
            let unchecked = Unchecked::decode(message).unwrap().unwrap();
            decoding += begin.elapsed();
            let begin = Instant::now();
            let Message::Pushed(records) = unchecked.verify(|_| None).unwrap() else { panic!() };
            verifying += begin.elapsed();
            let begin = Instant::now();
            let outcomes = store.insert(&records, NOW, &none_kept).unwrap();
            inserting += begin.elapsed();
            assert!(outcomes.iter().all(|outcome| *outcome == StoreOutcome::Stored));
        }
        println!("a new node: decoding {decoding:.1?}, signatures {verifying:.1?}, storing {inserting:.1?}");
        println!("resident: {before} MB before, {} MB with the store", resident());
    }
    drop(messages);
    let size = fs::metadata(dir.path().join("records.redb")).unwrap().len();
    println!("file: {:.1} MB", size as f64 / 1e6);

    // A new process, so that memory of this one does not count.
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "catalog::store::tests::measure::a_store_that_is_opened",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_DIR, dir.path())
        .status()
        .unwrap();
    assert!(child.success());
}

#[test]
#[ignore = "not a test: the process that the measurement above starts"]
fn a_store_that_is_opened() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    let before = resident();
    let begin = Instant::now();
    let store = CatalogStore::open(dir, NOW).unwrap();
    println!("opening: {:.1?}; resident {before} MB before, {} MB after", begin.elapsed(), resident());
    assert_eq!(store.len(), RECORDS);
    for query in [
        "v99999",
        "llama",
        "some-model-7b",
        "organisation-42/*",
        "*-7?b-v*9",
        "tag:code",
        "tag:code *-3b-*",
        "size>99GB",
        "publisher:x7",
    ] {
        let parsed: Query = query.parse().unwrap();
        let page =
            time(&format!("{query:?}, a page of 100"), SEARCHED_WITHIN, || store.search(&parsed, None, 100));
        let all = time(&format!("{query:?}, a page of 1000"), SEARCHED_WITHIN, || {
            store.search(&parsed, None, 1000)
        });
        println!("   found {} and {}", page.records.len(), all.records.len());
    }
    time("digest of 2 000 publishers", SEARCHED_WITHIN, || store.digest().len());
    let publisher = store.digest()[7].publisher;
    time("a publisher's records", SEARCHED_WITHIN, || store.after(&publisher, -1, 200).len());
    time("of_name", SEARCHED_WITHIN, || {
        store.of_name(&"organisation-42/Some-Model-2B-v42".parse().unwrap()).len()
    });
    let update: Vec<_> = (0..200)
        .map(|n| sign(&KEYS[n % 8], &format!("new/model-{n}"), RECORDS as i64 + n as i64, NOW))
        .collect();
    let begin = Instant::now();
    store.insert(&update, NOW, &none_kept).unwrap();
    println!("200 more in one transaction: {:.1?}", begin.elapsed());
    println!("resident at the end {} MB", resident());
}
