//! Hosts that read from a hub, and what they see.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::support::fixtures::noise;
use crate::support::host::Host;

thread_local! {
    /// The bytes of `large.bin` of the small repository.
    pub static LARGE: Vec<u8> = noise(1000, 3_000_000);
}

/// Sections for a host that reads from the hub, with short timeouts.
pub const SHORT: &str = "mount: {read_timeout: 3s, resolve_timeout: 5s}\n";

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

/// The commit at which a model is read from the hub.
pub fn commit(host: &Host, model: &str) -> String {
    listed(host, model)["hub_commit"].as_str().unwrap_or_default().to_owned()
}
