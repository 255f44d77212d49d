use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::known_answers::CASES;
use crate::model::metainfo::parse_metainfo;
use crate::model::{ImportedDocument, PiecesRoot};

static KEY: LazyLock<PublisherKeypair> = LazyLock::new(|| PublisherKeypair::generate().unwrap());

fn files() -> Vec<FileEntry> {
    let file = |&(path, size, _, root): &(&str, u64, u64, &str)| {
        FileEntry::new(path, size, Some(Sha256Digest([9; 32])), (size > 0).then(|| root.parse().unwrap()))
    };
    CASES[0].files.iter().map(file).collect()
}

fn manifest() -> Manifest {
    Manifest::new("org/model".parse().unwrap(), Revision::default(), CASES[0].piece_length, files()).unwrap()
}

fn signed() -> Manifest {
    let mut manifest = manifest();
    manifest.tags = vec!["a".into()];
    manifest.parameters = Some(22_713_216);
    manifest.sign(&KEY);
    manifest
}

/// The manifest as JSON after a change.
fn with(manifest: &Manifest, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::to_value(manifest).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

/// Signs a JSON value as another program would: without a change of its layout.
fn sign_foreign(value: &mut Value) {
    value["publisher"] = json!(KEY.public());
    value.as_object_mut().unwrap().remove("signature");
    let mut message = b"silmaril-manifest-v1\n".to_vec();
    message.extend(serde_json_canonicalizer::to_vec(value).unwrap());
    value["signature"] = json!(BASE64.encode(KEY.sign(&message)));
}

#[test]
fn a_manifest_has_the_info_hash_of_libtorrent() {
    let manifest = manifest();
    assert_eq!(manifest.torrent.info_hash.to_string(), CASES[0].info_hash);
    assert_eq!(manifest.total_size, 3 + 5 + 16384 + 100_000);
    let parsed = parse_metainfo(&manifest.metainfo(None)).unwrap();
    assert_eq!(parsed.info_hash, manifest.torrent.info_hash);
    assert_eq!(manifest.layout().piece_count(), 1 + 1 + 1 + 7);
}

#[test]
fn manifests_come_back_signed_and_unsigned() {
    for manifest in [manifest(), signed()] {
        let json = manifest.to_json();
        let again = Manifest::from_json(&json).unwrap();
        assert_eq!(again, manifest);
        assert_eq!(again.to_json(), json);
        assert_eq!(again.signed_by(), manifest.signature.as_ref().map(|_| KEY.public()));
        assert_eq!(serde_json::from_slice::<Manifest>(&json).unwrap(), manifest);
    }
}

#[test]
fn any_change_breaks_the_signature() {
    let signed = signed();
    let changes: [fn(&mut Value); 7] = [
        |v| v["license"] = json!("mit"),
        |v| v["tags"] = json!(["a", "b"]),
        |v| v["files"][1]["sha256"] = json!("00".repeat(32)),
        |v| v["new"] = json!(null),
        |v| v["card"]["pipeline_tag"] = json!("x"),
        |v| v["publisher"] = json!(PublisherKeypair::generate().unwrap().public()),
        |v| v["files"].as_array_mut().unwrap().swap(0, 1),
    ];
    for change in changes {
        let error = Manifest::from_json(&with(&signed, change)).unwrap_err();
        assert!(matches!(error, ManifestError::BadSignature(_)), "{error}");
    }
    let error = Manifest::from_json(&with(&signed, |v| v["license"] = json!("mit"))).unwrap_err().to_string();
    assert!(error.contains(&KEY.public().fingerprint()), "{error}");
}

#[test]
fn half_a_signature_is_refused() {
    let error = |change: fn(&mut Value)| Manifest::from_json(&with(&signed(), change)).unwrap_err();
    assert!(matches!(error(|v| v["signature"] = json!("AAAA")), ManifestError::SignatureFormat));
    assert!(matches!(error(|v| v["signature"] = json!("not base64!")), ManifestError::SignatureFormat));
    assert!(matches!(error(|v| v["publisher"] = Value::Null), ManifestError::NoPublisher));
}

#[test]
fn a_publisher_without_a_signature_is_ignored() {
    let json = with(&signed(), |v| drop(v.as_object_mut().unwrap().remove("signature")));
    let manifest = Manifest::from_json(&json).unwrap();
    assert_eq!((manifest.publisher, manifest.signed_by()), (None, None));
}

#[test]
fn a_signature_of_another_program_stays_valid() {
    let mut value = serde_json::to_value(manifest()).unwrap();
    value["files"].as_array_mut().unwrap().reverse();
    value["description"] = Value::Null;
    value["tags"] = json!([]);
    value["inference"] = json!({"min_ram": 1.0, "big": 1e300, "b": [{"é": "\u{1f600}"}]});
    value["files"][0]["git_oid"] = json!("x");
    value["torrent"]["info_hash"] = json!(CASES[0].info_hash.to_uppercase());
    value.as_object_mut().unwrap().remove("card");
    sign_foreign(&mut value);
    let manifest = Manifest::from_json(&serde_json::to_vec(&value).unwrap()).unwrap();
    assert!(manifest.files.is_sorted_by(|a, b| path::compare(&a.path, &b.path).is_lt()));
    assert_eq!(manifest.signed_by(), Some(KEY.public()));
    let again = Manifest::from_json(&manifest.to_json()).unwrap();
    assert_eq!(again, manifest);
    assert_eq!(again.other["inference"]["big"], json!(1e300));
    assert_eq!(serde_json::from_slice::<Value>(&again.to_json()).unwrap(), value);

    let mut changed = manifest.clone();
    changed.license = Some("mit".into());
    assert!(matches!(Manifest::from_json(&changed.to_json()), Err(ManifestError::BadSignature(_))));
    changed.sign(&KEY);
    assert_eq!(Manifest::from_json(&changed.to_json()).unwrap(), changed);
}

#[test]
fn a_manifest_in_yaml_keeps_its_signature() {
    let yaml = crate::yaml::write(&signed()).unwrap();
    assert_eq!(
        ImportedDocument::parse(yaml.as_bytes()).unwrap(),
        ImportedDocument::Manifest(Box::new(signed()))
    );
    let changed = yaml.replace("22713216", "22713217");
    assert!(matches!(ImportedDocument::parse(changed.as_bytes()), Err(ManifestError::BadSignature(_))));
    assert_eq!(
        ImportedDocument::parse(&signed().to_json()).unwrap(),
        ImportedDocument::Manifest(Box::new(signed()))
    );
}

#[test]
fn inconsistent_manifests_are_refused() {
    let expect = |change: fn(&mut Value), part: &str| {
        let error = Manifest::from_json(&with(&manifest(), change)).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error:?} does not contain {part:?}");
    };
    expect(|v| v["schema"] = json!(2), "schema 2");
    expect(|v| drop(v.as_object_mut().unwrap().remove("schema")), "not a manifest");
    expect(|v| v["kind"] = json!("dataset"), "Dataset");
    expect(|v| v["name"] = json!("datasets/org/model"), "Model");
    expect(|v| v["name"] = json!("org"), "org/name");
    expect(|v| v["version"] = json!("../x"), "../x");
    expect(|v| v["total_size"] = json!(1), "116392");
    expect(|v| v["files"][0]["path"] = json!("../../etc/passwd"), "'..'");
    expect(|v| v["files"][0]["path"] = json!("/etc/passwd"), "absolute");
    expect(|v| v["files"][0]["path"] = json!("a\u{0}b"), "control");
    expect(|v| v["files"][0]["path"] = json!("a.b"), "twice");
    expect(|v| v["files"][0]["path"] = json!("a.b/c"), "both a file and a directory");
    expect(|v| v["files"][0]["path"] = json!("other"), "info hash");
    expect(|v| v["files"][0]["size"] = json!(4), "total_size");
    expect(|v| v["files"][0]["size"] = json!(-1), "-1");
    expect(|v| v["files"][0]["size"] = json!(u64::MAX), "16 TiB");
    expect(|v| v["files"][0]["pieces_root"] = json!("00".repeat(32)), "info hash");
    expect(|v| drop(v["files"][0].as_object_mut().unwrap().remove("pieces_root")), "no pieces root");
    expect(|v| v["files"][3]["pieces_root"] = json!("00".repeat(32)), "empty file");
    expect(|v| v["files"] = json!([]), "no files");
    expect(|v| v["torrent"]["piece_length"] = json!(16383), "power of two");
    expect(|v| v["torrent"]["piece_length"] = json!(0), "power of two");
    expect(|v| v["torrent"]["piece_length"] = json!(32768), "info hash");
    expect(|v| v["torrent"]["name"] = json!("../x"), "../x");
    expect(|v| v["torrent"]["info_hash"] = json!("00".repeat(32)), CASES[0].info_hash);
    expect(|v| v["torrent"]["info"] = json!("!"), "base64");
    expect(|v| v["torrent"]["info"] = json!("ZGU="), "malformed");
    expect(|v| v["magnet_uri"] = json!("http://x"), "magnet");
    expect(
        |v| v["magnet_uri"] = json!(format!("magnet:?xt=urn:btmh:1220{}", "0".repeat(64))),
        "another torrent",
    );
    expect(|v| v["created_at"] = json!("yesterday"), "yesterday");
    expect(|v| v["web_seeds"] = json!(["file:///etc/passwd"]), "web_seeds");
}

#[test]
fn bounds_are_checked_before_parsing() {
    let big = vec![b' '; MAX_MANIFEST + 1];
    assert!(matches!(Manifest::from_json(&big), Err(ManifestError::TooLarge)));
    let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
    assert!(matches!(Manifest::from_json(many.as_bytes()), Err(ManifestError::TooManyValues)));
    let deep = "[".repeat(100_000);
    assert!(matches!(Manifest::from_json(deep.as_bytes()), Err(ManifestError::Json(_))));
    for cut in [0, 1, 100, 1000] {
        assert!(Manifest::from_json(&manifest().to_json()[..cut]).is_err());
    }
}

#[test]
fn executable_files_of_torrents_stay_executable() {
    let leaf = |attributes: &str| format!("d0:d{attributes}6:lengthi1e11:pieces root32:{}ee", "r".repeat(32));
    let info = format!(
        "d9:file treed1:a{}2:go{}e12:meta versioni2e4:name1:m12:piece lengthi16384ee",
        leaf(""),
        leaf("4:attr1:x")
    );
    let parsed = crate::model::metainfo::parse_info(info.as_bytes()).unwrap();
    let manifest = Manifest::from_metainfo("org/m".parse().unwrap(), Revision::default(), &parsed).unwrap();
    let executable =
        |manifest: &Manifest| -> Vec<bool> { manifest.files.iter().map(|f| f.executable).collect() };
    assert_eq!(executable(&manifest), [false, true]);
    let json = manifest.to_json();
    assert_eq!(executable(&Manifest::from_json(&json).unwrap()), [false, true]);
    let value: Value = serde_json::from_slice(&json).unwrap();
    assert!(value["files"][0].get("executable").is_none() && value["files"][1]["executable"] == true);
}

#[test]
fn foreign_torrents_become_manifests() {
    for (bytes, same) in [
        (include_bytes!("../../../tests/fixtures/v2.torrent").as_slice(), true),
        (include_bytes!("../../../tests/fixtures/hybrid.torrent").as_slice(), false),
    ] {
        let parsed = parse_metainfo(bytes).unwrap();
        let manifest =
            Manifest::from_metainfo("org/model".parse().unwrap(), Revision::default(), &parsed).unwrap();
        assert_eq!(manifest.torrent.info.is_none(), same, "only a foreign info dictionary is stored");
        assert_eq!(manifest.torrent.info_hash, parsed.info_hash);
        assert_eq!(manifest.web_seeds, ["http://w.example/model/"]);
        assert_eq!(manifest.piece_layers(), parsed.layers);
        let again = Manifest::from_json(&manifest.to_json()).unwrap();
        assert_eq!(again, manifest);
        assert_eq!(parse_metainfo(&again.metainfo(Some(&parsed.layers))).unwrap().layers, parsed.layers);
    }
    // Under another model name the torrent does not change.
    let parsed = parse_metainfo(include_bytes!("../../../tests/fixtures/v2.torrent")).unwrap();
    let manifest =
        Manifest::from_metainfo("other/name".parse().unwrap(), Revision::default(), &parsed).unwrap();
    assert_eq!((manifest.torrent.info_hash, manifest.torrent.name.as_str()), (parsed.info_hash, "model"));
    let json = with(&manifest, |v| {
        v["files"][0]["size"] = json!(4);
        v["total_size"] = json!(manifest.total_size + 1);
    });
    assert!(matches!(Manifest::from_json(&json), Err(ManifestError::InfoMismatch)));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter_map("JSON has no such number", |f| serde_json::Number::from_f64(f).map(Value::from)),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_files() -> impl Strategy<Value = Vec<FileEntry>> {
    proptest::collection::btree_map(
        "[a-c]{1,3}(/[a-c.]{1,3}x){0,2}",
        (0u64..100_000, any::<[u8; 32]>()),
        1..6,
    )
    .prop_map(|files| {
        let entry = |(path, (size, hash)): (String, (u64, [u8; 32]))| {
            FileEntry::new(path, size, None, (size > 0).then_some(PiecesRoot(hash)))
        };
        files.into_iter().map(entry).collect()
    })
}

proptest! {
    #[test]
    fn unknown_fields_survive_and_the_signature_holds(extra in json_value(), inner in json_value(), list in any_files()) {
        let Ok(mut manifest) = Manifest::new("o/n".parse().unwrap(), Revision::default(), 16384, list) else {
            return Ok(());
        };
        manifest.other.insert("x-extra".into(), extra);
        manifest.torrent.other.insert("x-inner".into(), inner.clone());
        manifest.files[0].other.insert("x-file".into(), inner);
        manifest.sign(&KEY);
        let again = Manifest::from_json(&manifest.to_json()).unwrap();
        prop_assert_eq!(&again, &manifest);
        prop_assert_eq!(again.to_json(), manifest.to_json());
    }

    #[test]
    fn damaged_manifests_do_not_pass_as_signed(at in 0..4000usize, byte: u8) {
        static JSON: LazyLock<Vec<u8>> = LazyLock::new(|| signed().to_json());
        let mut json = JSON.clone();
        let at = at % json.len();
        json[at] = byte;
        if let Ok(read) = Manifest::from_json(&json) {
            prop_assert!(read.signed_by().is_none() || read == signed());
        }
    }
}

/// A record names a manifest by the SHA-256 of its JSON. Each host that received it sends the JSON that it writes itself.
#[test]
fn each_host_writes_the_same_json() {
    let foreign = with(&signed(), |value| {
        // Unknown fields, an explicit null, files in another order, and numbers that an inexact parser rounds.
        value["zeta"] = json!({"b": [0.1, 1e-7, 1.0, -0.0, 1e300], "a": null});
        value["almost"] = json!(0.49999999999999994);
        value["long"] = serde_json::from_str("1.7976931348623157081452742373e308").unwrap();
        value["huge"] = serde_json::from_str("123456789012345678901234567890").unwrap();
        value["description"] = Value::Null;
        value["files"].as_array_mut().unwrap().reverse();
        sign_foreign(value);
    });
    for json in [manifest().to_json(), signed().to_json(), foreign] {
        let first = Manifest::from_json(&json).unwrap();
        let second = Manifest::from_json(&first.to_json()).unwrap();
        assert_eq!(String::from_utf8(second.to_json()), String::from_utf8(first.to_json()));
        assert_eq!(second.digest(), first.digest());
        assert_eq!(second.signed_by(), first.signed_by());
    }
    assert_eq!(signed().digest().1, signed().to_json().len());
}
