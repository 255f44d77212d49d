//! Nodes that go away as soon as they are asked for something.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use rustix::process::Signal;
use silmaril::node::lock::NodeLock;
use silmaril::paths::Paths;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::mounts::is_mounted;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE, until};
use crate::support::share::share;

/// The numbers of no processes.
const PID: u32 = 4_194_305;
const NEXT: u32 = 4_194_306;

/// The route of a request; nothing where there was none.
fn route(stream: &UnixStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let first = head.first().map_or("", String::as_str);
    first.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A daemon that goes away when it is asked for `last`, after it has told its status so many times, and after `work`.
fn lost_at(
    host: &Host,
    pid: u32,
    (last, mut told): (&'static str, usize),
    work: impl FnOnce() + Send + 'static,
) -> JoinHandle<()> {
    let socket = host.base().join("silmaril.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let status = format!(
        r#"{{"pid":{pid},"version":"{}","activity":"daemon","uptime":1,"base_dir":"/","listening":[],"transfers":[]}}"#,
        env!("CARGO_PKG_VERSION")
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match route(&stream) {
                asked if asked == last && told == 0 => {
                    work();
                    std::fs::remove_file(&socket).unwrap();
                    return;
                }
                asked if asked == "/v1/status" => {
                    told = told.saturating_sub(1);
                    let length = status.len();
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{status}").unwrap();
                }
                asked => assert_eq!(asked, "", "only a look whether somebody is there asks for nothing"),
            }
        }
    })
}

/// Runs a command on a node that goes away when it is asked for `last`, after `work`.
#[track_caller]
fn run_lost(
    host: &Host,
    args: &[&str],
    last: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Finished {
    let node = lost_at(host, PID, (last, 0), work);
    let end = host.run(args);
    until("it was asked", PATIENCE, || node.is_finished());
    node.join().unwrap();
    end
}

#[test]
fn what_needs_no_engine_goes_on_when_its_node_goes_away() {
    let net = Net::new();
    let a = net.host("a");
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(3, 3 << 20))]);
    let shared = share(&a, &dir, "acme/m", &[]);
    shared.process.signal(Signal::TERM);
    shared.process.finish(PATIENCE);

    let end = run_lost(&a, &["verify", "acme/m"], "/v1/verify", || ());
    assert!(
        end.stderr.contains(&format!("(process {PID}) has ended; this process goes on")),
        "{}",
        end.stderr
    );
    assert!(end.ok().contains("right"));
    run_lost(&a, &["cache", "clear", "--yes"], "/v1/cache/clear", || ()).ok();
    let rotated = run_lost(&a, &["key", "rotate", "--yes"], "/v1/reload", || ()).ok();
    let key = rotated.lines().find_map(|line| line.strip_prefix("publisher")).unwrap().trim().to_owned();
    let manifest = a.home().join("m.json");
    let at = manifest.to_str().unwrap();
    a.run(&["registry", "export", "acme/m", "-o", at]).ok();
    assert!(std::fs::read_to_string(&manifest).unwrap().contains(&key), "it is not signed anew");

    run_lost(&a, &["remove", "acme/m"], "/v1/remove", || ()).ok();
    assert!(a.run(&["remove", "acme/m"]).error(1).contains("no such model"));
    // It goes away when it is told, or when it has done what it was asked to.
    run_lost(&a, &["registry", "import", at], "/v1/reload", || ()).ok();
    let known = a.base().join("registry/acme/m/main.json");
    let forget = move || std::fs::remove_file(known).unwrap();
    run_lost(&a, &["remove", "acme/m"], "/v1/remove", forget).ok();
    assert!(dir.join("w.bin").exists());
}

#[test]
fn what_is_to_be_stopped_may_go_away_by_itself() {
    let net = Net::new();
    let a = net.host("a");
    let mounted = a.mount(&[]);
    a.kill_node();
    assert!(is_mounted(mounted.point()), "the dead mount should still be there");
    let point = mounted.point().to_owned();
    std::mem::forget(mounted);
    run_lost(&a, &["unmount", point.to_str().unwrap()], "/v1/status", || ()).ok();
    assert!(!is_mounted(&point));
    run_lost(&a, &["daemon", "--stop"], "/v1/stop", || ()).ok();
}

#[test]
fn a_status_that_is_watched_goes_on_with_the_next_node() {
    let net = Net::new();
    let a = net.host("a");
    a.run(&["init"]).ok();
    let node = lost_at(&a, PID, ("/v1/status", 1), || ());
    let watch = a.spawn(&["status", "--watch"]);
    watch.wait_for_line(&format!("process {PID}"), PATIENCE);
    until("it has gone away", PATIENCE, || node.is_finished());
    let _next = lost_at(&a, NEXT, ("/v1/none", 0), || ());
    watch.wait_for_line(&format!("process {NEXT}"), PATIENCE);
    watch.signal(Signal::TERM);
    watch.finish(PATIENCE).ok();
}

#[test]
fn whoever_starts_or_stops_is_waited_for_and_named() {
    let net = Net::new();
    let a = net.host("a");
    a.run(&["init"]).ok();
    let held = NodeLock::take(&Paths::below(&a.base())).unwrap();
    let daemon = a.spawn(&["daemon"]);
    let clear = a.spawn(&["cache", "clear", "--yes"]);
    for waiting in [&daemon, &clear] {
        waiting.wait_for_line(&format!("process {} is using", std::process::id()), PATIENCE);
    }
    drop(held);
    clear.finish(PATIENCE).ok();
    daemon.wait_for_line("running", PATIENCE);
    a.run(&["daemon", "--stop"]).ok();
}
