//! One daemon per base directory: the first command that needs it starts it, and all commands are its clients.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use silmaril::node::lock::NodeLock;
use silmaril::paths::Paths;

use crate::support::fixtures::{hashes, minilm, model_dir, noise, wordllama};
use crate::support::host::Host;
use crate::support::mounts::is_mounted;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, Proc, until};
use crate::support::share::{export, import, share};

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const WORDLLAMA: &str = "dleemiller/wordllama";
const SIZE: u64 = 91_618_861;

/// A host that keeps the daemons that its commands start.
fn host(net: &Net, name: &str) -> Host {
    let host = net.host(name);
    host.keep_daemon();
    host
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap()
}

fn is_running(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn daemon(host: &Host) -> i32 {
    host.node().as_raw_nonzero().get()
}

/// Gets a model from another host, which shows that the other host uploads it.
#[track_caller]
fn assert_gets(host: &Host, model: &str, from: &Host, expected: &Path) {
    let out = host.home().join("got");
    host.run(&["get", model, "-o", out.to_str().unwrap(), "--peer", &from.peer()]).ok();
    let mut got = hashes(&out, PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(expected, PATIENCE));
}

#[test]
fn commands_that_start_at_the_same_moment_share_one_daemon() {
    let net = Net::new();
    let (a, b) = (host(&net, "a"), host(&net, "b"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    let get = ["get", MINILM, "--peer", &a.peer()];
    let both = [b.spawn(&get), b.spawn(&get)];
    for one in both {
        one.finish(PATIENCE).ok();
    }
    let mut got = hashes(&b.base().join("models").join(MINILM), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&minilm(), PATIENCE));
    assert!(b.received() < SIZE + SIZE / 12 + (16 << 20), "{} bytes came for {SIZE}", b.received());
}

#[test]
fn a_get_continues_with_a_new_daemon_after_a_kill() {
    let net = Net::new();
    let (a, b) = (host(&net, "a"), host(&net, "b"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    a.limit_rate("200mbit");
    import(&b, &shared.manifest);
    let get = b.spawn(&["get", MINILM, "--peer", &a.peer()]);
    until("20 MB have come", PATIENCE, || b.received() > 20_000_000);
    let former = daemon(&b);
    b.kill_node();
    assert!(b.received() < 80_000_000, "the test was too slow to kill in mid transfer");
    let end = get.finish(PATIENCE);
    assert!(end.stderr.contains(&format!("(process {former}) has ended; a new one")), "{}", end.stderr);
    end.ok();
    let mut got = hashes(&b.base().join("models").join(MINILM), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&minilm(), PATIENCE));
    assert!(b.received() < SIZE + SIZE / 12 + (32 << 20), "{} bytes came for {SIZE}", b.received());
}

#[test]
fn share_and_get_seed_in_the_background_until_turned_off() {
    let net = Net::new();
    let (a, b, c) = (host(&net, "a"), host(&net, "b"), host(&net, "c"));
    let dir = wordllama();
    let printed =
        a.run(&["share", dir.to_str().unwrap(), "--name", WORDLLAMA, "--license", "mit", "--skip-dht"]);
    assert!(printed.stderr.contains("`silmaril stop` ends it"), "{}", printed.stderr);
    printed.ok();
    let manifest = export(&a, WORDLLAMA);
    import(&b, &manifest);
    assert_gets(&b, WORDLLAMA, &a, &dir);
    a.run(&["stop"]).ok();
    import(&c, &manifest);
    // The first host is gone. The second one seeds what it has fetched, also after a restart of its daemon.
    b.run(&["stop"]).ok();
    assert!(b.run(&["daemon"]).ok().contains("seeding 1 model"));
    assert_gets(&c, WORDLLAMA, &b, &dir);

    let out = b.home().join("got");
    let off = ["get", WORDLLAMA, "-o", out.to_str().unwrap(), "--seed=false", "--json"];
    let report: Value = serde_json::from_str(&b.run(&off).ok()).unwrap();
    assert_eq!(report["seeded"], false);
    assert_eq!(status(&b)["transfers"], serde_json::json!([]), "it is still seeded");
    b.run(&["stop"]).ok();
    assert!(b.run(&["daemon"]).ok().contains("seeding 0 models"));
    // Sharing it by name turns it on again.
    b.run(&["share", WORDLLAMA, "--skip-dht"]).ok();
    assert_eq!(status(&b)["transfers"][0]["model"], WORDLLAMA);
}

#[test]
fn stop_ends_waiting_readers_and_commands() {
    let net = Net::new();
    let (a, b) = (host(&net, "a"), host(&net, "b"));
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    import(&b, &shared.manifest);
    drop(shared);
    let mounted = b.mount(&["--no-resolve"]);
    let mut file = std::fs::read_dir(mounted.path(WORDLLAMA)).unwrap().map(|entry| entry.unwrap().path());
    let file = file.find(|path| path.extension().is_some_and(|ext| ext == "safetensors")).unwrap();
    let reader = Proc::spawn(Command::new("cat").arg(&file));
    let get = b.spawn(&["get", WORDLLAMA]);
    until("a read waits", PATIENCE, || status(&b)["transfers"][0]["waiting_reads"].as_u64() > Some(0));
    until("the command waits", PATIENCE, || status(&b)["jobs"] != serde_json::json!([]));
    let pid = daemon(&b);
    b.run(&["stop"]).ok();
    assert!(!is_mounted(mounted.point()));
    until("the daemon has ended", PATIENCE, || !is_running(pid));
    assert!(!reader.finish(PATIENCE).status.success());
    let end = get.finish(PATIENCE);
    assert!(end.stderr.contains("was stopped before this was done"), "{}", end.stderr);
    assert_eq!(end.status.code(), Some(1));
    assert_eq!(NodeLock::holder(&Paths::below(&b.base())), None, "the command has started another daemon");
}

#[test]
fn an_idle_daemon_ends_and_a_seeding_one_stays() {
    let net = Net::new();
    let (a, b) = (host(&net, "a"), host(&net, "b"));
    for host in [&a, &b] {
        host.configure("daemon:\n  idle_timeout: 1s\n");
    }
    b.run(&["discover", "--timeout", "100ms"]);
    let idle = daemon(&b);
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 50_000))]);
    a.run(&["share", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit", "--skip-dht"]).ok();
    until("the daemon without work has ended", PATIENCE, || !is_running(idle));
    assert!(is_running(daemon(&a)), "the one that seeds has ended");
    let point = b.home().join("models");
    let mounted = b.mount(&[]);
    let mounts = daemon(&b);
    // Waits longer than the idle timeout, measured by a daemon that has no work.
    a.run(&["remove", "acme/m", "--yes"]);
    let seeds = daemon(&a);
    until("the daemon that seeded has ended", PATIENCE, || !is_running(seeds));
    assert!(is_running(mounts) && is_mounted(&point));
    mounted.unmount();
    until("the daemon that mounted has ended", PATIENCE, || !is_running(mounts));
}

#[test]
fn a_daemon_ends_when_its_base_directory_is_deleted() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["daemon"]).ok();
    let pid = daemon(&a);
    std::fs::remove_dir_all(a.base()).unwrap();
    until("the daemon has ended", PATIENCE, || !is_running(pid));
    assert!(!a.base().exists(), "the daemon has made the directory again");
    a.run(&["daemon"]).ok();
}

#[test]
fn a_share_is_seeded_when_its_output_is_not_read() {
    let net = Net::new();
    let a = host(&net, "a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 50_000))]);
    let mut command = a.silmaril(&["share", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(command.output().unwrap().status.code(), Some(3));
    assert_eq!(status(&a)["transfers"][0]["model"], "acme/m");
}

#[test]
fn some_commands_never_start_the_daemon() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["init"]).ok();
    for args in
        [&["list"][..], &["key", "show"], &["cache", "show"], &["registry", "list"], &["trust", "list"]]
    {
        a.run(args).ok();
    }
    for args in [&["status"][..], &["stop"]] {
        let error = a.run(args).error(1);
        assert!(error.contains("no silmaril is running"), "{error}");
    }
    assert_eq!(NodeLock::holder(&Paths::below(&a.base())), None);
}

#[test]
fn a_daemon_inherits_nothing_from_its_first_command() {
    let net = Net::new();
    let a = host(&net, "a");
    let mut command = a.silmaril(&["daemon"]);
    command.env("HTTPS_PROXY", "http://127.0.0.1:9").env("HF_TOKEN", "hf_secret");
    let caller = Finished::of(&mut command, PATIENCE);
    caller.ok();
    let pid = daemon(&a);
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains("HTTPS_PROXY") && !environment.contains("hf_secret"), "{environment}");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(
        (fields[2], fields[3]),
        (pid.to_string().as_str(), pid.to_string().as_str()),
        "group and session"
    );
    for (fd, mode) in [(1, "log"), (2, "log")] {
        let target = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(target, a.base().join(mode).join("daemon.log"));
    }
}

#[test]
fn ctrl_c_in_the_terminal_does_not_reach_the_daemon() {
    let net = Net::new();
    let a = host(&net, "a");
    let script = "silmaril=$1; trap : INT; \"$silmaril\" daemon && kill -INT 0; echo interrupted";
    let mut shell = a.command("setsid");
    shell.args(["-w", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_silmaril")]);
    assert!(Finished::of(&mut shell, PATIENCE).ok().contains("interrupted"));
    assert_eq!(status(&a)["pid"], daemon(&a));
}

#[test]
fn one_of_several_mounts_ends_alone() {
    let net = Net::new();
    let a = host(&net, "a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 6 << 20)), ("sub/x.json", b"{}")]);
    let _shared = share(&a, &dir, "acme/m", &[]);
    let (first, second) = (a.mount_at("one", &[]), a.mount_at("two", &["--no-resolve"]));
    let error = a.run(&["mount", first.point().to_str().unwrap()]).error(1);
    assert!(error.contains("already mounted"), "{error}");
    for mounted in [&first, &second] {
        assert_eq!(hashes(&mounted.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    }
    assert_eq!(status(&a)["mounts"].as_array().unwrap().len(), 2);
    first.unmount();
    assert_eq!(hashes(&second.path("acme/m"), PATIENCE), hashes(&dir, PATIENCE));
    second.unmount();
    assert_eq!(status(&a)["mounts"], serde_json::json!([]));
}

#[test]
fn one_of_two_simultaneous_mounts_of_a_directory_wins() {
    let net = Net::new();
    let a = host(&net, "a");
    let point = a.home().join("models");
    std::fs::create_dir(&point).unwrap();
    let args = ["mount", point.to_str().unwrap()];
    let both = [a.spawn(&args), a.spawn(&args)].map(|mount| mount.finish(PATIENCE).status.code());
    assert!(both.contains(&Some(0)) && both.contains(&Some(1)), "{both:?}");
    assert!(is_mounted(&point));
    a.run(&["unmount", point.to_str().unwrap()]).ok();
    assert!(!is_mounted(&point), "the directory was mounted twice");
}

#[test]
fn a_mount_in_the_foreground_ends_with_its_command() {
    let net = Net::new();
    let a = host(&net, "a");
    for hosted_by_another in [false, true] {
        if hosted_by_another {
            a.run(&["daemon"]).ok();
        }
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 0)] {
            let point = a.home().join("models");
            std::fs::create_dir_all(&point).unwrap();
            let mut mount = a.spawn(&["mount", "-f", point.to_str().unwrap()]);
            mount.wait_for_line("Ctrl-C unmounts it", PATIENCE);
            assert_eq!(status(&a)["mounts"][0]["held"], true);
            mount.signal(signal);
            assert_eq!(mount.wait(PATIENCE).code(), Some(code));
            until("nothing is mounted", PATIENCE, || !is_mounted(&point));
        }
        assert_eq!(a.run(&["status"]).status.success(), hosted_by_another);
    }
}

/// Runs a script in a mount namespace of its own, which exists as long as a process is in it.
fn in_another_mount_namespace(host: &Host, script: &str) -> Command {
    let mut command = host.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_silmaril"));
    command
}

#[test]
fn a_client_in_another_mount_namespace_mounts_there() {
    let net = Net::new();
    let a = host(&net, "a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 6 << 20)), ("sub/x.json", b"{}")]);
    let seeding = ["share", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit", "--skip-dht"];
    let point = a.home().join("there");
    std::fs::create_dir(&point).unwrap();
    let script = "\"$1\" mount there
        mountpoint -q there && cat there/acme/m/sub/x.json && cmp there/acme/m/w.bin m/w.bin && echo ' the same'
        echo ready
        read -r wait
        if mountpoint -q there; then echo still there; else echo gone; fi";
    for end in ["unmount", "stop", "kill -9"] {
        a.run(&seeding).ok();
        let mut there = in_another_mount_namespace(&a, script);
        there.stdin(std::process::Stdio::piped());
        let mut there = there.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(there.stdout.take().unwrap()));
        let mut printed = String::new();
        while !printed.ends_with("ready\n") {
            printed += &(lines.next().unwrap_or_else(|| panic!("{printed}")).unwrap() + "\n");
        }
        assert!(printed.contains("{} the same"), "{printed}");
        assert!(!is_mounted(&point), "the directory is mounted in this namespace as well");
        let mounts = status(&a)["mounts"].clone();
        assert_eq!(mounts[0]["held"], true, "{mounts}");
        match end {
            "kill -9" => a.kill_node(),
            "stop" => drop(a.run(&["stop"]).ok()),
            _ => {
                let unmount =
                    format!("nsenter --mount --target {} \"$1\" unmount {}", there.id(), point.display());
                let mut command = a.command("sh");
                command.args(["-euc", &unmount, "sh", env!("CARGO_BIN_EXE_silmaril")]);
                Finished::of(&mut command, PATIENCE).ok();
            }
        }
        // After a kill, the helper process in that namespace mounts again with a new daemon.
        let gone = |pid: u32| {
            let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            !table.contains(point.to_str().unwrap())
        };
        if end == "kill -9" {
            until("it is mounted again", PATIENCE, || {
                let again = a.run(&["status", "--json"]);
                again.status.success() && again.stdout.contains("\"held\": true")
            });
            a.run(&["stop"]).ok();
        }
        until("it is unmounted there", PATIENCE, || gone(there.id()));
        std::io::Write::write_all(there.stdin.as_mut().unwrap(), b"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "gone", "after {end}");
        there.wait().unwrap();
    }
}

/// A program that acts as a daemon of another version with a mount. It ends when it receives a stop request.
const OTHER_VERSION: &str = "import fcntl, json, os, socket, sys\n\
    base, version, point = sys.argv[1:4]\n\
    lock = open(base + '/node.lock', 'w'); fcntl.flock(lock, fcntl.LOCK_EX); lock.write(f'{os.getpid()}\\n'); lock.flush()\n\
    s = socket.socket(socket.AF_UNIX); s.bind(base + '/silmaril.sock'); s.listen(); print('listening', flush=True)\n\
    mount = {'path': point, 'allow_other': False, 'resolve': True, 'given_peers': [], 'held': False}\n\
    status = {'pid': os.getpid(), 'version': version, 'uptime': 1, 'base_dir': base, 'listening': [], 'transfers': [],\n    \
        'mounts': [mount]}\n\
    while True:\n    \
        c, _ = s.accept(); asked = c.recv(65536).decode()\n    \
        body = b'' if '/v1/stop' in asked else json.dumps(status).encode()\n    \
        if asked: c.sendall(b'HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n%s' % (len(body), body))\n    \
        c.close()\n    \
        if '/v1/stop' in asked:\n        \
            print('replaced' if '\"replaced\":true' in asked else 'stopped', flush=True); os.unlink(base + '/silmaril.sock'); sys.exit()";

fn of_version(host: &Host, version: &str, point: &Path) -> Proc {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", OTHER_VERSION]).arg(host.base()).arg(version).arg(point);
    let other = Proc::spawn(&mut command);
    other.wait_for_line("listening", PATIENCE);
    other
}

#[test]
fn an_older_daemon_is_replaced_and_its_mounts_return() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["init"]).ok();
    let point = a.home().join("models");
    std::fs::create_dir(&point).unwrap();
    let other = of_version(&a, "0.0.1", &point);
    let end = a.run(&["daemon"]);
    assert!(end.stderr.contains("replacing the daemon of version 0.0.1"), "{}", end.stderr);
    end.ok();
    other.wait_for_line("replaced", PATIENCE);
    assert!(is_mounted(&point));
    assert_eq!(status(&a)["mounts"][0]["path"], point.to_str().unwrap());
}

#[test]
fn a_newer_daemon_is_reported_with_a_remedy() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["init"]).ok();
    let mut other = of_version(&a, "99.0.0", Path::new("/nowhere"));
    for args in [&["get", "acme/m"][..], &["share", "--all"], &["verify", "acme/m"]] {
        let end = a.run(args);
        assert!(end.stderr.contains("help: use that version"), "{}", end.stderr);
        let error = end.error(1);
        assert!(error.contains(&other.id().to_string()) && error.contains("99.0.0"), "{error}");
    }
    other.assert_running();
}

#[test]
fn a_killed_daemon_does_not_block_the_next_one() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["daemon"]).ok();
    a.kill_node();
    assert!(a.base().join("silmaril.sock").exists(), "the test needs a stale socket");
    a.run(&["status"]).error(1);
    let mounted = a.mount(&[]);
    a.run(&["status"]).ok();
    mounted.unmount();
}

#[test]
fn status_watch_continues_with_the_next_daemon() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["daemon"]).ok();
    let watch = a.spawn(&["status", "--watch"]);
    watch.wait_for_line(&format!("process {}", daemon(&a)), PATIENCE);
    a.run(&["stop"]).ok();
    a.run(&["daemon"]).ok();
    watch.wait_for_line(&format!("process {}", daemon(&a)), PATIENCE);
    watch.signal(Signal::TERM);
    watch.finish(PATIENCE).ok();
}

#[test]
fn commands_wait_for_the_process_that_holds_the_lock() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["init"]).ok();
    let held = NodeLock::take(&Paths::below(&a.base())).unwrap();
    let daemon = a.spawn(&["daemon", "-f"]);
    let clear = a.spawn(&["cache", "clear", "--yes"]);
    let discover = a.spawn(&["discover", "--timeout", "1s"]);
    for waiting in [&daemon, &clear, &discover] {
        waiting.wait_for_line(&format!("process {} is using", std::process::id()), PATIENCE);
    }
    drop(held);
    clear.finish(PATIENCE).ok();
    discover.finish(PATIENCE);
}

#[test]
fn a_stuck_or_foreign_daemon_is_named() {
    let net = Net::new();
    let a = host(&net, "a");
    a.run(&["daemon"]).ok();
    let pid = a.node();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let point = a.home().join("mnt");
    std::fs::create_dir(&point).unwrap();
    let end = a.run(&["mount", point.to_str().unwrap()]);
    assert!(end.stderr.contains("help: if that process is stuck, end it"), "{}", end.stderr);
    let error = end.error(1);
    assert!(error.contains(&format!("process {}", pid.as_raw_nonzero())), "{error}");
    assert!(!is_mounted(&point));
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    a.run(&["stop"]).ok();

    let _held = NodeLock::take(&Paths::below(&a.base())).unwrap();
    std::fs::write(a.base().join("node.lock"), "17\nlab-3\n").unwrap();
    let error = a.run(&["mount", point.to_str().unwrap()]).error(1);
    assert!(error.contains("process 17 on lab-3"), "{error}");
}

#[test]
fn the_base_directory_of_another_user_is_refused() {
    let net = Net::new();
    let a = host(&net, "a");
    // Gives the home directory to an unprivileged user.
    Finished::of(&mut a.silmaril_unprivileged(&["daemon"]), PATIENCE).ok();
    let pid = daemon(&a);
    let point = a.home().join("mnt");
    std::fs::create_dir(&point).unwrap();
    for args in [
        &["get", "acme/m"][..],
        &["mount", point.to_str().unwrap()],
        &["verify", "acme/m"],
        &["daemon"],
        &["key", "rotate", "--yes"],
        &["init", "--cleanup", "--yes"],
    ] {
        let error = a.run(args).error(1);
        assert!(error.contains("belongs to another user (uid 65534)"), "{error}");
    }
    assert!(!is_mounted(&point) && is_running(pid));
}

#[test]
fn work_without_the_engine_survives_a_killed_daemon() {
    let net = Net::new();
    let a = host(&net, "a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 400 << 20))]);
    a.run(&["share", dir.to_str().unwrap(), "--name", "acme/m", "--license", "mit", "--skip-dht"]).ok();
    let verify = a.spawn(&["verify", "acme/m"]);
    until("the daemon verifies", PATIENCE, || {
        let end = a.run(&["status", "--json"]);
        assert!(end.status.success(), "the test was too slow: {}", end.stderr);
        end.stdout.contains("verify acme/m")
    });
    a.kill_node();
    assert!(verify.finish(PATIENCE).ok().contains("right"));
}
