use proptest::prelude::*;

use super::*;
use crate::catalog::record::tests::{fixed_key, model};

fn fits(query: &str) -> bool {
    let query: Query = query.parse().unwrap_or_else(|error| panic!("{error}"));
    query.matches(&model(fixed_key().public(), "Org/Llama-3", 1, 1))
}

#[test]
fn names_match_words_and_globs_in_any_case() {
    for query in ["", "  ", "llama", "LLAMA-3", "org/", "o a 3", "org/*", "*llama*", "Org/llama-?", "*[0-9]"]
    {
        assert!(fits(query), "{query:?}");
    }
    for query in ["gpt", "llama4", "llama gpt", "llama*", "org/llama-??", "*[a-z]", "x org/*"] {
        assert!(!fits(query), "{query:?}");
    }
}

#[test]
fn terms_match_other_facts() {
    let key = fixed_key().public();
    let fingerprint = key.fingerprint();
    for query in [
        "tag:text-generation",
        "tag:TEXT-generation llama",
        "TAG:GRÖßE",
        "license:Apache-2.0",
        "size<5.1GB",
        "size<=5GB",
        "size=5000000000",
        "size>=5GB",
        "size>4GiB size<20GB",
        &format!("publisher:{fingerprint}"),
        &format!("publisher:{}", &fingerprint[..6]),
        &format!("publisher:{key}"),
        &format!("publisher:{}", &key.to_string()[..9].to_uppercase()),
    ] {
        assert!(fits(query), "{query:?}");
    }
    for query in [
        "tag:text",
        "tag:code",
        "license:mit",
        "size<5GB",
        "size>5GB",
        "size=5GiB",
        "publisher:zzzz",
        "tag:code llama",
        "llama size>1TB",
    ] {
        assert!(!fits(query), "{query:?}");
    }
}

#[test]
fn successor_is_not_a_search_result() {
    let key = fixed_key().public();
    let record = Record { body: RecordBody::Successor(key), ..model(key, "a/b", 1, 1) };
    assert!(!Query::default().matches(&record));
}

#[test]
fn invalid_query_is_refused_with_its_term() {
    for (query, named) in [
        ("llama mood:good", "mood:good"),
        ("tag:", "tag:"),
        ("size<", "size<"),
        ("size<20XB", "size<20XB"),
        ("a files>5", "files>5"),
        ("a [b", "[b"),
        ("publisher:!", "publisher:!"),
        ("publisher:-", "publisher:-"),
        ("a\u{202e}b", "search term"),
        ("tag:\u{1b}[0m", "search term"),
        (&"a ".repeat(17), "16 terms"),
        (&"a".repeat(513), "512 bytes"),
        ("a* b* c* d* e*", "e*"),
        (&"*".repeat(17), "16 wildcards"),
    ] {
        let error = query.parse::<Query>().unwrap_err().to_string();
        assert!(error.contains(named), "{query:?}: {error}");
        assert_eq!(crate::model::text::clean(&error), error);
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_or_survives_parsing(text in "\\PC{0,40}|([a-z*?\\[\\]{},!<>=:0-9 -]{0,60})") {
        if let Ok(query) = text.parse::<Query>() {
            prop_assert_eq!(&query.as_str().parse::<Query>().unwrap(), &query);
            query.matches(&model(fixed_key().public(), "org/model", 1, 1));
        }
    }
}
