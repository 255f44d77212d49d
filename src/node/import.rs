//! `registry import`: manifests, torrents and magnet links of other hosts. Everything is checked before it is stored.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::http::{Scope, scope};
use crate::model::legacy::{ImportedDocument, LegacyManifest};
use crate::model::magnet::Magnet;
use crate::model::metainfo::{ParsedMetainfo, parse_info, parse_metainfo};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::node::accept::Intent;
use crate::node::get::RESOLVE_WITHIN;
use crate::node::trackers::Trackers;
use crate::node::{Library, Node, NodeError, lookup};
use crate::torrent::{Swarms, TorrentId};
use crate::trust::Pinning;

/// The content of a file given to [`Library::import`].
#[derive(Debug)]
pub enum Imported {
    /// A manifest or a torrent; its manifest is in the registry now.
    Stored(Arc<Manifest>),
    /// A manifest from before schema 1, which needs the info dictionary from a peer.
    Legacy(Box<LegacyManifest>),
}

fn refused(origin: &str, reason: impl ToString) -> NodeError {
    NodeError::Refused { origin: origin.to_owned(), reason: reason.to_string() }
}

/// The name of the model of a torrent: the torrent does not contain it.
fn named<'a>(name: Option<&'a ModelRef>, origin: &str) -> Result<&'a ModelRef, NodeError> {
    name.ok_or_else(|| {
        refused(origin, "a torrent does not contain the organisation of its model; pass --name ORG/NAME")
    })
}

impl Library {
    /// Checks the text of a manifest (JSON or YAML) or a .torrent and stores its manifest, and the piece layers
    /// that a .torrent brings. `origin` names the text in errors; `name` is needed for a .torrent and refused for
    /// a manifest, which names itself. A manifest older than the known one of its publisher needs `allow_older`.
    pub fn import(
        &self,
        bytes: &[u8],
        origin: &str,
        name: Option<&ModelRef>,
        allow_older: bool,
    ) -> Result<Imported, NodeError> {
        if bytes.first() == Some(&b'd') {
            let name = named(name, origin)?;
            let torrent = parse_metainfo(bytes).map_err(|e| refused(origin, e))?;
            let manifest = from_torrent(&torrent, name, origin)?;
            self.store.torrents.save_metainfo(&torrent.info_hash, bytes)?;
            return Ok(Imported::Stored(self.admit(manifest, allow_older)?));
        }
        if let Some(name) = name {
            return Err(refused(origin, format!("a manifest names itself; --name {name} is for torrents")));
        }
        match ImportedDocument::parse(bytes).map_err(|e| refused(origin, e))? {
            ImportedDocument::Manifest(manifest) => Ok(Imported::Stored(self.admit(*manifest, allow_older)?)),
            ImportedDocument::Legacy(legacy) => Ok(Imported::Legacy(legacy)),
        }
    }

    /// Stores a manifest, unless its name belongs to another publisher, the policy does not trust its publisher, or a
    /// newer state of that publisher is known.
    fn admit(&self, manifest: Manifest, allow_older: bool) -> Result<Arc<Manifest>, NodeError> {
        self.accept(manifest, None, Intent::Take { allow_older }, Pinning::Pin)
    }
}

fn from_torrent(torrent: &ParsedMetainfo, name: &ModelRef, origin: &str) -> Result<Manifest, NodeError> {
    Manifest::from_metainfo(name.name.clone(), name.revision.clone(), torrent).map_err(|e| refused(origin, e))
}

/// The body of `POST /v1/import`: an import that needs peers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportRequest {
    /// A magnet link.
    Magnet {
        /// The link.
        link: String,
        /// The name of the model.
        name: Option<ModelRef>,
        /// Hosts of the swarm.
        peers: Vec<SocketAddr>,
    },
    /// A model of a known publisher.
    Of {
        /// The publisher: whole key, alias, or fingerprint of one known here.
        publisher: String,
        /// The model.
        model: ModelRef,
        /// Hosts that may know it.
        peers: Vec<SocketAddr>,
        /// Whether its state may be older than the known one.
        #[serde(default)]
        allow_older: bool,
    },
    /// A manifest from before schema 1.
    Legacy {
        /// Its text.
        text: String,
        /// Where it came from, for errors.
        origin: String,
        /// Hosts of the swarm.
        peers: Vec<SocketAddr>,
    },
}

/// The port announced with `network.announce: false`, as in the engine: no program listens on it.
const NO_PORT: u16 = 1;

/// Imports a model with the help of peers, and shows it in the mounts.
pub(super) async fn run(node: &Arc<Node>, request: &ImportRequest) -> Result<Arc<Manifest>, NodeError> {
    let (ImportRequest::Magnet { peers, .. }
    | ImportRequest::Of { peers, .. }
    | ImportRequest::Legacy { peers, .. }) = request;
    node.session.trust_hosts(peers);
    let manifest = match request {
        ImportRequest::Magnet { link, name, peers } => {
            import_magnet(node, link, name.as_ref(), peers).await?
        }
        ImportRequest::Of { publisher, model, peers, allow_older } => {
            let intent = Intent::Take { allow_older: *allow_older };
            return lookup::resolve_of(node, publisher, model, peers, RESOLVE_WITHIN, intent).await;
        }
        ImportRequest::Legacy { text, origin, peers } => {
            match node.library.import(text.as_bytes(), origin, None, false)? {
                Imported::Stored(manifest) => manifest,
                Imported::Legacy(legacy) => import_legacy(node, &legacy, origin, peers).await?,
            }
        }
    };
    node.changed();
    Ok(manifest)
}

/// Stores the model of a magnet link under `name`, when a peer has sent its info dictionary. Fails after
/// `torrent.download_timeout`.
async fn import_magnet(
    node: &Node,
    link: &str,
    name: Option<&ModelRef>,
    peers: &[SocketAddr],
) -> Result<Arc<Manifest>, NodeError> {
    let name = named(name, link)?;
    let magnet: Magnet = link.parse().map_err(|e| refused(link, e))?;
    let torrent = metadata_of(node, &magnet, link, peers).await?;
    // The manifest of a torrent is unsigned and belongs to no publisher.
    node.library.admit(from_torrent(&torrent, name, link)?, false)
}

/// Completes a manifest from before schema 1 with the info dictionary that its swarm sends.
async fn import_legacy(
    node: &Node,
    legacy: &LegacyManifest,
    origin: &str,
    peers: &[SocketAddr],
) -> Result<Arc<Manifest>, NodeError> {
    let torrent = metadata_of(node, &legacy.magnet, origin, peers).await?;
    node.library.admit(legacy.complete(&torrent).map_err(|e| refused(origin, e))?, false)
}

async fn metadata_of(
    node: &Node,
    magnet: &Magnet,
    origin: &str,
    peers: &[SocketAddr],
) -> Result<ParsedMetainfo, NodeError> {
    // Only the link has web seeds: the info dictionary has none.
    let with_web_seeds = |torrent| ParsedMetainfo { web_seeds: magnet.web_seeds.clone(), ..torrent };
    let mut known = node.library.registry.all().into_iter();
    if let Some(known) = known.find(|m| m.torrent.info_hash == magnet.info_hash) {
        // The engine would refuse the torrent a second time.
        let torrent = checked(&known.info_dict(), &magnet.info_hash).map_err(|e| refused(origin, e))?;
        return Ok(with_web_seeds(torrent));
    }
    let peers: Vec<SocketAddr> =
        node.settings.peers.list().into_iter().chain(peers.iter().copied()).collect();
    let proxied = node.library.config.network.proxy.is_some();
    let trackers = Trackers::of(&magnet.trackers, &node.web.client, proxied).await;
    // The link is untrusted: the engine receives nothing from it that it would resolve or fetch.
    let plain = Magnet {
        v1_info_hash: None,
        trackers: trackers.engine.clone(),
        web_seeds: Vec::new(),
        exact_sources: Vec::new(),
        peers: magnet.peers.iter().copied().filter(|peer| scope(peer.ip()) != Scope::Forbidden).collect(),
        ..magnet.clone()
    };
    let id = node.session.fetch_metadata(&plain.to_string(), &peers)?;
    let _torrent = MetadataTorrent { node, id };
    // A tracker answers only an announcement. With `network.announce: false` it receives a port on which no program listens.
    let announce = node.library.config.network.announce;
    let port = if announce { node.listening().first().map_or(0, SocketAddr::port) } else { NO_PORT };
    let found = |peer| {
        if let Err(error) = node.session.connect_peer(id, peer) {
            tracing::debug!(%peer, %error, "could not call a peer from a tracker");
        }
    };
    let within = node.library.config.torrent.download_timeout;
    let received = async {
        tokio::select! {
            received = node.metadata.expect(id) => received,
            never = trackers.ask(&node.web.client, magnet.info_hash, port, found) => match never {},
        }
    };
    let info = match tokio::time::timeout(within, received).await {
        Ok(Ok(info)) => info,
        Ok(Err(_)) => {
            return Err(refused(origin, "the engine cannot request this torrent now; try again"));
        }
        Err(_) => {
            let why = format!("no peer sent the torrent within {} s", within.as_secs());
            return Err(refused(origin, why));
        }
    };
    checked(&info, &magnet.info_hash).map(with_web_seeds).map_err(|e| refused(origin, e))
}

/// A torrent that is in the engine only for its metadata. Dropping this removes it.
struct MetadataTorrent<'a> {
    node: &'a Node,
    id: TorrentId,
}

impl Drop for MetadataTorrent<'_> {
    fn drop(&mut self) {
        self.node.metadata.forget(self.id);
        // The engine may have refused and removed it already.
        let _ = self.node.session.remove(self.id);
    }
}

/// Parses an info dictionary from a peer, if it is the requested one.
fn checked(info: &[u8], expected: &InfoHash) -> Result<ParsedMetainfo, String> {
    let parsed = parse_info(info).map_err(|e| e.to_string())?;
    if parsed.info_hash == *expected {
        Ok(parsed)
    } else {
        Err(format!("the swarm sent the torrent {}", parsed.info_hash))
    }
}
