//! The number of unknown names that one process may look up.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// Processes whose budgets are remembered. A forgotten process has a full budget again.
const MAX_PROCESSES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The price of one second of waiting, in names. A lookup that peers answer takes milliseconds. Where no peer is
/// connected, or none answers, a process that looks up many names would otherwise wait for each of them.
const NAMES_PER_SECOND: f64 = 2.0;

/// A budget for each process: `per_minute` names immediately, and as many again in each minute. Processes that the daemon
/// cannot see have the number 0 and share one budget.
#[derive(Debug)]
pub struct Budget {
    per_minute: f64,
    /// By process: the names that are left, and when that number was computed.
    left: LruCache<u32, (f64, Instant)>,
}

impl Budget {
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.into(), left: LruCache::new(MAX_PROCESSES) }
    }

    /// Charges a process with one name; false if its budget is used up.
    pub fn charge_name(&mut self, process: u32, now: Instant) -> bool {
        let full = self.per_minute;
        let (left, at) = self.left.get_or_insert_mut(process, || (full, now));
        let refill = now.saturating_duration_since(*at).as_secs_f64() * full / 60.0;
        *left = (*left + refill).min(full);
        *at = now;
        let is_enough = *left >= 1.0;
        if is_enough {
            *left -= 1.0;
        }
        is_enough
    }

    /// Charges a process with the time, up to now, that it waited for a name that was not found. That time does not
    /// refill the budget. The debt is at most a full budget.
    pub fn charge_time(&mut self, process: u32, waited: Duration, now: Instant) {
        if let Some((left, at)) = self.left.get_mut(&process) {
            *left = (*left - waited.as_secs_f64() * NAMES_PER_SECOND).max(-self.per_minute);
            *at = now;
        }
    }

    /// Refunds the price of a name whose model was found.
    pub fn refund_name(&mut self, process: u32) {
        if let Some((left, _)) = self.left.get_mut(&process) {
            *left = (*left + 1.0).min(self.per_minute);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_a_budget_that_refills_with_time() {
        let (mut budget, now) = (Budget::new(6), Instant::now());
        assert!((0..6).all(|_| budget.charge_name(1, now)));
        assert!(!budget.charge_name(1, now));
        assert!(budget.charge_name(2, now), "the other process has used nothing");
        assert!(!budget.charge_name(1, now + Duration::from_secs(9)));
        assert!(budget.charge_name(1, now + Duration::from_secs(11)));
        assert!(!budget.charge_name(1, now + Duration::from_secs(11)));
        let later = now + Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| budget.charge_name(1, later)).count(), 6);
    }

    #[test]
    fn waiting_without_a_result_costs_names() {
        let (mut budget, now) = (Budget::new(16), Instant::now());
        assert!(budget.charge_name(1, now));
        let later = now + Duration::from_secs(5);
        budget.charge_time(1, later - now, later);
        assert_eq!((0..20).filter(|_| budget.charge_name(1, later)).count(), 5);
        budget.charge_time(1, Duration::from_secs(3600), later);
        assert!(!budget.charge_name(1, later + Duration::from_secs(63)));
        assert!(budget.charge_name(1, later + Duration::from_secs(64)), "the debt is bounded");
    }

    #[test]
    fn models_that_are_found_cost_nothing() {
        let (mut budget, now) = (Budget::new(2), Instant::now());
        for _ in 0..10 {
            assert!(budget.charge_name(1, now));
            budget.refund_name(1);
        }
        assert_eq!((0..5).filter(|_| budget.charge_name(1, now)).count(), 2);
    }
}
