//! The sources of bytes at hubs.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::fetch::web::{WebBody, WebError};
use crate::model::ModelRef;
use crate::store::HubListing;

/// Sends requests for bytes of a repository at a hub.
pub trait HubOrigin: Send + Sync + 'static {
    /// Requests bytes of a file (an index into the listing). Dropping the future or the body ends the transfer.
    fn open(
        &self,
        listing: &HubListing,
        file: usize,
        range: Range<u64>,
    ) -> BoxFuture<'static, Result<WebBody, WebError>>;
}

/// All sources of bytes, by model.
pub(super) type Origins = HashMap<ModelRef, Arc<dyn HubOrigin>>;
