//! Finds and reads the configuration.

use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use serde::Serialize;

use super::keys::{Config, File, StorageConfig};
use super::table::{KeyEntry, keys};
use crate::paths::Paths;
use crate::yaml::{self, YamlError, YamlLimits};

/// Limits of a configuration file. An ordinary file has a few kilobytes.
const LIMITS: YamlLimits = YamlLimits { bytes: 1 << 20, values: 10_000 };

/// The command line options that concern the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// `--config`: the file to read; it must exist.
    pub config_path: Option<PathBuf>,
    /// `--home`: the base directory.
    pub home: Option<PathBuf>,
}

/// The configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A key is unknown, or its value is invalid.
    #[error("{}{}: {what}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Value {
        /// The configuration file.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
        /// The key and a description of valid values.
        what: String,
    },
    /// The defaults need a home directory, but there is none.
    #[error("the home directory is not known; set HOME, or give --home and --config")]
    NoHome,
    /// A path is relative and there is no working directory.
    #[error("cannot make {} absolute: {source}", path.display())]
    Absolute {
        /// The relative path.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The origin of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueOrigin {
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
    /// The value as in a file, a list in brackets. The password of a proxy is hidden.
    pub value: String,
    /// The origin of the value.
    pub set_by: ValueOrigin,
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
    /// Reads the configuration: the given file, which must exist, or `$XDG_CONFIG_HOME/silmaril/config.yaml` (by default in
    /// `~/.config`), which may be absent. The base directory comes from `--home`, otherwise `SILMARIL_HOME`, otherwise the
    /// file; its default is `~/.silmaril`. The models directory is in the base directory unless the file sets it.
    pub fn load(options: &LoadOptions) -> Result<Self, ConfigError> {
        Self::load_in(options, &Environment::of_process())
    }

    /// [`Self::load`] without `SILMARIL_HOME`: the configuration of the file alone.
    pub fn load_without_environment(options: &LoadOptions) -> Result<Self, ConfigError> {
        Self::load_in(options, &Environment { silmaril_home: None, ..Environment::of_process() })
    }

    /// The path of the file that `load` reads. The file may not exist.
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

    /// The paths of the base and models directories.
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
        let origin = |key: &KeyEntry| match key.name {
            "storage.base_dir" if options.home.is_some() => ValueOrigin::Option,
            "storage.base_dir" if env.silmaril_home.is_some() => ValueOrigin::Environment,
            _ if (key.is_set)(&file) => ValueOrigin::File,
            _ => ValueOrigin::Default,
        };
        let origins: Vec<ValueOrigin> = keys().map(origin).collect();
        let config = Self::effective(file, options, env)?;
        let setting =
            |(key, set_by): (&KeyEntry, _)| Setting { key: key.name, value: (key.write)(&config), set_by };
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
        // A `~` that could not be replaced, because the user has no home directory.
        let usable = storage.base_dir.is_absolute() && storage.models_dir.is_absolute();
        if usable { Ok(config) } else { Err(ConfigError::NoHome) }
    }
}

impl File {
    fn find(options: &LoadOptions, env: &Environment) -> Result<Self, ConfigError> {
        match Config::config_file_in(options, env) {
            Ok(path) => Self::read(&path, options.config_path.is_some()),
            // Without a home directory there is no default file, but --home may be enough.
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
        // An empty document is null, as is a file without keys.
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
mod tests;
