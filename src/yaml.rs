//! Reads and writes YAML. No other module does.
//!
//! YAML comes from text editors and from other hosts: configuration, `trust.yaml`, `sharing.yaml`, manifests, the front
//! matter of model cards. Each caller gives the limits of its file in bytes and in values; all other limits are equal. The
//! time and the memory of a read grow linearly with the file. Anchors, aliases and merge keys are refused: no file of
//! silmaril needs them, and a few bytes of them can expand to gigabytes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::localizer::ExternalMessageSource;
use serde_saphyr::{Error, Options, budget, options};

/// Deepest nesting of collections.
pub const MAX_DEPTH: usize = 64;

/// Limits of a file.
#[derive(Debug, Clone, Copy)]
pub struct YamlLimits {
    /// Largest number of bytes.
    pub bytes: usize,
    /// Largest number of scalars, lists and maps; the keys of maps count, too.
    pub values: usize,
}

/// The error for a text that is refused. The caller adds the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct YamlError {
    /// The line, counted from 1; none if the error has no line.
    pub line: Option<usize>,
    /// The key and the reason, on one line.
    pub what: String,
}

impl YamlError {
    fn new(what: impl Into<String>) -> Self {
        Self { line: None, what: what.into() }
    }

    fn of(error: &Error, limits: YamlLimits) -> Self {
        let error = error.without_snippet();
        let place = error.location().filter(|place| place.line() > 0);
        let what = limit_message(error, limits).unwrap_or_else(|| {
            let text = error.to_string();
            let place = place.map(|at| format!(" at line {}, column {}", at.line(), at.column()));
            place.map_or(text.clone(), |place| text.replace(&place, ""))
        });
        Self { line: place.map(|place| place.line() as usize), what: what.replace('\n', " ") }
    }

    fn below(mut self, path: &serde_path_to_error::Path) -> Self {
        let path = path.to_string();
        // A question mark is the path of a key that could not be read.
        let path = path.trim_end_matches(".?");
        if !matches!(path, "." | "?") {
            self.what = format!("{path}: {}", self.what);
        }
        self
    }
}

/// The message for an exceeded limit or a refused feature; none for other errors.
fn limit_message(error: &Error, limits: YamlLimits) -> Option<String> {
    let deep = || format!("collections are nested deeper than {MAX_DEPTH} levels");
    match error {
        Error::Budget { breach, .. } => Some(match breach {
            BudgetBreach::Depth { .. } => deep(),
            BudgetBreach::Documents { .. } => "there is more than one document".to_owned(),
            BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => {
                "anchors (&) and aliases (*) are not accepted".to_owned()
            }
            BudgetBreach::MergeKeys { .. } => "merge keys (<<) are not accepted".to_owned(),
            _ => format!("there are more than {} values", limits.values),
        }),
        Error::ExternalMessage { source, .. } => match &**source {
            ExternalMessageSource::Parser(error) => {
                matches!(error.kind(), ErrorKind::RecursionLimitExceeded).then(deep)
            }
            _ => None,
        },
        Error::UnknownAnchor { .. } => Some("anchors (&) and aliases (*) are not accepted".to_owned()),
        Error::DuplicateMappingKey { key: Some(key), .. } => Some(format!("the key {key} occurs twice")),
        Error::MultipleDocuments { .. } => Some("there is more than one document".to_owned()),
        _ => None,
    }
}

fn strict(limits: YamlLimits) -> Options {
    options! {
        budget: budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: limits.values,
            // Each collection has a second event for its end; the document and the stream have two events each.
            max_events: limits.values.saturating_mul(2).saturating_add(4),
            max_total_scalar_bytes: limits.bytes,
            max_documents: 1,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
        },
        // As in YAML 1.2: `no`, `0755` and `1_000` are texts.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    }
}

/// Reads one document. A text without a value is null.
pub fn read<T: DeserializeOwned>(text: &[u8], limits: YamlLimits) -> Result<T, YamlError> {
    if text.len() > limits.bytes {
        return Err(YamlError::new(format!("the text is longer than {} bytes", limits.bytes)));
    }
    let text = std::str::from_utf8(text).map_err(|_| YamlError::new("the text is not UTF-8"))?;
    let mut path = None;
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, strict(limits), |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = Some(error.path().clone());
            error.into_inner()
        })
    });
    read.map_err(|error| {
        let error = YamlError::of(&error, limits);
        match path {
            Some(path) => error.below(&path),
            None => error,
        }
    })
}

/// Writes a value as one document.
pub fn write<T: Serialize>(value: &T) -> Result<String, YamlError> {
    serde_saphyr::to_string(value).map_err(|error| YamlError::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const LIMITS: YamlLimits = YamlLimits { bytes: 1 << 20, values: 1000 };

    fn value(text: &str) -> Result<Value, YamlError> {
        read(text.as_bytes(), LIMITS)
    }

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let error = value(text).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{:?}: {error}", &text[..text.len().min(20)]);
    }

    #[test]
    fn deep_nesting_is_refused() {
        // Closing brackets in comments and texts do not close a list.
        for unit in ["[", "[ # ]\n", "[ ']', ", "{a: ", "- ", "? ", "[[], "] {
            refused(&unit.repeat(100_000), "nested deeper than 64 levels");
        }
        let mut steps = String::new();
        for depth in 0..100 {
            steps.push_str(&format!("{}a:\n", " ".repeat(depth)));
        }
        refused(&steps, "nested deeper than 64 levels");
        let fits = format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(value(&fits).is_ok());
    }

    #[test]
    fn many_values_are_refused() {
        refused(&"- a\n".repeat(1001), "more than 1000 values");
        refused(&format!("[{}]", "{},".repeat(1001)), "more than 1000 values");
        assert_eq!(value(&"- a\n".repeat(999)).unwrap().as_array().unwrap().len(), 999);
    }

    #[test]
    fn long_texts_are_refused() {
        refused(&"x".repeat(LIMITS.bytes + 1), "longer than 1048576 bytes");
        assert!(value(&"x".repeat(LIMITS.bytes)).is_ok());
    }

    #[test]
    fn aliases_merge_keys_and_documents_are_refused() {
        refused("a: &a [1]\nb: [*a, *a]\n", "anchors");
        refused("b: *a\n", "aliases");
        refused("<<: {a: 1}\n", "merge keys");
        refused("a: 1\n---\nb: 2\n", "more than one document");
    }

    #[test]
    fn errors_have_the_line_and_the_key() {
        #[derive(Debug, serde::Deserialize)]
        struct Outer {
            #[allow(dead_code)]
            inner: Vec<u8>,
        }
        let error = read::<Outer>(b"inner:\n- 1\n- 300\n", LIMITS).unwrap_err();
        assert_eq!(error.line, Some(3), "{error}");
        assert!(error.what.starts_with("inner[1]: "), "{error}");
        assert_eq!(read::<Value>(b"\xff", LIMITS).unwrap_err().to_string(), "the text is not UTF-8");
    }

    #[test]
    fn scalars_keep_their_yaml_1_2_types() {
        let text = "a: no\nb: true\nc: 0755\nd: 1_000\ne: 1.5\nf: ~\ng: '1'\nh: 7\n";
        let expected =
            json!({"a": "no", "b": true, "c": "0755", "d": "1_000", "e": 1.5, "f": null, "g": "1", "h": 7});
        assert_eq!(value(text).unwrap(), expected);
        assert_eq!(value("").unwrap(), Value::Null);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[-?:,\\[\\]{}#&*!|>'\"%@` a0n~.]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{1,3}|[-?: #]{1,3}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_survive_a_round_trip(written in any_json()) {
            prop_assert_eq!(value(&write(&written).unwrap()), Ok(written));
        }

        #[test]
        fn arbitrary_texts_never_panic(text in "[-?:,\\[\\]{}#&*!|>'\"%@` a0\n\t~.]{0,60}") {
            let _ = value(&text);
        }
    }
}
