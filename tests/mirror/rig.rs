//! Runs mirrors in the test process, from servers on loopback.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use silmaril::config::{Config, LoadOptions};
use silmaril::http::{HttpClient, Token};
use silmaril::mirror::{
    DownloadJob, Downloaded, GitOptions, GitSource, HubSource, MirrorError, ProgressBoard, Repository,
    RepositorySource, Snapshot, download,
};

use crate::support::fixtures::{model_dir, noise};
use crate::support::process::PATIENCE;
use crate::support::repos::{Repo, Repos};

/// Size of the file in LFS, in bytes.
pub const BIG: usize = 3_000_000;
/// The files of [`original`] that are in git. [`WEIGHTS`] is in LFS.
pub const SMALL: [&str; 4] = [".gitattributes", "README.md", "config.json", "sub/a file+#.json"];
pub const WEIGHTS: &str = "sub/weights.bin";

/// Runs a future to its end, within the patience of a test.
#[track_caller]
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await });
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    done.expect("the mirror hangs")
}

/// A client with the default configuration.
pub fn client() -> HttpClient {
    let home = tempfile::tempdir().unwrap();
    let options = LoadOptions { home: Some(home.path().to_owned()), ..LoadOptions::default() };
    HttpClient::new(&Config::load(&options).unwrap().network).unwrap()
}

/// Makes a directory with a model of a few files, one of which is in LFS.
pub fn original(dir: &Path) -> PathBuf {
    model_dir(
        &dir.join("original"),
        &[
            (SMALL[0], b"*.bin filter=lfs diff=lfs merge=lfs -text\n"),
            (SMALL[1], b"---\nlicense: mit\n---\n# A model\n"),
            (SMALL[2], b"{}"),
            (SMALL[3], b"[1]"),
            (WEIGHTS, &noise(1, BIG)),
        ],
    )
}

/// The repository `org/name` of [`original`].
pub fn repository(repos: &Repos, dir: &Path) -> Repo {
    let repo = repos.create("org/name");
    repo.commit(&original(dir));
    repo
}

/// A source of the hub at `endpoint`, named as on the command line.
pub fn hub(endpoint: &str, text: &str, token: Option<&str>, board: &Arc<ProgressBoard>) -> HubSource {
    let named = Repository::parse(text, &endpoint.parse().unwrap()).unwrap();
    let Repository::Hub(repository) = named.repository else { panic!("{text} is not of the hub") };
    let token = token.map(|token| Token::new(token).unwrap());
    HubSource::new(client(), repository, named.reference, token.as_ref(), board.clone())
}

/// A source of any git server.
pub fn git(
    url: &str,
    reference: Option<&str>,
    depth: u32,
    git_dir: &Path,
    board: &Arc<ProgressBoard>,
) -> GitSource {
    let named = Repository::parse(url, &"https://hub.invalid".parse().unwrap()).unwrap();
    let Repository::Git(repository) = named.repository else { panic!("{url} is of the hub") };
    let reference = reference.map(|reference| reference.parse().unwrap());
    let options = GitOptions { reference, depth, git_dir: git_dir.to_owned(), token: None, min_free: 0 };
    GitSource::new(client(), repository, options, board.clone())
}

/// The options of [`mirror`].
pub fn job(staging: &Path) -> DownloadJob<'_> {
    DownloadJob { staging, piece_length: 1 << 20, skip_lfs: false, have: &|_| None, parallel: 4, min_free: 0 }
}

/// Lists and downloads a repository.
pub async fn mirror(
    source: &dyn RepositorySource,
    job: DownloadJob<'_>,
    board: &ProgressBoard,
) -> Result<(Snapshot, Downloaded), MirrorError> {
    let snapshot = source.snapshot().await?;
    let done = download(source, &snapshot, job, board).await?;
    Ok((snapshot, done))
}
