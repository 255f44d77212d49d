//! The repository, model and directories of a mirror request.

use std::path::PathBuf;
use std::sync::Arc;

use super::MirrorRequest;
use crate::http::Token;
use crate::mirror::{
    AccessTerms, GitOptions, GitSource, HubSource, MirrorError, ProgressBoard, Reference, Repository,
    RepositorySource, Snapshot,
};
use crate::model::{ModelName, ModelRef, Revision};
use crate::node::share::check_licence;
use crate::node::{Library, Node, NodeError};
use crate::store::StoreError;
use crate::{fsutil, nofollow};

/// One mirror request.
pub(super) struct MirrorJob {
    pub repository: Repository,
    /// Branch, tag or commit; none is the default branch.
    reference: Option<Reference>,
    /// A warning about the request.
    pub note: Option<String>,
    pub model: ModelRef,
    /// The model's directory.
    pub dest: PathBuf,
    /// Receives the files. On the file system of `dest`, so that they are moved and not copied.
    pub staging: PathBuf,
}

impl MirrorJob {
    /// Fails if the request names no repository, or if its name cannot be the name of a model.
    pub fn new(library: &Library, request: &MirrorRequest) -> Result<Self, NodeError> {
        let named = Repository::parse(&request.repository, &library.config.hub.endpoint)
            .map_err(MirrorError::from)?;
        check_licence(request.license.as_deref())?;
        let reference = match &request.branch {
            Some(branch) => Some(branch.parse::<Reference>().map_err(MirrorError::from)?),
            None => named.reference,
        };
        let name = request.name.clone().or_else(|| named.repository.default_name()).ok_or_else(|| {
            let shown = &request.shown;
            NodeError::Usage(format!("{shown} suggests no name for the model; pass --name ORG/NAME"))
        })?;
        let model = ModelRef { name, revision: revision(reference.as_ref())? };
        let dest = library.paths.models.join(model.to_string());
        let models = &library.paths.models;
        let staging = library.paths.mirror_staging(&model);
        let below = staging.strip_prefix(models).unwrap_or(&staging);
        let staging = nofollow::real_path(models, below).map_err(|e| StoreError::io(&staging, e))?;
        let repository = named.repository.at_depth(request.depth);
        let note = named
            .inside
            .map(|_| "all of it is mirrored, not only the path that its address names".to_owned());
        Ok(Self { repository, reference, note, model, dest, staging })
    }

    /// The name that the hub uses for the repository, if it is another one, and the user chose no name. A model that was
    /// mirrored under its former name keeps that.
    pub fn new_name(
        &self,
        canonical: Option<&ModelName>,
        request: &MirrorRequest,
        library: &Library,
    ) -> Option<ModelName> {
        let is_known = || library.registry.get(&self.model).is_some();
        let new = canonical.filter(|name| **name != self.model.name && request.name.is_none() && !is_known());
        new.cloned()
    }

    /// The branch, tag or commit that was requested.
    pub fn branch(&self) -> Option<String> {
        self.reference.as_ref().map(|reference| reference.as_str().to_owned())
    }

    /// Opens the repository; its progress is written to the board.
    pub fn open(
        &self,
        node: &Node,
        request: &MirrorRequest,
        board: &Arc<ProgressBoard>,
    ) -> Result<Box<dyn RepositorySource>, NodeError> {
        let token = &request.surroundings.token;
        let client = node.web.client_with(&request.surroundings)?;
        let (board, reference) = (board.clone(), self.reference.clone());
        Ok(match &self.repository {
            Repository::Hub(hub) => {
                let source = HubSource::new(client, hub.clone(), reference, token.as_ref(), board);
                Box::new(source.limited(node.web.hub_limits.clone()))
            }
            Repository::Git(git) => {
                let git_dir = node.library.paths.mirror_of(&self.model);
                let shares_disk = node.library.store.is_on_cache_disk(&git_dir);
                let min_free = if shares_disk { node.library.config.cache.min_free } else { 0 };
                let (depth, token) = (request.depth, token.clone());
                let options = GitOptions { reference, depth, git_dir, token, min_free };
                Box::new(GitSource::new(client, git.clone(), options, board))
            }
        })
    }

    /// Fixes the commit and lists its files. For a git repository of the hub, the hub reports whether it is gated or
    /// private. Another git repository counts as private if the user has a password for it.
    pub async fn snapshot(
        &self,
        node: &Node,
        request: &MirrorRequest,
        source: &dyn RepositorySource,
    ) -> Result<Snapshot, NodeError> {
        let mut snapshot = source.snapshot().await?;
        if let Repository::Git(git) = &self.repository {
            if let Some(hub) = &git.hub {
                // The hub accepts its tokens as passwords.
                let given = git.credential.as_ref().and_then(|c| Token::new(&c.password).ok());
                // In the order in which git tries them.
                let token = given.as_ref().or(request.surroundings.token.as_ref());
                let reference = snapshot.commit.to_string().parse().map_err(MirrorError::from)?;
                let client = node.web.client_with(&request.surroundings)?;
                let hub = HubSource::new(client, hub.clone(), Some(reference), token, Arc::default());
                match hub.terms().await {
                    Ok(AccessTerms { gated, private, license }) => {
                        snapshot.gated = gated;
                        snapshot.private = Some(private);
                        snapshot.license = license;
                    }
                    // Git had access with a credential that the API of the hub refuses.
                    Err(MirrorError::NotFound { .. } | MirrorError::Unauthorised { .. })
                        if snapshot.private == Some(true) => {}
                    Err(error) => return Err(error.into()),
                }
            } else if git.credential.is_some() {
                snapshot.private.get_or_insert(true);
            }
        }
        Ok(snapshot)
    }

    /// Deletes the remains of the download.
    pub fn clear(&self) -> Result<(), NodeError> {
        let failed = |e| StoreError::io(&self.staging, e);
        nofollow::remove_dir_all(&self.staging).map_err(failed)?;
        Ok(nofollow::sync_dir(fsutil::parent(&self.staging)).map_err(failed)?)
    }
}

/// The revision for a branch, tag or commit. A slash becomes `-`, because revisions contain none.
fn revision(reference: Option<&Reference>) -> Result<Revision, NodeError> {
    match reference {
        None => Ok(Revision::default()),
        Some(reference) => {
            let text = reference.as_str().replace('/', "-");
            text.parse()
                .map_err(|e| NodeError::Usage(format!("{reference} cannot be the name of a revision: {e}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_become_revisions() {
        let of = |text: &str| revision(Some(&text.parse().unwrap())).map(|r| r.as_str().to_owned());
        assert_eq!(of("v1.0").unwrap(), "v1.0");
        assert_eq!(of("refs/pr/1").unwrap(), "refs-pr-1");
        assert!(of("ü").is_err());
        assert!(revision(None).unwrap().is_default());
    }
}
