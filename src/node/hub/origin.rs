//! The bytes of a commit at the hub, for reads.

use std::ops::Range;
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::access::HubAccess;
use crate::fetch::hub::HubOrigin;
use crate::fetch::web::{WebBody, WebError};
use crate::mirror::{GitOid, HubSource, MirrorError, MirrorErrorKind, RemoteFile, RepositorySource as _};
use crate::store::{HubFile, HubListing};

/// The most bytes that are read and discarded where a server sends the whole file instead of the requested part.
const MAX_SKIPPED: u64 = 1 << 20;

/// Requests bytes of one commit.
pub(super) struct CommitOrigin {
    commit: GitOid,
    source: Arc<HubSource>,
    /// Not held longer than the mount or command lasts.
    access: Weak<HubAccess>,
}

impl CommitOrigin {
    pub fn new(access: &Arc<HubAccess>, listing: &HubListing) -> Self {
        let source = Arc::new(access.source_at(&listing.repository, listing.commit));
        Self { commit: listing.commit, source, access: Arc::downgrade(access) }
    }

    /// The source at the commit of a listing: a file that was opened before an update is read at its own commit.
    fn source_for(&self, listing: &HubListing) -> Option<Arc<HubSource>> {
        if listing.commit == self.commit {
            return Some(self.source.clone());
        }
        let access = self.access.upgrade()?;
        Some(Arc::new(access.source_at(&listing.repository, listing.commit)))
    }
}

impl HubOrigin for CommitOrigin {
    fn open(
        &self,
        listing: &HubListing,
        file: usize,
        range: Range<u64>,
    ) -> BoxFuture<'static, Result<WebBody, WebError>> {
        let (source, file) = (self.source_for(listing), remote(&listing.files[file]));
        async move {
            let gone =
                || WebError::Unfit(format!("{}: its commit is no longer read; open it again", file.path));
            let source = source.ok_or_else(gone)?;
            let opened = source.open_range(&file, range.clone()).await.map_err(|e| web_error(&e))?;
            let body = opened.from(range.start, MAX_SKIPPED).ok_or_else(|| {
                WebError::Unfit(format!("{}: the hub does not send parts of it", file.path))
            })?;
            Ok(body.map_err(|error| web_error(&error)).boxed())
        }
        .boxed()
    }
}

/// A file as the source of a repository knows it.
pub(in crate::node) fn remote(file: &HubFile) -> RemoteFile {
    RemoteFile {
        path: file.path.clone(),
        size: file.size,
        identity: file.identity,
        // Needed for pointers only.
        blob: GitOid([0; 20]),
        executable: false,
    }
}

fn web_error(error: &MirrorError) -> WebError {
    let why = error.to_string();
    match error.kind() {
        MirrorErrorKind::Gated | MirrorErrorKind::Unauthorised => WebError::Denied(why),
        // A private repository, without a token that may read it.
        MirrorErrorKind::NotFound if matches!(error, MirrorError::NotFound { .. }) => WebError::Denied(why),
        MirrorErrorKind::RateLimited => WebError::Busy { why, retry_after: error.retry_after() },
        _ if error.is_transient() => WebError::Unreachable(why),
        _ => WebError::Unfit(why),
    }
}
