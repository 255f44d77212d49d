//! Finding and reading the configuration.

use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use serde::Serialize;

use super::keys::{Config, File, StorageConfig};
use super::table::{Key, keys};
use crate::paths::Paths;
use crate::yaml::{self, Limits, YamlError};

/// Bounds of a configuration file, which has a few kilobytes.
const LIMITS: Limits = Limits { bytes: 1 << 20, values: 10_000 };

/// The flags that concern the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// `--config`: the file to read; it must exist.
    pub config_path: Option<PathBuf>,
    /// `--home`: the base directory.
    pub home: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The reason given by the system.
        source: io::Error,
    },
    /// A key is unknown, or its value cannot be used.
    #[error("{}{}: {what}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
        /// The key and what was expected.
        what: String,
    },
    /// There is no home directory to put the defaults in.
    #[error("the home directory is not known; set HOME, or give --home and --config")]
    NoHome,
    /// A relative directory, and no current directory.
    #[error("cannot make {} absolute: {source}", path.display())]
    Absolute {
        /// The path given.
        path: PathBuf,
        /// The reason given by the system.
        source: io::Error,
    },
}

/// Where the value of a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The table of keys.
    Default,
    /// The configuration file.
    File,
    /// `SILMARIL_HOME`.
    Environment,
    /// `--home`.
    Option,
}

/// A key with its effective value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// `section.key`.
    pub key: &'static str,
    /// The value as a file has it, a list as an array in brackets; the password of a proxy is hidden.
    pub value: String,
    /// Where the value comes from.
    pub set_by: Origin,
}

/// The part of the process's environment that concerns the configuration.
#[derive(Debug, Clone, Default)]
struct Environment {
    home_dir: Option<PathBuf>,
    config_dir: Option<PathBuf>,
    silmaril_home: Option<PathBuf>,
}

impl Environment {
    fn of_process() -> Self {
        Self {
            home_dir: etcetera::home_dir().ok(),
            config_dir: etcetera::base_strategy::Xdg::new().ok().map(|xdg| xdg.config_dir()),
            silmaril_home: std::env::var_os("SILMARIL_HOME").filter(|v| !v.is_empty()).map(PathBuf::from),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|source| ConfigError::Absolute { path: path.to_owned(), source })
}

impl Config {
    /// Reads the configuration: the file given, which must exist, or `$XDG_CONFIG_HOME/silmaril/config.yaml`
    /// (`~/.config` by default), which may be absent. The base directory is that of `--home`, else of
    /// `SILMARIL_HOME`, else of the file, else `~/.silmaril`; models are below it unless the file says where.
    pub fn load(options: &LoadOptions) -> Result<Self, ConfigError> {
        Self::load_in(options, &Environment::of_process())
    }

    /// The file that `load` reads, whether or not it exists.
    pub fn config_file(options: &LoadOptions) -> Result<PathBuf, ConfigError> {
        Self::config_file_in(options, &Environment::of_process())
    }

    /// All defaults, with the given base directory.
    pub fn defaults(base_dir: &Path) -> Self {
        let mut config = File::default().over_defaults();
        config.storage = StorageConfig { base_dir: base_dir.to_owned(), models_dir: base_dir.join("models") };
        config
    }

    /// Every key with its effective value and its origin, in the order of the table.
    pub fn settings(options: &LoadOptions) -> Result<Vec<Setting>, ConfigError> {
        Self::settings_in(options, &Environment::of_process())
    }

    /// Where everything lies.
    pub fn paths(&self) -> Paths {
        Paths { base: self.storage.base_dir.clone(), models: self.storage.models_dir.clone() }
    }

    fn config_file_in(options: &LoadOptions, env: &Environment) -> Result<PathBuf, ConfigError> {
        match &options.config_path {
            Some(path) => Ok(path.clone()),
            None => {
                Ok(env.config_dir.as_deref().ok_or(ConfigError::NoHome)?.join("silmaril").join("config.yaml"))
            }
        }
    }

    fn load_in(options: &LoadOptions, env: &Environment) -> Result<Self, ConfigError> {
        Self::effective(File::find(options, env)?, options, env)
    }

    fn settings_in(options: &LoadOptions, env: &Environment) -> Result<Vec<Setting>, ConfigError> {
        let file = File::find(options, env)?;
        let origin = |key: &Key| match key.name {
            "storage.base_dir" if options.home.is_some() => Origin::Option,
            "storage.base_dir" if env.silmaril_home.is_some() => Origin::Environment,
            _ if (key.is_set)(&file) => Origin::File,
            _ => Origin::Default,
        };
        let origins: Vec<Origin> = keys().map(origin).collect();
        let config = Self::effective(file, options, env)?;
        let setting =
            |(key, set_by): (&Key, _)| Setting { key: key.name, value: (key.write)(&config), set_by };
        Ok(keys().zip(origins).map(setting).collect())
    }

    fn effective(file: File, options: &LoadOptions, env: &Environment) -> Result<Self, ConfigError> {
        let models_are_set = file.storage.as_ref().is_some_and(|storage| storage.models_dir.is_some());
        let mut config = file.over_defaults();
        let storage = &mut config.storage;
        let expand = |path: &Path| match (path.strip_prefix("~"), &env.home_dir) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path.to_owned(),
        };
        storage.base_dir = match options.home.as_ref().or(env.silmaril_home.as_ref()) {
            Some(given) => absolute(given)?,
            None => expand(&storage.base_dir),
        };
        storage.models_dir =
            if models_are_set { expand(&storage.models_dir) } else { storage.base_dir.join("models") };
        // The `~` of a user without a home directory.
        let usable = storage.base_dir.is_absolute() && storage.models_dir.is_absolute();
        if usable { Ok(config) } else { Err(ConfigError::NoHome) }
    }
}

impl File {
    fn find(options: &LoadOptions, env: &Environment) -> Result<Self, ConfigError> {
        match Config::config_file_in(options, env) {
            Ok(path) => Self::read(&path, options.config_path.is_some()),
            // Without a home there is no default file; --home may still give all that is needed.
            Err(ConfigError::NoHome) => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn read(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                return Ok(Self::default());
            }
            Err(error) => return Err(failed(error)),
        };
        let mut text = Vec::new();
        let most = LIMITS.bytes as u64 + 1;
        io::Read::read_to_end(&mut io::Read::take(file, most), &mut text).map_err(failed)?;
        // An empty document is a file without keys.
        yaml::read::<Option<Self>>(&text, LIMITS).map(Option::unwrap_or_default).map_err(
            |YamlError { line, what }| {
                let what = what
                    .replace("unknown field", "unknown key")
                    .replace("mapping start", "a mapping of keys");
                ConfigError::Value { path: path.to_owned(), line, what }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::*;
    use super::*;

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
    fn nothing_gives_the_defaults() {
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
        let unset: Vec<_> = settings.iter().filter(|setting| setting.set_by != Origin::File).collect();
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
security: {verify_checksums: false, sign_manifests: false, trust: strict}
mount: {read_timeout: 7, resolve_timeout: 1s, never_resolve: [LIB, "*.so"], max_lookups: 5, readahead_max: 1MiB, show: local}
cache: {max_size: 5GiB, min_free: 0}
hub: {endpoint: "http://127.0.0.1:8080/", fallback: false}
"#,
        )
        .unwrap();
        let expected = Config {
            storage: StorageConfig {
                base_dir: "/home/luthien/silm".into(),
                models_dir: "/srv/models".into(),
            },
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
            hub: HubConfig { endpoint: "http://127.0.0.1:8080".parse().unwrap(), fallback: false },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn errors_name_line_key_and_what_was_expected() {
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
            (
                "network: {dht_bootstrap_nodes: [router]}",
                1,
                &["dht_bootstrap_nodes[0]", "router", "HOST:PORT"],
            ),
            (
                "network: {trackers: \"udp://a:1\"}",
                1,
                &["network.trackers", "udp://a:1", "a list in brackets"],
            ),
            ("network: {max_connections: 0}", 1, &["network.max_connections", "1 to 65535"]),
            ("network: {trackers: [\"http:///announce\"]}", 1, &["network.trackers[0]", "a tracker address"]),
            (
                "hub: {endpoint: \"https://me:token@hub.example\"}",
                1,
                &["hub.endpoint", "https://huggingface.co"],
            ),
            ("hub: {endpoint: \"https://hub.example/?a\"}", 1, &["hub.endpoint"]),
            ("network: 7", 1, &["network", "mapping"]),
            ("torrent:\n  piece_length: 5MiB", 2, &["torrent.piece_length", "power of two"]),
            ("torrent: {piece_length: 256MiB}", 1, &["128MiB"]),
            ("torrent: {piece_length: 8KiB}", 1, &["16KiB"]),
            ("storage: {base_dir: here}", 1, &["storage.base_dir", "absolute"]),
            ("mount: {read_timeout: 0}", 1, &["mount.read_timeout", "more than zero"]),
            ("mount: {max_lookups: 0}", 1, &["mount.max_lookups", "1 to 10000"]),
            ("mount: {never_resolve: [a/b]}", 1, &["mount.never_resolve[0]", "a pattern of names"]),
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
    fn a_file_that_is_named_must_exist() {
        let options = LoadOptions { config_path: Some("/nonexistent/c.yaml".into()), home: None };
        let error = Config::load_in(&options, &env()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/c.yaml"), "{error}");
    }

    #[test]
    fn the_home_of_flag_and_environment_come_first_and_models_follow() {
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
        assert_eq!(found(&options, &env, "storage.base_dir"), ("/file".into(), Origin::File));
        assert_eq!(found(&options, &env, "storage.models_dir"), ("/file/models".into(), Origin::Default));
        assert_eq!(found(&options, &env, "network.dht_port"), ("0".into(), Origin::File));
        assert_eq!(found(&options, &env, "network.listen_port"), ("0".into(), Origin::Default));
        assert_eq!(found(&options, &env, "network.proxy"), ("http://me:***@p:1".into(), Origin::File));
        env.silmaril_home = Some("/env".into());
        assert_eq!(found(&options, &env, "storage.base_dir"), ("/env".into(), Origin::Environment));
        options.home = Some("/flag".into());
        assert_eq!(found(&options, &env, "storage.base_dir"), ("/flag".into(), Origin::Option));
    }

    #[test]
    fn without_a_home_directory_the_flags_must_say_all() {
        let nowhere = Environment::default();
        assert!(matches!(Config::load_in(&LoadOptions::default(), &nowhere), Err(ConfigError::NoHome)));
        let options = LoadOptions { config_path: None, home: Some("/flag".into()) };
        assert_eq!(Config::load_in(&options, &nowhere).unwrap(), Config::defaults(Path::new("/flag")));
    }

    #[test]
    fn changed_keys_are_one_line_without_the_password() {
        let line =
            load("network: {proxy: \"socks5://me:secret@p:1\"}\ncache: {max_size: 10%, min_free: 2GiB}")
                .unwrap();
        assert_eq!(
            line.to_string(),
            "storage.base_dir=/home/luthien/.silmaril storage.models_dir=/home/luthien/.silmaril/models \
             network.proxy=socks5://me:***@p:1 cache.min_free=2GiB"
        );
    }
}
