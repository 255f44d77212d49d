//! Commands that Ctrl-C ends before they are done, and that continue when they run again.

use rustix::process::Signal;

use crate::support::fixtures::{model_dir, noise};
use crate::support::host::Host;
use crate::support::mirror::HubNet;
use crate::support::net::Net;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{import, share};
use crate::support::web::faults::Fault;

/// Ends a command with Ctrl-C. The command must report that the partial data is kept.
fn interrupt(command: Proc) {
    command.signal(Signal::INT);
    let ended = command.finish(PATIENCE);
    assert_eq!(ended.status.code(), Some(130));
    let help = "help: received data is kept; run the same command again to resume";
    assert!(ended.stderr.contains(help), "{}", ended.stderr);
}

/// Runs a command to its end, and returns how many bytes the host received meanwhile.
fn received_by(host: &Host, args: &[&str]) -> u64 {
    let before = host.received();
    host.run(args).ok();
    host.received() - before
}

#[test]
fn an_interrupted_warm_resumes() {
    const SIZE: usize = 16 << 20;
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let dir = model_dir(&a.home().join("m"), &[("w.bin", &noise(1, SIZE))]);
    let shared = share(&a, &dir, "acme/m", &["--piece-length", "1MiB"]);
    import(&b, &shared.manifest);
    a.limit_rate("40mbit");
    let mounted = b.mount(&["--peer", &a.peer()]);
    let args = ["warm", "acme/m"];
    let before = b.received();
    let first = b.spawn(&args);
    until("a part has come", PATIENCE, || b.received() - before > 6 << 20);
    interrupt(first);
    let again = received_by(&b, &args);
    assert!(again < 12 << 20, "{again} bytes came after a third was there");
    assert!(std::fs::read(mounted.path("acme/m/w.bin")).unwrap() == noise(1, SIZE));
    mounted.unmount();
}

#[test]
fn an_interrupted_mirror_resumes() {
    let net = HubNet::new();
    let host = net.host("a", "");
    net.small("acme/m", "apache-2.0");
    net.hub.cdn_faults().times(1, "large.bin", Fault::Slow(400_000));
    let args = ["mirror", "acme/m", "--no-auto-share"];
    let before = host.received();
    let first = host.spawn(&args);
    // The small files, one file of 1 MB, and a part of a file of 3 MB.
    until("a part has come", PATIENCE, || host.received() - before > 2_000_000);
    interrupt(first);
    let again = received_by(&host, &args);
    assert!(again < 3_000_000, "{again} bytes came after 2 MB were there");
    let weights = host.base().join("models/acme/m/large.bin");
    assert!(std::fs::read(weights).unwrap() == noise(1000, 3_000_000));
}
