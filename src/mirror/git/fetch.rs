//! Bringing a commit into our own bare repository.
//!
//! Each run fetches into references of its own, so that what it finds is what this fetch brought; those of earlier runs
//! tell the server what need not be sent again, and go afterwards. The user's git configuration counts for credential
//! helpers only: nothing in it can lead libgit2 to another address.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use git2::{
    AutotagOption, Config, ConfigLevel, Error, ErrorClass, ErrorCode, FetchOptions, Oid, RemoteCallbacks,
    Repository,
};

use super::Work;
use super::credentials::{Credentials, Login};
use super::http::{GitHttp, Transport};
use crate::ffi::libgit2;
use crate::http::HttpError;
use crate::mirror::MirrorError;
use crate::mirror::error::GitFault;
use crate::mirror::progress::{Board, GitProgress};
use crate::mirror::repo::{Reference, Remote};
use crate::model::text::clean;

/// Below this our references stand.
const OURS: &str = "refs/silmaril/";
/// How long a fetch may go on without a byte or an object more.
const STALLED_AFTER: Duration = Duration::from_secs(300);
/// The depth by which libgit2 makes a shallow repository whole: its `GIT_FETCH_DEPTH_UNSHALLOW`.
const UNSHALLOW: i32 = i32::MAX;

/// What a fetch brought.
pub(super) struct Brought {
    pub repo: Repository,
    pub commit: Oid,
    pub login: Option<Login>,
    /// Whether the server wanted a credential.
    pub closed: bool,
}

/// What to ask the server for.
enum Want<'a> {
    /// `HEAD`.
    Head,
    /// A branch, a tag or a full reference name.
    Name(&'a str),
    /// A commit by its whole name.
    Commit(Oid),
    /// All branches and tags.
    All,
}

impl Want<'_> {
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

impl Work {
    /// Fetches into a bare repository, and finds the commit in what came. Returns warnings, too.
    pub(super) fn bring(
        &self,
        git_dir: &Path,
        board: &Board,
        cancel: &Arc<AtomicBool>,
    ) -> Result<(Vec<String>, Brought), MirrorError> {
        libgit2::use_our_http().map_err(|e| self.failed(&e, "git cannot be used"))?;
        let repo = self.open(git_dir)?;
        let run = Run::new(self, &repo, board, cancel);
        let reference = self.options.reference.as_ref().map(Reference::as_str);
        let exact = reference.and_then(|r| Oid::from_str(r).ok().filter(|_| r.len() == 40));
        let want = match (reference, exact) {
            (None, _) => Want::Head,
            (Some(_), Some(oid)) => Want::Commit(oid),
            (Some(name), None) => Want::Name(name),
        };
        let mut found = match run.fetch(&want) {
            Ok(()) => run.find(&want),
            // A server need not hand out a commit by its name; one that is wholly here need not be asked for.
            Err(e) if exact.is_some() && !run.is_over() && !run.is_for_all(&e) => None,
            Err(e) => return Err(run.explain(&e)),
        };
        if found.is_none() && reference.is_some_and(is_hex) {
            run.depth.set(0);
            run.fetch(&Want::All).map_err(|e| run.explain(&e))?;
            found = reference.and_then(|name| run.commit_of(repo.revparse_single(name).ok()?));
        }
        let Some(commit) = found else {
            return Err(MirrorError::NoReference {
                repository: self.repository.remote.to_string(),
                reference: reference.unwrap_or("HEAD").to_owned(),
            });
        };
        run.keep(commit).map_err(|e| self.failed(&e, "what came cannot be kept"))?;
        let login = run.http.as_ref().and_then(|http| http.credentials.accepted());
        let closed = run.http.as_ref().is_some_and(|http| http.credentials.were_given());
        let warnings = run.warnings.take();
        drop(run);
        Ok((warnings, Brought { repo, commit, login, closed }))
    }

    /// A bare repository of ours, made where there is none.
    fn open(&self, dir: &Path) -> Result<Repository, MirrorError> {
        let opened = match dir.join("HEAD").exists() {
            true => Repository::open_bare(dir),
            false => {
                super::remove_dir(dir)?;
                std::fs::create_dir_all(dir).map_err(MirrorError::io(dir))?;
                let mut options = git2::RepositoryInitOptions::new();
                // No templates of the user.
                options.bare(true).external_template(false);
                Repository::init_opts(dir, &options)
            }
        };
        opened.and_then(isolated).map_err(|e| self.failed(&e, "our copy cannot be used"))
    }
}

/// Has a repository know its own configuration alone: the user's may rewrite addresses.
fn isolated(repo: Repository) -> Result<Repository, Error> {
    let mut config = Config::new()?;
    config.add_file(&repo.path().join("config"), ConfigLevel::Local, true)?;
    repo.set_config(&config)?;
    Ok(repo)
}

fn is_hex(name: &str) -> bool {
    (7..=40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// One fetch, or two.
struct Run<'a> {
    work: &'a Work,
    repo: &'a Repository,
    board: &'a Board,
    cancel: &'a Arc<AtomicBool>,
    /// For a remote that is a server.
    http: Option<Arc<GitHttp>>,
    /// Where the references of this run stand.
    to: String,
    depth: Cell<u32>,
    warnings: RefCell<Vec<String>>,
    /// When something came last, and how much there was.
    last: Cell<(Instant, usize)>,
    stalled: Cell<bool>,
}

impl<'a> Run<'a> {
    fn new(work: &'a Work, repo: &'a Repository, board: &'a Board, cancel: &'a Arc<AtomicBool>) -> Self {
        let http = match &work.repository.remote {
            Remote::Http(url) => {
                let credentials = Credentials::new(&work.repository, work.options.token.as_ref(), true);
                let http = GitHttp::new(work.client.clone(), url.clone(), credentials, cancel.clone());
                Some(Arc::new(http))
            }
            Remote::Directory(_) => None,
        };
        // The local transport of libgit2 knows no depth, and copying a directory is cheap.
        let depth = if http.is_some() { work.options.depth } else { 0 };
        Self {
            work,
            repo,
            board,
            cancel,
            http,
            to: format!("{OURS}{:016x}/", fastrand::u64(..)),
            depth: Cell::new(depth),
            warnings: RefCell::default(),
            last: Cell::new((Instant::now(), 0)),
            stalled: Cell::new(false),
        }
    }

    /// Fetches to the depth wanted, or all of it from a server that knows no depths.
    fn fetch(&self, want: &Want<'_>) -> Result<(), Error> {
        let done = self.fetch_once(want);
        match done {
            Err(e) if self.depth.get() > 0 && knows_no_depth(&e) => {
                self.depth.set(0);
                let remote = &self.work.repository.remote;
                self.warnings
                    .borrow_mut()
                    .push(format!("{remote} sends its whole history, for it knows no depth"));
                self.fetch_once(want)
            }
            done => done,
        }
    }

    fn fetch_once(&self, want: &Want<'_>) -> Result<(), Error> {
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
            self.goes_on(progress.received_bytes() + progress.indexed_objects() + progress.indexed_deltas())
        });
        callbacks.sideband_progress(|_| self.goes_on(0));
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(callbacks)
            .download_tags(AutotagOption::None)
            .update_fetchhead(false)
            .depth(self.asked_depth());
        let mut fetch = || remote.fetch(&want.refspecs(&self.to), Some(&mut options), None);
        match self.http.clone() {
            Some(http) => {
                http.begin();
                libgit2::with_http(move || Box::new(Transport(http.clone())), fetch)
            }
            None => fetch(),
        }
    }

    /// The depth as libgit2 has it. For all of a history of which the end is cut off here, that is its word for "make it
    /// whole": 0 leaves it as it is.
    fn asked_depth(&self) -> i32 {
        match self.depth.get() {
            0 if self.repo.is_shallow() => UNSHALLOW,
            depth => i32::try_from(depth).unwrap_or(UNSHALLOW),
        }
    }

    /// Whether an error is one that any other request to the server would meet, too.
    fn is_for_all(&self, error: &Error) -> bool {
        // With these words a server refuses what was asked for.
        let refused = error.message().starts_with("remote error");
        let http = self.http.as_ref().is_some_and(|http| http.failed_for_all());
        http || (is_passing(error) && !refused)
    }

    /// Whether to go on, when `came` says how much there is.
    fn goes_on(&self, came: usize) -> bool {
        let (since, before) = self.last.get();
        if came > before {
            self.last.set((Instant::now(), came));
        } else if since.elapsed() > STALLED_AFTER {
            self.stalled.set(true);
        }
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.stalled.get() || self.cancel.load(Ordering::Relaxed)
    }

    /// The commit in what came.
    fn find(&self, want: &Want<'_>) -> Option<Oid> {
        let read = |name: String| {
            self.repo
                .find_reference(&name)
                .ok()
                .and_then(|r| self.commit_of(r.peel(git2::ObjectType::Any).ok()?))
        };
        match want {
            Want::Head => read(format!("{}HEAD", self.to)),
            Want::Name(name) if name.starts_with("refs/") => read(format!("{}name", self.to)),
            Want::Name(name) => {
                read(format!("{}heads/{name}", self.to)).or_else(|| read(format!("{}tags/{name}", self.to)))
            }
            Want::Commit(oid) => self.commit_of(self.repo.find_object(*oid, None).ok()?),
            Want::All => None,
        }
    }

    /// The commit that an object is or names.
    fn commit_of(&self, object: git2::Object<'_>) -> Option<Oid> {
        Some(object.peel_to_commit().ok()?.id())
    }

    /// Keeps the commit for later runs to build on, and none of the references before.
    fn keep(&self, commit: Oid) -> Result<(), Error> {
        let kept = format!("{}kept", self.to);
        self.repo.reference(&kept, commit, true, "mirrored")?;
        for reference in self.repo.references_glob(&format!("{OURS}*"))? {
            let mut reference = reference?;
            if reference.name() != Ok(&kept) {
                reference.delete()?;
            }
        }
        Ok(())
    }

    fn explain(&self, error: &Error) -> MirrorError {
        let repository = self.work.repository.remote.to_string();
        if self.cancel.load(Ordering::Relaxed) {
            return MirrorError::Cancelled;
        }
        if self.stalled.get() {
            let reason = format!("nothing came for {} s", STALLED_AFTER.as_secs());
            return MirrorError::Git { repository, reason, fault: GitFault::Passing };
        }
        if let Some(error) = self.http.as_ref().and_then(|http| http.take_failure()) {
            return self.explain_http(error);
        }
        let fault = match (is_network(error), is_passing(error)) {
            (true, true) => GitFault::Passing,
            (true, false) => GitFault::Remote,
            (false, _) => GitFault::Copy,
        };
        MirrorError::Git { repository, reason: said(error), fault }
    }

    fn explain_http(&self, error: HttpError) -> MirrorError {
        let repository = self.work.repository.remote.to_string();
        let anonymous = !self.http.as_ref().is_some_and(|http| http.credentials.were_given());
        let is_hub = self.work.repository.hub.is_some();
        match error.status().map(|status| status.as_u16()) {
            // The hub says the same of what is not there.
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

/// What libgit2 says, safe for a terminal.
pub(super) fn said(error: &Error) -> String {
    clean(error.message()).chars().take(300).collect()
}

fn knows_no_depth(error: &Error) -> bool {
    let text = error.message();
    text.contains("shallow") || text.contains("capability")
}
