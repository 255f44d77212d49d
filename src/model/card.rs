//! The model card: the YAML front matter of `README.md`.
//!
//! Cards are untrusted and often broken in parts that are not needed here. Therefore only the wanted keys are cut out, and
//! each is bounded and parsed separately. A key that cannot be read causes a warning and does not affect the other keys.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::yaml::{self, YamlLimits};

/// The longest front matter that is read, in bytes. Evaluation results make some of them long.
pub const MAX_FRONT_MATTER: usize = 2 << 20;
/// Bounds of one key and its value.
const LIMITS: YamlLimits = YamlLimits { bytes: 16 << 10, values: 16 << 10 };
/// The longest text that is kept of a value, in characters.
const MAX_TEXT: usize = 256;
/// The most items that are kept of a list.
const MAX_ITEMS: usize = 200;
const WANTED: [&str; 8] = [
    "license",
    "license_name",
    "license_link",
    "pipeline_tag",
    "library_name",
    "base_model",
    "language",
    "tags",
];

/// The wanted values of a card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// Licence identifier.
    pub license: Option<String>,
    /// Name of the licence if the identifier is `other`.
    pub license_name: Option<String>,
    /// Address of the licence's text.
    pub license_link: Option<String>,
    /// Task.
    pub pipeline_tag: Option<String>,
    /// Library.
    pub library_name: Option<String>,
    /// Models from which this one was made.
    pub base_model: Vec<String>,
    /// Language codes.
    pub languages: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Wanted keys whose values could not be read.
    pub unreadable: Vec<&'static str>,
}

/// One text or number, or a list of them. Nested lists are refused, because YAML aliases could multiply their items.
struct CardTexts(Vec<String>);

impl<'de> Deserialize<'de> for CardTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = CardTexts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E>(self, text: &str) -> Result<CardTexts, E> {
                let text: String = text.trim().chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
                Ok(CardTexts(if text.is_empty() { Vec::new() } else { vec![text] }))
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<CardTexts, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<CardTexts, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<CardTexts, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<CardTexts, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_unit<E>(self) -> Result<CardTexts, E> {
                Ok(CardTexts(Vec::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<CardTexts, A::Error> {
                let mut all = Vec::new();
                while all.len() < MAX_ITEMS {
                    match seq.next_element::<Scalar>()? {
                        Some(Scalar(text)) => all.extend(text),
                        None => return Ok(CardTexts(all)),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(CardTexts(all))
            }
        }

        deserializer.deserialize_any(Items)
    }
}

/// One text or number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Text(String),
    Bool(bool),
    Whole(i64),
    Real(f64),
}

struct Scalar(Option<String>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Option::<Item>::deserialize(deserializer)? {
            Some(Item::Text(text)) => text,
            Some(Item::Bool(value)) => value.to_string(),
            Some(Item::Whole(value)) => value.to_string(),
            Some(Item::Real(value)) => value.to_string(),
            None => return Ok(Self(None)),
        };
        let text: String = text.trim().chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
        Ok(Self((!text.is_empty()).then_some(text)))
    }
}

/// The front matter of a text: the lines between the first line `---` and the next one. As in the hub's own reader, blank
/// lines may precede it, and both `---` lines may be indented.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let start = text.trim_start();
    let indented = text[..text.len() - start.len()].ends_with([' ', '\t']);
    let rest = start.strip_prefix("---")?;
    let rest = rest.trim_start_matches([' ', '\t', '\r']).strip_prefix('\n')?;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" || (indented && line.trim() == "---") {
            return Some(&rest[..at]);
        }
        at += line.len();
    }
    None
}

/// The indentation of the first key. All keys of the same mapping have it.
fn indentation(matter: &str) -> &str {
    let is_text = |line: &&str| !matches!(line.trim_start().chars().next(), None | Some('#'));
    let first = matter.lines().find(is_text).unwrap_or_default();
    &first[..first.len() - first.trim_start_matches(' ').len()]
}

/// The key at the beginning of a line, if the line is indented by `margin`. The key may be quoted.
fn key<'a>(line: &'a str, margin: &str) -> Option<&'a str> {
    let line = line.strip_prefix(margin)?;
    let (key, value) = match line.split_at_checked(1)? {
        (quote @ ("\"" | "'"), rest) => {
            let (key, rest) = rest.split_once(quote)?;
            (key, rest.trim_start_matches(' ').strip_prefix(':')?)
        }
        _ => line.split_once(':').map(|(key, value)| (key.trim_end_matches(' '), value))?,
    };
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    (plain && (value.is_empty() || value.starts_with(|c: char| c.is_whitespace()))).then_some(key)
}

/// Reads the front matter of a README; none if the README has no front matter.
pub fn parse(readme: &str) -> Option<ModelCard> {
    let matter = front_matter(readme)?;
    let mut blocks: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut current = None;
    let margin = indentation(matter);
    for line in matter.split_inclusive('\n') {
        if let Some(key) = key(line, margin) {
            // If a key occurs twice, the first one is used.
            current = WANTED.into_iter().find(|wanted| *wanted == key && !blocks.contains_key(wanted));
        }
        if let Some(key) = current {
            blocks.entry(key).or_default().push_str(line);
        }
    }
    let mut card = ModelCard::default();
    let mut texts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, block) in blocks {
        let parsed = yaml::read::<BTreeMap<String, CardTexts>>(block.as_bytes(), LIMITS);
        match parsed.ok().and_then(|mut map| map.remove(key)) {
            Some(CardTexts(list)) => drop(texts.insert(key, list)),
            None => card.unreadable.push(key),
        }
    }
    let mut list = |key| texts.remove(key).unwrap_or_default();
    card.license = Some(list("license").join(", ")).filter(|text| !text.is_empty());
    let mut one = |key| list(key).into_iter().next();
    card.license_name = one("license_name");
    card.license_link = one("license_link");
    card.pipeline_tag = one("pipeline_tag");
    card.library_name = one("library_name");
    card.base_model = list("base_model");
    card.languages = list("language");
    card.tags = list("tags");
    Some(card)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cards_are_read() {
        let card = parse(
            "---\r\nlanguage: en\nlicense: apache-2.0 # a remark\nlibrary_name: sentence-transformers\ntags:\n- one\n- 2\n# remark\n\
             - 'th: ree'\nbase_model: [a/b, c/d]\ndatasets:\n- s2orc\npipeline_tag: sentence-similarity\nlicense: mit\n---\n\n# Title\ntags: no\n",
        )
        .unwrap();
        let expected = ModelCard {
            license: Some("apache-2.0".into()),
            library_name: Some("sentence-transformers".into()),
            pipeline_tag: Some("sentence-similarity".into()),
            base_model: vec!["a/b".into(), "c/d".into()],
            languages: vec!["en".into()],
            tags: vec!["one".into(), "2".into(), "th: ree".into()],
            ..ModelCard::default()
        };
        assert_eq!(card, expected);
    }

    #[test]
    fn a_broken_key_does_not_affect_other_keys() {
        let card =
            parse("---\ntags: [a, {b: c}\nlicense: mit\nmodel-index:\n  - {{ broken\nlanguage:\n---\n")
                .unwrap();
        assert_eq!((card.license.as_deref(), card.unreadable), (Some("mit"), vec!["tags"]));
        assert!(card.languages.is_empty());
    }

    #[test]
    fn front_matter_is_read_in_every_layout() {
        let expected = ModelCard {
            license: Some("mit".into()),
            languages: vec!["en".into(), "fr".into()],
            tags: vec!["a".into()],
            ..ModelCard::default()
        };
        for text in [
            "\n---\nlicense: mit\nlanguage:\n- en\n- fr\ntags: [a]\n---\n",
            "\u{feff}\r\n  \r\n---\r\nlicense: mit\r\nlanguage:\r\n- en\r\n- fr\r\ntags: [a]\r\n---\r\n",
            "---\n\"license\": mit\n'language':\n  - en\n  - fr\n\"tags\" : [a]\n---\n",
            "---\n# remark\n\n  license: mit\n  language:\n    - en\n    - fr\n  tags: [a]\n---\n",
            "  ---\n  license: mit\n  language:\n  - en\n  - fr\n  tags: [a]\n  ---\n",
            "---\nlicense : mit\nextra:\n  license: no\n  tags: [no]\nlanguage: [en, fr]\ntags:\n- a\n---",
        ] {
            assert_eq!(parse(text).as_ref(), Some(&expected), "{text:?}");
        }
    }

    #[test]
    fn texts_without_front_matter_have_no_card() {
        for text in [
            "",
            "# Title\nlicense: mit\n",
            "---\nlicense: mit\n",
            "--- x\n---\n",
            "text\n---\nlicense: mit\n---\n",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse("---\n---\n"), Some(ModelCard::default()));
    }

    #[test]
    fn long_values_and_alias_bombs_are_bounded() {
        let long =
            parse(&format!("---\nlicense: {}\nlicense_name: {}\n---\n", "x".repeat(300), "y".repeat(20_000)))
                .unwrap();
        assert_eq!((long.license.unwrap().len(), long.unreadable), (MAX_TEXT, vec!["license_name"]));
        let many = parse(&format!("---\ntags: [{}]\n---\n", "a,".repeat(1000))).unwrap();
        assert_eq!(many.tags.len(), MAX_ITEMS);
        let bomb = parse(&format!("---\ntags: [&a [{}], {}]\n---\n", "0,".repeat(2000), "*a,".repeat(2000)))
            .unwrap();
        assert!(bomb.tags.len() <= MAX_ITEMS);
    }

    proptest! {
        #[test]
        fn arbitrary_cards_never_panic(text in "---\n(license|tags|language|x): ?[\\[\\]{}&*a!|>'\"-]{0,8}\n( ?- ?[\\[\\]{}&*a!|>'\"]{0,5}\n){0,4}---\n") {
            prop_assert!(parse(&text).is_some());
        }
    }
}
