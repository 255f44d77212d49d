//! What the tests of the mount run on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use silmaril::fetch::{Fetch, FetchSettings};
use silmaril::mount::{MountError, MountOptions, Mounted};
use silmaril::paths::Paths;
use silmaril::torrent::Discovery;
use tokio::runtime::Runtime;

use crate::support::mounts::detach_below;
use crate::support::swarm::FakeSwarm;

/// A mount in a temporary directory, with the runtime that serves it.
pub struct Rig {
    /// Always there until the rig is dropped.
    mounted: Option<Mounted>,
    pub fetch: Arc<Fetch>,
    pub runtime: Runtime,
    pub dir: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let fetch = fetch(&runtime, &dir.path().join("base"));
        let point = dir.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let mounted = mount(&point, &fetch, &runtime).unwrap();
        Self { mounted: Some(mounted), fetch, runtime, dir }
    }

    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    /// The mount point.
    pub fn point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Whether the mount is gone within a deadline.
    pub fn is_gone(&self) -> bool {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), self.mounted().gone()).await.is_ok()
        })
    }

    /// Stops the mount.
    pub fn stop(&self) {
        self.runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(20), self.mounted().stop()).await })
            .expect("stopping hangs");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.mounted.take());
        detach_below(self.dir.path());
    }
}

/// Mounts on an existing directory.
pub fn mount(point: &Path, fetch: &Arc<Fetch>, runtime: &Runtime) -> Result<Mounted, MountError> {
    let options = MountOptions { mountpoint: point.to_owned(), allow_other: false };
    Mounted::new(&options, fetch.clone(), runtime.handle().clone())
}

/// A scheduler without any swarm.
pub fn fetch(runtime: &Runtime, base: &Path) -> Arc<Fetch> {
    let _inside = runtime.enter();
    let settings = FetchSettings {
        read_timeout: Duration::from_secs(60),
        readahead_max: 1 << 20,
        trackers: Vec::new(),
        discovery: Discovery { dht: false, lan: false, pex: false },
        peers: Vec::new(),
    };
    Fetch::new(FakeSwarm::new().0, Paths::below(base), settings)
}
