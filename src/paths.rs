//! Where everything lies below the base directory.

use std::path::{Path, PathBuf};

use crate::model::{InfoHash, ModelName, ModelRef, PiecesRoot};

/// The directories and files of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The node's own directory.
    pub base: PathBuf,
    /// Complete models.
    pub models: PathBuf,
}

impl Paths {
    /// Manifests known.
    pub fn registry(&self) -> PathBuf {
        self.base.join("registry")
    }

    /// The manifest of one revision: `registry/[datasets/]org/name/revision.json`.
    pub fn manifest(&self, model: &ModelRef) -> PathBuf {
        self.registry().join(model.name.to_string()).join(format!("{}.json", model.revision))
    }

    /// The directory of a complete model.
    pub fn model(&self, name: &ModelName) -> PathBuf {
        self.models.join(name.to_string())
    }

    /// The metainfo of a torrent, with piece layers.
    pub fn metainfo(&self, info_hash: &InfoHash) -> PathBuf {
        self.base.join("torrents").join(format!("{info_hash}.torrent"))
    }

    /// Piece layers known so far of a torrent that is not complete.
    pub fn resume(&self, info_hash: &InfoHash) -> PathBuf {
        self.base.join("resume").join(format!("{info_hash}.resume"))
    }

    /// Where a revision's files stand outside the cache, and how they looked when they were verified.
    pub fn placement(&self, info_hash: &InfoHash) -> PathBuf {
        self.base.join("resume").join(format!("{info_hash}.json"))
    }

    /// The cache.
    pub fn cache(&self) -> PathBuf {
        self.base.join("cache")
    }

    /// The sparse file that caches one content.
    pub fn cached(&self, root: &PiecesRoot) -> PathBuf {
        let name = root.to_string();
        self.cache().join(&name[..2]).join(name)
    }

    /// The publisher's key.
    pub fn publisher_key(&self) -> PathBuf {
        self.base.join("keys").join("publisher.key")
    }

    /// Logs of background mounts.
    pub fn logs(&self) -> PathBuf {
        self.base.join("log")
    }

    /// The lock that the running node holds; its text is the node's process id.
    pub fn lock(&self) -> PathBuf {
        self.base.join("node.lock")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.base.join("silmaril.sock")
    }

    /// Name of the manifest copy inside a model directory of `models`.
    pub const MODEL_MANIFEST: &'static str = ".silmaril.json";

    /// Paths for a base directory with the default models directory.
    pub fn below(base: &Path) -> Self {
        Self { base: base.to_owned(), models: base.join("models") }
    }
}
