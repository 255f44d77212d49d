//! Decides which bytes are requested next.

use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;

use super::deletable::overlaps;
use super::run::RangeRequest;
use super::state::{HubState, Reading, RunningRange};
use super::{FOR_READERS, HubReads, MAX_REQUEST, MIN_AHEAD, PER_FILE};
use crate::fetch::readahead::BUDGET;
use crate::fetch::tensors::FileTensors;
use crate::fetch::window::share;
use crate::model::{BLOCK_LEN, GRANULE_LEN};
use crate::store::{Content, ContentKey};

/// What a request is for, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RequestLevel {
    /// A read waits for it.
    Waiting,
    /// It is ahead of a reader.
    Ahead,
    /// A whole file is fetched.
    Job,
}

impl HubReads {
    /// Ends requests that are not needed any more, and begins those that the budget permits.
    pub(super) fn pump(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.stopped {
            return;
        }
        state.lacking.clear();
        for reading in state.files.values_mut() {
            reading.end_unneeded();
            reading.lacks_space = false;
        }
        for level in [RequestLevel::Waiting, RequestLevel::Ahead, RequestLevel::Job] {
            let keys: Vec<ContentKey> = state.files.keys().copied().collect();
            for key in keys {
                while self.begin_one(&mut state, &key, level) {}
            }
        }
    }

    /// Begins a request for a file. Returns false if there is none to begin now.
    fn begin_one(self: &Arc<Self>, state: &mut HubState, key: &ContentKey, level: RequestLevel) -> bool {
        let now = Instant::now();
        let hungry = state.files.values().flat_map(|reading| reading.windows.cursors());
        let hungry = hungry.filter(|cursor| cursor.is_hungry()).count();
        let ahead = share(self.settings.readahead_max.saturating_mul(BUDGET), hungry, GRANULE_LEN);
        let id = state.new_id();
        let Some(reading) = state.files.get_mut(key) else { return false };
        let Some((file, origin)) = reading.source(&state.origins) else { return false };
        let file = file.clone();
        if reading.pause(now).is_some() || reading.running.len() >= PER_FILE {
            return false;
        }
        let Some(range) = reading.next(level, ahead) else { return false };
        if level != RequestLevel::Waiting && self.budget.available_permits() <= FOR_READERS {
            return false;
        }
        let Ok(permit) = self.budget.clone().try_acquire_owned() else { return false };
        let bytes = range.end - range.start;
        let class = reading.content().space_class();
        if !self.settings.rooms.reserve(class, bytes, level == RequestLevel::Waiting) {
            reading.lacks_space = true;
            *state.lacking.entry(class).or_default() += bytes;
            self.settings.rooms.request_space();
            return false;
        }
        let download = RangeRequest {
            reads: Arc::downgrade(self),
            key: *key,
            id,
            file,
            origin,
            range: range.clone(),
            reserved: super::run::Reserved { rooms: self.settings.rooms.clone(), class, bytes },
            _permit: permit,
        };
        let task = tokio::spawn(download.run()).abort_handle();
        reading.running.push(RunningRange { id, rest: range, task });
        true
    }
}

impl Reading {
    /// Ends requests of which no byte is needed by a waiter or a window.
    fn end_unneeded(&mut self) {
        let needed = {
            let waits = self.waiters.values().map(|wait| wait.range.clone());
            let cursors = self.windows.cursors().iter().filter(|cursor| cursor.active);
            // A reader may come back a little: the bytes just before its window are needed, too.
            let ahead = cursors.map(|cursor| {
                let wanted = cursor.wanted(u64::MAX, u64::MAX);
                wanted.start.saturating_sub(MIN_AHEAD)..wanted.end
            });
            waits.chain(ahead).collect::<Vec<_>>()
        };
        self.running.retain(|running| {
            running.rest.is_empty() || needed.iter().any(|needed| overlaps(needed, &running.rest))
        });
    }

    /// The next range to request.
    fn next(&self, level: RequestLevel, ahead: u64) -> Option<Range<u64>> {
        let content = self.content();
        let len = content.len();
        let first = |range: &Range<u64>, unit: u64| self.missing(content, range, unit).into_iter().next();
        match level {
            RequestLevel::Waiting | RequestLevel::Job => {
                let waits = self.waiters.values().filter(|wait| wait.is_job == (level == RequestLevel::Job));
                let found = waits.filter_map(|wait| first(&wait.range, BLOCK_LEN)).next()?;
                Some(found.start..found.end.min(found.start + MAX_REQUEST))
            }
            RequestLevel::Ahead => self.windows.cursors().iter().find_map(|cursor| {
                // Where the end of a tensor bounds the window, it may grow faster than the run.
                let (ahead, bound) = match &self.shape {
                    FileTensors::Tensors(tensors) if tensors.has_just_crossed(cursor.start, cursor.pos) => {
                        return None;
                    }
                    FileTensors::Tensors(tensors) => {
                        (ahead, tensors.bound(cursor.start, cursor.pos).min(len))
                    }
                    FileTensors::Plain | FileTensors::Unread => (ahead.min(cursor.run()), len),
                };
                let wanted = cursor.wanted(ahead, bound);
                let found = first(&wanted, GRANULE_LEN)?;
                let piece = ((wanted.end - wanted.start) / PER_FILE as u64)
                    .clamp(MIN_AHEAD, MAX_REQUEST)
                    .next_multiple_of(GRANULE_LEN);
                // Small remains of a growing window wait until more is missing, unless the window cannot grow.
                let is_last = found.end >= bound.min(len);
                let is_idle = self.running.is_empty();
                (found.end - found.start >= MIN_AHEAD || is_last || is_idle)
                    .then(|| found.start..found.end.min(found.start + piece))
            }),
        }
    }

    /// The parts of a range, widened to `unit` bytes, that are neither cached nor requested, merged, in order.
    fn missing(&self, content: &Content, range: &Range<u64>, unit: u64) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let len = content.len();
        let widened =
            |range: &Range<u64>| range.start / unit * unit..range.end.next_multiple_of(unit).min(len);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for missing in content.missing_ranges(range.clone()) {
            let missing = widened(&missing);
            match merged.last_mut() {
                Some(last) if missing.start <= last.end => last.end = last.end.max(missing.end),
                _ => merged.push(missing),
            }
        }
        for running in &self.running {
            merged = merged.iter().flat_map(|missing| without(missing, &running.rest)).collect();
        }
        merged
    }
}

/// The parts of a range outside another one.
fn without(range: &Range<u64>, other: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let before = range.start..range.end.min(other.start.max(range.start));
    let after = range.start.max(other.end.min(range.end))..range.end;
    let whole = (!overlaps(range, other)).then(|| range.clone());
    let parts = if whole.is_some() { [0..0, 0..0] } else { [before, after] };
    whole.into_iter().chain(parts.into_iter().filter(|part| !part.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outside_a_range() {
        let parts = |a: Range<u64>, b: Range<u64>| {
            without(&a, &b).map(|part| (part.start, part.end)).collect::<Vec<_>>()
        };
        assert_eq!(parts(0..10, 2..4), [(0, 2), (4, 10)]);
        assert_eq!(parts(0..10, 0..4), [(4, 10)]);
        assert_eq!(parts(0..10, 8..20), [(0, 8)]);
        assert_eq!(parts(0..10, 0..10), []);
        assert_eq!(parts(0..10, 10..20), [(0, 10)]);
        assert_eq!(parts(5..10, 0..5), [(5, 10)]);
    }
}
