//! Each key of the configuration has the effect that its description promises.

use std::time::{Duration, Instant};

use crate::support::fixtures::{hashes, wordllama};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::process::PATIENCE;
use crate::support::share::{Share, import, share};
use crate::support::tracker;

const NAME: &str = "dleemiller/wordllama";
const SIZE: f64 = 16_384_096.0;

/// A publisher and a reader, each with its keys of `network`, and the publisher's running share.
fn pair(publisher: &str, reader: &str) -> (Host, Host, Share) {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    a.configure(publisher);
    b.configure(&format!("{reader}torrent:\n  download_timeout: 5\n"));
    let shared = share(&a, &wordllama(), NAME, &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    (a, b, shared)
}

fn seconds_to_get(a: &Host, b: &Host) -> f64 {
    let start = Instant::now();
    b.run(&["get", NAME, "--peer", &a.peer(), "--seed=false"]).ok();
    start.elapsed().as_secs_f64()
}

#[test]
fn rate_limits_hold_in_both_directions() {
    for (publisher, reader) in
        [("  upload_rate_limit: 4000000\n", ""), ("", "  download_rate_limit: 4000000\n")]
    {
        let (a, b, _shared) = pair(publisher, reader);
        let seconds = seconds_to_get(&a, &b);
        // The rate limiter may begin with a full bucket.
        assert!(seconds > 0.7 * SIZE / 4e6, "{publisher}{reader}: it took {seconds} s");
        assert!(seconds < 5.0 * SIZE / 4e6, "{publisher}{reader}: it took {seconds} s");
    }
}

#[test]
fn required_and_disabled_encryption_do_not_connect() {
    let (a, b, _shared) = pair("  encryption: require\n", "  encryption: 'off'\n  utp: 'off'\n");
    b.run(&["get", NAME, "--peer", &a.peer()]).error(1);
    b.configure("  encryption: require\n");
    seconds_to_get(&a, &b);
}

#[test]
fn only_the_configured_listen_address_answers() {
    let (a, b, _shared) =
        pair("  listen_address: 127.0.0.1\n  lan_discovery: false\n", "  lan_discovery: false\n");
    b.run(&["get", NAME, "--peer", &a.peer()]).error(1);
}

#[test]
fn every_torrent_is_announced_to_the_trackers() {
    let net = Net::new();
    let (t, a, b) = (net.host("tracker"), net.host("a"), net.host("b"));
    let tracker_process = tracker::start(&t);
    for host in [&a, &b] {
        host.configure(&tracker::configuration(&t));
    }
    let shared = share(&a, &wordllama(), NAME, &[]);
    tracker_process.wait_for_line(&format!("announced {}", a.addr()), Duration::from_secs(30));
    import(&b, &shared.manifest);
    let mounted = b.mount(&[]);
    assert_eq!(hashes(&mounted.path(NAME), PATIENCE), hashes(&wordllama(), PATIENCE));
}

#[test]
fn commands_report_that_the_daemon_has_the_former_configuration() {
    let net = Net::new();
    let a = net.host("a");
    let daemon = a.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    let changed = "the configuration has changed";
    let reports = || {
        [&["status"][..], &["config", "show"], &["discover", "--timeout", "1"]]
            .map(|command| a.run(command).stderr)
    };
    assert!(reports().iter().all(|stderr| !stderr.contains(changed)));
    let path = a.home().join(".config/silmaril/config.yaml");
    let former = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{former}mount:\n  read_timeout: 7s\n")).unwrap();
    for stderr in reports() {
        assert!(stderr.contains(changed) && stderr.contains("silmaril stop"), "{stderr}");
    }
    std::fs::write(&path, former).unwrap();
    assert!(reports().iter().all(|stderr| !stderr.contains(changed)));
}
