//! The extended attributes `user.silmaril.*` of files and revisions.

use std::ffi::OsStr;

use super::listing::NodeKind;
use super::shown::InodeRef;
use crate::model::Manifest;
use crate::store::StoredRevision;

/// One extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrName {
    /// SHA-256 of the whole file, in hexadecimal.
    Sha256,
    /// BEP 52 pieces root of the file, in hexadecimal; an empty file has none.
    PiecesRoot,
    /// v2 info hash of the revision, in hexadecimal.
    InfoHash,
    /// Number of verified cached bytes, in decimal.
    CachedBytes,
    /// The publisher's key, in hexadecimal; an unsigned manifest has none.
    Publisher,
    /// The revision; only on its directory.
    Revision,
    /// Whether the name is pinned to this publisher: `pinned` or `not pinned`.
    Trust,
    /// What the bytes of the file rest on: `piece` for the hashes of its pieces, `sha256` for the hash of the whole file that
    /// the hub lists, `hub` for the hub's TLS and the commit.
    Proof,
    /// What the hub has shown about bytes of a publisher that the user did not choose: `listed by the hub` or `as on the hub`. Absent
    /// if the hub was not asked, or does not list the files.
    Hub,
}

impl XattrName {
    /// All attributes.
    pub const ALL: [Self; 9] = [
        Self::Sha256,
        Self::PiecesRoot,
        Self::InfoHash,
        Self::CachedBytes,
        Self::Publisher,
        Self::Revision,
        Self::Trust,
        Self::Proof,
        Self::Hub,
    ];

    /// The full name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "user.silmaril.sha256",
            Self::PiecesRoot => "user.silmaril.pieces_root",
            Self::InfoHash => "user.silmaril.info_hash",
            Self::CachedBytes => "user.silmaril.cached_bytes",
            Self::Publisher => "user.silmaril.publisher",
            Self::Revision => "user.silmaril.revision",
            Self::Trust => "user.silmaril.trust",
            Self::Proof => "user.silmaril.proof",
            Self::Hub => "user.silmaril.hub",
        }
    }

    /// The attribute with this full name.
    pub fn from_name(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// The value of an attribute; none if the inode does not have it. Only files and the directories of revisions have
/// attributes. `is_pinned` returns whether a model's name is pinned to its publisher, if that is known.
pub fn value(
    found: &InodeRef<'_>,
    name: XattrName,
    is_pinned: impl FnOnce(&Manifest) -> Option<bool>,
) -> Option<String> {
    let InodeRef::Inside(placement, index, node) = found else { return None };
    let (revision, manifest) = (&placement.revision, &placement.revision.manifest);
    // Local models that are not shared are neither hashed nor signed.
    if revision.is_local && !matches!(name, XattrName::CachedBytes) {
        return None;
    }
    // A model of a hub has no torrent and no publisher; its pieces roots are made up.
    let made_up = [XattrName::PiecesRoot, XattrName::InfoHash, XattrName::Publisher, XattrName::Trust];
    if revision.hub.is_some() && made_up.contains(&name) {
        return None;
    }
    match (&node.kind, name) {
        (NodeKind::File(file), _) => {
            let file = *file as usize;
            let entry = &manifest.files[file];
            match name {
                XattrName::Sha256 => entry.sha256.map(|h| h.to_string()),
                XattrName::PiecesRoot => entry.pieces_root.map(|r| r.to_string()),
                XattrName::InfoHash => Some(manifest.torrent.info_hash.to_string()),
                XattrName::CachedBytes => Some(revision.contents[file].cached_bytes().to_string()),
                XattrName::Publisher => manifest.publisher.map(|p| p.to_string()),
                XattrName::Revision => None,
                XattrName::Trust => is_pinned(manifest).map(trust),
                XattrName::Proof => Some(proof(revision, file).to_owned()),
                XattrName::Hub => revision.hub_state(file).map(|state| state.as_str().to_owned()),
            }
        }
        (NodeKind::Dir { .. }, _) if *index == 0 => match name {
            XattrName::InfoHash => Some(manifest.torrent.info_hash.to_string()),
            XattrName::CachedBytes => Some(revision.cached_bytes().to_string()),
            XattrName::Publisher => manifest.publisher.map(|p| p.to_string()),
            XattrName::Revision => Some(manifest.version.to_string()),
            XattrName::Trust => is_pinned(manifest).map(trust),
            XattrName::Hub => revision.hub_state_of_all().map(|state| state.as_str().to_owned()),
            XattrName::Sha256 | XattrName::PiecesRoot | XattrName::Proof => None,
        },
        (NodeKind::Dir { .. }, _) => None,
    }
}

fn proof(revision: &StoredRevision, file: usize) -> &'static str {
    let content = &revision.contents[file];
    match &revision.hub {
        None => "piece",
        Some(_) if content.is_empty() || content.of_hub().is_some_and(|of_hub| of_hub.proof().is_some()) => {
            "sha256"
        }
        Some(_) => "hub",
    }
}

fn trust(pinned: bool) -> String {
    if pinned { "pinned" } else { "not pinned" }.to_owned()
}
