//! Who hosts the node: the first command does, and when it goes away the next one.

use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::process::Signal;

use crate::support::fixtures::{hashes, minilm, wordllama};
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{import, share};

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const WORDLLAMA: &str = "dleemiller/wordllama";
const SIZE: u64 = 91_618_861;

#[test]
fn a_get_goes_on_by_itself_when_its_host_is_killed() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let shared = share(&a, &minilm(), MINILM, &["--piece-length", "1MiB"]);
    a.limit_rate("200mbit");
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    let get = b.spawn(&["get", MINILM, "--peer", &a.peer()]);
    until("20 MB have come", PATIENCE, || b.received() > 20_000_000);
    b.kill_node();
    assert!(b.received() < 80_000_000, "the test was too slow to kill in mid transfer");
    let end = get.finish(PATIENCE);
    assert!(end.stderr.contains("has ended; this process goes on"), "{}", end.stderr);
    end.ok();
    let mut got = hashes(&b.base().join("models").join(MINILM), PATIENCE);
    got.remove(".silmaril.json");
    assert_eq!(got, hashes(&minilm(), PATIENCE));
    assert!(b.received() < SIZE + SIZE / 12 + (32 << 20), "{} bytes came for {SIZE}", b.received());
    drop(mounted);
}

#[test]
fn a_share_goes_on_by_itself_when_its_host_stops() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let daemon = a.spawn(&["daemon"]);
    daemon.wait_for_line("running", PATIENCE);
    let shared = share(&a, &wordllama(), WORDLLAMA, &[]);
    a.run(&["daemon", "--stop"]).ok();
    assert_eq!(daemon.finish(PATIENCE).status.code(), Some(0));
    shared.process.wait_for_line("this process goes on", PATIENCE);
    import(&b, &shared.manifest);
    b.run(&["get", WORDLLAMA, "--peer", &a.peer()]).ok();
    assert_eq!(a.node().as_raw_nonzero().get().to_string(), shared.process.id().to_string());
    let error = a.run(&["daemon", "--stop"]).error(1);
    assert!(error.contains("no daemon"), "{error}");
}

#[test]
fn two_gets_at_once_fetch_a_model_once() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
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
fn a_killed_daemon_is_no_obstacle() {
    let net = Net::new();
    let a = net.host("a");
    let daemon = a.spawn(&["daemon"]);
    daemon.wait_for_line("running", PATIENCE);
    daemon.signal(Signal::KILL);
    assert!(!daemon.finish(PATIENCE).status.success());
    assert!(a.base().join("silmaril.sock").exists(), "the test needs a stale socket");
    a.run(&["status"]).error(1);
    let mounted = a.mount(&[]);
    a.run(&["status"]).ok();
    mounted.unmount();
}

#[test]
fn a_node_of_another_version_is_named_with_the_remedy() {
    let net = Net::new();
    let a = net.host("a");
    a.run(&["init"]).ok();
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('listening', flush=True)\n\
        body = b'{\"pid\":4711,\"version\":\"99.0.0\",\"news\":{}}'\n\
        while True:\n    \
            c, _ = s.accept()\n    \
            if c.recv(65536): c.sendall(b'HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n' % len(body) + body); c.close()";
    let socket = a.base().join("silmaril.sock");
    let other = Proc::spawn(Command::new("/usr/bin/python3").args(["-c", script]).arg(&socket));
    other.wait_for_line("listening", PATIENCE);
    for args in [&["get", "acme/m"][..], &["share", "--all"], &["verify", "acme/m"]] {
        let end = a.run(args);
        assert!(end.stderr.contains("help: end it with"), "{}", end.stderr);
        let error = end.error(1);
        assert!(error.contains("4711") && error.contains("99.0.0"), "{error}");
    }
}

#[test]
fn the_socket_of_another_user_is_named() {
    let net = Net::new();
    let a = net.host("a");
    std::fs::create_dir_all(a.home().join(".silmaril")).unwrap();
    // Prepares a home for somebody else.
    let nobody =
        |args: &[&str]| crate::support::process::Finished::of(&mut a.silmaril_as_nobody(args), PATIENCE);
    nobody(&["init"]).ok();
    let socket = a.base().join("silmaril.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(a.base().join("silmaril.sock"), Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // `silmaril_as_nobody` gives the home away each time, so the command is made first.
    let mut command = a.silmaril_as_nobody(&["get", "acme/m"]);
    std::os::unix::fs::chown(&socket, Some(0), Some(0)).unwrap();
    let error = crate::support::process::Finished::of(&mut command, PATIENCE).error(1);
    assert!(error.contains("another user (uid 0)"), "{error}");
}
