//! Checks, by headers and indexes and without reading the weights, that all files of a model are present and complete.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Read as _};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::gguf::{self, GgufError};
use super::path;
use super::safetensors::{self, LENGTH_LEN, SafetensorsError, TensorHeader};
use super::scan::ScannedFile;
use crate::nofollow;

/// The longest index that is read, in bytes.
pub const MAX_INDEX: u64 = 32 << 20;

/// How many missing files of a split model are collected. An error message shows fewer.
const MAX_MISSING: usize = 10;

/// A file that is cut or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The path of the file.
    pub path: String,
    /// The predicate of an error message whose subject is the path.
    why: String,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.why)
    }
}

/// The result of reading the headers and indexes of a directory.
#[derive(Debug, Default)]
pub struct Survey {
    /// The header of each safetensors file that has one, by its path.
    pub headers: BTreeMap<String, TensorHeader>,
    /// Files that are cut or missing.
    pub gaps: Vec<Gap>,
    /// Files that cannot be checked, each as a message with the reason.
    pub doubts: Vec<String>,
}

/// Reads every safetensors and GGUF header and every index among files in canonical order.
pub fn survey(files: &[ScannedFile]) -> Survey {
    let mut survey = Survey::default();
    for file in files {
        if file.path.ends_with(".safetensors") {
            survey.safetensors(file);
        } else if file.path.ends_with(".gguf") {
            survey.gguf(files, file);
        } else if file.path.ends_with(".index.json") {
            survey.index(files, file);
        }
    }
    survey.gaps.sort_by(|a, b| path::compare(&a.path, &b.path));
    // Several indexes may name the same missing file.
    survey.gaps.dedup_by(|a, b| a.path == b.path);
    survey
}

/// Finds a path among files in canonical order.
pub fn find<'a>(files: &'a [ScannedFile], path: &str) -> Option<&'a ScannedFile> {
    files.binary_search_by(|file| path::compare(&file.path, path)).ok().map(|i| &files[i])
}

/// Reads at most `limit` bytes from the start of a file.
pub fn read_start(file: &ScannedFile, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    nofollow::read(&file.source)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Survey {
    fn gap(&mut self, path: &str, why: impl Into<String>) {
        self.gaps.push(Gap { path: path.to_owned(), why: why.into() });
    }

    fn safetensors(&mut self, file: &ScannedFile) {
        let len = file.metadata.len();
        let prefix = match read_safetensors(file) {
            Ok(prefix) => prefix,
            Err(Unreadable::Io(error)) => {
                return self.doubts.push(format!("{} cannot be read: {error}", file.path));
            }
            Err(Unreadable::Cut(why)) => return self.gap(&file.path, format!("is not whole: {why}")),
        };
        match safetensors::parse_header(&prefix) {
            Ok(header) if header.file_len() == len => drop(self.headers.insert(file.path.clone(), header)),
            Ok(header) => self.gap(&file.path, has_not(len, "has", header.file_len())),
            Err(SafetensorsError::Json(_)) if prefix[LENGTH_LEN as usize..].contains(&0) => {
                self.gap(&file.path, "is not whole: a part of its header is missing");
            }
            Err(error) => {
                self.doubts.push(format!("{} is not a valid safetensors file: {error}", file.path));
            }
        }
    }

    fn gguf(&mut self, files: &[ScannedFile], file: &ScannedFile) {
        let missing = other_splits(&file.path).filter(|other| find(files, other).is_none());
        for other in missing.take(MAX_MISSING) {
            self.gap(&other, format!("is missing: {} is of the same model", file.path));
        }
        let (len, reader) = (file.metadata.len(), nofollow::read(&file.source));
        match reader.map_err(GgufError::from).and_then(|file| gguf::shortest(BufReader::new(file))) {
            Ok(shortest) if shortest <= len => {}
            Ok(shortest) => self.gap(&file.path, has_not(len, "has at least", shortest)),
            Err(GgufError::Truncated) => self.gap(&file.path, "is not whole: it ends within its header"),
            Err(_) if starts_with_zeros(file) => {
                self.gap(&file.path, "is not whole: its first bytes are missing");
            }
            Err(error) => self.doubts.push(format!("{} is not a valid GGUF file: {error}", file.path)),
        }
    }

    fn index(&mut self, files: &[ScannedFile], file: &ScannedFile) {
        if file.metadata.len() > MAX_INDEX {
            let text = format!("{} is longer than {} MiB and is not read", file.path, MAX_INDEX >> 20);
            return self.doubts.push(text);
        }
        let bytes = match read_start(file, MAX_INDEX) {
            Ok(bytes) => bytes,
            Err(error) => return self.doubts.push(format!("{} cannot be read: {error}", file.path)),
        };
        let index = match serde_json::from_slice::<TensorIndex>(&bytes) {
            Ok(index) => index,
            Err(error) if error.is_eof() || bytes.contains(&0) => {
                return self.gap(&file.path, "is not whole: it ends within its text");
            }
            // JSON without a `weight_map` is no index.
            Err(error) if error.is_data() => return,
            Err(error) => return self.doubts.push(format!("{} cannot be read: {error}", file.path)),
        };
        let dir = file.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let named: std::collections::BTreeSet<&str> = index.files().collect();
        for name in named {
            let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
            if find(files, &path).is_none() {
                let path = super::text::clean(&path).chars().take(200).collect::<String>();
                self.gap(&path, format!("is missing: {} names it", file.path));
            }
        }
    }
}

fn has_not(len: u64, how: &str, expected: u64) -> String {
    format!("is not whole: it has {len} bytes, and by its header it {how} {expected}")
}

/// An index of tensors: `*.safetensors.index.json`, `*.bin.index.json` and the like.
#[derive(Deserialize)]
pub(super) struct TensorIndex {
    #[serde(default)]
    pub metadata: IndexMetadata,
    weight_map: BTreeMap<String, IndexValue>,
}

#[derive(Default, Deserialize)]
pub(super) struct IndexMetadata {
    pub total_parameters: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum IndexValue {
    File(String),
    Other(IgnoredAny),
}

impl TensorIndex {
    /// The file of each tensor.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.weight_map.values().filter_map(|value| match value {
            IndexValue::File(name) => Some(name.as_str()),
            IndexValue::Other(_) => None,
        })
    }
}

enum Unreadable {
    Io(io::Error),
    Cut(String),
}

/// Reads the header of a safetensors file, including the length before it.
fn read_safetensors(file: &ScannedFile) -> Result<Vec<u8>, Unreadable> {
    let len = file.metadata.len();
    let mut reader = nofollow::read(&file.source).map_err(Unreadable::Io)?;
    let mut first = [0; LENGTH_LEN as usize];
    if len < LENGTH_LEN {
        return Err(Unreadable::Cut(format!("it has {len} bytes")));
    }
    reader.read_exact(&mut first).map_err(Unreadable::Io)?;
    if first == [0; LENGTH_LEN as usize] {
        return Err(Unreadable::Cut("its first bytes are missing".to_owned()));
    }
    let header_len = safetensors::header_len(first, len)
        .map_err(|error| Unreadable::Cut(format!("{error}, and it has {len} bytes")))?;
    let mut prefix = first.to_vec();
    reader.take(header_len).read_to_end(&mut prefix).map_err(Unreadable::Io)?;
    Ok(prefix)
}

fn starts_with_zeros(file: &ScannedFile) -> bool {
    read_start(file, 8).is_ok_and(|bytes| bytes.iter().all(|&byte| byte == 0))
}

/// The other files of a split GGUF model, derived from the name of one of them: `NAME-00001-of-00003.gguf`.
fn other_splits(path: &str) -> impl Iterator<Item = String> {
    let parse = || {
        let (rest, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(number) || !digits(count) {
            return None;
        }
        let (number, total): (u32, u32) = (number.parse().ok()?, count.parse().ok()?);
        (1..=total).contains(&number).then_some((prefix, number, total))
    };
    let (prefix, number, total) = parse().unwrap_or_default();
    (1..=total).filter(move |&n| n != number).map(move |n| format!("{prefix}-{n:05}-of-{total:05}.gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gguf::sample::gguf;
    use crate::model::scan::{OutsideLinks, scan};
    use std::fs;

    fn tensors(n: usize) -> Vec<u8> {
        let json = format!(r#"{{"w":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}"#);
        [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &vec![1; n]].concat()
    }

    fn survey_of(files: &[(&str, &[u8])]) -> Survey {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), bytes).unwrap();
        }
        survey(&scan(dir.path(), &OutsideLinks::new()).unwrap())
    }

    fn gaps(files: &[(&str, &[u8])]) -> Vec<String> {
        survey_of(files).gaps.iter().map(Gap::to_string).collect()
    }

    #[test]
    fn whole_files_have_no_gaps() {
        let (weights, model) = (tensors(50), gguf(&[40, 33]));
        let index =
            br#"{"metadata":{"total_size":1},"weight_map":{"a":"a.safetensors","b":"a.safetensors"}}"#;
        let found = survey_of(&[
            ("a.safetensors", &weights),
            ("sub/model.safetensors.index.json", index),
            ("sub/a.safetensors", &weights),
            ("m-00001-of-00002.gguf", &model),
            ("m-00002-of-00002.gguf", &model),
            ("faiss.index.json", b"[1, 2]"),
            ("other.index.json", b"{\"x\": 1}"),
        ]);
        assert_eq!((found.gaps, found.doubts), (vec![], Vec::<String>::new()));
        assert_eq!(found.headers.len(), 2);
    }

    #[test]
    fn cut_files_are_gaps() {
        let whole = tensors(50);
        let longer = [whole.as_slice(), b"x"].concat();
        let mut hole = whole.clone();
        hole[30..60].fill(0);
        let model = gguf(&[40, 33]);
        let not_long_enough = &model[..model.len() - 70];
        let cases: [(&str, &[u8], &str); 10] = [
            ("cut.safetensors", &whole[..whole.len() - 1], "by its header"),
            ("long.safetensors", &longer, "by its header"),
            ("in-header.safetensors", &whole[..20], "the header claims"),
            ("short.safetensors", b"abc", "3 bytes"),
            ("empty.safetensors", b"", "0 bytes"),
            ("zeros.safetensors", &[0; 100], "first bytes are missing"),
            ("hole.safetensors", &hole, "part of its header"),
            ("cut.gguf", not_long_enough, "by its header it has at least"),
            ("in-header.gguf", &model[..50], "ends within its header"),
            ("zeros.gguf", &[0; 100], "first bytes are missing"),
        ];
        for (name, bytes, part) in cases {
            let found = gaps(&[("README.md", b"x"), (name, bytes)]);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert!(found[0].starts_with(&format!("{name} is not whole")), "{found:?}");
            assert!(found[0].contains(part), "{found:?}");
        }
    }

    #[test]
    fn files_named_by_an_index_must_exist() {
        let index = br#"{"weight_map":{"a":"a.bin","b":"b.bin","c":"../c.bin"}}"#;
        let found =
            gaps(&[("sub/pytorch_model.bin.index.json", index), ("sub/a.bin", b"x"), ("c.bin", b"x")]);
        assert_eq!(
            found,
            [
                "sub/../c.bin is missing: sub/pytorch_model.bin.index.json names it",
                "sub/b.bin is missing: sub/pytorch_model.bin.index.json names it"
            ]
        );
        assert_eq!(
            gaps(&[("model.safetensors.index.json", &index[..20])]),
            ["model.safetensors.index.json is not whole: it ends within its text"]
        );
    }

    #[test]
    fn missing_parts_of_a_split_gguf_are_named() {
        let model = gguf(&[10]);
        let found = gaps(&[("q4/m-00001-of-00003.gguf", &model), ("q4/m-00003-of-00003.gguf", &model)]);
        assert_eq!(
            found,
            ["q4/m-00002-of-00003.gguf is missing: q4/m-00001-of-00003.gguf is of the same model"]
        );
    }

    #[test]
    fn files_of_other_formats_are_doubts_and_not_gaps() {
        let json = b"{ broken";
        let broken = [&(json.len() as u64).to_le_bytes()[..], json].concat();
        let found = survey_of(&[("a.safetensors", &broken), ("b.gguf", b"GGML or something else")]);
        assert_eq!(found.gaps, []);
        assert_eq!(found.doubts.len(), 2, "{:?}", found.doubts);
    }
}
