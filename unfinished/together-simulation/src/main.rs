#![allow(dead_code)]
#[cfg(test)]
mod goals;
mod sim;
mod together;
use sim::*;
fn show(name: &str, s: Scenario) {
    let t = std::time::Instant::now();
    let o = s.run();
    println!("{name:44} slowest {:5.2} median {:5.2} origin {:5.2} received {:4.2} {} {:>8} events {:?}", o.slowest, o.median, o.origin, o.received, if o.finished {""} else {"UNFINISHED"}, o.events, t.elapsed());
}
fn main() {
    let d = Scenario::default();
    let which: Vec<String> = std::env::args().skip(1).collect();
    let go = |name: &str, s: Scenario| if which.is_empty() || which.iter().any(|w| name.contains(w.as_str())) { show(name, s) };
    for foreign in [false, true] {
        let f = if foreign { "foreign " } else { "" };
        let d = Scenario { foreign, ..d.clone() };
        go(&format!("{f}1 mount"), Scenario { hosts: 1, ..d.clone() });
        go(&format!("{f}1 get rtt 150"), Scenario { hosts: 1, get: true, rtt: 150_000, ..d.clone() });
        for window in [8, 16, 32] {
            go(&format!("{f}8 mounts w{window}"), Scenario { window, ..d.clone() });
        }
        let d = Scenario { window: 64, ..d };
        go(&format!("{f}8 mounts 100 MiB"), Scenario { pieces: 25, ..d.clone() });
        go(&format!("{f}8 gets"), Scenario { get: true, ..d.clone() });
        go(&format!("{f}8 gets 100 MiB"), Scenario { get: true, pieces: 25, ..d.clone() });
        go(&format!("{f}32 mounts"), Scenario { hosts: 32, window: 64, ..d.clone() });
        go(&format!("{f}100 mounts"), Scenario { hosts: 100, degree: 250, window: 64, blocks: 4, pieces: 128, ..d.clone() });
        go(&format!("{f}100 gets"), Scenario { hosts: 100, degree: 250, get: true, blocks: 4, pieces: 128, ..d.clone() });
        go(&format!("{f}1000 mounts"), Scenario { hosts: 1000, window: 64, blocks: 4, pieces: 128, degree: 24, ..d.clone() });
        go(&format!("{f}long 32 mounts"), Scenario { hosts: 32, window: 64, pieces: 256, blocks: 8, ..d.clone() });
        if false { go(&format!("{f}x"), Scenario { hosts: 32, window: 64, pieces: 256, blocks: 8, ..d.clone() }); }
        go(&format!("{f}long 32 gets"), Scenario { hosts: 32, get: true, pieces: 256, blocks: 8, ..d.clone() });
        for rtt in [30_000, 150_000] {
            go(&format!("{f}8 mounts rtt {}", rtt / 1000), Scenario { rtt, ..d.clone() });
            go(&format!("{f}8 gets rtt {}", rtt / 1000), Scenario { rtt, get: true, ..d.clone() });
            go(&format!("{f}100 mounts rtt {}", rtt / 1000), Scenario { rtt, hosts: 100, degree: 250, window: 64, blocks: 4, pieces: 128, ..d.clone() });
        }
        go(&format!("{f}8 mounts one slow"), Scenario { slower: (1, 10), ..d.clone() });
        go(&format!("{f}32 mounts unequal"), Scenario { hosts: 32, window: 64, unequal: true, ..d.clone() });
        go(&format!("{f}32 mounts vanishing"), Scenario { hosts: 32, window: 64, vanishing: 10, ..d.clone() });
        go(&format!("{f}16 mounts later"), Scenario { hosts: 16, spread: 5_000_000, ..d.clone() });
        for (kind, name) in [(Kind::Claimer, "claimers"), (Kind::Liar, "liars")] {
            for rate in [0, 1024] {
                go(&format!("{f}small 16 mounts 50% {name} {rate}"), Scenario { hosts: 16, attackers: (16, kind, rate), ..d.clone() });
                go(&format!("{f}small 16 gets 50% {name} {rate}"), Scenario { hosts: 16, get: true, attackers: (16, kind, rate), ..d.clone() });
            }
        }
        go(&format!("{f}small 16 mounts honest"), Scenario { hosts: 16, ..d.clone() });
        go(&format!("{f}small 16 gets honest"), Scenario { hosts: 16, get: true, ..d.clone() });
        for (kind, name) in [(Kind::Claimer, "claimers"), (Kind::Liar, "liars")] {
            for (n, share) in [(1, "1%"), (100, "50%")] {
                for rate in [0, 1024] {
                    go(&format!("{f}100 mounts {share} {name} {rate}"), Scenario { hosts: 100, degree: 250, window: 64, blocks: 4, pieces: 128, attackers: (n, kind, rate), ..d.clone() });
                }
            }
        }
    }
}
