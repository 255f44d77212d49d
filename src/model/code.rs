//! Files of a model that can run code when a program loads the model: pickles, Python, and configurations that name
//! Python (`auto_map`).
//!
//! The bytes of a file decide if they are available; otherwise its name decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many first bytes of a file are enough to recognize a pickle.
pub const START: u64 = 4;
/// Longest configuration that is checked, in bytes.
pub const MAX_CONFIG: u64 = 1 << 20;

/// How a file runs code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunsCode {
    /// A pickle runs code when it is loaded.
    Pickle,
    /// Python code runs in a program that trusts remote code.
    Python,
    /// A configuration names Python code, in this model or in another repository.
    AutoMap,
}

impl RunsCode {
    /// The word that tables show.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pickle => "pickle",
            Self::Python => "python",
            Self::AutoMap => "auto_map",
        }
    }

    /// The kind that the name of a file suggests. Only its bytes prove it.
    pub fn by_name(path: &str) -> Option<Self> {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name).to_ascii_lowercase();
        let (_, extension) = name.rsplit_once('.')?;
        match extension {
            "bin" | "pt" | "pth" | "ckpt" | "pkl" | "pickle" | "joblib" | "dill" => Some(Self::Pickle),
            "py" => Some(Self::Python),
            "json" if name.ends_with("config.json") => Some(Self::AutoMap),
            _ => None,
        }
    }

    /// The predicate of a warning whose subject is the path of a file.
    pub fn warning(self) -> &'static str {
        match self {
            Self::Pickle => "can run code when loaded (pickle); safetensors cannot",
            Self::Python => {
                "is Python code, which runs in a program that trusts remote code (trust_remote_code)"
            }
            Self::AutoMap => "names Python code that runs in a program that trusts remote code (auto_map)",
        }
    }
}

/// Whether a file begins as a pickle: a bare one, or one in the zip archive that PyTorch writes.
pub fn is_pickle(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || matches!(start[..], [0x80, 2..=5, ..])
}

/// Whether a configuration names Python code.
pub fn has_auto_map(json: &[u8]) -> bool {
    let fields = serde_json::from_slice::<serde_json::Value>(json);
    fields.is_ok_and(|fields| ["auto_map", "custom_pipelines"].iter().any(|key| fields.get(key).is_some()))
}

/// Files that can run code. For each kind: the first file and the number of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(BTreeMap<RunsCode, (String, usize)>);

impl Findings {
    /// Checks files given by path and length. `read` receives the index of a file and a length, and returns that many
    /// first bytes of the file, or none if they are not available.
    pub fn of<'a>(
        files: impl IntoIterator<Item = (&'a str, u64)>,
        read: impl Fn(usize, u64) -> Option<Vec<u8>>,
    ) -> Self {
        let mut found = Self::default();
        for (number, (path, len)) in files.into_iter().enumerate() {
            let Some(kind) = RunsCode::by_name(path).filter(|_| len > 0) else { continue };
            let holds = match kind {
                RunsCode::Pickle => read(number, START.min(len)).is_none_or(|start| is_pickle(&start)),
                RunsCode::Python => true,
                RunsCode::AutoMap => {
                    len <= MAX_CONFIG && read(number, len).is_some_and(|json| has_auto_map(&json))
                }
            };
            if holds {
                found.0.entry(kind).or_insert_with(|| (path.to_owned(), 0)).1 += 1;
            }
        }
        found
    }

    /// All kinds that occur.
    pub fn kinds(&self) -> Vec<RunsCode> {
        self.0.keys().copied().collect()
    }

    /// One line for each kind.
    pub fn warnings(&self) -> Vec<String> {
        let line = |(kind, (first, count)): (&RunsCode, &(String, usize))| match count {
            1 => format!("{first} {}", kind.warning()),
            n => format!("{first} and {} more: {}", n - 1, kind.warning()),
        };
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(files: &[(&str, Option<&[u8]>)]) -> Vec<RunsCode> {
        let read = |number: usize, len: u64| {
            files[number].1.map(|bytes| bytes[..bytes.len().min(len as usize)].to_vec())
        };
        Findings::of(files.iter().map(|(path, bytes)| (*path, bytes.map_or(9, |b| b.len() as u64))), read)
            .kinds()
    }

    #[test]
    fn names_decide_only_without_bytes() {
        assert_eq!(kinds(&[("pytorch_model.bin", Some(b"PK\x03\x04more"))]), [RunsCode::Pickle]);
        assert_eq!(kinds(&[("a/model.PT", Some(b"\x80\x02}q"))]), [RunsCode::Pickle]);
        assert_eq!(kinds(&[("w.bin", Some(b"GGUFxxxx"))]), []);
        assert_eq!(kinds(&[("w.bin", None)]), [RunsCode::Pickle], "it may be a pickle");
        assert_eq!(kinds(&[("model.safetensors", None), ("README.md", None), ("bin", None)]), []);
    }

    #[test]
    fn python_and_auto_map_are_found() {
        let config: &[u8] = br#"{"auto_map": {"AutoModel": "other/repo--modeling.Model"}}"#;
        assert_eq!(kinds(&[("sub/config.json", Some(config))]), [RunsCode::AutoMap]);
        assert_eq!(kinds(&[("config.json", Some(b"{\"model_type\": \"auto_map\"}"))]), []);
        assert_eq!(kinds(&[("config.json", None), ("modeling_x.py", None)]), [RunsCode::Python]);
        assert_eq!(
            kinds(&[("tokenizer_config.json", Some(config)), ("__init__.py", Some(b""))]),
            [RunsCode::AutoMap]
        );
    }

    #[test]
    fn a_warning_names_one_file_and_counts_the_rest() {
        let files = [("a.pt", 9), ("b.pt", 9), ("c.py", 9)];
        let warnings = Findings::of(files, |_, _| None).warnings();
        assert!(warnings[0].starts_with("a.pt and 1 more: can run code"), "{warnings:?}");
        assert!(warnings[1].starts_with("c.py is Python code"), "{warnings:?}");
    }
}
