//! Keys that their owners have replaced.

use super::*;

#[test]
fn pins_and_listings_follow_a_replaced_key() {
    for base in
        [Base::tofu().pin(1), Base::tofu().list(1, Some("dora")), Base::strict().list(1, Some("dora"))]
    {
        base.succeeds(1, 2);
        base.succeeds(2, 3);
        let listed = base.trust.document().unwrap().listed(&key(1)).is_some();
        assert_eq!(brief(base.choose(&[(1, 1), (3, 2)], None)), "3 pin");
        if listed {
            assert_eq!(base.trust.describe(&key(3)), format!("dora ({})", key(3).fingerprint()));
        } else {
            assert_eq!(base.pinned(), Some(key(3)));
            assert_eq!(brief(base.choose(&[(1, 1)], None)), "replaced", "nothing of the new key is there");
            assert!(matches!(base.accept(Some(1)), Err(TrustError::Replaced { .. })));
        }
        // A thief of the former key is too late.
        base.succeeds(1, 9);
        assert_ne!(brief(base.choose(&[(9, 1), (3, 2)], None)), "9 pin");
        // Records of the catalog expire; successions that were followed stay.
        base.announced.lock().unwrap().clear();
        assert_eq!(brief(base.choose(&[(1, 1), (3, 2)], None)), "3 pin");
        assert_eq!(brief(base.choose(&[(1, 1), (3, 2)], Some(&key(1).to_string()))), "3 pin");
    }
}

#[test]
fn replaced_key_counts_as_unknown_for_a_free_name() {
    let base = Base::tofu();
    base.succeeds(1, 2);
    assert_eq!(brief(base.choose(&[(1, 1), (2, 2)], None)), "2 pin");
    assert_eq!(brief(base.choose(&[(1, 1), (3, 2)], None)), "3 pin");
    assert_eq!(brief(base.choose(&[(1, 1)], None)), "1 pin");
    base.accept(Some(1)).unwrap();
    assert_eq!(base.pinned(), Some(key(2)), "the name is its owner's");
    assert!(matches!(base.accept(Some(1)), Err(TrustError::Replaced { .. })));
    let base = Base::strict().list(2, None);
    base.succeeds(1, 2);
    assert_eq!(brief(base.choose(&[(1, 1)], None)), "replaced");
    assert!(matches!(base.accept(Some(1)), Err(TrustError::Replaced { .. })));
}

#[test]
fn circles_are_ignored_and_chains_are_bounded() {
    let base = Base::tofu().pin(1);
    base.succeeds(1, 2);
    base.succeeds(2, 1);
    assert_eq!(base.pinned(), Some(key(1)));
    let base = Base::tofu().pin(1);
    for number in 1..=200 {
        base.succeeds(number, number + 1);
    }
    let PublisherKey(reached) = base.pinned().unwrap();
    assert_eq!(usize::from(reached[0]), 1 + MAX_CHAIN, "as far as one question goes");
}

#[test]
fn foreign_records_do_not_replace_own_key() {
    let base = Base::tofu();
    let own = base.own();
    base.trust.claim(&name(), Some(own)).unwrap();
    base.announced.lock().unwrap().insert(own, key(9));
    assert_eq!(base.pinned(), Some(own));
    assert_eq!(base.trust.present_key(&own), own);
    base.succeeds(1, 2);
    assert_eq!(base.trust.present_key(&key(1)), key(2));
    let before = base.trust.document().unwrap();
    assert!(before.successions.is_empty(), "a succession of an unknown publisher is remembered");
    base.trust.succeed(&[(key(1), key(2))]).unwrap();
    base.trust.succeed(&[(key(1), key(3))]).unwrap();
    assert_eq!(base.trust.document().unwrap().successions[&key(1)].successor, key(2));
}

#[test]
fn models_of_a_former_key_stay_usable() {
    let base = Base::tofu();
    base.accept(Some(1)).unwrap();
    base.succeeds(1, 2);
    let accepts = |base: &Base, given: Option<u8>| base.trust.still_accepts(&name(), given.map(key)).is_ok();
    assert_eq!([1, 2, 3].map(|given| accepts(&base, Some(given))), [true, true, false]);
    assert!(accepts(&base, None), "unsigned models were imported by hand");
    base.trust.unpin(&name()).unwrap();
    base.trust.add(key(3), None, &[name()]).unwrap();
    assert_eq!([1, 2, 3].map(|given| accepts(&base, Some(given))), [false, false, true]);
    let base = Base::strict();
    let own = base.own();
    base.succeeds(1, 2);
    assert_eq!([1, 2, 3].map(|given| accepts(&base, Some(given))), [false, false, false]);
    base.trust.add(key(2), None, &[]).unwrap();
    assert_eq!([1, 2, 3].map(|given| accepts(&base, Some(given))), [true, true, false]);
    assert!(base.trust.still_accepts(&name(), Some(own)).is_ok());
}

#[test]
fn listed_successor_keeps_its_alias() {
    let base = Base::tofu().list(1, Some("former")).list(2, Some("dora"));
    base.succeeds(1, 2);
    base.trust.standing(&name(), None);
    let document = base.trust.document().unwrap();
    assert_eq!(document.publishers.len(), 1);
    assert!(document.describe(&key(2)).starts_with("dora ("));
}

#[test]
fn order_of_successions_does_not_matter() {
    let steps = [(1, 2), (2, 3), (3, 4)].map(|(former, successor)| (key(former), key(successor)));
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let base = Base::tofu().pin(1);
        base.trust.succeed(&order.map(|at| steps[at])).unwrap();
        assert_eq!(base.pinned(), Some(key(4)), "in the order {order:?}");
    }
}
