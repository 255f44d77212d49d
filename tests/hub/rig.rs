//! Hosts that read from a hub, and what they see.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::support::fixtures::noise;
use crate::support::host::Host;
use crate::support::mirror::HubNet;
use crate::support::process::{Finished, PATIENCE};

thread_local! {
    /// The bytes of `large.bin` of the small repository.
    pub static LARGE: Vec<u8> = noise(1000, 3_000_000);
}

/// Sections for a host that reads from the hub, with short timeouts.
pub const SHORT: &str = "mount: {read_timeout: 3s, resolve_timeout: 5s}\n";

/// A network with a hub that has `acme/m`, and a host that reads from it.
pub fn reader() -> (HubNet, Host) {
    let net = HubNet::new();
    net.small("acme/m", "mit");
    let host = net.host("alice", SHORT);
    (net, host)
}

/// Mounts with a token at a directory of the home directory.
pub fn mount_with(host: &Host, name: &str, token: Option<&str>, more: &[&str]) -> PathBuf {
    let point = host.home().join(name);
    fs::create_dir_all(&point).unwrap();
    let mut command = host.silmaril(&["mount", point.to_str().unwrap()]);
    command.args(more);
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    Finished::of(&mut command, PATIENCE).ok();
    point
}

/// Reads a part of a file.
pub fn read_at(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(path)?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// The extended attribute that names the proof of a file.
pub fn proof(path: &Path) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(path, "user.silmaril.proof", &mut value).unwrap();
    String::from_utf8(value[..len].to_vec()).unwrap()
}

/// What `status --json` prints.
pub fn status(host: &Host) -> serde_json::Value {
    serde_json::from_str(&host.run(&["status", "--json"]).ok()).unwrap()
}

/// The model of `list --json`.
pub fn listed(host: &Host, model: &str) -> serde_json::Value {
    let all: Vec<serde_json::Value> = serde_json::from_str(&host.run(&["list", "--json"]).ok()).unwrap();
    all.into_iter().find(|found| found["model"] == model).unwrap_or_default()
}

/// The info hash of a model, if it has a manifest.
pub fn info_hash(host: &Host, model: &str) -> Option<String> {
    Some(listed(host, model)["info_hash"].as_str()?.to_owned())
}

/// The commit at which a model is read from the hub.
pub fn commit(host: &Host, model: &str) -> String {
    listed(host, model)["hub_commit"].as_str().unwrap_or_default().to_owned()
}
