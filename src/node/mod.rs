//! The daemon of one base directory, and the jobs that it does for commands.
//!
//! [`Node`] owns the session, the store and the scheduler, and holds `node.lock` while it lives, so that no two
//! processes write the same files. [`Library`] is the part that needs no engine: the registry and the store. Each job
//! of a command is the function `run` of its module. Other processes reach the node through its control socket
//! ([`control`]).

pub(crate) mod accept;
pub mod adopt;
mod announce;
pub(crate) mod blocking;
mod candidates;
mod check;
mod clear_cache;
pub mod clients;
pub mod control;
mod dht;
mod dir_watch;
mod directory_checks;
pub mod directory_faults;
pub mod discover;
pub mod disputes;
pub mod endpoint;
mod error;
pub mod export;
mod former_states;
pub mod get;
mod holdings;
mod housekeeping;
pub(crate) mod hub;
pub mod import;
mod jobs;
mod kind;
mod known_findings;
pub mod library;
pub mod limited;
mod local_models;
mod local_scans;
pub mod lock;
mod looked_up;
mod lookup;
mod metadata;
mod metrics;
pub mod mirror;
pub mod models;
pub mod mounts;
mod node_catalog;
mod offline;
pub mod patience;
mod progress;
mod pump;
mod readable;
pub mod remove;
pub mod request_errors;
pub mod rotation;
pub mod running;
mod scrub;
mod seed;
mod seeds;
pub mod share;
mod shared_lookups;
pub mod sharing;
pub mod space;
mod space_keeper;
mod start;
mod starving;
mod trackers;
pub mod unresolved;
pub mod unshared;
pub mod verify;
mod warm;
mod web;
mod withheld;
pub(crate) mod witness;

pub use error::{NodeError, chain, is_disk_failure};
pub use kind::ErrorKind;
pub use library::Library;
pub use running::{Ending, Node};
pub use start::{NodeOptions, open_locked};
pub use web::Surroundings;
