//! Tests of the file, the environment and the options together.

use std::time::Duration;

use super::*;
use crate::config::*;

fn env() -> Environment {
    Environment {
        home_dir: Some("/home/luthien".into()),
        config_dir: Some("/nonexistent/config".into()),
        silmaril_home: None,
    }
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, text).unwrap();
    Config::load_in(&LoadOptions { config_path: Some(path), home: None }, &env())
}

fn defaults() -> Config {
    Config::defaults(Path::new("/home/luthien/.silmaril"))
}

#[test]
fn empty_files_give_the_defaults() {
    assert_eq!(Config::load_in(&LoadOptions::default(), &env()).unwrap(), defaults());
    assert_eq!(load("").unwrap(), defaults());
    assert_eq!(load("# only a remark\n").unwrap(), defaults());
    assert_eq!(load("network:\ncache:\n").unwrap(), defaults());
}

#[test]
fn example_has_every_key_with_its_default() {
    assert_eq!(load(&Config::example(None)).unwrap(), defaults());
    let is_key = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let uncommented = |line: &str| match line.strip_prefix("  #").filter(is_key) {
        Some(key) => format!("  {key}\n"),
        None => format!("{line}\n"),
    };
    let all: String = Config::example(None).lines().map(uncommented).collect();
    assert_eq!(load(&all).unwrap(), defaults());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, all).unwrap();
    let options = LoadOptions { config_path: Some(path), home: None };
    let settings = Config::settings_in(&options, &env()).unwrap();
    let unset: Vec<_> = settings.iter().filter(|setting| setting.set_by != ValueOrigin::File).collect();
    assert!(unset.is_empty(), "{unset:?}");
}

#[test]
fn every_key_changes_its_value() {
    let config = load(
        r#"
storage: {base_dir: ~/silm, models_dir: /srv/models}
network: {max_connections: 7, upload_rate_limit: 1MB/s, download_rate_limit: "2KiB", dht_enabled: no, dht_port: 6000,
  listen_port: 6001, listen_address: "10.0.0.1", dht_bootstrap_nodes: ["a:1", "[::1]:2"], trackers: ["udp://t:1"],
  announce: no, lan_discovery: off, port_mapping: false, utp: off, encryption: require, proxy: "socks5://p:1",
  allow_private_hosts: [Minio.lan, 10.0.0.5, "fd00::5"]}
torrent: {piece_length: 16KiB, download_timeout: 5m}
security: {verify_checksums: false, sign_manifests: false, hub_witness: false, trust: strict}
mount: {read_timeout: 7, resolve_timeout: 1s, never_resolve: [LIB, "*.so"], max_lookups: 5, readahead_max: 1MiB, show: local}
daemon: {idle_timeout: 3s}
cache: {max_size: 5GiB, min_free: 0}
hub: {endpoint: "http://127.0.0.1:8080/", fallback: false, lazy: false}
serve: {listen: "localhost:0", token: abc, open: true}
metrics: {listen: "[::]:9100"}
"#,
    )
    .unwrap();
    let expected = Config {
        storage: StorageConfig { base_dir: "/home/luthien/silm".into(), models_dir: "/srv/models".into() },
        network: NetworkConfig {
            max_connections: 7,
            upload_rate_limit: 1_000_000,
            download_rate_limit: 2048,
            dht_enabled: false,
            dht_port: 6000,
            listen_port: 6001,
            listen_address: Some([10, 0, 0, 1].into()),
            dht_bootstrap_nodes: vec!["a:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
            trackers: vec!["udp://t:1".parse().unwrap()],
            announce: false,
            lan_discovery: false,
            port_mapping: false,
            utp: Utp::Off,
            encryption: Encryption::Require,
            proxy: Some("socks5://p:1".parse().unwrap()),
            allow_private_hosts: vec![
                url::Host::Domain("minio.lan".into()),
                url::Host::Ipv4([10, 0, 0, 5].into()),
                url::Host::Ipv6("fd00::5".parse().unwrap()),
            ],
        },
        torrent: TorrentConfig { piece_length: 16384, download_timeout: Duration::from_secs(300) },
        security: SecurityConfig {
            verify_checksums: false,
            sign_manifests: false,
            trust: TrustPolicy::Strict,
            hub_witness: false,
        },
        mount: MountConfig {
            read_timeout: Duration::from_secs(7),
            resolve_timeout: Duration::from_secs(1),
            never_resolve: ["LIB", "*.so"].map(|name| name.parse().unwrap()).to_vec(),
            max_lookups: 5,
            readahead_max: 1 << 20,
            show: Show::Local,
        },
        cache: CacheConfig { max_size: SizeOrPercent::Bytes(5 << 30), min_free: 0 },
        daemon: DaemonConfig { idle_timeout: Duration::from_secs(3) },
        hub: HubConfig { endpoint: "http://127.0.0.1:8080".parse().unwrap(), fallback: false, lazy: false },
        serve: ServeConfig {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            token: Some(crate::http::Token::new("abc").unwrap()),
            open: true,
        },
        metrics: MetricsConfig { listen: Some("[::]:9100".parse().unwrap()) },
    };
    assert_eq!(config, expected);
}

#[test]
fn errors_have_line_key_and_valid_values() {
    for (text, line, parts) in [
        (
            "network:\n  max_connectoins: 5\n",
            2,
            &["network", "unknown key", "max_connectoins", "max_connections"][..],
        ),
        ("netwrok: {}\n", 1, &["netwrok", "network"]),
        ("network:\n  dht_port: seven\n", 2, &["network.dht_port", "\"seven\"", "a port"]),
        ("network:\n\n  listen_port: 70000\n", 3, &["network.listen_port", "70000", "65535"]),
        ("network: {trackers: [\"udp://a:1\", gopher]}\n", 1, &["network.trackers[1]", "gopher"]),
        ("network: {proxy: \"squid:1\"}", 1, &["network.proxy", "socks5://"]),
        (
            "network: {allow_private_hosts: [\"http://minio.lan\"]}",
            1,
            &["network.allow_private_hosts[0]", "a host name or an IP address"],
        ),
        ("network: {allow_private_hosts: [\"minio.lan:9000\"]}", 1, &["without port"]),
        ("network: {dht_bootstrap_nodes: [router]}", 1, &["dht_bootstrap_nodes[0]", "router", "HOST:PORT"]),
        ("network: {trackers: \"udp://a:1\"}", 1, &["network.trackers", "udp://a:1", "a list in brackets"]),
        ("network: {max_connections: 0}", 1, &["network.max_connections", "1 to 65535"]),
        ("network: {trackers: [\"http:///announce\"]}", 1, &["network.trackers[0]", "a tracker address"]),
        ("serve: {token: \"my secret\"}", 1, &["serve.token", "the value is not a token"]),
        ("serve: {listen: 8910}", 1, &["serve.listen", "8910", "an address and port"]),
        ("hub: {endpoint: \"https://me:token@hub.example\"}", 1, &["hub.endpoint", "https://huggingface.co"]),
        ("hub: {endpoint: \"https://hub.example/?a\"}", 1, &["hub.endpoint"]),
        ("network: 7", 1, &["network", "mapping"]),
        ("torrent:\n  piece_length: 5MiB", 2, &["torrent.piece_length", "power of two"]),
        ("torrent: {piece_length: 256MiB}", 1, &["128MiB"]),
        ("torrent: {piece_length: 8KiB}", 1, &["16KiB"]),
        ("storage: {base_dir: here}", 1, &["storage.base_dir", "absolute"]),
        ("mount: {read_timeout: 0}", 1, &["mount.read_timeout", "more than zero"]),
        ("mount: {max_lookups: 0}", 1, &["mount.max_lookups", "1 to 10000"]),
        ("mount: {never_resolve: [a/b/c]}", 1, &["mount.never_resolve[0]", "a pattern of names"]),
        ("mount: {never_resolve: [a/]}", 1, &["mount.never_resolve[0]", "a pattern of names"]),
        ("mount: {never_resolve: [\"[a\"]}", 1, &["mount.never_resolve[0]", "unclosed"]),
        ("mount: {show: some}", 1, &["mount.show", "pinned"]),
        ("cache: {max_size: 110%}", 1, &["cache.max_size", "110%"]),
        ("cache: {max_size: [1]}", 1, &["cache.max_size", "size"]),
        ("cache:\n  min_free: 1\n  min_free: 2\n", 3, &["cache", "min_free", "twice"]),
        ("network:\n  utp: maybe\n", 2, &["network.utp", "auto, on or off"]),
        ("network: [\n", 0, &[]),
        ("network: &a {utp: on}\n", 1, &["anchors"]),
        (&"[".repeat(100_000), 1, &["nested deeper than 64 levels"]),
        (&"[ # ]\n".repeat(100_000), 65, &["nested deeper than 64 levels"]),
        (
            &format!("network: {{trackers: [{}]}}", "'udp://t:1',".repeat(10_000)),
            1,
            &["more than 10000 values"],
        ),
        (&"#".repeat((1 << 20) + 1), 0, &["c.yaml: the text is longer than 1048576 bytes"]),
    ] {
        let error = load(text).unwrap_err().to_string();
        let shown = &text[..text.len().min(80)];
        assert!(!error.contains('\n'), "{error}");
        if line > 0 {
            assert!(error.contains(&format!("c.yaml:{line}: ")), "{shown:?}: {error}");
        }
        for part in parts {
            assert!(error.contains(part), "{shown:?}: no {part:?} in {error}");
        }
    }
}

#[test]
fn given_file_must_exist() {
    let options = LoadOptions { config_path: Some("/nonexistent/c.yaml".into()), home: None };
    let error = Config::load_in(&options, &env()).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/c.yaml"), "{error}");
}

#[test]
fn option_and_environment_override_the_base_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, "storage: {base_dir: /file}\n").unwrap();
    let mut options = LoadOptions { config_path: Some(path.clone()), home: None };
    let mut env = env();
    let storage = |options: &LoadOptions, env: &Environment| {
        let storage = Config::load_in(options, env).unwrap().storage;
        (storage.base_dir.to_str().unwrap().to_owned(), storage.models_dir.to_str().unwrap().to_owned())
    };
    assert_eq!(storage(&options, &env), ("/file".into(), "/file/models".into()));
    env.silmaril_home = Some("/env".into());
    assert_eq!(storage(&options, &env), ("/env".into(), "/env/models".into()));
    options.home = Some("/flag".into());
    assert_eq!(storage(&options, &env), ("/flag".into(), "/flag/models".into()));
    std::fs::write(&path, "storage: {base_dir: /file, models_dir: ~/m}\n").unwrap();
    assert_eq!(storage(&options, &env), ("/flag".into(), "/home/luthien/m".into()));
}

#[test]
fn settings_have_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(
        &path,
        "storage: {base_dir: /file}\nnetwork: {dht_port: 0, proxy: \"http://me:secret@p:1\"}\n",
    )
    .unwrap();
    let mut options = LoadOptions { config_path: Some(path), home: None };
    let mut env = env();
    let found = |options: &LoadOptions, env: &Environment, key: &str| {
        let settings = Config::settings_in(options, env).unwrap();
        let setting = settings.into_iter().find(|setting| setting.key == key).unwrap();
        (setting.value, setting.set_by)
    };
    assert_eq!(found(&options, &env, "storage.base_dir"), ("/file".into(), ValueOrigin::File));
    assert_eq!(found(&options, &env, "storage.models_dir"), ("/file/models".into(), ValueOrigin::Default));
    assert_eq!(found(&options, &env, "network.dht_port"), ("0".into(), ValueOrigin::File));
    assert_eq!(found(&options, &env, "network.listen_port"), ("0".into(), ValueOrigin::Default));
    assert_eq!(found(&options, &env, "network.proxy"), ("http://me:***@p:1".into(), ValueOrigin::File));
    env.silmaril_home = Some("/env".into());
    assert_eq!(found(&options, &env, "storage.base_dir"), ("/env".into(), ValueOrigin::Environment));
    options.home = Some("/flag".into());
    assert_eq!(found(&options, &env, "storage.base_dir"), ("/flag".into(), ValueOrigin::Option));
}

#[test]
fn without_a_home_directory_the_home_option_is_needed() {
    let nowhere = Environment::default();
    assert!(matches!(Config::load_in(&LoadOptions::default(), &nowhere), Err(ConfigError::NoHome)));
    let options = LoadOptions { config_path: None, home: Some("/flag".into()) };
    assert_eq!(Config::load_in(&options, &nowhere).unwrap(), Config::defaults(Path::new("/flag")));
}

#[test]
fn changed_keys_are_one_line_without_the_password() {
    let line =
        load("network: {proxy: \"socks5://me:secret@p:1\"}\ncache: {max_size: 10%, min_free: 2GiB}").unwrap();
    assert_eq!(
        line.to_string(),
        "storage.base_dir=/home/luthien/.silmaril storage.models_dir=/home/luthien/.silmaril/models \
         network.proxy=socks5://me:***@p:1 cache.min_free=2GiB"
    );
}
