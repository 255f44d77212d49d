//! The file system as programs see it: names, attributes, errors.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::rig::{PIECE, Rig, within};
use crate::support::fixtures::noise;
use crate::support::process::{Finished, PATIENCE};

#[test]
fn metadata_fetches_nothing() {
    let rig = Rig::new();
    // No peer has it, so any fetch would hang.
    let model =
        rig.model("org/model", &[("a/b/c", noise(1, 3 * PIECE)), ("d", noise(2, 10)), ("e", Vec::new())]);
    rig.publish(&[&model]);
    let script = "find . | sort && du -s --apparent-size -b . && du -s . && stat -f . >&2 && ls -laR >&2";
    let mut shell = Command::new("sh");
    let printed = Finished::of(shell.args(["-c", script]).current_dir(rig.point()), PATIENCE).ok();
    let lines: Vec<_> = printed.lines().collect();
    let tree = [".", "./org", "./org/model", "./org/model/a", "./org/model/a/b", "./org/model/a/b/c"];
    assert_eq!(lines[..6], tree);
    assert_eq!(lines[6..8], ["./org/model/d", "./org/model/e"]);
    assert_eq!(lines[8], format!("{}\t.", 3 * PIECE + 10));
    assert_eq!(
        lines[9], "1\t.",
        "nothing is cached; each of the two files that are not empty reports one block"
    );
    assert!(rig.swarm.calls().is_empty(), "the engine was called");
    assert_eq!(rig.mounted().counters().reads(), 0);
}

#[test]
fn absent_names_fail_immediately() {
    let rig = Rig::new();
    let model = rig.model("org/model", &[("a", noise(1, 10))]);
    rig.publish(&[&model]);
    let point = rig.point();
    within(Duration::from_secs(20), move || {
        for path in
            ["absent", "org/nothing", "org/model@v9", "org/model/b", "datasets/org/model", ".git/config"]
        {
            assert_eq!(
                std::fs::metadata(point.join(path)).unwrap_err().kind(),
                ErrorKind::NotFound,
                "{path}"
            );
        }
        let below_a_file = std::fs::metadata(point.join("org/model/a/b")).unwrap_err();
        assert_eq!(below_a_file.kind(), ErrorKind::NotADirectory);
    });
}

#[test]
fn nothing_can_be_written() {
    let rig = Rig::new();
    let model = rig.shared_model("org/model", &[("a", noise(1, 10)), ("dir/b", noise(2, 10))]);
    rig.publish(&[&model]);
    let file = rig.path("org/model/a");
    let read_only = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(Errno::from_io_error(&error), Some(Errno::ROFS), "{what}");
    };
    read_only("open for writing", OpenOptions::new().write(true).open(&file).map(drop));
    read_only("open for both", OpenOptions::new().read(true).write(true).open(&file).map(drop));
    read_only("create", File::create(rig.path("org/model/new")).map(drop));
    read_only("create above models", File::create(rig.path("new")).map(drop));
    read_only("mkdir", std::fs::create_dir(rig.path("org/model/new")));
    read_only("unlink", std::fs::remove_file(&file));
    read_only("rmdir", std::fs::remove_dir(rig.path("org/model/dir")));
    read_only("rename", std::fs::rename(&file, rig.path("org/model/c")));
    read_only("link", std::fs::hard_link(&file, rig.path("org/model/c")));
    read_only("symlink", std::os::unix::fs::symlink("a", rig.path("org/model/c")));
    read_only("chmod", std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)));
    let flags = rustix::fs::XattrFlags::empty();
    read_only("setxattr", rustix::fs::setxattr(&file, "user.x", b"y", flags).map_err(Into::into));
    read_only("removexattr", rustix::fs::removexattr(&file, "user.silmaril.sha256").map_err(Into::into));
}

#[test]
fn files_and_revisions_have_extended_attributes() {
    let rig = Rig::new();
    let model = rig.shared_model("org/model@v1", &[("dir/a", noise(1, 2 * PIECE)), ("b", noise(2, 10))]);
    rig.publish(&[&model]);
    let script = "import os, sys\n\
                  for p in sys.argv[1:]:\n\
                  \x20 for n in sorted(os.listxattr(p)): print(n, os.getxattr(p, n).decode())\n\
                  try: os.getxattr(sys.argv[1], 'user.other')\n\
                  except OSError as e: print(e.errno == 61)";
    let mut python = Command::new("python3");
    python.args(["-c", script]).args([rig.path("org/model/dir/a"), rig.path("org/model@v1")]);
    let printed = Finished::of(&mut python, PATIENCE).ok();
    let entry = model.revision.manifest.files.iter().find(|f| f.path == "dir/a").unwrap();
    let (info_hash, publisher) = (model.info_hash, model.revision.manifest.publisher.unwrap());
    let expected = format!(
        "user.silmaril.cached_bytes 0\nuser.silmaril.info_hash {info_hash}\nuser.silmaril.pieces_root {}\n\
         user.silmaril.proof piece\nuser.silmaril.publisher {publisher}\nuser.silmaril.sha256 {}\nuser.silmaril.cached_bytes 0\n\
         user.silmaril.info_hash {info_hash}\nuser.silmaril.publisher {publisher}\nuser.silmaril.revision v1\nTrue\n",
        entry.pieces_root.unwrap(),
        entry.sha256.unwrap()
    );
    assert_eq!(printed, expected);
    let path = rig.path("org/model/dir/a");
    within(PATIENCE, move || std::fs::read(path).unwrap());
    let mut buffer = [0; 64];
    let len =
        rustix::fs::getxattr(rig.path("org/model/dir/a"), "user.silmaril.cached_bytes", &mut buffer[..])
            .unwrap();
    assert_eq!(&buffer[..len], (2 * PIECE).to_string().as_bytes());
}

#[test]
fn blocks_and_free_space_show_cached_bytes() {
    let rig = Rig::new();
    let model = rig.shared_model("org/model", &[("a", noise(1, 100 * PIECE)), ("b", noise(2, 100 * PIECE))]);
    rig.publish(&[&model]);
    let (a, b) = (rig.path("org/model/a"), rig.path("org/model/b"));
    let all = 200 * PIECE as u64;
    let free = || {
        let stat = rustix::fs::statvfs(rig.point()).unwrap();
        assert_eq!(stat.f_blocks * stat.f_frsize, all);
        assert_eq!((stat.f_bavail, stat.f_namemax), (0, 255));
        stat.f_bfree * stat.f_frsize
    };
    assert_eq!(free(), all);
    assert_eq!(std::fs::metadata(&a).unwrap().blocks(), 1);
    let path = a.clone();
    within(PATIENCE, move || std::fs::read(path).unwrap());
    assert_eq!(free(), all - 100 * PIECE as u64);
    assert_eq!(std::fs::metadata(&b).unwrap().blocks(), 1);
    // The kernel may cache the attributes of an incomplete file for a second.
    let blocks = within(Duration::from_secs(20), move || {
        loop {
            let blocks = std::fs::metadata(&a).unwrap().blocks();
            if blocks > 1 {
                return blocks;
            }
            std::thread::yield_now();
        }
    });
    assert_eq!(blocks * 512, 100 * PIECE as u64);
}

#[test]
fn sparse_archives_and_copies_contain_uncached_bytes() {
    let rig = Rig::new();
    let model = rig.shared_model("org/model", &[("a", noise(1, 3_000_001)), ("b", noise(2, 3_000_001))]);
    rig.publish(&[&model]);
    let out = rig.dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let script = r#"tar --create --sparse --file="$2/a.tar" --directory="$1" a
                    tar --extract --file="$2/a.tar" --directory="$2"
                    cp --sparse=auto "$1/b" "$2/b"
                    wc -c < "$2/a.tar""#;
    let mut shell = Command::new("sh");
    shell.args(["-ec", script, "sh"]).args([rig.path("org/model"), out.clone()]);
    let archived: usize = Finished::of(&mut shell, PATIENCE).ok().trim().parse().unwrap();
    assert!(archived > 3_000_001, "the archive has {archived} bytes");
    for (path, bytes) in &model.files {
        assert!(std::fs::read(out.join(path)).unwrap() == **bytes, "{path}");
    }
}

#[test]
fn an_uncached_file_is_data_up_to_its_end() {
    let rig = Rig::new();
    let size = 3 * PIECE as u64 + 1;
    let model = rig.model("org/model", &[("a", noise(1, size as usize)), ("empty", Vec::new())]);
    rig.publish(&[&model]);
    let file = File::open(rig.path("org/model/a")).unwrap();
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(SeekFrom::Data(0)), Ok(0));
    assert_eq!(seek(SeekFrom::Data(PIECE as u64)), Ok(PIECE as u64));
    assert_eq!(seek(SeekFrom::Hole(0)), Ok(size));
    assert_eq!(seek(SeekFrom::Data(size)), Err(Errno::NXIO));
    let empty = std::fs::metadata(rig.path("org/model/empty")).unwrap();
    assert_eq!((empty.len(), empty.blocks()), (0, 0));
    assert_eq!(rig.mounted().counters().reads(), 0);
}

#[test]
fn a_large_directory_is_listed_completely() {
    let rig = Rig::new();
    let names: Vec<String> = (0..5000).map(|n| format!("shards/model-{n:05}-of-05000.safetensors")).collect();
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|n| (n.as_str(), n.as_bytes().to_vec())).collect();
    let model = rig.model("org/model", &files);
    rig.publish(&[&model]);
    let dir = rig.path("org/model/shards");
    let listed: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed.len(), 5000);
    let expected: BTreeSet<String> = names.iter().map(|n| n["shards/".len()..].to_owned()).collect();
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
    // `ls -l` also reads the attributes of each file.
    let mut ls = Command::new("ls");
    let lines = Finished::of(ls.args(["-l", "--time-style=+%s"]).arg(&dir), PATIENCE).ok();
    assert_eq!(lines.lines().count(), 5001);
    assert!(
        lines.lines().skip(1).all(|l| l.starts_with("-r--r--r-- 1 ") && l.contains(" 1709208000 ")),
        "{lines}"
    );
}

#[test]
fn publishing_does_not_disturb_an_open_directory() {
    let rig = Rig::new();
    let names: Vec<String> = (0..3000).map(|n| format!("org/m{n:05}")).collect();
    let models: Vec<_> = names.iter().map(|n| rig.model(n, &[("f", vec![1])])).collect();
    let refs: Vec<_> = models.iter().collect();
    rig.publish(&refs);
    let mut dir = std::fs::read_dir(rig.path("org")).unwrap();
    let mut seen: Vec<_> = dir.by_ref().take(10).map(|e| e.unwrap().file_name()).collect();
    rig.publish(&refs[1000..]);
    seen.extend(dir.map(|e| e.unwrap().file_name()));
    assert_eq!(seen.len(), 3000);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3000);
    assert_eq!(std::fs::read_dir(rig.path("org")).unwrap().count(), 2000);
}

#[test]
fn inodes_are_kept_and_removal_is_visible_soon() {
    let rig = Rig::new();
    let (a, b) = (rig.model("org/a", &[("dir/f", vec![1])]), rig.model("org/b", &[("f", vec![2])]));
    rig.publish(&[&a, &b]);
    let ino = |path: &str| std::fs::metadata(rig.path(path)).unwrap().ino();
    let before = ["org", "org/a", "org/a/dir/f", "org/b/f"].map(ino);
    let c = rig.model("org/0", &[("f", vec![3])]);
    rig.publish(&[&b, &c, &a]);
    assert_eq!(["org", "org/a", "org/a/dir/f", "org/b/f"].map(ino), before);
    rig.publish(&[&b]);
    let gone = rig.path("org/a/dir/f");
    // The kernel caches names above the models for a second.
    within(Duration::from_secs(20), move || {
        while std::fs::metadata(&gone).is_ok() {
            std::thread::yield_now();
        }
    });
    assert_eq!(ino("org/b/f"), before[3]);
    // A new model is found immediately.
    let d = rig.model("org/d", &[("f", vec![4])]);
    rig.publish(&[&b, &d]);
    assert!(rig.path("org/d/f").exists());
}

#[test]
fn links_lead_to_the_revision() {
    let rig = Rig::new();
    let lone = rig.shared_model("org/lone@v1", &[("f", b"lone".to_vec())]);
    let main = rig.shared_model("org/model", &[("f", b"main".to_vec())]);
    let v2 = rig.shared_model("org/model@v2", &[("f", b"v2".to_vec())]);
    rig.publish(&[&lone, &main, &v2]);
    let point = rig.point();
    within(PATIENCE, move || {
        let text = |path: &str| std::fs::read_to_string(point.join(path)).unwrap();
        assert_eq!((text("org/lone/f"), text("org/lone@v1/f")), ("lone".into(), "lone".into()));
        assert_eq!(text("org/model/f"), "main");
        assert_eq!((text("org/model@main/f"), text("org/model@v2/f")), ("main".into(), "v2".into()));
    });
}
