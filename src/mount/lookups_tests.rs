//! Lookups of unknown models, with a network that answers, is slow, fails, or never answers.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::attr::{Attr, Owner};
use super::inode::Ino;
use super::lookups::{LookupRules, Lookups, MAX_WAITING, ResolveError, Resolver, Resolving};
use super::misses::{FIRST, REFUSAL};
use super::never_resolve::NeverResolve;
use super::requester::Requester;
use super::top_path::{MountLayout, RequestedModel};
use super::tree::{Lookup, Tree};
use super::tree_error::TreeError;
use crate::model::{FileEntry, Manifest, ModelName, PiecesRoot};
use crate::paths::Paths;
use crate::store::{Store, StoredRevision};

const WITHIN: Duration = Duration::from_secs(10);

type Result = std::result::Result<Lookup, TreeError>;

/// A budget that the tests of other rules never use up.
const MANY: u32 = 100_000;

/// A network that runs a function of the test.
struct TestNetwork<R> {
    resolve: R,
    tree: Arc<Tree>,
    store: Arc<Store>,
    queries: Arc<Mutex<Vec<String>>>,
    over_budget: Arc<Mutex<Vec<(String, u32)>>>,
}

impl<R: Fn(&Arc<Tree>, &Arc<Store>, RequestedModel) -> Resolving + Send + Sync> Resolver for TestNetwork<R> {
    fn resolve(&self, model: RequestedModel, within: Duration) -> Resolving {
        assert_eq!(within, WITHIN);
        self.queries.lock().unwrap().push(model.to_string());
        (self.resolve)(&self.tree, &self.store, model)
    }

    fn over_budget(&self, requested: &RequestedModel, process: u32) {
        self.over_budget.lock().unwrap().push((requested.to_string(), process));
    }
}

/// Lookups over a tree without revisions, and the queries that they caused.
struct LookupRig {
    tree: Arc<Tree>,
    lookups: Arc<Lookups>,
    queries: Arc<Mutex<Vec<String>>>,
    over_budget: Arc<Mutex<Vec<(String, u32)>>>,
    store: Arc<Store>,
    _dir: tempfile::TempDir,
}

impl LookupRig {
    fn new(
        resolve: impl Fn(&Arc<Tree>, &Arc<Store>, RequestedModel) -> Resolving + Send + Sync + 'static,
    ) -> Self {
        Self::with_budget(MANY, resolve)
    }

    fn with_budget(
        per_minute: u32,
        resolve: impl Fn(&Arc<Tree>, &Arc<Store>, RequestedModel) -> Resolving + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Paths::below(&dir.path().join("base"))).unwrap();
        let tree = Arc::new(Tree::new(
            Owner { uid: 7, gid: 8, mounted_at: SystemTime::UNIX_EPOCH },
            MountLayout::Plain,
        ));
        let lookups = Lookups::new(tree.clone(), Handle::current());
        let queries = Arc::new(Mutex::new(Vec::new()));
        let over_budget = Arc::new(Mutex::new(Vec::new()));
        let network = TestNetwork {
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
        let (sender, reply) = oneshot::channel();
        let answer = Box::new(move |result| sender.send(result).unwrap());
        self.lookups.serve(self.dir(dir).ino, OsString::from(name), Requester::UNSEEN, answer);
        reply
    }

    async fn lookup(&self, path: &str) -> Result {
        self.begin(path).await.unwrap()
    }

    fn queries(&self) -> usize {
        self.queries.lock().unwrap().len()
    }
}

fn revision(store: &Arc<Store>, RequestedModel { model, .. }: RequestedModel) -> Arc<StoredRevision> {
    let entries = vec![FileEntry::new("f", 1, None, Some(PiecesRoot([1; 32])))];
    store.revision(Arc::new(Manifest::new(model.name, model.revision, 65536, entries).unwrap())).unwrap()
}

/// A network that finds every model after a second.
fn found(tree: &Arc<Tree>, store: &Arc<Store>, model: RequestedModel) -> Resolving {
    let (tree, store) = (tree.clone(), store.clone());
    Box::pin(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        tree.publish(vec![revision(&store, model)]);
        Ok(())
    })
}

fn fails(_: &Arc<Tree>, _: &Arc<Store>, _: RequestedModel) -> Resolving {
    Box::pin(std::future::ready(Err(ResolveError::NotFound)))
}

fn never(_: &Arc<Tree>, _: &Arc<Store>, _: RequestedModel) -> Resolving {
    Box::pin(std::future::pending())
}

const ABSENT: Result = Ok(Lookup::Absent(Duration::ZERO));

#[tokio::test(start_paused = true)]
async fn lookups_of_one_model_share_one_query() {
    let rig = LookupRig::new(found);
    let all = ["acme/m", "acme/m", "acme/m@main"].map(|path| rig.begin(path));
    assert_eq!(rig.lookups.waiting(), 3);
    for reply in all {
        assert!(matches!(reply.await.unwrap(), Ok(Lookup::Present { .. })));
    }
    assert_eq!((rig.queries(), rig.lookups.waiting()), (1, 0));
    // The model is known now, so there is no further query.
    assert!(matches!(rig.lookup("acme/m").await, Ok(Lookup::Present { .. })));
    assert_eq!(rig.queries(), 1);
    assert_eq!(*rig.queries.lock().unwrap(), ["acme/m"]);
}

#[tokio::test(start_paused = true)]
async fn queries_name_the_dataset_and_the_revision() {
    let rig = LookupRig::new(found);
    assert!(matches!(rig.lookup("datasets/acme/d@v2").await, Ok(Lookup::Present { .. })));
    assert_eq!(*rig.queries.lock().unwrap(), ["datasets/acme/d@v2"]);
}

#[tokio::test(start_paused = true)]
async fn a_miss_is_remembered_for_a_limited_time() {
    let rig = LookupRig::new(fails);
    assert_eq!(rig.lookup("acme/m").await, ABSENT);
    tokio::time::advance(FIRST - Duration::from_secs(1)).await;
    assert_eq!(rig.begin("acme/m").try_recv().unwrap(), ABSENT, "the reply must be immediate");
    assert_eq!(rig.begin("acme/m@main").try_recv().unwrap(), ABSENT);
    assert_eq!(rig.queries(), 1);
    // The miss does not cover other revisions.
    assert_eq!(rig.lookup("acme/m@v2").await, ABSENT);
    assert_eq!(rig.queries(), 2);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(rig.lookup("acme/m").await, ABSENT);
    assert_eq!(rig.queries(), 3);
    // A model that is published by other means is found in spite of the miss.
    let requested = RequestedModel { model: "acme/m".parse().unwrap(), publisher: None };
    let model = revision(&rig.store, requested);
    rig.tree.publish(vec![model]);
    assert!(matches!(rig.lookup("acme/m").await, Ok(Lookup::Present { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_query_ends_at_the_deadline() {
    let rig = LookupRig::new(never);
    let start = tokio::time::Instant::now();
    assert_eq!(rig.lookup("acme/m").await, ABSENT);
    assert_eq!(start.elapsed().as_secs(), WITHIN.as_secs());
    assert_eq!(rig.begin("acme/m").try_recv().unwrap(), ABSENT);
    assert_eq!((rig.queries(), rig.lookups.waiting()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn lookups_over_the_limit_fail_immediately() {
    let rig = LookupRig::new(never);
    let mut waiting: Vec<_> = (0..MAX_WAITING).map(|n| rig.begin(&format!("acme/m{n}"))).collect();
    assert_eq!(rig.begin("acme/more").try_recv().unwrap(), ABSENT);
    assert_eq!(rig.begin("acme/m0@main").try_recv().unwrap(), ABSENT);
    assert!(waiting.iter_mut().all(|reply| reply.try_recv().is_err()));
    for reply in waiting {
        assert_eq!(reply.await.unwrap(), ABSENT);
    }
    // A lookup over the limit is not remembered as a miss.
    assert_eq!(rig.lookup("acme/more").await, ABSENT);
    assert_eq!(rig.queries(), MAX_WAITING + 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_fails_lookups_and_cancels_queries() {
    let dropped = Arc::new(Notify::new());
    struct NotifyOnDrop(Arc<Notify>);
    impl Drop for NotifyOnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let notify = dropped.clone();
    let rig = LookupRig::new(move |_, _, _| {
        let held = NotifyOnDrop(notify.clone());
        Box::pin(async move {
            let _held = held;
            std::future::pending().await
        })
    });
    let mut reply = rig.begin("acme/m");
    tokio::task::yield_now().await;
    rig.lookups.stop();
    assert_eq!(reply.try_recv().unwrap(), Err(TreeError::Stopped));
    assert_eq!(rig.begin("acme/other").try_recv().unwrap(), Err(TreeError::Stopped));
    tokio::time::timeout(WITHIN / 2, dropped.notified()).await.expect("the query still runs");
    assert_eq!(rig.lookups.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_panics_answers_its_lookups() {
    let rig = LookupRig::new(|_, _, _| Box::pin(async { panic!("this panic belongs to the test") }));
    assert_eq!(rig.lookup("acme/m").await, ABSENT);
    assert_eq!(rig.lookups.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_found_but_not_shown_is_a_miss() {
    let rig = LookupRig::new(|_, _, _| Box::pin(std::future::ready(Ok(()))));
    assert_eq!(rig.lookup("acme/m").await, ABSENT);
    assert_eq!(rig.begin("acme/m").try_recv().unwrap(), ABSENT);
    assert_eq!(rig.queries(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guessed_organisation_is_an_empty_directory() {
    let rig = LookupRig::new(found);
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
    assert_eq!(names(Ino::ROOT), [".", ".."], "a guessed directory is listed");
    rig.lookup("acme/m").await.unwrap();
    assert_eq!(names(asked.ino), [".", "..", "m"]);
    assert_eq!(rig.dir("acme").ino, asked.ino);
    // After the removal of its models the directory is guessed again.
    rig.tree.publish(Vec::new());
    assert_eq!(rig.dir("acme").ino, asked.ino);
    assert_eq!(names(asked.ino), [".", ".."]);
    assert_eq!(rig.queries(), 1, "a listing sent a query");
}

#[tokio::test(start_paused = true)]
async fn excluded_names_and_no_resolver_send_no_query() {
    let rig = LookupRig::new(fails);
    let acme = rig.dir("acme").ino;
    for name in [".git", "HEAD", "desktop.ini", "a b", "m@", "m@.x"] {
        let (sender, mut reply) = oneshot::channel();
        rig.lookups.serve(
            acme,
            name.into(),
            Requester::UNSEEN,
            Box::new(move |result| sender.send(result).unwrap()),
        );
        assert_eq!(reply.try_recv().unwrap(), ABSENT, "{name}");
    }
    // A known model with such a name is shown.
    let known = RequestedModel { model: "HEAD/desktop.ini".parse().unwrap(), publisher: None };
    rig.tree.publish(vec![revision(&rig.store, known)]);
    assert!(matches!(rig.lookup("HEAD/desktop.ini").await, Ok(Lookup::Present { .. })));
    assert_eq!(rig.queries(), 0);
    let plain = Tree::new(Owner { uid: 7, gid: 8, mounted_at: SystemTime::UNIX_EPOCH }, MountLayout::Plain);
    assert_eq!(plain.lookup(Ino::ROOT, "acme".as_ref()), ABSENT);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_a_moment() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rig = LookupRig::new(move |_, _, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Err(ResolveError::Refused("signed by another key".to_owned()))))
    });
    for _ in 0..3 {
        assert_eq!(rig.lookup("acme/m").await, ABSENT);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // The user had time to follow the advice of the message.
    tokio::time::advance(REFUSAL).await;
    assert_eq!(rig.lookup("acme/m").await, ABSENT);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn changed_trust_ends_a_refusal() {
    let trusted = Arc::new(AtomicBool::new(false));
    let trusts = trusted.clone();
    let rig = LookupRig::new(move |tree, store, model| {
        if trusts.load(Ordering::Relaxed) {
            found(tree, store, model)
        } else {
            Box::pin(std::future::ready(Err(ResolveError::Refused("not trusted".to_owned()))))
        }
    });
    assert_eq!(rig.lookup("acme/refused").await, ABSENT);
    trusted.store(true, Ordering::Relaxed);
    rig.lookups.rules_changed();
    assert!(matches!(rig.lookup("acme/refused").await, Ok(Lookup::Present { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_record_of_the_name_or_a_new_peer_ends_a_miss() {
    let rig = LookupRig::new(fails);
    let news: [&dyn Fn(); 2] =
        [&|| rig.lookups.name_appeared(&"acme/m".parse().unwrap()), &|| rig.lookups.peer_appeared()];
    for (n, news) in news.into_iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(rig.lookup("acme/m").await, ABSENT);
        }
        assert_eq!(rig.queries(), 2 * n + 1);
        rig.lookups.name_appeared(&"acme/other".parse().unwrap());
        assert_eq!(rig.lookup("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2 * n + 1, "a record of another name ended the miss");
        news();
        assert_eq!(rig.lookup("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2 * n + 2);
        rig.lookups.name_appeared(&"acme/m".parse().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_during_the_query_prevents_a_miss() {
    let name = "acme/m".parse().unwrap();
    let news: [fn(&Lookups, &ModelName); 2] =
        [|lookups, name| lookups.name_appeared(name), |lookups, _| lookups.peer_appeared()];
    for news in news {
        let rig = LookupRig::new(never);
        let waiting = rig.begin("acme/m");
        news(&rig.lookups, &name);
        assert_eq!(waiting.await.unwrap(), ABSENT);
        assert_eq!(rig.lookup("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2);
        assert_eq!(rig.lookup("acme/m").await, ABSENT);
        assert_eq!(rig.queries(), 2, "the second miss is not remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_over_its_budget_sends_no_query() {
    let rig = LookupRig::with_budget(4, fails);
    for n in 0..10 {
        assert_eq!(rig.lookup(&format!("acme/m{n}")).await, ABSENT);
    }
    assert_eq!(rig.queries(), 4);
    let over_budget: Vec<_> = (4..10).map(|n| (format!("acme/m{n}"), 0)).collect();
    assert_eq!(*rig.over_budget.lock().unwrap(), over_budget);
    // The reply is not remembered as a miss: with a new budget the name is looked up.
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(rig.lookup("acme/m9").await, ABSENT);
    assert_eq!(rig.queries(), 5);
}

#[tokio::test(start_paused = true)]
async fn slow_queries_use_up_the_budget_sooner() {
    let rig = LookupRig::with_budget(16, never);
    let start = tokio::time::Instant::now();
    for n in 0..20 {
        assert_eq!(rig.lookup(&format!("acme/m{n}")).await, ABSENT);
    }
    assert!(start.elapsed() <= WITHIN * 2, "it took {:?}", start.elapsed());
    assert_eq!(rig.over_budget.lock().unwrap().len(), 20 - rig.queries());
}

#[tokio::test(start_paused = true)]
async fn found_models_do_not_count_for_the_budget() {
    let rig = LookupRig::with_budget(2, found);
    for n in 0..10 {
        assert!(matches!(rig.lookup(&format!("acme/m{n}")).await, Ok(Lookup::Present { .. })));
    }
    assert!(rig.over_budget.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_disputed_name_can_be_looked_up_by_publisher() {
    let rig = LookupRig::new(|tree, store, requested| match &requested.publisher {
        Some(_) => {
            let (tree, found) = (tree.clone(), revision(store, requested));
            Box::pin(async move {
                let mut manifest = Manifest::clone(&found.manifest);
                manifest.publisher = Some(crate::model::PublisherKey([7; 32]));
                let found = StoredRevision {
                    manifest: Arc::new(manifest),
                    layout: found.layout.clone(),
                    contents: found.contents.clone(),
                    is_local: false,
                    hub: None,
                    listed: None,
                    refutation: None,
                };
                tree.publish(super::view::ShownModels {
                    by_publisher: vec![Arc::new(found)],
                    ..super::view::ShownModels::default()
                });
                Ok(())
            })
        }
        None => Box::pin(std::future::ready(Err(ResolveError::Disputed("two publishers".to_owned())))),
    });
    for _ in 0..2 {
        assert_eq!(rig.lookup("acme/m").await, Err(TreeError::Disputed));
    }
    assert_eq!(rig.queries(), 1, "the dispute is not remembered");
    let by = format!(".by/{}/acme/m", crate::model::PublisherKey([7; 32]).fingerprint());
    assert!(matches!(rig.lookup(&by).await, Ok(Lookup::Present { .. })));
    assert_eq!(rig.queries.lock().unwrap()[1], by);
}
