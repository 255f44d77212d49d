use proptest::prelude::*;

use super::*;
use crate::catalog::record::tests::{fixed_key, model};
use crate::catalog::record::{RecordError, SignedRecord};
use crate::catalog::wire::MessageWriter;
use crate::model::keys::PublisherKeypair;
use crate::torrent::overlay::MAX_MESSAGE;

fn record(name: &str, sequence: i64) -> SharedRecord {
    let key = fixed_key();
    SharedRecord::new(SignedRecord::sign(model(key.public(), name, sequence, 1), &key).unwrap())
}

fn held(number: u8) -> HeldManifest {
    HeldManifest {
        publisher: PublisherKey([number; 32]),
        manifest: Sha256Digest([4; 32]),
        len: 77,
        info_hash: InfoHash([5; 32]),
        complete: number % 2 == 1,
    }
}

fn all() -> Vec<Message> {
    let records = vec![record("a/b", 1), record("a/c", 2), record("a/d", 3)];
    let key = PublisherKey([9; 32]);
    let manifest = Sha256Digest([6; 32]);
    let found =
        PeerAnswer::Found { records: records.clone(), complete: vec![0, 2], cursor: Some(vec![0, 255]) };
    vec![
        Message::Hello { version: 1, node: [7; 20], records: 4_000_000_000 },
        Message::Have { known: vec![], more: false },
        Message::Have { known: vec![Have { publisher: key, sequence: i64::MAX, count: 5 }; 3], more: true },
        Message::Want { after: vec![(key, 0), (PublisherKey([1; 32]), 1 << 40)] },
        Message::Pushed(records.clone()),
        Message::Wanted { records: records.clone(), more: true },
        Message::Wanted { records: vec![], more: false },
        Message::Answer(3, found),
        Message::Answer(3, PeerAnswer::Found { records: vec![], complete: vec![], cursor: None }),
        Message::Question(1, PeerQuestion::Query("llama tag:code size<20GB".parse().unwrap(), None)),
        Message::Question(1, PeerQuestion::Query(Query::default(), Some(vec![1; MAX_CURSOR]))),
        Message::Question(2, PeerQuestion::Lookup("datasets/a/b@v1".parse().unwrap())),
        Message::Answer(2, PeerAnswer::Holds { records, held: vec![held(1), held(2)] }),
        Message::Answer(2, PeerAnswer::Holds { records: vec![], held: vec![] }),
        Message::Question(0, PeerQuestion::Part(manifest, 0)),
        Message::Answer(0, PeerAnswer::Part { manifest, part: 1024, bytes: vec![1; MANIFEST_PART] }),
        Message::Answer(0, PeerAnswer::Part { manifest, part: 0, bytes: vec![] }),
    ]
}

#[test]
fn messages_survive_encoding() {
    for message in all() {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok(Some(message)), "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn full_messages_fit() {
    let have = Have { publisher: PublisherKey([9; 32]), sequence: 1, count: 1 };
    let part = PeerAnswer::Part { manifest: Sha256Digest([6; 32]), part: 1, bytes: vec![0; MANIFEST_PART] };
    let full = [
        Message::Have { known: vec![have; MAX_HAVE], more: true },
        Message::Want { after: vec![(PublisherKey([9; 32]), 1); MAX_WANT] },
        Message::Answer(0, part),
    ];
    for message in full {
        let bytes = message.encode();
        assert!(bytes.len() <= MAX_MESSAGE, "{}", bytes.len());
        assert_eq!(Message::decode(&bytes), Ok(Some(message)));
    }
}

#[test]
fn known_records_are_not_checked_again() {
    let known = record("a/b", 1);
    let forger = PublisherKeypair::generate().unwrap();
    let claim = model(forger.public(), "a/c", 2, 1);
    let forged = {
        // Signed by another key than the record names.
        let bytes = SignedRecord::sign(claim, &forger).unwrap().to_bytes();
        let at = bytes.windows(32).position(|part| part == forger.public().as_bytes()).unwrap();
        [&bytes[..at], fixed_key().public().as_bytes(), &bytes[at + 32..]].concat()
    };
    let message = |records: &[&[u8]]| {
        MessageWriter::default().bytes("t", b"records").strings("r", records.iter()).finish()
    };
    let unchecked = Unchecked::decode(&message(&[&known.to_bytes(), &forged])).unwrap().unwrap();
    assert_eq!(unchecked.records().len(), 2);
    assert_eq!(unchecked.records()[1].record().publisher, fixed_key().public());
    let mut asked = 0;
    let verified = unchecked.verify(|record| {
        asked += 1;
        // A known name is not a known record.
        Some(if record.is(&known) { known.clone() } else { self::record("a/c", 2) })
    });
    assert_eq!((verified, asked), (Err(RecordError::BadSignature.into()), 2));

    let only = Unchecked::decode(&message(&[&known.to_bytes()])).unwrap().unwrap();
    let Message::Pushed(records) = only.verify(|_| Some(known.clone())).unwrap() else { panic!() };
    assert!(SharedRecord::ptr_eq(&records[0], &known));
}

#[test]
fn messages_of_later_versions_are_ignored() {
    let unknown = MessageWriter::default().bytes("t", b"gossip2").number("x", 5).finish();
    assert_eq!(Message::decode(&unknown), Ok(None));
    let query =
        MessageWriter::default().bytes("t", b"query").number("q", 5).bytes("text", b"mood:good").finish();
    assert_eq!(Message::decode(&query), Ok(None));
    let hello = b"d2:id20:xxxxxxxxxxxxxxxxxxxx1:ni5e1:t5:hello1:vi9e3:zzzli1ei2eee";
    assert!(matches!(Message::decode(hello), Ok(Some(Message::Hello { version: 9, records: 5, .. }))));
    // A record of a later format between known formats: the marks of the other records stay right.
    let later = b"d1:k32:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx3:seqi1e3:sig64:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx1:vd1:vi2eee";
    let (one, two) = (record("a/b", 1), record("a/c", 2));
    let bytes = MessageWriter::default()
        .bytes("t", b"records")
        .number("q", 5)
        .strings("r", [one.to_bytes(), later.to_vec(), two.to_bytes()].into_iter())
        .bytes("all", &[0b0010_0000])
        .finish();
    let found = PeerAnswer::Found { records: vec![one, two], complete: vec![1], cursor: None };
    assert_eq!(Message::decode(&bytes), Ok(Some(Message::Answer(5, found))));
}

#[test]
fn malformed_or_oversized_messages_are_refused() {
    let of = |kind: &str| MessageWriter::default().bytes("t", kind.as_bytes());
    let record = record("a/b", 1).to_bytes();
    let parts = 1 + (16 << 20) / MANIFEST_PART as u64;
    for (why, bytes) in [
        ("no kind", MessageWriter::default().finish()),
        ("a kind that is no text", MessageWriter::default().number("t", 1).finish()),
        ("a field missing", of("hello").number("v", 1).finish()),
        ("too many entries", of("have").bytes("k", &[0; 44 * (MAX_HAVE + 1)]).finish()),
        ("half an entry", of("have").bytes("k", &[0; 45]).finish()),
        ("a negative sequence", of("have").bytes("k", &[255; 44]).finish()),
        ("a negative sequence", of("want").bytes("k", &[255; 40]).finish()),
        ("too many records", of("records").strings("r", (0..=MAX_RECORDS).map(|_| b"")).finish()),
        ("an empty record", of("records").strings("r", [b""].into_iter()).finish()),
        ("too few bits", of("records").strings("r", [&record].into_iter()).bytes("all", b"").finish()),
        (
            "bits of no record",
            of("records").strings("r", [&record].into_iter()).bytes("all", &[0x40]).finish(),
        ),
        ("a long cursor", of("records").bytes("at", &[0; MAX_CURSOR + 1]).finish()),
        ("a long query", of("query").number("q", 1).bytes("text", &[b'a'; 513]).finish()),
        ("a bad name", of("lookup").number("q", 1).bytes("n", b"../b").finish()),
        ("a bad flag", of("holds").number("q", 1).bytes("m", &[2; 101]).finish()),
        ("too many held", of("holds").number("q", 1).bytes("m", &[0; 101 * (MAX_HELD + 1)]).finish()),
        ("a large number", of("lookup").number("q", 1 << 32).bytes("n", b"a/b").finish()),
        ("a part too far", of("get").bytes("m", &[0; 32]).number("p", parts).finish()),
        (
            "a part too long",
            of("part").bytes("m", &[0; 32]).number("p", 0).bytes("b", &[0; MANIFEST_PART + 1]).finish(),
        ),
        ("a message too long", of("x").bytes("x", &[0; MAX_MESSAGE]).finish()),
        ("more after the end", [of("x").finish(), b"e".to_vec()].concat()),
    ] {
        assert!(Message::decode(&bytes).is_err(), "{why}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(which in 0..all().len(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = all()[which].encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Unchecked::decode(&bytes);
    }
}
