//! Bytes that reads are about to copy: they are not deleted.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;

use crate::store::{Content, ContentKey};

/// The guarded ranges of all contents. Its lock is the last one taken.
#[derive(Debug, Default)]
pub(super) struct ReadGuards(Mutex<HashMap<ContentKey, Vec<Range<u64>>>>);

impl ReadGuards {
    /// Keeps a range of a content from being deleted until the guard is dropped.
    pub(super) fn guard(&self, content: &Content, range: &Range<u64>) -> ReadGuard<'_> {
        let key = content.key();
        if let Some(key) = key {
            self.0.lock().entry(key).or_default().push(range.clone());
        }
        ReadGuard { guards: self, key, range: range.clone() }
    }

    /// The guarded ranges of a content.
    pub(super) fn ranges(&self, key: &ContentKey) -> Vec<Range<u64>> {
        self.0.lock().get(key).cloned().unwrap_or_default()
    }
}

/// Guards one range while it lives.
pub(super) struct ReadGuard<'a> {
    guards: &'a ReadGuards,
    key: Option<ContentKey>,
    range: Range<u64>,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut guards = self.guards.0.lock();
        if let Some(ranges) = guards.get_mut(&key) {
            if let Some(at) = ranges.iter().position(|range| *range == self.range) {
                ranges.swap_remove(at);
            }
            if ranges.is_empty() {
                guards.remove(&key);
            }
        }
    }
}
