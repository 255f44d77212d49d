//! What coordinated reading reaches in the simulation. `make simulate` prints the whole table.
//!
//! The goals for 100 hosts: the slowest needs at most 1.4 times as long as the model needs on its link, and the origin sends
//! at most 1.3 copies. Hosts that attack at most double the time. Where a goal is missed, the bound is the reached figure with
//! a margin, and a comment names the goal.

use super::host::Kind;
use super::net::SECOND;
use super::scenario::{Outcome, Scenario};

/// 100 MiB in 25 pieces, as in the row `fan-out` of the benchmark.
fn short(kind: Kind) -> Scenario {
    Scenario { kind, pieces: 25, ..Scenario::default() }
}

/// 256 MiB.
fn long(kind: Kind) -> Scenario {
    Scenario { kind, ..Scenario::default() }
}

/// All hosts finish, the slowest in so many times the time of its link, and the origin sends so many copies.
fn reaches(scenario: &Scenario, slowest: f64, origin: f64) -> Outcome {
    let outcome = scenario.run();
    println!("{outcome:?}, at most {slowest}; {origin}");
    assert!(outcome.finished, "a host was starved: {outcome:?} in {scenario:?}");
    assert!(outcome.slowest <= slowest, "{outcome:?} in {scenario:?}");
    assert!(outcome.origin <= origin, "{outcome:?} in {scenario:?}");
    outcome
}

#[test]
fn equal_seeds_give_equal_runs() {
    let scenario = Scenario { unequal: true, ..short(Kind::Mount) };
    let (one, two) = (scenario.run(), scenario.run());
    assert_eq!((one.events, one.slowest, one.origin), (two.events, two.slowest, two.origin));
    assert_ne!(one.events, Scenario { seed: 2, ..scenario }.run().events);
}

#[test]
fn one_host_needs_the_time_of_its_link() {
    for kind in [Kind::Get, Kind::Mount] {
        reaches(&Scenario { hosts: 1, ..long(kind) }, 1.02, 1.01);
    }
}

#[test]
fn eight_hosts_share_the_work() {
    for round_trip in [1_000, 30_000] {
        reaches(&Scenario { round_trip, ..long(Kind::Get) }, 1.15, 1.1);
        reaches(&Scenario { round_trip, ..long(Kind::Mount) }, 1.2, 1.15);
    }
    reaches(&Scenario { round_trip: 150_000, ..long(Kind::Get) }, 1.4, 1.15);
    reaches(&Scenario { round_trip: 150_000, ..long(Kind::Mount) }, 1.4, 1.15);
}

#[test]
fn slow_host_holds_up_no_other() {
    // The slow host is compared with its own link.
    for kind in [Kind::Get, Kind::Mount] {
        reaches(&Scenario { slower: (1, 10), ..long(kind) }, 1.6, 1.4);
    }
}

#[test]
fn hosts_with_unequal_links_share_the_work() {
    reaches(&Scenario { hosts: 16, unequal: true, ..short(Kind::Get) }, 1.5, 1.5);
    reaches(&Scenario { hosts: 16, unequal: true, ..short(Kind::Mount) }, 1.5, 1.5);
}

#[test]
fn hosts_that_vanish_starve_no_other() {
    for silently in [false, true] {
        let some = |kind| Scenario { hosts: 16, vanishing: 5, silently, ..short(kind) };
        reaches(&some(Kind::Get), 1.8, 1.4);
        reaches(&some(Kind::Mount), 2.0, 1.4);
    }
}

#[test]
fn hosts_that_start_later_are_served_by_readers() {
    let later = |kind| Scenario { hosts: 16, spread: 5 * SECOND, ..short(kind) };
    reaches(&later(Kind::Get), 1.6, 1.6);
    reaches(&later(Kind::Mount), 1.7, 1.7);
}

#[test]
fn thirty_two_hosts_share_the_work() {
    // Goal: 1.4; 1.3.
    reaches(&Scenario { hosts: 32, ..short(Kind::Get) }, 1.9, 1.8);
    reaches(&Scenario { hosts: 32, ..short(Kind::Mount) }, 2.1, 2.1);
}

#[test]
fn hundred_hosts_share_the_work() {
    // Goal: 1.4; 1.3. An unshared read needs 100. A part has 256 KiB here, so that the test is quick.
    let hundred = |kind| Scenario { hosts: 100, blocks: 16, ..short(kind) };
    reaches(&hundred(Kind::Get), 3.6, 3.0);
    reaches(&hundred(Kind::Mount), 4.7, 3.5);
}

#[test]
fn attackers_at_most_double_the_time() {
    for kind in [Kind::Get, Kind::Mount] {
        let honest = Scenario { hosts: 8, blocks: 2, ..short(kind) };
        let time = honest.run().slowest;
        for (attack, bytes) in [
            (Kind::Liar, 0),
            (Kind::Liar, 1024),
            (Kind::Claimer, 0),
            (Kind::Claimer, 1024),
            (Kind::Claimer, 200 << 10),
        ] {
            for count in [1, 8] {
                let attacked = Scenario { attackers: (count, attack, bytes), ..honest.clone() };
                reaches(&attacked, 2.0 * time, 4.0);
            }
        }
    }
}

/// The rows of the table: a name and a scenario.
fn rows() -> Vec<(String, Scenario)> {
    let mut rows = Vec::new();
    for kind in [Kind::Get, Kind::Mount] {
        let mut row = |name: &str, scenario: Scenario| rows.push((format!("{kind:?}: {name}"), scenario));
        row("8 hosts, 100 MiB", short(kind));
        for (hosts, blocks) in [(8, 4), (32, 4), (100, 8), (1000, 16)] {
            let base = Scenario { hosts, blocks, ..long(kind) };
            for round_trip in [1_000, 30_000, 150_000] {
                if hosts < 1000 || round_trip == 30_000 {
                    let name = format!("{hosts} hosts, {} ms", round_trip / 1000);
                    row(&name, Scenario { round_trip, ..base.clone() });
                }
            }
            if !(32..=100).contains(&hosts) {
                continue;
            }
            let row = &mut |name: &str, scenario| row(&format!("{hosts} hosts, {name}"), scenario);
            row("unequal links", Scenario { unequal: true, ..base.clone() });
            row("one ten times slower", Scenario { slower: (1, 10), ..base.clone() });
            row("a third vanishes", Scenario { vanishing: hosts / 3, ..base.clone() });
            row(
                "a third vanishes silently",
                Scenario { vanishing: hosts / 3, silently: true, ..base.clone() },
            );
            row("starts within 5 s", Scenario { spread: 5 * SECOND, ..base.clone() });
            for (attack, bytes) in
                [(Kind::Liar, 0), (Kind::Liar, 1024), (Kind::Claimer, 0), (Kind::Claimer, 1024)]
            {
                for count in [1, hosts] {
                    let name = format!("{count} {attack:?}, {bytes} bytes per second");
                    row(&name, Scenario { attackers: (count, attack, bytes), ..base.clone() });
                }
            }
        }
        row("100 hosts, 1 GiB", Scenario { hosts: 100, blocks: 8, pieces: 256, ..long(kind) });
    }
    rows
}

#[test]
#[ignore = "takes minutes: `make simulate` shows its table"]
fn table_of_all_rows() {
    println!("| | slowest | median | origin | most received |");
    println!("|---|---|---|---|---|");
    let only = std::env::var("ROW").unwrap_or_default();
    for (name, scenario) in rows().into_iter().filter(|(name, _)| name.contains(&only)) {
        let Outcome { slowest, median, origin, received, finished, .. } = scenario.run();
        let starved = if finished { "" } else { ", a host was starved" };
        println!("| {name}{starved} | {slowest:.2} | {median:.2} | {origin:.2} | {received:.2} |");
    }
}
