//! Where files that contradict the hub's list are reported.

use std::sync::OnceLock;

use super::FileRef;

/// Receives a file whose bytes do not have the hash that the hub lists, and the difference.
pub(super) type OnContradiction = Box<dyn Fn(FileRef, String) + Send + Sync>;

/// Where contradictions are reported.
#[derive(Default)]
pub(super) struct Contradictions(pub OnceLock<OnContradiction>);
