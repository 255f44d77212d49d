//! `registry export`: a `.torrent` file and a magnet link, with which other BitTorrent clients join the swarm of a
//! model.

use sha1::{Digest as _, Sha1};

use super::{Library, NodeError};
use crate::model::magnet::Magnet;
use crate::model::metainfo::{parse_metainfo, with_trackers};
use crate::model::{Manifest, ModelRef};

/// A torrent of a model, for other clients.
#[derive(Debug)]
pub struct Torrent {
    /// The link; it names both hashes of a hybrid torrent.
    pub magnet: Magnet,
    /// The bencoded metainfo, with trackers.
    pub metainfo: Vec<u8>,
}

/// The torrent of a model: the hybrid one if this host made it with `share --hybrid`, unless `v2_only`.
pub fn torrent(library: &Library, model: &ModelRef, v2_only: bool) -> Result<Torrent, NodeError> {
    let manifest = library.manifest(model)?;
    if !v2_only && let Some(hybrid) = hybrid_torrent(library, &manifest)? {
        return Ok(hybrid);
    }
    let info_hash = manifest.torrent.info_hash;
    let metainfo = match library.store.torrents.load_metainfo(&info_hash)? {
        Some(kept) => kept,
        None => {
            let layers = library.store.torrents.layers(&manifest)?;
            manifest.metainfo(Some(&layers).filter(|layers| !layers.is_empty()))
        }
    };
    finish(&manifest, metainfo)
}

/// The hybrid torrent of a model, if this host made it.
pub(super) fn hybrid_torrent(library: &Library, manifest: &Manifest) -> Result<Option<Torrent>, NodeError> {
    let Some(hybrid) = manifest.torrent.hybrid_info_hash else { return Ok(None) };
    let metainfo = library.store.torrents.load_metainfo(&hybrid)?;
    metainfo.map(|metainfo| finish(manifest, metainfo)).transpose()
}

/// Adds the trackers that the manifest names.
fn finish(manifest: &Manifest, metainfo: Vec<u8>) -> Result<Torrent, NodeError> {
    let refused = |reason: &dyn std::fmt::Display| NodeError::Refused {
        origin: format!("the torrent of {}", manifest.model_ref()),
        reason: reason.to_string(),
    };
    let parsed = parse_metainfo(&metainfo).map_err(|e| refused(&e))?;
    let trackers = manifest.magnet_uri.parse::<Magnet>().map(|link| link.trackers).unwrap_or_default();
    let is_hybrid = Some(parsed.info_hash) == manifest.torrent.hybrid_info_hash;
    let mut magnet = Magnet::new(parsed.info_hash, &manifest.torrent.name);
    magnet.v1_info_hash = is_hybrid.then(|| Sha1::digest(&parsed.info).into());
    magnet.trackers.clone_from(&trackers);
    let metainfo = with_trackers(&metainfo, &trackers).map_err(|e| refused(&e))?;
    Ok(Torrent { magnet, metainfo })
}
