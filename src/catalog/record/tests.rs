use proptest::prelude::*;

use super::value::{MAX_LICENSE, MAX_TAG};
use super::*;
use crate::model::{FileEntry, PiecesRoot};

/// A key that is the same in every run: the one of RFC 8410 section 10.3.
pub fn fixed_key() -> PublisherKeypair {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().unwrap();
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    std::fs::write(file.path(), pem).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    PublisherKeypair::load(file.path()).unwrap()
}

/// A record of a model with all fields.
pub fn model(publisher: PublisherKey, name: &str, sequence: i64, time: UnixTime) -> Record {
    Record {
        publisher,
        sequence,
        time,
        body: RecordBody::Model(ModelRecord {
            name: name.parse().unwrap(),
            version: "main".parse().unwrap(),
            info_hash: InfoHash([1; 32]),
            manifest: Sha256Digest([2; 32]),
            manifest_len: 1234,
            size: 5_000_000_000,
            files: 9,
            license: Some("apache-2.0".to_owned()),
            tags: vec!["text-generation".to_owned(), "Größe".to_owned()],
        }),
    }
}

fn changed(change: impl FnOnce(&mut ModelRecord)) -> Record {
    let mut record = model(fixed_key().public(), "org/model", 7, 1_800_000_000);
    if let RecordBody::Model(model) = &mut record.body {
        change(model);
    }
    record
}

/// The test vector of BEP 44, "mutable with salt".
#[test]
fn signing_buffer_matches_bep_44() {
    let buffer = DhtItem::to_sign(b"foobar", 1, b"12:Hello World!");
    assert_eq!(buffer, b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
    let key: PublisherKey =
        "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548".parse().unwrap();
    let mut signature = [0; 64];
    let hex = "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08";
    hex::decode_to_slice(hex, &mut signature).unwrap();
    assert_eq!(key.verify_strict(&buffer, &signature), Ok(()));
}

/// Records of earlier versions must stay readable, with the same salt and signature.
#[test]
fn format_is_stable() {
    let key = fixed_key();
    let signed = SignedRecord::sign(model(key.public(), "org/model", 7, 1_800_000_000), &key).unwrap();
    let value = [
        b"d1:fi9e1:gl15:text-generation7:Gr\xc3\xb6\xc3\x9fee1:i32:".as_slice(),
        &[1; 32],
        b"1:l10:apache-2.01:m32:",
        &[2; 32],
        b"2:mli1234e1:n9:org/model1:r4:main1:si5000000000e1:ti1800000000e1:vi1e1:y1:me",
    ]
    .concat();
    assert_eq!(signed.to_item().value, value);
    assert_eq!(
        hex::encode(signed.to_item().salt),
        hex::encode(Sha1::digest(b"org/model@main")),
        "the version is written out"
    );
    let wire = signed.to_bytes();
    assert_eq!(hex::encode(Sha1::digest(&wire)), "de6c85304a03b189e4c4e834afec3b4c58427baa");
    assert!(wire.starts_with(b"d1:k32:") && wire.len() <= signed.wire_len());
    let next = Record {
        publisher: key.public(),
        sequence: 8,
        time: 1_800_000_001,
        body: RecordBody::Successor(PublisherKey([3; 32])),
    };
    let signed = SignedRecord::sign(next, &key).unwrap();
    let value = [b"d1:k32:".as_slice(), &[3; 32], b"1:ti1800000001e1:vi1e1:y1:se"].concat();
    assert_eq!(signed.to_item().value, value);
    assert_eq!(signed.to_item().salt, successor_salt());
}

#[test]
fn records_survive_wire_and_item() {
    let key = fixed_key();
    let successor =
        Record { body: RecordBody::Successor(PublisherKey([3; 32])), ..model(key.public(), "a/b", 0, 5) };
    let bare = changed(|model| {
        model.license = None;
        model.tags.clear();
        model.name = "datasets/a/b".parse().unwrap();
        model.version = "v1.0".parse().unwrap();
    });
    for record in [model(key.public(), "a/b", i64::MAX, 1), successor, bare] {
        let signed = SignedRecord::sign(record.clone(), &key).unwrap();
        assert_eq!(signed.record(), &record);
        assert_eq!(SignedRecord::from_bytes(&signed.to_bytes()), Ok(signed.clone()));
        assert_eq!(SignedRecord::from_item(&signed.to_item()), Ok(signed.clone()));
    }
}

#[test]
fn changed_record_is_refused() {
    let key = fixed_key();
    let signed = SignedRecord::sign(model(key.public(), "a/b", 7, 1), &key).unwrap();
    let bytes = signed.to_bytes();
    for at in 0..bytes.len() {
        for flip in [1, 0x80] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            assert!(SignedRecord::from_bytes(&bytes).is_err(), "byte {at} of {}", bytes.len());
        }
        assert!(SignedRecord::from_bytes(&bytes[..at]).is_err());
    }
    let replayed = |change: fn(&mut DhtItem)| {
        let mut item = signed.to_item();
        change(&mut item);
        SignedRecord::from_item(&item)
    };
    assert_eq!(replayed(|item| item.sequence = 8), Err(RecordError::BadSignature));
    assert_eq!(replayed(|item| item.signature = [0; 64]), Err(RecordError::BadSignature));
    // The all-zero point has small order: a lax check accepts this signature for any message.
    assert_eq!(replayed(|item| item.publisher = PublisherKey([0; 32])), Err(RecordError::BadSignature));
    assert!(matches!(replayed(|item| item.salt[0] ^= 1), Err(RecordError::Malformed(_))));
    assert_eq!(replayed(|item| item.value = vec![b'0'; 1001]), Err(RecordError::TooLong));
    let other = PublisherKeypair::generate().unwrap();
    assert_eq!(SignedRecord::sign(signed.record().clone(), &other), Err(RecordError::BadSignature));
}

#[test]
fn fields_out_of_bounds_are_refused() {
    let key = fixed_key();
    let refused = [
        changed(|model| model.tags = vec!["a\u{202e}b".to_owned()]),
        changed(|model| model.tags = vec!["\u{1b}[31m".to_owned()]),
        changed(|model| model.tags = vec![" ".to_owned()]),
        changed(|model| model.tags = vec!["x".repeat(MAX_TAG + 1)]),
        changed(|model| model.tags = vec!["x".to_owned(); MAX_TAGS + 1]),
        changed(|model| model.tags = vec!["x".repeat(MAX_TAG); 20]),
        changed(|model| model.license = Some("mit\n".to_owned())),
        changed(|model| model.license = Some("x".repeat(MAX_LICENSE + 1))),
        changed(|model| model.manifest_len = 0),
        changed(|model| model.manifest_len = u32::MAX),
        changed(|model| model.size = u64::MAX),
        changed(|model| model.size = 1 << 53),
        changed(|model| model.files = 0),
        changed(|model| model.files = 100_001),
        Record { sequence: -1, ..changed(|_| {}) },
        Record { time: u64::MAX, ..changed(|_| {}) },
    ];
    for record in refused {
        let value = value::encode(&record);
        let signature = key.sign(&DhtItem::to_sign(&record.salt(), record.sequence, &value));
        let item = DhtItem {
            publisher: key.public(),
            salt: record.salt(),
            sequence: record.sequence,
            value,
            signature,
        };
        assert!(SignedRecord::from_item(&item).is_err(), "{record:?}");
        assert!(SignedRecord::sign(record, &key).is_err());
    }
}

#[test]
fn unsafe_names_are_refused() {
    let value = |name: &str, version: &str| {
        let names = format!("1:n{}:{name}1:r{}:{version}", name.len(), version.len());
        let hash = "x".repeat(32);
        format!("d1:fi9e1:i32:{hash}1:m32:{hash}2:mli1e{names}1:si1e1:ti1e1:vi1e1:y1:me")
    };
    assert!(value::decode(value("a/b", "main").as_bytes()).is_ok());
    for (name, version) in [
        ("../b", "main"),
        ("a/b", "../c"),
        ("a\u{202e}/b", "main"),
        ("Datasets/b", "main"),
        ("a/b@main", "main"),
        ("a/b", ""),
        ("a/b\0", "main"),
    ] {
        assert!(value::decode(value(name, version).as_bytes()).is_err(), "{name:?} {version:?}");
    }
}

#[test]
fn later_formats_are_kept_or_distinguished() {
    let key = fixed_key();
    let sign = |value: &[u8]| {
        let signature = key.sign(&DhtItem::to_sign(&successor_salt(), 3, value));
        UncheckedRecord::new(key.public(), 3, value.to_vec(), signature)
    };
    let added = b"d1:k32:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx1:ti1e1:vi1e1:y1:s1:zi5ee";
    let signed = sign(added).unwrap().verify().unwrap();
    assert_eq!(signed.to_item().value, added);
    assert_eq!(SignedRecord::from_bytes(&signed.to_bytes()), Ok(signed));
    assert_eq!(sign(b"d1:ti1e1:vi2e1:y1:se"), Err(RecordError::Later));
    assert_eq!(sign(b"d1:ti1e1:vi1e1:y1:qe"), Err(RecordError::Later));
    assert!(matches!(sign(b"d1:ti1e1:vi0e1:y1:se"), Err(RecordError::Malformed(_))));
    assert!(matches!(sign(b"d1:vi1e1:y1:s1:ti1ee"), Err(RecordError::Malformed(_))), "keys out of order");
}

#[test]
fn time_is_checked_against_the_clock() {
    let key = fixed_key();
    let now = 1_800_000_000;
    let at = |time| SignedRecord::sign(model(key.public(), "a/b", 1, time), &key).unwrap().check_time(now);
    assert_eq!(at(now + MAX_AHEAD), Ok(()));
    assert_eq!(at(now + MAX_AHEAD + 1), Err(RecordError::Untimely));
    assert_eq!(at(now - EXPIRY + 1), Ok(()));
    assert_eq!(at(now - EXPIRY), Err(RecordError::Untimely));
    let successor = |time| {
        let body = RecordBody::Successor(PublisherKey([3; 32]));
        let record = Record { publisher: key.public(), sequence: 1, time, body };
        SignedRecord::sign(record, &key).unwrap().check_time(now)
    };
    assert_eq!(successor(1), Ok(()));
    assert_eq!(successor(now + MAX_AHEAD + 1), Err(RecordError::Untimely));
}

#[test]
fn record_keeps_the_tags_that_fit() {
    let key = fixed_key();
    let long = "n".repeat(96);
    let name = format!("datasets/{long}/{long}").parse().unwrap();
    let file = FileEntry::new("a", 5, None, Some(PiecesRoot([4; 32])));
    let mut manifest = Manifest::new(name, long.parse().unwrap(), 1 << 14, vec![file]).unwrap();
    manifest.license = Some("y".repeat(MAX_LICENSE));
    let tags: Vec<String> = (0..100).map(|n| format!("a-tag-of-a-model-{n}")).collect();
    manifest.tags = vec!["\u{202e}".to_owned(), "x".repeat(MAX_TAG + 1), tags[0].clone()];
    manifest.tags.extend(tags.iter().cloned());
    let record = Record::of_manifest(&manifest, key.public(), 1, 1_800_000_000);
    let signed = SignedRecord::sign(record, &key).unwrap();
    let model = signed.model().unwrap();
    assert!(model.tags.len() > 3 && model.tags[..] == tags[..model.tags.len()], "{:?}", model.tags);
    let len = signed.to_item().value.len();
    assert!(len <= MAX_ITEM && len > MAX_ITEM - 30, "{len}");
    assert_eq!((model.manifest, model.manifest_len as usize), manifest.digest());
    assert_eq!(model.model_ref(), manifest.model_ref());
    assert_eq!((model.size, model.files), (5, 1));

    manifest.license = Some("z".repeat(MAX_LICENSE + 1));
    let record = Record::of_manifest(&manifest, key.public(), 1, 1_800_000_000);
    assert_eq!(SignedRecord::sign(record, &key).unwrap().model().unwrap().license, None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = UncheckedRecord::from_bytes(&bytes);
        let _ = value::decode(&bytes);
    }

    #[test]
    fn reading_and_writing_are_inverse(at in 0usize..400, byte in any::<u8>()) {
        let key = fixed_key();
        let signed = SignedRecord::sign(model(key.public(), "a/b", 7, 1), &key).unwrap();
        let mut bytes = signed.to_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(read) = UncheckedRecord::from_bytes(&bytes) {
            prop_assert_eq!(read.0.to_bytes(), bytes);
        }
    }
}
