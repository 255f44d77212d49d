//! Files that are damaged on the disk after they were verified, in a shared directory and in the cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::absent_disk::{piece, problems, read};
use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, until};
use crate::support::share::{import, share};

const PIECE: usize = 1 << 20;
const IMPATIENT: &str = "\nmount:\n  read_timeout: 4s\n";

/// The only data file of a host's cache.
fn cached(host: &Host) -> PathBuf {
    let below =
        |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let files = below(&host.base().join("cache")).into_iter().flat_map(|dir| below(&dir));
    let mut data: Vec<_> = files.filter(|path| !path.to_str().unwrap().contains(".have")).collect();
    assert_eq!(data.len(), 1, "{data:?}");
    data.remove(0)
}

/// Overwrites bytes of a piece in place. With `quietly`, restores the modification time afterwards.
fn overwrite(path: &Path, piece: usize, quietly: bool) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0x55; 1000], (piece * PIECE + 70_000) as u64).unwrap();
    if quietly {
        file.set_modified(time).unwrap();
    }
}

fn has_damage(host: &Host) -> bool {
    problems(host).iter().any(|problem| problem.contains("damaged"))
}

/// The log of a host's daemon.
fn log(host: &Host) -> String {
    let logs = std::fs::read_dir(host.base().join("log")).unwrap();
    logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect()
}

/// Makes it look as if the machine of a host had stopped while its daemon ran.
fn pretend_power_cut(host: &Host) {
    let path = host.base().join("scrub.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    saved["boot"] = "00".repeat(16).into();
    saved["open"] = true.into();
    // No pass of the background check is recorded.
    saved["passes"] = serde_json::json!({});
    std::fs::write(&path, saved.to_string()).unwrap();
}

#[test]
fn a_seeder_withdraws_pieces_overwritten_in_place() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    b.configure(IMPATIENT);
    // The model is long and is read from its end, so that read-ahead does not fetch the pieces that are read later.
    let bytes = noise(1, 96 * PIECE);
    let right = |number: usize| &bytes[number * PIECE..(number + 1) * PIECE];
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let file = mounted.path("acme/m/w.bin");
    assert!(piece(&file, 90) == right(90));
    let source = dir.join("w.bin");
    let original = std::fs::read(&source).unwrap();

    // When the modification time has changed, the file is proved before anything more of it is sent.
    overwrite(&source, 70, false);
    until("the damage is reported", PATIENCE, || has_damage(&a));
    until("the other pieces are seeded", PATIENCE, || read(&file, 50).status.success());
    assert!(piece(&file, 50) == right(50));
    assert!(!read(&file, 70).status.success());
    assert!(!log(&b).contains("bad data"), "no wrong byte was sent");

    // The owner restores the file.
    File::options().write(true).open(&source).unwrap().write_all_at(&original, 0).unwrap();
    until("it is right again", PATIENCE, || problems(&a).is_empty());
    until("all pieces are seeded", PATIENCE, || read(&file, 70).status.success());
    assert!(piece(&file, 70) == right(70));

    // When only the change time differs, each part is proved before it is sent.
    overwrite(&source, 30, true);
    assert!(!read(&file, 30).status.success());
    until("the damage is reported", PATIENCE, || has_damage(&a));
    assert!(piece(&file, 10) == right(10));
    assert!(!log(&b).contains("bad data"), "no wrong byte was sent");
    drop(shared);

    // A daemon that restarts remembers the damage, and reads no bytes of the file.
    let daemon = a.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    until("the damage is still known", PATIENCE, || has_damage(&a));
    mounted.unmount();
}

#[test]
fn a_restarted_seeder_reads_none_of_its_files() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let bytes = noise(2, 96 * PIECE);
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    drop(shared);
    let daemon = a.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let mounted = b.mount(&["--peer", &a.peer()]);
    assert!(piece(&mounted.path("acme/m/w.bin"), 50) == bytes[50 * PIECE..51 * PIECE]);
    // Bytes that the process has read with any system call, from connections included.
    let io = std::fs::read_to_string(format!("/proc/{}/io", a.node().as_raw_nonzero())).unwrap();
    let read: u64 = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap();
    assert!(read < 32 * PIECE as u64, "{read}");
    mounted.unmount();
}

#[test]
fn a_node_with_a_damaged_cache_withdraws_requested_pieces() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    c.configure(IMPATIENT);
    let bytes = noise(3, 6 * PIECE);
    let right = |number: usize| &bytes[number * PIECE..(number + 1) * PIECE];
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    import(&c, &shared.manifest);
    let (at_b, at_c) = (b.mount(&["--peer", &a.peer()]), c.mount(&["--peer", &b.peer()]));
    let (of_b, of_c) = (at_b.path("acme/m/w.bin"), at_c.path("acme/m/w.bin"));
    for number in 0..6 {
        assert!(piece(&of_b, number) == right(number));
    }
    drop(shared);
    a.power_off();
    overwrite(&cached(&b), 2, false);
    assert!(piece(&of_c, 1) == right(1));
    // The first uploaded bytes are wrong. The requests that follow detect that.
    until("the damage is reported", PATIENCE, || {
        assert!(!read(&of_c, 2).status.success());
        has_damage(&b)
    });
    assert!(piece(&of_c, 3) == right(3));
    // The reader on the damaged host gets the piece from a peer again.
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    until("the piece is fetched again", PATIENCE, || read(&of_b, 2).status.success());
    assert!(piece(&of_b, 2) == right(2));
    drop(shared);
    at_c.unmount();
    at_b.unmount();
}

#[test]
fn after_a_power_cut_no_wrong_byte_is_sent() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    b.configure(IMPATIENT);
    let files = [("v.bin", noise(4, 4 * PIECE)), ("w.bin", noise(5, 4 * PIECE))];
    let contents: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let dir = model_dir(&a.home().join("m"), &contents);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    drop(shared);
    let record = std::fs::read_dir(a.base().join("resume")).unwrap().map(|entry| entry.unwrap().path());
    let record = record.into_iter().find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
    // The damage changes no time stamp.
    for name in ["v.bin", "w.bin"] {
        overwrite(&dir.join(name), 2, true);
    }
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    for file in json["places"][0]["files"].as_array_mut().unwrap() {
        file.as_object_mut().unwrap().remove("changed_ns").unwrap();
    }
    std::fs::write(&record, json.to_string()).unwrap();
    pretend_power_cut(&a);
    let daemon = a.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let file = mounted.path("acme/m/w.bin");
    assert!(piece(&file, 1) == files[1].1[PIECE..2 * PIECE]);
    assert!(!read(&file, 2).status.success());
    assert!(!log(&b).contains("bad data"), "no wrong byte was sent");
    // No reader requests the other file.
    until("the background check has found both", PATIENCE, || {
        let found = problems(&a);
        ["v.bin", "w.bin"].iter().all(|name| found.iter().any(|problem| problem.contains(name)))
    });
    mounted.unmount();
}

#[test]
fn an_open_handle_does_not_show_damage_to_later_readers() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let bytes = noise(7, 3 * PIECE);
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let file = mounted.path("acme/m/w.bin");
    for quietly in [false, true] {
        assert!(std::fs::read(&file).unwrap() == bytes);
        let open = File::open(&file).unwrap();
        overwrite(&cached(&b), 1, quietly);
        // The kernel may read the inode directly from the damaged file until the handle is closed: then this is an error.
        if let Ok(read) = std::fs::read(&file) {
            assert!(read == bytes, "wrong bytes, {quietly}");
        }
        drop(open);
        until("it is read right", PATIENCE, || std::fs::read(&file).is_ok_and(|read| read == bytes));
    }
    // A deleted file keeps its bytes while it is open.
    let open = File::open(&file).unwrap();
    std::fs::remove_file(cached(&b)).unwrap();
    assert!(std::fs::read(&file).unwrap() == bytes);
    drop(open);
    assert!(std::fs::read(&file).unwrap() == bytes);
    mounted.unmount();
}

#[test]
fn a_changed_or_deleted_cache_file_is_read_right() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let bytes = noise(6, 3 * PIECE + 12_345);
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &bytes)]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let set_len = |len: usize| {
        File::options().write(true).open(cached(&b)).unwrap().set_len(len as u64).unwrap();
    };
    let damages: [&dyn Fn(); 6] = [
        &|| set_len(bytes.len() + 1),
        &|| set_len(bytes.len() - 1),
        &|| set_len(0),
        &|| overwrite(&cached(&b), 1, false),
        &|| std::fs::remove_file(cached(&b)).unwrap(),
        &|| (),
    ];
    for running in [true, false] {
        for (number, damage) in damages.iter().enumerate() {
            let mounted = b.mount(&["--peer", &a.peer()]);
            let whole = |path: &Path| std::fs::read(path).unwrap() == bytes;
            let file = mounted.path("acme/m/w.bin");
            assert!(whole(&file), "before damage {number}");
            if running {
                damage();
                assert!(whole(&file), "after damage {number} while it ran");
                mounted.unmount();
            } else {
                mounted.unmount();
                damage();
            }
        }
    }
    drop(shared);
}
