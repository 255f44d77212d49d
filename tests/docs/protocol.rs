//! `docs/PROTOCOL.md` agrees with the code: every example decodes, and every limit is the one that is enforced.
//!
//! The examples were made by another program, from the document alone.

use std::collections::BTreeMap;

use sha1::Digest as _;
use silmaril::catalog::gossip::budget;
use silmaril::catalog::message::{self, Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::{EXPIRY, MAX_AHEAD, RecordBody, SignedRecord, query};
use silmaril::model::{Manifest, files, manifest};
use silmaril::torrent::overlay::{FIRST_PORT, MAX_ITEM, MAX_MESSAGE};

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

/// The examples of the document: the bytes of each block by the name after its language.
struct Examples(BTreeMap<&'static str, &'static str>);

impl Examples {
    fn read() -> Self {
        let blocks = DOCUMENT.split("\n```").skip(1).step_by(2).map(|block| {
            let (head, body) = block.split_once('\n').unwrap();
            (head.split_once(' ').unwrap_or_else(|| panic!("a block without a name: {head}")).1, body)
        });
        Self(blocks.collect())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let text = self.0.get(name).unwrap_or_else(|| panic!("no example {name}"));
        if name == "manifest" {
            return format!("{text}\n").into_bytes();
        }
        let mut bytes = Vec::new();
        let text = text.replace('\n', "");
        for (number, part) in text.split(['<', '>']).enumerate() {
            match part.strip_prefix('@') {
                _ if number % 2 == 0 => bytes.extend_from_slice(part.as_bytes()),
                Some(name) => bytes.extend(self.bytes(name)),
                None => bytes.extend(hex::decode(part).unwrap()),
            }
        }
        bytes
    }

    /// The message of an example. Encoding it again must give the same bytes, so no key is unknown or missing.
    fn message(&self, name: &str) -> Message {
        let bytes = self.bytes(name);
        let message = Message::decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}")).unwrap();
        assert_eq!(message.encode(), bytes, "{name}");
        message
    }

    fn record(&self, name: &str) -> SignedRecord {
        SignedRecord::from_bytes(&self.bytes(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

/// Whether the document contains a text.
#[track_caller]
fn assert_written(text: &str) {
    assert!(DOCUMENT.contains(text), "docs/PROTOCOL.md does not contain {text:?}");
}

#[test]
fn examples_of_messages_decode() {
    let examples = Examples::read();
    let record = examples.record("record");
    let publisher = record.record().publisher;
    let Some(model) = record.model() else { panic!("the record is not one of a model") };

    assert!(matches!(examples.message("hello"), Message::Hello { version: 1, records: 1, .. }));
    let Message::Have { known, more: false } = examples.message("have") else { panic!("not have") };
    let have = (known[0].publisher, known[0].sequence, known[0].count);
    assert_eq!((known.len(), have), (1, (publisher, record.record().sequence, 1)));
    assert_eq!(examples.message("want"), Message::Want { after: vec![(publisher, 0)] });
    let Message::Wanted { records, .. } = examples.message("records") else {
        panic!("not the answer to want")
    };
    assert_eq!(records[0].to_bytes(), record.to_bytes());
    let Message::Question(1, PeerQuestion::Query(query, _)) = examples.message("query") else {
        panic!("not query")
    };
    assert!(query.matches(record.record()));
    let Message::Answer(1, PeerAnswer::Found { records, complete, .. }) = examples.message("found") else {
        panic!("not the answer to query")
    };
    assert_eq!((records.len(), complete), (1, vec![0]));
    let Message::Question(2, PeerQuestion::Lookup(wanted)) = examples.message("lookup") else {
        panic!("not lookup")
    };
    assert_eq!(wanted, model.model_ref());
    let Message::Answer(2, PeerAnswer::Holds { records, held }) = examples.message("holds") else {
        panic!("not holds")
    };
    assert_eq!((records.len(), held.len()), (1, 1));
    assert_eq!(
        (held[0].publisher, held[0].manifest, held[0].len),
        (publisher, model.manifest, model.manifest_len)
    );
    assert_eq!((held[0].info_hash, held[0].complete), (model.info_hash, true));
    let Message::Question(_, PeerQuestion::Part(manifest, 0)) = examples.message("get") else {
        panic!("not get")
    };
    assert_eq!(manifest, model.manifest);
    let Message::Answer(_, PeerAnswer::Part { bytes, part: 0, .. }) = examples.message("part") else {
        panic!("not part")
    };
    assert_eq!(bytes, examples.bytes("manifest"));
}

#[test]
fn examples_of_records_decode() {
    let examples = Examples::read();
    let record = examples.record("record");
    let salt = record.to_item().salt;
    assert_eq!(salt[..], sha1::Sha1::digest("acme/tiny@main")[..]);
    assert_written(&hex::encode(salt));
    assert_written(&record.record().publisher.to_string());
    let successor = examples.record("successor");
    assert!(matches!(successor.record().body, RecordBody::Successor(_)));
    assert_eq!(successor.record().sequence, i64::MAX);
    assert_eq!(successor.to_item().salt[..], sha1::Sha1::digest("silmaril:successor")[..]);
    assert_written(&hex::encode(successor.to_item().salt));
    for topic in ["silmaril:catalog:1", "silmaril:name:acme/tiny"] {
        assert_written(&hex::encode(silmaril::torrent::Topic::of(topic).0));
    }
}

#[test]
fn the_example_of_a_manifest_is_the_one_of_its_record() {
    let examples = Examples::read();
    let text = examples.bytes("manifest");
    let manifest = Manifest::from_json(&text).unwrap();
    assert_eq!(String::from_utf8(manifest.to_json()).unwrap(), String::from_utf8(text).unwrap());
    assert_eq!(manifest.info_dict(), examples.bytes("info"));
    assert!(!manifest.piece_layers().is_empty());
    let record = examples.record("record");
    let (digest, len) = manifest.digest();
    let model = record.model().unwrap();
    assert_eq!((model.manifest, model.manifest_len as usize), (digest, len));
    assert_eq!(manifest.signed_by(), Some(record.record().publisher));
    assert_eq!((model.info_hash, model.size), (manifest.torrent.info_hash, manifest.total_size));
    assert_written(&hex::encode(&manifest.torrent.info_hash.0[..20]));
}

#[test]
fn limits_are_those_of_the_code() {
    for (limit, value) in [
        ("bytes of a message", MAX_MESSAGE),
        ("bytes of a record's value", MAX_ITEM),
        ("entries of a `have`", message::MAX_HAVE),
        ("entries of a `want`", message::MAX_WANT),
        ("records of a message", message::MAX_RECORDS),
        ("manifests of a `holds`", message::MAX_HELD),
        ("bytes of an `at`", message::MAX_CURSOR),
        ("bytes of a query", query::MAX_QUERY),
        ("terms of a query", query::MAX_TERMS),
        ("patterns of a query", query::MAX_GLOBS),
        ("wildcards of a query", query::MAX_WILDCARDS),
        ("bytes of a part", message::MANIFEST_PART),
        ("bytes of a manifest", manifest::MAX_MANIFEST),
        ("values of a manifest", manifest::MAX_VALUES),
        ("files of a manifest", files::MAX_FILES),
        ("pieces of a torrent", files::MAX_PIECES as usize),
        ("web seeds of a manifest", manifest::MAX_WEB_SEEDS),
        ("bytes of all piece layers of a manifest", manifest::MAX_CARRIED),
    ] {
        assert_written(&format!("| {limit} | {value} |"));
    }
    assert_written(&format!("listens on a port below {FIRST_PORT}"));
    for (limit, rate) in [
        ("bytes of messages that are no answers", budget::UNASKED_BYTES),
        ("messages that are no answers", budget::UNASKED_MESSAGES),
        ("new records that are stored", budget::NEW_RECORDS),
        ("bytes of answers", budget::ANSWERED_BYTES),
    ] {
        assert_written(&format!("| {limit} | {} | {} |", rate.per_second, rate.burst));
    }
    assert_written(&format!("after {} bytes of dropped messages", budget::MAX_EXCESS));
    assert_written(&format!("valid for {EXPIRY} seconds"));
    assert_written(&format!("more than {MAX_AHEAD} seconds"));
}
