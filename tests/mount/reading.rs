//! Reads through the mount return the published bytes in every way of reading, and fetch no more than they need.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::rig::{PIECE, Rig, within};
use crate::support::fixtures::{hashes, noise};
use crate::support::process::{Finished, PATIENCE};
use crate::support::swarm::Delivery;

#[test]
fn every_file_has_the_published_bytes() {
    let rig = Rig::new();
    let model = rig.shared_model(
        "org/model",
        &[
            ("config.json", b"{}".to_vec()),
            ("empty", Vec::new()),
            ("onnx/model.onnx", noise(1, 5 * PIECE)),
            ("onnx/quantized/model.onnx", noise(2, PIECE + 1)),
            ("weights", noise(3, 40 * PIECE - 1)),
        ],
    );
    rig.publish(&[&model]);
    assert_eq!(hashes(&rig.path("org/model"), PATIENCE), model.hashes());
    // The second time from the cache.
    assert_eq!(hashes(&rig.path("org/model"), PATIENCE), model.hashes());
    assert!(model.revision.is_complete());
}

#[test]
fn only_what_is_read_is_fetched() {
    let rig = Rig::new();
    let model = rig.shared_model("org/model", &[("weights", noise(3, 1024 * PIECE))]);
    rig.publish(&[&model]);
    let path = rig.path("org/model/weights");
    within(PATIENCE, move || {
        let mut buffer = [0; 100];
        File::open(path).unwrap().read_exact_at(&mut buffer, 500 * PIECE as u64).unwrap();
    });
    let cached = model.revision.cached_bytes();
    // The kernel reads ahead 2 MiB at most, and so does the scheduler with these settings.
    assert!(cached >= PIECE as u64 && cached <= 4 * 1024 * 1024, "{cached} bytes were fetched for 100");
}

#[test]
fn concurrent_random_reads_return_the_right_bytes() {
    let rig = Rig::new();
    let bytes = noise(7, 200 * PIECE + 777);
    let model = rig.shared_model("org/model", &[("weights", bytes.clone())]);
    rig.swarm.delivery(Delivery::After(Duration::from_millis(5)));
    rig.publish(&[&model]);
    let path = rig.path("org/model/weights");
    within(PATIENCE, move || {
        let (file, bytes) = (File::open(path).unwrap(), Arc::new(bytes));
        // All threads share one handle, as loaders do.
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (file, bytes) = (&file, bytes.clone());
                scope.spawn(move || {
                    let places = noise(100 + thread, 16 * 60);
                    for place in places.chunks(16) {
                        let (offset, len) = place.split_at(8);
                        let offset =
                            u64::from_le_bytes(offset.try_into().unwrap()) % (bytes.len() as u64 + 99);
                        let len = u64::from_le_bytes(len.try_into().unwrap()) as usize % (3 * PIECE);
                        let mut buffer = vec![0; len];
                        let mut filled = 0;
                        while filled < len {
                            match file.read_at(&mut buffer[filled..], offset + filled as u64).unwrap() {
                                0 => break,
                                n => filled += n,
                            }
                        }
                        let start = (offset as usize).min(bytes.len());
                        let end = (offset as usize + len).min(bytes.len());
                        assert!(buffer[..filled] == bytes[start..end], "{len} bytes at {offset} differ");
                    }
                });
            }
        });
    });
}

#[test]
fn memory_maps_return_the_bytes() {
    let rig = Rig::new();
    let bytes = noise(9, 64 * PIECE + 5);
    let model = rig.shared_model("org/model", &[("weights", bytes)]);
    rig.publish(&[&model]);
    let script = "import hashlib, mmap, sys\n\
                  with open(sys.argv[1], 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:\n\
                  \x20 order = list(range(0, len(m), 100_000))\n\
                  \x20 for start in reversed(order): m[start]\n\
                  \x20 print(hashlib.sha256(m).hexdigest())";
    let mut python = Command::new("python3");
    let printed = Finished::of(python.args(["-c", script]).arg(rig.path("org/model/weights")), PATIENCE).ok();
    assert_eq!(printed.trim(), model.hashes()["weights"]);
}

#[test]
fn direct_reads_return_the_bytes() {
    let rig = Rig::new();
    let model = rig.shared_model("org/model", &[("weights", noise(11, 100 * PIECE + 123))]);
    rig.publish(&[&model]);
    let script = format!(
        "dd if={} iflag=direct bs=4M status=none | sha256sum",
        rig.path("org/model/weights").display()
    );
    let printed = Finished::of(Command::new("sh").args(["-c", &script]), PATIENCE).ok();
    assert_eq!(printed.split(' ').next(), Some(model.hashes()["weights"].as_str()));
}

#[test]
fn a_second_reader_is_served_by_the_page_cache() {
    let rig = Rig::new();
    let model =
        rig.shared_model("org/model", &[("weights", noise(13, 30 * PIECE)), ("other", noise(14, PIECE))]);
    rig.publish(&[&model]);
    // Held open, so that the second read, of a file that is complete by then, still uses the page cache.
    let held = File::open(rig.path("org/model/weights")).unwrap();
    let read = || {
        let path = rig.path("org/model/weights");
        within(PATIENCE, move || std::fs::read(path).unwrap().len())
    };
    assert_eq!(read(), 30 * PIECE);
    let first = rig.mounted().counters().reads();
    assert!(first > 0);
    assert_eq!(read(), 30 * PIECE);
    assert_eq!(rig.mounted().counters().reads(), first, "the page cache was dropped between two opens");
    drop(held);
}

#[test]
fn a_file_can_be_read_while_it_becomes_complete() {
    let rig = Rig::new();
    let bytes = noise(15, 20 * PIECE);
    let model = rig.shared_model("org/model", &[("weights", bytes.clone())]);
    rig.publish(&[&model]);
    let path = rig.path("org/model/weights");
    within(PATIENCE, move || {
        let early = File::open(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        // One handle from before the file was complete, one from after, and one after both are closed.
        let late = File::open(&path).unwrap();
        let mut buffer = vec![0; PIECE];
        for file in [&early, &late] {
            file.read_exact_at(&mut buffer, 3 * PIECE as u64).unwrap();
            assert!(buffer == bytes[3 * PIECE..4 * PIECE]);
        }
        drop((early, late));
        assert!(std::fs::read(&path).unwrap() == bytes);
        let again = File::open(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        again.read_exact_at(&mut buffer, 0).unwrap();
        assert!(buffer == bytes[..PIECE]);
    });
}
