//! A request made definite: which repository, which model, which directories.

use std::path::PathBuf;
use std::sync::Arc;

use super::MirrorRequest;
use crate::http::Token;
use crate::mirror::{
    Board, GitOptions, GitSource, HubSource, MirrorError, Reference, Repository, Snapshot, Source, Terms,
};
use crate::model::{ModelRef, Revision};
use crate::node::share::check_licence;
use crate::node::{Library, Node, NodeError};
use crate::store::StoreError;
use crate::{fsutil, nofollow};

/// One mirroring.
pub(super) struct Job {
    pub repository: Repository,
    /// What of it; none is the default branch.
    reference: Option<Reference>,
    /// What the user should know of what they typed.
    pub note: Option<String>,
    pub model: ModelRef,
    /// The model's directory.
    pub dest: PathBuf,
    /// Where its files come: beside it, so that they are moved and not copied.
    pub staging: PathBuf,
}

impl Job {
    /// Fails where the request names no repository, or one whose name cannot be a model's.
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

    /// Opens the repository; what it does is written on the board.
    pub fn open(
        &self,
        node: &Node,
        request: &MirrorRequest,
        board: &Arc<Board>,
    ) -> Result<Box<dyn Source>, NodeError> {
        let token = &request.surroundings.token;
        let client = node.web.client_with(&request.surroundings)?;
        let (board, reference) = (board.clone(), self.reference.clone());
        Ok(match &self.repository {
            Repository::Hub(hub) => {
                Box::new(HubSource::new(client, hub.clone(), reference, token.as_ref(), board))
            }
            Repository::Git(git) => {
                let options = GitOptions {
                    reference,
                    depth: request.depth,
                    git_dir: node.library.paths.mirror_of(&self.model),
                    token: token.clone(),
                };
                Box::new(GitSource::new(client, git.clone(), options, board))
            }
        })
    }

    /// Fixes the commit and lists its files. What git cannot tell of a repository of the hub, the hub is asked for. Of
    /// another one, who has a password for it thinks that it is private.
    pub async fn snapshot(
        &self,
        node: &Node,
        request: &MirrorRequest,
        source: &dyn Source,
    ) -> Result<Snapshot, NodeError> {
        let mut snapshot = source.snapshot().await?;
        if let Repository::Git(git) = &self.repository {
            if let Some(hub) = &git.hub {
                // The hub takes its tokens for passwords, too.
                let given = git.credential.as_ref().and_then(|c| Token::new(&c.password).ok());
                // In the order in which git tries them.
                let token = given.as_ref().or(request.surroundings.token.as_ref());
                let reference = snapshot.commit.to_string().parse().map_err(MirrorError::from)?;
                let client = node.web.client_with(&request.surroundings)?;
                let hub = HubSource::new(client, hub.clone(), Some(reference), token, Arc::default());
                match hub.terms().await {
                    Ok(Terms { gated, private, license }) => {
                        snapshot.gated = gated;
                        snapshot.private = Some(private);
                        snapshot.license = license;
                    }
                    // What git was shown for a credential that the hub's API does not take.
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

    /// Removes what is left of the download.
    pub fn clear(&self) -> Result<(), NodeError> {
        let failed = |e| StoreError::io(&self.staging, e);
        nofollow::remove_dir_all(&self.staging).map_err(failed)?;
        Ok(nofollow::sync_dir(fsutil::parent(&self.staging)).map_err(failed)?)
    }
}

/// The revision that a branch, tag or commit is here. A slash cannot be in a revision's name.
fn revision(reference: Option<&Reference>) -> Result<Revision, NodeError> {
    match reference {
        None => Ok(Revision::default()),
        Some(reference) => {
            let text = reference.as_str().replace('/', "-");
            text.parse().map_err(|e| NodeError::Request(format!("{reference} names no revision here: {e}")))
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
