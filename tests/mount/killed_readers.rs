//! A reader that waits for bytes ends by a signal, in every way of reading, and does not disturb other readers.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::rig::{FOR_EVER, Model, PEER, PIECE, Rig};
use crate::support::fixtures::noise;
use crate::support::process::{PATIENCE, Proc, until, until_blocked};

/// How long a killed reader may live: about a second, with time to spare for a busy machine. The read timeout in these
/// tests is an hour.
const PROMPT: Duration = Duration::from_secs(20);

/// Reads the first bytes of a file in one of several ways and prints the first byte.
const READER: &str = r"
import ctypes, mmap, os, resource, signal, struct, sys, time
way, path = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
# A shell ignores SIGINT and SIGQUIT for what it runs in the background.
for one in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(one, signal.SIG_DFL)
if way == 'handled':
    signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))
size = 1 << 20
space = mmap.mmap(-1, size)
if way == 'mmap':
    mapped = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    first = mapped[0]
elif way == 'plain':
    first = os.read(os.open(path, os.O_RDONLY), 10)[0]
elif way == 'insistent':
    first = None
    while first is None:
        try:
            first = os.read(os.open(path, os.O_RDONLY), 10)[0]
        except OSError:
            print('error', flush=True)
elif way in ('direct', 'handled'):
    os.preadv(os.open(path, os.O_RDONLY | os.O_DIRECT), [space], 0)
    first = space[0]
elif way == 'aio':
    libc = ctypes.CDLL(None, use_errno=True)
    call = lambda number, *args: libc.syscall(ctypes.c_long(number), *args)
    setup, submit = {'x86_64': (206, 209), 'aarch64': (0, 2)}[os.uname().machine]
    context = ctypes.c_ulong(0)
    assert call(setup, ctypes.c_long(1), ctypes.byref(context)) == 0
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    address = ctypes.addressof(ctypes.c_char.from_buffer(space))
    block = struct.pack('=QIIHhIQQqQII', 0, 0, 0, 0, 0, file, address, size, 0, 0, 0, 0)
    block = ctypes.create_string_buffer(block, len(block))
    blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
    assert call(submit, context, ctypes.c_long(1), blocks) == 1
    time.sleep(1000)
print('first', first, flush=True)
";

fn reader(rig: &Rig, way: &str) -> Proc {
    let mut command = Command::new("/usr/bin/python3");
    Proc::spawn(command.args(["-I", "-c", READER, way]).arg(rig.path("org/model/weights")))
}

/// A mount of one model that no peer has.
fn stalled() -> (Rig, Model) {
    let rig = Rig::with_read_timeout(FOR_EVER);
    let model = rig.model("org/model", &[("weights", noise(1, 40 * PIECE))]);
    rig.publish(&[&model]);
    (rig, model)
}

fn nothing_waits(rig: &Rig) {
    until("nothing waits", PROMPT, || rig.mounted().counters().parked() == 0);
}

fn ends_by(signal: Signal, way: &str) {
    let (rig, _model) = stalled();
    let mut process = reader(&rig, way);
    rig.wait_for_parked(1);
    process.signal(signal);
    assert!(!process.wait(PROMPT).success());
    nothing_waits(&rig);
}

#[test]
fn an_mmap_reader_at_random_dies_by_sigkill() {
    ends_by(Signal::KILL, "mmap");
}

#[test]
fn a_direct_reader_dies_by_sigkill() {
    ends_by(Signal::KILL, "direct");
}

#[test]
fn an_asynchronous_direct_reader_dies_by_sigkill() {
    ends_by(Signal::KILL, "aio");
}

#[test]
fn signals_without_a_handler_end_a_reader() {
    for (signal, way) in [(Signal::INT, "mmap"), (Signal::TERM, "direct"), (Signal::QUIT, "direct")] {
        ends_by(signal, way);
    }
}

#[test]
fn a_plain_reader_dies_by_sigkill_after_an_error() {
    let (rig, model) = stalled();
    let mut process = reader(&rig, "insistent");
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("a read has failed", PATIENCE, || {
                rig.fetch.leave(&model.info_hash);
                failed.load(Ordering::Relaxed)
            });
        });
        process.wait_for_line("error", PATIENCE);
        failed.store(true, Ordering::Relaxed);
    });
    // From now on the kernel requests only this page, and its wait cannot be interrupted by signals.
    rig.wait_for_parked(1);
    process.signal(Signal::KILL);
    assert!(!process.wait(PROMPT).success());
    nothing_waits(&rig);
}

#[test]
fn a_reader_that_handles_the_signal_keeps_waiting() {
    let (rig, model) = stalled();
    let process = reader(&rig, "handled");
    rig.wait_for_parked(1);
    let parked = rig.mounted().counters().parked();
    process.signal(Signal::TERM);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(rig.mounted().counters().parked(), parked, "a read ended early");
    rig.swarm.peer(model.info_hash, PEER, None);
    let printed = process.finish(PATIENCE).ok();
    assert!(printed.contains("handled") && printed.contains(&first(&model)), "{printed}");
}

fn first(model: &Model) -> String {
    format!("first {}\n", model.files[0].1[0])
}

#[test]
fn another_reader_of_the_page_gets_its_bytes() {
    for (killed, other) in [("mmap", "mmap"), ("mmap", "plain"), ("plain", "plain"), ("plain", "mmap")] {
        let (rig, model) = stalled();
        let mut process = reader(&rig, killed);
        rig.wait_for_parked(1);
        let survivor = reader(&rig, other);
        until_blocked(&survivor);
        process.signal(Signal::KILL);
        process.wait(PROMPT);
        rig.swarm.peer(model.info_hash, PEER, None);
        assert_eq!(survivor.finish(PATIENCE).ok(), first(&model), "{killed} was killed, {other} continues");
        assert!(std::fs::read(rig.path("org/model/weights")).unwrap() == **model.files[0].1);
    }
}

#[test]
fn a_reader_in_a_child_pid_namespace_dies_by_sigkill() {
    let (rig, _model) = stalled();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "/usr/bin/python3", "-I", "-c", READER, "direct"]);
    let mut outside = Proc::spawn(command.arg(rig.path("org/model/weights")));
    rig.wait_for_parked(1);
    outside.signal(Signal::KILL);
    outside.wait(PROMPT);
    nothing_waits(&rig);
}
