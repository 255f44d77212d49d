//! Keys that their owners replace.

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
        // The catalog's records expire; what was followed stays.
        base.told.lock().unwrap().clear();
        assert_eq!(brief(base.choose(&[(1, 1), (3, 2)], None)), "3 pin");
        assert_eq!(brief(base.choose(&[(1, 1), (3, 2)], Some(&key(1).to_string()))), "3 pin");
    }
}

#[test]
fn a_replaced_key_is_a_strangers_for_a_name_that_nobody_owns() {
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
fn successions_in_a_circle_move_nothing_and_long_chains_end() {
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
fn nobody_else_says_that_our_own_key_was_replaced() {
    let base = Base::tofu();
    let own = base.own();
    base.trust.claim(&name(), Some(own)).unwrap();
    base.told.lock().unwrap().insert(own, key(9));
    assert_eq!(base.pinned(), Some(own));
    assert_eq!(base.trust.present_key(&own), own);
    base.succeeds(1, 2);
    assert_eq!(base.trust.present_key(&key(1)), key(2));
    let before = base.trust.document().unwrap();
    assert!(before.successions.is_empty(), "who is nobody here is not remembered");
    base.trust.succeed(&[(key(1), key(2))]).unwrap();
    base.trust.succeed(&[(key(1), key(3))]).unwrap();
    assert_eq!(base.trust.document().unwrap().successions[&key(1)].successor, key(2));
}

#[test]
fn what_a_former_key_signed_is_used_as_long_as_its_owner_is_accepted() {
    let base = Base::tofu();
    base.accept(Some(1)).unwrap();
    base.succeeds(1, 2);
    let stands = |base: &Base, given: Option<u8>| base.trust.stands(&name(), given.map(key)).is_ok();
    assert_eq!([1, 2, 3].map(|given| stands(&base, Some(given))), [true, true, false]);
    assert!(stands(&base, None), "what nobody signed was put here by hand");
    base.trust.unpin(&name()).unwrap();
    base.trust.add(key(3), None, &[name()]).unwrap();
    assert_eq!([1, 2, 3].map(|given| stands(&base, Some(given))), [false, false, true]);
    let base = Base::strict();
    let own = base.own();
    base.succeeds(1, 2);
    assert_eq!([1, 2, 3].map(|given| stands(&base, Some(given))), [false, false, false]);
    base.trust.add(key(2), None, &[]).unwrap();
    assert_eq!([1, 2, 3].map(|given| stands(&base, Some(given))), [true, true, false]);
    assert!(base.trust.stands(&name(), Some(own)).is_ok());
}

#[test]
fn a_successor_that_is_listed_already_keeps_its_alias() {
    let base = Base::tofu().list(1, Some("former")).list(2, Some("dora"));
    base.succeeds(1, 2);
    base.trust.standing(&name(), None);
    let document = base.trust.document().unwrap();
    assert_eq!(document.publishers.len(), 1);
    assert!(document.describe(&key(2)).starts_with("dora ("));
}

#[test]
fn a_name_reaches_the_present_key_in_whatever_order_successions_come() {
    let steps = [(1, 2), (2, 3), (3, 4)].map(|(former, successor)| (key(former), key(successor)));
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let base = Base::tofu().pin(1);
        base.trust.succeed(&order.map(|at| steps[at])).unwrap();
        assert_eq!(base.pinned(), Some(key(4)), "in the order {order:?}");
    }
}
