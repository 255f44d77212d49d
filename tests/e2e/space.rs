//! A cache that is smaller than the model: its limits hold, and every read returns the right bytes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::mounts;
use crate::support::net::{Net, sh};
use crate::support::process::{Finished, PATIENCE, Proc, until};
use crate::support::share::{Share, import, share};

pub const MIB: u64 = 1 << 20;
const NAME: &str = "acme/m";

/// Watches a directory until it is dropped: the most bytes that the directory has occupied, and the least free space
/// of its file system.
pub struct Watch {
    most: Arc<AtomicU64>,
    least_free: Arc<AtomicU64>,
    /// The sizes of the directory's entries at the moment of the least free space.
    then: Arc<Mutex<String>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn of(dir: PathBuf) -> Self {
        let (most, least_free) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let (ends, then) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(String::new())));
        let (seen_most, seen_least, ending) = (most.clone(), least_free.clone(), ends.clone());
        let seen_then = then.clone();
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                seen_most.fetch_max(allocated(&dir), Ordering::Relaxed);
                let free = free(&dir);
                if free < seen_least.fetch_min(free, Ordering::Relaxed) {
                    *seen_then.lock().unwrap() = occupants(&dir);
                }
                std::thread::yield_now();
            }
        });
        Self { most, least_free, then, ends, thread: Some(thread) }
    }

    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Fails if fewer bytes than this were free at any time.
    #[track_caller]
    fn left_free(&self, bytes: u64) {
        let least = self.least_free.load(Ordering::Relaxed);
        assert!(least >= bytes, "{least} bytes were free, next to {}", self.then.lock().unwrap());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// The bytes that each entry of a directory occupies.
fn occupants(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| format!("{:?} {}", entry.file_name(), allocated(&entry.path()));
    entries.map(of).collect::<Vec<_>>().join(", ")
}

/// The bytes of the disk that the files below a directory occupy.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => allocated(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// Free bytes of the file system that holds a directory.
pub fn free(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |stat| stat.f_bavail * stat.f_frsize)
}

/// A host that shares a model of one file of `mib` MiB, and one that knows the model and has this cache
/// configuration.
fn hosts(net: &Net, mib: u64, cache: &str) -> (Host, Host, Share) {
    let (a, b) = (net.host("a"), net.host("b"));
    let bytes = noise(mib, (mib * MIB) as usize);
    let shared =
        share(&a, &model_dir(&a.home().join("m"), &[("w.bin", &bytes)]), NAME, &["--piece-length", "1MiB"]);
    b.configure(&format!("cache:\n  {cache}\n"));
    (a, b, shared)
}

/// Puts the base directory of a host on a file system of its own, except its log, which a full disk would truncate.
pub fn on_tmpfs(host: &Host, mib: u64) {
    let base = host.base();
    sh(&format!("mkdir -p {0} && mount -t tmpfs -o size={mib}m tmpfs {0}", base.display()));
    log_apart(host);
}

fn on_ext4(host: &Host, mib: u64) {
    let image = host.home().join("disk.img");
    sh(&format!(
        "truncate -s {mib}M {0} && mkfs.ext4 -q -m 0 {0} && mkdir -p {1} && mount -o loop {0} {1}",
        image.display(),
        host.base().display()
    ));
    log_apart(host);
}

fn log_apart(host: &Host) {
    let (apart, log) = (host.home().join("log"), host.base().join("log"));
    sh(&format!("mkdir -m 700 {0} {1} && mount --bind {0} {1}", apart.display(), log.display()));
}

/// Compares a file with another in another process, without the kernel's page cache.
fn is_right(file: &Path, expected: &Path) {
    let mut forget = Command::new("dd");
    forget.args(["iflag=nocache", "count=0", "of=/dev/null"]).arg(format!("if={}", file.display()));
    Finished::of(&mut forget, PATIENCE).ok();
    Finished::of(Command::new("cmp").arg(file).arg(expected), 4 * PATIENCE).ok();
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap()
}

#[test]
fn a_file_larger_than_max_size_is_read_twice_in_the_limit() {
    let net = Net::new();
    let (a, b, shared) = hosts(&net, 96, "max_size: 16MiB\n  min_free: 0");
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let watch = Watch::of(b.base().join("cache"));
    for _ in 0..2 {
        is_right(&mounted.path("acme/m/w.bin"), &a.home().join("m/w.bin"));
    }
    assert!(watch.most() <= 24 * MIB, "{} bytes in a cache of 16 MiB", watch.most());
    assert!(watch.most() >= 8 * MIB, "{} bytes: the cache was not used", watch.most());
    assert_eq!(status(&b)["space"], Value::Null);
    mounted.unmount();
}

#[test]
fn min_free_stays_free_while_a_larger_file_is_read() {
    for prepare in [on_tmpfs, on_ext4] {
        let net = Net::new();
        let (a, b, shared) = hosts(&net, 96, "max_size: 1GiB\n  min_free: 16MiB");
        prepare(&b, 64);
        import(&b, &shared.manifest);
        let mounted = b.mount(&["--peer", &a.peer()]);
        let watch = Watch::of(b.base());
        for _ in 0..2 {
            is_right(&mounted.path("acme/m/w.bin"), &a.home().join("m/w.bin"));
        }
        watch.left_free(16 * MIB);
        assert!(watch.most() >= 16 * MIB, "the cache was not used: {}", watch.most());
        mounted.unmount();
        mounts::detach_below(&b.base());
    }
}

#[test]
fn reads_without_a_free_byte_are_right() {
    let net = Net::new();
    let (a, b, shared) = hosts(&net, 96, "max_size: 1GiB\n  min_free: 16MiB");
    on_tmpfs(&b, 64);
    import(&b, &shared.manifest);
    let filler = fill(&b);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let (file, expected) = (mounted.path("acme/m/w.bin"), a.home().join("m/w.bin"));
    let mut readers: Vec<Proc> =
        (0..8).map(|_| Proc::spawn(Command::new("cmp").arg(&file).arg(&expected))).collect();
    for reader in &mut readers {
        assert!(reader.wait(4 * PATIENCE).success(), "a reader got wrong bytes or an error");
    }
    assert_eq!(allocated(&b.base().join("cache")), 0);
    assert_eq!(status(&b)["space"]["files"], 1);
    assert!(b.run(&["status"]).ok().contains("read through memory"));

    std::fs::remove_file(&filler).unwrap();
    until("the file leaves memory", PATIENCE, || status(&b)["space"] == Value::Null);
    is_right(&file, &expected);
    assert!(allocated(&b.base().join("cache")) >= 16 * MIB);
    assert!(free(&b.base()) >= 16 * MIB);
    mounted.unmount();
}

/// Fills the file system of a host's base directory to the last byte.
pub fn fill(host: &Host) -> PathBuf {
    let filler = host.base().join("filler");
    let mut fill = Command::new("dd");
    fill.args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", filler.display()));
    Finished::of(&mut fill, PATIENCE);
    assert_eq!(free(&host.base()), 0);
    filler
}

#[test]
fn a_model_that_is_not_known_is_read_without_a_free_byte() {
    for was_used in [true, false] {
        let net = Net::new();
        let (a, b, shared) = hosts(&net, 32, "max_size: 1GiB\n  min_free: 16MiB");
        on_tmpfs(&b, 64);
        if was_used {
            b.mount(&["--peer", &a.peer()]).unmount();
            b.run(&["stop"]);
        } else {
            b.run(&["init", "--force"]).ok();
        }
        let filler = fill(&b);
        let mounted = b.mount(&["--peer", &a.peer()]);
        let (file, expected) = (mounted.path("acme/m/w.bin"), a.home().join("m/w.bin"));
        is_right(&file, &expected);
        assert_eq!(allocated(&b.base().join("cache")), 0);
        if !was_used {
            mounted.unmount();
            continue;
        }
        // What could not be written is written when there is space again.
        std::fs::remove_file(&filler).unwrap();
        until("the manifest is stored", PATIENCE, || b.base().join("registry/acme/m/main.json").exists());
        mounted.unmount();
        drop(shared);
        a.power_off();
        let again = b.mount(&["--no-resolve"]);
        assert_eq!(std::fs::metadata(again.path("acme/m/w.bin")).unwrap().len(), 32 * MIB);
        again.unmount();
    }
}

#[test]
fn a_file_leaves_memory_while_it_is_read() {
    let net = Net::new();
    let (a, b, shared) = hosts(&net, 96, "max_size: 1GiB\n  min_free: 16MiB");
    on_tmpfs(&b, 64);
    import(&b, &shared.manifest);
    let filler = fill(&b);
    // The read lasts longer than the interval at which space is measured.
    a.limit_rate("25mbit");
    let mounted = b.mount(&["--peer", &a.peer()]);
    let (file, expected) = (mounted.path("acme/m/w.bin"), a.home().join("m/w.bin"));
    let mut reader = Proc::spawn(Command::new("cmp").arg(&file).arg(&expected));
    until("the file is in memory", PATIENCE, || status(&b)["space"]["files"] == 1);
    std::fs::remove_file(&filler).unwrap();
    until("its bytes are cached", PATIENCE, || allocated(&b.base().join("cache")) >= 4 * MIB);
    assert!(reader.wait(4 * PATIENCE).success(), "the reader got wrong bytes or an error");
    mounted.unmount();
}

#[test]
fn a_disk_that_fills_during_a_read_costs_no_read() {
    let net = Net::new();
    let (a, b, shared) = hosts(&net, 48, "max_size: 1GiB\n  min_free: 0");
    on_tmpfs(&b, 64);
    import(&b, &shared.manifest);
    a.limit_rate("200mbit");
    let mounted = b.mount(&["--peer", &a.peer()]);
    let (file, expected) = (mounted.path("acme/m/w.bin"), a.home().join("m/w.bin"));
    let mut reader = Proc::spawn(Command::new("cmp").arg(&file).arg(&expected));
    until("some of it is cached", PATIENCE, || allocated(&b.base().join("cache")) >= 4 * MIB);
    let filler = b.base().join("filler");
    Finished::of(
        Command::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", filler.display())),
        PATIENCE,
    );
    assert!(reader.wait(4 * PATIENCE).success(), "the reader got wrong bytes or an error");
    mounted.unmount();
}

#[test]
fn get_and_warm_report_missing_space_before_they_start() {
    let net = Net::new();
    let (a, b, shared) = hosts(&net, 48, "max_size: 8MiB\n  min_free: 16MiB");
    on_tmpfs(&b, 56);
    import(&b, &shared.manifest);
    let before = b.received();
    let dest = b.base().join("out");
    let refused = b.run(&["get", NAME, "--peer", &a.peer(), "-o", dest.to_str().unwrap()]).error(1);
    assert!(refused.contains("48.0 MiB needed") && refused.contains("cache.min_free"), "{refused}");
    let names = std::fs::read_dir(b.base()).unwrap().map(|entry| entry.unwrap().file_name());
    let partial: Vec<_> = names.filter(|name| name.to_string_lossy().contains("silmaril-partial")).collect();
    assert!(partial.is_empty(), "{partial:?} remains");
    let mounted = b.mount(&["--peer", &a.peer()]);
    let refused = b.run(&["warm", mounted.path(NAME).to_str().unwrap()]).error(1);
    assert!(refused.contains("48.0 MiB needed, 8.00 MiB available (cache.max_size)"), "{refused}");
    mounted.unmount();
    assert!(b.received() - before < 4 * MIB, "{} bytes were received", b.received() - before);
    // In a directory on another file system there is enough space.
    b.run(&["get", NAME, "--peer", &a.peer(), "-o", b.home().join("out").to_str().unwrap()]).ok();
}

#[test]
fn get_fails_when_other_programs_fill_the_disk() {
    let net = Net::new();
    let (a, b, shared) = hosts(&net, 48, "max_size: 8MiB\n  min_free: 4MiB");
    on_tmpfs(&b, 96);
    import(&b, &shared.manifest);
    a.limit_rate("100mbit");
    let dest = b.base().join("out");
    let getting = b.spawn(&["get", NAME, "--peer", &a.peer(), "-o", dest.to_str().unwrap()]);
    until("some of it is stored", PATIENCE, || allocated(&b.base()) >= 8 * MIB);
    let filler = b.base().join("filler");
    let fill = || {
        Command::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", filler.display())).output()
    };
    assert!(!fill().unwrap().status.success(), "the disk is full");
    let failed = getting.finish(PATIENCE);
    assert!(failed.stderr.contains("help: free some space"), "{}", failed.stderr);
    let refused = failed.error(1);
    assert!(refused.contains("needed") && refused.contains("cache.min_free"), "{refused}");
    // When there is space, it continues.
    std::fs::remove_file(&filler).unwrap();
    b.run(&["get", NAME, "--peer", &a.peer(), "-o", dest.to_str().unwrap()]).ok();
    assert!(std::fs::read(dest.join("w.bin")).unwrap() == std::fs::read(a.home().join("m/w.bin")).unwrap());
}
