//! Lookups of what is not known, with a network that answers, is slow, fails, or never answers.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::asker::Asker;
use super::inode::Ino;
use super::lookups::{LookupRules, Lookups, MAX_WAITING, ResolveError, Resolver, Resolving};
use super::misses::{FIRST, REFUSAL};
use super::never::NeverResolve;
use super::place::Sought;
use super::tree::{Attr, Lookup, Owner, Tree, TreeError};
use crate::model::{FileEntry, Manifest, ModelName, PiecesRoot};
use crate::paths::Paths;
use crate::store::{Store, StoredRevision};

const WITHIN: Duration = Duration::from_secs(10);

type Result = std::result::Result<Lookup, TreeError>;

/// How many lookups a process may make in the tests of other rules.
const MANY: u32 = 100_000;

/// A network in a test.
struct Network<R> {
    resolve: R,
    tree: Arc<Tree>,
    store: Arc<Store>,
    queries: Arc<Mutex<Vec<String>>>,
    over_budget: Arc<Mutex<Vec<(String, u32)>>>,
}

impl<R: Fn(&Arc<Tree>, &Arc<Store>, Sought) -> Resolving + Send + Sync> Resolver for Network<R> {
    fn resolve(&self, model: Sought, within: Duration) -> Resolving {
        assert_eq!(within, WITHIN);
        self.queries.lock().unwrap().push(model.to_string());
        (self.resolve)(&self.tree, &self.store, model)
    }

    fn over_budget(&self, sought: &Sought, process: u32) {
        self.over_budget.lock().unwrap().push((sought.to_string(), process));
    }
}

/// Lookups over a tree that shows nothing, and a count of the queries.
struct Rig {
    tree: Arc<Tree>,
    lookups: Arc<Lookups>,
    queries: Arc<Mutex<Vec<String>>>,
    over_budget: Arc<Mutex<Vec<(String, u32)>>>,
    store: Arc<Store>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(resolve: impl Fn(&Arc<Tree>, &Arc<Store>, Sought) -> Resolving + Send + Sync + 'static) -> Self {
        Self::with_budget(MANY, resolve)
    }

    fn with_budget(
        per_minute: u32,
        resolve: impl Fn(&Arc<Tree>, &Arc<Store>, Sought) -> Resolving + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Paths::below(&dir.path().join("base"))).unwrap();
        let tree = Arc::new(Tree::new(Owner { uid: 7, gid: 8, mounted_at: SystemTime::UNIX_EPOCH }));
        let lookups = Lookups::new(tree.clone(), Handle::current());
        let queries = Arc::new(Mutex::new(Vec::new()));
        let over_budget = Arc::new(Mutex::new(Vec::new()));
        let network = Network {
            resolve,
            tree: tree.clone(),
            store: store.clone(),
            queries: queries.clone(),
            over_budget: over_budget.clone(),
        };
        let never = NeverResolve::new(&["desktop.ini", "HEAD"].map(|name| name.parse().unwrap())).unwrap();
        lookups.resolve_with(Arc::new(network), LookupRules { within: WITHIN, never, per_minute });
        Self { tree, lookups, queries, over_budget, store, _dir: dir }
    }

    /// Looks up a directory above the revisions.
    fn dir(&self, path: &str) -> Attr {
        path.split('/').fold(self.tree.attr(Ino::ROOT).unwrap(), |dir, name| {
            match self.tree.lookup(dir.ino, name.as_ref()).unwrap() {
                Lookup::Present { attr, .. } => attr,
                other => panic!("{path}: {other:?}"),
            }
        })
    }

    /// Begins to look up `org/name` or `datasets/org/name`.
    fn begin(&self, path: &str) -> oneshot::Receiver<Result> {
        let (dir, name) = path.rsplit_once('/').unwrap();
        let (tell, told) = oneshot::channel();
        let answer = Box::new(move |result| tell.send(result).unwrap());
        self.lookups.serve(self.dir(dir).ino, OsString::from(name), Asker::UNSEEN, answer);
        told
    }

    async fn look(&self, path: &str) -> Result {
        self.begin(path).await.unwrap()
    }

    fn queries(&self) -> usize {
        self.queries.lock().unwrap().len()
    }
}

fn revision(store: &Arc<Store>, Sought { model, .. }: Sought) -> Arc<StoredRevision> {
    let entries = vec![FileEntry::new("f", 1, None, Some(PiecesRoot([1; 32])))];
    store.revision(Arc::new(Manifest::new(model.name, model.revision, 65536, entries).unwrap())).unwrap()
}

/// A network that has everything after a second.
fn found(tree: &Arc<Tree>, store: &Arc<Store>, model: Sought) -> Resolving {
    let (tree, store) = (tree.clone(), store.clone());
    Box::pin(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        tree.publish(vec![revision(&store, model)]);
        Ok(())
    })
}

fn fails(_: &Arc<Tree>, _: &Arc<Store>, _: Sought) -> Resolving {
    Box::pin(std::future::ready(Err(ResolveError::NotFound)))
}

fn never(_: &Arc<Tree>, _: &Arc<Store>, _: Sought) -> Resolving {
    Box::pin(std::future::pending())
}

const ABSENT: Result = Ok(Lookup::Absent(Duration::ZERO));

#[tokio::test(start_paused = true)]
async fn lookups_of_one_model_are_one_query_however_it_is_written() {
    let rig = Rig::new(found);
    let all = ["acme/m", "acme/m", "acme/m@main"].map(|path| rig.begin(path));
    assert_eq!(rig.lookups.waiting(), 3);
    for told in all {
        assert!(matches!(told.await.unwrap(), Ok(Lookup::Present { .. })));
    }
    assert_eq!((rig.queries(), rig.lookups.waiting()), (1, 0));
    // Known now: nobody is asked.
    assert!(matches!(rig.look("acme/m").await, Ok(Lookup::Present { .. })));
    assert_eq!(rig.queries(), 1);
    assert_eq!(*rig.queries.lock().unwrap(), ["acme/m"]);
}

#[tokio::test(start_paused = true)]
async fn datasets_and_revisions_are_asked_for_by_their_names() {
    let rig = Rig::new(found);
    assert!(matches!(rig.look("datasets/acme/d@v2").await, Ok(Lookup::Present { .. })));
    assert_eq!(*rig.queries.lock().unwrap(), ["datasets/acme/d@v2"]);
}

#[tokio::test(start_paused = true)]
async fn a_miss_is_remembered_for_a_while_and_no_longer() {
    let rig = Rig::new(fails);
    assert_eq!(rig.look("acme/m").await, ABSENT);
    tokio::time::advance(FIRST - Duration::from_secs(1)).await;
    assert_eq!(rig.begin("acme/m").try_recv().unwrap(), ABSENT, "it is not answered at once");
    assert_eq!(rig.begin("acme/m@main").try_recv().unwrap(), ABSENT);
    assert_eq!(rig.queries(), 1);
    // Others are no misses.
    assert_eq!(rig.look("acme/m@v2").await, ABSENT);
    assert_eq!(rig.queries(), 2);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(rig.look("acme/m").await, ABSENT);
    assert_eq!(rig.queries(), 3);
    // What becomes known by other means is found although it was missed.
    let sought = Sought { model: "acme/m".parse().unwrap(), publisher: None };
    let model = revision(&rig.store, sought);
    rig.tree.publish(vec![model]);
    assert!(matches!(rig.look("acme/m").await, Ok(Lookup::Present { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_never_answers_is_given_up_at_the_deadline() {
    let rig = Rig::new(never);
    let start = tokio::time::Instant::now();
    assert_eq!(rig.look("acme/m").await, ABSENT);
    assert_eq!(start.elapsed().as_secs(), WITHIN.as_secs());
    assert_eq!(rig.begin("acme/m").try_recv().unwrap(), ABSENT);
    assert_eq!((rig.queries(), rig.lookups.waiting()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_and_the_rest_is_answered_at_once() {
    let rig = Rig::new(never);
    let mut waiting: Vec<_> = (0..MAX_WAITING).map(|n| rig.begin(&format!("acme/m{n}"))).collect();
    assert_eq!(rig.begin("acme/more").try_recv().unwrap(), ABSENT);
    assert_eq!(rig.begin("acme/m0@main").try_recv().unwrap(), ABSENT);
    assert!(waiting.iter_mut().all(|told| told.try_recv().is_err()));
    for told in waiting {
        assert_eq!(told.await.unwrap(), ABSENT);
    }
    // What was turned away was not missed.
    assert_eq!(rig.look("acme/more").await, ABSENT);
    assert_eq!(rig.queries(), MAX_WAITING + 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_answers_at_once_and_ends_the_queries() {
    let dropped = Arc::new(Notify::new());
    struct Tells(Arc<Notify>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let tells = dropped.clone();
    let rig = Rig::new(move |_, _, _| {
        let held = Tells(tells.clone());
        Box::pin(async move {
            let _held = held;
            std::future::pending().await
        })
    });
    let mut told = rig.begin("acme/m");
    tokio::task::yield_now().await;
    rig.lookups.stop();
    assert_eq!(told.try_recv().unwrap(), Err(TreeError::Stopped));
    assert_eq!(rig.begin("acme/other").try_recv().unwrap(), Err(TreeError::Stopped));
    tokio::time::timeout(WITHIN / 2, dropped.notified()).await.expect("the query goes on");
    assert_eq!(rig.lookups.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_panics_leaves_nobody_waiting() {
    let rig = Rig::new(|_, _, _| Box::pin(async { panic!("as this test wants it") }));
    assert_eq!(rig.look("acme/m").await, ABSENT);
    assert_eq!(rig.lookups.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_found_and_not_shown_is_missed() {
    let rig = Rig::new(|_, _, _| Box::pin(std::future::ready(Ok(()))));
    assert_eq!(rig.look("acme/m").await, ABSENT);
    assert_eq!(rig.begin("acme/m").try_recv().unwrap(), ABSENT);
    assert_eq!(rig.queries(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_organisation_that_somebody_asked_for_is_an_empty_directory_and_keeps_its_number() {
    let rig = Rig::new(found);
    let asked = rig.dir("acme");
    assert_eq!((asked.perm, asked.nlink), (0o555, 2));
    assert_eq!(rig.tree.attr(asked.ino).unwrap(), asked);
    assert!(rig.tree.xattr_names(asked.ino).unwrap().is_empty());
    let names = |ino| {
        let dir = rig.tree.open_dir(ino).unwrap();
        (0..).map_while(|at| dir.entry(at).map(|e| e.name)).collect::<Vec<_>>()
    };
    assert_eq!(names(asked.ino), [".", ".."]);
    assert_eq!(names(rig.dir("datasets/acme").ino), [".", ".."]);
    assert_eq!(names(Ino::ROOT), [".", ".."], "what was asked for is listed");
    rig.look("acme/m").await.unwrap();
    assert_eq!(names(asked.ino), [".", "..", "m"]);
    assert_eq!(rig.dir("acme").ino, asked.ino);
    // Nothing of it is known any more.
    rig.tree.publish(Vec::new());
    assert_eq!(rig.dir("acme").ino, asked.ino);
    assert_eq!(names(asked.ino), [".", ".."]);
    assert_eq!(rig.queries(), 1, "looking around asks");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_without_a_resolver_or_what_cannot_be_a_name() {
    let rig = Rig::new(fails);
    let acme = rig.dir("acme").ino;
    for name in [".git", "HEAD", "desktop.ini", "a b", "m@", "m@.x"] {
        let (tell, mut told) = oneshot::channel();
        rig.lookups.serve(
            acme,
            name.into(),
            Asker::UNSEEN,
            Box::new(move |result| tell.send(result).unwrap()),
        );
        assert_eq!(told.try_recv().unwrap(), ABSENT, "{name}");
    }
    // A model of such a name is shown once it is known.
    let known = Sought { model: "HEAD/desktop.ini".parse().unwrap(), publisher: None };
    rig.tree.publish(vec![revision(&rig.store, known)]);
    assert!(matches!(rig.look("HEAD/desktop.ini").await, Ok(Lookup::Present { .. })));
    assert_eq!(rig.queries(), 0);
    let plain = Tree::new(Owner { uid: 7, gid: 8, mounted_at: SystemTime::UNIX_EPOCH });
    assert_eq!(plain.lookup(Ino::ROOT, "acme".as_ref()), ABSENT);
}

#[tokio::test(start_paused = true)]
async fn one_refusal_is_not_asked_about_again_at_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rig = Rig::new(move |_, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Err(ResolveError::Refused("signed by somebody else".to_owned()))))
    });
    for _ in 0..3 {
        assert_eq!(rig.look("acme/m").await, ABSENT);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // The user had time to do what the message says.
    tokio::time::advance(REFUSAL).await;
    assert_eq!(rig.look("acme/m").await, ABSENT);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn refused_models_are_asked_for_again_once_something_changed() {
    let trusted = Arc::new(AtomicBool::new(false));
    let trusts = trusted.clone();
    let rig = Rig::new(move |tree, store, model| match trusts.load(Ordering::Relaxed) {
        true => found(tree, store, model),
        false => Box::pin(std::future::ready(Err(ResolveError::Refused("not trusted".to_owned())))),
    });
    assert_eq!(rig.look("acme/refused").await, ABSENT);
    trusted.store(true, Ordering::Relaxed);
    rig.lookups.rules_changed();
    assert!(matches!(rig.look("acme/refused").await, Ok(Lookup::Present { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_record_of_the_name_or_a_new_peer_ends_a_miss() {
    let rig = Rig::new(fails);
    let news: [&dyn Fn(); 2] =
        [&|| rig.lookups.name_appeared(&"acme/m".parse().unwrap()), &|| rig.lookups.peer_appeared()];
    for (n, news) in news.into_iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(rig.look("acme/m").await, ABSENT);
        }
        assert_eq!(rig.queries(), 2 * n + 1);
        rig.lookups.name_appeared(&"acme/other".parse().unwrap());
        assert_eq!(rig.look("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2 * n + 1, "news of another name");
        news();
        assert_eq!(rig.look("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2 * n + 2);
        rig.lookups.name_appeared(&"acme/m".parse().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_news_overtook_leaves_no_miss() {
    let name = "acme/m".parse().unwrap();
    let news: [fn(&Lookups, &ModelName); 2] =
        [|lookups, name| lookups.name_appeared(name), |lookups, _| lookups.peer_appeared()];
    for news in news {
        let rig = Rig::new(never);
        let waiting = rig.begin("acme/m");
        news(&rig.lookups, &name);
        assert_eq!(waiting.await.unwrap(), ABSENT);
        assert_eq!(rig.look("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2);
        assert_eq!(rig.look("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2, "the second is remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_beyond_its_budget_is_answered_without_a_query() {
    let rig = Rig::with_budget(4, fails);
    for n in 0..10 {
        assert_eq!(rig.look(&format!("acme/m{n}")).await, ABSENT);
    }
    assert_eq!(rig.queries(), 4);
    let over_budget: Vec<_> = (4..10).map(|n| (format!("acme/m{n}"), 0)).collect();
    assert_eq!(*rig.over_budget.lock().unwrap(), over_budget);
    // The answer was no miss: with a new budget the name is looked up.
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(rig.look("acme/m9").await, ABSENT);
    assert_eq!(rig.queries(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_process_waits_for_few_names_that_are_searched_for_long() {
    let rig = Rig::with_budget(16, never);
    let start = tokio::time::Instant::now();
    for n in 0..20 {
        assert_eq!(rig.look(&format!("acme/m{n}")).await, ABSENT);
    }
    assert!(start.elapsed() <= WITHIN * 2, "it took {:?}", start.elapsed());
    assert_eq!(rig.over_budget.lock().unwrap().len(), 20 - rig.queries());
}

#[tokio::test(start_paused = true)]
async fn found_models_do_not_use_up_the_budget() {
    let rig = Rig::with_budget(2, found);
    for n in 0..10 {
        assert!(matches!(rig.look(&format!("acme/m{n}")).await, Ok(Lookup::Present { .. })));
    }
    assert!(rig.over_budget.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_disputed_name_is_refused_and_another_path_is_looked_up() {
    let rig = Rig::new(|tree, store, sought| match &sought.publisher {
        Some(_) => {
            let (tree, found) = (tree.clone(), revision(store, sought));
            Box::pin(async move {
                let mut manifest = Manifest::clone(&found.manifest);
                manifest.publisher = Some(crate::model::PublisherKey([7; 32]));
                let found = StoredRevision {
                    manifest: Arc::new(manifest),
                    layout: found.layout.clone(),
                    contents: found.contents.clone(),
                    is_local: false,
                };
                tree.publish(super::view::Shown {
                    beside: vec![Arc::new(found)],
                    ..super::view::Shown::default()
                });
                Ok(())
            })
        }
        None => Box::pin(std::future::ready(Err(ResolveError::Disputed("two publishers".to_owned())))),
    });
    for _ in 0..2 {
        assert_eq!(rig.look("acme/m").await, Err(TreeError::Disputed));
    }
    assert_eq!(rig.queries(), 1, "it is remembered for a while");
    let by = format!(".by/{}/acme/m", crate::model::PublisherKey([7; 32]).fingerprint());
    assert!(matches!(rig.look(&by).await, Ok(Lookup::Present { .. })));
    assert_eq!(rig.queries.lock().unwrap()[1], by);
}
