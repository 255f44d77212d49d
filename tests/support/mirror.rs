//! A hub on one host of a private network, and hosts that mirror from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::fixtures::{model_dir, noise};
use super::host::Host;
use super::hub::Hub;
use super::net::Net;
use super::process::{Finished, PATIENCE};
use super::repos::{Repo, Repos};
use super::web::place::Place;

/// The `.gitattributes` of the repositories made here, which puts large files into LFS.
pub const ATTRIBUTES: &[u8] = b"*.bin filter=lfs diff=lfs merge=lfs -text\n";

/// A network with a hub, whose large files have another address.
pub struct HubNet {
    /// The hub.
    pub hub: Hub,
    /// The repositories that the hub serves.
    pub repos: Repos,
    /// The host of the hub. Powering it off does not end the hub, which runs in this process: see [`HubNet::unplug`].
    pub server: Host,
    net: Net,
}

impl HubNet {
    /// A network with a hub.
    pub fn new() -> Self {
        let net = Net::new();
        let (server, cdn) = (net.host("hub"), net.host("cdn"));
        let repos = Repos::new();
        let hub = Hub::with_cdn_at(&Place::from(&server), &Place::from(&cdn), &repos);
        Self { hub, repos, server, net }
    }

    /// A host that uses this hub. `more` is further configuration as for [`Host::configure`].
    pub fn host(&self, name: &str, more: &str) -> Host {
        self.host_of(self.hub.url(), name, more)
    }

    /// A host that uses another origin as its hub.
    pub fn host_of(&self, endpoint: &str, name: &str, more: &str) -> Host {
        let host = self.net.host(name);
        self.configure(&host, &format!("endpoint: '{endpoint}'"), more);
        host
    }

    /// A host with further keys of the section `hub`.
    pub fn host_with(&self, name: &str, hub: &str, more: &str) -> Host {
        let host = self.net.host(name);
        self.configure(&host, &format!("endpoint: '{}', {hub}", self.hub.url()), more);
        host
    }

    fn configure(&self, host: &Host, hub: &str, more: &str) {
        // The configuration names the hub's endpoint. The origin of its large files is another private host.
        let cdn: url::Url = self.hub.cdn_url().parse().unwrap();
        let allowed = format!("  allow_private_hosts: ['{}']\n", cdn.host_str().unwrap());
        host.configure(&format!("{allowed}{more}hub: {{{hub}}}\n"));
    }

    /// A repository with a card of this licence, small files, and files of 3 MB and 1 MB in LFS.
    pub fn small(&self, id: &str, license: &str) -> Repo {
        let repo = self.repos.create(id);
        repo.commit(&self.tree(id, license, 1));
        repo
    }

    /// The files of a state of [`Self::small`]. `seed` decides the bytes of the file of 1 MB.
    pub fn tree(&self, id: &str, license: &str, seed: u64) -> PathBuf {
        let card = format!("---\nlicense: {license}\n---\n# A model\n");
        let files: [(&str, &[u8]); 6] = [
            (".gitattributes", ATTRIBUTES),
            ("README.md", card.as_bytes()),
            ("config.json", b"{\"model_type\": \"bert\"}"),
            ("sub/a file+.json", b"[1]"),
            ("large.bin", &noise(1000, 3_000_000)),
            ("sub/changing.bin", &noise(seed, 1_000_000)),
        ];
        let files: Vec<_> =
            files.into_iter().filter(|(path, _)| !license.is_empty() || *path != "README.md").collect();
        model_dir(&self.server.home().join(format!("{id}-{seed}")), &files)
    }

    /// Disconnects the hub from the network.
    pub fn unplug(&self) {
        self.server.disconnect();
    }
}

/// `silmaril mirror`, with a token or without.
pub fn mirror_command(host: &Host, args: &[&str], token: Option<&str>) -> Command {
    let mut command = host.silmaril(&["mirror"]);
    command.args(args);
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    command
}

/// Runs `silmaril mirror` to its end. The mirrored model must not be shared.
pub fn mirror(host: &Host, args: &[&str]) -> Finished {
    host.run_command(&mut mirror_command(host, args, None))
}

/// Runs `silmaril mirror`. The daemon shares the model until the returned value is dropped.
#[track_caller]
pub fn mirror_and_share<'h>(host: &'h Host, args: &[&str]) -> Sharing<'h> {
    let end = Finished::of(&mut mirror_command(host, args, None), PATIENCE);
    assert!(end.stdout.contains("seeding"), "{} {}", end.stdout, end.stderr);
    Sharing { host, printed: end.ok() }
}

/// A daemon in the background that shares a model.
pub struct Sharing<'h> {
    host: &'h Host,
    /// The standard output of `mirror`.
    pub printed: String,
}

impl Drop for Sharing<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.host.stop_background_daemon();
        }
    }
}

/// The directory of a mirrored model.
pub fn mirrored(host: &Host, model: &str) -> PathBuf {
    host.base().join("models").join(model)
}

/// SHA-256 of the files of a mirrored model, as [`super::fixtures::hashes`], without silmaril's own file.
#[track_caller]
pub fn tree(dir: &Path) -> std::collections::BTreeMap<String, String> {
    let mut files = super::fixtures::hashes(dir, PATIENCE);
    files.remove(".silmaril.json");
    files
}
