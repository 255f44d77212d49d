//! Lookups that several callers wait for.

use std::time::Instant;

use super::accept::Intent;
use super::jobs::Jobs;
use super::{ErrorKind, NodeError, chain};
use crate::catalog::SearchPatience;
use crate::model::ModelRef;
use crate::trust::TrustError;

/// A lookup: the model, the requested publisher, the intent, and how long the caller waits for a name that no peer has.
pub(super) type LookupKey = (ModelRef, Option<String>, Intent, SearchPatience);

/// A failure, for all callers that waited for it.
#[derive(Debug, Clone)]
pub(super) enum SharedError {
    /// Kept as it is, because it contains the publishers.
    Trust(TrustError),
    Other(ErrorKind, String),
}

impl From<&NodeError> for SharedError {
    fn from(error: &NodeError) -> Self {
        match error {
            NodeError::Trust(error) => Self::Trust(error.clone()),
            error => Self::Other(error.kind(), chain(error)),
        }
    }
}

impl From<SharedError> for NodeError {
    fn from(failed: SharedError) -> Self {
        match failed {
            SharedError::Trust(error) => Self::Trust(error),
            SharedError::Other(kind, message) => Self::Remote { kind, message },
        }
    }
}

/// The lookups in progress, each with its latest failure. Simultaneous lookups of one name are done once.
pub(super) type NetworkLookups = Jobs<LookupKey, Option<(Instant, SharedError)>>;
