//! The records that are deleted when there is no room.

use super::*;

fn limits(records: usize, per_publisher: u32, per_kept: u32) -> RecordLimits {
    RecordLimits { records, per_publisher, per_kept, ..LIMITS }
}

fn many(key: &PublisherKeypair, numbers: std::ops::Range<i64>) -> Vec<SharedRecord> {
    numbers.map(|n| sign(key, &format!("x/m{n}"), n, NOW)).collect()
}

fn sequences(rig: &Rig, key: &PublisherKeypair) -> Vec<i64> {
    rig.store.after(&key.public(), -1, MAX_PAGE).iter().map(|record| record.record().sequence).collect()
}

#[test]
fn oldest_records_of_a_publisher_are_replaced() {
    let rig = Rig::with(limits(100, 5, 8));
    let kept = |publisher: &PublisherKey| *publisher == KEYS[1].public();
    rig.insert(&[successor(&KEYS[0], 0, NOW)]);
    assert_eq!(rig.insert(&many(&KEYS[0], 1..10)), [StoreOutcome::Stored; 9]);
    assert_eq!(sequences(&rig, &KEYS[0]), [0, 6, 7, 8, 9], "the successor record was deleted");
    assert_eq!(rig.insert(&[sign(&KEYS[0], "x/late", 3, NOW)]), [StoreOutcome::Full], "older than all");
    assert_eq!(rig.insert(&[sign(&KEYS[0], "x/m7", 12, NOW)]), [StoreOutcome::Stored], "replaces one");
    assert_eq!(sequences(&rig, &KEYS[0]), [0, 6, 8, 9, 12]);
    rig.store.insert(&many(&KEYS[1], 0..20), NOW, &kept).unwrap();
    assert_eq!(sequences(&rig, &KEYS[1]), (12..20).collect::<Vec<_>>());
    assert_eq!(rig.reopened().store.len(), 13);
}

#[test]
fn flood_by_one_key_displaces_only_its_own_records() {
    let rig = Rig::with(limits(40, 30, 1000));
    let kept = |publisher: &PublisherKey| *publisher == KEYS[1].public();
    rig.store.insert(&many(&KEYS[1], 0..20), NOW, &kept).unwrap();
    rig.insert(&many(&KEYS[2], 0..3));
    for from in (0..10_000).step_by(2_000) {
        rig.store.insert(&many(&KEYS[0], from..from + 20), NOW, &kept).unwrap();
    }
    assert_eq!(sequences(&rig, &KEYS[1]).len(), 20);
    assert_eq!(sequences(&rig, &KEYS[2]).len(), 3);
    assert_eq!(sequences(&rig, &KEYS[0]).len(), 17);
    assert_eq!(sequences(&rig, &KEYS[0])[16], 8_019, "the latest records are missing");
    assert_eq!(rig.reopened().store.len(), 40);
}

#[test]
fn flood_by_many_keys_spares_kept_publishers() {
    let rig = Rig::with(limits(40, 30, 1000));
    let kept = |publisher: &PublisherKey| *publisher == KEYS[1].public();
    rig.store.insert(&many(&KEYS[1], 0..35), NOW, &kept).unwrap();
    rig.insert(&many(&KEYS[2], 0..5));
    for _ in 0..60 {
        let key = PublisherKeypair::generate().unwrap();
        assert_eq!(rig.store.insert(&many(&key, 0..2), NOW, &kept).unwrap(), [StoreOutcome::Stored; 2]);
    }
    assert_eq!(sequences(&rig, &KEYS[1]).len(), 35);
    assert_eq!(rig.store.len(), 40);
    // A kept publisher displaces all other records, and then reaches its limit.
    let outcomes = rig.store.insert(&many(&KEYS[1], 100..110), NOW, &kept).unwrap();
    assert_eq!(outcomes[..5], [StoreOutcome::Stored; 5]);
    assert_eq!(outcomes[5..], [StoreOutcome::Full; 5]);
    assert_eq!(rig.store.digest().len(), 1);
    assert_eq!(rig.insert(&many(&KEYS[3], 0..1)), [StoreOutcome::Stored], "no publisher is kept any more");
    assert_eq!(rig.reopened().store.len(), 40);
}

#[test]
fn publisher_with_the_oldest_news_is_displaced() {
    let rig = Rig::with(limits(3, 30, 30));
    for (number, time) in [(0, NOW), (1, NOW - 100), (2, NOW - 50)] {
        rig.insert(&[sign(&KEYS[number], "x/y", 1, time)]);
    }
    assert_eq!(rig.insert(&[sign(&KEYS[3], "x/y", 1, NOW)]), [StoreOutcome::Stored]);
    assert!(rig.store.have(&KEYS[1].public()).is_none());
    assert_eq!(rig.store.len(), 3);
}

#[test]
fn bytes_are_bounded() {
    let one = sign(&KEYS[0], "x/m1", 1, NOW).to_bytes().len() as u64;
    let rig = Rig::with(RecordLimits { bytes: 10 * one + 5, ..LIMITS });
    rig.insert(&many(&KEYS[0], 0..10));
    rig.insert(&many(&KEYS[1], 0..10));
    assert!(rig.store.readable.read().index.bytes <= 10 * one + 5);
    assert_eq!((sequences(&rig, &KEYS[0]).len(), sequences(&rig, &KEYS[1]).len()), (5, 5));
    rig.reopened();
}

#[test]
fn index_and_disk_agree_after_many_changes() {
    let rig = Rig::with(limits(50, 12, 12));
    let kept = |publisher: &PublisherKey| *publisher == KEYS[7].public();
    // A sequence of numbers without a pattern, the same in every run.
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for sequence in 0..1500 {
        let key = &KEYS[random(8) as usize];
        let record = match random(20) {
            0 => successor(key, sequence, NOW),
            _ => sign(key, &format!("x/m{}", random(20)), sequence - random(40) as i64 + 40, NOW),
        };
        rig.store.insert(&[record], NOW, &kept).unwrap();
    }
    let index = rig.store.readable.read();
    assert!(index.index.records <= 50);
    let sum: usize = index.index.publishers.values().map(|publisher| publisher.count as usize).sum();
    assert_eq!(sum, index.index.records);
    assert!(index.index.publishers.values().all(|publisher| publisher.count <= 12));
    drop(index);
    for key in KEYS.iter() {
        let have = rig.store.have(&key.public()).map_or(0, |have| have.count);
        assert_eq!(sequences(&rig, key).len(), have as usize, "index and disk agree");
    }
    rig.reopened();
}
