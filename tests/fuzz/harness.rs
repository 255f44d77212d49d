//! Runs every decoder of untrusted bytes on the corpus, and on changed copies of it.
//!
//! `corpus/<target>/ok-*` must be accepted and `bad-*` refused. Then each target runs on changed inputs, the same in every
//! run. With `FUZZ_SECONDS` set, each target runs for that time, with different inputs in every run. A failure prints the
//! smallest input that fails; add that to the corpus.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestRunner};

use super::mutate::{Mutation, apply, mutation};
use super::targets::{TARGETS, Target};

/// Changed inputs for each target in an ordinary run.
const CASES: u32 = 2_000;

/// The corpus of a target: names and bytes, in order.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut inputs: Vec<_> = (fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display())))
    .map(|entry| entry.unwrap())
    .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
    .collect();
    inputs.sort();
    inputs
}

#[test]
fn the_verdict_on_the_corpus_matches_its_names() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        for (file, bytes) in &inputs {
            let expected = match file.split_once('-') {
                Some(("ok", _)) => true,
                Some(("bad", _)) => false,
                _ => panic!("{name}/{file} is called neither ok-… nor bad-…"),
            };
            assert_eq!(target(bytes), expected, "{name}/{file}");
        }
        for kind in ["ok-", "bad-"] {
            assert!(inputs.iter().any(|(file, _)| file.starts_with(kind)), "{name} has no {kind}…");
        }
    }
}

#[test]
fn every_directory_of_the_corpus_has_a_target() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut found: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut named: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    found.sort();
    named.sort();
    assert_eq!(found, named);
}

/// Bytes that are printed as a Rust literal.
#[derive(Clone)]
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// An input of the corpus after some changes; rarely, random bytes.
fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Input> {
    let changes = prop::collection::vec(mutation(), 1..8);
    let chosen = (prop::sample::select(corpus.clone()), prop::sample::select(corpus), changes);
    let changed = chosen.prop_map(|(mut bytes, other, changes): (Vec<u8>, Vec<u8>, Vec<Mutation>)| {
        changes.iter().for_each(|change| apply(&mut bytes, &other, change));
        bytes
    });
    prop_oneof![20 => changed, 1 => prop::collection::vec(any::<u8>(), 0..300)].prop_map(Input)
}

/// The result of a run.
#[derive(Debug, Default, Clone, Copy)]
struct Outcome {
    /// Number of accepted inputs.
    accepted: u32,
    /// The longest time of one input, and the length of this input in bytes.
    slowest: (Duration, usize),
}

fn run(name: &str, target: Target, cases: u32, seed: u64) -> Outcome {
    let config = Config {
        cases,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        // A failing input is printed, and must be added to the corpus.
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let outcome = std::cell::Cell::new(Outcome::default());
    let mut runner = TestRunner::new(config);
    let done = runner.run(&inputs(corpus(name).into_iter().map(|(_, bytes)| bytes).collect()), |bytes| {
        let begin = Instant::now();
        let accepted = target(&bytes.0);
        let Outcome { accepted: before, slowest } = outcome.get();
        outcome.set(Outcome {
            accepted: before + u32::from(accepted),
            slowest: slowest.max((begin.elapsed(), bytes.0.len())),
        });
        Ok(())
    });
    if let Err(error) = done {
        panic!("the target {name}, seed {seed}: {error}");
    }
    outcome.get()
}

/// Runs a target on changed inputs of its corpus.
fn fuzz(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let Some(seconds) = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()) else {
        // Fewer cases for YAML, because it takes milliseconds. Few documents survive a change, so perhaps none is accepted.
        let (cases, least) = if name == "document" { (CASES / 10, 0) } else { (CASES, 1) };
        let accepted = run(name, *target, cases, 1).accepted;
        assert!(
            (least..cases).contains(&accepted),
            "{accepted} of {cases} inputs were accepted, which proves little"
        );
        return;
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (mut cases, mut accepted, mut slowest) = (0u64, 0u64, (Duration::ZERO, 0));
    while Instant::now() < end {
        seed = seed.wrapping_add(1);
        cases += 1000;
        let outcome = run(name, *target, 1000, seed);
        accepted += u64::from(outcome.accepted);
        slowest = slowest.max(outcome.slowest);
    }
    let (time, len) = slowest;
    println!("{name}: {cases} inputs, {accepted} accepted, at most {time:.1?} (for {len} bytes)");
}

macro_rules! fuzz {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            assert!(TARGETS.iter().all(|(name, _)| run.contains(name)) && run.len() == TARGETS.len());
        }
    };
}

fuzz!(batch bencode claims gate item link magnet manifest document message metainfo offers page pointer query record safetensors);
