//! `warm`: fetches whole files before they are read.

use std::sync::Arc;

use super::control::Warmed;
use super::get::MAX_CHANGES;
use super::{Node, NodeError, lookup, space};
use crate::catalog::Patience;
use crate::model::ModelRef;
use crate::model::names::NameError;
use crate::mount::RequestedModel;
use crate::store::StoredRevision;

/// Why a path cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// The path is too short for a model.
    #[error("{0} is not a model or a file of one")]
    NotAModel(String),
    /// The path contains no valid name of a model.
    #[error("{path}: {source}")]
    Name {
        /// The path.
        path: String,
        /// The reason.
        source: NameError,
    },
    /// The model has no file at or below the path.
    #[error("{model} has no file {path}")]
    NoFile {
        /// Which model.
        model: ModelRef,
        /// The path inside the model.
        path: String,
    },
}

/// Fetches all files at or below `path`, a path relative to a mount point: `[datasets/]org/name[@revision][/path]`, or
/// the same after `.by/FINGERPRINT/`. With `resolve`, an unknown model is looked up like in a mount. Starts again if
/// the model is replaced by another one meanwhile.
pub(super) async fn run(node: &Arc<Node>, path: &str, resolve: bool) -> Result<Warmed, NodeError> {
    let (sought, below) = split(path)?;
    if let Some(local) = node.local.revision(&sought.model).filter(|_| sought.publisher.is_none()) {
        return warmed(&local, &sought.model, &below).map(|(_, warmed)| warmed);
    }
    if resolve && node.library.known_as(&sought).is_none() {
        lookup::look_up(node, &sought, node.library.config.mount.resolve_timeout, Patience::All).await?;
    }
    if sought.publisher.is_none() {
        node.disputes.check(&sought.model)?;
    }
    let mut changes = 0..MAX_CHANGES;
    loop {
        match warm_as_known_now(node, &sought, &below).await {
            Err(e) if e.is_left() && changes.next().is_some() => {}
            done => return done,
        }
    }
}

async fn warm_as_known_now(node: &Node, sought: &RequestedModel, below: &str) -> Result<Warmed, NodeError> {
    let model = &sought.model;
    let manifest = node.library.known_as(sought).ok_or_else(|| NodeError::UnknownModel(model.clone()))?;
    let revision: Arc<StoredRevision> = node.library.store.revision(manifest)?;
    let (files, warmed) = warmed(&revision, model, below)?;
    space::check(&node.library, &revision, &files, None)?;
    space::fetch_files(node, &revision, &files, None).await?;
    Ok(warmed)
}

/// The files of a revision at or below a path, and their sum.
fn warmed(
    revision: &StoredRevision,
    model: &ModelRef,
    below: &str,
) -> Result<(Vec<usize>, Warmed), NodeError> {
    let all = &revision.manifest.files;
    let files: Vec<usize> = (0..all.len()).filter(|&i| is_below(&all[i].path, below)).collect();
    if files.is_empty() {
        return Err(WarmError::NoFile { model: model.clone(), path: below.to_owned() }.into());
    }
    let bytes = files.iter().map(|&i| all[i].size).sum();
    Ok((files.clone(), Warmed { files: files.len(), bytes }))
}

/// Splits a path below the mount point into the model and the path inside it.
fn split(path: &str) -> Result<(RequestedModel, String), NodeError> {
    let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let publisher = (parts.first() == Some(&".by")).then(|| parts.drain(..parts.len().min(2)).nth(1));
    let publisher = publisher.map(|named| named.unwrap_or_default().to_owned());
    let head = if parts.first() == Some(&"datasets") { 3 } else { 2 };
    if parts.len() < head {
        return Err(WarmError::NotAModel(path.to_owned()).into());
    }
    let model = parts[..head].join("/").parse();
    let model: ModelRef = model.map_err(|source| WarmError::Name { path: path.to_owned(), source })?;
    Ok((RequestedModel { model, publisher }, parts[head..].join("/")))
}

fn is_below(file: &str, dir: &str) -> bool {
    dir.is_empty() || file == dir || file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_into_model_and_file() {
        let (sought, below) = split("org/name@v2/a/b.bin").unwrap();
        assert_eq!((sought.to_string().as_str(), below.as_str()), ("org/name@v2", "a/b.bin"));
        let (sought, below) = split("/datasets/org/name/").unwrap();
        assert_eq!((sought.to_string().as_str(), below.as_str()), ("datasets/org/name", ""));
        let (sought, below) = split(".by/r5fk-b70b-psbb-5vew/org/name/a").unwrap();
        assert_eq!((sought.model.to_string().as_str(), below.as_str()), ("org/name", "a"));
        assert_eq!(sought.publisher.as_deref(), Some("r5fk-b70b-psbb-5vew"));
        assert!(split(".by").is_err() && split(".by/x/org").is_err());
        assert!(split("org").is_err());
        assert!(split("datasets/org").is_err());
    }

    #[test]
    fn a_directory_contains_only_paths_below_it() {
        assert!(is_below("a/b", "a") && is_below("a", "a") && is_below("x", ""));
        assert!(!is_below("ab", "a") && !is_below("a", "a/b"));
    }
}
