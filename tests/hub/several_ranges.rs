//! A large file is fetched in several ranges at a time, where each connection is limited.

use std::time::Instant;

use crate::support::fixtures::{model_dir, noise};
use crate::support::mirror::{ATTRIBUTES, HubNet, mirror, mirrored, tree};
use crate::support::web::faults::Fault;

#[test]
fn mirror_is_several_times_as_fast_as_one_connection() {
    const LEN: usize = 64 << 20;
    const RATE: u64 = 2 << 20;
    let net = HubNet::new();
    let repo = net.repos.create("acme/large");
    let dir = net.server.home().join("large");
    repo.commit(&model_dir(&dir, &[(".gitattributes", ATTRIBUTES), ("large.bin", &noise(1, LEN))]));
    net.hub.cdn_faults().always("large.bin", Fault::Slow(RATE));
    // A link is reused, and one that has expired is replaced.
    let host = net.host("alice", "");
    let began = Instant::now();
    mirror(&host, &["acme/large", "--no-auto-share"]).ok();
    let took = began.elapsed().as_secs_f64();
    let alone = LEN as f64 / RATE as f64;
    assert!(took < alone / 4.0, "{took} s; one connection takes {alone} s");
    assert_eq!(tree(&mirrored(&host, "acme/large")), tree(&dir));
    let redirects =
        net.hub.log().of("/resolve/").into_iter().filter(|asked| asked.path.contains("large.bin"));
    assert!(redirects.count() <= 8, "the redirect was not reused");
    let sent = net.hub.log().sent("large.bin");
    assert!(sent < LEN as u64 + (1 << 20), "{sent} bytes were sent");
}

#[test]
fn links_that_expire_between_ranges_are_replaced() {
    let net = HubNet::new();
    let repo = net.repos.create("acme/large");
    let dir = net.server.home().join("large");
    repo.commit(&model_dir(&dir, &[(".gitattributes", ATTRIBUTES), ("large.bin", &noise(1, 40 << 20))]));
    for _ in 0..3 {
        net.hub.cdn_faults().times(2, "large.bin", Fault::ExpiredLink);
        net.hub.cdn_faults().times(1, "large.bin", Fault::Truncated(1_000_000));
    }
    let host = net.host("alice", "");
    mirror(&host, &["acme/large", "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&host, "acme/large")), tree(&dir));
}
