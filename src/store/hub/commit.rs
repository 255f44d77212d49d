//! One commit of a repository at a hub, and the names of the contents of its files.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{GitOid, Identity, ModelName, ModelRef, PiecesRoot};
use crate::store::ContentKey;

/// The name of a content that comes from a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HubKey {
    /// The hash that the hub lists.
    pub identity: Identity,
    /// Length in bytes.
    pub len: u64,
    /// The restricted repository that has it; none for a repository that all users may read. A listing is only a claim: with
    /// the hash of a file of a restricted repository in another one, a user could otherwise read the cached bytes.
    pub scope: Option<HubScope>,
}

/// Names a restricted repository of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HubScope(u64);

impl HubKey {
    /// Name of its file in the cache.
    pub(in crate::store) fn file_name(&self) -> String {
        let name = match self.identity {
            Identity::Lfs(sha256) => format!("{sha256}.{}", self.len),
            Identity::Git(oid) => format!("{oid}.{}", self.len),
        };
        match self.scope {
            None => name,
            Some(HubScope(scope)) => format!("{name}.{scope:016x}"),
        }
    }

    /// The content of a file with this name, if any.
    pub(in crate::store) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let hash = parts.next()?;
        let identity = match hash.len() {
            40 => Identity::Git(hash.parse().ok()?),
            _ => Identity::Lfs(hash.parse().ok()?),
        };
        let len = parts.next()?.parse().ok()?;
        let scope = match parts.next() {
            Some(scope) if scope.len() == 16 => Some(HubScope(u64::from_str_radix(scope, 16).ok()?)),
            Some(_) => return None,
            None => None,
        };
        parts.next().is_none().then_some(Self { identity, len, scope })
    }

    /// The key among all contents: no bytes have this pieces root.
    pub(in crate::store) fn content_key(&self) -> ContentKey {
        let mut hasher = Sha256::new();
        hasher.update(b"silmaril hub content\0");
        hasher.update(self.file_name());
        ContentKey { root: PiecesRoot(hasher.finalize().into()), len: self.len }
    }
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubFile {
    /// The relative path.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// The hash that the hub lists.
    pub identity: Identity,
}

/// One commit of a repository at a hub. The name of the model stays at this commit until the user updates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubListing {
    /// The model.
    pub model: ModelRef,
    /// The name that the hub uses for the repository; it differs from the model's after a renaming.
    pub repository: ModelName,
    /// The address of the hub.
    pub endpoint: String,
    /// The commit.
    pub commit: GitOid,
    /// The files, in canonical order.
    pub files: Vec<HubFile>,
    /// Whether users must accept conditions to read the repository.
    #[serde(default)]
    pub gated: bool,
    /// Whether only certain users can read it.
    #[serde(default)]
    pub private: bool,
    /// The licence that the hub reports.
    #[serde(default)]
    pub license: Option<String>,
    /// A newer commit of the same name that the hub had when it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<GitOid>,
}

impl HubListing {
    /// The file with a path.
    pub fn file(&self, path: &str) -> Option<&HubFile> {
        let at = self.files.binary_search_by(|file| crate::model::path::compare(&file.path, path));
        at.ok().map(|at| &self.files[at])
    }

    /// Whether only users that the hub accepts may read the files.
    pub fn is_restricted(&self) -> bool {
        self.gated || self.private
    }

    /// The name of the content of a file of this commit; none for an empty file.
    pub fn key(&self, file: &HubFile) -> Option<HubKey> {
        (file.size > 0).then(|| HubKey { identity: file.identity, len: file.size, scope: self.scope() })
    }

    /// The names of the contents of all files that are not empty.
    pub fn keys(&self) -> impl Iterator<Item = HubKey> {
        self.files.iter().filter_map(|file| self.key(file))
    }

    fn scope(&self) -> Option<HubScope> {
        self.is_restricted().then(|| {
            let mut hasher = Sha256::new();
            hasher.update(format!("silmaril restricted\0{}\0{}", self.endpoint, self.repository));
            let hash: [u8; 32] = hasher.finalize().into();
            HubScope(hash.iter().take(8).fold(0, |scope, byte| scope << 8 | u64::from(*byte)))
        })
    }
}
