//! The decoders of untrusted bytes, one function for each. It returns whether the bytes were accepted, and panics if a
//! guarantee is broken: an accepted value that is written must be read again as the same value.

use silmaril::catalog::Query;
use silmaril::catalog::message::{Message, Unchecked};
use silmaril::catalog::record::UncheckedRecord;
use silmaril::http::{HeaderMap, HeaderValue, Url, next_page};
use silmaril::mirror::hub::{TreeEntry, parse_page};
use silmaril::mirror::lfs::parse_batch;
use silmaril::model::bencode;
use silmaril::model::metainfo::{parse_info, parse_metainfo};
use silmaril::model::safetensors::parse_header;
use silmaril::model::{ImportedDocument, Magnet, Manifest, Pointer, PublisherKey};
use silmaril::torrent::DhtItem;

/// A decoder under test.
pub type Target = fn(&[u8]) -> bool;

/// Every target, by the name of its directory in the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("batch", batch),
    ("bencode", bencode),
    ("claims", super::claims::target),
    ("gate", super::gate::target),
    ("item", item),
    ("link", link),
    ("magnet", magnet),
    ("manifest", manifest),
    ("document", document),
    ("message", message),
    ("metainfo", metainfo),
    ("offers", super::offers::target),
    ("page", page),
    ("pointer", pointer),
    ("query", query),
    ("record", record),
    ("safetensors", safetensors),
];

fn bencode(bytes: &[u8]) -> bool {
    let Ok(entries) = bencode::check(bytes) else { return false };
    assert_eq!(entries.raw("\0 no such key"), None);
    let value: bt_bencode::Value = bt_bencode::from_slice(bytes).expect("strict bencode is bencode");
    assert_eq!(bt_bencode::to_vec(&value).expect("the value can be written"), bytes);
    true
}

fn message(bytes: &[u8]) -> bool {
    let Ok(unchecked) = Unchecked::decode(bytes) else { return false };
    let Some(unchecked) = unchecked else { return true };
    for record in unchecked.records() {
        check_record(record);
    }
    if unchecked.records().is_empty() {
        let message = unchecked.verify(|_| None).expect("there are no signatures to be wrong");
        assert_eq!(Message::decode(&message.encode()), Ok(Some(message)));
    }
    true
}

fn check_record(unchecked: &UncheckedRecord) {
    let record = unchecked.record();
    assert!(record.sequence >= 0);
    let _ = (record.salt(), unchecked.clone().verify());
    let query: Query = "a tag:b license:c size<5 publisher:x *".parse().expect("it is a query");
    let _ = query.matches(record);
}

fn record(bytes: &[u8]) -> bool {
    let Ok(unchecked) = UncheckedRecord::from_bytes(bytes) else { return false };
    check_record(&unchecked);
    true
}

/// An item of the DHT: key, salt, sequence, signature and value.
fn item(bytes: &[u8]) -> bool {
    let Some((head, value)) = bytes.split_first_chunk::<124>() else { return false };
    let item = DhtItem {
        publisher: PublisherKey(head[..32].try_into().expect("32 bytes")),
        salt: head[32..52].try_into().expect("20 bytes"),
        sequence: i64::from_be_bytes(head[52..60].try_into().expect("8 bytes")),
        signature: head[60..].try_into().expect("64 bytes"),
        value: value.to_vec(),
    };
    let Ok(unchecked) = UncheckedRecord::from_item(&item) else { return false };
    check_record(&unchecked);
    if let Ok(signed) = unchecked.verify() {
        assert_eq!(signed.to_item(), item);
    }
    true
}

fn query(bytes: &[u8]) -> bool {
    let Some(query) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Query>().ok()) else {
        return false;
    };
    assert_eq!(query.as_str().parse(), Ok(query));
    true
}

fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::from_json(bytes) else { return false };
    let json = manifest.to_json();
    let again = Manifest::from_json(&json).expect("a written manifest can be read");
    assert_eq!(again, manifest);
    assert_eq!(again.signed_by(), manifest.signed_by());
    assert_eq!(again.to_json(), json, "its digest is over these bytes");
    let parsed = parse_metainfo(&manifest.metainfo(None)).expect("its torrent can be read");
    assert_eq!(parsed.info_hash, manifest.torrent.info_hash);
    true
}

fn document(bytes: &[u8]) -> bool {
    ImportedDocument::parse(bytes).is_ok()
}

fn metainfo(bytes: &[u8]) -> bool {
    let _ = parse_info(bytes);
    let Ok(parsed) = parse_metainfo(bytes) else { return false };
    assert_eq!(parse_info(&parsed.info).expect("it was read before").files, parsed.files);
    let (Ok(name), Ok(version)) = ("org/name".parse(), "main".parse()) else { return false };
    if let Ok(manifest) = Manifest::from_metainfo(name, version, &parsed) {
        Manifest::from_json(&manifest.to_json()).expect("a manifest that was made can be read");
    }
    true
}

fn magnet(bytes: &[u8]) -> bool {
    let Some(magnet) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Magnet>().ok()) else {
        return false;
    };
    assert_eq!(magnet.to_string().parse(), Ok(magnet));
    true
}

/// The answer of an LFS server to a batch request.
fn batch(bytes: &[u8]) -> bool {
    let endpoint: Url =
        "https://git.example/org/name.git/info/lfs/objects/batch".parse().expect("it is an address");
    let Ok(objects) = parse_batch(bytes, &endpoint, std::time::Instant::now()) else { return false };
    for object in objects {
        match object.link {
            Ok(link) => {
                assert!(matches!(link.href.scheme(), "http" | "https") && link.href.has_host());
                assert!(!link.headers.contains_key("host") && !link.headers.contains_key("range"));
                let _ = link.is_fresh();
            }
            Err(error) => {
                assert!(silmaril::model::text::is_clean(&error.message));
                let _ = error.problem().to_string();
            }
        }
    }
    true
}

/// A `Link` header.
fn link(bytes: &[u8]) -> bool {
    let base: Url = "https://hub.example/api/models/org/name/tree/main".parse().expect("it is an address");
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return false };
    next_page(&HeaderMap::from_iter([("link".parse().expect("it is a header"), value)]), &base).is_some()
}

/// A page of a hub's list of files.
fn page(bytes: &[u8]) -> bool {
    let Ok(entries) = parse_page(bytes) else { return false };
    for entry in entries {
        if let TreeEntry::File(file) = entry
            && let Some(pointer) = file.pointer()
        {
            assert_eq!(pointer.size, file.size);
        }
    }
    true
}

fn pointer(bytes: &[u8]) -> bool {
    let Some(pointer) = Pointer::parse(bytes) else { return false };
    assert_eq!(Pointer::parse(pointer.to_string().as_bytes()), Some(pointer));
    true
}

fn safetensors(bytes: &[u8]) -> bool {
    parse_header(bytes).is_ok()
}
