//! silmaril: the network as a directory of AI models.
//!
//! The modules depend on each other downwards only; see the module map below.
//!
//! ```text
//! cli        one file per subcommand; parses, calls node, prints. Nothing below prints.
//!  └ node    the running engine and its control socket (server and client)
//!     ├ mount    fuse adapter (thin) → tree (inodes) → parked reads
//!     ├ trust    publishers, pinned names, key succession
//!     ├ catalog  records, gossip, DHT names, search
//!     └ fetch    which pieces, when: windows, deadlines, waiters
//!         ├ store    layout on disk, registry, verified blocks, resume
//!         └ torrent  safe Rust over cpp/: session, torrents, events, create
//!             └ ffi + cpp/   the only bridge and the only C++
//! model      names, manifest, card, licence, safetensors header
//! http       HTTP client: redirects, credentials, ranges, deadlines
//! keys, config, paths, fsutil, nofollow, descriptors, yaml, telemetry: small, used by all
//! ```
#![deny(unsafe_code)]

pub mod catalog;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod fetch;
mod ffi;
pub mod fsutil;
pub mod http;
pub mod keys;
pub mod mirror;
pub mod model;
pub mod mount;
pub mod node;
pub mod nofollow;
pub mod paths;
pub mod store;
pub mod telemetry;
pub mod torrent;
pub mod trust;
pub mod yaml;
