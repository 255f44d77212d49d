//! Paths of unknown models on a real mount: only the program that looks up the path waits.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use silmaril::mount::{LookupRules, NeverResolve, RequestedModel, ResolveError, Resolver, Resolving};
use tokio::sync::watch;

use super::rig::{Rig, within};
use crate::support::fixtures::noise;
use crate::support::mounts::is_mounted;
use crate::support::process::{Finished, PATIENCE, Proc, until};

/// Longer than any operation that does not wait takes on a busy machine, and shorter than a query in these tests.
const PROMPT: Duration = Duration::from_secs(10);
const QUERY: Duration = Duration::from_secs(60);

/// A network that finds no model. For names that begin with `slow` it first waits until the test sets `answers`, and
/// then reports success.
struct Network {
    asked: Arc<Mutex<Vec<String>>>,
    answers: watch::Sender<bool>,
}

/// The resolver of a [`Network`].
struct NetworkQueries {
    asked: Arc<Mutex<Vec<String>>>,
    answers: watch::Receiver<bool>,
}

impl Resolver for NetworkQueries {
    fn resolve(&self, requested: RequestedModel, _: Duration) -> Resolving {
        self.asked.lock().unwrap().push(requested.to_string());
        let mut answers = self.answers.clone();
        Box::pin(async move {
            if !requested.model.name.name().starts_with("slow") {
                return Err(ResolveError::NotFound);
            }
            answers.wait_for(|answers| *answers).await.map(|_| ()).map_err(|_| ResolveError::NotFound)
        })
    }

    fn over_budget(&self, requested: &RequestedModel, _: u32) {
        panic!("no process of these tests uses up its budget: {requested}");
    }
}

impl Network {
    fn behind(rig: &Rig) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, receiver) = watch::channel(false);
        let queries = NetworkQueries { asked: asked.clone(), answers: receiver };
        let never =
            NeverResolve::new(&["HEAD", "desktop.ini", "Thumbs.db"].map(|name| name.parse().unwrap()))
                .unwrap();
        let rules = LookupRules { within: QUERY, never, per_minute: 1000 };
        rig.mounted().names().resolve_with(Arc::new(queries), rules);
        Self { asked, answers }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn wait_for_lookups(rig: &Rig, count: usize) {
    until("the lookups wait", PATIENCE, || rig.mounted().names().waiting() == count);
}

fn stat(path: PathBuf) -> Proc {
    Proc::spawn(with_ctrl_c("stat").args(["-L", "-c", "%F %i"]).arg(path))
}

/// A program with the default action for SIGINT. A shell that runs these tests in the background sets SIGINT to ignored,
/// and programs inherit that.
fn with_ctrl_c(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", program]);
    command
}

fn kind(path: PathBuf) -> Result<std::fs::Metadata, ErrorKind> {
    within(PROMPT, move || std::fs::metadata(path).map_err(|e| e.kind()))
}

#[test]
fn a_model_is_found_by_its_path_when_the_query_ends() {
    let rig = Rig::new();
    let network = Network::behind(&rig);
    let model = rig.shared_model("org/slow", &[("dir/weights", noise(1, 5000))]);
    let path = rig.path("org/slow/dir/weights");
    let reading = std::thread::spawn(move || within(PATIENCE, move || std::fs::read(path).unwrap()));
    let other = stat(rig.path("org/slow@main"));
    wait_for_lookups(&rig, 2);
    let org = kind(rig.path("org")).unwrap().ino();
    rig.publish(&[&model]);
    network.answers.send_replace(true);
    assert!(reading.join().unwrap() == **model.files[0].1);
    assert!(other.finish(PATIENCE).ok().starts_with("directory"));
    assert_eq!(network.asked(), ["org/slow"]);
    until("the kernel looks again", PATIENCE, || kind(rig.path("org")).unwrap().nlink() == 3);
    assert_eq!(kind(rig.path("org")).unwrap().ino(), org);
}

#[test]
fn listing_sends_no_query() {
    let rig = Rig::new();
    let models = ["org/a", "org/a@v1", "org/lone@v2", "datasets/org/d"]
        .map(|name| rig.model(name, &[("sub/x", noise(2, 10)), ("y", noise(3, 10))]));
    rig.publish(&models.each_ref());
    let network = Network::behind(&rig);
    let script = "find . && du -s . && ls -lR && ls -l org/* && ls -ld */ && stat -f . && ls -la org/a@v1 && \
                  ls -l absent datasets/absent && test -z \"$(ls absent)\" && cp -r org/a /dev/null; true";
    for _ in 0..2 {
        let mut shell = Command::new("sh");
        Finished::of(shell.args(["-c", script]).current_dir(rig.point()), PATIENCE).ok();
    }
    assert_eq!(network.asked(), Vec::<String>::new());
    let listed = |path: &str| std::fs::read_dir(rig.path(path)).unwrap().count();
    assert_eq!((listed(""), listed("datasets"), listed("absent")), (2, 1, 0));
    // Names that no model can have, and names for which programs look by themselves.
    for name in [".git", "org/.hidden", "org/HEAD", "org/desktop.ini", "Thumbs.db", "datasets/Datasets"] {
        assert_eq!(kind(rig.path(name)).unwrap_err(), ErrorKind::NotFound, "{name}");
    }
    // The names within a known model are all known.
    assert_eq!(kind(rig.path("org/a/none")).unwrap_err(), ErrorKind::NotFound);
    assert_eq!(network.asked(), Vec::<String>::new());
    // Every possible name of an organisation is a directory.
    assert!(kind(rig.path("anything")).unwrap().is_dir());
    assert!(kind(rig.path("datasets/anything")).unwrap().is_dir());
    assert_eq!(kind(rig.path("anything/m")).unwrap_err(), ErrorKind::NotFound);
    assert_eq!(network.asked(), ["anything/m"]);
}

#[test]
fn a_miss_sends_no_second_query_and_ends_on_publish() {
    let rig = Rig::new();
    let network = Network::behind(&rig);
    for _ in 0..5 {
        assert_eq!(kind(rig.path("org/m")).unwrap_err(), ErrorKind::NotFound);
    }
    assert_eq!(network.asked(), ["org/m"]);
    let model = rig.model("org/m", &[("x", noise(1, 10))]);
    rig.publish(&[&model]);
    assert!(kind(rig.path("org/m")).unwrap().is_dir(), "the kernel remembers the miss");
}

#[test]
fn a_waiting_lookup_delays_no_other_request() {
    let rig = Rig::new();
    let known = rig.shared_model("org/known", &[("x", noise(1, 5000))]);
    rig.publish(&[&known]);
    let network = Network::behind(&rig);
    let waiting: Vec<_> = (0..20).map(|n| stat(rig.path(&format!("org/slow{n}")))).collect();
    wait_for_lookups(&rig, 20);
    let path = rig.path("org/known/x");
    assert!(within(PROMPT, move || std::fs::read(path).unwrap()) == **known.files[0].1);
    assert_eq!(kind(rig.path("org/quick")).unwrap_err(), ErrorKind::NotFound);
    let org = rig.path("org");
    assert_eq!(within(PROMPT, move || std::fs::read_dir(org).unwrap().count()), 1);
    // The kernel makes a second lookup of the same name wait for the first.
    let more = stat(rig.path("org/slow0"));
    assert_eq!(rig.mounted().names().waiting(), 20);
    network.answers.send_replace(true);
    for process in waiting.into_iter().chain([more]) {
        assert!(process.finish(PATIENCE).stderr.contains("No such file"));
    }
}

#[test]
fn stopping_answers_lookups_that_wait() {
    let rig = Rig::new();
    let _network = Network::behind(&rig);
    let mut waiting: Vec<_> = (0..3).map(|n| stat(rig.path(&format!("org/slow{n}")))).collect();
    wait_for_lookups(&rig, 3);
    let start = Instant::now();
    rig.stop();
    assert!(start.elapsed() < PROMPT);
    assert!(!is_mounted(&rig.point()));
    for process in &mut waiting {
        assert!(!process.wait(PROMPT).success());
    }
    assert!(rig.is_gone());
}

#[test]
fn a_waiting_lookup_ends_by_a_signal() {
    let rig = Rig::new();
    let network = Network::behind(&rig);
    for (at, signal) in [Signal::KILL, Signal::INT, Signal::TERM].into_iter().enumerate() {
        let mut waiting = stat(rig.path(&format!("org/slow{at}")));
        wait_for_lookups(&rig, 1);
        waiting.signal(signal);
        assert_eq!(waiting.wait(PROMPT).signal(), Some(signal.as_raw()));
        wait_for_lookups(&rig, 0);
    }
    // One of two programs is killed, and the other continues to wait.
    let mut killed = stat(rig.path("org/slow"));
    wait_for_lookups(&rig, 1);
    let other = stat(rig.path("org/slow@main"));
    wait_for_lookups(&rig, 2);
    killed.signal(Signal::KILL);
    killed.wait(PROMPT);
    wait_for_lookups(&rig, 1);
    rig.publish(&[&rig.model("org/slow", &[("x", noise(1, 10))])]);
    network.answers.send_replace(true);
    other.finish(PATIENCE).ok();
    assert_eq!(network.asked().len(), 4);
    // A program with a handler for SIGINT receives the signal.
    network.answers.send_replace(false);
    let script = "import os, sys\n\
        print('asking', flush=True)\n\
        try: os.stat(sys.argv[1])\n\
        except KeyboardInterrupt: sys.exit(7)";
    let mut python = with_ctrl_c("/usr/bin/python3");
    let mut handles = Proc::spawn(python.args(["-c", script]).arg(rig.path("org/slower")));
    wait_for_lookups(&rig, 1);
    handles.signal(Signal::INT);
    assert_eq!(handles.wait(PROMPT).code(), Some(7));
}
