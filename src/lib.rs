//! silmaril: the network as a directory of AI models.
//!
//! Modules depend only on modules below them:
//!
//! ```text
//! cli        one file per subcommand: parse, call the daemon, print. No other module prints.
//!  └ node    the daemon: jobs, control socket (server and client), housekeeping
//!     ├ serve    HTTP for other programs: an endpoint with the hub's read routes
//!     ├ mount    FUSE adapter (thin) → tree (inodes) → parked reads
//!     ├ mirror   repositories of hubs and git servers, downloaded at a fixed commit
//!     ├ trust    publishers, pinned names, key succession
//!     ├ catalog  records, gossip, names in the DHT, search
//!     └ fetch    which pieces, when, from which source: windows, deadlines, waiting reads
//!         ├ store    layout on disk, registry, verified blocks, resume data
//!         └ torrent  safe Rust over cpp/: session, torrents, events
//!             └ ffi + cpp/   the only bridge and the only C++
//! model      names, keys, manifest, card, licence, file headers, merkle tree
//! http       HTTP client: redirects, credentials, ranges, deadlines
//! config, paths, fsutil, nofollow, descriptors, yaml, telemetry: small, used by all modules
//! ```
#![deny(unsafe_code)]

pub mod catalog;
pub mod cli;
pub mod config;
mod descriptors;
pub mod fetch;
mod ffi;
mod fsutil;
pub mod http;
pub mod mirror;
pub mod model;
pub mod mount;
pub mod node;
mod nofollow;
pub mod paths;
mod serve;
pub mod store;
mod telemetry;
pub mod torrent;
mod trust;
mod yaml;
