//! The effective configuration: defaults, then the file, then the environment, then flags.
//!
//! A [`Config`] has passed every check and holds typed values: sizes and ports are in range, addresses are parsed,
//! directories are absolute. Nothing outside of this module parses a text of the configuration.
//!
//! `keys` is the table of all keys, and `values` has the formats that it names; `format` defines what a format is. `table`
//! makes the types from the table and `document` the texts. `load` finds and reads the file.

mod address;
mod document;
mod format;
mod keys;
mod load;
mod table;
mod values;

pub use address::{AddressError, HostPort, Proxy, ProxyKind};
pub use keys::{
    CacheConfig, Config, DaemonConfig, HubConfig, MountConfig, NetworkConfig, SecurityConfig, StorageConfig,
    TorrentConfig,
};
pub use load::{ConfigError, LoadOptions, Origin, Setting};
pub use values::{Encryption, NamePattern, Show, SizeOrPercent, TrustPolicy, Utp};
