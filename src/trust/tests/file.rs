//! The file: its content, and concurrent changes.

use super::*;
use crate::trust::changes::Removed;

#[test]
fn pins_of_an_old_registry_are_imported_once() {
    let base = Base::tofu();
    base.trust.import_pins(None).unwrap();
    assert!(!base.paths.trust().exists(), "a file was written without pins");
    base.trust.import_pins([(name(), key(1)), (name(), key(2))]).unwrap();
    assert_eq!(base.pinned(), Some(key(1)));
    base.trust.unpin(&name()).unwrap();
    base.trust.import_pins([(name(), key(1))]).unwrap();
    assert_eq!(base.pinned(), None);
    // If the first manifest was unsigned, its name is not pinned at the next start.
    let base = Base::tofu();
    base.trust.accept(&name(), Some(key(1)), Pinning::Leave).unwrap();
    base.trust.import_pins([(name(), key(1))]).unwrap();
    assert_eq!(base.pinned(), None);
}

#[test]
fn a_full_disk_prevents_a_pin_and_not_a_read() {
    let base = Base::tofu();
    let accept = |pinning| crate::fsutil::without_space(|| base.trust.accept(&name(), Some(key(1)), pinning));
    accept(Pinning::Leave).unwrap();
    assert!(accept(Pinning::Pin).unwrap_err().is_full_or_read_only());
    assert_eq!(base.pinned(), None);
}

#[test]
fn file_is_private_and_holds_the_decisions() {
    let base = Base::tofu().list(1, Some("dora")).list(2, None).pin(3);
    base.succeeds(2, 4);
    base.trust.standing(&name(), None);
    let mode = std::os::unix::fs::PermissionsExt::mode(&base.paths.trust().metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = Trust::open(&base.paths, TrustPolicy::Tofu);
    assert_eq!(again.document().unwrap(), base.trust.document().unwrap());
    let text = base.text();
    for part in ["alias: dora", "name: acme/tiny", "successor:", "added:", "since:", &key(3).to_string()] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn edits_by_hand_count_at_the_next_question() {
    let base = Base::tofu();
    assert_eq!(base.pinned(), None);
    let pin = |number| {
        format!("pins:\n- {{name: {NAME}, publisher: {}, since: 2026-01-31T12:00:00Z}}\n", key(number))
    };
    std::fs::write(base.paths.trust(), pin(1)).unwrap();
    assert_eq!(base.pinned(), Some(key(1)));
    std::fs::write(base.paths.trust(), pin(2)).unwrap();
    assert_eq!(base.pinned(), Some(key(2)));
    std::fs::remove_file(base.paths.trust()).unwrap();
    assert_eq!(base.pinned(), None);
}

#[test]
fn malformed_file_is_reported_with_line_and_kept() {
    let hex = key(1);
    let since = "2026-01-31T12:00:00Z";
    for (text, line, parts) in [
        ("pubishers: []\n".to_owned(), 1, &["pubishers", "publishers"][..]),
        (format!("publishers:\n- key: {hex}\n  aka: x\n  added: {since}\n"), 3, &["aka"]),
        (format!("publishers:\n- key: {hex}\n  alias: ../x\n  added: {since}\n"), 3, &["alias"]),
        (format!("publishers:\n- key: 1234\n  added: {since}\n"), 2, &["key"]),
        (format!("publishers:\n- key: {hex}\n  added: yesterday\n"), 3, &["yesterday"]),
        (format!("publishers:\n- key: {hex}\n"), 0, &["added"]),
        (format!("pins:\n- name: tiny\n  publisher: {hex}\n  since: {since}\n"), 2, &["tiny"]),
        (
            format!(
                "publishers:\n- {{key: {hex}, alias: x, added: {since}}}\n- {{key: {}, alias: X, added: {since}}}\n",
                key(2)
            ),
            0,
            &["x occurs twice"],
        ),
        (
            format!(
                "pins:\n- {{name: {NAME}, publisher: {hex}, since: {since}}}\n- {{name: {NAME}, publisher: {hex}, since: {since}}}\n"
            ),
            0,
            &["acme/tiny occurs twice"],
        ),
        ("[".repeat(100_000), 1, &["nested deeper than 64 levels"]),
        ("pins: [\n".to_owned(), 0, &[]),
        ("\u{0}".to_owned(), 0, &[]),
    ] {
        let base = Base::tofu();
        std::fs::write(base.paths.trust(), &text).unwrap();
        let error = base.accept(Some(1)).unwrap_err().to_string();
        assert!(error.contains("trust.yaml:") && !error.contains('\n'), "{error}");
        if line > 0 {
            assert!(error.contains(&format!("trust.yaml:{line}: ")), "{text:?}: {error}");
        }
        for part in parts {
            assert!(error.contains(part), "{text:?}: no {part:?} in {error}");
        }
        assert!(base.trust.add(key(7), None, &[]).is_err());
        assert_eq!(base.text(), text);
        assert_eq!(base.trust.standing(&name(), Some(&key(1))), Standing::Refused);
        assert_eq!(base.trust.describe(&key(1)), key(1).fingerprint());
    }
}

#[test]
fn aliases_are_short_unique_and_no_keys() {
    for text in ["a", "Meta-llama", "x.y_z-0", &"a".repeat(63)] {
        assert!(text.parse::<Alias>().is_ok(), "{text}");
    }
    let (long, hex, fingerprint) = ("a".repeat(65), key(1).to_string(), key(1).fingerprint());
    for text in ["", "-a", ".a", "a b", "a/b", "é", "a\u{202e}b", "a\n", &long, &hex, &fingerprint] {
        assert!(text.parse::<Alias>().is_err(), "{text:?}");
    }
    let base = Base::tofu().list(1, Some("dora"));
    let taken = base.trust.add(key(2), Some("DORA".parse().unwrap()), &[]);
    assert!(matches!(taken, Err(TrustError::AliasTaken { .. })));
    base.trust.add(key(1), Some("Dora".parse().unwrap()), &[]).unwrap();
    base.trust.add(key(1), None, &[]).unwrap();
    assert_eq!(base.trust.describe(&key(1)), format!("Dora ({})", key(1).fingerprint()));
    assert_eq!(base.trust.find("dORA", None), Ok(key(1)));
}

#[test]
fn adding_and_removing_is_all_or_nothing() {
    let base = Base::tofu().pin(1);
    let free: ModelName = "acme/free".parse().unwrap();
    let error = base.trust.add(key(2), None, &[free.clone(), name()]).unwrap_err().to_string();
    assert!(error.contains(&key(1).fingerprint()) && error.contains(&key(2).fingerprint()), "{error}");
    let document = base.trust.document().unwrap();
    assert!(document.publishers.is_empty() && document.pinned(&free).is_none());
    base.trust.add(key(1), None, &[free.clone(), name()]).unwrap();
    assert_eq!(base.trust.remove(&key(1), false), Ok(Removed { listed: true, names: 2 }));
    assert_eq!(base.pinned(), Some(key(1)), "their names stay theirs");
    assert!(matches!(base.trust.remove(&key(1), false), Err(TrustError::NotListed(_))));
    assert_eq!(base.trust.remove(&key(1), true), Ok(Removed { listed: false, names: 2 }));
    assert!(matches!(base.trust.remove(&key(1), true), Err(TrustError::NotListed(_))));
    assert!(matches!(base.trust.unpin(&name()), Err(TrustError::NotPinned(_))));
    let base = Base::tofu().pin(1);
    base.succeeds(1, 2);
    assert_eq!(base.pinned(), Some(key(2)));
    assert!(matches!(base.trust.add(key(1), None, &[]), Err(TrustError::FormerKey { .. })));
}

#[test]
fn concurrent_changes_are_all_kept() {
    let base = Base::tofu();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let paths = &base.paths;
            scope.spawn(move || {
                let trust = Trust::open(paths, TrustPolicy::Tofu);
                for number in 0..8 {
                    let name = format!("acme/m{thread}-{number}").parse().unwrap();
                    trust.accept(&name, Some(key(thread)), Pinning::Pin).unwrap();
                }
            });
        }
    });
    assert_eq!(base.trust.document().unwrap().pins.len(), 32);
}

#[test]
fn concurrent_first_acceptances_pin_one_publisher() {
    let base = Base::tofu();
    let winners: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = (1..=4)
            .map(|number| {
                let paths = &base.paths;
                scope.spawn(move || {
                    Trust::open(paths, TrustPolicy::Tofu).accept(&name(), Some(key(number)), Pinning::Pin)
                })
            })
            .collect();
        tries.into_iter().map(|t| usize::from(t.join().unwrap().is_ok())).sum()
    });
    assert_eq!(winners, 1);
}

proptest! {
    #[test]
    fn documents_survive_their_text(
        keys in proptest::collection::btree_map(any::<[u8; 32]>(), proptest::option::of("[A-Za-z0-9][A-Za-z0-9._-]{0,12}"), 0..6),
        names in proptest::collection::btree_set("[A-Za-z0-9][A-Za-z0-9._-]{0,9}/[A-Za-z0-9][A-Za-z0-9._-]{0,9}", 0..6),
    ) {
        let mut document = TrustDocument::default();
        for (key, alias) in &keys {
            let alias = alias.as_ref().and_then(|alias| alias.parse::<Alias>().ok());
            let taken = |alias: &Alias| {
                document.publishers.iter().any(|l| l.alias.as_ref().is_some_and(|a| a.is(&alias.to_string())))
            };
            let alias = alias.filter(|alias| !taken(alias));
            document.publishers.push(ListedPublisher { key: PublisherKey(*key), alias, added: When::now() });
        }
        for name in names.iter().filter_map(|name| name.parse().ok()) {
            document.pin(&name, key(1)).unwrap();
        }
        document.succeed(key(250), key(251));
        let text = document.to_text().unwrap();
        prop_assert_eq!(TrustDocument::parse(text.as_bytes(), std::path::Path::new("trust.yaml")).unwrap(), document);
    }
}

#[test]
fn temporary_error_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let watched = Watched::new(path);
    let lasts = |made: &Result<u8, &str>| made.is_ok();
    assert_eq!(watched.get(|_| Err("too many open files"), lasts), Err("too many open files"));
    assert_eq!(watched.get(|_| Ok(1), lasts), Ok(1), "the file is as it was, and can be read now");
    assert_eq!(watched.get(|_| Ok(2), lasts), Ok(1));
}
