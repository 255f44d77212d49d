//! Manifests that must be refused: each is refused with its reason, and no part of it is stored.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::manifests::{read, sign, write};
use crate::support::net::{Net, sh};
use crate::support::share::{export, import};

const NAME: &str = "acme/tiny";

/// A host with a manifest of its own, and one that will import it.
fn hosts() -> (Host, Host, Value) {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let manifest = publish(&a);
    b.run(&["init"]).ok();
    (a, b, manifest)
}

fn publish(host: &Host) -> Value {
    let files: &[(&str, &[u8])] = &[("config.json", b"{}"), ("weights.bin", &noise(1, 100_000))];
    let dir = model_dir(&host.home().join("tiny"), files);
    let share = super::super::support::share::share(host, &dir, NAME, &[]);
    read(&share.manifest)
}

/// All files of the base directory, with their sizes.
fn holdings(host: &Host) -> String {
    sh(&format!(
        "cd {} && find . -type f -size +0 -printf '%p %s\\n' | grep -v '^./log/' | LC_ALL=C sort",
        host.base().display()
    ))
}

#[track_caller]
fn assert_refused(host: &Host, manifest: &Path, reason: &str) {
    let before = holdings(host);
    let error = host.run(&["registry", "import", manifest.to_str().unwrap()]).error(1);
    assert!(error.to_lowercase().contains(reason), "{error:?} does not contain {reason:?}");
    assert_eq!(holdings(host), before, "a refused manifest left something behind");
}

#[test]
fn a_signature_made_by_other_software_is_accepted() {
    let (_, b, mut manifest) = hosts();
    sign(&mut manifest, 7);
    import(&b, &write(b.home().join("m.json"), &manifest));
    assert!(b.run(&["registry", "list"]).ok().contains(NAME));
}

#[test]
fn one_changed_byte_breaks_the_signature() {
    let (_, b, manifest) = hosts();
    for (field, value) in [("license", json!("mit")), ("total_size", json!(100_003)), ("note", json!("new"))]
    {
        let mut changed = manifest.clone();
        changed[field] = value;
        assert_refused(&b, &write(b.home().join("m.json"), &changed), "");
    }
    let mut changed = manifest.clone();
    changed["description"] = json!("x");
    assert_refused(&b, &write(b.home().join("m.json"), &changed), "signature");
}

#[test]
fn a_second_signer_is_refused_with_both_fingerprints() {
    let (_, b, mut manifest) = hosts();
    import(&b, &write(b.home().join("m.json"), &manifest));
    sign(&mut manifest, 7);
    assert_refused(&b, &write(b.home().join("m.json"), &manifest), "publisher");
}

#[test]
fn a_signature_with_another_publishers_key_is_refused() {
    let (_, b, mut manifest) = hosts();
    let publisher = manifest["publisher"].clone();
    sign(&mut manifest, 7);
    manifest["publisher"] = publisher;
    assert_refused(&b, &write(b.home().join("m.json"), &manifest), "signature");
}

#[test]
fn hostile_paths_are_refused_despite_a_valid_signature() {
    let (_, b, manifest) = hosts();
    let long = "x/".repeat(2100) + "x";
    for path in
        ["../evil", "a/../../evil", "/etc/passwd", "a//b", "./a", "a\\b", "a\u{0}b", "a\nb", "", &long]
    {
        let mut hostile = manifest.clone();
        hostile["files"][0]["path"] = json!(path);
        sign(&mut hostile, 7);
        assert_refused(&b, &write(b.home().join("m.json"), &hostile), "path");
    }
    let mut twice = manifest.clone();
    twice["files"][0] = twice["files"][1].clone();
    sign(&mut twice, 7);
    assert_refused(&b, &write(b.home().join("m.json"), &twice), "");
}

#[test]
fn files_that_do_not_match_the_info_hash_are_refused() {
    let (_, b, mut manifest) = hosts();
    manifest["files"][1]["pieces_root"] = manifest["torrent"]["info_hash"].clone();
    sign(&mut manifest, 7);
    assert_refused(&b, &write(b.home().join("m.json"), &manifest), "info hash");
}

#[test]
fn truncated_oversized_and_invalid_files_are_refused() {
    let (a, b, manifest) = hosts();
    let text = serde_json::to_vec_pretty(&manifest).unwrap();
    let torrent = sh(&format!("cat {}/torrents/*.torrent | base64 -w0", a.base().display()));
    let torrent = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, torrent).unwrap();
    let file = b.home().join("bad");
    for (what, bytes) in [
        ("half a manifest", text[..text.len() / 2].to_vec()),
        ("an oversized manifest", [text.as_slice(), &vec![b' '; 17 << 20]].concat()),
        ("half a torrent", torrent[..torrent.len() / 2].to_vec()),
        ("noise", noise(3, 4096)),
        ("nothing", Vec::new()),
        ("deep nesting", vec![b'['; 100_000]),
        ("deep bencoding", [vec![b'd'], b"1:a".to_vec(), vec![b'l'; 100_000]].concat()),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let before = holdings(&b);
        let error = b.run(&["registry", "import", file.to_str().unwrap()]).error(1);
        assert!(error.contains("bad"), "{what}: {error:?} does not name the file");
        assert_eq!(holdings(&b), before, "{what} left something behind");
    }
    let missing = b.home().join("missing.json");
    assert_refused(&b, &missing, "missing.json");
}

#[test]
fn an_old_unsigned_manifest_is_imported_as_unsigned() {
    let (_, b, manifest) = hosts();
    let files: Vec<Value> = manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| json!({"path": f["path"], "size": f["size"], "sha256": f["sha256"]}))
        .collect();
    let mut unsigned = manifest.clone();
    unsigned.as_object_mut().unwrap().retain(|k, _| k != "signature" && k != "publisher");
    assert!(!files.is_empty());
    import(&b, &write(b.home().join("m.json"), &unsigned));
    let exported = read(&export(&b, NAME));
    assert_eq!(exported["signature"], Value::Null);
    assert_eq!(exported["torrent"]["info_hash"], manifest["torrent"]["info_hash"]);
}

#[test]
fn unknown_fields_survive_import_and_export() {
    let (_, b, mut manifest) = hosts();
    manifest["from_the_future"] = json!({"a": [1, 2.5, "x"]});
    sign(&mut manifest, 9);
    import(&b, &write(b.home().join("m.json"), &manifest));
    assert_eq!(read(&export(&b, NAME)), manifest);
}
