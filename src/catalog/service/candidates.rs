//! The candidates that a search has found for a model.

use std::collections::BTreeMap;

use super::types::Candidate;
use crate::catalog::UnixTime;
use crate::catalog::message::HeldManifest;
use crate::catalog::record::SharedRecord;
use crate::model::{ModelRef, PublisherKey};

/// Candidates without a record: in all, and from one peer.
const MAX_UNPROVEN: usize = 32;
const MAX_UNPROVEN_OF_PEER: usize = 4;

/// For each publisher the newest record, or else the manifests that peers claim to hold.
pub(super) struct Candidates {
    model: ModelRef,
    /// The time by which records are valid.
    now: UnixTime,
    /// Candidates of other publishers are ignored.
    only: Option<PublisherKey>,
    proven: BTreeMap<PublisherKey, SharedRecord>,
    unproven: Vec<HeldManifest>,
    changed: bool,
}

impl Candidates {
    pub fn new(model: ModelRef, now: UnixTime, only: Option<PublisherKey>) -> Self {
        Self { model, now, only, proven: BTreeMap::new(), unproven: Vec::new(), changed: false }
    }

    pub fn is_empty(&self) -> bool {
        self.proven.is_empty() && self.unproven.is_empty()
    }

    /// Whether there was a change since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn accepts(&self, publisher: &PublisherKey) -> bool {
        self.only.is_none_or(|only| only == *publisher)
    }

    pub fn add_records(&mut self, records: &[SharedRecord]) {
        for record in records {
            let of_model =
                record.model().is_some_and(|m| m.name == self.model.name && m.version == self.model.revision);
            let publisher = record.record().publisher;
            let is_newer = |known: &SharedRecord| record.record().sequence > known.record().sequence;
            if of_model
                && self.accepts(&publisher)
                && record.check_time(self.now).is_ok()
                && self.proven.get(&publisher).is_none_or(is_newer)
            {
                self.proven.insert(publisher, SharedRecord::clone(record));
                self.unproven.retain(|held| held.publisher != publisher);
                self.changed = true;
            }
        }
    }

    pub fn add_held(&mut self, held: &[HeldManifest]) {
        for held in held.iter().take(MAX_UNPROVEN_OF_PEER) {
            let is_known = self.proven.contains_key(&held.publisher)
                || self.unproven.iter().any(|known| {
                    (known.publisher, known.manifest, known.info_hash)
                        == (held.publisher, held.manifest, held.info_hash)
                });
            if !is_known && self.accepts(&held.publisher) && self.unproven.len() < MAX_UNPROVEN {
                self.unproven.push(*held);
                self.changed = true;
            }
        }
    }

    pub fn list(&self) -> Vec<Candidate> {
        let proven = self.proven.values().filter_map(Candidate::of_record);
        proven.chain(self.unproven.iter().map(Candidate::of_held)).collect()
    }
}
