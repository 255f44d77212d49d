//! Fetches a commit into the local bare repository.
//!
//! Each run fetches into new references, so that it finds only commits of this fetch. With the references of earlier runs,
//! the server knows which objects it need not send; they are deleted afterwards. The user's git configuration is used only
//! for credential helpers, so that it cannot redirect libgit2 to another address.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use git2::{
    AutotagOption, Config, ConfigLevel, Error, ErrorClass, ErrorCode, FetchOptions, Oid, RemoteCallbacks,
    Repository,
};

use super::GitWork;
use super::credentials::{Credentials, Login};
use super::http::{GitHttp, Transport};
use crate::ffi::libgit2::{self, MAX_ALLOCATION, MAX_MEMORY};
use crate::http::HttpError;
use crate::mirror::MirrorError;
use crate::mirror::download::free_space;
use crate::mirror::error::GitFault;
use crate::mirror::progress::{GitProgress, ProgressBoard};
use crate::mirror::repo::{Reference, Remote};
use crate::model::text::{clean, format_size};

/// Prefix of the references of this program.
const PREFIX: &str = "refs/silmaril/";
/// Time without a new byte or object after which a fetch is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(300);
/// Most objects of a transfer. libgit2 keeps about 200 bytes for each in memory.
const MAX_OBJECTS: usize = 1_000_000;
/// After how many received bytes the free space is looked at again: 16 MiB.
const SPACE_EVERY: usize = 16 << 20;
/// The depth with which libgit2 completes a shallow repository: `GIT_FETCH_DEPTH_UNSHALLOW`.
const UNSHALLOW: i32 = i32::MAX;

/// The result of a fetch.
pub(super) struct FetchedCommit {
    pub repo: Repository,
    pub commit: Oid,
    /// The credential that the server accepts.
    pub login: Option<Login>,
    /// Whether the server required a credential.
    pub closed: bool,
}

/// The object that the server is asked for.
enum FetchTarget<'a> {
    /// `HEAD`.
    Head,
    /// A branch, a tag or a full reference name.
    Name(&'a str),
    /// A commit by its full identifier.
    Commit(Oid),
    /// All branches and tags.
    All,
}

impl FetchTarget<'_> {
    fn refspecs(&self, to: &str) -> Vec<String> {
        match self {
            Self::Head => vec![format!("+HEAD:{to}HEAD")],
            Self::Name(name) if name.starts_with("refs/") => vec![format!("+{name}:{to}name")],
            Self::Name(name) => {
                vec![
                    format!("+refs/heads/{name}:{to}heads/{name}"),
                    format!("+refs/tags/{name}:{to}tags/{name}"),
                ]
            }
            Self::Commit(oid) => vec![format!("+{oid}:{to}commit")],
            Self::All => vec![format!("+refs/heads/*:{to}heads/*"), format!("+refs/tags/*:{to}tags/*")],
        }
    }
}

/// Fetches into the bare repository `git_dir` and finds the commit. Also returns warnings.
pub(super) fn fetch_commit(
    work: &GitWork,
    git_dir: &Path,
    board: &ProgressBoard,
    cancel: &Arc<AtomicBool>,
) -> Result<(Vec<String>, FetchedCommit), MirrorError> {
    libgit2::prepare().map_err(|e| work.failed(&e, "git cannot be used"))?;
    let repo = open_copy(work, git_dir)?;
    let fetch = GitFetch::new(work, &repo, board, cancel);
    let reference = work.options.reference.as_ref().map(Reference::as_str);
    let exact = reference.and_then(|r| Oid::from_str(r).ok().filter(|_| r.len() == 40));
    let target = match (reference, exact) {
        (None, _) => FetchTarget::Head,
        (Some(_), Some(oid)) => FetchTarget::Commit(oid),
        (Some(name), None) => FetchTarget::Name(name),
    };
    let mut found = match fetch.fetch(&target) {
        Ok(()) => fetch.find(&target).map_err(|e| fetch.explain(&e))?,
        // A server may refuse to send a commit by its identifier. It may be in a branch or tag, or already in the local copy.
        Err(e) if exact.is_some() && !fetch.is_over() && !fetch.is_for_all(&e) => None,
        Err(e) => return Err(fetch.explain(&e)),
    };
    if found.is_none() && reference.is_some_and(is_hex) {
        fetch.depth.set(0);
        fetch.fetch(&FetchTarget::All).map_err(|e| fetch.explain(&e))?;
        let object = unless_too_large(repo.revparse_single(reference.unwrap_or("HEAD")));
        found = object.and_then(|object| fetch.commit_of(object)).map_err(|e| fetch.explain(&e))?;
    }
    let Some(commit) = found else {
        return Err(MirrorError::NoReference {
            repository: work.repository.remote.to_string(),
            reference: reference.unwrap_or("HEAD").to_owned(),
        });
    };
    fetch.keep(commit).map_err(|e| work.failed(&e, "cannot store the reference to the commit"))?;
    let login = fetch.http.as_ref().and_then(|http| http.credentials.accepted());
    let closed = fetch.http.as_ref().is_some_and(|http| http.credentials.were_given());
    let warnings = fetch.warnings.take();
    drop(fetch);
    Ok((warnings, FetchedCommit { repo, commit, login, closed }))
}

/// Opens the local bare repository. Makes it if it does not exist.
fn open_copy(work: &GitWork, dir: &Path) -> Result<Repository, MirrorError> {
    let opened = if dir.join("HEAD").exists() {
        Repository::open_bare(dir)
    } else {
        super::remove_dir(dir)?;
        std::fs::create_dir_all(dir).map_err(MirrorError::io(dir))?;
        let mut options = git2::RepositoryInitOptions::new();
        // The user's templates are not applied.
        options.bare(true).external_template(false);
        Repository::init_opts(dir, &options)
    };
    opened.and_then(isolated).map_err(|e| work.failed(&e, "cannot open the local copy"))
}

/// Makes a repository use only its own configuration, because the user's configuration may rewrite addresses.
fn isolated(repo: Repository) -> Result<Repository, Error> {
    let mut config = Config::new()?;
    config.add_file(&repo.path().join("config"), ConfigLevel::Local, true)?;
    repo.set_config(&config)?;
    Ok(repo)
}

fn is_hex(name: &str) -> bool {
    (7..=40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A fetch, with a second attempt for all branches and tags if it is needed.
struct GitFetch<'a> {
    work: &'a GitWork,
    repo: &'a Repository,
    board: &'a ProgressBoard,
    cancel: &'a Arc<AtomicBool>,
    /// The HTTP client; none for a local directory.
    http: Option<Arc<GitHttp>>,
    /// Prefix of the references of this run.
    to: String,
    depth: Cell<u32>,
    warnings: RefCell<Vec<String>>,
    /// The time of the last progress, and the sum of bytes and objects at that time.
    last: Cell<(Instant, usize)>,
    stalled: Cell<bool>,
    /// The reason why the transfer was ended.
    excess: RefCell<Option<MirrorError>>,
    /// The bytes that were received when the free space was last looked at.
    space_checked: Cell<usize>,
}

impl<'a> GitFetch<'a> {
    fn new(
        work: &'a GitWork,
        repo: &'a Repository,
        board: &'a ProgressBoard,
        cancel: &'a Arc<AtomicBool>,
    ) -> Self {
        let http = match &work.repository.remote {
            Remote::Http(url) => {
                let credentials = Credentials::new(&work.repository, work.options.token.as_ref(), true);
                let http = GitHttp::new(work.client.clone(), url.clone(), credentials, cancel.clone());
                Some(Arc::new(http))
            }
            Remote::Directory(_) => None,
        };
        // The local transport of libgit2 does not support depths, and copying a directory is cheap.
        let depth = if http.is_some() { work.options.depth } else { 0 };
        Self {
            work,
            repo,
            board,
            cancel,
            http,
            to: format!("{PREFIX}{:016x}/", fastrand::u64(..)),
            depth: Cell::new(depth),
            warnings: RefCell::default(),
            last: Cell::new((Instant::now(), 0)),
            stalled: Cell::new(false),
            excess: RefCell::default(),
            space_checked: Cell::new(0),
        }
    }

    /// Fetches to the requested depth, or the whole history if the server does not support depths.
    fn fetch(&self, target: &FetchTarget<'_>) -> Result<(), Error> {
        let done = self.fetch_once(target);
        match done {
            Err(e) if self.depth.get() > 0 && lacks_depth(&e) => {
                self.depth.set(0);
                let remote = &self.work.repository.remote;
                self.warnings
                    .borrow_mut()
                    .push(format!("{remote} sent its whole history, because it does not support a depth"));
                self.fetch_once(target)
            }
            done => done,
        }
    }

    fn fetch_once(&self, target: &FetchTarget<'_>) -> Result<(), Error> {
        let address = match &self.work.repository.remote {
            Remote::Http(url) => url.as_str().to_owned(),
            Remote::Directory(path) => path.to_string_lossy().into_owned(),
        };
        let mut remote = self.repo.remote_anonymous(&address)?;
        let mut callbacks = RemoteCallbacks::new();
        callbacks.transfer_progress(|progress| {
            self.board.set_git(GitProgress {
                objects: progress.received_objects() as u64,
                total_objects: progress.total_objects() as u64,
                bytes: progress.received_bytes() as u64,
            });
            self.is_within_bounds(progress.total_objects(), progress.received_bytes())
                && self.continues(
                    progress.received_bytes() + progress.indexed_objects() + progress.indexed_deltas(),
                )
        });
        callbacks.sideband_progress(|_| self.continues(0));
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(callbacks)
            .download_tags(AutotagOption::None)
            .update_fetchhead(false)
            .depth(self.libgit2_depth());
        let mut fetch = || remote.fetch(&target.refspecs(&self.to), Some(&mut options), None);
        match self.http.clone() {
            Some(http) => {
                http.begin();
                libgit2::with_http(move || Box::new(Transport(http.clone())), fetch)
            }
            None => fetch(),
        }
    }

    /// The depth for libgit2. The whole history (0) of a shallow local copy needs [`UNSHALLOW`], because for libgit2 a depth
    /// of 0 leaves the copy shallow.
    fn libgit2_depth(&self) -> i32 {
        match self.depth.get() {
            0 if self.repo.is_shallow() => UNSHALLOW,
            depth => i32::try_from(depth).unwrap_or(UNSHALLOW),
        }
    }

    /// Whether every other request to the server would fail with this error, too.
    fn is_for_all(&self, error: &Error) -> bool {
        // libgit2 uses these words if the server refuses the requested object.
        let refused = error.message().starts_with("remote error");
        let http = self.http.as_ref().is_some_and(|http| http.failed_for_all());
        http || (is_passing(error) && !refused)
    }

    /// Whether a transfer of so many objects may continue after so many bytes. A server decides alone how much it sends.
    fn is_within_bounds(&self, objects: usize, received: usize) -> bool {
        if objects > MAX_OBJECTS {
            let repository = self.work.repository.remote.to_string();
            let reason =
                format!("it has {objects} git objects, which is more than the limit of {MAX_OBJECTS}");
            *self.excess.borrow_mut() = Some(MirrorError::Refused { repository, reason });
            return false;
        }
        if libgit2::is_exceeded() {
            *self.excess.borrow_mut() = Some(self.needs_too_much());
            return false;
        }
        if received >= self.space_checked.get() + SPACE_EVERY {
            self.space_checked.set(received);
            let (path, min_free) = (self.repo.path(), self.work.options.min_free);
            // If the disk does not answer, writing to it fails.
            let free = free_space(path).unwrap_or(u64::MAX);
            if free < min_free {
                let (path, needed) = (path.to_owned(), SPACE_EVERY as u64);
                *self.excess.borrow_mut() =
                    Some(MirrorError::NoSpace { path, needed, free: 0, source: None });
                return false;
            }
        }
        true
    }

    /// Records the progress (the sum of bytes and objects), and returns whether the fetch may continue.
    fn continues(&self, progress: usize) -> bool {
        let (since, before) = self.last.get();
        if progress > before {
            self.last.set((Instant::now(), progress));
        } else if since.elapsed() > STALLED_AFTER {
            self.stalled.set(true);
        }
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.stalled.get() || self.excess.borrow().is_some() || self.cancel.load(Ordering::Relaxed)
    }

    /// Finds the commit among the fetched references. Fails if an object on the way to it is too large.
    fn find(&self, target: &FetchTarget<'_>) -> Result<Option<Oid>, Error> {
        let read = |name: String| match self.repo.find_reference(&name) {
            // `peel` of a reference would return its own error if the object is too large.
            Ok(reference) => match reference.resolve().ok().and_then(|direct| direct.target()) {
                Some(oid) => self.commit_of(unless_too_large(self.repo.find_object(oid, None))?),
                None => Ok(None),
            },
            Err(_) => Ok(None),
        };
        match target {
            FetchTarget::Head => read(format!("{}HEAD", self.to)),
            FetchTarget::Name(name) if name.starts_with("refs/") => read(format!("{}name", self.to)),
            FetchTarget::Name(name) => match read(format!("{}heads/{name}", self.to))? {
                None => read(format!("{}tags/{name}", self.to)),
                found => Ok(found),
            },
            FetchTarget::Commit(oid) => self.commit_of(unless_too_large(self.repo.find_object(*oid, None))?),
            FetchTarget::All => Ok(None),
        }
    }

    /// The commit that an object is or points to.
    fn commit_of(&self, object: Option<git2::Object<'_>>) -> Result<Option<Oid>, Error> {
        let Some(object) = object else { return Ok(None) };
        Ok(unless_too_large(object.peel_to_commit())?.map(|commit| commit.id()))
    }

    /// Makes a reference to the commit, from which later runs benefit, and deletes all other references of this program.
    fn keep(&self, commit: Oid) -> Result<(), Error> {
        let kept = format!("{}kept", self.to);
        self.repo.reference(&kept, commit, true, "mirrored")?;
        for reference in self.repo.references_glob(&format!("{PREFIX}*"))? {
            let mut reference = reference?;
            if reference.name() != Ok(&kept) {
                reference.delete()?;
            }
        }
        Ok(())
    }

    fn needs_too_much(&self) -> MirrorError {
        let repository = self.work.repository.remote.to_string();
        let reason = format!("git needs more than {} for it", format_size(MAX_MEMORY as u64));
        MirrorError::Refused { repository, reason }
    }

    fn explain(&self, error: &Error) -> MirrorError {
        let repository = self.work.repository.remote.to_string();
        if self.cancel.load(Ordering::Relaxed) {
            return MirrorError::Cancelled;
        }
        if let Some(error) = self.excess.take() {
            return error;
        }
        if self.stalled.get() {
            let reason = format!("no data was received for {} s", STALLED_AFTER.as_secs());
            return MirrorError::Git { repository, reason, fault: GitFault::Passing };
        }
        if self.http.as_ref().is_some_and(|http| http.needed_too_much()) {
            return self.needs_too_much();
        }
        if let Some(error) = self.http.as_ref().and_then(|http| http.take_error()) {
            return self.explain_http(error);
        }
        if let Some(refused) = too_large(error, &repository) {
            return refused;
        }
        let fault = match (is_network(error), is_passing(error)) {
            (true, true) => GitFault::Passing,
            (true, false) => GitFault::Remote,
            (false, _) => GitFault::Copy,
        };
        MirrorError::Git { repository, reason: error_text(error), fault }
    }

    fn explain_http(&self, error: HttpError) -> MirrorError {
        let repository = self.work.repository.remote.to_string();
        let anonymous = !self.http.as_ref().is_some_and(|http| http.credentials.were_given());
        let is_hub = self.work.repository.hub.is_some();
        match error.status().map(|status| status.as_u16()) {
            // The hub returns this status also for repositories that do not exist.
            Some(401) if is_hub => MirrorError::NotFound { repository, anonymous },
            Some(401) => MirrorError::Unauthorised { repository, anonymous },
            Some(403) if is_hub => MirrorError::Gated { page: repository },
            Some(403) => MirrorError::Unauthorised { repository, anonymous },
            Some(404 | 410) => MirrorError::NotFound { repository, anonymous },
            _ => error.into(),
        }
    }
}

fn is_network(error: &Error) -> bool {
    matches!(error.class(), ErrorClass::Net | ErrorClass::Os | ErrorClass::Ssl | ErrorClass::Http)
}

fn is_passing(error: &Error) -> bool {
    is_network(error) && error.code() != ErrorCode::NotFound
}

/// The refusal of a repository for which libgit2 needs more memory than it gets.
pub(super) fn too_large(error: &Error, repository: &str) -> Option<MirrorError> {
    let reason =
        || format!("git needs more than {} for one of its objects", format_size(MAX_ALLOCATION as u64));
    (error.class() == ErrorClass::NoMemory)
        .then(|| MirrorError::Refused { repository: repository.to_owned(), reason: reason() })
}

/// The result; none if there is no such object. Fails if libgit2 needs too much memory for it.
fn unless_too_large<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if error.class() == ErrorClass::NoMemory => Err(error),
        result => Ok(result.ok()),
    }
}

/// The message of libgit2 without control characters, at most 300 characters.
pub(super) fn error_text(error: &Error) -> String {
    clean(error.message()).chars().take(300).collect()
}

fn lacks_depth(error: &Error) -> bool {
    let text = error.message();
    text.contains("shallow") || text.contains("capability")
}
