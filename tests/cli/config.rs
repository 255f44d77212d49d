//! `config show` prints every key with its origin. It starts no process and writes no file.

use super::program::Home;

#[test]
fn config_show_names_the_origin_of_every_value() {
    let home = Home::new();
    home.configure("network:\n  listen_port: 7\n  proxy: \"socks5://me:secret@10.0.0.1:9\"\n");
    let before = home.files();
    let shown = home.run(&["--home", "/srv/silmaril", "config", "show"]);
    let table = shown.ok();
    let line = |key: &str| {
        let found = table.lines().find(|line| line.split_whitespace().next() == Some(key));
        found
            .unwrap_or_else(|| panic!("no {key} in {table}"))
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("storage.base_dir"), "--home /srv/silmaril");
    assert_eq!(line("storage.models_dir"), "default /srv/silmaril/models");
    assert_eq!(line("network.listen_port"), "file 7");
    assert_eq!(line("network.proxy"), "file socks5://me:***@10.0.0.1:9");
    assert_eq!(line("cache.max_size"), "default 10%");
    assert!(!table.contains("secret"), "{table}");

    let json: serde_json::Value =
        serde_json::from_str(&home.run(&["config", "show", "--json"]).ok()).unwrap();
    let settings = json.as_array().unwrap();
    let reference = include_str!("../../docs/CONFIGURATION.md");
    let documented = reference.lines().filter(|line| line.starts_with("### ")).count();
    assert_eq!(settings.len(), documented);
    let port = settings.iter().find(|setting| setting["key"] == "network.listen_port").unwrap();
    assert_eq!((&port["value"], &port["set_by"]), (&"7".into(), &"file".into()));
    assert_eq!(home.files(), before, "config show changed a file");
}

#[test]
fn config_show_refuses_a_bad_file() {
    let home = Home::new();
    home.configure("network:\n  listen_prot: 7\n");
    let error = home.run(&["config", "show"]).error(2);
    for part in ["config.yaml:2: ", "unknown key", "listen_prot", "listen_port"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}
