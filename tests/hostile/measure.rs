//! Measures how much longer `get` takes while a hostile peer is connected, for the README. Run by hand.

use std::time::{Duration, Instant};

use super::lab::Lab;
use super::siege::liar;
use super::strike::{Hammer, Strike};
use super::strikes;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_message::Message;
use crate::support::raw_peer_seed::{Conduct, RawSeed};

const RUNS: usize = 5;

/// Median time of `get` from the honest seed and these peers, at 60 Mbit/s. `hammer`: messages that are sent repeatedly to
/// `get`.
fn median(lab: &Lab, peers: &[String], hammer: &[Strike]) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let _hammer = (!hammer.is_empty()).then(|| Hammer::on(lab, &lab.getter, hammer.to_vec()));
            let begin = Instant::now();
            lab.assert_got(lab.get(peers, &[]));
            let took = begin.elapsed();
            std::fs::remove_dir_all(lab.getter.home().join("out")).unwrap();
            let _ = std::fs::remove_dir_all(lab.getter.base().join("cache"));
            took
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

#[test]
#[ignore = "a measurement, printed by make measure"]
fn time_of_get_with_each_hostile_peer() {
    let lab = Lab::new();
    lab.start_honest();
    lab.honest.limit_rate("60mbit");
    let content = &lab.content;
    let file = content.file("b.bin");
    let honest = vec![lab.honest_peer()];
    let alone = median(&lab, &honest, &[]);
    println!("without: {alone:.2?}");
    let print = |what: &str, with: Duration| {
        println!("{what}: {with:.2?}, {:.2} times", with.as_secs_f64() / alone.as_secs_f64());
    };
    let hammers: Vec<(&str, Vec<Strike>)> = vec![
        ("shifted block hashes", vec![strikes::shifted_pairs(file), strikes::shifted_pieces(content, file)]),
        ("neighbours of genuine hashes", strikes::neighbours(content, file)),
        ("zero and unknown roots, absurd ranges", strikes::absurd(content)),
        ("zero hashes", strikes::zeros(content, file)),
        ("hashes across known pieces", strikes::straddling(content, file)),
        (
            "hash requests that are not read",
            vec![Strike::new("requests", &vec![Message::HashRequest(content.any_range()); 2000])],
        ),
    ];
    for (what, strikes) in hammers {
        print(what, median(&lab, &honest, &strikes));
    }
    let seeds: Vec<(&str, Conduct)> = vec![
        ("wrong blocks", liar()),
        (
            "wrong answers to hash requests",
            Conduct::honest().with_hashes(|content, range| {
                let mut hashes = content.hashes(range).unwrap_or_default();
                hashes.iter_mut().for_each(|hash| hash[0] ^= 1);
                vec![Message::Hashes(range, hashes)]
            }),
        ),
        ("no answers to hash requests", Conduct::honest().with_hashes(|_, _| vec![])),
        ("no answers to block requests", Conduct::honest().with_blocks(|_, _| vec![])),
    ];
    for ((what, conduct), port) in seeds.into_iter().zip(7001..) {
        let seed = RawSeed::listen(&lab.evil, port, content, conduct);
        print(what, median(&lab, &[honest.clone(), vec![seed.peer()]].concat(), &[]));
    }
    let silent: Vec<RawPeer> = (0..50).map(|_| lab.dial(&lab.evil, &lab.honest)).collect();
    print("50 silent connections to the seed", median(&lab, &honest, &[]));
    drop(silent);
}
