//! `share`: a directory becomes a manifest and a torrent, in place.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::keys::PublisherKeypair;
use crate::model::codec::MAX_WEB_SEEDS;
use crate::model::describe::{DescribeOptions, Description, describe};
use crate::model::license;
use crate::model::magnet::Magnet;
use crate::model::metainfo::parse_metainfo;
use crate::model::scan::OutsideLinks;
use crate::model::web_seed::WebSeed;
use crate::model::{FileEntry, Manifest, ModelName, ModelRef, PieceLayers, Revision};
use crate::node::catalog::now;
use crate::node::sharing::Rule;
use crate::node::{Library, Node, NodeError, blocking, export};
use crate::store::{ContentKey, Pass, Stamp};
use crate::torrent::create::{self, NewFile};

/// What to share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShareRequest {
    /// The directory, from the root.
    pub path: PathBuf,
    /// Under which name.
    pub name: ModelName,
    /// Which revision.
    pub version: Revision,
    /// Licence identifier; none takes it from the model card.
    pub license: Option<String>,
    /// Bytes a piece.
    pub piece_length: u32,
    /// Whether to sign.
    pub sign: bool,
    /// Whether to make a hybrid (v1 + v2) torrent as well.
    pub hybrid: bool,
    /// Where its files are on the web, too: directories that end in `/`, or the only file.
    #[serde(default)]
    pub web_seeds: Vec<WebSeed>,
    /// Links out of the directory that are followed: those that the user has seen, with their targets.
    #[serde(default)]
    pub follow_links: OutsideLinks,
    /// Whether it is kept out of the DHT.
    #[serde(default)]
    pub skip_dht: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shared {
    /// The manifest, now in the registry.
    pub manifest: Arc<Manifest>,
    /// The link to the hybrid torrent, which v1 clients can use; none where it was not made.
    #[serde(default)]
    pub hybrid_magnet: Option<String>,
    /// Things the publisher should know: unknown licence, pickles, …
    pub warnings: Vec<String>,
}

impl Library {
    /// Hashes the directory in one pass and records manifest, metainfo and placement. `progress` gets bytes done
    /// and bytes in all; once `cancel` is set it stops and records nothing. The caller holds the node lock.
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
            self.store.save_metainfo(&info_hash, &metainfo)?;
            manifest.torrent.hybrid_info_hash = Some(info_hash);
        }
        self.seal(&mut manifest, request.sign)?;
        if cancel.load(Ordering::Relaxed) {
            return Err(NodeError::Request("cancelled".to_owned()));
        }
        self.trust.claim(&request.name, manifest.publisher)?;
        self.store.save_metainfo(&manifest.torrent.info_hash, &manifest.metainfo(Some(&piece_layers)))?;
        for (file, granules) in manifest.files.iter().zip(&granules) {
            if let Some(root) = file.pieces_root {
                self.store.save_granules(&ContentKey { root, len: file.size }, granules);
            }
        }
        let stamps: Vec<Stamp> = metadata.iter().map(Stamp::of).collect();
        self.store.record_placement_as(&manifest, &dir, &stamps, &targets)?;
        self.store.set_pass(&manifest.torrent.info_hash, Pass { at: now(), ..Pass::default() });
        self.enter_own_state(&manifest)?;
        let manifest = self.registry.insert(manifest)?;
        let hybrid_magnet = export::hybrid_torrent(self, &manifest)?.map(|hybrid| hybrid.magnet.to_string());
        Ok(Shared { manifest, hybrid_magnet, warnings })
    }

    /// Our key, made where there is none; nothing where nothing is to be signed.
    pub(super) fn signer(&self, sign: bool) -> Result<Option<PublisherKeypair>, NodeError> {
        match sign {
            true => Ok(Some(PublisherKeypair::load_or_create(&self.paths.publisher_key())?)),
            false => Ok(None),
        }
    }

    /// Adds to a manifest what depends on this node: trackers, and the signature where there is to be one.
    pub(super) fn seal(&self, manifest: &mut Manifest, sign: bool) -> Result<(), NodeError> {
        add_trackers(manifest, &self.config.network.trackers);
        // Read now: it may have been replaced while the files were hashed.
        if let Some(key) = self.signer(sign)? {
            manifest.sign(&key);
        }
        Ok(())
    }
}

/// [`Library::publish`] on a thread of its own. Dropping the future stops it soon, with nothing recorded. The
/// node goes on with what it knows now: a model of the same name and other files is left.
pub async fn run(
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
    // Whoever shares a directory says that it is theirs to share.
    node.set_rule(&shared.manifest, rule)?;
    node.fetch.relocate(&revision);
    // Whether or not the command lives to see it.
    node.seeds.join(&revision)?;
    let same = |m: &Arc<Manifest>| m.torrent.info_hash == shared.manifest.torrent.info_hash;
    if let Some(former) = former.filter(|former| !same(former)) {
        node.seeds.leave_unless_used(&former);
    }
    node.changed();
    Ok(shared)
}

/// Refuses a directory that a silmaril mount shows: sharing it in place would make reads of the mount wait for
/// the mount.
fn refuse_own_mount(dir: &Path) -> Result<(), NodeError> {
    let mounts = crate::mount::list_mounts().map_err(|e| NodeError::Internal(e.to_string()))?;
    match mounts.iter().find(|mount| dir.starts_with(&mount.mountpoint)) {
        Some(mount) => Err(NodeError::Request(format!(
            "{} is inside the silmaril mount {}, which shares what it reads by itself",
            dir.display(),
            mount.mountpoint.display()
        ))),
        None => Ok(()),
    }
}

/// Refuses a licence of the command line that cannot be one.
pub(super) fn check_licence(given: Option<&str>) -> Result<(), NodeError> {
    given.map_or(Ok(()), |given| license::check(given).map(drop)).map_err(|e| NodeError::Usage(e.to_string()))
}

/// Names the configured trackers in the magnet link, so that whoever has only that finds them.
fn add_trackers(manifest: &mut Manifest, trackers: &[Url]) {
    let mut magnet = Magnet::new(manifest.torrent.info_hash, &manifest.torrent.name);
    magnet.trackers = trackers.iter().map(Url::to_string).collect();
    manifest.magnet_uri = magnet.to_string();
}

/// Says where the files are on the web, and what their pieces hash to, so that whoever has only the manifest can verify
/// what comes from there. Returns a warning where that is too much to say.
fn add_web_seeds(
    manifest: &mut Manifest,
    seeds: &[WebSeed],
    layers: &PieceLayers,
) -> Result<Option<String>, NodeError> {
    if let Some(file) = seeds.iter().find(|seed| !seed.is_directory() && manifest.files.len() > 1) {
        let count = manifest.files.len();
        return Err(NodeError::Usage(format!(
            "{file} is the address of one file, and there are {count}; that of a directory ends in /"
        )));
    }
    if seeds.len() > MAX_WEB_SEEDS {
        return Err(NodeError::Usage(format!("at most {MAX_WEB_SEEDS} --web-seed can be given")));
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
        piece_hashes: Vec::new(),
    };
    let files: Vec<NewFile> = manifest.files.iter().map(file).collect();
    Ok(create::hybrid(&manifest.torrent.name, &files, manifest.torrent.piece_length)?)
}
