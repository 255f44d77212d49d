//! Bounds of `trust.yaml` and of the queries about it.

/// The most pinned names: some 20 MB of file.
pub(super) const MAX_PINS: usize = 100_000;
/// The most listed publishers: each is checked when a publisher is chosen for a name.
pub(super) const MAX_PUBLISHERS: usize = 10_000;
/// How many successions are followed from one key.
pub(super) const MAX_CHAIN: usize = 8;
