//! The first steps of most tests: one host shares a model, another imports its manifest.

use std::path::{Path, PathBuf};

use super::host::Host;
use super::process::{PATIENCE, Proc};

/// A directory that is shared until this is dropped.
pub struct Share {
    /// The running `share` command.
    pub process: Proc,
    /// The exported manifest.
    pub manifest: PathBuf,
}

/// Shares a directory, with further arguments `more`, and waits until it is seeded.
#[track_caller]
pub fn share(host: &Host, dir: &Path, name: &str, more: &[&str]) -> Share {
    let mut args = vec!["share", "-f", dir.to_str().unwrap(), "--name", name, "--license", "apache-2.0"];
    args.extend(more);
    let process = host.spawn(&args);
    process.wait_for_line("seeding", PATIENCE);
    Share { process, manifest: export(host, name) }
}

/// Exports a manifest to a file of the host's home.
#[track_caller]
pub fn export(host: &Host, name: &str) -> PathBuf {
    let manifest = host.home().join(format!("{}.json", name.replace('/', "--")));
    host.run(&["registry", "export", name, "-o", manifest.to_str().unwrap()]).ok();
    manifest
}

/// Imports a manifest.
#[track_caller]
pub fn import(host: &Host, manifest: &Path) {
    host.run(&["registry", "import", manifest.to_str().unwrap()]).ok();
}
