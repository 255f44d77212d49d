//! Finding models without a server: records that peers pass on, names in the DHT, and search.
//!
//! | module | what it owns |
//! |---|---|
//! | `record` | the signed announcement of one revision; its BEP 44 form |
//! | `query` | what `discover` searches for |
//! | `message` | the messages between peers; decoding is bounded |
//! | `store` | all records known, on disk and searchable |
//! | `gossip` | which records go to which peer, and the limits of each peer: a state machine without I/O |
//! | `service` | [`Catalog`]: the gossip on a running engine, names in the DHT, searches |
//! | `wire` | the bencoded dictionaries of records and messages: strict, bounded |
//!
//! Everything from a peer is hostile until its signature is checked. Nothing in this module waits without a deadline.

pub mod gossip;
pub mod message;
pub mod query;
pub mod record;
pub mod service;
pub mod store;
mod wire;

pub use query::Query;
pub use record::{ModelRecord, Record, RecordBody, SharedRecord, SignedRecord};
pub(crate) use service::CatalogStatus;
pub use service::{
    Candidate, Catalog, CatalogError, CatalogSettings, FoundModel, HeldModel, Holdings, News, SearchPatience,
};
pub use store::CatalogStore;

/// Seconds since the Unix epoch.
pub type UnixTime = u64;

/// The time on the clock of this host.
pub fn now() -> UnixTime {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// How long a record is valid after its time, in seconds, unless it is refreshed: 30 days.
pub const EXPIRY: UnixTime = 30 * 24 * 3600;

/// How far ahead of our clock, in seconds, a record's time may be: one day.
pub const MAX_AHEAD: UnixTime = 24 * 3600;
