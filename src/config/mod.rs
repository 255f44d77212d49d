//! The effective configuration. The file overrides the defaults, the environment overrides the file, and options override
//! the environment.
//!
//! A [`Config`] is valid: sizes and ports are in range, addresses are parsed, directories are absolute. No other module
//! parses texts of the configuration.
//!
//! `keys` is the table of all keys, and `values` has their formats; `format` defines the trait for formats. `table`
//! generates the types from the table, and `document` the texts. `load` finds and reads the file.

mod address;
mod document;
mod format;
mod keys;
mod load;
mod table;
mod token;
mod values;

pub(crate) use address::{HostPort, Proxy, ProxyKind};
pub use keys::{
    CacheConfig, Config, DaemonConfig, HubConfig, MetricsConfig, MountConfig, NetworkConfig, SecurityConfig,
    ServeConfig, StorageConfig, TorrentConfig,
};
pub use load::LoadOptions;
pub(crate) use load::{ConfigError, Setting, ValueOrigin};
pub use token::Token;
pub(crate) use token::TokenError;
pub use values::{Encryption, Utp};
pub(crate) use values::{NamePattern, Show, SizeOrPercent, TrustPolicy, listen_address};
