//! With a source that can stall, lie and fail; real servers are in `tests/mirror`.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::*;
use crate::mirror::error::GitFault;
use crate::model::manifest::SourceEntry as ManifestSource;
use crate::model::{Pointer, Sha256Digest};
use sha2::{Digest as _, Sha256};

/// What the source does when it is asked for a file.
#[derive(Debug, Clone)]
enum Act {
    /// Sends this much of what was asked for, then fails.
    Cut(usize),
    /// Sends all, but other bytes.
    Lie,
    /// Sends this many bytes in place of all, as if they were.
    End(usize),
    /// Begins anew, whatever was asked for.
    Anew,
    Busy,
    Refuse,
}

/// Files in memory, and what goes wrong with the next requests.
#[derive(Default)]
struct Memory {
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

impl Memory {
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

    async fn send(&self, file: &RemoteFile, from: u64) -> Result<Opened, MirrorError> {
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
            Some(Act::Anew) => (0, all.clone()),
            Some(Act::Busy) => return Err(MirrorError::RateLimited { server: "s".into(), after: None }),
            Some(Act::Refuse) => {
                return Err(MirrorError::Unauthorised { repository: "r".into(), anonymous: true });
            }
        };
        let failed =
            || MirrorError::Git { repository: "r".into(), reason: "cut".into(), fault: GitFault::Passing };
        let then = matches!(act, Some(Act::Cut(_))).then(failed);
        Ok(Opened { from, etag: Some("\"e\"".into()), body: Body::Scripted(Some(Bytes::from(bytes)), then) })
    }
}

impl Source for Memory {
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, MirrorError>> {
        unreachable!("tests make their own")
    }

    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        from: u64,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Opened, MirrorError>> {
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

    async fn run(&self, source: &Memory, files: &[&RemoteFile]) -> Result<Downloaded, MirrorError> {
        self.run_with(source, files, |job| job).await
    }

    async fn run_with(
        &self,
        source: &Memory,
        files: &[&RemoteFile],
        change: impl FnOnce(Job<'static>) -> Job<'_>,
    ) -> Result<Downloaded, MirrorError> {
        let staging: &'static Path = Box::leak(self.0.path().to_owned().into_boxed_path());
        let job =
            Job { staging, piece_length: 16384, skip_lfs: false, have: &|_| None, parallel: 4, min_free: 0 };
        let done = download(source, &snapshot(files), change(job), &Board::default()).await?;
        for (path, hashes) in &done.hashes {
            let metadata = fs::metadata(done.dir.join(path)).unwrap();
            assert!(hashes.hold_for(&metadata, 16384), "{path} has other hashes than it is said to have");
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
async fn every_file_comes_once_and_is_what_was_listed() {
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
    let source = Memory::of(&pairs);
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
    // Again: nothing is to be done.
    let done = staging.run(&source, &files).await.unwrap();
    assert_eq!((done.hashes.len(), done.fetched, source.asked().len()), (6, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_files_at_a_time_than_allowed() {
    let contents: Vec<_> = (0..12u64).map(|i| noise(i, 5000)).collect();
    let files: Vec<_> =
        contents.iter().enumerate().map(|(i, bytes)| git(&format!("f{i:02}"), bytes)).collect();
    let pairs: Vec<_> = files.iter().zip(contents.iter().map(Vec::as_slice)).collect();
    let source = Memory::of(&pairs);
    Staging::new().run(&source, &files.iter().collect::<Vec<_>>()).await.unwrap();
    // How many there are at a time depends on how long the disk takes.
    let most = source.most.load(Ordering::Relaxed);
    assert!((2..=4).contains(&most), "{most} files at a time");
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_from_where_it_was() {
    let bytes = noise(3, 100_000);
    let file = lfs("m", &bytes);
    let source = Memory::of(&[(&file, &bytes)]);
    source.act([Act::Cut(10_000), Act::Busy, Act::Cut(0), Act::Cut(30_000), Act::Anew]);
    let staging = Staging::new();
    staging.run(&source, &[&file]).await.unwrap();
    assert_eq!(staging.read("m"), bytes);
    let from: Vec<u64> = source.asked().into_iter().map(|(_, from)| from).collect();
    assert_eq!(from, [0, 10_000, 10_000, 10_000, 40_000]);
}

#[tokio::test(start_paused = true)]
async fn a_source_without_progress_is_given_up() {
    let bytes = noise(4, 100_000);
    let file = lfs("m", &bytes);
    let source = Memory::of(&[(&file, &bytes)]);
    let staging = Staging::new();
    source.act([Act::Cut(50_000)].into_iter().chain(vec![Act::Cut(0); 20]));
    let error = staging.run(&source, &[&file]).await.unwrap_err();
    assert!(matches!(error, MirrorError::Git { .. }), "{error}");
    assert_eq!(source.asked().len(), 5);
    source.acts.lock().clear();
    // What came is there for the next run.
    staging.run(&source, &[&file]).await.unwrap();
    assert_eq!(source.asked(), [("m".to_owned(), 50_000)]);
    // One that always begins anew makes no progress, however much it sends.
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
async fn other_bytes_are_fetched_once_more_and_never_kept() {
    let bytes = noise(5, 50_000);
    for file in [lfs("m", &bytes), git("m", &bytes)] {
        let source = Memory::of(&[(&file, &bytes)]);
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
        assert_eq!(source.asked(), [("m".to_owned(), 0)], "nothing of the lie is kept");
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_branch_has_moved_what_is_the_same_is_kept() {
    let (weights, old, new) = (noise(6, 200_000), noise(7, 500), noise(8, 600));
    let staging = Staging::new();
    let (before, moved) = (lfs("m.bin", &weights), lfs("deep/er/weights.bin", &weights));
    let (readme, readme_now) = (git("README.md", &old), git("README.md", &new));
    // A file where a directory was.
    let (inside, deep) = (git("x/y", b"inside"), git("x", b"a file"));
    let source = Memory::of(&[
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
async fn what_somebody_changed_is_fetched_again() {
    let bytes = noise(9, 1000);
    let file = git("a", &bytes);
    let source = Memory::of(&[(&file, &bytes)]);
    let staging = Staging::new();
    staging.run(&source, &[&file]).await.unwrap();
    fs::write(staging.0.path().join("tree/a"), b"changed").unwrap();
    fs::write(staging.0.path().join("tree/stray"), b"stray").unwrap();
    staging.run(&source, &[&file]).await.unwrap();
    assert_eq!((staging.read("a"), source.asked().len()), (bytes, 2));
    assert_eq!(staging.paths(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn another_piece_length_needs_the_bytes_and_not_the_network() {
    let bytes = noise(10, 100_000);
    let file = lfs("m", &bytes);
    let source = Memory::of(&[(&file, &bytes)]);
    let staging = Staging::new();
    let job = Job {
        staging: staging.0.path(),
        piece_length: 32768,
        skip_lfs: false,
        have: &|_| None,
        parallel: 1,
        min_free: 0,
    };
    download(&source, &snapshot(&[&file]), job, &Board::default()).await.unwrap();
    source.asked();
    let done = staging.run(&source, &[&file]).await.unwrap();
    assert_eq!((done.hashes["m"].layer.len(), source.asked().len()), (7, 0));
}

#[tokio::test(start_paused = true)]
async fn pointers_stand_in_for_files_that_are_skipped() {
    let bytes = noise(11, 1000);
    let (file, readme) = (lfs("m", &bytes), git("README.md", b"hi"));
    let source = Memory::of(&[(&readme, b"hi")]);
    let staging = Staging::new();
    let skip = |job| Job { skip_lfs: true, ..job };
    let done = staging.run_with(&source, &[&readme, &file], skip).await.unwrap();
    assert_eq!(done.pointers, ["m"]);
    assert_eq!(Pointer::parse(&staging.read("m")), file.pointer());
    let odd = RemoteFile { blob: GitOid([1; 20]), ..file.clone() };
    let error = staging.run_with(&source, &[&odd], skip).await.unwrap_err();
    assert!(matches!(error, MirrorError::File { reason: FileProblem::Pointer, .. }), "{error}");
    // Then without: the pointer makes room.
    let source = Memory::of(&[(&readme, b"hi"), (&file, &bytes)]);
    staging.run(&source, &[&readme, &file]).await.unwrap();
    assert_eq!(staging.read("m"), bytes);
}

#[tokio::test(start_paused = true)]
async fn copies_that_are_here_are_taken() {
    let (weights, readme) = (noise(12, 100_000), noise(13, 300));
    let (a, b) = (lfs("m", &weights), git("README.md", &readme));
    let elsewhere = tempfile::tempdir().unwrap();
    let local = |name: &str, bytes: &[u8]| {
        let path = elsewhere.path().join(name);
        fs::write(&path, bytes).unwrap();
        let mut hasher = crate::model::hash::FileHasher::new(16384);
        hasher.update(bytes);
        Local { hashes: hasher.finish(fs::metadata(&path).unwrap()), path, ours: true }
    };
    let (here_a, here_b) = (local("a", &weights), local("b", &readme));
    let have = move |file: &RemoteFile| Some(if file.path == "m" { here_a.clone() } else { here_b.clone() });
    let have: &'static _ = Box::leak(Box::new(have));
    let source = Memory::of(&[(&a, &weights), (&b, &readme)]);
    let staging = Staging::new();
    let done = staging.run_with(&source, &[&b, &a], |job| Job { have, ..job }).await.unwrap();
    assert_eq!((done.fetched, source.asked().len()), (0, 0));
    assert_eq!((staging.read("m"), staging.read("README.md")), (weights.clone(), readme.clone()));
    // What has changed since it was verified, or is something else, is not taken, and not touched.
    fs::write(elsewhere.path().join("a"), noise(14, 100_000)).unwrap();
    fs::write(elsewhere.path().join("b"), noise(15, 300)).unwrap();
    let staging = Staging::new();
    let done = staging.run_with(&source, &[&b, &a], |job| Job { have, ..job }).await.unwrap();
    assert_eq!((done.fetched, staging.read("m"), staging.read("README.md")), (100_300, weights, readme));
    assert_eq!(fs::read(elsewhere.path().join("b")).unwrap(), noise(15, 300));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_fit_is_told_before_it_is_fetched() {
    let file = RemoteFile { size: 1 << 50, ..lfs("m", b"x") };
    let source = Memory::default();
    let staging = Staging::new();
    let error = staging.run(&source, &[&file]).await.unwrap_err();
    assert!(matches!(error, MirrorError::Files { source: FilesError::TooManyPieces { .. }, .. }), "{error}");
    let roomy = |job| Job { piece_length: 128 << 20, ..job };
    let error = staging.run_with(&source, &[&RemoteFile { size: 1 << 47, ..file }], roomy).await.unwrap_err();
    assert!(matches!(error, MirrorError::NoSpace { needed, .. } if needed == 1 << 47), "{error}");
    assert!(error.to_string().contains("128 TiB"), "{error}");
}

/// A file of ours that is larger than its file system, without its bytes, and which file of a repository it is.
fn larger_than_the_disk(dir: &Path) -> (RemoteFile, Local) {
    const PIECE: u64 = 128 << 20;
    let path = dir.join("large");
    let disk = rustix::fs::statvfs(dir).unwrap();
    let size = (disk.f_blocks * disk.f_frsize + 1).next_multiple_of(PIECE);
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    let layer = vec![[1; 32]; (size / PIECE) as usize];
    let height = crate::model::merkle::piece_height(PIECE as u32);
    let root = crate::model::PiecesRoot(crate::model::merkle::root(layer.clone(), height, 0));
    let file = RemoteFile { size, ..lfs("m", b"stands for many") };
    let Identity::Lfs(sha256) = file.identity else { unreachable!() };
    let metadata = fs::metadata(&path).unwrap();
    let hashes = FileHashes { sha256, pieces_root: Some(root), layer, granules: Vec::new(), metadata };
    (file, Local { path, hashes, ours: true })
}

#[tokio::test(start_paused = true)]
async fn an_update_needs_no_space_for_what_is_linked_from_here() {
    let (staging, beside) = (Staging::new(), tempfile::tempdir().unwrap());
    let (file, here) = larger_than_the_disk(beside.path());
    let snapshot = snapshot(&[&file]);
    let source = Memory::default();
    let run = async |have: &(dyn Fn(&RemoteFile) -> Option<Local> + Send + Sync)| {
        let job = Job {
            staging: staging.0.path(),
            piece_length: 128 << 20,
            skip_lfs: false,
            have,
            parallel: 1,
            min_free: 0,
        };
        download(&source, &snapshot, job, &Board::default()).await
    };
    // What is somebody else's may have to be copied; what has changed is fetched.
    let theirs = Local { ours: false, ..here.clone() };
    let other = Local {
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
async fn a_disk_that_becomes_full_lacks_what_is_still_to_be_written() {
    let (a, b) = (noise(16, 100_000), noise(17, 50_000));
    let (taken, fetched) = (lfs("a", &a), lfs("b", &b));
    let staging = Staging::new();
    // Most of the first came before a copy of it turned up here.
    let source = Memory::of(&[(&taken, &a), (&fetched, &b)]);
    source.act([Act::Cut(90_000), Act::Refuse]);
    staging.run(&source, &[&taken]).await.unwrap_err();
    let path = staging.0.path().join("copy");
    fs::write(&path, &a).unwrap();
    let mut hasher = crate::model::hash::FileHasher::new(16384);
    hasher.update(&a);
    let here = Local { hashes: hasher.finish(fs::metadata(&path).unwrap()), path, ours: false };
    let have = move |file: &RemoteFile| (file.path == "a").then(|| here.clone());
    let job = Job {
        staging: staging.0.path(),
        piece_length: 16384,
        skip_lfs: false,
        have: &have,
        parallel: 1,
        min_free: 0,
    };
    let wants = [&taken, &fetched].map(|file| Want { file: file.clone(), pointer: None });
    let plan = Plan::make(job.staging, wants.into(), 16384).unwrap();
    let board = Board::default();
    let run = Run::new(&source, &job, &board, plan);
    let lacks = || match run.disk_failed(Path::new("p"), std::io::ErrorKind::StorageFull.into()) {
        MirrorError::NoSpace { needed, .. } => needed,
        error => panic!("{error}"),
    };
    assert_eq!(lacks(), 60_000);
    run.work().await.unwrap();
    assert_eq!((run.fetched.load(Ordering::Relaxed), lacks()), (50_000, 1));
}
