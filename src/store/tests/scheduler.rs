//! All operations of the store against each other, in random order with random pauses around each rename.
//!
//! Models that share contents are published, updated, mirrored, removed and evicted, while other threads sync, read,
//! verify, adopt and check files, and report renamed files as gone. No byte is ever damaged, so no operation may fail, and
//! no byte of the model that is complete may be lost. An operation that looks up a path outside the lock under which
//! that path is renamed fails here. `SCHEDULE_SEED` repeats the choices of a run, `SCHEDULE_SECONDS` changes its length.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::model::merkle::PieceLayers;

const FILES: usize = 24;
const LEN: usize = 3000;

type Owned = Vec<(String, Vec<u8>)>;

/// The files of a model: of one block each, whose hash is the pieces root. The seeds decide which models share which.
fn files(seeds: impl Iterator<Item = u8>) -> Owned {
    seeds.enumerate().map(|(at, seed)| (format!("d{}/f{at:02}", at % 3), bytes(LEN, seed))).collect()
}

fn named(name: &str, files: &mut Owned) -> Arc<Manifest> {
    files.sort();
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(p, b)| (p.as_str(), b.as_slice())).collect();
    manifest(name, &listed)
}

struct Model {
    manifest: Arc<Manifest>,
    files: Owned,
    dest: PathBuf,
}

impl Model {
    fn new(home: &Home, name: &str, seeds: impl Iterator<Item = u8>) -> Self {
        let mut files = files(seeds);
        let manifest = named(name, &mut files);
        Self { manifest, files, dest: home.paths.models.join(name) }
    }

    /// Fetches and publishes the model as `get` does.
    fn get(&self, store: &Arc<Store>) -> Arc<StoredRevision> {
        let revision = self.fetch(store);
        self.publish(store, &revision);
        revision
    }

    fn fetch(&self, store: &Arc<Store>) -> Arc<StoredRevision> {
        let revision = store.revision(self.manifest.clone()).unwrap();
        store.staging().stage(&revision, &self.dest).unwrap();
        for (content, (_, bytes)) in revision.contents.iter().zip(&self.files) {
            while !content.is_complete() {
                let ((path, _), moves) = (content.place(), content.moves());
                if !content.is_placed() && content.moves() == moves {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(&path, bytes).unwrap();
                    content.mark_verified_at(0..LEN as u64, moves).unwrap();
                }
            }
        }
        revision
    }

    fn publish(&self, store: &Store, revision: &StoredRevision) {
        let all: Vec<usize> = (0..FILES).collect();
        store.staging().publish(revision, &all, &self.dest).unwrap();
    }
}

/// The threads of one run.
struct Run {
    home: Home,
    store: Arc<Store>,
    states: [Model; 2],
    other: Model,
    mirrored: Model,
    /// The number of the complete state of the first model, and its revision. None while it is being replaced.
    complete: Mutex<Option<(usize, Arc<StoredRevision>)>>,
    over: AtomicBool,
    until: Instant,
}

/// Ends the other threads when one has ended, and so when one has failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Run {
    fn continues(&self) -> bool {
        !self.over.load(Ordering::Relaxed) && Instant::now() < self.until
    }

    fn manifests(&self, of: &[&Model]) -> Vec<Arc<Manifest>> {
        of.iter().map(|model| model.manifest.clone()).collect()
    }

    /// Runs `check` on the complete state; the result counts only if that state was not replaced in the meantime.
    fn while_complete<T>(&self, check: impl FnOnce(&Model, &StoredRevision) -> T) -> Option<T> {
        let (state, revision) = self.complete.lock().clone()?;
        let found = check(&self.states[state], &revision);
        let now = self.complete.lock().clone();
        now.filter(|(_, now)| Arc::ptr_eq(now, &revision)).map(|_| found)
    }

    /// `get --update`, repeatedly, and the removal of the files of the former state.
    fn update(&self, _: &mut fastrand::Rng) {
        for round in 0.. {
            if !self.continues() {
                return;
            }
            let state = &self.states[round % 2];
            *self.complete.lock() = None;
            let revision = state.fetch(&self.store);
            *self.complete.lock() = Some((round % 2, revision.clone()));
            state.publish(&self.store, &revision);
            let (present, model) = (&state.manifest, state.manifest.model_ref());
            let rest = self.manifests(&[state, &self.other, &self.mirrored]);
            let present_hash = present.torrent.info_hash;
            for former in self.store.former_states().list(&model, &present_hash, Some(&state.dest)).unwrap() {
                self.store.former_states().clear(&former, present, &state.dest, &rest).unwrap();
            }
            assert!(revision.is_complete(), "bytes were lost");
            assert!(self.store.placed().has_all(present, &state.dest), "the record was lost");
        }
    }

    fn get_and_remove(&self, _: &mut fastrand::Rng) {
        while self.continues() {
            let revision = self.other.get(&self.store);
            assert!(revision.is_complete(), "bytes were lost");
            let rest = self.manifests(&[&self.states[0], &self.states[1], &self.mirrored]);
            self.store.forget(&revision, &rest).unwrap();
        }
    }

    fn mirror_and_remove(&self, _: &mut fastrand::Rng) {
        let tree = self.home.dir.path().join("tree");
        while self.continues() {
            let mut stamps = Vec::new();
            for (path, bytes) in &self.mirrored.files {
                let path = tree.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, bytes).unwrap();
                stamps.push(Stamp::at(&path).unwrap());
            }
            self.store.placed().record_own(&self.mirrored.manifest, &tree, &stamps).unwrap();
            let revision = self.store.revision(self.mirrored.manifest.clone()).unwrap();
            let all: Vec<usize> = (0..FILES).collect();
            self.store.staging().publish(&revision, &all, &self.mirrored.dest).unwrap();
            self.store.placed().retire(&revision, &tree).unwrap();
            fs::remove_dir_all(&tree).unwrap();
            assert!(revision.is_complete(), "bytes were lost");
            let rest = self.manifests(&[&self.states[0], &self.states[1], &self.other]);
            self.store.forget(&revision, &rest).unwrap();
        }
    }

    fn sync(&self, _: &mut fastrand::Rng) {
        while self.continues() {
            self.store.sync().unwrap();
        }
    }

    /// Reads a cached model and evicts it; all other contents are in use.
    fn evict(&self, _: &mut fastrand::Rng) {
        let mut files = files((200..200 + FILES).map(|seed| seed as u8));
        let revision = self.store.revision(named("o/cached", &mut files)).unwrap();
        let ours: Vec<PiecesRoot> = revision.contents.iter().filter_map(|content| content.root()).collect();
        while self.continues() {
            for (content, (_, bytes)) in revision.contents.iter().zip(&files) {
                arrive(content, bytes, 0..LEN as u64);
                assert_eq!(content.read(0..10).unwrap().as_deref(), Some(&bytes[..10]));
            }
            self.store.cache().evict(u64::MAX, &|root| !ours.contains(root)).unwrap();
        }
    }

    fn read(&self, rng: &mut fastrand::Rng) {
        while self.continues() {
            let (at, from) = (rng.usize(..FILES), rng.usize(..LEN - 100));
            let read = self.while_complete(|model, revision| {
                let read = revision.contents[at].read(from as u64..from as u64 + 100);
                (model.files[at].1[from..from + 100].to_vec(), read)
            });
            if let Some((right, read)) = read {
                assert_eq!(read.unwrap().expect("bytes were lost"), right);
            }
        }
    }

    fn verify(&self, rng: &mut fastrand::Rng) {
        while self.continues() {
            let at = rng.usize(..FILES);
            let found = self.while_complete(|model, revision| {
                let known = crate::model::PieceHashes::new(model.manifest.clone(), PieceLayers::default());
                self.store.verify(revision, at, &known, UNWATCHED)
            });
            if let Some(found) = found {
                assert_eq!(found.unwrap().damaged, [], "a renamed file was reported as damaged");
            }
        }
    }

    fn adopt(&self, rng: &mut fastrand::Rng) {
        while self.continues() {
            let state = &self.states[rng.usize(..2)];
            let revision = self.store.revision(state.manifest.clone()).unwrap();
            let mut files = self.store.placed().unverified(&revision, &state.dest);
            // A list of another process may be older.
            files.push(rng.usize(..FILES));
            let layers = PieceLayers::default();
            self.store.placed().adopt(&revision, &files, &state.dest, &layers, UNWATCHED).unwrap();
        }
    }

    fn tend(&self, _: &mut fastrand::Rng) {
        while self.continues() {
            for place in self.store.placed().all() {
                self.store.placed().check(&place, 0, usize::MAX, &|_| false);
            }
        }
    }

    /// Reports a file as gone, as the engine does for a path that it received earlier.
    fn report_gone(&self, rng: &mut fastrand::Rng) {
        while self.continues() {
            let state = &self.states[rng.usize(..2)];
            let revision = self.store.revision(state.manifest.clone()).unwrap();
            let content = &revision.contents[rng.usize(..FILES)];
            let (moves, path) = (content.moves(), content.path());
            if content.moves() != moves || !content.is_complete() || nofollow::exists(&path) {
                continue;
            }
            content.start_over_at(moves).unwrap();
        }
    }
}

type Work = fn(&Run, &mut fastrand::Rng);

#[test]
fn concurrent_operations_lose_no_bytes() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seed = number("SCHEDULE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("SCHEDULE_SECONDS").unwrap_or(6);
    println!("SCHEDULE_SEED={seed}");
    // Some files are in all models, some in the two that are removed repeatedly.
    let shared = |n: u8, every: u8, own: u8| match n {
        n if n % every == 0 => n,
        n if n % 5 == 0 => n + 230,
        _ => own,
    };
    // In memory, where a round takes little time.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let home = Home { paths: Paths::below(&dir.path().join("base")), dir };
    let all = 0..FILES as u8;
    let run = Run {
        store: home.store(),
        states: [
            Model::new(&home, "o/m", all.clone()),
            // Half of the files are other ones.
            Model::new(&home, "o/m", all.clone().map(|n| if n % 2 == 0 { n } else { n + 50 })),
        ],
        // An update does not replace the files that these share with the first model, because it would remove them.
        other: Model::new(&home, "o/other", all.clone().map(|n| shared(n, 4, n + 100))),
        mirrored: Model::new(&home, "o/mirrored", all.map(|n| shared(n, 6, n + 150))),
        complete: Mutex::new(None),
        over: AtomicBool::new(false),
        until: Instant::now() + Duration::from_secs(seconds),
        home,
    };
    use fsutil::Point::{Look, Renamed};
    let work: [(Work, fsutil::Point); 11] = [
        (Run::update, Renamed),
        (Run::get_and_remove, Renamed),
        (Run::mirror_and_remove, Renamed),
        (Run::sync, Look),
        (Run::evict, Look),
        (Run::read, Look),
        (Run::read, Look),
        (Run::verify, Look),
        (Run::adopt, Look),
        (Run::tend, Look),
        (Run::report_gone, Look),
    ];
    std::thread::scope(|threads| {
        for (number, (work, point)) in (0u64..).zip(work) {
            let run = &run;
            threads.spawn(move || {
                let _ends = Ends(&run.over);
                let mut rng = fastrand::Rng::with_seed(seed ^ number);
                fsutil::JITTER.set(Some((point, rng.fork())));
                work(run, &mut rng);
            });
        }
    });
}
