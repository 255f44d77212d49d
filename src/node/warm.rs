//! `warm`: fetches whole files before they are read.

use std::sync::Arc;

use super::control::{WarmRequest, Warmed};
use super::hub;
use super::hub::access::HubAccess;
use super::jobs::MAX_CHANGES;
use super::readable::{self, LookupLimits};
use super::request_errors::WarmError;
use super::{Node, NodeError, blocking, space};
use crate::catalog::SearchPatience;
use crate::model::ModelRef;
use crate::model::gguf::{self, GgufError};
use crate::model::safetensors::{self, LENGTH_LEN};
use crate::mount::RequestedModel;
use crate::store::StoredRevision;

/// Fetches all files at or below a path relative to a mount point: `[datasets/]org/name[@revision][/path]`, or the same
/// after `.by/FINGERPRINT/`. With `resolve`, an unknown model is looked up like in a mount. Starts again if the model is
/// replaced by another one during the work.
pub(super) async fn run(node: &Arc<Node>, request: &WarmRequest) -> Result<Warmed, NodeError> {
    let header_only = request.header_only;
    let (sought, below) = split(&request.path)?;
    let config = &node.library.config;
    let lazy = config.hub.lazy;
    let access = HubAccess::new(&node.web, &config.hub.endpoint, lazy, &request.surroundings)?;
    let access = node.hub.with_access(access);
    let within = config.mount.resolve_timeout;
    let limits = request.resolve.then_some(LookupLimits { within, patience: SearchPatience::All });
    let found = readable::readable(node, &sought, Some(&access), limits).await?;
    if found.is_local {
        return warmed(&found, &sought.model, &below).map(|(_, warmed)| warmed);
    }
    if found.hub.is_some() {
        let found = if request.update {
            hub::lookup::update(node, &sought.model, &access, within).await?.0
        } else {
            hub::lookup::look_for_newer(node, &sought.model, &access).await;
            found
        };
        if let Some(done) = warm_from_hub(node, &found, &below, header_only).await? {
            return Ok(done);
        }
    }
    if sought.publisher.is_none() {
        node.disputes.check(&sought.model)?;
    }
    let mut changes = 0..MAX_CHANGES;
    loop {
        match warm_as_known_now(node, &sought, &below, header_only).await {
            Err(e) if e.is_left() && changes.next().is_some() => {}
            done => return done,
        }
    }
}

/// Fetches files of a model that is read from the hub. If all of it is complete then, it gets its manifest. None if the
/// manifest became known during the work.
async fn warm_from_hub(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    below: &str,
    header_only: bool,
) -> Result<Option<Warmed>, NodeError> {
    let (files, warmed) = warmed(revision, &revision.manifest.model_ref(), below)?;
    if header_only {
        return headers(node, revision, &files).await.map(Some);
    }
    hub::twins::find(node, revision, u64::MAX).await;
    space::check(&node.library, revision, &files, None)?;
    space::fetch_files((&node.library, &node.fetch), revision, &files, None).await?;
    if hub::hand_over::has_ended(node, revision).await {
        return Ok(None);
    }
    hub::complete::complete(node, revision, &files).await?;
    Ok(Some(warmed))
}

async fn warm_as_known_now(
    node: &Node,
    sought: &RequestedModel,
    below: &str,
    header_only: bool,
) -> Result<Warmed, NodeError> {
    let model = &sought.model;
    let manifest = node.library.known_as(sought).ok_or_else(|| NodeError::UnknownModel(model.clone()))?;
    let revision: Arc<StoredRevision> = node.library.store.revision(manifest)?;
    let (files, warmed) = warmed(&revision, model, below)?;
    if header_only {
        return headers(node, &revision, &files).await;
    }
    space::check(&node.library, &revision, &files, None)?;
    space::fetch_files((&node.library, &node.fetch), &revision, &files, None).await?;
    Ok(warmed)
}

/// Largest file without a header that is fetched for its headers, in bytes.
const MAX_SMALL: u64 = 4 << 20;

/// Fetches the headers of weights, and the small files whole: what a program reads before it reads a tensor.
async fn headers(node: &Node, revision: &Arc<StoredRevision>, files: &[usize]) -> Result<Warmed, NodeError> {
    let stall = node.library.config.torrent.download_timeout;
    let failed = |source| NodeError::Fetch { model: revision.manifest.model_ref(), source };
    let entry = |file: usize| &revision.manifest.files[file];
    let small: Vec<usize> = files.iter().copied().filter(|&file| entry(file).size <= MAX_SMALL).collect();
    node.fetch.fetch_files(revision, &small, stall).await.map_err(failed)?;
    let mut warmed = Warmed { files: small.len(), bytes: small.iter().map(|&file| entry(file).size).sum() };
    for &file in files.iter().filter(|&&file| entry(file).size > MAX_SMALL) {
        let Some(kind) = HeaderKind::of(&entry(file).path) else { continue };
        let mut len = FIRST_PART.min(entry(file).size);
        loop {
            node.fetch.fetch_parts(revision, &[(file, 0..len)], stall).await.map_err(failed)?;
            let content = revision.contents[file].clone();
            let start = blocking::cancellable(move |_| {
                content.read(0..len).map_err(|source| NodeError::Io { path: content.path(), source })
            });
            // Bytes that were deleted before they were read are fetched again.
            let Some(start) = start.await? else { continue };
            match kind.wanted(&start, entry(file).size) {
                Some(more) if more > len => len = more.min(entry(file).size),
                _ => break,
            }
        }
        warmed.files += 1;
        warmed.bytes += len;
    }
    Ok(warmed)
}

/// Bytes of a file that are fetched to find the length of its header.
const FIRST_PART: u64 = 64 << 10;

/// A format of weights with a header at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderKind {
    Safetensors,
    Gguf,
}

impl HeaderKind {
    fn of(path: &str) -> Option<Self> {
        match path.rsplit_once('.')?.1 {
            "safetensors" => Some(Self::Safetensors),
            "gguf" => Some(Self::Gguf),
            _ => None,
        }
    }

    /// How many bytes of a file of `file_len` bytes its header needs; none if `start` has all of it, or no valid header.
    fn wanted(self, start: &[u8], file_len: u64) -> Option<u64> {
        match self {
            Self::Safetensors => {
                let first = start.get(..8)?.try_into().ok()?;
                safetensors::header_len(first, file_len).ok().map(|len| LENGTH_LEN + len)
            }
            Self::Gguf => match gguf::shortest(start) {
                Err(GgufError::Truncated) => Some(start.len() as u64 * 4),
                _ => None,
            },
        }
    }
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
    fn length_of_a_header_is_read_from_its_start() {
        let mut start = 100u64.to_le_bytes().to_vec();
        start.push(b'{');
        assert_eq!(HeaderKind::of("a/b.safetensors").unwrap().wanted(&start, 1000), Some(108));
        assert_eq!(
            HeaderKind::Safetensors.wanted(&start, 50),
            None,
            "the header would be longer than the file"
        );
        assert_eq!(HeaderKind::Gguf.wanted(b"GGUF\x03\0\0\0", 1000), Some(32));
        assert_eq!(HeaderKind::Gguf.wanted(b"no GGUF file", 1000), None);
        assert_eq!(HeaderKind::of("a.bin"), None);
    }

    #[test]
    fn a_directory_contains_only_paths_below_it() {
        assert!(is_below("a/b", "a") && is_below("a", "a") && is_below("x", ""));
        assert!(!is_below("ab", "a") && !is_below("a", "a/b"));
    }
}
