//! The running node: its parts, its status, and how it stops.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::clients::Clients;
use super::control::{self, Status};
use super::directory_faults::{self, DirectoryFaults};
use super::disputes::{self, Disputes};
use super::endpoint::Endpoints;
use super::hub::HubModels;
use super::jobs::Jobs;
use super::limited::Limited;
use super::local_models::LocalModels;
use super::lock::NodeLock;
use super::metadata::MetadataWaiters;
use super::mounts::Mounts;
use super::node_catalog::NodeCatalog;
use super::offline::NetworkReach;
use super::seeds::Seeds;
use super::shared_lookups::NetworkLookups;
use super::sharing::Rule;
use super::unresolved::Unresolved;
use super::web::Web;
use super::witness::Witness;
use super::{ErrorKind, Library, NodeError, rotation, space};
use crate::fetch::{Fetch, FetchSettings};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::mount::Namespaces;
use crate::store::StoredRevision;
use crate::torrent::{PeersGuard, Session};

/// How long stopping may take before the remaining work is abandoned.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The reason why a node stops, according to the client that stopped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The user has stopped it: its jobs for clients end as well.
    Stopped,
    /// A node of another version replaces it and continues its jobs for clients.
    Replaced,
}

/// The running engine of one base directory.
pub struct Node {
    /// Registry and store.
    pub library: Arc<Library>,
    /// The scheduler.
    pub fetch: Arc<Fetch>,
    pub(super) session: Arc<Session>,
    pub(super) metadata: Arc<MetadataWaiters>,
    pub(super) settings: FetchSettings,
    /// The swarms of models that are uploaded.
    pub(super) seeds: Seeds,
    /// One job at a time per torrent moves or rereads its files.
    pub(super) jobs: Jobs<InfoHash>,
    /// One job at a time per model mirrors it.
    pub(super) mirrors: Jobs<ModelRef>,
    /// How hubs, git servers and web seeds are reached.
    pub(super) web: Web,
    /// The jobs that commands have it do now.
    pub(super) clients: Clients,
    /// The mounts that it serves.
    pub(super) mounts: Mounts,
    /// The endpoint that it serves for other programs.
    pub(super) endpoints: Endpoints,
    /// The catalog, if it could be opened.
    pub(super) catalog: Option<Arc<NodeCatalog>>,
    /// Whether a peer or a server can be reached.
    pub(super) reach: NetworkReach,
    pub(super) lookups: NetworkLookups,
    pub(super) unresolved: Unresolved,
    pub(super) limited: Limited,
    pub(super) disputes: Arc<Disputes>,
    pub(super) local: Arc<LocalModels>,
    /// Models that are read from the hub.
    pub(super) hub: Arc<HubModels>,
    /// The hub as a witness about manifests.
    pub(super) witness: Witness,
    pub(super) places: DirectoryFaults,
    pub(super) started: Instant,
    pub(super) listening: watch::Receiver<Vec<SocketAddr>>,
    pub(super) ending: watch::Sender<Option<Ending>>,
    pub(super) stopping: AtomicBool,
    pub(super) _peers: PeersGuard,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(super) server: Mutex<Option<control::ControlServer>>,
    /// Shared with each thread that writes below the base directory, which may outlive the node.
    pub(super) lock: Arc<NodeLock>,
}

impl Node {
    /// The addresses the session listens on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.borrow().clone()
    }

    /// Has the node stop: [`Self::stop_requested`] resolves. The first reason counts.
    pub(super) fn request_stop(&self, ending: Ending) {
        self.ending.send_if_modified(|asked| {
            let is_first = asked.is_none();
            asked.get_or_insert(ending);
            is_first
        });
    }

    /// Resolves when a client has requested the stop. The process that runs the node then stops and drops it.
    pub async fn stop_requested(&self) -> Ending {
        let mut ending = self.ending.subscribe();
        // The sender lives as long as the node.
        match ending.wait_for(Option::is_some).await.map(|asked| *asked) {
            Ok(Some(ending)) => ending,
            Ok(None) | Err(_) => Ending::Stopped,
        }
    }

    /// Whether something keeps the node running: a mount, an endpoint, a command, or bytes that it shares.
    pub fn has_work(&self) -> bool {
        !self.mounts.is_empty()
            || !self.clients.is_empty()
            || self.endpoints.is_serving()
            || self.fetch.has_work()
    }

    /// The mount points that this process can unmount.
    pub fn mount_points(&self) -> Vec<PathBuf> {
        self.mounts.paths_here()
    }

    /// Whether the base directory still exists, with the lock that this node holds.
    pub fn has_base(&self) -> bool {
        self.lock.is_in_place()
    }

    /// Whether it has begun to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Joins the swarms of all models with stored bytes, to upload them. A failure for one model is logged. `HostLost`
    /// if the node is stopping.
    pub fn seed_local(&self) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        let mut seeded = Vec::new();
        for revision in self.library.revisions() {
            let withheld = self.library.sharing.of(&revision.manifest.model_ref()).withheld.is_some();
            if withheld {
                continue;
            }
            let info_hash = revision.manifest.torrent.info_hash;
            if revision.held_bytes() == 0 {
                self.places.expect(info_hash);
                continue;
            }
            self.places.forget(&info_hash);
            match self.seeds.join(&revision) {
                Ok(()) => seeded.push(revision),
                Err(e) if self.is_stopping() || e.kind() == ErrorKind::HostLost => {
                    return Err(NodeError::HostLost);
                }
                Err(e) => {
                    tracing::warn!(error = %e, model = %revision.manifest.model_ref(), "could not seed a model")
                }
            }
        }
        Ok(seeded)
    }

    /// The state of this node.
    pub fn status(&self) -> Status {
        let transfers = self.fetch.status();
        let mut problems = self.places.problems();
        problems.extend(
            transfers
                .iter()
                .filter_map(|transfer| directory_faults::damage_in_cache(&self.library, transfer)),
        );
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            namespaces: Namespaces::of_this_process().ok(),
            mounts: self.mounts.status(),
            uptime: self.started.elapsed().as_secs(),
            config: Some(self.library.config.to_string()),
            base_dir: self.library.paths.base.clone(),
            listening: self.listening(),
            transfers,
            dht: self.settings.discovery.dht,
            catalog: self.catalog.as_ref().map(|part| part.catalog.status()),
            jobs: self.clients.status(),
            unresolved: self.unresolved.status(|sought| {
                self.library.known_as(sought).is_some() || self.hub.get(&sought.model).is_some()
            }),
            limited: self.limited.status(),
            disputed: self.disputes.status(&self.mounts.paths()),
            notes: disputes::notes(&self.library, &self.fetch),
            space: space::lack(&self.fetch, &self.library.store, &self.settings.rooms),
            problems,
            endpoint: self.endpoints.status(),
            endpoint_problem: self.endpoints.problem.lock().clone(),
            metrics: self.endpoints.metrics_address(),
            metrics_problem: self.endpoints.metrics_problem.lock().clone(),
            hub: self.hub.status(),
            refuted: self.library.store.witnessed.refuted(),
        }
    }

    /// Reads the registry again, and updates swarms, mounts and announcements. Signs own manifests again if the
    /// publisher's key was replaced.
    pub fn reload(&self) -> Result<(), NodeError> {
        self.library.registry.reload()?;
        self.library.by_publisher.reload()?;
        self.seeds.apply_all_rules();
        rotation::finish_or_log(&self.library);
        self.unresolved.clear();
        self.changed();
        Ok(())
    }

    /// Sets how a model is shared. The engine and the catalog keep to it from now on.
    pub(super) fn set_rule(&self, manifest: &Manifest, rule: Rule) -> Result<(), NodeError> {
        self.library.sharing.set(&manifest.model_ref(), rule)?;
        self.seeds.apply_rules(&manifest.torrent.info_hash);
        self.changed();
        Ok(())
    }

    /// The catalog; `NoCatalog` if it could not be opened.
    pub(super) fn catalog(&self) -> Result<&Arc<NodeCatalog>, NodeError> {
        self.catalog.as_ref().ok_or(NodeError::NoCatalog)
    }

    /// Connects to peers given by the user in the swarm of the catalog.
    pub(super) fn call_in_catalog(&self, peers: &[SocketAddr]) {
        if let Some(part) = &self.catalog {
            part.catalog.introduce(peers);
        }
    }

    /// Has the mounts show, and the catalog announce, the models that are known now.
    pub(super) fn changed(&self) {
        if let Some(part) = &self.catalog {
            part.changed.notify_one();
        }
        self.local.records_changed.notify_one();
        self.hub.manifests_changed();
        if let Err(error) = self.mounts.publish() {
            tracing::error!(%error, "could not update the models in the mounts");
        }
    }

    /// Saves the known nodes of the DHT, if it is used.
    pub(super) async fn save_dht(&self) {
        if self.settings.discovery.dht {
            super::dht::save(&self.session, &self.library.paths).await;
        }
    }

    /// Writes resume data, block maps, the catalog and the state of the DHT, within a deadline.
    async fn save(&self) {
        self.fetch.flush(STOP_WITHIN / 2).await;
        let store = self.library.store.clone();
        let catalog = self.catalog.clone();
        let synced = tokio::task::spawn_blocking(move || {
            if let Some(Err(e)) = catalog.map(|part| part.store.flush()) {
                tracing::error!(error = %e, "could not save the catalog");
            }
            store.close()
        });
        match tokio::time::timeout(STOP_WITHIN / 2, synced).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(e))) => tracing::error!(error = %e, "could not sync the cache"),
            Ok(Err(e)) => tracing::error!(error = %e, "could not sync the cache"),
            Err(_) => tracing::error!("could not sync the cache in time"),
        }
        self.save_dht().await;
    }

    /// Answers waiting reads, ends the jobs of commands, writes resume data and ends the session, all within a
    /// deadline. The base directory is released when the node and all threads that still write there are dropped.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.fetch.stop();
        // The lock is held to the end, so this is the socket of this node. New commands wait for the lock.
        let _ = std::fs::remove_file(self.library.paths.socket());
        if let Some(part) = &self.catalog {
            part.catalog.stop();
        }
        self.endpoints.stop();
        // Parked reads have their answers, so that nothing holds the mounts.
        self.mounts.stop().await;
        let server = self.server.lock().take();
        if let Some(server) = server {
            server.end().await;
        }
        // Saving would create a deleted base directory again.
        if self.has_base() {
            self.save().await;
        }
        let session = self.session.clone();
        let ended = tokio::task::spawn_blocking(move || session.shutdown(STOP_WITHIN / 2));
        if !matches!(tokio::time::timeout(STOP_WITHIN, ended).await, Ok(Ok(true))) {
            tracing::error!("the session did not end in time");
            // It may still write: this process keeps the base directory until it ends.
            std::mem::forget(self.lock.clone());
        }
        let tasks: Vec<_> = self.tasks.lock().drain(..).collect();
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            // The result of an aborted task does not matter.
            let _ = task.await;
        }
    }
}
