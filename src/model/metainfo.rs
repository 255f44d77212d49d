//! Torrent metainfo of version 2 (BEP 52). It is written with exactly the bytes of libtorrent's `create_torrent` with
//! `v2_only | no_attributes`, and read from `.torrent` files of any program.

use std::collections::BTreeMap;

use bt_bencode::{ByteString, Value};
use sha2::{Digest as _, Sha256};

use super::bencode::{self, BencodeError};
use super::files::{self, FilesError, MAX_FILES, TorrentFile};
use super::merkle::{LayerError, PieceLayers};
use super::path::{PathProblem, check_component};
use super::{InfoHash, PiecesRoot};

/// Largest metainfo that is read, in bytes. Piece layers have 32 bytes per piece.
pub const MAX_METAINFO: usize = 96 << 20;

/// The reason why metainfo is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// Larger than [`MAX_METAINFO`].
    #[error("the torrent is larger than {} MiB", MAX_METAINFO >> 20)]
    TooLarge,
    /// Not bencode.
    #[error("the torrent is malformed: {0}")]
    Bencode(#[from] BencodeError),
    /// A key is missing or has the wrong type.
    #[error("the torrent is malformed: {0}")]
    Shape(&'static str),
    /// Only the v1 format.
    #[error("this is a BitTorrent v1 torrent; only v2 and hybrid torrents can be used")]
    V1Only,
    /// A later version of the format.
    #[error("the torrent has the unknown meta version {0}")]
    Version(u64),
    /// The name cannot be that of a directory.
    #[error("the name of the torrent {0}")]
    Name(PathProblem),
    /// A file is a symbolic link.
    #[error("the torrent has a symbolic link, {0:?}; links are not supported")]
    Link(String),
    /// The list of files is refused.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A piece layer is refused.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// A file of a parsed torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedFile {
    /// Relative path, checked.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Merkle root; none for an empty file.
    pub pieces_root: Option<PiecesRoot>,
    /// Whether the file has the attribute `x` (BEP 47), which means executable.
    pub executable: bool,
}

impl ParsedFile {
    /// The file in the form that [`files::check`] reads.
    pub fn as_torrent_file(&self) -> TorrentFile<'_> {
        TorrentFile { path: &self.path, size: self.size, pieces_root: self.pieces_root }
    }
}

/// A parsed torrent. The info dictionary is completely checked, and every layer hashes to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedMetainfo {
    /// SHA-256 of `info`.
    pub info_hash: InfoHash,
    /// The bencoded info dictionary, byte for byte as received.
    pub info: Vec<u8>,
    /// `name`.
    pub name: String,
    /// Bytes per piece.
    pub piece_length: u32,
    /// The files in canonical order.
    pub files: Vec<ParsedFile>,
    /// The piece layers of the torrent file; empty if it has none.
    pub layers: PieceLayers,
    /// `announce` and `announce-list`, without repetitions.
    pub trackers: Vec<String>,
    /// `url-list` (BEP 19).
    pub web_seeds: Vec<String>,
    /// Whether it has a v1 half.
    pub hybrid: bool,
}

fn dict() -> Value {
    Value::Dict(BTreeMap::new())
}

fn encode(value: &Value) -> Vec<u8> {
    bt_bencode::to_vec(value).expect("a bencode value in memory can always be encoded")
}

/// The info dictionary of a v2 torrent. The paths must have passed `files::check`; their order does not matter.
pub fn info_dict<'a>(name: &str, piece_length: u32, files: impl Iterator<Item = TorrentFile<'a>>) -> Vec<u8> {
    let mut tree = BTreeMap::new();
    for file in files {
        let mut at = &mut tree;
        for component in file.path.split('/') {
            match at.entry(ByteString::from(component)).or_insert_with(dict) {
                Value::Dict(next) => at = next,
                _ => unreachable!("the tree has only dictionaries above its leaves"),
            }
        }
        let mut leaf = BTreeMap::from([(ByteString::from("length"), Value::from(file.size))]);
        if let Some(root) = file.pieces_root {
            leaf.insert(ByteString::from("pieces root"), Value::ByteStr(ByteString::from(root.0.as_slice())));
        }
        at.insert(ByteString::from(""), Value::Dict(leaf));
    }
    encode(&Value::Dict(BTreeMap::from([
        (ByteString::from("file tree"), Value::Dict(tree)),
        (ByteString::from("meta version"), Value::from(2u64)),
        (ByteString::from("name"), Value::from(name)),
        (ByteString::from("piece length"), Value::from(u64::from(piece_length))),
    ])))
}

/// The v2 info hash of an info dictionary.
pub fn info_hash(info: &[u8]) -> InfoHash {
    InfoHash(Sha256::digest(info).into())
}

/// Metainfo with this info dictionary and the given piece layers.
pub fn wrap(info: &[u8], layers: Option<&PieceLayers>) -> Vec<u8> {
    let mut out = b"d4:info".to_vec();
    out.extend_from_slice(info);
    if let Some(layers) = layers {
        let layers = layers.iter().map(|(root, layer)| {
            (ByteString::from(root.0.as_slice()), Value::ByteStr(ByteString::from(layer.concat())))
        });
        out.extend_from_slice(b"12:piece layers");
        out.extend_from_slice(&encode(&Value::Dict(layers.collect())));
    }
    out.push(b'e');
    out
}

/// A `.torrent` file whose trackers are replaced by these, each in its own tier.
pub fn with_trackers(metainfo: &[u8], trackers: &[String]) -> Result<Vec<u8>, MetainfoError> {
    let entries = bencode::check(metainfo)?;
    let text = |text: &str| Value::ByteStr(ByteString::from(text));
    let announce = trackers.first().map(|first| encode(&text(first)));
    let tiers = trackers.iter().map(|tracker| Value::List(vec![text(tracker)])).collect();
    let list = (!trackers.is_empty()).then(|| encode(&Value::List(tiers)));
    let given = [("announce", announce), ("announce-list", list)];
    let mut all: BTreeMap<&[u8], &[u8]> = entries.iter().collect();
    for (key, value) in &given {
        match value {
            Some(value) => all.insert(key.as_bytes(), value),
            None => all.remove(key.as_bytes()),
        };
    }
    let mut out = b"d".to_vec();
    for (key, value) in all {
        out.extend_from_slice(&encode(&Value::ByteStr(ByteString::from(key))));
        out.extend_from_slice(value);
    }
    out.push(b'e');
    Ok(out)
}

fn value(bytes: &[u8]) -> Result<Value, MetainfoError> {
    bt_bencode::from_slice(bytes).map_err(|_| MetainfoError::Shape("a value cannot be read"))
}

/// Reads a `.torrent` file.
pub fn parse_metainfo(bytes: &[u8]) -> Result<ParsedMetainfo, MetainfoError> {
    if bytes.len() > MAX_METAINFO {
        return Err(MetainfoError::TooLarge);
    }
    let entries = bencode::check(bytes)?;
    let mut parsed = parse_checked_info(entries.raw("info").ok_or(MetainfoError::Shape("it has no info"))?)?;
    if let Some(layers) = entries.raw("piece layers") {
        parsed.layers = parse_layers(&parsed, value(layers)?)?;
    }
    if let Some(announce) = entries.raw("announce") {
        collect_strings(&value(announce)?, &mut parsed.trackers);
    }
    if let Some(list) = entries.raw("announce-list") {
        collect_strings(&value(list)?, &mut parsed.trackers);
    }
    if let Some(list) = entries.raw("url-list") {
        collect_strings(&value(list)?, &mut parsed.web_seeds);
    }
    Ok(parsed)
}

/// Reads an info dictionary without the metainfo around it, as peers send it for a magnet link (BEP 9).
pub fn parse_info(info: &[u8]) -> Result<ParsedMetainfo, MetainfoError> {
    if info.len() > MAX_METAINFO {
        return Err(MetainfoError::TooLarge);
    }
    bencode::check(info)?;
    parse_checked_info(info)
}

fn parse_checked_info(info: &[u8]) -> Result<ParsedMetainfo, MetainfoError> {
    use MetainfoError::Shape;
    let Value::Dict(dict) = value(info)? else { return Err(Shape("info is not a dictionary")) };
    let hybrid = dict.contains_key("pieces".as_bytes());
    match dict.get("meta version".as_bytes()).map(Value::as_u64) {
        Some(Some(2)) => {}
        Some(Some(version)) if version != 1 => return Err(MetainfoError::Version(version)),
        _ if hybrid => return Err(MetainfoError::V1Only),
        _ => return Err(Shape("it has no meta version")),
    }
    let name = dict.get("name".as_bytes()).and_then(Value::as_str).ok_or(Shape("it has no name in UTF-8"))?;
    check_component(name).map_err(MetainfoError::Name)?;
    let piece_length = (dict.get("piece length".as_bytes()).and_then(Value::as_u64))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or(Shape("it has no usable piece length"))?;
    let Some(Value::Dict(tree)) = dict.get("file tree".as_bytes()) else {
        return Err(Shape("it has no file tree"));
    };
    let mut files = Vec::new();
    walk(tree, &mut String::new(), &mut files)?;
    files::check(piece_length, files.iter().map(ParsedFile::as_torrent_file))?;
    if hybrid {
        files::check_hybrid(name, files.iter().map(|file| file.path.as_str()))?;
    }
    Ok(ParsedMetainfo {
        info_hash: info_hash(info),
        info: info.to_vec(),
        name: name.to_owned(),
        piece_length,
        files,
        layers: PieceLayers::default(),
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        hybrid,
    })
}

/// Collects the files of a tree in its order, which is canonical. `prefix` is empty or ends with a slash.
fn walk(
    tree: &BTreeMap<ByteString, Value>,
    prefix: &mut String,
    files: &mut Vec<ParsedFile>,
) -> Result<(), MetainfoError> {
    use MetainfoError::Shape;
    for (component, node) in tree {
        let component = std::str::from_utf8(component).map_err(|_| Shape("a file name is not UTF-8"))?;
        let Value::Dict(node) = node else {
            return Err(Shape("a node of the file tree is not a dictionary"));
        };
        let before = prefix.len();
        prefix.push_str(component);
        check_component(component).map_err(|why| {
            MetainfoError::Files(FilesError::Path(super::path::PathError {
                path: prefix.chars().take(120).collect(),
                why,
            }))
        })?;
        match node.get("".as_bytes()) {
            Some(Value::Dict(leaf)) if node.len() == 1 => {
                if files.len() == MAX_FILES {
                    return Err(FilesError::TooMany(MAX_FILES + 1).into());
                }
                let attributes = leaf.get("attr".as_bytes()).and_then(Value::as_str).unwrap_or_default();
                if attributes.contains('l') {
                    return Err(MetainfoError::Link(prefix.chars().take(120).collect()));
                }
                let size = leaf
                    .get("length".as_bytes())
                    .and_then(Value::as_u64)
                    .ok_or(Shape("a file has no length"))?;
                let pieces_root = match leaf.get("pieces root".as_bytes()) {
                    Some(root) => Some(PiecesRoot(
                        (root.as_byte_str().and_then(|root| root.as_slice().try_into().ok()))
                            .ok_or(Shape("a pieces root is not 32 bytes long"))?,
                    )),
                    None => None,
                };
                let executable = attributes.contains('x');
                files.push(ParsedFile { path: prefix.clone(), size, pieces_root, executable });
            }
            Some(_) => return Err(Shape("a file of the file tree is also a directory")),
            None => {
                prefix.push('/');
                walk(node, prefix, files)?;
            }
        }
        prefix.truncate(before);
    }
    Ok(())
}

fn parse_layers(parsed: &ParsedMetainfo, value: Value) -> Result<PieceLayers, MetainfoError> {
    let Value::Dict(mut given) = value else {
        return Err(MetainfoError::Shape("piece layers is not a dictionary"));
    };
    let mut layers = PieceLayers::default();
    for file in &parsed.files {
        let Some(root) = file.pieces_root else { continue };
        // Files with equal bytes share one layer, which the first of them removes from `given`.
        let Some(layer) = given.remove(root.0.as_slice()) else { continue };
        let layer = layer.as_byte_str().ok_or(MetainfoError::Shape("a piece layer is not a string"))?;
        let (hashes, rest) = layer.as_slice().as_chunks::<32>();
        if !rest.is_empty() {
            return Err(MetainfoError::Shape("a piece layer is not a list of hashes"));
        }
        layers.insert(root, file.size, parsed.piece_length, hashes.to_vec())?;
    }
    Ok(layers)
}

/// Collects the strings of a string, a list or a list of lists. At most 100, which is more than an honest torrent has.
fn collect_strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::ByteStr(_) => {
            let text = value.as_str().map(str::trim).filter(|text| !text.is_empty() && text.len() <= 2048);
            if let Some(text) = text.filter(|text| into.len() < 100 && !into.iter().any(|t| t == text)) {
                into.push(text.to_owned());
            }
        }
        Value::List(list) => list.iter().for_each(|value| collect_strings(value, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::known_answers::CASES;
    use crate::model::path;
    use proptest::prelude::*;

    const V2: &[u8] = include_bytes!("../../tests/fixtures/v2.torrent");
    const HYBRID: &[u8] = include_bytes!("../../tests/fixtures/hybrid.torrent");
    const V1: &[u8] = include_bytes!("../../tests/fixtures/v1.torrent");

    #[test]
    fn info_dictionaries_match_those_of_libtorrent() {
        for case in CASES {
            let files = case.files.iter().map(|&(path, size, _, root)| TorrentFile {
                path,
                size,
                pieces_root: (size > 0).then(|| root.parse().unwrap()),
            });
            let info = info_dict(case.name, case.piece_length, files);
            assert_eq!(info_hash(&info).to_string(), case.info_hash, "{}", case.what);
            let parsed = parse_info(&info).unwrap();
            assert_eq!(parsed.name, case.name);
            assert!(parsed.files.is_sorted_by(|a, b| path::compare(&a.path, &b.path).is_lt()));
        }
    }

    #[test]
    fn foreign_torrents_are_read() {
        let parsed = parse_metainfo(V2).unwrap();
        assert_eq!(parsed.info_hash.to_string(), CASES[0].info_hash);
        let paths: Vec<&str> = parsed.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a/b", "a-b/c", "a.b", "empty", "z/y/x.bin"]);
        assert_eq!((parsed.files[3].size, parsed.files[3].pieces_root), (0, None));
        assert_eq!(parsed.trackers, ["udp://t.example:1"]);
        assert_eq!(parsed.web_seeds, ["http://w.example/"]);
        assert!(!parsed.hybrid);
        assert_eq!(parsed.layers.len(), 1);
        assert_eq!(parsed.layers.get(&parsed.files[4].pieces_root.unwrap()).unwrap().len(), 7);
        let again = parse_metainfo(&wrap(&parsed.info, Some(&parsed.layers))).unwrap();
        assert_eq!(
            (again.info_hash, again.files, again.layers),
            (parsed.info_hash, parsed.files, parsed.layers)
        );
    }

    #[test]
    fn hybrid_torrents_are_read_by_their_v2_half() {
        let (hybrid, v2) = (parse_metainfo(HYBRID).unwrap(), parse_metainfo(V2).unwrap());
        assert!(hybrid.hybrid);
        assert_eq!(
            hybrid.info_hash.to_string(),
            "798bb7f5c2210f0e40587bdf4c75fa8b2c3d86b9ee8a2298ec03dbc96e0cc843"
        );
        assert_eq!((hybrid.files, hybrid.layers), (v2.files, v2.layers));
    }

    #[test]
    fn a_v1_torrent_is_refused_with_the_reason() {
        assert_eq!(parse_metainfo(V1), Err(MetainfoError::V1Only));
    }

    #[test]
    fn a_layer_that_does_not_hash_to_its_root_is_refused() {
        let parsed = parse_metainfo(V2).unwrap();
        let root = parsed.files[4].pieces_root.unwrap();
        let first = parsed.layers.get(&root).unwrap()[0];
        let at = V2.windows(32).position(|w| w == first).unwrap();
        let mut damaged = V2.to_vec();
        damaged[at] ^= 1;
        assert_eq!(parse_metainfo(&damaged), Err(MetainfoError::Layer(LayerError::Root(root))));
    }

    fn tree(inner: &str) -> Vec<u8> {
        format!("d9:file tree{inner}12:meta versioni2e4:name1:n12:piece lengthi16384ee").into_bytes()
    }

    #[test]
    fn hostile_trees_are_refused() {
        let root = "11:pieces root32:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let leaf = format!("d0:d6:lengthi1e{root}ee");
        assert!(parse_info(&tree(&format!("d1:a{leaf}e"))).is_ok());
        for inner in [
            "de".to_owned(),
            format!("d2:..{leaf}e"),
            format!("d1:.{leaf}e"),
            format!("d0:{leaf}e"),
            format!("d3:a/b{leaf}e"),
            format!("d3:a\nb{leaf}e"),
            format!("d4:.gitd6:config{leaf}ee"),
            format!("d1:ad0:d6:lengthi1e{root}e1:b{leaf}ee"),
            "d1:ad0:d6:lengthi1eeee".into(),
            format!("d1:ad0:d6:lengthi0e{root}eee"),
            format!("d1:ad0:d6:lengthi-1e{root}eee"),
            "d1:ad0:d6:lengthi1e11:pieces root3:AAAeee".into(),
            format!("d1:ad0:d4:attr1:l6:lengthi1e{root}eee"),
            format!("d1:ad0:d6:lengthi9007199254740991e{root}eee"),
            "d1:ai1ee".into(),
            "d1:a{}".replace("{}", &"d1:a".repeat(70)) + &leaf + &"e".repeat(71),
        ] {
            assert!(parse_info(&tree(&inner)).is_err(), "{inner}");
        }
        let version = String::from_utf8(tree(&format!("d1:a{leaf}e"))).unwrap();
        let version = version.replace("versioni2e", "versioni3e");
        assert_eq!(parse_info(version.as_bytes()), Err(MetainfoError::Version(3)));
    }

    proptest! {
        #[test]
        fn damaged_torrents_never_panic(at in 0..V2.len(), byte: u8, cut in 0..V2.len()) {
            let mut damaged = V2.to_vec();
            damaged[at] = byte;
            let _ = parse_metainfo(&damaged);
            let _ = parse_metainfo(&damaged[..cut]);
        }

        #[test]
        fn the_file_tree_is_ordered_by_components(paths in proptest::collection::btree_set("[ab.]{1,2}[a-c](/[ab.]{1,2}[a-c]){0,2}", 1..12)) {
            let mut paths: Vec<String> = paths.into_iter().collect();
            paths.sort_by(|a, b| path::compare(a, b));
            prop_assume!(path::check_sorted(paths.iter().map(String::as_str)).is_ok());
            let file = |path| TorrentFile { path, size: 1, pieces_root: Some(PiecesRoot([1; 32])) };
            let info = info_dict("n", 16384, paths.iter().rev().map(|path| file(path)));
            let read: Vec<String> = parse_info(&info).unwrap().files.into_iter().map(|f| f.path).collect();
            prop_assert_eq!(read, paths);
        }
    }
}
