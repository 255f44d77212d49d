use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use super::*;
use crate::catalog::record::tests::{fixed_key, model};
use crate::catalog::record::{RecordBody, SignedRecord};
use crate::catalog::{EXPIRY, MAX_AHEAD};
use crate::model::keys::PublisherKeypair;

mod bounds;
mod damage;
mod measure;

const NOW: UnixTime = 1_800_000_000;

static KEYS: LazyLock<Vec<PublisherKeypair>> =
    LazyLock::new(|| (0..8).map(|_| PublisherKeypair::generate().unwrap()).collect());

fn sign(key: &PublisherKeypair, name: &str, sequence: i64, time: UnixTime) -> SharedRecord {
    SharedRecord::new(SignedRecord::sign(model(key.public(), name, sequence, time), key).unwrap())
}

fn successor(key: &PublisherKeypair, sequence: i64, time: UnixTime) -> SharedRecord {
    let body = RecordBody::Successor(PublisherKey([3; 32]));
    let record = Record { publisher: key.public(), sequence, time, body };
    SharedRecord::new(SignedRecord::sign(record, key).unwrap())
}

fn none_kept(_: &PublisherKey) -> bool {
    false
}

/// A store in its own directory, with small limits.
struct Rig {
    dir: tempfile::TempDir,
    store: CatalogStore,
}

impl Rig {
    fn with(limits: RecordLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = CatalogStore::open_with(&dir.path().join("catalog"), NOW, limits).unwrap();
        Self { dir, store }
    }

    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn insert(&self, records: &[SharedRecord]) -> Vec<StoreOutcome> {
        self.store.insert(records, NOW, &none_kept).unwrap()
    }

    /// Closes and opens the store again; it must be as before.
    fn reopened(self) -> Self {
        let before = (
            self.store.len(),
            self.store.digest(),
            names(&self.store),
            self.store.readable.read().index.bytes,
        );
        let Self { dir, store } = self;
        let limits = store.limits.clone();
        drop(store);
        let store = CatalogStore::open_with(&dir.path().join("catalog"), NOW, limits).unwrap();
        assert_eq!(before, (store.len(), store.digest(), names(&store), store.readable.read().index.bytes));
        Self { dir, store }
    }
}

/// The names and sequences of all records, in the order of a search.
fn names(store: &CatalogStore) -> Vec<(String, i64)> {
    let page = store.search(&Query::default(), None, MAX_PAGE);
    assert_eq!(page.next, None);
    let name =
        |record: &SharedRecord| (record.model().unwrap().model_ref().to_string(), record.record().sequence);
    page.records.iter().map(name).collect()
}

#[test]
fn random_sample_reaches_every_item() {
    let mut counts = [0; 20];
    for _ in 0..4000 {
        let chosen = random_sample(0..20, 5);
        assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 5);
        chosen.into_iter().for_each(|n: usize| counts[n] += 1);
    }
    // 1000 each, give or take.
    assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    let mut all = random_sample(0..3, 5);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2]);
}

#[test]
fn records_are_found_after_a_restart() {
    let rig = Rig::new();
    let (a, b) = (&KEYS[0], &KEYS[1]);
    let records =
        [sign(a, "x/one", 1, NOW), sign(a, "x/two", 3, NOW), sign(b, "x/one", 7, NOW), successor(b, 9, NOW)];
    assert_eq!(rig.insert(&records), [StoreOutcome::Stored; 4]);
    assert_eq!(rig.insert(&records), [StoreOutcome::Known; 4]);
    let rig = rig.reopened();
    let store = &rig.store;
    assert_eq!((store.len(), store.is_empty()), (4, false));
    let mut one = store.of_name(&"x/one".parse().unwrap());
    one.sort_by_key(|record| record.record().sequence);
    assert_eq!(one, [records[0].clone(), records[2].clone()]);
    assert!(store.of_name(&"x/on".parse().unwrap()).is_empty());
    let model = "x/one".parse().unwrap();
    for first in [a, b] {
        let found = store.of_model(&model, &HashSet::from([first.public()]));
        assert_eq!((found.len(), found[0].record().publisher), (2, first.public()), "kept ones come first");
        let record = if first.public() == a.public() { &records[0] } else { &records[2] };
        assert_eq!(store.of(&first.public(), &model).as_ref(), Some(record));
    }
    assert!(store.of_model(&"x/one@v1".parse().unwrap(), &HashSet::new()).is_empty());
    assert_eq!(store.of(&a.public(), &"x/on".parse().unwrap()), None);
    assert_eq!(store.successor(&b.public()), Some(records[3].clone()));
    assert_eq!(store.successor(&a.public()), None);
    assert_eq!(store.after(&a.public(), -1, 10), records[..2]);
    assert_eq!(store.after(&a.public(), 1, 10), records[1..2]);
    assert_eq!(store.after(&a.public(), 0, 1), records[..1]);
    assert!(store.after(&a.public(), 3, 10).is_empty());
    assert_eq!(store.after(&b.public(), 0, 10), records[2..]);
    assert!(store.after(&b.public(), i64::MAX, 10).is_empty());
    let have = |key: &PublisherKeypair, sequence, count| Have { publisher: key.public(), sequence, count };
    let mut digest = vec![have(a, 3, 2), have(b, 9, 2)];
    digest.sort_by_key(|have| have.publisher);
    assert_eq!(store.digest(), digest);
    assert_eq!(store.have(&a.public()), Some(have(a, 3, 2)));
    assert_eq!(store.have(&KEYS[2].public()), None);
    let unchecked = |record: &SharedRecord| UncheckedRecord::from_bytes(&record.to_bytes()).unwrap();
    for record in &records {
        assert_eq!(store.known(&unchecked(record)).as_ref(), Some(record));
    }
    assert_eq!(store.known(&unchecked(&sign(a, "x/three", 1, NOW))), None);
    let later = sign(a, "x/one", 4, NOW);
    assert_eq!(store.known(&unchecked(&later)).as_ref(), Some(&records[0]));
}

#[test]
fn only_later_records_replace_a_record() {
    let rig = Rig::new();
    let key = &KEYS[0];
    let insert = |sequence, time| rig.insert(&[sign(key, "x/y", sequence, time)])[0];
    assert_eq!(insert(5, NOW), StoreOutcome::Stored);
    assert_eq!(insert(5, NOW + 1), StoreOutcome::Known);
    assert_eq!(insert(4, NOW + 1), StoreOutcome::Known);
    assert_eq!(insert(6, NOW - 1), StoreOutcome::Known, "time goes back");
    assert_eq!(insert(6, NOW), StoreOutcome::Stored);
    assert_eq!(names(&rig.store), [("x/y".to_owned(), 6)]);
    assert_eq!(rig.insert(&[successor(key, 1, NOW), successor(key, 2, NOW)]), [StoreOutcome::Stored; 2]);
    assert_eq!(rig.insert(&[successor(key, 1, NOW)]), [StoreOutcome::Known]);
    assert_eq!(rig.store.after(&key.public(), 0, 9).len(), 2);
    // Twice in one batch, in both orders.
    let (old, new) = (sign(key, "x/z", 8, NOW), sign(key, "x/z", 9, NOW));
    assert_eq!(
        rig.insert(&[old.clone(), new.clone(), old]),
        [StoreOutcome::Stored, StoreOutcome::Stored, StoreOutcome::Known]
    );
    let rig = rig.reopened();
    assert_eq!(names(&rig.store), [("x/y".to_owned(), 6), ("x/z".to_owned(), 9)]);
    assert_eq!(rig.store.len(), 3);
}

#[test]
fn future_record_does_not_block_newer_ones() {
    let rig = Rig::new();
    let key = &KEYS[0];
    let later = NOW + MAX_AHEAD + 2;
    let outcomes = rig.store.insert(&[sign(key, "x/y", 5, later)], later, &none_kept).unwrap();
    assert_eq!(outcomes, [StoreOutcome::Stored]);
    // A time up to a day ahead counts; a later one does not.
    assert_eq!(
        rig.store.insert(&[sign(key, "x/y", 6, NOW + 2)], NOW + 2, &none_kept).unwrap(),
        [StoreOutcome::Known]
    );
    assert_eq!(rig.insert(&[sign(key, "x/y", 6, NOW)]), [StoreOutcome::Stored]);
    assert_eq!(rig.insert(&[sign(key, "x/y", 5, NOW)]), [StoreOutcome::Known]);
    let rig = rig.reopened();
    assert_eq!(names(&rig.store), [("x/y".to_owned(), 6)]);
}

#[test]
fn untimely_records_are_refused_and_expired_deleted() {
    let rig = Rig::new();
    let key = &KEYS[0];
    let at = |name: &str, time| sign(key, name, 1, time);
    let records = [
        at("x/ahead", NOW + MAX_AHEAD + 1),
        at("x/old", NOW - EXPIRY),
        at("x/older", NOW - EXPIRY + 1),
        at("x/new", NOW),
    ];
    let outcomes =
        [StoreOutcome::Untimely, StoreOutcome::Untimely, StoreOutcome::Stored, StoreOutcome::Stored];
    assert_eq!(rig.insert(&records), outcomes);
    assert_eq!(rig.store.expire(NOW, &none_kept).unwrap(), 0);
    assert_eq!(rig.store.expire(NOW + 1, &none_kept).unwrap(), 1);
    assert_eq!(names(&rig.store), [("x/new".to_owned(), 1)]);
    let Rig { dir, store } = rig.reopened();
    drop(store);
    // Records that expired while the node was off are deleted at its start.
    let store = CatalogStore::open(&dir.path().join("catalog"), NOW + EXPIRY).unwrap();
    assert!(store.is_empty() && store.digest().is_empty());
}

#[test]
fn successor_stays_while_its_publisher_is_known() {
    let rig = Rig::new();
    let (key, other) = (&KEYS[0], &KEYS[1]);
    let kept = |publisher: &PublisherKey| *publisher == other.public();
    let old = NOW - EXPIRY - 5;
    assert_eq!(
        rig.insert(&[successor(key, 2, old)]),
        [StoreOutcome::Untimely],
        "the publisher has no other record"
    );
    assert_eq!(rig.insert(&[sign(key, "x/y", 1, NOW), successor(key, 2, old)]), [StoreOutcome::Stored; 2]);
    let outcomes = rig.store.insert(&[successor(other, 2, old)], NOW, &kept).unwrap();
    assert_eq!(outcomes, [StoreOutcome::Stored], "the publisher is kept");
    assert_eq!(rig.store.expire(NOW, &kept).unwrap(), 0);
    let rig = rig.reopened();
    assert!(rig.store.successor(&key.public()).is_some());
    // The last model of a publisher that is not kept is deleted, and then the successor.
    assert_eq!(rig.store.expire(NOW + EXPIRY, &kept).unwrap(), 2);
    assert!(rig.store.successor(&key.public()).is_none());
    assert!(rig.store.successor(&other.public()).is_some());
    assert_eq!(rig.store.expire(NOW + EXPIRY, &none_kept).unwrap(), 1);
    assert!(rig.store.is_empty());
}

#[test]
fn searches_are_paged_in_order() {
    let rig = Rig::new();
    let key = &KEYS[0];
    let mut records = Vec::new();
    for number in 0..30 {
        let mut record = model(key.public(), &format!("org{}/Model-{number:02}", number % 3), number, NOW);
        if let RecordBody::Model(model) = &mut record.body {
            model.tags = vec![format!("Tag-{}", number % 2), "common".to_owned()];
            model.license = (number % 5 == 0).then(|| "MIT".to_owned());
            model.size = 1000 * number as u64;
        }
        records.push(SharedRecord::new(SignedRecord::sign(record, key).unwrap()));
    }
    rig.insert(&records);
    rig.insert(&[successor(key, 100, NOW)]);
    let search = |query: &str, limit| {
        let query: Query = query.parse().unwrap();
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let page = rig.store.search(&query, from.as_deref(), limit);
            assert!(page.records.len() <= limit);
            assert!(page.records.iter().all(|record| query.matches(record.record())));
            found.extend(page.records.iter().map(|record| record.record().sequence));
            match page.next {
                None => return found,
                next => from = next,
            }
        }
    };
    let sorted = |fits: fn(i64) -> bool| {
        let mut all: Vec<i64> = (0..30).filter(|&number| fits(number)).collect();
        all.sort_by_key(|number| (number % 3, *number));
        all
    };
    for limit in [1, 7, 1000] {
        assert_eq!(search("", limit), sorted(|_| true), "{limit}");
        assert_eq!(search("tag:TAG-1", limit), sorted(|n| n % 2 == 1));
        assert_eq!(search("tag:common license:mit", limit), sorted(|n| n % 5 == 0));
        assert_eq!(search("org2/* size<15kB", limit), sorted(|n| n % 3 == 2 && n < 15));
        assert_eq!(search("model-1", limit), sorted(|n| n / 10 == 1));
        assert!(search("tag:mit", limit).is_empty(), "a licence is not a tag");
    }
    let fingerprint = &key.public().fingerprint()[..9];
    assert_eq!(search(&format!("publisher:{fingerprint} -05"), 5), [5]);
    assert!(search(&format!("publisher:{}", KEYS[1].public()), 5).is_empty());
    let garbage = rig.store.search(&Query::default(), Some(&[255; 400]), 5);
    assert!(garbage.records.is_empty() && garbage.next.is_none());
}

#[test]
fn readers_see_whole_batches_of_a_writer() {
    let rig = Rig::new();
    let key = &KEYS[0];
    let batch = |round: i64| -> Vec<SharedRecord> {
        (0..20).map(|n| sign(key, &format!("x/m{n}"), round * 100 + n, NOW + round as u64)).collect()
    };
    rig.insert(&batch(0));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut searches = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let found = names(&rig.store);
                        assert_eq!(found.len(), 20, "a record is missing while it is replaced");
                        let rounds: std::collections::BTreeSet<i64> =
                            found.iter().map(|(_, sequence)| sequence / 100).collect();
                        assert_eq!(rounds.len(), 1, "a batch is seen in part");
                        assert_eq!(rig.store.after(&key.public(), -1, 100).len(), 20);
                        searches += 1;
                    }
                    searches
                })
            })
            .collect();
        for round in 1..20 {
            assert_eq!(rig.insert(&batch(round)), [StoreOutcome::Stored; 20]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
}

const CHILD_DIR: &str = "SILMARIL_TEST_STORE";

/// The child process of the test below: inserts until it is killed, and prints what is committed.
#[test]
#[ignore = "not a test: the process that the test of a kill starts"]
fn inserts_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = CatalogStore::open(Path::new(&dir), NOW).unwrap();
    let key = fixed_key();
    for batch in 0.. {
        let records: Vec<_> =
            (0..20).map(|n| sign(&key, &format!("x/m{n}"), batch * 20 + n, NOW + batch as u64)).collect();
        store.insert(&records, NOW, &none_kept).unwrap();
        println!("\ncommitted {batch}");
    }
}

#[test]
fn pushed_records_are_saved_by_the_next_flush() {
    let (rig, copies) = (Rig::new(), tempfile::tempdir().unwrap());
    // The database that a process would find after a power failure now.
    let left = |n: i64| {
        let copy = copies.path().join(n.to_string());
        fs::create_dir(&copy).unwrap();
        fs::copy(rig.store.file.clone(), copy.join("records.redb")).unwrap();
        CatalogStore::open(&copy, NOW).unwrap().len()
    };
    rig.insert(&[sign(&KEYS[0], "x/own", 1, NOW)]);
    for n in 0..50 {
        let pushed = sign(&KEYS[1], &format!("x/m{n}"), n + 1, NOW);
        assert_eq!(rig.store.insert_soon(&[pushed], NOW, &none_kept).unwrap(), [StoreOutcome::Stored]);
    }
    assert_eq!((rig.store.len(), left(1)), (51, 1));
    rig.store.flush().unwrap();
    assert_eq!(left(2), 51);
    // A sync also saves earlier commits.
    rig.store.insert_soon(&[sign(&KEYS[1], "x/late", 100, NOW)], NOW, &none_kept).unwrap();
    rig.insert(&[sign(&KEYS[0], "x/own2", 2, NOW)]);
    assert_eq!(left(3), 53);
}

#[test]
fn commits_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let key = fixed_key().public();
    let mut last = -1;
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "catalog::store::tests::inserts_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let committed: i64 = lines
            .filter_map(|line| line.strip_prefix("committed ")?.parse().ok())
            .find(|&batch| batch > last && batch >= last + 5)
            .expect("the child inserts until it is killed");
        child.kill().unwrap();
        child.wait().unwrap();
        let store = CatalogStore::open(dir.path(), NOW).unwrap();
        assert!(!dir.path().join("records.redb.damaged").exists());
        let found = store.after(&key, -1, 100);
        let batches: Vec<i64> = found.iter().map(|record| record.record().sequence / 20).collect();
        assert_eq!(batches.len(), 20);
        assert!(batches.iter().all(|batch| *batch == batches[0]), "a batch is there in part");
        assert!(batches[0] >= committed, "{committed} was committed, {} is here", batches[0]);
        last = batches[0];
    }
}

#[test]
fn replaced_key_has_the_limits_of_an_unknown_one() {
    let rig = Rig::with(RecordLimits { per_publisher: 3, per_kept: 10, ..LIMITS });
    let key = &KEYS[0];
    let kept = |publisher: &PublisherKey| *publisher == key.public();
    let insert = |record: SharedRecord| rig.store.insert(&[record], NOW, &kept).unwrap();
    for n in 0..4 {
        insert(sign(key, &format!("x/m{n}"), n, NOW));
    }
    assert_eq!(rig.store.len(), 4);
    insert(successor(key, i64::MAX, NOW));
    for n in 4..20 {
        insert(sign(key, &format!("x/m{n}"), n, NOW));
    }
    assert!(rig.store.len() <= 5, "{}", rig.store.len());
    assert!(rig.store.successor(&key.public()).is_some(), "the successor is forgotten");
}
