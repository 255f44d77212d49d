//! A hub that fails: no reader gets a wrong byte, and every wait ends.

use std::time::{Duration, Instant};
use std::{fs, io};

use super::rig::{LARGE, SHORT, read_at, reader, status};
use crate::support::fixtures::hashes;
use crate::support::mirror::HubNet;
use crate::support::process::PATIENCE;
use crate::support::web::faults::Fault;

/// Faults after which the same request can succeed.
fn passing(n: u64) -> Fault {
    match n % 9 {
        0 => Fault::Status(503),
        1 => Fault::Truncated(10_000),
        2 => Fault::OtherRange,
        3 => Fault::RetryAfter(0),
        4 => Fault::Status(500),
        5 => Fault::ExpiredLink,
        6 => Fault::Slow(500_000),
        7 => Fault::Truncated(0),
        _ => Fault::RateLimit(0),
    }
}

#[test]
fn random_faults_give_no_wrong_byte() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let host = net.host("alice", "mount: {read_timeout: 60s, resolve_timeout: 20s}\n");
    let mount = host.mount(&[]);
    let large = mount.path("acme/m/large.bin");
    assert_eq!(fs::metadata(&large).unwrap().len(), 3_000_000);
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..40 {
        if random.u32(0..2) == 0 {
            net.hub.cdn_faults().times(1, "large.bin", passing(random.u64(..)));
        }
        if random.u32(0..8) == 0 {
            net.hub.expire_links();
        }
        let offset = random.u64(0..2_990_000);
        let len = random.usize(1..200_000).min(3_000_000 - offset as usize);
        let bytes = read_at(&large, offset, len).unwrap_or_else(|error| panic!("read {n}: {error}"));
        LARGE.with(|large| {
            assert!(bytes == large[offset as usize..offset as usize + len], "read {n} is wrong")
        });
    }
    net.hub.cdn_faults().clear();
    assert_eq!(hashes(&mount.path("acme/m"), PATIENCE), hashes(&net.tree("acme/m", "mit", 1), PATIENCE));
    mount.unmount();
}

#[test]
fn file_with_another_hash_is_discarded_and_reported() {
    let (net, host) = reader();
    host.keep_daemon();
    let mount = host.mount(&[]);
    net.hub.cdn_faults().always("large.bin", Fault::WrongBytes);
    let failed = host.run(&["warm", "acme/m"]);
    assert_eq!(failed.status.code(), Some(1), "{}", failed.stdout);
    assert!(failed.stderr.contains("large.bin") && failed.stderr.contains("hash"), "{}", failed.stderr);
    let error = read_at(&mount.path("acme/m/large.bin"), 0, 10).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(mount.path("acme/m/large.bin"), "user.silmaril.cached_bytes", &mut value)
        .unwrap();
    assert_eq!(&value[..len], b"0", "wrong bytes were kept");
    // Other files are right.
    assert_eq!(fs::read(mount.path("acme/m/config.json")).unwrap(), b"{\"model_type\": \"bert\"}");
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn request_limit_of_the_hub_holds_for_all_reads() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    net.small("acme/n", "mit");
    let host = net.host("alice", "mount: {read_timeout: 30s, resolve_timeout: 20s}\n");
    let mount = host.mount(&[]);
    assert!(mount.path("acme/m/config.json").exists() && mount.path("acme/n/config.json").exists());
    net.hub.faults().times(1, "/resolve/", Fault::RetryAfter(3));
    let began = Instant::now();
    let first = read_at(&mount.path("acme/m/large.bin"), 0, 10).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(3), "the pause was {:?}", began.elapsed());
    assert_eq!(read_at(&mount.path("acme/n/large.bin"), 0, 10).unwrap(), first);
    let refused = net.hub.log().of("/resolve/").into_iter().filter(|asked| asked.status == 429).count();
    assert_eq!(refused, 1, "the hub was asked during the pause");
    mount.unmount();
}

#[test]
fn hub_that_cannot_be_reached_costs_little() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    // No server listens there.
    let host = net.host_of("http://10.77.0.1:9", "alice", SHORT);
    let mount = host.mount(&[]);
    let began = Instant::now();
    let absent = fs::metadata(mount.path("acme/m")).unwrap_err();
    assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    // The search for peers alone takes nearly four seconds.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let began = Instant::now();
    assert!(!mount.path("acme/m").exists());
    assert!(began.elapsed() < Duration::from_secs(1), "the miss is not remembered: {:?}", began.elapsed());
    mount.unmount();
}

#[test]
fn slow_hub_ends_reads_in_time_and_status_names_it() {
    let (net, host) = reader();
    host.keep_daemon();
    let mount = host.mount(&[]);
    assert!(mount.path("acme/m/config.json").exists());
    net.hub.cdn_faults().always("large.bin", Fault::Stalled(0));
    let began = Instant::now();
    let error = read_at(&mount.path("acme/m/large.bin"), 0, 10).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(status(&host)["hub"][0]["model"], "acme/m");
    mount.unmount();
    host.stop_background_daemon();
}
