//! An interrupted mirror keeps complete files and the received bytes of incomplete files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use silmaril::mirror::{MirrorError, ProgressBoard, RepositorySource as _, download};

use super::rig::{BIG, SMALL, WEIGHTS, hub, job, mirror, repository, run};
use crate::support::git_server::tree;
use crate::support::hub::Hub;
use crate::support::process::{PATIENCE, Proc, until, until_async};
use crate::support::repos::Repos;
use crate::support::web::faults::Fault;
use crate::support::web::place::Place;

const ENDPOINT: &str = "MIRROR_CHILD_ENDPOINT";
const STAGING: &str = "MIRROR_CHILD_STAGING";

/// Bytes of the weights after which a mirror is interrupted.
const ENOUGH: u64 = 300_000;

struct Setting {
    hub: Hub,
    dir: tempfile::TempDir,
    _repos: Repos,
}

impl Setting {
    fn new() -> Self {
        let (repos, dir) = (Repos::new(), tempfile::tempdir().unwrap());
        repository(&repos, dir.path());
        Self { hub: Hub::start(&Place::loopback(), &repos), dir, _repos: repos }
    }

    fn staging(&self) -> PathBuf {
        self.dir.path().join("staging")
    }

    /// Bytes of the weights that are on the disk.
    fn received(&self) -> u64 {
        let Ok(parts) = std::fs::read_dir(self.staging().join("parts")) else { return 0 };
        let parts = parts.filter_map(|part| part.ok());
        let is_weights = |part: &std::fs::DirEntry| part.file_name().to_string_lossy().starts_with("sha256-");
        parts.filter(is_weights).filter_map(|part| part.metadata().ok()).map(|meta| meta.len()).sum()
    }
}

/// Mirrors in a child process, which the test below kills.
#[test]
#[ignore = "not a test: the process that `killed_mirror_keeps_received_bytes` starts and kills"]
fn child() {
    let variable = |name| std::env::var(name).expect("this process is the child of another test");
    let board = Arc::<ProgressBoard>::default();
    let source = hub(&variable(ENDPOINT), "org/name", None, &board);
    run(mirror(&source, job(Path::new(&variable(STAGING))), &board)).unwrap();
}

#[test]
fn killed_mirror_keeps_received_bytes() {
    let setting = Setting::new();
    setting.hub.cdn_faults().times(2, WEIGHTS, Fault::Slow(400_000));
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "mirror::killed::child", "--ignored"]);
        Proc::spawn(command.env(ENDPOINT, setting.hub.url()).env(STAGING, setting.staging()))
    };
    let small_files = || SMALL.iter().all(|path| setting.staging().join("tree").join(path).exists());
    let mut before = 0;
    for _ in 0..2 {
        let mut child = start();
        until("a part is received", PATIENCE, || small_files() && setting.received() >= before + ENOUGH);
        child.signal(Signal::KILL);
        child.wait(PATIENCE);
        before = setting.received();
    }
    assert!(before < BIG as u64);
    start().finish(PATIENCE).ok();
    assert_eq!(tree(&setting.staging().join("tree")), tree(&setting.dir.path().join("original")));
    let asked: Vec<_> =
        setting.hub.log().of(WEIGHTS).into_iter().filter(|asked| asked.site == "cdn").collect();
    let [_, second, third] = asked.as_slice() else { panic!("{asked:#?}") };
    assert_eq!(third.range, Some(format!("bytes={before}-")));
    assert!(
        [second, third].iter().all(|asked| asked.status == 206 && asked.if_range.is_some()),
        "{asked:#?}"
    );
    for path in SMALL {
        let name = path.split('/').next_back().unwrap();
        let resolved = setting
            .hub
            .log()
            .all()
            .into_iter()
            .filter(|asked| asked.path.ends_with(name) && asked.status == 200);
        assert_eq!(resolved.count(), 1, "{path} was sent more than once");
    }
}

#[test]
fn dropped_mirror_stops_and_keeps_received_bytes() {
    let setting = Setting::new();
    setting.hub.cdn_faults().times(1, WEIGHTS, Fault::Slow(400_000));
    let board = Arc::<ProgressBoard>::default();
    let source = hub(setting.hub.url(), "org/name", None, &board);
    let staging = setting.staging();
    run(async {
        let snapshot = source.snapshot().await.unwrap();
        let mut going = std::pin::pin!(download(&source, &snapshot, job(&staging), &board));
        let enough = until_async("enough is received", PATIENCE, || setting.received() >= ENOUGH);
        tokio::select! {
            done = &mut going => panic!("it was done before it could be dropped: {done:?}"),
            () = enough => {}
        }
    });
    let progress = board.now();
    assert!(progress.files.is_empty() && progress.waiting.is_none(), "{progress:?}");
    let before = setting.received();
    assert!(before >= ENOUGH, "{before} bytes are kept");
    let (_, done) = run(mirror(&source, job(&staging), &board)).unwrap();
    assert_eq!(tree(&done.dir), tree(&setting.dir.path().join("original")));
    assert!(
        done.fetched <= BIG as u64 - before,
        "{} received bytes were sent again",
        done.fetched + before - BIG as u64
    );
}

/// A small file system for one test.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        assert!(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(at)
                .status()
                .unwrap()
                .success()
        );
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn full_disk_is_reported_before_and_during_a_mirror() {
    let setting = Setting::new();
    let board = Arc::<ProgressBoard>::default();
    let source = hub(setting.hub.url(), "org/name", None, &board);
    let small = Tmpfs::mount(&setting.dir.path().join("small"), "2m");
    let error = run(mirror(&source, job(&small.0), &board)).unwrap_err();
    assert!(
        matches!(error, MirrorError::NoSpace { needed, free, .. } if needed > BIG as u64 && free < 3 << 20),
        "{error}"
    );
    assert!(setting.hub.log().of("/resolve/").is_empty());
    let larger = Tmpfs::mount(&setting.dir.path().join("larger"), "4m");
    // Another writer fills the disk during the mirror.
    setting.hub.cdn_faults().times(1, WEIGHTS, Fault::Slow(2_000_000));
    let filler = larger.0.join("filler");
    let error = run(async {
        let snapshot = source.snapshot().await.unwrap();
        let fill = async {
            while board.now().done < 200_000 {
                tokio::task::yield_now().await;
            }
            // Fills the disk; the write itself fails.
            let _ = std::fs::write(&filler, vec![1; 4 << 20]);
        };
        tokio::join!(download(&source, &snapshot, job(&larger.0), &board), fill).0.unwrap_err()
    });
    assert!(
        matches!(error, MirrorError::NoSpace { needed, .. } if needed > 0 && needed < BIG as u64),
        "{error}"
    );
    std::fs::remove_file(&filler).unwrap();
    let (_, done) = run(mirror(&source, job(&larger.0), &board)).unwrap();
    assert_eq!(tree(&done.dir), tree(&setting.dir.path().join("original")));
}
