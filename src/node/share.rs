//! `share`: makes a manifest and a torrent of a directory, which stays in its place.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::catalog::now;
use crate::model::describe::{DescribeOptions, Description, describe};
use crate::model::keys::PublisherKeypair;
use crate::model::license::{self};
use crate::model::magnet::Magnet;
use crate::model::manifest::MAX_WEB_SEEDS;
use crate::model::metainfo::parse_metainfo;
use crate::model::scan::OutsideLinks;
use crate::model::web_seed::WebSeed;
use crate::model::{FileEntry, Manifest, ModelName, ModelRef, PieceLayers, Revision};
use crate::node::request_errors::ShareError;
use crate::node::sharing::Rule;
use crate::node::{Library, Node, NodeError, blocking, export};
use crate::store::{ContentKey, Pass, Stamp};
use crate::torrent::create::{self, NewFile};

/// The body of `POST /v1/share`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShareRequest {
    /// The directory, an absolute path.
    pub path: PathBuf,
    /// The name of the model.
    pub name: ModelName,
    /// The revision.
    pub version: Revision,
    /// Licence identifier; none uses that of the model card.
    pub license: Option<String>,
    /// Bytes of a piece.
    pub piece_length: u32,
    /// Whether to sign.
    pub sign: bool,
    /// Whether to make a hybrid (v1 + v2) torrent as well.
    pub hybrid: bool,
    /// Addresses of its files on the web: directories that end in `/`, or the only file.
    #[serde(default)]
    pub web_seeds: Vec<WebSeed>,
    /// Links out of the directory that are followed: the user has confirmed these targets.
    #[serde(default)]
    pub follow_links: OutsideLinks,
    /// Whether it is kept out of the DHT.
    #[serde(default)]
    pub skip_dht: bool,
}

/// The result of a `share`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shared {
    /// The manifest, which is in the registry.
    pub manifest: Arc<Manifest>,
    /// The magnet link of the hybrid torrent, which v1 clients can use; none if it was not made.
    #[serde(default)]
    pub hybrid_magnet: Option<String>,
    /// Warnings for the publisher: unknown licence, pickles, …
    pub warnings: Vec<String>,
}

impl Library {
    /// Hashes the directory in one pass and records manifest, metainfo and placement. `progress` receives the bytes
    /// done and the bytes to do. When `cancel` is set, it stops and records nothing. The caller holds the node lock.
    pub fn publish(
        &self,
        request: &ShareRequest,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Shared, NodeError> {
        let dir = std::fs::canonicalize(&request.path)
            .map_err(|source| NodeError::Io { path: request.path.clone(), source })?;
        refuse_own_mount(&dir)?;
        check_licence(request.license.as_deref())?;
        self.trust.check(&request.name, self.signer(request.sign)?.map(|key| key.public()))?;
        let options = DescribeOptions {
            license: request.license.as_deref(),
            license_needed: true,
            whole: true,
            hybrid: request.hybrid,
            piece_length: request.piece_length,
            description: None,
            source: None,
            known: Default::default(),
            follow: request.follow_links.clone(),
            progress,
            cancel,
        };
        let Description { mut manifest, piece_layers, granules, mut warnings, metadata, targets } =
            describe(&dir, &request.name, &request.version, &options)?;
        warnings.extend(add_web_seeds(&mut manifest, &request.web_seeds, &piece_layers)?);
        if request.hybrid {
            let metainfo = hybrid(&manifest, &dir, &targets)?;
            let info_hash = parse_metainfo(&metainfo)
                .map_err(|e| NodeError::Refused {
                    origin: "the hybrid torrent".to_owned(),
                    reason: e.to_string(),
                })?
                .info_hash;
            self.store.torrents.save_metainfo(&info_hash, &metainfo)?;
            manifest.torrent.hybrid_info_hash = Some(info_hash);
        }
        self.seal(&mut manifest, request.sign)?;
        if cancel.load(Ordering::Relaxed) {
            return Err(NodeError::Cancelled);
        }
        self.trust.claim(&request.name, manifest.publisher)?;
        self.store
            .torrents
            .save_metainfo(&manifest.torrent.info_hash, &manifest.metainfo(Some(&piece_layers)))?;
        for (file, granules) in manifest.files.iter().zip(&granules) {
            if let Some(root) = file.pieces_root {
                self.store.parts.granules.save(&ContentKey { root, len: file.size }, granules);
            }
        }
        let stamps: Vec<Stamp> = metadata.iter().map(Stamp::of).collect();
        self.store.placed().record_as(&manifest, &dir, &stamps, &targets)?;
        self.store.parts.scrub.set_pass(&manifest.torrent.info_hash, Pass { at: now(), ..Pass::default() });
        self.enter_own_state(&manifest)?;
        let manifest = self.registry.insert(manifest)?;
        let hybrid_magnet = export::hybrid_torrent(self, &manifest)?.map(|hybrid| hybrid.magnet.to_string());
        Ok(Shared { manifest, hybrid_magnet, warnings })
    }

    /// The key of this node, created if there is none; none without `sign`.
    pub(super) fn signer(&self, sign: bool) -> Result<Option<PublisherKeypair>, NodeError> {
        let load = || PublisherKeypair::load_or_create(&self.paths.publisher_key());
        Ok(sign.then(load).transpose()?)
    }

    /// Completes a manifest with the trackers of this node and, with `sign`, its signature.
    pub(super) fn seal(&self, manifest: &mut Manifest, sign: bool) -> Result<(), NodeError> {
        add_trackers(manifest, &self.config.network.trackers);
        // Loaded now: the key may have been replaced while the files were hashed.
        if let Some(key) = self.signer(sign)? {
            manifest.sign(&key);
        }
        Ok(())
    }
}

/// [`Library::publish`] on its own thread. Dropping the future stops it soon, with nothing recorded. Leaves the swarm
/// of a former model of this name.
pub(super) async fn run(
    node: &Arc<Node>,
    request: ShareRequest,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Shared, NodeError> {
    let model = ModelRef { name: request.name.clone(), revision: request.version.clone() };
    let former = node.library.registry.get(&model);
    let rule = Rule { without_dht: request.skip_dht, ..Rule::default() };
    let holder = node.clone();
    let shared =
        blocking::cancellable(move |cancel| holder.library.publish(&request, &progress, cancel)).await?;
    let revision = node.library.revision(&model)?;
    // By sharing a directory, the user confirms the right to share it.
    node.set_rule(&shared.manifest, rule)?;
    node.fetch.relocate(&revision);
    // Also when the client disconnects now.
    node.seeds.join(&revision)?;
    let same = |m: &Arc<Manifest>| m.torrent.info_hash == shared.manifest.torrent.info_hash;
    if let Some(former) = former.filter(|former| !same(former)) {
        node.seeds.leave_unless_used(&former);
    }
    node.changed();
    Ok(shared)
}

/// Refuses a directory inside a silmaril mount: seeding it would make reads of the mount wait for the mount.
fn refuse_own_mount(dir: &Path) -> Result<(), NodeError> {
    let mounts = crate::mount::list_mounts().map_err(NodeError::internal)?;
    match mounts.iter().find(|mount| dir.starts_with(&mount.mountpoint)) {
        Some(mount) => {
            Err(ShareError::InsideMount { dir: dir.to_owned(), mount: mount.mountpoint.clone() }.into())
        }
        None => Ok(()),
    }
}

/// Refuses an invalid licence of the command line.
pub(super) fn check_licence(given: Option<&str>) -> Result<(), NodeError> {
    Ok(given.map_or(Ok(()), |given| license::check(given).map(drop)).map_err(ShareError::Licence)?)
}

/// Adds the configured trackers to the magnet link, which may be all that a peer has.
fn add_trackers(manifest: &mut Manifest, trackers: &[Url]) {
    let mut magnet = Magnet::new(manifest.torrent.info_hash, &manifest.torrent.name);
    magnet.trackers = trackers.iter().map(Url::to_string).collect();
    manifest.magnet_uri = magnet.to_string();
}

/// Adds the web seeds and the piece hashes to the manifest, so that a host with only the manifest can verify bytes from
/// the web. Returns a warning if the hashes are too many.
fn add_web_seeds(
    manifest: &mut Manifest,
    seeds: &[WebSeed],
    layers: &PieceLayers,
) -> Result<Option<String>, ShareError> {
    if let Some(file) = seeds.iter().find(|seed| !seed.is_directory() && manifest.files.len() > 1) {
        let count = manifest.files.len();
        return Err(ShareError::WebSeedOfFile { seed: file.to_string(), files: count });
    }
    if seeds.len() > MAX_WEB_SEEDS {
        return Err(ShareError::TooManyWebSeeds(MAX_WEB_SEEDS));
    }
    manifest.web_seeds = seeds.iter().map(WebSeed::to_string).collect();
    if seeds.is_empty() || manifest.carry_piece_layers(layers) {
        return Ok(None);
    }
    Ok(Some(
        "the hashes of all pieces are too many for the manifest: only hosts that have them from peers can use \
         --web-seed; larger pieces (--piece-length) have fewer"
            .to_owned(),
    ))
}

/// The hybrid twin: the same files, in a torrent that v1 clients can join too. Reads the files a second time.
fn hybrid(manifest: &Manifest, dir: &Path, targets: &HashMap<String, PathBuf>) -> Result<Vec<u8>, NodeError> {
    let file = |entry: &FileEntry| NewFile {
        path: entry.path.clone(),
        size: entry.size,
        source: targets.get(&entry.path).cloned().unwrap_or_else(|| dir.join(&entry.path)),
    };
    let files: Vec<NewFile> = manifest.files.iter().map(file).collect();
    Ok(create::hybrid(&manifest.torrent.name, &files, manifest.torrent.piece_length)?)
}
