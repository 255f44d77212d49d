//! Models that no peer has are read from the hub, a part at a time.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::rig::{LARGE, SHORT, commit, proof, read_at, reader, status};
use crate::support::fixtures::{downloaded, hashes, minilm, noise};
use crate::support::mirror::HubNet;
use crate::support::process::{Finished, PATIENCE, until};

#[test]
fn one_tensor_of_an_unknown_model_is_read() {
    let net = HubNet::new();
    let repo = net.repos.create("acme/minilm");
    repo.commit(&minilm());
    let host = net.host("alice", SHORT);
    let mount = host.mount(&[]);
    let script = "import sys; from safetensors import safe_open\n\
                  with safe_open(sys.argv[1], 'numpy') as f:\n    \
                  t = f.get_tensor('encoder.layer.0.attention.self.query.weight'); print(t.nbytes, float(t.sum()))\n";
    let read = |path: &Path| {
        let mut command = Command::new(downloaded("venv/bin/python"));
        Finished::of(command.args(["-I", "-c", script]).arg(path), PATIENCE).ok()
    };
    let printed = read(&mount.path("acme/minilm/model.safetensors"));
    assert_eq!(printed, read(&minilm().join("model.safetensors")));
    let tensor: u64 = printed.split(' ').next().unwrap().parse().unwrap();
    let sent = net.hub.log().sent("model.safetensors");
    let ranges: Vec<_> =
        net.hub.log().of("model.safetensors").into_iter().map(|a| (a.site, a.range, a.sent)).collect();
    // The first read of the header takes 64 KiB, a page fault at the begin of the tensor makes the kernel read 32 KiB before it,
    // and the last one 128 KiB after it.
    assert!(sent <= tensor + (256 << 10), "{sent} bytes were sent for a tensor of {tensor}: {ranges:?}");
    assert_eq!(proof(&mount.path("acme/minilm/model.safetensors")), "hub");
    mount.unmount();

    // After a crash and without the hub, cached bytes are read; other bytes are an error that `status` explains.
    host.keep_daemon();
    let mount = host.mount(&[]);
    host.kill_node();
    drop(mount);
    let sent = net.hub.log().all().len();
    let mount = host.mount(&[]);
    assert_eq!(read(&mount.path("acme/minilm/model.safetensors")), printed);
    let again: Vec<_> =
        net.hub.log().all().into_iter().skip(sent).filter(|a| a.path.contains("safetensors")).collect();
    assert!(again.is_empty(), "fetched twice: {again:#?}");
    net.unplug();
    assert_eq!(read(&mount.path("acme/minilm/model.safetensors")), printed);
    let far = read_at(&mount.path("acme/minilm/model.safetensors"), 80_000_000, 4096);
    assert_eq!(far.unwrap_err().raw_os_error(), Some(5));
    let status = status(&host);
    let hub = &status["hub"][0];
    assert_eq!(hub["model"], "acme/minilm");
    assert!(hub["trouble"].as_str().is_some_and(|why| !why.is_empty()), "{status:#}");
    mount.unmount();
}

#[test]
fn reader_of_a_plain_file_is_ahead_by_as_much_as_it_has_read() {
    const READ: usize = 256 << 10;
    let (net, host) = reader();
    host.keep_daemon();
    let mount = host.mount(&[]);
    let file = fs::File::open(mount.path("acme/m/large.bin")).unwrap();
    let mut bytes = vec![0; READ];
    for at in (0..READ).step_by(32 << 10) {
        file.read_exact_at(&mut bytes[at..at + (32 << 10)], at as u64).unwrap();
    }
    until("the requests have ended", PATIENCE, || status(&host)["hub"][0]["requests"] == 0);
    // The kernel itself reads up to 128 KiB ahead.
    let sent = net.hub.log().sent("large.bin");
    assert!(sent <= 2 * (READ as u64 + (128 << 10)), "{sent} bytes were sent for {READ}");
    // A read at another place is not continued.
    file.read_exact_at(&mut bytes[..4096], 2_000_000).unwrap();
    let after = net.hub.log().sent("large.bin") - sent;
    assert!(after <= 192 << 10, "{after} bytes were sent for a read of 4 KiB");
    LARGE.with(|large| {
        assert!(bytes[4096..] == large[4096..READ] && bytes[..4096] == large[2_000_000..2_004_096])
    });
    drop(file);
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn all_files_of_an_unknown_model_are_readable() {
    let (net, host) = reader();
    net.hub.set_page_size(2);
    let mount = host.mount(&[]);
    let expected = net.tree("acme/m", "mit", 1);
    assert_eq!(hashes(&mount.path("acme/m"), PATIENCE), hashes(&expected, PATIENCE));
    // Listed after it was looked up, not before.
    assert_eq!(fs::read_dir(mount.path("acme")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(mount.path("other")).unwrap().count(), 0);
    mount.unmount();
}

#[test]
fn name_stays_at_its_commit_while_the_branch_moves() {
    let net = HubNet::new();
    let repo = net.repos.create("acme/m");
    repo.commit(&net.tree("acme/m", "mit", 1));
    let first = repo.resolve("main").unwrap();
    let host = net.host("alice", SHORT);
    host.keep_daemon();
    let mount = host.mount(&[]);
    let file = mount.path("acme/m/sub/changing.bin");
    let mut start = [0; 1000];
    fs::File::open(&file).unwrap().read_exact_at(&mut start, 0).unwrap();
    repo.commit(&net.tree("acme/m", "mit", 2));
    assert_eq!(fs::read(&file).unwrap(), noise(1, 1_000_000));
    assert_eq!(commit(&host, "acme/m"), first);
    mount.unmount();
    host.stop_background_daemon();
}

#[test]
fn cached_parts_are_read_without_the_hub_after_a_restart() {
    let (net, host) = reader();
    let mount = host.mount(&[]);
    let bytes = read_at(&mount.path("acme/m/large.bin"), 1_000_000, 70_000).unwrap();
    assert_eq!(bytes, LARGE.with(|large| large[1_000_000..1_070_000].to_vec()));
    mount.unmount();
    net.unplug();
    let mount = host.mount(&[]);
    assert_eq!(read_at(&mount.path("acme/m/large.bin"), 1_000_000, 70_000).unwrap(), bytes);
    assert_eq!(fs::metadata(mount.path("acme/m/large.bin")).unwrap().len(), 3_000_000);
    mount.unmount();
}

#[test]
fn hub_is_not_asked_where_that_is_forbidden() {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let host = net.host_with("alice", "lazy: false", SHORT);
    let mount = host.mount(&[]);
    assert!(!mount.path("acme/m").exists());
    mount.unmount();
    let host = net.host("bob", SHORT);
    fs::create_dir_all(host.home().join("models")).unwrap();
    let point = host.home().join("models");
    let mut command = host.silmaril(&["mount", point.to_str().unwrap()]);
    Finished::of(command.env("HF_HUB_OFFLINE", "1"), PATIENCE).ok();
    assert!(!point.join("acme/m").exists());
    host.run(&["unmount", point.to_str().unwrap()]).ok();
    let mount = host.mount(&["--no-resolve"]);
    assert!(!mount.path("acme/m").exists());
    mount.unmount();
    // Names that no model has, and names on the list of exclusions.
    let host = net.host("carol", SHORT);
    let mount = host.mount(&[]);
    for name in [".git/x", "acme/.hidden", "acme/HEAD", "lib/libx.so.1", "acme/a b"] {
        assert!(!mount.path(name).exists(), "{name}");
    }
    mount.unmount();
    assert_eq!(net.hub.log().all(), [], "the hub was asked");
}

#[test]
fn other_names_of_a_model_lead_to_it() {
    let net = HubNet::new();
    let repo = net.small("acme/m", "mit");
    repo.branch("refs/pr/1", &repo.resolve("main").unwrap());
    net.hub.moved("old/former", "acme/m");
    let host = net.host("alice", SHORT);
    let mount = host.mount(&[]);
    let expected = fs::read(mount.path("acme/m/large.bin")).unwrap();
    assert_eq!(fs::read(mount.path("old/former/large.bin")).unwrap(), expected);
    assert_eq!(fs::read_link(mount.path("old/former")).unwrap(), Path::new("../acme/m"));
    assert_eq!(fs::read(mount.path("acme/m@refs-pr-1/large.bin")).unwrap(), expected);
    mount.unmount();
    let dest = host.home().join("dest");
    host.run(&["get", "acme/m@refs/pr/1", "--include", "*.json", "-o", dest.to_str().unwrap()]).ok();
    host.run(&["get", "old/former", "--seed=false", "-o", dest.to_str().unwrap()]).ok();
    assert_eq!(fs::read(dest.join("large.bin")).unwrap(), expected);
}
