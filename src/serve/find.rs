//! From the revision of a request to a revision that is known: by its name, or by the commit that this endpoint reported.

use std::sync::Arc;

use axum::http::StatusCode;

use super::{HubError, ModelSource};
use crate::http::Token;
use crate::model::commit::is_commit;
use crate::model::{ModelName, ModelRef, Revision};
use crate::mount::FindError;
use crate::store::StoredRevision;

/// A revision that a client may read.
#[derive(Debug, Clone)]
pub struct Found {
    /// Manifest and contents.
    pub revision: Arc<StoredRevision>,
    /// Its commit.
    pub commit: String,
}

impl Found {
    fn new(revision: Arc<StoredRevision>) -> Self {
        Self { commit: revision.manifest.commit(), revision }
    }
}

/// Finds the revision of a request and checks that the client may read it. `revision` is a branch, a tag or a commit; none
/// is the default one.
pub async fn find(
    models: &dyn ModelSource,
    name: &ModelName,
    revision: Option<&str>,
    token: Option<&Token>,
) -> Result<Found, HubError> {
    let found = match revision {
        Some(commit) if is_commit(commit) => by_commit(models, name, commit, token).await?,
        Some(revision) => by_name(models, name, revision, token).await?,
        None => default_of(models, name, token).await?,
    };
    models.may_read(&found.revision, token).await?;
    Ok(found)
}

async fn default_of(
    models: &dyn ModelSource,
    name: &ModelName,
    token: Option<&Token>,
) -> Result<Found, HubError> {
    let model = ModelRef { name: name.clone(), revision: Revision::default() };
    models.find(&model).await.map(Found::new).map_err(|error| explain(models, &model, token, error))
}

async fn by_name(
    models: &dyn ModelSource,
    name: &ModelName,
    revision: &str,
    token: Option<&Token>,
) -> Result<Found, HubError> {
    // The default revision also means the only known one, as in a mount.
    let Some(revision) = revision.parse().ok().filter(|revision: &Revision| !revision.is_default()) else {
        let found = default_of(models, name, token).await?;
        return match revision {
            "main" | "HEAD" => Ok(found),
            _ => Err(HubError::no_revision(&name.to_string(), revision)),
        };
    };
    let model = ModelRef { name: name.clone(), revision };
    match models.find(&model).await {
        Err(FindError::Absent) => {
            // Distinguishes a model without this revision from a model that does not exist.
            let found = default_of(models, name, token).await?;
            if found.commit == model.revision.as_str() {
                Ok(found)
            } else {
                Err(HubError::no_revision(&name.to_string(), model.revision.as_str()))
            }
        }
        found => found.map(Found::new).map_err(|error| explain(models, &model, token, error)),
    }
}

/// A client asks by commit for the files of a revision that it asked for by name before, perhaps another endpoint.
async fn by_commit(
    models: &dyn ModelSource,
    name: &ModelName,
    commit: &str,
    token: Option<&Token>,
) -> Result<Found, HubError> {
    let known = models.revisions(name).into_iter().map(Found::new).find(|found| found.commit == commit);
    match known {
        Some(found) => Ok(found),
        None => by_name(models, name, commit, token).await,
    }
}

fn explain(models: &dyn ModelSource, model: &ModelRef, token: Option<&Token>, error: FindError) -> HubError {
    let reason = models.reason(model);
    match error {
        FindError::Absent => {
            let reason = reason.unwrap_or_else(|| error.to_string());
            HubError::no_repository(&model.name.to_string(), &reason)
        }
        FindError::Disputed => HubError::new(
            StatusCode::CONFLICT,
            format!(
                "{model}: {}; choose one with `silmaril get {model} --publisher KEY`",
                reason.unwrap_or_else(|| error.to_string())
            ),
        ),
        FindError::Denied => {
            let reason = reason.unwrap_or_else(|| error.to_string());
            HubError::gated(token.is_some(), format!("{model}: {reason}"))
        }
        FindError::Stopped => HubError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
