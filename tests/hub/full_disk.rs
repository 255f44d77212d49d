//! A disk without a free byte: models of the hub are read through memory.

use std::fs;

use super::rig::{LARGE, read_at, status};
use crate::e2e::space::{fill, on_tmpfs};
use crate::support::fixtures::{model_dir, noise};
use crate::support::mirror::{ATTRIBUTES, HubNet};
use crate::support::process::{PATIENCE, until};

#[test]
fn models_of_the_hub_are_read_without_a_free_byte() {
    const LEN: usize = 80 << 20;
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let bytes = noise(5, LEN);
    let dir = net.server.home().join("big");
    net.repos
        .create("acme/big")
        .commit(&model_dir(&dir, &[(".gitattributes", ATTRIBUTES), ("w.bin", &bytes)]));
    let host =
        net.host("alice", "mount: {read_timeout: 30s, resolve_timeout: 10s}\ncache:\n  min_free: 16MiB\n");
    on_tmpfs(&host, 64);
    host.keep_daemon();
    let mount = host.mount(&[]);
    assert!(mount.path("acme/m/config.json").exists());
    let filler = fill(&host);
    // A model whose commit is stored, and one that is looked up now. The second is longer than the memory for such files.
    LARGE.with(|large| assert!(fs::read(mount.path("acme/m/large.bin")).unwrap() == *large));
    let file = mount.path("acme/big/w.bin");
    assert!(fs::read(&file).unwrap() == bytes);
    assert!(read_at(&file, 1000, 100_000).unwrap() == bytes[1000..101_000]);
    assert!(status(&host)["space"]["files"].as_u64().is_some_and(|files| files > 0), "{}", status(&host));

    fs::remove_file(&filler).unwrap();
    until("the files leave memory", PATIENCE, || status(&host)["space"].is_null());
    LARGE.with(|large| {
        assert!(read_at(&mount.path("acme/m/large.bin"), 500, 9000).unwrap() == large[500..9500])
    });
    host.run(&["warm", "acme/m"]).ok();
    mount.unmount();
    host.stop_background_daemon();
}
