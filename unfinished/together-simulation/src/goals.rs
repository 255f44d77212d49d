//! What coordinated reading must reach, on paper. Times are in units of the time that one host alone needs at the rate of its link.

use crate::sim::{Kind, Outcome, Scenario};

fn base() -> Scenario {
    Scenario { window: 64, ..Scenario::default() }
}

fn met(name: &str, scenario: &Scenario, slowest: f64, origin: f64) -> Outcome {
    let outcome = scenario.run();
    assert!(outcome.finished, "{name}: a host was starved: {outcome:?}");
    assert!(outcome.slowest <= slowest, "{name}: time {:.2}: {outcome:?}", outcome.slowest);
    assert!(outcome.origin <= origin, "{name}: origin {:.2}: {outcome:?}", outcome.origin);
    outcome
}

#[test]
fn one_host_loses_nothing() {
    met("mount", &Scenario { hosts: 1, ..base() }, 1.01, 1.001);
    met("get at 150 ms", &Scenario { hosts: 1, get: true, rtt: 150_000, ..base() }, 1.06, 1.001);
}

#[test]
fn eight_mounts_read_in_little_more_than_the_time_of_one() {
    for foreign in [false, true] {
        met("8 mounts", &Scenario { window: 32, foreign, ..base() }, 1.4, 1.5);
        met("8 mounts at 30 ms", &Scenario { rtt: 30_000, foreign, ..base() }, 1.4, 1.5);
        met("one host ten times slower", &Scenario { slower: (1, 10), foreign, ..base() }, 1.4, 1.5);
    }
}

#[test]
fn eight_gets_load_the_origin_once() {
    for foreign in [false, true] {
        for rtt in [1_000, 30_000, 150_000] {
            met("8 gets", &Scenario { get: true, rtt, foreign, ..base() }, 1.3, 1.3);
        }
    }
}

#[test]
fn thirty_two_mounts_read_in_little_more_than_the_time_of_one() {
    for foreign in [false, true] {
        met("32", &Scenario { hosts: 32, pieces: 256, blocks: 8, foreign, ..base() }, 1.4, 1.3);
    }
}

#[test]
fn hosts_that_start_later_and_hosts_that_vanish_starve_none() {
    for foreign in [false, true] {
        met("later", &Scenario { hosts: 16, spread: 5_000_000, foreign, ..base() }, 1.4, 1.5);
        met("vanishing", &Scenario { hosts: 32, vanishing: 10, foreign, ..base() }, 1.75, 1.5);
        met("unequal", &Scenario { hosts: 32, unequal: true, foreign, ..base() }, 1.6, 1.5);
    }
}

#[test]
fn attackers_at_most_double_the_time() {
    for foreign in [false, true] {
        for get in [false, true] {
            let honest = Scenario { hosts: 16, get, foreign, ..base() };
            let time = honest.run().slowest;
            for kind in [Kind::Claimer, Kind::Liar] {
                for rate in [0, 1024] {
                    let attacked = Scenario { attackers: (16, kind, rate), ..honest.clone() };
                    met("half of the hosts attack", &attacked, 2.0 * time, 3.0);
                }
            }
        }
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    let scenario = Scenario { hosts: 16, unequal: true, ..base() };
    assert_eq!(scenario.run().events, scenario.run().events);
}
