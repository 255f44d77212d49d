//! The first inputs of the corpus, generated from the formats. Inputs that were found later are in the same directories.

use std::fs;
use std::path::Path;

use silmaril::catalog::message::{Have, HeldManifest, Message, PeerAnswer, PeerQuestion};
use silmaril::catalog::{ModelRecord, Query, Record, RecordBody, SharedRecord, SignedRecord};
use silmaril::model::keys::PublisherKeypair;
use silmaril::model::{
    FileEntry, InfoHash, Magnet, Manifest, ModelName, PieceLayer, PiecesRoot, Pointer, PublisherKey,
    Revision, Sha256Digest, merkle,
};

/// The key of RFC 8410 section 10.3. A fixed key gives the same signatures in every run.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

fn key() -> PublisherKeypair {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), KEY).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    PublisherKeypair::load(file.path()).unwrap()
}

fn name() -> ModelName {
    "org/model".parse().unwrap()
}

fn manifest() -> Manifest {
    let root = |byte| Some(PiecesRoot([byte; 32]));
    let files = vec![
        FileEntry::new("a/config.json", 20, Some(Sha256Digest([9; 32])), root(1)),
        FileEntry::new("empty", 0, None, None),
        FileEntry::new("weights.safetensors", 100_000, None, root(2)),
    ];
    let mut manifest = Manifest::new(name(), Revision::default(), 1 << 14, files).unwrap();
    manifest.tags = vec!["text-generation".to_owned(), "größe".to_owned()];
    manifest.license = Some("apache-2.0".to_owned());
    manifest.created_at = Some("2026-01-02T03:04:05Z".to_owned());
    manifest.parameters = Some(22_713_216);
    manifest.sign(&key());
    manifest
}

fn records() -> Vec<SharedRecord> {
    let key = key();
    let of_manifest = Record::of_manifest(&manifest(), key.public(), 7, 1_800_000_000);
    let RecordBody::Model(model) = of_manifest.body.clone() else { panic!() };
    let bare = ModelRecord { tags: Vec::new(), license: None, ..model };
    let bare = Record { body: RecordBody::Model(bare), sequence: i64::MAX, ..of_manifest.clone() };
    let successor =
        Record { body: RecordBody::Successor(PublisherKey([3; 32])), sequence: 9, ..of_manifest.clone() };
    let sign = |record| SharedRecord::new(SignedRecord::sign(record, &key).unwrap());
    [of_manifest, bare, successor].map(sign).to_vec()
}

fn item(record: &SignedRecord) -> Vec<u8> {
    let item = record.to_item();
    let head =
        [item.publisher.as_bytes().as_slice(), &item.salt, &item.sequence.to_be_bytes(), &item.signature];
    [head.concat(), item.value].concat()
}

fn messages() -> Vec<(&'static str, Message)> {
    let (publisher, manifest) = (key().public(), Sha256Digest([6; 32]));
    let have = Have { publisher, sequence: 5, count: 2 };
    let held = HeldManifest { publisher, manifest, len: 77, info_hash: InfoHash([5; 32]), complete: true };
    let query: Query = "llama tag:code size<20GB */*".parse().unwrap();
    let records = records();
    vec![
        ("hello", Message::Hello { version: 1, node: [7; 20], records: 3 }),
        ("have", Message::Have { known: vec![have; 3], more: true }),
        ("want", Message::Want { after: vec![(publisher, 4)] }),
        (
            "records",
            Message::Answer(
                3,
                PeerAnswer::Found {
                    records: records.clone(),
                    complete: vec![0, 2],
                    cursor: Some(vec![0, 255]),
                },
            ),
        ),
        ("none", Message::Answer(3, PeerAnswer::Found { records: vec![], complete: vec![], cursor: None })),
        ("query", Message::Question(1, PeerQuestion::Query(query, Some(b"a/b\0main\0".to_vec())))),
        ("lookup", Message::Question(2, PeerQuestion::Lookup("datasets/a/b@v1".parse().unwrap()))),
        ("holds", Message::Answer(2, PeerAnswer::Holds { records, held: vec![held; 2] })),
        ("get", Message::Question(0, PeerQuestion::Part(manifest, 1))),
        ("part", Message::Answer(0, PeerAnswer::Part { manifest, part: 0, bytes: b"{}".to_vec() })),
    ]
}

type Seed = (&'static str, String, Vec<u8>);

fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |target, file: &str, bytes: &[u8]| seeds.push((target, file.to_owned(), bytes.to_vec()));

    for (number, record) in records().iter().enumerate() {
        add("record", &format!("ok-{number}"), &record.to_bytes());
        add("item", &format!("ok-{number}"), &item(record));
        let mut other_salt = item(record);
        other_salt[40] ^= 1;
        add("item", &format!("bad-salt-{number}"), &other_salt);
    }
    let wire = records()[0].to_bytes();
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = wire
            .windows(from.len())
            .position(|part| part == from)
            .unwrap_or_else(|| panic!("{}", text(from)));
        [&wire[..at], to, &wire[at + from.len()..]].concat()
    };
    add("record", "bad-negative-sequence", &replaced(b"seqi7e", b"seqi-7e"));
    add("record", "bad-name", &replaced(b"9:org/model", b"9:../.model"));
    add("record", "bad-huge-size", &replaced(b"1:si100020e", b"1:si18446744073709551615e"));
    add("record", "bad-tag", &replaced("7:größe".as_bytes(), "7:gr\u{202e}ab".as_bytes()));
    add("record", "bad-keys-twice", &replaced(b"1:ti", b"1:si1e1:ti"));
    add("record", "bad-later", &replaced(b"1:vi1e", b"1:vi2e"));
    add("record", "bad-nothing", b"de");
    add("record", "bad-long", &[b"d1:k1200:".as_slice(), &[0; 1200], b"e"].concat());

    for (name, message) in messages() {
        add("message", &format!("ok-{name}"), &message.encode());
    }
    add("message", "ok-unknown-kind", b"d1:t5:later1:xli1ed1:y0:eee");
    add("message", "bad-entries", b"d1:k5:aaaaa1:t4:havee");
    add("message", "bad-nested", &[b"d1:t1:x1:x".as_slice(), &[b'l'; 500]].concat());
    add("message", "bad-many-records", format!("d1:rl{}e1:t7:recordse", "0:".repeat(300)).as_bytes());
    add("message", "bad-kind", b"d1:ti5ee");
    add("message", "bad-length", b"d1:t9999999999:helloe");

    for (number, query) in [
        "",
        "llama",
        "mistralai/*",
        "*-[0-9]b-{chat,base}",
        "tag:code license:apache-2.0 size<20GB size>=1.5GiB",
        "publisher:x7k2-9fqa",
    ]
    .iter()
    .enumerate()
    {
        add("query", &format!("ok-{number}"), query.as_bytes());
    }
    let (many, wild) = ("a ".repeat(17), "*".repeat(17));
    for (name, query) in [
        ("term", "mood:good"),
        ("size", "size<99999999999999999999PB"),
        ("glob", "a[b-"),
        ("nested", "{{{{{{{{{{{{{{{{*"),
        ("bidi", "\u{202e}"),
        ("many", &many),
        ("wild", &wild),
    ] {
        add("query", &format!("bad-{name}"), query.as_bytes());
    }

    let manifest = manifest();
    let json = manifest.to_json();
    let changed = |from: &str, to: &str| {
        let json = String::from_utf8(manifest.to_json()).unwrap();
        assert!(json.contains(from), "{from}");
        json.replacen(from, to, 1).into_bytes()
    };
    let unsigned = {
        let mut unsigned = manifest.clone();
        (unsigned.signature, unsigned.publisher) = (None, None);
        unsigned.to_json()
    };
    let on_the_web = {
        // A file of 20 KiB in pieces of 16 KiB. Its layer is one hash of zeros and one of ones.
        let layer = vec![[0; 32], [255; 32]];
        let root = PiecesRoot(merkle::parent(&layer[0], &layer[1]));
        let files = vec![FileEntry::new("weights.safetensors", 20 << 10, None, Some(root))];
        let mut manifest = Manifest::new(name(), Revision::default(), 1 << 14, files).unwrap();
        manifest.web_seeds = vec!["https://files.example/org/model/".to_owned()];
        manifest.files[0].piece_layer = Some(PieceLayer(layer));
        manifest.to_json()
    };
    let legacy = br#"{"name": "org/model", "version": "v1", "license": "mit", "magnet_uri":
        "magnet:?xt=urn:btmh:12200123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "files": [{"path": "a/b", "size": 5, "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}]}"#;
    let yaml = b"name: org/model\nversion: v1\nlicense: mit\nfiles:\n- path: a/b\n  size: 5\nmagnet_uri: 'magnet:?xt=urn:btmh:12200123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'\n";
    let bomb = b"a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c]\n";
    for target in ["manifest", "document"] {
        add(target, "ok-signed", &json);
        add(target, "ok-unsigned", &unsigned);
        add(target, "ok-web", &on_the_web);
        let web = String::from_utf8(on_the_web.clone()).unwrap();
        add(target, "bad-layer", web.replace("////", "///+").as_bytes());
        add(target, "bad-web-seed", web.replace("https://files", "https://u@files").as_bytes());
        add(target, "bad-signature", &changed("text-generation", "text-generatiom"));
        add(target, "bad-path", &changed("a/config.json", "../onfig.json"));
        add(target, "bad-size", &changed("\"size\": 20", "\"size\": 9007199254740993"));
        add(target, "bad-float-size", &changed("\"size\": 20", "\"size\": 2e1"));
        add(target, "bad-schema", &changed("\"schema\": 1", "\"schema\": 2"));
        add(target, "bad-nested", "[".repeat(5000).as_bytes());
        add(target, "bad-cut", &json[..json.len() / 2]);
    }
    add("manifest", "bad-old", legacy);
    add("document", "ok-old", legacy);
    add("document", "ok-old-yaml", yaml);
    add("document", "bad-yaml-bomb", bomb);
    add("document", "bad-yaml-nested", "- ".repeat(3000).as_bytes());

    let fixtures: [(&str, &[u8]); 3] = [
        ("v1", include_bytes!("../fixtures/v1.torrent")),
        ("v2", include_bytes!("../fixtures/v2.torrent")),
        ("hybrid", include_bytes!("../fixtures/hybrid.torrent")),
    ];
    for (name, torrent) in fixtures {
        let kind = if name == "v1" { "bad" } else { "ok" };
        add("metainfo", &format!("{kind}-{name}"), torrent);
        add("bencode", &format!("ok-{name}"), torrent);
    }
    add("metainfo", "ok-ours", &manifest.metainfo(None));
    let deep = format!("d4:infod9:file tree{}e{}ee", "d1:a".repeat(70), "e".repeat(70));
    add("metainfo", "bad-deep", deep.as_bytes());
    add("metainfo", "bad-empty-info", b"d4:infodee");
    let torrent = manifest.metainfo(None);
    add("metainfo", "bad-cut", &torrent[..torrent.len() - 20]);

    add("bencode", "ok-all", b"d1:ad1:xi1ee4:infod4:name1:ne1:zli-5e0:lee1:~0:e");
    for (name, bytes) in [
        ("order", "d1:b0:1:a0:e"),
        ("zero", "d1:ai-0ee"),
        ("leading", "d1:ai01ee"),
        ("length", "d1:a99999999999999999999:e"),
        ("large", "d1:ai9223372036854775808ee"),
        ("lowest", "d1:ai-9223372036854775808ee"),
        ("after", "dee"),
    ] {
        add("bencode", &format!("bad-{name}"), bytes.as_bytes());
    }
    add("bencode", "bad-deep", format!("d1:a{}", "l".repeat(1000)).as_bytes());

    let mut magnet = Magnet::new(manifest.torrent.info_hash, "model – x&y");
    magnet.trackers = vec!["udp://tracker.example:1337/announce".to_owned()];
    add("magnet", "ok-ours", magnet.to_string().as_bytes());
    let hash = manifest.torrent.info_hash;
    let foreign = format!(
        "magnet:?dn=a+b%20c&xt=urn:btmh:1220{hash}&xt=urn:btih:0123456789abcdef0123456789abcdef01234567&x.pe=10.0.0.1:80"
    );
    add("magnet", "ok-foreign", foreign.as_bytes());
    add("magnet", "bad-hash", format!("magnet:?xt=urn:btmh:1220{}", "zz".repeat(32)).as_bytes());
    add("magnet", "ok-percent", format!("magnet:?xt=urn:btmh:1220{hash}&dn=%zz%").as_bytes());
    add("magnet", "bad-none", b"magnet:?dn=x");

    let (oid, sha256) = ("ce013625030ba8dba906f756967f9e9ca394464a", Sha256Digest([7; 32]).to_string());
    let object =
        |more: &str| format!(r#"{{"transfer":"basic","objects":[{{"oid":"{sha256}","size":5{more}}}]}}"#);
    let action =
        |href: &str, more: &str| object(&format!(r#","actions":{{"download":{{"href":"{href}"{more}}}}}"#));
    let expiring =
        r#","header":{"Authorization":"RemoteAuth x"},"expires_in":900,"expires_at":"2016-11-10T15:29:07Z""#;
    let header_of_two_lines = r#","header":{"a":"b\r\nc: d"}"#;
    for (name, json) in [
        ("ok-link", action("https://cdn.example/x?sig=1", expiring)),
        ("ok-relative", action("/objects/x", "")),
        ("ok-error", object(r#","error":{"code":404,"message":"gone"}"#)),
        ("bad-scheme", action("file:///etc/passwd", "")),
        ("bad-header", action("https://cdn.example/x", header_of_two_lines)),
        ("bad-transfer", object("").replace("basic", "ssh")),
        ("bad-oid", object("").replace("07", "7")),
    ] {
        add("batch", name, json.as_bytes());
    }
    for (name, header) in [
        ("ok-next", r#"<https://hub.example/api/x?cursor=a%3D>; rel="next""#),
        ("ok-second", "</a>; rel=prev, </b,c>; rel=\"first next\""),
        ("bad-prev", "</a>; rel=prev"),
        ("bad-open", "</a; rel=next"),
        ("bad-line", "</a>; rel=next\r\nx: y"),
    ] {
        add("link", name, header.as_bytes());
    }
    let file = format!(r#"[{{"type":"file","oid":"{oid}","size":6,"path":"a/b.txt"}}]"#);
    let big = format!(r#","lfs":{{"oid":"{sha256}","size":90,"pointerSize":133}}}}]"#);
    for (name, json) in [
        ("ok-file", file.clone()),
        ("ok-lfs", file.replace("}]", &big)),
        ("ok-directory", r#"[{"type":"directory","oid":"","size":0,"path":"a"}]"#.to_owned()),
        ("bad-oid", file.replace("ce01", "ce0")),
        ("bad-size", file.replace("6,", "-6,")),
        ("bad-object", file.replace(['[', ']'], "")),
    ] {
        add("page", name, json.as_bytes());
    }
    let text = Pointer { sha256: Sha256Digest([7; 32]), size: 90_868_376 }.to_string();
    add("pointer", "ok-canonical", text.as_bytes());
    let extended = format!("ext-0-foo sha256:{sha256}\noid");
    add("pointer", "ok-extension", text.replace("oid", &extended).as_bytes());
    add("pointer", "bad-order", text.replace("oid", "size 5\noid").as_bytes());
    add("pointer", "bad-version", text.replace("v1", "v2").as_bytes());
    add("pointer", "bad-size", text.replace("size ", "size 18446744073709551616").as_bytes());

    let header = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let sound = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}}"#;
    add("safetensors", "ok-two", &header(sound));
    add("safetensors", "bad-json", &header("{\"a\":"));
    add("safetensors", "bad-offsets", &header(&sound.replace("[0,24]", "[24,0]")));
    add("safetensors", "bad-shape", &header(&sound.replace("[2,3]", "[18446744073709551615,3]")));
    add("safetensors", "bad-length", &[u64::MAX.to_le_bytes().as_slice(), sound.as_bytes()].concat());
    super::gate::seeds().into_iter().for_each(|(name, bytes)| add("gate", name, &bytes));
    seeds
}

/// The formats must not change: the generated inputs must be equal to those in the corpus. With `WRITE_SEEDS` set, writes
/// the corpus.
#[test]
fn the_seeds_are_in_the_corpus() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (target, file, bytes) in seeds() {
        let path = dir.join(target).join(&file);
        if std::env::var_os("WRITE_SEEDS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let stored = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(stored == bytes, "{target}/{file} differs from the generated input");
    }
}
