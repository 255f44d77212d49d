//! Git LFS: asking where objects are (the batch API, <https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>), and
//! getting them from there.
//!
//! A link counts until it expires, or until it is refused; then the server is asked for another, once. The credential goes to
//! the remote's own origin, the headers of a link to the link's. Links, their headers and `.lfsconfig` are a stranger's: they
//! lead to a private address only where the user configured that host.

mod batch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::error::FileProblem;
use super::git::Login;
use super::progress::Board;
use super::repo::{GitRepository, Remote};
use super::retry::Retries;
use super::source::{Opened, RemoteFile};
use super::{Identity, MirrorError};
use crate::http::{Auth, Client, HeaderMap, HeaderValue, HttpError, Method, Request, Url};
use crate::model::Sha256Digest;

pub use batch::{BatchObject, Link, ObjectError, parse_batch};

/// The most objects that are asked for at once, as `git lfs` does.
const BATCH: usize = 100;
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 8 << 20;
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// Large files of one repository.
pub(super) struct LfsClient {
    client: Client,
    /// The batch address.
    endpoint: Url,
    auth: Option<Auth>,
    /// The repository's address, for errors.
    repository: String,
    board: Arc<Board>,
    /// The objects of the commit, each once, in the order of its files.
    objects: Vec<(Sha256Digest, u64)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: HashMap<Sha256Digest, Result<Link, ObjectError>>,
    /// Objects before this one have been asked for ahead.
    ahead: usize,
}

impl LfsClient {
    /// For the LFS files of a list; none where there is no server, but a directory.
    pub fn new(
        client: &Client,
        repository: &GitRepository,
        lfs_url: Option<String>,
        login: Option<Login>,
        files: &[RemoteFile],
        board: Arc<Board>,
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
                reason: format!("the address of LFS in its .lfsconfig cannot be read: {e}"),
            })?;
            // A credential that the repository brings along is nobody's.
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Sends an object from an offset on.
    pub async fn open(
        &self,
        file: &RemoteFile,
        sha256: Sha256Digest,
        from: u64,
        etag: Option<&str>,
    ) -> Result<Opened, MirrorError> {
        let known = self.state().links.get(&sha256).cloned().and_then(Result::ok).filter(Link::is_fresh);
        let link = match known {
            Some(link) => link,
            None => self.ask_for(file, sha256).await?,
        };
        match self.get(file, &link, from, etag).await {
            // Perhaps it expired before its time.
            Err(MirrorError::LinkExpired(_)) => {}
            other => return other,
        }
        let link = self.ask_for(file, sha256).await?;
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
    ) -> Result<Opened, MirrorError> {
        let mut request = Request::get(link.href.clone());
        // A link that says how it is to be asked needs nothing more.
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
        Opened::of(answer, file)
    }

    /// Asks for a new link, and on the way for those that will be needed next.
    async fn ask_for(&self, file: &RemoteFile, sha256: Sha256Digest) -> Result<Link, MirrorError> {
        let mut wanted = vec![(sha256, file.size)];
        {
            let mut state = self.state();
            let end = (state.ahead + BATCH - 1).min(self.objects.len());
            wanted.extend(self.objects[state.ahead..end].iter().filter(|object| object.0 != sha256));
            state.ahead = end;
        }
        let answer = self.batch(&wanted).await?;
        let mut state = self.state();
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
                FileProblem::Gone("it was left out of the answer".to_owned()),
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
                    return parse_batch(&bytes, &self.endpoint, asked).map_err(|source| {
                        HttpError::Json { url: crate::http::shown(&self.endpoint), source }.into()
                    });
                }
                Err(error) => retries.wait(error).await?,
            }
        }
    }

    fn explain(&self, error: HttpError) -> MirrorError {
        let (repository, anonymous) = (self.repository.clone(), self.auth.is_none());
        match error.status().map(|status| status.as_u16()) {
            Some(401 | 403) => MirrorError::Unauthorised { repository, anonymous },
            Some(404 | 405 | 501) => MirrorError::Refused {
                repository,
                reason: format!("its large files are in LFS, but {error}"),
            },
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
    fn the_batch_address_is_that_of_the_specification() {
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
