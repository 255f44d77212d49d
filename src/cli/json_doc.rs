//! Checks that `docs/JSON.md` has every key that a command prints, with one meaning and one type.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;
use serde::Serialize;
use serde_json::Value;

use super::Cli;
use super::cache::{CacheDocument, CachedFile, Freed};
use super::doctor::Check;
use super::key::{KeyReport, ReplacedKey};
use super::samples::{get_report, mirror_report, models, publisher, shared_model, status};
use super::trust::{ListedRow, NameRow, ReplacedRow, TrustReport};
use crate::config::{Setting, ValueOrigin};
use crate::model::{PiecesRoot, PublisherKey};
use crate::node::adopt::{AdoptState, AdoptedDir};
use crate::node::verify::Verified;

const DOCUMENT: &str = include_str!("../../docs/JSON.md");

/// The cells of each row of the table that follows a heading, without the table's head.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let table = section.lines().filter(|line| line.starts_with('|')).skip(2);
    table.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

fn words(cell: &'static str) -> BTreeSet<&'static str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Collects the keys of every object in `value`, by the object's path, and the types of the keys' values.
fn walk(
    path: &str,
    value: &Value,
    objects: &mut BTreeMap<String, BTreeSet<String>>,
    types: &mut BTreeMap<String, BTreeSet<&'static str>>,
) {
    match value {
        Value::Array(items) => {
            items.iter().for_each(|item| walk(&format!("{path}[]"), item, objects, types));
        }
        Value::Object(map) => {
            let keys = objects.entry(path.to_owned()).or_default();
            keys.extend(map.keys().cloned());
            for (key, value) in map {
                let kind = match value {
                    Value::Null => None,
                    Value::Bool(_) => Some("boolean"),
                    Value::Number(_) => Some("number"),
                    Value::String(_) => Some("string"),
                    Value::Array(_) => Some("array"),
                    Value::Object(_) => Some("object"),
                };
                types.entry(key.clone()).or_default().extend(kind);
                walk(&format!("{path}.{key}"), value, objects, types);
            }
        }
        _ => {}
    }
}

fn printed() -> Vec<(&'static str, Value)> {
    fn value(of: impl Serialize) -> Value {
        serde_json::to_value(of).unwrap()
    }
    let key = PublisherKey([9; 32]);
    let cached = CachedFile {
        model: Some("acme/minilm".parse().unwrap()),
        file: Some("config.json".to_owned()),
        pieces_root: Some(PiecesRoot([3; 32])),
        size: 1,
        used_bytes: 1,
        last_used_at: 1,
    };
    let replaced = || ReplacedKey {
        publisher: key,
        fingerprint: key.fingerprint(),
        successor: publisher(2, Some("dora")),
    };
    let shown = KeyReport {
        publisher: key,
        fingerprint: key.fingerprint(),
        path: "/k".into(),
        replaced: vec![replaced()],
        former_path: Some("/f".into()),
    };
    let since = || "2026-11-29T07:00:00Z".to_owned();
    let trust = TrustReport {
        policy: "tofu".to_owned(),
        own: Some(publisher(1, Some("me"))),
        publishers: vec![ListedRow { publisher: publisher(2, Some("dora")), since: since() }],
        names: vec![NameRow {
            name: "acme/minilm".parse().unwrap(),
            publisher: publisher(2, Some("dora")),
            since: since(),
        }],
        replaced: vec![ReplacedRow {
            publisher: key,
            fingerprint: key.fingerprint(),
            successor: publisher(2, Some("dora")),
            since: since(),
        }],
    };
    let check = Check {
        check: "fuse device",
        result: "fail",
        found: "no".to_owned(),
        remedy: Some("modprobe".to_owned()),
    };
    let adopted = AdoptedDir {
        model: Some("acme/minilm".parse().unwrap()),
        dir: "/d".into(),
        state: AdoptState::Shared,
        files: 1,
        size: 1,
        missing: 1,
        fetched: 1,
        why: Some("why".to_owned()),
    };
    let verified = Verified {
        model: "acme/minilm".to_owned(),
        right: 1,
        unchecked: 1,
        missing: 1,
        damaged: vec!["a".to_owned()],
        contradictory: vec!["a".to_owned()],
    };
    vec![
        ("status", value(status())),
        ("list", value(models())),
        ("discover", value([shared_model()])),
        ("get", value(get_report())),
        ("mirror", value(mirror_report())),
        ("adopt", value([adopted])),
        ("doctor", value([check])),
        (
            "cache",
            value(CacheDocument { used_bytes: 1, max_bytes: 1, free_bytes: 1, contents: vec![cached] }),
        ),
        ("cache clear", value(Freed { freed_bytes: 1 })),
        ("key", value(shown)),
        (
            "config show",
            value([Setting { key: "hub.fallback", value: "true".to_owned(), set_by: ValueOrigin::Default }]),
        ),
        ("trust list", value(trust)),
        ("verify", value(verified)),
    ]
}

#[test]
fn every_command_with_json_is_documented() {
    let command = Cli::command();
    let has_json = |command: &clap::Command| command.get_arguments().any(|arg| arg.get_id() == "json");
    let mut named = BTreeSet::new();
    for command in command.get_subcommands() {
        let name = command.get_name();
        let below = command.get_subcommands().filter(|below| has_json(below));
        named.extend(below.map(|below| format!("{name} {}", below.get_name())));
        named.extend(has_json(command).then(|| name.to_owned()));
    }
    assert!(named.contains("status") && named.contains("trust list"), "{named:?}");
    let printed = printed();
    for command in &named {
        // `registry list` prints the same document as `list`.
        let object = if command == "registry list" { "list" } else { command };
        assert!(printed.iter().any(|(printed, _)| *printed == object), "{command} is not compared");
        let first = DOCUMENT.split("print JSON").next().unwrap();
        assert!(first.contains(&format!("`{command}`")), "the first sentence lacks {command}");
    }
}

#[test]
fn every_key_is_documented_once_with_its_type() {
    let (mut objects, mut types) = (BTreeMap::new(), BTreeMap::new());
    for (command, value) in printed() {
        walk(command, &value, &mut objects, &mut types);
    }
    let documented: BTreeMap<String, BTreeSet<String>> = rows("Objects")
        .into_iter()
        .map(|row| {
            let [object] = words(row[0]).into_iter().collect::<Vec<_>>()[..] else { panic!("{row:?}") };
            (object.to_owned(), words(row[1]).into_iter().map(str::to_owned).collect())
        })
        .collect();
    for (object, keys) in &objects {
        assert_eq!(Some(keys), documented.get(object), "keys of {object}");
    }
    let unknown: Vec<_> = documented.keys().filter(|object| !objects.contains_key(*object)).collect();
    assert!(unknown.is_empty(), "documented, and printed by no command: {unknown:?}");

    let mut glossary = BTreeMap::new();
    for row in rows("Keys") {
        let [key] = words(row[0]).into_iter().collect::<Vec<_>>()[..] else { panic!("{row:?}") };
        assert!(glossary.insert(key.to_owned(), row[1]).is_none(), "{key} has two meanings");
        assert!(row[2].len() > 10, "{key} has no meaning");
    }
    for (key, kinds) in &types {
        let kind = glossary.remove(key).unwrap_or_else(|| panic!("{key} has no meaning"));
        assert_eq!(Vec::from_iter(kinds), [&kind], "type of {key}");
    }
    assert!(glossary.is_empty(), "no command prints {glossary:?}");
}
