//! `trust` lists publishers, assigns and releases names, and reports a damaged file.

use serde_json::Value;

use super::program::Home;
use crate::support::process::{PATIENCE, Proc};

const DORA: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
const OTHER: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn listed(home: &Home) -> Value {
    serde_json::from_str(&home.run(&["trust", "list", "--json"]).ok()).unwrap()
}

#[test]
fn publishers_are_added_listed_and_removed() {
    let home = Home::new();
    assert!(home.run(&["trust", "list"]).ok().contains("tofu"));
    home.run(&["trust", "add", DORA, "--alias", "dora"]).ok();
    home.run(&["trust", "add", OTHER]).ok();
    let all = listed(&home);
    assert_eq!(all["policy"], "tofu");
    assert_eq!(all["publishers"][0]["publisher"], DORA);
    assert_eq!(all["publishers"][0]["alias"], "dora");
    let fingerprint = all["publishers"][0]["fingerprint"].as_str().unwrap();
    let output = home.run(&["trust", "list"]).ok();
    for part in ["dora", DORA, OTHER, fingerprint] {
        assert!(output.contains(part), "no {part} in {output}");
    }
    let error = home.run(&["trust", "add", OTHER, "--alias", "Dora"]).error(1);
    assert!(error.contains(fingerprint), "{error}");
    home.run(&["trust", "remove", "DORA", &OTHER[..8]]).ok();
    assert_eq!(listed(&home)["publishers"], serde_json::json!([]));
    let run = home.run(&["trust", "remove", DORA]);
    assert!(run.stderr.contains("trust list"), "{}", run.stderr);
    run.error(1);
    home.run(&["trust", "remove", "dora"]).error(1);
}

#[test]
fn names_belong_to_one_publisher_until_released() {
    let home = Home::new();
    home.run(&["trust", "add", DORA, "--alias", "dora", "--name", "acme/a", "--name", "datasets/acme/b"])
        .ok();
    let run = home.run(&["trust", "add", OTHER, "--name", "acme/c", "--name", "acme/a"]);
    assert!(run.stderr.contains("trust remove"), "{}", run.stderr);
    let error = run.error(1);
    assert!(error.contains("dora ("), "{error}");
    let all = listed(&home);
    assert_eq!(all["publishers"].as_array().unwrap().len(), 1, "all or nothing");
    assert_eq!(all["names"][0]["alias"], "dora");
    let run = home.run(&["trust", "remove", "dora"]);
    assert!(run.stderr.contains("2 names"), "{}", run.stderr);
    home.run(&["trust", "remove", "acme/a"]).ok();
    home.run(&["trust", "remove", "acme/a"]).error(1);
    home.run(&["trust", "add", OTHER, "--name", "acme/a"]).ok();
    assert!(home.run(&["trust", "list"]).ok().contains("datasets/acme/b"));
    home.run(&["trust", "remove", DORA, "--names"]).ok();
    let names = listed(&home)["names"].clone();
    assert_eq!(names.as_array().unwrap().len(), 1);
    assert_eq!((&names[0]["name"], &names[0]["publisher"]), (&"acme/a".into(), &OTHER.into()));
}

#[test]
fn printed_command_releases_names_of_removed_publishers() {
    let home = Home::new();
    home.run(&["trust", "add", DORA, "--alias", "dora", "--name", "acme/a"]).ok();
    let run = home.run(&["trust", "remove", "dora"]);
    assert!(run.stderr.contains("1 name still belongs"), "{}", run.stderr);
    let (_, advised) = run.stderr.split_once("`silmaril ").unwrap();
    let (advised, _) = advised.split_once('`').unwrap();
    home.run(&advised.split(' ').collect::<Vec<_>>()).ok();
    assert_eq!(listed(&home)["names"], serde_json::json!([]));
}

#[test]
fn invalid_keys_aliases_and_names_are_refused() {
    let home = Home::new();
    for (args, code) in [
        (&["trust", "add", "unknown"][..], 1),
        (&["trust", "add", &DORA[..63]], 1),
        (&["trust", "add", DORA, "--alias", "a b"], 2),
        (&["trust", "add", DORA, "--alias", OTHER], 2),
        (&["trust", "add", DORA, "--alias", "\u{202e}arod"], 2),
        (&["trust", "add", DORA, "--name", "tiny"], 2),
        (&["trust", "remove"], 2),
        (&["trust", "remove", "a/b/c/d"], 2),
        (&["trust", "remove", "acme/none"], 1),
    ] {
        home.run(args).error(code);
    }
    assert_eq!(listed(&home)["publishers"], serde_json::json!([]));
}

#[test]
fn damaged_file_is_reported_and_not_overwritten() {
    let home = Home::new();
    home.run(&["trust", "add", DORA]).ok();
    let path = home.path(".silmaril/trust.yaml");
    let broken = std::fs::read_to_string(&path).unwrap().replace("added:", "since:");
    std::fs::write(&path, &broken).unwrap();
    for args in [&["trust", "list"][..], &["trust", "add", OTHER], &["trust", "remove", DORA]] {
        let error = home.run(args).error(1);
        assert!(error.contains("trust.yaml:5: ") && error.contains("since"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
    home.run(&["list"]).ok();
}

#[test]
fn concurrent_changes_of_the_file_lose_nothing() {
    let home = Home::new();
    home.run(&["init"]).ok();
    let start = |number: u8| {
        let key = hex::encode([number; 32]);
        Proc::spawn(&mut home.command(&["trust", "add", &key, "--name", &format!("acme/m{number}")]))
    };
    let running: Vec<_> = (0..8).map(start).collect();
    for process in running {
        process.finish(PATIENCE).ok();
    }
    let all = listed(&home);
    assert_eq!(all["publishers"].as_array().unwrap().len(), 8);
    assert_eq!(all["names"].as_array().unwrap().len(), 8);
}

#[test]
fn rotated_key_is_listed_with_its_successor() {
    let home = Home::new();
    let run = home.run(&["key", "rotate"]);
    assert!(run.stderr.contains("silmaril init"), "{}", run.stderr);
    run.error(1);
    home.run(&["init"]).ok();
    let show = || -> Value { serde_json::from_str(&home.run(&["key", "show", "--json"]).ok()).unwrap() };
    let first = show();
    assert_eq!(first["replaced"], serde_json::json!([]));
    let output = home.run(&["key", "rotate"]).ok();
    let second = show();
    assert_ne!(second["publisher"], first["publisher"]);
    assert_eq!(second["replaced"][0]["publisher"], first["publisher"]);
    assert_eq!(second["replaced"][0]["successor"]["publisher"], second["publisher"]);
    for key in [&first, &second] {
        assert!(output.contains(key["fingerprint"].as_str().unwrap()), "{output}");
    }
    let shown = home.run(&["key", "show"]).ok();
    let line = format!("former key   {}", first["fingerprint"].as_str().unwrap());
    assert!(shown.contains(&line), "{shown}");
    let replaced = listed(&home)["replaced"].clone();
    assert_eq!(replaced[0]["publisher"], first["publisher"]);
}
