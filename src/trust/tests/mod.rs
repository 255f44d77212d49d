//! The rules, each as a table.

mod file;
mod successions;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::document::When;
use super::error::NO_PUBLISHER;
use super::*;

const NAME: &str = "acme/tiny";

fn name() -> ModelName {
    NAME.parse().unwrap()
}

fn key(number: u8) -> PublisherKey {
    PublisherKey([number; 32])
}

fn hash(number: u8) -> InfoHash {
    InfoHash([number; 32])
}

/// A base directory and its trust.
struct Base {
    _dir: tempfile::TempDir,
    paths: Paths,
    trust: Trust,
    /// The successions that the catalog knows.
    announced: Arc<Mutex<HashMap<PublisherKey, PublisherKey>>>,
}

impl Base {
    fn new(policy: TrustPolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir.path().join("base"));
        paths.create().unwrap();
        let trust = Trust::open(&paths, policy);
        let announced: Arc<Mutex<HashMap<_, _>>> = Arc::default();
        let asked = announced.clone();
        trust.follow(Arc::new(move |key| asked.lock().unwrap().get(key).copied()));
        Self { _dir: dir, paths, trust, announced }
    }

    fn tofu() -> Self {
        Self::new(TrustPolicy::Tofu)
    }

    fn strict() -> Self {
        Self::new(TrustPolicy::Strict)
    }

    fn list(self, number: u8, alias: Option<&str>) -> Self {
        self.trust.add(key(number), alias.map(|alias| alias.parse().unwrap()), &[]).unwrap();
        self
    }

    fn pin(self, number: u8) -> Self {
        let pin = |document: &mut TrustDocument| document.pin(&name(), key(number));
        self.trust.file.change(pin).unwrap();
        self
    }

    fn own(&self) -> PublisherKey {
        PublisherKeypair::load_or_create(&self.paths.publisher_key()).unwrap().public()
    }

    fn succeeds(&self, former: u8, successor: u8) {
        self.announced.lock().unwrap().insert(key(former), key(successor));
    }

    fn choose(&self, candidates: &[(u8, u8)], wanted: Option<&str>) -> Result<Choice, TrustError> {
        let candidates: Vec<_> = candidates.iter().map(|(k, h)| (key(*k), hash(*h))).collect();
        self.trust.choose(&name(), &candidates, wanted)
    }

    fn accept(&self, given: Option<u8>) -> Result<(), TrustError> {
        self.trust.accept(&name(), given.map(key), Pinning::Pin)
    }

    fn pinned(&self) -> Option<PublisherKey> {
        self.trust.pinned(&name()).unwrap()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.paths.trust()).unwrap_or_default()
    }
}

/// A result, short enough for a table.
#[track_caller]
fn brief(result: Result<Choice, TrustError>) -> String {
    match result {
        Ok(Choice { publisher, pinning }) => {
            format!("{} {}", publisher.0[0], if pinning == Pinning::Pin { "pin" } else { "leave" })
        }
        Err(TrustError::OtherPublisher { .. }) => "other".to_owned(),
        Err(TrustError::Untrusted { .. }) => "untrusted".to_owned(),
        Err(TrustError::Ambiguous { candidates, .. }) => format!("ambiguous {}", candidates.len()),
        Err(TrustError::NotOffered { .. }) => "not offered".to_owned(),
        Err(TrustError::Replaced { .. }) => "replaced".to_owned(),
        Err(TrustError::Unpublished(_)) => "unpublished".to_owned(),
        Err(TrustError::UnknownPublisher(_)) => "unknown".to_owned(),
        Err(TrustError::TooShort { .. }) => "too short".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

/// Listed publishers, the owner of the name, and the offers as (publisher, info hash).
type Case = (&'static [u8], Option<u8>, &'static [(u8, u8)], &'static str, &'static str);

/// Each case: listed, pinned, offered, the result with tofu, and with strict.
const CHOICES: &[Case] = &[
    (&[], None, &[], "unpublished", "unpublished"),
    (&[], None, &[(1, 1)], "1 pin", "untrusted"),
    (&[], None, &[(1, 1), (1, 1)], "1 pin", "untrusted"),
    (&[], None, &[(1, 1), (1, 2)], "1 pin", "untrusted"),
    (&[], None, &[(2, 1), (1, 2)], "ambiguous 2", "untrusted"),
    (&[], None, &[(2, 1), (1, 1)], "1 leave", "untrusted"),
    (&[], None, &[(2, 1), (1, 1), (3, 2)], "ambiguous 3", "untrusted"),
    (&[], None, &[(2, 1), (1, 1), (1, 2)], "ambiguous 2", "untrusted"),
    (&[2], None, &[], "unpublished", "unpublished"),
    (&[2], None, &[(1, 1)], "1 pin", "untrusted"),
    (&[2], None, &[(2, 1)], "2 pin", "2 pin"),
    (&[2], None, &[(2, 1), (1, 2)], "2 pin", "2 pin"),
    // The same bytes: the listed publisher may be the copier.
    (&[2], None, &[(2, 1), (1, 1)], "2 leave", "2 pin"),
    (&[2, 3], None, &[(2, 1), (3, 2), (1, 3)], "ambiguous 3", "ambiguous 2"),
    (&[2, 3], None, &[(3, 1), (2, 1), (1, 3)], "2 leave", "2 leave"),
    (&[2, 3], None, &[(3, 1), (2, 1), (1, 1)], "2 leave", "2 leave"),
    (&[], Some(1), &[], "unpublished", "unpublished"),
    (&[], Some(1), &[(1, 1)], "1 pin", "untrusted"),
    (&[], Some(1), &[(1, 1), (2, 2)], "1 pin", "untrusted"),
    (&[], Some(1), &[(2, 1)], "other", "other"),
    (&[], Some(1), &[(2, 1), (3, 2)], "other", "other"),
    (&[2], Some(1), &[(1, 1), (2, 2)], "1 pin", "untrusted"),
    (&[2], Some(1), &[(2, 1)], "other", "other"),
    (&[1, 2], Some(1), &[(1, 1), (2, 2)], "1 pin", "1 pin"),
];

#[test]
fn pinned_then_listed_then_only_publisher_is_chosen() {
    for (listed, pinned, offered, tofu, strict) in CHOICES {
        for (base, expected) in [(Base::tofu(), tofu), (Base::strict(), strict)] {
            let base = listed.iter().fold(base, |base, number| base.list(*number, None));
            let base = pinned.iter().fold(base, |base, number| base.pin(*number));
            let before = base.text();
            let policy = base.trust.policy();
            let case = format!("{policy}: listed {listed:?}, pinned {pinned:?}, offered {offered:?}");
            assert_eq!(brief(base.choose(offered, None)), **expected, "{case}");
            assert_eq!(base.text(), before, "{case}: choosing decides nothing");
        }
    }
}

#[test]
fn own_key_ranks_between_listed_and_unknown_publishers() {
    for base in [Base::tofu(), Base::strict()] {
        let own = base.own();
        let choose = |offered: &[(PublisherKey, InfoHash)]| base.trust.choose(&name(), offered, None);
        let ours = Choice { publisher: own, pinning: Pinning::Pin };
        assert_eq!(choose(&[(key(1), hash(1)), (own, hash(2))]), Ok(ours));
        assert_eq!(choose(&[(own, hash(2))]), Ok(ours));
        let copied = choose(&[(PublisherKey([0; 32]), hash(2)), (own, hash(2))]).unwrap();
        assert_eq!(copied.publisher, own);
        base.trust.add(key(1), None, &[]).unwrap();
        assert_eq!(choose(&[(key(1), hash(1)), (own, hash(2))]).unwrap().publisher, key(1));
    }
}

#[test]
fn wanted_publisher_is_chosen_unless_another_owns_the_name() {
    let hex = |number| key(number).to_string();
    for (listed, pinned, offered, wanted, tofu, strict) in [
        (&[][..], None, &[(1, 1), (2, 2)][..], hex(2), "2 pin", "untrusted"),
        (&[], None, &[(1, 1), (2, 1)], hex(2), "2 pin", "untrusted"),
        (&[2], None, &[(1, 1), (2, 2)], hex(1), "1 pin", "untrusted"),
        (&[2], None, &[(1, 1), (2, 2)], hex(2), "2 pin", "2 pin"),
        (&[], None, &[(1, 1)], hex(2), "not offered", "not offered"),
        (&[], None, &[], hex(2), "not offered", "not offered"),
        (&[], None, &[(1, 1)], "someone".into(), "not offered", "not offered"),
        (&[], None, &[], "someone".into(), "unknown", "unknown"),
        (&[], Some(1), &[(1, 1), (2, 2)], hex(2), "other", "other"),
        (&[2], Some(1), &[(1, 1), (2, 2)], hex(2), "other", "other"),
        (&[], Some(1), &[(1, 1), (2, 2)], hex(1), "1 pin", "untrusted"),
        (&[], None, &[(1, 1), (2, 2)], key(2).fingerprint(), "2 pin", "untrusted"),
        (&[], None, &[(1, 1), (2, 2)], key(2).fingerprint()[..9].to_owned(), "too short", "too short"),
        (&[], None, &[(1, 1), (2, 2)], hex(2)[..16].to_uppercase(), "2 pin", "untrusted"),
        (&[2], None, &[(1, 1), (2, 2)], hex(2)[..8].to_uppercase(), "2 pin", "2 pin"),
        (&[2], None, &[(1, 1), (2, 2)], key(2).fingerprint()[..9].to_owned(), "2 pin", "2 pin"),
        (&[], None, &[(1, 1), (2, 2)], hex(2)[..7].to_owned(), "too short", "too short"),
    ] {
        for (base, expected) in [(Base::tofu(), tofu), (Base::strict(), strict)] {
            let base = listed.iter().fold(base, |base, number| base.list(*number, None));
            let base = pinned.iter().fold(base, |base, number| base.pin(*number));
            let policy = base.trust.policy();
            let case =
                format!("{policy}: listed {listed:?}, pinned {pinned:?}, {offered:?}, wanted {wanted}");
            assert_eq!(brief(base.choose(offered, Some(&wanted))), expected, "{case}");
        }
    }
}

#[test]
fn too_few_digits_of_a_publisher_are_refused() {
    let base = Base::tofu();
    let offered = [(PublisherKey([7; 32]), InfoHash([1; 32]))];
    let name = name();
    let fingerprint = PublisherKey([7; 32]).fingerprint();
    // An attacker can make a key for any beginning that is shorter than a fingerprint.
    for few in ["0", "0707070", "07070707", "070707070707070", &fingerprint[..18]] {
        let error = base.trust.choose(&name, &offered, Some(few)).unwrap_err();
        assert!(error.to_string().contains("too short"), "{error}");
    }
    for enough in ["0707070707070707", &fingerprint] {
        assert!(base.trust.choose(&name, &offered, Some(enough)).is_ok());
    }
    // Fewer digits identify a known publisher.
    let known = Base::tofu().list(7, None);
    assert!(known.trust.choose(&name, &offered, Some("07070707")).is_ok());
    assert!(known.trust.choose(&name, &offered, Some("0707070")).is_err());
    // Digits that match no publisher are an unknown publisher.
    let error = base.trust.choose(&name, &offered, Some("bob")).unwrap_err();
    assert!(matches!(error, TrustError::NotOffered { .. }), "{error}");
}

#[test]
fn ambiguous_publisher_is_refused_with_all_matches() {
    let base = Base::tofu();
    let twins = [PublisherKey([7; 32]), PublisherKey(std::array::from_fn(|i| if i < 31 { 7 } else { 8 }))];
    let error = base.trust.find("0707070707070707", twins).unwrap_err();
    for twin in twins {
        assert!(error.to_string().contains(&twin.fingerprint()), "{error}");
        assert_eq!(base.trust.find(&twin.fingerprint(), twins), Ok(twin));
    }
}

#[test]
fn the_first_accepted_publisher_owns_the_name() {
    let base = Base::tofu();
    assert_eq!(base.accept(None), Ok(()), "unsigned");
    assert_eq!(base.pinned(), None, "an unsigned manifest owns nothing");
    base.trust.accept(&name(), Some(key(3)), Pinning::Leave).unwrap();
    assert_eq!(base.pinned(), None, "one of several equal ones owns nothing");
    base.accept(Some(1)).unwrap();
    assert_eq!(base.pinned(), Some(key(1)));
    base.accept(Some(1)).unwrap();
    let error = base.accept(Some(2)).unwrap_err().to_string();
    assert!(error.contains(&key(1).fingerprint()) && error.contains(&key(2).fingerprint()), "{error}");
    assert!(
        matches!(base.accept(None), Err(TrustError::OtherPublisher { given, .. }) if given == NO_PUBLISHER)
    );
    let other: ModelName = "Acme/tiny".parse().unwrap();
    assert_eq!(base.trust.accept(&other, Some(key(2)), Pinning::Pin), Ok(()), "another name");
    base.trust.unpin(&name()).unwrap();
    base.accept(Some(2)).unwrap();
    assert_eq!(base.pinned(), Some(key(2)));
}

#[test]
fn strict_accepts_only_listed_publishers_and_own_key() {
    let base = Base::strict().list(2, Some("dora"));
    assert!(matches!(base.accept(Some(1)), Err(TrustError::Untrusted { .. })));
    assert!(matches!(base.accept(None), Err(TrustError::Untrusted { .. })));
    assert_eq!(base.pinned(), None);
    base.accept(Some(2)).unwrap();
    assert_eq!(base.pinned(), Some(key(2)), "listed publishers cannot take each other's names");
    let own = base.own();
    let ours: ModelName = "acme/ours".parse().unwrap();
    base.trust.accept(&ours, Some(own), Pinning::Pin).unwrap();
    base.trust.remove(&key(2), false).unwrap();
    assert!(matches!(base.accept(Some(2)), Err(TrustError::Untrusted { .. })), "pinned, but not listed");
}

#[test]
fn sharing_needs_only_a_name_without_other_owner() {
    let base = Base::strict();
    base.trust.claim(&name(), None).unwrap();
    let own = base.own();
    base.trust.claim(&name(), Some(own)).unwrap();
    assert_eq!(base.pinned(), Some(own));
    assert!(base.trust.claim(&name(), None).is_err());
    let base = Base::tofu().pin(1);
    let own = base.own();
    assert!(matches!(base.trust.claim(&name(), Some(own)), Err(TrustError::OtherPublisher { .. })));
}

#[test]
fn known_model_must_be_signed_by_the_wanted_publisher() {
    let base = Base::tofu();
    let insist = |given: Option<u8>, wanted: &str| base.trust.insist(&name(), given.map(key), wanted);
    assert!(matches!(insist(Some(1), "unknown"), Err(TrustError::NotOffered { .. })));
    assert!(matches!(insist(None, &key(1).to_string()), Err(TrustError::NotOffered { .. })));
    assert!(matches!(insist(Some(2), &key(1).to_string()), Err(TrustError::NotOffered { .. })));
    assert_eq!(base.pinned(), None);
    insist(Some(1), &key(1).fingerprint()).unwrap();
    assert_eq!(base.pinned(), Some(key(1)), "who is asked for owns the name");
    assert!(matches!(insist(Some(2), &key(2).to_string()), Err(TrustError::OtherPublisher { .. })));
    base.succeeds(1, 3);
    insist(Some(1), &key(3).to_string()).unwrap();
    insist(Some(1), &key(1).to_string()).unwrap();
}

#[test]
fn standings_agree_with_choices() {
    let base = Base::tofu().list(2, None);
    let own = base.own();
    let of = |key: &PublisherKey| base.trust.standing(&name(), Some(key));
    assert_eq!([of(&key(1)), of(&key(2)), of(&own)], [Standing::Unknown, Standing::Listed, Standing::Own]);
    assert_eq!(base.trust.standing(&name(), None), Standing::Unknown);
    base.accept(Some(1)).unwrap();
    assert_eq!(
        [of(&key(1)), of(&key(2)), of(&own)],
        [Standing::Pinned, Standing::Refused, Standing::Refused]
    );
    assert_eq!(Base::strict().trust.standing(&name(), Some(&key(1))), Standing::Refused);
    assert!(
        [key(1), key(2), own].iter().all(|key| base.trust.known_keys().contains(key))
            && !base.trust.known_keys().contains(&key(3))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// For any facts: the order of candidates does not matter; a choice is a candidate that would be accepted; a pinned name
    /// belongs to its owner; a choice among different models is a trusted publisher; equal models are left unpinned.
    #[test]
    fn choices_follow_the_rules(
        offered in proptest::collection::vec((0u8..6, 0u8..3), 0..8),
        listed in proptest::collection::btree_set(0u8..6, 0..3),
        pinned in proptest::option::of(0u8..6),
        successions in proptest::collection::btree_map(0u8..6, 0u8..6, 0..4),
        strict: bool,
        turn in 0usize..8,
    ) {
        let policy = if strict { TrustPolicy::Strict } else { TrustPolicy::Tofu };
        let mut document = TrustDocument::default();
        let mut announced = successions.clone();
        // Only successions that lead to a key.
        announced.retain(|former, successor| former < successor);
        let owner = |k: &PublisherKey| {
            let mut at = k.0[0];
            while let Some(next) = announced.get(&at) {
                at = *next;
            }
            key(at)
        };
        for number in &listed {
            let listed = ListedPublisher { key: owner(&key(*number)), alias: None, added: When::now() };
            if document.listed(&listed.key).is_none() {
                document.publishers.push(listed);
            }
        }
        if let Some(pinned) = pinned {
            document.pin(&name(), owner(&key(pinned))).unwrap();
        }
        let view = TrustView { document: &document, policy, own: Some(key(5)), owner: &owner };
        let mut candidates: Vec<_> = offered.iter().map(|(k, h)| (key(*k), hash(*h))).collect();
        let choice = view.choose(&name(), &candidates, None);
        let turn = turn % candidates.len().max(1);
        candidates.rotate_left(turn);
        candidates.extend_from_within(..);
        prop_assert_eq!(&view.choose(&name(), &candidates, None), &choice);
        let publishers: BTreeSet<PublisherKey> = candidates.iter().map(|(k, _)| *k).collect();
        if let Ok(Choice { publisher, pinning }) = choice {
            prop_assert!(publishers.contains(&publisher));
            prop_assert!(view.judge(&name(), Some(publisher)).is_ok());
            if let Some(pinned) = document.pinned(&name()) {
                prop_assert_eq!(publisher, pinned);
            }
            let trusted = document.listed(&publisher).is_some() || publisher == key(5);
            prop_assert!(!strict || trusted);
            let present: BTreeSet<_> = publishers.iter().filter(|k| owner(k) == **k).collect();
            let hashes: BTreeSet<_> = candidates.iter().filter(|(k, _)| owner(k) == *k).map(|(_, h)| *h).collect();
            let differ = hashes.len() > 1;
            if document.pinned(&name()).is_none() && present.len() > 1 {
                prop_assert!(trusted || !differ, "an unknown publisher among different models");
                prop_assert!(differ || strict || pinning == Pinning::Leave, "a copier would own the name");
            }
        }
    }
}
