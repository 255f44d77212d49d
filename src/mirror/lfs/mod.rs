//! Git LFS: requests the links to objects from the batch API
//! (<https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>), and fetches the objects.
//!
//! A link is used until it expires or is refused; then another link is requested once. The credential is sent only to the
//! origin of the remote, and the headers of a link only to the origin of the link. Links, their headers and `.lfsconfig`
//! are untrusted: they may lead to a private address only if the user configured that host.

mod batch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::error::FileProblem;
use super::git::Login;
use super::progress::ProgressBoard;
use super::repo::{GitRepository, Remote};
use super::retry::Retries;
use super::source::{OpenedFile, RemoteFile};
use super::{Identity, MirrorError};
use crate::http::{Auth, HeaderMap, HeaderValue, HttpClient, HttpError, Method, Request, Url};
use crate::model::Sha256Digest;

pub use batch::parse_batch;
pub(crate) use batch::{BatchObject, Link, ObjectError};

/// Largest number of objects per request, as in `git lfs`.
const BATCH: usize = 100;
/// Longest response that is read, in bytes.
const MAX_ANSWER: usize = 8 << 20;
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// A client for the large files of one repository.
pub(super) struct LfsClient {
    client: HttpClient,
    /// The address of the batch API.
    endpoint: Url,
    auth: Option<Auth>,
    /// The address of the repository, for errors.
    repository: String,
    board: Arc<ProgressBoard>,
    /// The objects of the commit without duplicates, in the order of the files.
    objects: Vec<(Sha256Digest, u64)>,
    state: Mutex<LinkCache>,
}

#[derive(Default)]
struct LinkCache {
    links: HashMap<Sha256Digest, Result<Link, ObjectError>>,
    /// Index in `objects` up to which links were requested ahead.
    ahead: usize,
}

impl LfsClient {
    /// A client for the LFS files among `files`. None for a local directory without a configured server.
    pub fn new(
        client: &HttpClient,
        repository: &GitRepository,
        lfs_url: Option<String>,
        login: Option<Login>,
        files: &[RemoteFile],
        board: Arc<ProgressBoard>,
    ) -> Result<Option<Self>, MirrorError> {
        let remote = match &repository.remote {
            Remote::Http(url) => Some(url.clone()),
            Remote::Directory(_) => None,
        };
        let shown = repository.remote.to_string();
        let configured = lfs_url.filter(|url| url.starts_with("http://") || url.starts_with("https://"));
        let configured = configured.map(|url| {
            let mut url: Url = url.parse().map_err(|e| MirrorError::Refused {
                repository: shown.clone(),
                reason: format!("invalid LFS address in its .lfsconfig: {e}"),
            })?;
            // A credential in the repository is not the user's, so it is not used.
            let _ = (url.set_username(""), url.set_password(None));
            Ok::<_, MirrorError>(url)
        });
        let Some(base) = configured.transpose()?.or_else(|| remote.as_ref().map(default_endpoint)) else {
            return Ok(None);
        };
        let is_own = remote.as_ref().is_some_and(|remote| remote.origin() == base.origin());
        let auth = login.filter(|_| is_own).map(|login| Auth::basic(&base, &login.user, &login.password));
        let mut seen = std::collections::HashSet::new();
        let objects = files.iter().filter_map(|file| match file.identity {
            Identity::Lfs(sha256) if seen.insert(sha256) => Some((sha256, file.size)),
            _ => None,
        });
        Ok(Some(Self {
            client: client.clone(),
            endpoint: below(base, &["objects", "batch"]),
            auth,
            repository: shown,
            board,
            objects: objects.collect(),
            state: Mutex::default(),
        }))
    }

    /// Opens an object from an offset on.
    pub async fn open(
        &self,
        file: &RemoteFile,
        sha256: Sha256Digest,
        from: u64,
        etag: Option<&str>,
    ) -> Result<OpenedFile, MirrorError> {
        let known = self.state.lock().links.get(&sha256).cloned().and_then(Result::ok).filter(Link::is_fresh);
        let link = match known {
            Some(link) => link,
            None => self.request_link(file, sha256).await?,
        };
        match self.get(file, &link, from, etag).await {
            // The link may have expired earlier than announced.
            Err(MirrorError::LinkExpired(_)) => {}
            other => return other,
        }
        let link = self.request_link(file, sha256).await?;
        self.get(file, &link, from, etag).await.map_err(|error| match error {
            MirrorError::LinkExpired(error) => {
                MirrorError::file(&file.path, FileProblem::LfsRefused(error.to_string()))
            }
            other => other,
        })
    }

    async fn get(
        &self,
        file: &RemoteFile,
        link: &Link,
        from: u64,
        etag: Option<&str>,
    ) -> Result<OpenedFile, MirrorError> {
        let mut request = Request::get(link.href.clone());
        // A link with its own credential does not get the user's.
        if !link.headers.contains_key("authorization") {
            request = request.auth(self.auth.as_ref());
        }
        request.headers = link.headers.clone();
        if from > 0 {
            request = request.range(from, None);
            request.if_range = etag;
        }
        let answer =
            self.client.send(request).await.map_err(|error| match error.status().map(|s| s.as_u16()) {
                Some(401 | 403) => MirrorError::LinkExpired(Box::new(error)),
                Some(404 | 410) => MirrorError::file(&file.path, FileProblem::Gone(error.to_string())),
                _ => error.into(),
            })?;
        OpenedFile::of(answer, file)
    }

    /// Requests a new link, and in the same request the links of the next objects.
    async fn request_link(&self, file: &RemoteFile, sha256: Sha256Digest) -> Result<Link, MirrorError> {
        let mut wanted = vec![(sha256, file.size)];
        {
            let mut state = self.state.lock();
            let end = (state.ahead + BATCH - 1).min(self.objects.len());
            wanted.extend(self.objects[state.ahead..end].iter().filter(|object| object.0 != sha256));
            state.ahead = end;
        }
        let answer = self.batch(&wanted).await?;
        let mut state = self.state.lock();
        for object in answer {
            if wanted.iter().any(|wanted| wanted.0 == object.sha256) {
                state.links.insert(object.sha256, object.link);
            }
        }
        match state.links.get(&sha256) {
            Some(Ok(link)) => Ok(link.clone()),
            Some(Err(error)) => Err(MirrorError::file(&file.path, error.problem())),
            None => Err(MirrorError::file(
                &file.path,
                FileProblem::Gone("it is absent from the response".to_owned()),
            )),
        }
    }

    async fn batch(&self, wanted: &[(Sha256Digest, u64)]) -> Result<Vec<BatchObject>, MirrorError> {
        let objects: Vec<_> =
            wanted.iter().map(|(oid, size)| serde_json::json!({"oid": oid, "size": size})).collect();
        let body = serde_json::json!({
            "operation": "download",
            "transfers": ["basic"],
            "objects": objects,
            "hash_algo": "sha256",
        });
        let mut retries = Retries::new(&self.board);
        loop {
            let mut headers = HeaderMap::new();
            for name in ["accept", "content-type"] {
                headers.insert(name, HeaderValue::from_static(MEDIA_TYPE));
            }
            let mut request = Request::get(self.endpoint.clone()).auth(self.auth.as_ref());
            (request.method, request.headers) = (Method::POST, headers);
            request.body = Some(body.to_string().into_bytes());
            let asked = Instant::now();
            let answered = match self.client.send(request).await {
                Ok(answer) => answer.body.read(MAX_ANSWER).await.map_err(MirrorError::from),
                Err(error) => Err(self.explain(error)),
            };
            match answered {
                Ok(bytes) => {
                    return parse_batch(&bytes, &self.endpoint, asked)
                        .map_err(|source| HttpError::json(&self.endpoint, source).into());
                }
                Err(error) => retries.wait(error).await?,
            }
        }
    }

    fn explain(&self, error: HttpError) -> MirrorError {
        let (repository, anonymous) = (self.repository.clone(), self.auth.is_none());
        match error.status().map(|status| status.as_u16()) {
            Some(401 | 403) => MirrorError::Unauthorised { repository, anonymous },
            Some(404 | 405 | 501) => {
                MirrorError::Refused { repository, reason: format!("it has large files in LFS, but {error}") }
            }
            _ => error.into(),
        }
    }
}

/// `{remote}.git/info/lfs`.
fn default_endpoint(remote: &Url) -> Url {
    let mut url = remote.clone();
    let path = url.path().trim_end_matches('/').to_owned();
    let dot_git = if path.ends_with(".git") { "" } else { ".git" };
    url.set_path(&format!("{path}{dot_git}"));
    below(url, &["info", "lfs"])
}

fn below(mut url: Url, parts: &[&str]) -> Url {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_address_follows_the_specification() {
        for (remote, endpoint) in [
            ("https://g.example/foo/bar", "https://g.example/foo/bar.git/info/lfs"),
            ("https://g.example/foo/bar.git", "https://g.example/foo/bar.git/info/lfs"),
            ("https://g.example/foo/bar/", "https://g.example/foo/bar.git/info/lfs"),
        ] {
            assert_eq!(default_endpoint(&remote.parse().unwrap()).as_str(), endpoint);
        }
        let base: Url = "https://lfs.example/x/".parse().unwrap();
        assert_eq!(below(base, &["objects", "batch"]).as_str(), "https://lfs.example/x/objects/batch");
    }
}
