//! The hub's API. A paged list has the path, size and hash of every file; each file is served by commit and path.
//!
//! Requests never ask for Xet. Each file is then a plain GET that is redirected to another host, to which the token is not
//! sent ([`crate::http`]).

mod entries;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::error::FileProblem;
use super::limits::DownloadPermit;
use super::progress::ProgressBoard;
use super::repo::{HubRepository, Reference};
use super::retry::Retries;
use super::source::{FileBody, Listing, OpenedFile, RemoteFile, RepositorySource, Snapshot};
use super::{GitOid, HubLimits, MirrorError};
use crate::http::{Auth, HttpClient, HttpError, HttpResponse, Request, Token, Url, next_page};
use crate::model::ModelName;
use crate::model::manifest::SourceEntry as ManifestSource;

use entries::{Info, MAX_PAGE, parse_history};
pub use entries::{TreeEntry, parse_page};

/// Longest description of a repository that is read, in bytes. The description lists all files by name.
const MAX_INFO: usize = 64 << 20;
/// Largest number of pages of a list. It permits the largest number of files even if pages are 50 times shorter than the
/// hub's.
const MAX_PAGES: usize = 5_000;

/// Longest page of a history that is read, in bytes, and how many pages of it are.
const MAX_HISTORY: usize = 4 << 20;
const MAX_HISTORY_PAGES: usize = 8;

/// How long a redirect is used at most. The links of the hub expire after an hour.
const LINK_LASTS: Duration = Duration::from_secs(50 * 60);

/// The restrictions of a repository on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTerms {
    /// Whether users must accept conditions first.
    pub gated: bool,
    /// Whether only certain users may read it.
    pub private: bool,
    /// The licence, if the hub knows one.
    pub license: Option<String>,
}

/// A repository of a hub.
pub struct HubSource {
    client: HttpClient,
    repository: HubRepository,
    reference: Option<Reference>,
    auth: Option<Auth>,
    board: Arc<ProgressBoard>,
    limits: Option<Arc<HubLimits>>,
    /// Whether failed requests for descriptions and lists are repeated.
    repeats: bool,
    /// The commit, after it is known.
    commit: std::sync::OnceLock<GitOid>,
    /// The name that the hub uses, after it is known.
    name: std::sync::OnceLock<ModelName>,
    /// Where the hub has redirected the requests for files, by path.
    links: Mutex<HashMap<String, (Url, Instant)>>,
}

impl HubSource {
    /// A repository at a branch, tag or commit (`main` if it is none). The token is sent only to the hub.
    pub fn new(
        client: HttpClient,
        repository: HubRepository,
        reference: Option<Reference>,
        token: Option<&Token>,
        board: Arc<ProgressBoard>,
    ) -> Self {
        let auth = token.map(|token| Auth::bearer(&repository.endpoint, token));
        let client = client.allowing_private(&repository.endpoint);
        Self {
            client,
            repository,
            reference,
            auth,
            board,
            limits: None,
            repeats: true,
            commit: std::sync::OnceLock::new(),
            name: std::sync::OnceLock::new(),
            links: Mutex::default(),
        }
    }

    /// Keeps to limits that other sources share.
    #[must_use]
    pub fn limited(self, limits: Arc<HubLimits>) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// Fails at the first failure of a request, for callers that have little time.
    #[must_use]
    pub fn in_one_attempt(self) -> Self {
        Self { repeats: false, ..self }
    }

    /// Waits before a failed request is repeated, or returns the error.
    async fn wait(&self, retries: &mut Retries<'_>, error: MirrorError) -> Result<(), MirrorError> {
        if self.repeats { retries.wait(error).await } else { Err(error) }
    }

    /// Sends one request, after a pause that the hub has asked for.
    async fn send(&self, request: Request<'_>) -> Result<HttpResponse, HttpError> {
        if let Some(limits) = &self.limits {
            limits.pass().await;
        }
        let answer = self.client.send(request).await;
        if let Some(limits) = &self.limits {
            limits.reached(!matches!(answer, Err(HttpError::Connect { .. } | HttpError::NoAnswer { .. })));
        }
        if let (Some(limits), Some(refusal)) =
            (&self.limits, answer.as_ref().err().and_then(HttpError::error_response))
            && refusal.status.as_u16() == 429
        {
            limits.refused(refusal.retry_after);
        }
        answer
    }

    fn page(&self) -> String {
        self.repository.page().into()
    }

    /// Sends a request, and repeats it after a temporary failure.
    async fn request(&self, url: &Url) -> Result<HttpResponse, MirrorError> {
        let mut retries = Retries::new(&self.board);
        loop {
            // The name and the list of a repository come from the hub itself, also after a renaming.
            let request = Request::get(url.clone()).auth(self.auth.as_ref()).within_origin();
            match self.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.wait(&mut retries, self.explain(error)).await?,
            }
        }
    }

    /// Requests a body of at most `max` bytes, and repeats the request if the body is cut. Returns the next page, too.
    async fn request_bytes(&self, url: &Url, max: usize) -> Result<(Vec<u8>, Option<Url>), MirrorError> {
        let mut retries = Retries::new(&self.board);
        loop {
            let answer = self.request(url).await?;
            let next = next_page(&answer.headers, &answer.url);
            match answer.body.read(max).await {
                Ok(bytes) => return Ok((bytes, next)),
                Err(error) => self.wait(&mut retries, error.into()).await?,
            }
        }
    }

    /// Maps an error response of the API to a `MirrorError`.
    fn explain(&self, error: HttpError) -> MirrorError {
        let Some(refusal) = error.error_response() else { return error.into() };
        let (repository, anonymous) = (self.page(), self.auth.is_none());
        match (refusal.status.as_u16(), refusal.code.as_deref()) {
            (_, Some("GatedRepo")) => MirrorError::Gated { page: repository },
            (_, Some("RevisionNotFound")) => {
                MirrorError::NoReference { repository, reference: self.reference().to_owned() }
            }
            (_, Some("RepoNotFound")) => MirrorError::NotFound { repository, anonymous },
            (401, _) if anonymous => MirrorError::NotFound { repository, anonymous },
            (401 | 403, _) => MirrorError::Unauthorised { repository, anonymous },
            (404, None) => MirrorError::NotFound { repository, anonymous },
            _ => error.into(),
        }
    }

    fn reference(&self) -> &str {
        self.reference.as_ref().map_or("main", Reference::as_str)
    }

    /// The hub's description of the repository.
    async fn info(&self) -> Result<Info, MirrorError> {
        let url = self.repository.api(&["revision", self.reference()]);
        let (bytes, _) = self.request_bytes(&url, MAX_INFO).await?;
        let info: Info = serde_json::from_slice(&bytes).map_err(|source| HttpError::json(&url, source))?;
        if let Some(name) = self.named_by(&info) {
            self.name.get_or_init(|| name);
        }
        Ok(info)
    }

    /// The name in a description of the repository.
    fn named_by(&self, info: &Info) -> Option<ModelName> {
        ModelName::of_hub(self.repository.id.kind(), info.id.as_deref()?).ok()
    }

    /// The restrictions of the repository.
    pub async fn terms(&self) -> Result<AccessTerms, MirrorError> {
        let info = self.info().await?;
        Ok(AccessTerms { gated: info.gated(), private: info.private, license: info.license() })
    }

    async fn list(&self) -> Result<Snapshot, MirrorError> {
        let info = self.info().await?;
        let refused =
            |reason: &str| MirrorError::Refused { repository: self.page(), reason: reason.to_owned() };
        let commit: GitOid = info.sha.parse().map_err(|_| refused("the hub did not report its commit"))?;
        let commit = *self.commit.get_or_init(|| commit);
        let mut listing = Listing::new(self.page());
        let mut url = self.repository.api(&["tree", &commit.to_string()]);
        url.query_pairs_mut().append_pair("recursive", "true").append_pair("expand", "false");
        let origin = url.origin();
        for _ in 0..MAX_PAGES {
            let (bytes, next) = self.request_bytes(&url, MAX_PAGE).await?;
            let entries = parse_page(&bytes).map_err(|source| HttpError::json(&url, source))?;
            for entry in entries {
                match entry {
                    TreeEntry::File(file) => listing.add(file)?,
                    TreeEntry::Directory => {}
                    TreeEntry::Other(path) => listing.submodule(&path)?,
                }
            }
            match next {
                Some(next) if next.origin() == origin => url = next,
                Some(_) => return Err(refused("the next page of the list is on another host")),
                None => {
                    let (files, warnings) = listing.finish()?;
                    let (gated, license) = (info.gated(), info.license());
                    return Ok(Snapshot {
                        commit,
                        files,
                        gated,
                        private: Some(info.private),
                        license,
                        warnings,
                    });
                }
            }
        }
        Err(refused("the list of its files has too many pages"))
    }

    /// Requests bytes of a file: those from `from` on, up to `to` (exclusive) or the end.
    async fn get(
        &self,
        file: &RemoteFile,
        from: u64,
        to: Option<u64>,
        etag: Option<&str>,
    ) -> Result<OpenedFile, MirrorError> {
        let of = |url: Url| {
            let mut request = Request::get(url).auth(self.auth.as_ref());
            if from > 0 || to.is_some() {
                request = request.range(from, to);
                request.if_range = etag;
            }
            request
        };
        if let Some(link) = self.link(&file.path) {
            match self.send(of(link)).await {
                Ok(answer) => return OpenedFile::of(answer, file),
                // The link may have expired: the hub is asked for another one.
                Err(error) if is_refused(&error) => drop(self.links.lock().remove(&file.path)),
                Err(error) => return Err(self.explain_file(file, error)),
            }
        }
        let commit = self.commit.get().map(GitOid::to_string).unwrap_or_else(|| self.reference().to_owned());
        let url = self.repository.resolve(&commit, &file.path);
        let answer = self.send(of(url.clone())).await.map_err(|error| self.explain_file(file, error))?;
        if answer.url != url {
            self.links.lock().insert(file.path.clone(), (answer.url.clone(), Instant::now()));
        }
        OpenedFile::of(answer, file)
    }

    /// Where the hub redirected the last request for a file, unless that was long ago.
    fn link(&self, path: &str) -> Option<Url> {
        let links = self.links.lock();
        links.get(path).filter(|(_, since)| since.elapsed() < LINK_LASTS).map(|(url, _)| url.clone())
    }

    /// The newest commit of a branch, by the hub's description of the repository.
    pub async fn newest(&self) -> Result<GitOid, MirrorError> {
        let reason = "the hub did not report its commit".to_owned();
        self.info().await?.sha.parse().map_err(|_| MirrorError::Refused { repository: self.page(), reason })
    }

    /// The commits of the branch, tag or commit, the newest first; of a long history the first pages only.
    pub async fn history(&self) -> Result<Vec<GitOid>, MirrorError> {
        let mut url = self.repository.api(&["commits", self.reference()]);
        let (origin, mut found) = (url.origin(), Vec::new());
        for _ in 0..MAX_HISTORY_PAGES {
            let (bytes, next) = self.request_bytes(&url, MAX_HISTORY).await?;
            let commits = parse_history(&bytes).map_err(|source| HttpError::json(&url, source))?;
            found.extend(commits);
            match next {
                Some(next) if next.origin() == origin => url = next,
                Some(_) | None => break,
            }
        }
        Ok(found)
    }

    fn explain_file(&self, file: &RemoteFile, error: HttpError) -> MirrorError {
        let gone = |error: &HttpError| MirrorError::file(&file.path, FileProblem::Gone(error.to_string()));
        match error.error_response() {
            Some(refusal) if refusal.code.as_deref() == Some("EntryNotFound") => gone(&error),
            Some(refusal) if matches!(refusal.status.as_u16(), 404 | 410) && refusal.code.is_none() => {
                gone(&error)
            }
            // The hub has permitted the list, so a refusal by the host of the redirect means that the link has expired.
            Some(refusal)
                if refusal.code.is_none()
                    && matches!(refusal.status.as_u16(), 401 | 403)
                    && !self.is_on_hub(&refusal.url) =>
            {
                MirrorError::LinkExpired(Box::new(error))
            }
            _ => self.explain(error),
        }
    }

    /// Whether a URL is on the hub itself, not on a host to which it redirects.
    fn is_on_hub(&self, url: &str) -> bool {
        url.parse::<Url>().is_ok_and(|url| url.origin() == self.repository.endpoint.origin())
    }
}

/// Whether a server refuses a link, which may have expired.
fn is_refused(error: &HttpError) -> bool {
    error
        .error_response()
        .is_some_and(|refusal| matches!(refusal.status.as_u16(), 400 | 401 | 403 | 404 | 410))
}

impl RepositorySource for HubSource {
    fn canonical_name(&self) -> Option<&ModelName> {
        self.name.get()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, MirrorError>> {
        self.list().boxed()
    }

    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        from: u64,
        etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<OpenedFile, MirrorError>> {
        self.get(file, from, None, etag).boxed()
    }

    fn open_range<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<OpenedFile, MirrorError>> {
        self.get(file, range.start, Some(range.end), None).boxed()
    }

    fn sends_ranges(&self) -> bool {
        true
    }

    fn permit(&self) -> BoxFuture<'_, Option<DownloadPermit>> {
        async {
            match &self.limits {
                Some(limits) => limits.permit().await,
                None => None,
            }
        }
        .boxed()
    }

    fn pointer<'a>(&'a self, _: &'a RemoteFile) -> BoxFuture<'a, Result<Option<Vec<u8>>, MirrorError>> {
        // Under the path of the file, the hub serves the large file.
        std::future::ready(Ok(None)).boxed()
    }

    fn describe(&self, commit: GitOid) -> ManifestSource {
        self.repository.source(commit)
    }

    fn web_seed(&self, commit: GitOid) -> Option<String> {
        Some(self.repository.web_seed(&commit.to_string()).into())
    }
}

impl HubRepository {
    /// The source that a manifest names.
    pub fn source(&self, commit: GitOid) -> ManifestSource {
        ManifestSource {
            kind: "huggingface".to_owned(),
            url: Some(self.page().into()),
            commit: Some(commit.to_string()),
            other: Default::default(),
        }
    }
}

impl OpenedFile {
    /// The response to a request for a file. Fails if the server reports another size than `file` has.
    pub(super) fn of(answer: HttpResponse, file: &RemoteFile) -> Result<Self, MirrorError> {
        if let Some(total) = answer.total.filter(|&total| total != file.size) {
            let problem = FileProblem::Damaged(format!("{total} bytes in place of {}", file.size));
            return Err(MirrorError::file(&file.path, problem));
        }
        let etag = answer.etag().map(str::to_owned);
        Ok(Self { from: answer.start, etag, body: FileBody::Http(Box::new(answer.body)) })
    }
}
