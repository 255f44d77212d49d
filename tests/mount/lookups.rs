//! Paths of models that are not known here, on a real mount: the kernel waits, and nobody else does.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use silmaril::mount::{LookupRules, NeverResolve, ResolveError, Resolver, Resolving, Sought};
use tokio::sync::watch;

use super::rig::{Rig, within};
use crate::support::fixtures::noise;
use crate::support::mounts::is_mounted;
use crate::support::process::{Finished, PATIENCE, Proc, until};

/// Longer than anything that does not wait takes on a busy machine, shorter than a query may take in these tests.
const PROMPT: Duration = Duration::from_secs(10);
const QUERY: Duration = Duration::from_secs(60);

/// A network that answers when the test says so: models whose name begins with `slow` then, all others at once.
struct Network {
    asked: Arc<Mutex<Vec<String>>>,
    answers: watch::Sender<bool>,
}

struct Asks {
    list: Arc<Mutex<Vec<String>>>,
    told: watch::Receiver<bool>,
}

impl Resolver for Asks {
    fn resolve(&self, sought: Sought, _: Duration) -> Resolving {
        self.list.lock().unwrap().push(sought.to_string());
        let mut told = self.told.clone();
        Box::pin(async move {
            if !sought.model.name.name().starts_with("slow") {
                return Err(ResolveError::NotFound);
            }
            told.wait_for(|answers| *answers).await.map(|_| ()).map_err(|_| ResolveError::NotFound)
        })
    }

    fn over_budget(&self, sought: &Sought, _: u32) {
        panic!("no process of these tests uses up its budget: {sought}");
    }
}

impl Network {
    fn behind(rig: &Rig) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, told) = watch::channel(false);
        let asks = Asks { list: asked.clone(), told };
        let never =
            NeverResolve::new(&["HEAD", "desktop.ini", "Thumbs.db"].map(|name| name.parse().unwrap()))
                .unwrap();
        let rules = LookupRules { within: QUERY, never, per_minute: 1000 };
        rig.mounted().resolve_with(Arc::new(asks), rules);
        Self { asked, answers }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn wait_for_lookups(rig: &Rig, count: usize) {
    until("the lookups wait", PATIENCE, || rig.mounted().waiting_lookups() == count);
}

fn stat(path: PathBuf) -> Proc {
    Proc::spawn(with_ctrl_c("stat").args(["-L", "-c", "%F %i"]).arg(path))
}

/// A program that Ctrl-C reaches, also where these tests run in the background of a shell that keeps it from them.
fn with_ctrl_c(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", program]);
    command
}

fn kind(path: PathBuf) -> Result<std::fs::Metadata, ErrorKind> {
    within(PROMPT, move || std::fs::metadata(path).map_err(|e| e.kind()))
}

#[test]
fn a_model_is_found_by_its_path_once_the_network_knows_it() {
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
fn looking_around_asks_nobody() {
    let rig = Rig::new();
    let models = ["org/a", "org/a@v1", "org/lone@v2", "datasets/org/d"]
        .map(|name| rig.model(name, &[("sub/x", noise(2, 10)), ("y", noise(3, 10))]));
    rig.publish(&models.each_ref());
    let network = Network::behind(&rig);
    let script = "find . && du -s . && ls -lR && ls -l org/* && ls -ld */ && stat -f . && ls -la org/a@v1 && \
                  ls -l nobody datasets/nobody && test -z \"$(ls nobody)\" && cp -r org/a /dev/null; true";
    for _ in 0..2 {
        let mut shell = Command::new("sh");
        Finished::of(shell.args(["-c", script]).current_dir(rig.point()), PATIENCE).ok();
    }
    assert_eq!(network.asked(), Vec::<String>::new());
    let listed = |path: &str| std::fs::read_dir(rig.path(path)).unwrap().count();
    assert_eq!((listed(""), listed("datasets"), listed("nobody")), (2, 1, 0));
    // What cannot be a model's name, and what programs look for by themselves.
    for name in [".git", "org/.hidden", "org/HEAD", "org/desktop.ini", "Thumbs.db", "datasets/Datasets"] {
        assert_eq!(kind(rig.path(name)).unwrap_err(), ErrorKind::NotFound, "{name}");
    }
    // Within a model all is known.
    assert_eq!(kind(rig.path("org/a/none")).unwrap_err(), ErrorKind::NotFound);
    assert_eq!(network.asked(), Vec::<String>::new());
    // Any organisation could be one.
    assert!(kind(rig.path("anything")).unwrap().is_dir());
    assert!(kind(rig.path("datasets/anything")).unwrap().is_dir());
    assert_eq!(kind(rig.path("anything/m")).unwrap_err(), ErrorKind::NotFound);
    assert_eq!(network.asked(), ["anything/m"]);
}

#[test]
fn a_miss_is_not_asked_for_again_and_seen_when_it_comes() {
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
fn a_lookup_that_waits_holds_up_nobody() {
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
    // A second one for the same name waits with the first.
    let more = stat(rig.path("org/slow0"));
    assert_eq!(rig.mounted().waiting_lookups(), 20);
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
fn whoever_waits_can_be_killed_and_interrupted() {
    let rig = Rig::new();
    let network = Network::behind(&rig);
    for (at, signal) in [Signal::KILL, Signal::INT, Signal::TERM].into_iter().enumerate() {
        let mut waiting = stat(rig.path(&format!("org/slow{at}")));
        wait_for_lookups(&rig, 1);
        waiting.signal(signal);
        assert_eq!(waiting.wait(PROMPT).signal(), Some(signal.as_raw()));
        wait_for_lookups(&rig, 0);
    }
    // One of two is killed: the other goes on.
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
    // A program that has a use for Ctrl-C hears of it.
    network.answers.send_replace(false);
    let script = "import os, sys\n\
        print('asking', flush=True)\n\
        try: os.stat(sys.argv[1])\n\
        except KeyboardInterrupt: sys.exit(7)";
    let mut python = with_ctrl_c("/usr/bin/python3");
    let mut hears = Proc::spawn(python.args(["-c", script]).arg(rig.path("org/slower")));
    wait_for_lookups(&rig, 1);
    hears.signal(Signal::INT);
    assert_eq!(hears.wait(PROMPT).code(), Some(7));
}
