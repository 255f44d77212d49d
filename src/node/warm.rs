//! `warm`: whole files ahead of their readers.

use std::sync::Arc;

use super::control::Warmed;
use super::get::MAX_CHANGES;
use super::{Node, NodeError};
use crate::model::ModelRef;

impl Node {
    /// Fetches all files at or below `path`, given as the mount shows it: `[datasets/]org/name[@revision][/path]`. A
    /// model that is not known here is looked up as the mount would. Begins anew when the model becomes another one
    /// here meanwhile.
    pub(super) async fn warm(self: &Arc<Self>, path: &str) -> Result<Warmed, NodeError> {
        let (model, below) = split(path)?;
        if !self.no_resolve && self.library.registry.get(&model).is_none() {
            self.resolve(&model, None, self.library.config.mount.resolve_timeout).await?;
        }
        let mut changes = 0..MAX_CHANGES;
        loop {
            match self.warm_as_known_now(&model, &below).await {
                Err(e) if e.is_left() && changes.next().is_some() => {}
                done => return done,
            }
        }
    }

    async fn warm_as_known_now(&self, model: &ModelRef, below: &str) -> Result<Warmed, NodeError> {
        let revision = self.library.revision(model)?;
        let files: Vec<usize> = (0..revision.manifest.files.len())
            .filter(|&i| is_below(&revision.manifest.files[i].path, below))
            .collect();
        if files.is_empty() {
            return Err(NodeError::Request(format!("{model} has no file {below}")));
        }
        let stall = self.library.config.torrent.download_timeout;
        self.fetch
            .fetch_files(&revision, &files, stall)
            .await
            .map_err(|source| NodeError::Fetch { model: model.clone(), source })?;
        let bytes = files.iter().map(|&i| revision.manifest.files[i].size).sum();
        Ok(Warmed { files: files.len(), bytes })
    }
}

/// Splits a path below the mount point into the model and the path inside it.
fn split(path: &str) -> Result<(ModelRef, String), NodeError> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let head = if parts.first() == Some(&"datasets") { 3 } else { 2 };
    if parts.len() < head {
        return Err(NodeError::Request(format!("{path} is not a model or a file of one")));
    }
    let model = parts[..head].join("/").parse().map_err(|e| NodeError::Request(format!("{path}: {e}")))?;
    Ok((model, parts[head..].join("/")))
}

fn is_below(file: &str, dir: &str) -> bool {
    dir.is_empty() || file == dir || file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_into_model_and_file() {
        let (model, below) = split("org/name@v2/a/b.bin").unwrap();
        assert_eq!((model.to_string().as_str(), below.as_str()), ("org/name@v2", "a/b.bin"));
        let (model, below) = split("/datasets/org/name/").unwrap();
        assert_eq!((model.to_string().as_str(), below.as_str()), ("datasets/org/name", ""));
        assert!(split("org").is_err());
        assert!(split("datasets/org").is_err());
    }

    #[test]
    fn a_directory_holds_what_is_below_it_only() {
        assert!(is_below("a/b", "a") && is_below("a", "a") && is_below("x", ""));
        assert!(!is_below("ab", "a") && !is_below("a", "a/b"));
    }
}
