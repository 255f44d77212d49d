//! Requests of the witness to the hub: lists of commits, histories and parts of files.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures_util::TryStreamExt as _;

use super::answers::{Asks, Files, History, LONGEST_KEPT};
use crate::mirror::{HubSource, MirrorError, RemoteFile, RepositorySource as _};
use crate::model::{GitOid, ModelRef};
use crate::node::Node;
use crate::node::hub::access::HubAccess;
use crate::node::hub::{hub_of, reference_of, remote};
use crate::store::HubFile;

/// The most bytes that are read and discarded where the hub sends a whole file instead of a part.
const MAX_SKIPPED: u64 = 1 << 20;

/// Whether the hub can be asked about a model now.
pub(super) fn can_ask(node: &Node, access: &HubAccess, model: &ModelRef) -> bool {
    let endpoint = &node.library.config.hub.endpoint;
    access.is_online
        && !access.is_unreachable()
        && access.pause().is_none()
        && node.witness.may_ask(&model.name)
        && node.reach.check_repository(endpoint, &model.to_string()).is_ok()
}

/// Asks the hub about one model, with the access of one mount or command.
pub(super) struct Question<'a> {
    pub node: &'a Arc<Node>,
    pub access: &'a Arc<HubAccess>,
    pub model: &'a ModelRef,
}

impl Question<'_> {
    fn asks(&self) -> &Asks {
        &self.node.witness.asks
    }

    /// The files of a commit according to the hub. `None` if the hub was not asked or did not answer. The caller has a
    /// deadline.
    pub async fn files(&self, commit: GitOid) -> Option<Files> {
        let known = self.node.hub.get(self.model);
        if let Some(listing) = known.as_ref().map(|known| &hub_of(known).listing)
            && listing.commit == commit
            && (!listing.is_restricted() || self.access.is_accepted(self.model))
        {
            return Some(Some(Arc::new(listing.files.clone())));
        }
        let at = (self.model.name.clone(), commit);
        if let Some(known) = self.asks().known_list(&at) {
            return Some(known);
        }
        let _turn = self.asks().turns.turn(&self.model.name).await;
        if let Some(known) = self.asks().known_list(&at) {
            return Some(known);
        }
        if !self.asks().charge(Instant::now()) {
            tracing::warn!(model = %self.model, "too many questions to the hub about manifests of strangers");
            return None;
        }
        let source = self.access.source_at(&self.model.name, commit);
        let files = match source.snapshot().await {
            Ok(found) if found.commit == commit => {
                let files = found.files.iter().map(|file| HubFile {
                    path: file.path.clone(),
                    size: file.size,
                    identity: file.identity,
                });
                let files = Arc::new(files.collect::<Vec<_>>());
                if found.gated || found.private == Some(true) || files.len() > LONGEST_KEPT {
                    // The answer depends on the token, or is long.
                    return Some(Some(files));
                }
                Some(files)
            }
            Ok(_) => None,
            Err(error) if is_unknown(&error) => None,
            Err(error) => {
                tracing::debug!(model = %self.model, %commit, %error, "the hub did not list a commit");
                return None;
            }
        };
        self.asks().lists.lock().put(at, (files.clone(), Instant::now()));
        Some(files)
    }

    /// The position of a commit in the history of the revision of the model: 0 is the newest. None if it is in no page of the
    /// history that was read, or if the hub did not answer. The caller has a deadline.
    pub async fn age(&self, commit: GitOid) -> Option<usize> {
        let commits = match self.asks().known_history(self.model) {
            Some(known) => known,
            None => self.history(commit).await?,
        };
        commits.iter().position(|known| *known == commit)
    }

    /// The history of the revision, or only its newest commit if that is the one sought.
    async fn history(&self, sought: GitOid) -> Option<History> {
        let source = self.access.source(&self.model.name, reference_of(&self.model.revision));
        let explain = |error: MirrorError| {
            tracing::debug!(model = %self.model, %error, "the hub did not send a history");
        };
        let newest = source.newest().await.map_err(explain).ok()?;
        if newest == sought {
            return Some(Arc::new(vec![newest]));
        }
        let mut commits = source.history().await.map_err(explain).unwrap_or_default();
        if commits.first() != Some(&newest) {
            commits.insert(0, newest);
        }
        let commits = Arc::new(commits);
        self.asks().histories.lock().put(self.model.clone(), (commits.clone(), Instant::now()));
        Some(commits)
    }

    /// Bytes of a file of a commit. None if the hub did not send all of them. The caller has a deadline, and bounds the length.
    pub async fn bytes(&self, commit: GitOid, file: &HubFile, part: Range<u64>) -> Option<Vec<u8>> {
        if !self.asks().charge(Instant::now()) {
            return None;
        }
        let source = self.access.source_at(&self.model.name, commit);
        match request_part(&source, &remote(file), part).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(model = %self.model, path = file.path, %error, "the hub did not send a part of a file");
                None
            }
        }
    }
}

/// Bytes of a file of a repository. None if the hub did not send all of them.
pub(super) async fn request_part(
    source: &HubSource,
    file: &RemoteFile,
    part: Range<u64>,
) -> Result<Option<Vec<u8>>, MirrorError> {
    let _permit = source.permit().await;
    let opened = source.open_range(file, part.clone()).await?;
    let Some(mut body) = opened.from(part.start, MAX_SKIPPED) else { return Ok(None) };
    let len = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let Some(next) = body.try_next().await? else { return Ok(None) };
        bytes.extend_from_slice(&next);
    }
    bytes.truncate(len);
    Ok(Some(bytes))
}

fn is_unknown(error: &MirrorError) -> bool {
    matches!(error, MirrorError::NotFound { .. } | MirrorError::NoReference { .. })
}
