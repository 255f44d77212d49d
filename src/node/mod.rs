//! The daemon of one base directory, and the jobs that it does for commands.
//!
//! [`Node`] owns the session, the store and the scheduler, and holds `node.lock` while it lives, so that no two
//! processes write the same files. [`Library`] is the part that needs no engine: the registry and the store. Each job
//! of a command is the function `run` of its module. Other processes reach the node through its control socket
//! ([`control`]).

pub(crate) mod accept;
pub(crate) mod adopt;
mod announce;
pub(crate) mod blocking;
mod candidates;
mod check;
mod clear_cache;
pub(crate) mod clients;
pub mod control;
mod dht;
mod dir_watch;
mod directory_checks;
pub(crate) mod directory_faults;
pub mod discover;
pub(crate) mod disputes;
pub(crate) mod endpoint;
mod error;
mod error_kinds;
pub(crate) mod export;
mod former_states;
pub mod get;
mod holdings;
mod housekeeping;
pub(crate) mod hub;
pub(crate) mod import;
mod jobs;
mod kind;
mod known_findings;
pub(crate) mod library;
pub(crate) mod limited;
mod local_models;
mod local_scans;
pub mod lock;
mod looked_up;
mod lookup;
mod metadata;
mod metrics;
pub(crate) mod mirror;
pub(crate) mod models;
pub(crate) mod mounts;
mod node_catalog;
mod offline;
pub(crate) mod patience;
mod progress;
mod pump;
mod readable;
pub(crate) mod remove;
pub(crate) mod request_errors;
pub(crate) mod rotation;
pub(crate) mod running;
mod scrub;
mod seed;
mod seeds;
pub mod share;
mod shared_lookups;
pub(crate) mod sharing;
pub(crate) mod space;
mod space_keeper;
mod start;
mod starving;
mod trackers;
pub(crate) mod unresolved;
pub(crate) mod unshared;
pub(crate) mod verify;
mod warm;
mod web;
mod withheld;
pub(crate) mod witness;

pub use error::NodeError;
pub(crate) use error::chain;
pub(crate) use error_kinds::is_disk_failure;
pub(crate) use kind::ErrorKind;
pub use library::Library;
pub(crate) use running::Ending;
pub use running::Node;
pub use start::NodeOptions;
pub(crate) use start::open_locked;
pub(crate) use web::Surroundings;
