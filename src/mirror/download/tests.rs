//! Tests with a source in memory that can stall, lie and fail. Tests with real servers are in `tests/mirror`.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::super::RemoteFile;
use super::*;
use crate::http::HttpError;
use crate::mirror::error::GitFault;
use crate::mirror::source::{FileBody, OpenedFile};
use crate::model::manifest::SourceEntry as ManifestSource;
use crate::model::{Pointer, Sha256Digest};
use sha2::{Digest as _, Sha256};

/// The response of the source to one request.
#[derive(Debug, Clone)]
enum Act {
    /// Sends this number of the requested bytes, then fails.
    Cut(usize),
    /// Sends wrong bytes.
    Lie,
    /// Sends only this number of bytes and ends without an error.
    End(usize),
    /// Ignores the requested range and sends the whole file.
    Whole,
    Busy,
    Refuse,
}

/// A source with files in memory, and its responses to the next requests.
#[derive(Default)]
struct MemorySource {
    files: HashMap<Identity, Vec<u8>>,
    acts: Mutex<VecDeque<Act>>,
    asked: Mutex<Vec<(String, u64)>>,
    in_flight: AtomicUsize,
    most: AtomicUsize,
}

fn lfs(path: &str, bytes: &[u8]) -> RemoteFile {
    let pointer = Pointer { sha256: Sha256Digest(Sha256::digest(bytes).into()), size: bytes.len() as u64 };
    let blob = GitOid::of_blob(pointer.to_string().as_bytes());
    let identity = Identity::Lfs(pointer.sha256);
    RemoteFile { path: path.into(), size: pointer.size, identity, blob, executable: false }
}

fn git(path: &str, bytes: &[u8]) -> RemoteFile {
    let blob = GitOid::of_blob(bytes);
    let (size, identity) = (bytes.len() as u64, Identity::Git(blob));
    RemoteFile { path: path.into(), size, identity, blob, executable: path.ends_with(".sh") }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

impl MemorySource {
    fn of(files: &[(&RemoteFile, &[u8])]) -> Self {
        let files = files.iter().map(|(file, bytes)| (file.identity, bytes.to_vec())).collect();
        Self { files, ..Self::default() }
    }

    fn act(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().extend(acts);
    }

    fn asked(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.asked.lock())
    }

    async fn send(&self, file: &RemoteFile, from: u64) -> Result<OpenedFile, MirrorError> {
        self.asked.lock().push((file.path.clone(), from));
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let all = &self.files[&file.identity];
        let act = self.acts.lock().pop_front();
        let (from, bytes) = match act {
            None => (from, all[from as usize..].to_vec()),
            Some(Act::Cut(len) | Act::End(len)) => (from, all[from as usize..][..len].to_vec()),
            Some(Act::Lie) => (from, all[from as usize..].iter().map(|b| b ^ 1).collect()),
            Some(Act::Whole) => (0, all.clone()),
            Some(Act::Busy) => return Err(HttpError::too_many_requests(None).into()),
            Some(Act::Refuse) => {
                return Err(MirrorError::Unauthorised { repository: "r".into(), anonymous: true });
            }
        };
        let failed =
            || MirrorError::Git { repository: "r".into(), reason: "cut".into(), fault: GitFault::Passing };
        let then = matches!(act, Some(Act::Cut(_))).then(failed);
        Ok(OpenedFile {
            from,
            etag: Some("\"e\"".into()),
            body: FileBody::Scripted(Some(Bytes::from(bytes)), then),
        })
    }
}

impl RepositorySource for MemorySource {
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, MirrorError>> {
        unreachable!("tests make snapshots themselves")
    }

    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        from: u64,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<OpenedFile, MirrorError>> {
        self.send(file, from).boxed()
    }

    fn pointer<'a>(&'a self, _: &'a RemoteFile) -> BoxFuture<'a, Result<Option<Vec<u8>>, MirrorError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn describe(&self, _: GitOid) -> ManifestSource {
        ManifestSource { kind: "git".into(), url: None, commit: None, other: Default::default() }
    }

    fn web_seed(&self, _: GitOid) -> Option<String> {
        None
    }
}

fn snapshot(files: &[&RemoteFile]) -> Snapshot {
    let files = files.iter().map(|&file| file.clone()).collect();
    Snapshot { commit: GitOid([0; 20]), files, gated: false, private: None, license: None, warnings: vec![] }
}

struct Staging(tempfile::TempDir);

impl Staging {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn run(&self, source: &MemorySource, files: &[&RemoteFile]) -> Result<Downloaded, MirrorError> {
        self.run_with(source, files, |job| job).await
    }

    async fn run_with(
        &self,
        source: &MemorySource,
        files: &[&RemoteFile],
        change: impl FnOnce(DownloadJob<'static>) -> DownloadJob<'_>,
    ) -> Result<Downloaded, MirrorError> {
        let staging: &'static Path = Box::leak(self.0.path().to_owned().into_boxed_path());
        let job = DownloadJob {
            staging,
            piece_length: 16384,
            skip_lfs: false,
            have: &|_| None,
            parallel: 4,
            min_free: 0,
        };
        let done = download(source, &snapshot(files), change(job), &ProgressBoard::default()).await?;
        for (path, hashes) in &done.hashes {
            let metadata = fs::metadata(done.dir.join(path)).unwrap();
            assert!(hashes.hold_for(&metadata, 16384), "wrong hashes of {path}");
        }
        Ok(done)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.0.path().join("tree").join(path)).unwrap()
    }

    fn paths(&self) -> Vec<String> {
        let root = self.0.path().join("tree");
        crate::model::scan::scan(&root, &Default::default())
            .unwrap()
            .into_iter()
            .map(|file| file.path)
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn every_content_is_fetched_once_and_verified() {
    let (big, small) = (noise(1, 3_000_000), noise(2, 1000));
    let files = [
        git("a/config.json", &small),
        git("a/run.sh", b"#!"),
        git("b", &small),
        git("empty", b""),
        lfs("m.bin", &big),
        lfs("n/same.bin", &big),
    ];
    let bytes: [&[u8]; 6] = [&small, b"#!", &small, b"", &big, &big];
    let pairs: Vec<_> = files.iter().zip(bytes).collect();
    let source = MemorySource::of(&pairs);
    let staging = Staging::new();
    let files: Vec<_> = files.iter().collect();
    let done = staging.run(&source, &files).await.unwrap();
    for (file, bytes) in &pairs {
        assert_eq!(staging.read(&file.path), *bytes);
        let sha256: [u8; 32] = Sha256::digest(bytes).into();
        assert_eq!(done.hashes[&file.path].sha256.0, sha256);
    }
    assert_eq!((done.hashes.len(), done.fetched), (6, 3_000_000 + 1000 + 2));
    assert_eq!(source.asked().len(), 3, "an empty file and equal ones need no request of their own");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(staging.0.path().join("tree/a/run.sh")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o100, 0o100);
    // A second run fetches nothing.
    let done = staging.run(&source, &files).await.unwrap();
    assert_eq!((done.hashes.len(), done.fetched, source.asked().len()), (6, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn number_of_parallel_files_is_limited() {
    let contents: Vec<_> = (0..12u64).map(|i| noise(i, 5000)).collect();
    let files: Vec<_> =
        contents.iter().enumerate().map(|(i, bytes)| git(&format!("f{i:02}"), bytes)).collect();
    let pairs: Vec<_> = files.iter().zip(contents.iter().map(Vec::as_slice)).collect();
    let source = MemorySource::of(&pairs);
    Staging::new().run(&source, &files.iter().collect::<Vec<_>>()).await.unwrap();
    // The number of files at the same time depends on the speed of the disk.
    let most = source.most.load(Ordering::Relaxed);
    assert!((2..=4).contains(&most), "{most} files at a time");
}

#[tokio::test(start_paused = true)]
async fn failed_requests_resume_at_the_received_length() {
    let bytes = noise(3, 100_000);
    let file = lfs("m", &bytes);
    let source = MemorySource::of(&[(&file, &bytes)]);
    source.act([Act::Cut(10_000), Act::Busy, Act::Cut(0), Act::Cut(30_000), Act::Whole]);
    let staging = Staging::new();
    staging.run(&source, &[&file]).await.unwrap();
    assert_eq!(staging.read("m"), bytes);
    let from: Vec<u64> = source.asked().into_iter().map(|(_, from)| from).collect();
    assert_eq!(from, [0, 10_000, 10_000, 10_000, 40_000]);
}

#[tokio::test(start_paused = true)]
async fn source_without_progress_is_an_error() {
    let bytes = noise(4, 100_000);
    let file = lfs("m", &bytes);
    let source = MemorySource::of(&[(&file, &bytes)]);
    let staging = Staging::new();
    source.act([Act::Cut(50_000)].into_iter().chain(vec![Act::Cut(0); 20]));
    let error = staging.run(&source, &[&file]).await.unwrap_err();
    assert!(matches!(error, MirrorError::Git { .. }), "{error}");
    assert_eq!(source.asked().len(), 5);
    source.acts.lock().clear();
    // The next run uses the received bytes.
    staging.run(&source, &[&file]).await.unwrap();
    assert_eq!(source.asked(), [("m".to_owned(), 50_000)]);
    // A source that always ends early makes no progress, however many bytes it sends.
    let staging = Staging::new();
    source.act(vec![Act::End(60_000), Act::End(0), Act::End(0), Act::End(0), Act::End(0), Act::End(0)]);
    let error = staging.run(&source, &[&file]).await.unwrap_err();
    assert!(error.to_string().contains("60000 of 100000"), "{error}");
    source.acts.lock().clear();
    source.act([Act::Refuse]);
    let error = staging.run(&source, &[&file]).await.unwrap_err();
    assert!(matches!(error, MirrorError::Unauthorised { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_are_fetched_once_more_and_never_kept() {
    let bytes = noise(5, 50_000);
    for file in [lfs("m", &bytes), git("m", &bytes)] {
        let source = MemorySource::of(&[(&file, &bytes)]);
        let staging = Staging::new();
        source.act([Act::Cut(10_000), Act::Lie]);
        staging.run(&source, &[&file]).await.unwrap();
        assert_eq!(staging.read("m"), bytes);
        assert_eq!(source.asked().len(), 3);
        let staging = Staging::new();
        source.act([Act::Lie, Act::Lie]);
        let error = staging.run(&source, &[&file]).await.unwrap_err();
        assert!(
            matches!(&error, MirrorError::File { path, reason: FileProblem::Damaged(_) } if path == "m"),
            "{error}"
        );
        assert!(!staging.0.path().join("tree/m").exists());
        assert_eq!(source.asked().len(), 2);
        staging.run(&source, &[&file]).await.unwrap();
        assert_eq!(source.asked(), [("m".to_owned(), 0)], "no wrong byte is kept");
    }
}

#[tokio::test(start_paused = true)]
async fn equal_files_are_kept_after_the_branch_has_moved() {
    let (weights, old, new) = (noise(6, 200_000), noise(7, 500), noise(8, 600));
    let staging = Staging::new();
    let (before, moved) = (lfs("m.bin", &weights), lfs("deep/er/weights.bin", &weights));
    let (readme, readme_now) = (git("README.md", &old), git("README.md", &new));
    // A file where a directory was.
    let (inside, deep) = (git("x/y", b"inside"), git("x", b"a file"));
    let source = MemorySource::of(&[
        (&before, &weights),
        (&readme, &old),
        (&readme_now, &new),
        (&inside, b"inside"),
        (&deep, b"a file"),
    ]);
    staging.run(&source, &[&readme, &before, &inside]).await.unwrap();
    source.asked();
    let done = staging.run(&source, &[&readme_now, &moved, &deep]).await.unwrap();
    let mut asked: Vec<_> = source.asked().into_iter().map(|(path, _)| path).collect();
    asked.sort();
    assert_eq!(asked, ["README.md", "x"]);
    assert_eq!(staging.paths(), ["README.md", "deep/er/weights.bin", "x"]);
    assert_eq!((staging.read("README.md"), done.hashes.len()), (new, 3));
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_fetched_again() {
    let bytes = noise(9, 1000);
    let file = git("a", &bytes);
    let source = MemorySource::of(&[(&file, &bytes)]);
    let staging = Staging::new();
    staging.run(&source, &[&file]).await.unwrap();
    fs::write(staging.0.path().join("tree/a"), b"changed").unwrap();
    fs::write(staging.0.path().join("tree/stray"), b"stray").unwrap();
    staging.run(&source, &[&file]).await.unwrap();
    assert_eq!((staging.read("a"), source.asked().len()), (bytes, 2));
    assert_eq!(staging.paths(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn another_piece_length_needs_no_request() {
    let bytes = noise(10, 100_000);
    let file = lfs("m", &bytes);
    let source = MemorySource::of(&[(&file, &bytes)]);
    let staging = Staging::new();
    let job = DownloadJob {
        staging: staging.0.path(),
        piece_length: 32768,
        skip_lfs: false,
        have: &|_| None,
        parallel: 1,
        min_free: 0,
    };
    download(&source, &snapshot(&[&file]), job, &ProgressBoard::default()).await.unwrap();
    source.asked();
    let done = staging.run(&source, &[&file]).await.unwrap();
    assert_eq!((done.hashes["m"].layer.len(), source.asked().len()), (7, 0));
}

#[tokio::test(start_paused = true)]
async fn skipped_files_are_replaced_by_pointers() {
    let bytes = noise(11, 1000);
    let (file, readme) = (lfs("m", &bytes), git("README.md", b"hi"));
    let source = MemorySource::of(&[(&readme, b"hi")]);
    let staging = Staging::new();
    let skip = |job| DownloadJob { skip_lfs: true, ..job };
    let done = staging.run_with(&source, &[&readme, &file], skip).await.unwrap();
    assert_eq!(done.pointers, ["m"]);
    assert_eq!(Pointer::parse(&staging.read("m")), file.pointer());
    let odd = RemoteFile { blob: GitOid([1; 20]), ..file.clone() };
    let error = staging.run_with(&source, &[&odd], skip).await.unwrap_err();
    assert!(matches!(error, MirrorError::File { reason: FileProblem::Pointer, .. }), "{error}");
    // A later run without `skip_lfs` replaces the pointer by the file.
    let source = MemorySource::of(&[(&readme, b"hi"), (&file, &bytes)]);
    staging.run(&source, &[&readme, &file]).await.unwrap();
    assert_eq!(staging.read("m"), bytes);
}

#[tokio::test(start_paused = true)]
async fn local_copies_are_used() {
    let (weights, readme) = (noise(12, 100_000), noise(13, 300));
    let (a, b) = (lfs("m", &weights), git("README.md", &readme));
    let other_dir = tempfile::tempdir().unwrap();
    let local = |name: &str, bytes: &[u8]| {
        let path = other_dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let mut hasher = crate::model::hash::FileHasher::new(16384);
        hasher.update(bytes);
        LocalCopy { hashes: hasher.finish(fs::metadata(&path).unwrap()), path, ours: true }
    };
    let (here_a, here_b) = (local("a", &weights), local("b", &readme));
    let have = move |file: &RemoteFile| Some(if file.path == "m" { here_a.clone() } else { here_b.clone() });
    let have: &'static _ = Box::leak(Box::new(have));
    let source = MemorySource::of(&[(&a, &weights), (&b, &readme)]);
    let staging = Staging::new();
    let done = staging.run_with(&source, &[&b, &a], |job| DownloadJob { have, ..job }).await.unwrap();
    assert_eq!((done.fetched, source.asked().len()), (0, 0));
    assert_eq!((staging.read("m"), staging.read("README.md")), (weights.clone(), readme.clone()));
    // A copy that has changed since its verification, or has another content, is not used and not modified.
    fs::write(other_dir.path().join("a"), noise(14, 100_000)).unwrap();
    fs::write(other_dir.path().join("b"), noise(15, 300)).unwrap();
    let staging = Staging::new();
    let done = staging.run_with(&source, &[&b, &a], |job| DownloadJob { have, ..job }).await.unwrap();
    assert_eq!((done.fetched, staging.read("m"), staging.read("README.md")), (100_300, weights, readme));
    assert_eq!(fs::read(other_dir.path().join("b")).unwrap(), noise(15, 300));
}

#[tokio::test(start_paused = true)]
async fn files_that_cannot_fit_are_refused_before_fetching() {
    let file = RemoteFile { size: 1 << 50, ..lfs("m", b"x") };
    let source = MemorySource::default();
    let staging = Staging::new();
    let error = staging.run(&source, &[&file]).await.unwrap_err();
    assert!(matches!(error, MirrorError::Files { source: FilesError::TooManyPieces { .. }, .. }), "{error}");
    let roomy = |job| DownloadJob { piece_length: 128 << 20, ..job };
    let error = staging.run_with(&source, &[&RemoteFile { size: 1 << 44, ..file }], roomy).await.unwrap_err();
    assert!(matches!(error, MirrorError::NoSpace { needed, .. } if needed == 1 << 44), "{error}");
    assert!(error.to_string().contains("16.0 TiB"), "{error}");
}

/// A sparse local copy that is larger than its file system, and the corresponding file of a repository.
fn larger_than_the_disk(dir: &Path) -> (RemoteFile, LocalCopy) {
    const PIECE: u64 = 128 << 20;
    let path = dir.join("large");
    let disk = rustix::fs::statvfs(dir).unwrap();
    let size = (disk.f_blocks * disk.f_frsize + 1).next_multiple_of(PIECE);
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    let layer = vec![[1; 32]; (size / PIECE) as usize];
    let height = crate::model::merkle::piece_height(PIECE as u32);
    let root = crate::model::PiecesRoot(crate::model::merkle::root(layer.clone(), height, 0));
    let file = RemoteFile { size, ..lfs("m", b"short") };
    let Identity::Lfs(sha256) = file.identity else { unreachable!() };
    let metadata = fs::metadata(&path).unwrap();
    let hashes = FileHashes { sha256, pieces_root: Some(root), layer, granules: Vec::new(), metadata };
    (file, LocalCopy { path, hashes, ours: true })
}

#[tokio::test(start_paused = true)]
async fn linked_local_copies_need_no_space() {
    let (staging, other_dir) = (Staging::new(), tempfile::tempdir().unwrap());
    let (file, here) = larger_than_the_disk(other_dir.path());
    let snapshot = snapshot(&[&file]);
    let source = MemorySource::default();
    let run = async |have: &(dyn Fn(&RemoteFile) -> Option<LocalCopy> + Send + Sync)| {
        let job = DownloadJob {
            staging: staging.0.path(),
            piece_length: 128 << 20,
            skip_lfs: false,
            have,
            parallel: 1,
            min_free: 0,
        };
        download(&source, &snapshot, job, &ProgressBoard::default()).await
    };
    // A file that silmaril did not make may have to be copied; a changed file is fetched.
    let theirs = LocalCopy { ours: false, ..here.clone() };
    let other = LocalCopy {
        hashes: FileHashes { metadata: fs::metadata(staging.0.path()).unwrap(), ..here.hashes.clone() },
        ..here.clone()
    };
    for local in [None, Some(theirs), Some(other)] {
        let error = run(&move |_| local.clone()).await.unwrap_err();
        assert!(matches!(error, MirrorError::NoSpace { needed, .. } if needed == file.size), "{error}");
    }
    let done = run(&|_| Some(here.clone())).await.unwrap();
    assert_eq!((done.fetched, done.hashes.len()), (0, 1));
    assert_eq!(fs::metadata(done.dir.join("m")).unwrap().len(), file.size);
}

#[tokio::test(start_paused = true)]
async fn full_disk_reports_the_bytes_that_remain_to_be_written() {
    let (a, b) = (noise(16, 100_000), noise(17, 50_000));
    let (taken, fetched) = (lfs("a", &a), lfs("b", &b));
    let staging = Staging::new();
    // Most of the first file was received before a local copy of it existed.
    let source = MemorySource::of(&[(&taken, &a), (&fetched, &b)]);
    source.act([Act::Cut(90_000), Act::Refuse]);
    staging.run(&source, &[&taken]).await.unwrap_err();
    let path = staging.0.path().join("copy");
    fs::write(&path, &a).unwrap();
    let mut hasher = crate::model::hash::FileHasher::new(16384);
    hasher.update(&a);
    let here = LocalCopy { hashes: hasher.finish(fs::metadata(&path).unwrap()), path, ours: false };
    let have = move |file: &RemoteFile| (file.path == "a").then(|| here.clone());
    let job = DownloadJob {
        staging: staging.0.path(),
        piece_length: 16384,
        skip_lfs: false,
        have: &have,
        parallel: 1,
        min_free: 0,
    };
    let planned = [&taken, &fetched].map(|file| PlannedFile { remote: file.clone(), pointer: None });
    let plan = DownloadPlan::make(job.staging, planned.into(), 16384).unwrap();
    let board = ProgressBoard::default();
    let run = Download::new(&source, &job, &board, plan);
    let lacks = || match run.disk_failed(Path::new("p"), std::io::ErrorKind::StorageFull.into()) {
        MirrorError::NoSpace { needed, .. } => needed,
        error => panic!("{error}"),
    };
    assert_eq!(lacks(), 60_000);
    run.work().await.unwrap();
    assert_eq!((run.fetched.load(Ordering::Relaxed), lacks()), (50_000, 1));
}
