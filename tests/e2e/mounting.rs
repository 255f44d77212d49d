//! The mount as a file system: start and end, directories, attributes, and the users who may mount.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::fixtures::{hashes, model_dir, noise, python, wordllama};
use crate::support::mounts::is_mounted;
use crate::support::net::{Net, sh};
use crate::support::process::{Finished, PATIENCE, Proc};
use crate::support::share::{import, share};

const NAME: &str = "dleemiller/wordllama";
const WEIGHTS: &str = "l2_supercat_256.safetensors";

fn shell(script: &str, dir: &Path) -> Finished {
    Finished::of(Command::new("sh").args(["-c", script]).current_dir(dir), PATIENCE)
}

#[test]
fn a_foreground_mount_ends_cleanly_on_signals() {
    let net = Net::new();
    let a = net.host("a");
    let point = a.home().join("mnt");
    std::fs::create_dir(&point).unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 0)] {
        let mut mount = a.spawn(&["mount", point.to_str().unwrap(), "--foreground"]);
        let printed = mount.wait_for_line("mounted", PATIENCE);
        assert!(printed.contains("its log is on standard error"), "{printed}");
        assert!(is_mounted(&point));
        mount.signal(signal);
        assert_eq!(mount.wait(Duration::from_secs(30)).code(), Some(code), "{signal:?}");
        assert!(!is_mounted(&point), "{signal:?} left the mount");
    }
}

#[test]
fn a_background_mount_prints_the_path_of_its_log() {
    let net = Net::new();
    let a = net.host("a");
    let point = a.home().join("mnt");
    std::fs::create_dir(&point).unwrap();
    a.keep_daemon();
    let run = a.run(&["mount", point.to_str().unwrap()]);
    let log = run.stderr.lines().find_map(|line| line.strip_prefix("its log is "));
    let log = log.unwrap_or_else(|| panic!("{}", run.stderr));
    assert!(std::fs::read_to_string(log).unwrap().contains("INFO"), "{log} is not a log");
    a.run(&["unmount", point.to_str().unwrap()]).ok();
}

#[test]
fn a_model_appears_in_the_mount_when_it_becomes_known() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let mounted = b.mount(&["--no-resolve"]);
    assert_eq!(shell("ls -A", mounted.point()).ok(), "");
    let dir = model_dir(&a.home().join("m"), &[("sub/w.bin", &noise(1, 200_000)), ("empty", b"")]);
    for (name, version) in [("acme/m", "main"), ("acme/m", "v2"), ("datasets/acme/d", "main")] {
        let shared = share(&a, &dir, name, &["--version", version, "--piece-length", "64KiB"]);
        let reference = format!("{name}@{version}");
        let file = a.home().join("exported.json");
        a.run(&["registry", "export", &reference, "-o", file.to_str().unwrap()]).ok();
        import(&b, &file);
        drop(shared);
    }
    let listed = shell("find . -mindepth 1 | LC_ALL=C sort", mounted.point()).ok();
    let expected = [
        "./acme",
        "./acme/m",
        "./acme/m/empty",
        "./acme/m/sub",
        "./acme/m/sub/w.bin",
        "./acme/m@v2",
        "./acme/m@v2/empty",
        "./acme/m@v2/sub",
        "./acme/m@v2/sub/w.bin",
        "./datasets",
        "./datasets/acme",
        "./datasets/acme/d",
        "./datasets/acme/d/empty",
        "./datasets/acme/d/sub",
        "./datasets/acme/d/sub/w.bin",
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    // A path that the model does not have is absent immediately.
    for missing in ["acme/m/none", "acme/none", "none", "acme/m@v3"] {
        assert!(shell(&format!("ls -d '{missing}'"), mounted.point()).stderr.contains("No such file"));
    }
    // Reading an empty file needs no peer.
    assert_eq!(shell("cat acme/m/empty", mounted.point()).ok(), "");
}

#[test]
fn a_mount_is_read_only_and_reports_true_sizes() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let model = mounted.path(NAME);
    for script in
        ["touch new", "mkdir new", "rm *", "echo x >> *.safetensors", "mv *.safetensors x", "chmod 777 *"]
    {
        assert!(!shell(script, &model).status.success(), "{script} worked");
    }
    let kib = |what: &str| -> u64 {
        shell(&format!("du -k {what} {WEIGHTS} | cut -f1"), &model).ok().trim().parse().unwrap()
    };
    assert_eq!(kib("--apparent-size"), 16_384_096_u64.div_ceil(1024));
    assert_eq!(kib(""), 1, "nothing is cached; a file that is not empty reports one block");
    shell(&format!("cat {WEIGHTS} >/dev/null"), &model).ok();
    // The kernel may cache attributes. Opening the file refreshes them.
    let here: u64 = python(
        "import os, sys; print(os.getxattr(sys.argv[1], 'user.silmaril.cached_bytes').decode())",
        &[&model.join(WEIGHTS)],
        PATIENCE,
    )
    .ok()
    .trim()
    .parse()
    .unwrap();
    assert_eq!(here, 16_384_096);
}

#[test]
fn extended_attributes_describe_a_file() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &[]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    let script = "import os, sys, json; p = sys.argv[1]\n\
        print(json.dumps({k: os.getxattr(p, k).decode() for k in os.listxattr(p)}))";
    let facts = python(script, &[&mounted.path(NAME).join(WEIGHTS)], PATIENCE).ok();
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    let manifest = crate::support::manifests::read(&shared.manifest);
    let file = &manifest["files"][0];
    assert_eq!(facts["user.silmaril.sha256"], file["sha256"]);
    assert_eq!(facts["user.silmaril.pieces_root"], file["pieces_root"]);
    assert_eq!(facts["user.silmaril.info_hash"], manifest["torrent"]["info_hash"]);
    assert_eq!(facts["user.silmaril.publisher"], manifest["publisher"]);
    assert_eq!(facts["user.silmaril.cached_bytes"], "0");
}

#[test]
fn many_threads_reading_one_shard_see_the_right_bytes() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &["--piece-length", "256KiB"]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let script = "import mmap, os, random, sys, threading\n\
        f = open(sys.argv[1], 'rb'); g = open(sys.argv[2], 'rb'); n = os.fstat(f.fileno()).st_size\n\
        m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); bad = []\n\
        def work(seed):\n    \
            r = random.Random(seed)\n    \
            for _ in range(60):\n        \
                at, size = r.randrange(n), r.choice([1, 4096, 70000, 1 << 20])\n        \
                want = os.pread(g.fileno(), size, at)\n        \
                got = m[at:at + size] if seed % 2 else os.pread(f.fileno(), size, at)\n        \
                if got != want: bad.append((seed, at, size))\n\
        threads = [threading.Thread(target=work, args=(s,)) for s in range(8)]\n\
        [t.start() for t in threads]; [t.join() for t in threads]\n\
        sys.exit(f'wrong bytes at {bad}' if bad else 0)";
    python(script, &[&mounted.path(NAME).join(WEIGHTS), &wordllama().join(WEIGHTS)], PATIENCE).ok();
}

#[test]
fn unmount_works_while_a_file_is_open() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &[]);
    import(&b, &shared.manifest);
    let mounted = b.mount(&["--peer", &a.peer()]);
    let script = format!("exec 3<{WEIGHTS}; echo open; read -r _ <&3; echo done; exec sleep 1000");
    let holder = Proc::spawn(Command::new("sh").args(["-c", &script]).current_dir(mounted.path(NAME)));
    holder.wait_for_line("open", PATIENCE);
    mounted.unmount();
}

#[test]
fn a_user_without_privileges_mounts_through_fusermount3() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &[]);
    std::fs::create_dir(b.home().join("mnt")).unwrap();
    let unprivileged = |args: &[&str]| Finished::of(&mut b.silmaril_unprivileged(args), PATIENCE);
    unprivileged(&["registry", "import", shared.manifest.to_str().unwrap()]).ok();
    // In a mount namespace of its own, /dev/fuse may be opened by all users, as udev sets it up.
    let script = format!(
        "mknod -m 666 device c 10 229; mount --bind device /dev/fuse
         as='setpriv --reuid=65534 --regid=65534 --clear-groups --'
         $as ../silmaril mount mnt --peer {}
         $as mountpoint -q mnt
         $as sha256sum mnt/{NAME}/{WEIGHTS}
         grep \"$PWD/mnt\" /proc/mounts
         $as ../silmaril unmount mnt
         ! grep \"$PWD/mnt\" /proc/mounts",
        a.peer()
    );
    let mut command = b.command("unshare");
    let printed = Finished::of(command.args(["-m", "sh", "-euc", &script]), PATIENCE).ok();
    assert!(printed.contains(&hashes(&wordllama(), PATIENCE)[WEIGHTS]), "{printed}");
    assert!(printed.contains("user_id=65534"), "{printed}");
}

#[test]
fn a_mount_works_in_a_user_namespace() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &wordllama(), NAME, &[]);
    import(&b, &shared.manifest);
    sh(&format!("mkdir {}/mnt", b.home().display()));
    let script = format!(
        "'{0}' mount mnt --peer {1} && sha256sum mnt/{NAME}/{WEIGHTS} && '{0}' unmount mnt",
        env!("CARGO_BIN_EXE_silmaril"),
        a.peer()
    );
    let mut command = b.command("unshare");
    let sum = Finished::of(command.args(["-U", "-r", "-m", "sh", "-c", &script]), PATIENCE).ok();
    assert!(sum.contains(&hashes(&wordllama(), PATIENCE)[WEIGHTS]), "{sum}");
}

#[test]
fn a_mount_inside_a_mount_is_refused() {
    let net = Net::new();
    let a = net.host("a");
    let mounted = a.mount(&[]);
    let inside = mounted.path("acme");
    let refused = a.run(&["mount", inside.to_str().unwrap()]).error(1);
    assert!(refused.contains("inside the silmaril mount"), "{refused}");
    assert!(!is_mounted(&inside));
    mounted.unmount();
}

#[test]
fn a_mount_whose_parent_was_renamed_is_unmounted_by_its_new_path() {
    let net = Net::new();
    let a = net.host("a");
    a.keep_daemon();
    let (former, renamed) = (a.home().join("former"), a.home().join("renamed"));
    std::fs::create_dir_all(former.join("mnt")).unwrap();
    a.run(&["mount", former.join("mnt").to_str().unwrap()]).ok();
    std::fs::rename(&former, &renamed).unwrap();
    let refused = a.run(&["unmount", former.join("mnt").to_str().unwrap()]).error(1);
    assert!(refused.contains("nothing is mounted") && refused.contains("silmaril status"), "{refused}");
    a.run(&["unmount", renamed.join("mnt").to_str().unwrap()]).ok();
    assert!(!is_mounted(&renamed.join("mnt")));
}
