//! Random sizes, limits, readers and full disks: every byte is right, no read fails, and the cache keeps its limit.
//!
//! `SILMARIL_SPACE_SEED` repeats a run, `SILMARIL_SPACE_SECONDS` sets how long it takes.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::space::{MIB, Watch, free, on_tmpfs};
use crate::support::fixtures::{model_dir, noise};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc};
use crate::support::share::{import, share};

/// The time for which the readers of one round read, in seconds.
const ROUND: u64 = 8;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[test]
fn random_reads_are_right_in_small_caches_and_on_full_disks() {
    let seed = variable("SILMARIL_SPACE_SEED").unwrap_or_else(|| std::process::id().into());
    let until = Instant::now() + Duration::from_secs(variable("SILMARIL_SPACE_SECONDS").unwrap_or(60));
    let mut chance = Chance(seed);
    while Instant::now() < until {
        let round = Round::of(&mut chance);
        eprintln!("SILMARIL_SPACE_SEED={seed}: {round:?}");
        round.run();
    }
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }
}

#[derive(Debug)]
struct Round {
    seed: u64,
    /// Sizes of the files of the model, in bytes.
    sizes: Vec<usize>,
    piece_kib: u64,
    disk_mib: u64,
    max_size_mib: u64,
    min_free_mib: u64,
    readers: u64,
    /// Whether another program fills and empties the disk meanwhile.
    fills: bool,
}

impl Round {
    fn of(chance: &mut Chance) -> Self {
        let files = chance.within(1..=3);
        Self {
            seed: chance.next(),
            sizes: (0..files).map(|_| chance.within(1..=40 << 20) as usize).collect(),
            piece_kib: 16 << chance.within(4..=8),
            disk_mib: chance.within(24..=64),
            max_size_mib: chance.within(2..=64),
            min_free_mib: chance.within(0..=8),
            readers: chance.within(1..=10),
            fills: chance.within(0..=9) < 6,
        }
    }

    fn run(&self) {
        let net = Net::new();
        let (a, b) = (net.host("a"), net.host("b"));
        let bytes: Vec<Vec<u8>> =
            self.sizes.iter().zip(self.seed & 0xffff..).map(|(&size, seed)| noise(seed, size)).collect();
        let names: Vec<String> = (0..bytes.len()).map(|i| format!("{i}.bin")).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(bytes.iter().map(Vec::as_slice)).collect();
        let dir = model_dir(&a.home().join("m"), &files);
        let shared = share(&a, &dir, "acme/m", &["--piece-length", &format!("{}KiB", self.piece_kib)]);
        b.configure(&format!(
            "cache:\n  max_size: {}MiB\n  min_free: {}MiB\nmount:\n  read_timeout: 60s\n",
            self.max_size_mib, self.min_free_mib
        ));
        on_tmpfs(&b, self.disk_mib);
        import(&b, &shared.manifest);
        let mounted = b.mount(&["--peer", &a.peer()]);
        let watch = Watch::of(b.base().join("cache"));
        let filler = self.fills.then(|| Filler::start(b.base(), self.seed));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/space_reader.py");
        let read = |reader: u64| {
            let name = &names[reader as usize % names.len()];
            let mut command = Command::new("/usr/bin/python3");
            command.arg(&script).arg(mounted.path("acme/m").join(name)).arg(dir.join(name));
            Proc::spawn(command.arg((self.seed ^ reader).to_string()).arg(ROUND.to_string()))
        };
        let readers: Vec<Proc> = (0..self.readers).map(read).collect();
        for reader in readers {
            reader.finish(2 * PATIENCE).ok();
        }
        drop(filler);
        let bound = (self.max_size_mib + 8) * MIB;
        assert!(watch.most() <= bound, "{} bytes in a cache of {} MiB", watch.most(), self.max_size_mib);
        mounted.unmount();
    }
}

/// Fills a file system, and empties it again, at random times until it is dropped.
struct Filler {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Filler {
    fn start(dir: PathBuf, seed: u64) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let ending = ends.clone();
        let thread = std::thread::spawn(move || {
            let mut chance = Chance(seed);
            let path = dir.join("filler");
            while !ending.load(Ordering::Relaxed) {
                let pause = Duration::from_millis(chance.within(1..=800));
                let full = chance.within(0..=1) == 0;
                let until = Instant::now() + pause;
                while Instant::now() < until && !ending.load(Ordering::Relaxed) {
                    if full {
                        // It fills all space that is freed.
                        fill(&path, free(&dir));
                    }
                    std::thread::yield_now();
                }
                let _ = std::fs::remove_file(&path);
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

/// Lengthens a file by this number of bytes, or less if the disk is full.
fn fill(path: &Path, bytes: u64) {
    use std::io::Write as _;
    let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) else { return };
    let chunk = vec![0; 1 << 16];
    for _ in 0..bytes.div_ceil(1 << 16) {
        if file.write_all(&chunk).is_err() {
            return;
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}
