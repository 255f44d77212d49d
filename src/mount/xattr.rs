//! Facts about files and revisions, shown as extended attributes `user.silmaril.*`.

use std::ffi::OsStr;

use super::listing::NodeKind;
use super::view::Found;
use crate::model::Manifest;

/// One fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// SHA-256 of the whole file, in hexadecimal.
    Sha256,
    /// BEP 52 pieces root of the file, in hexadecimal; an empty file has none.
    PiecesRoot,
    /// v2 info hash of the revision, in hexadecimal.
    InfoHash,
    /// Verified bytes that are here, in decimal.
    CachedBytes,
    /// The publisher's key, in hexadecimal; an unsigned manifest has none.
    Publisher,
    /// The revision; only on its directory.
    Revision,
    /// Whether the name is pinned to this publisher: `pinned` or `not pinned`.
    Trust,
}

impl Fact {
    /// All facts.
    pub const ALL: [Self; 7] = [
        Self::Sha256,
        Self::PiecesRoot,
        Self::InfoHash,
        Self::CachedBytes,
        Self::Publisher,
        Self::Revision,
        Self::Trust,
    ];

    /// The attribute's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "user.silmaril.sha256",
            Self::PiecesRoot => "user.silmaril.pieces_root",
            Self::InfoHash => "user.silmaril.info_hash",
            Self::CachedBytes => "user.silmaril.cached_bytes",
            Self::Publisher => "user.silmaril.publisher",
            Self::Revision => "user.silmaril.revision",
            Self::Trust => "user.silmaril.trust",
        }
    }

    /// The fact of that name.
    pub fn from_name(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// What an inode has to say about a fact. Revisions' directories and files have some; nothing else has any. `is_pinned`
/// tells whether a model's name belongs to its publisher, where that is known.
pub fn value(
    found: &Found<'_>,
    fact: Fact,
    is_pinned: impl FnOnce(&Manifest) -> Option<bool>,
) -> Option<String> {
    let Found::Inside(placement, index, node) = found else { return None };
    let (revision, manifest) = (&placement.revision, &placement.revision.manifest);
    // Files that are not shared were not hashed or signed.
    if revision.is_local && !matches!(fact, Fact::CachedBytes) {
        return None;
    }
    match (&node.kind, fact) {
        (NodeKind::File(file), _) => {
            let file = *file as usize;
            let entry = &manifest.files[file];
            match fact {
                Fact::Sha256 => entry.sha256.map(|h| h.to_string()),
                Fact::PiecesRoot => entry.pieces_root.map(|r| r.to_string()),
                Fact::InfoHash => Some(manifest.torrent.info_hash.to_string()),
                Fact::CachedBytes => Some(revision.contents[file].cached_bytes().to_string()),
                Fact::Publisher => manifest.publisher.map(|p| p.to_string()),
                Fact::Revision => None,
                Fact::Trust => is_pinned(manifest).map(trust),
            }
        }
        (NodeKind::Dir { .. }, _) if *index == 0 => match fact {
            Fact::InfoHash => Some(manifest.torrent.info_hash.to_string()),
            Fact::CachedBytes => Some(revision.cached_bytes().to_string()),
            Fact::Publisher => manifest.publisher.map(|p| p.to_string()),
            Fact::Revision => Some(manifest.version.to_string()),
            Fact::Trust => is_pinned(manifest).map(trust),
            Fact::Sha256 | Fact::PiecesRoot => None,
        },
        (NodeKind::Dir { .. }, _) => None,
    }
}

fn trust(pinned: bool) -> String {
    if pinned { "pinned" } else { "not pinned" }.to_owned()
}
