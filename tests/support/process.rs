//! Child processes that end before their test does.
//!
//! Two threads read a child's output into one list of lines, and wake threads that wait for a line. Every wait has a
//! deadline, after which the test fails and prints all output of the child.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// Longer than anything that works takes, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Output {
    stdout: Vec<String>,
    stderr: Vec<String>,
    open_pipes: usize,
}

/// A running child. Dropping it kills the child with SIGKILL and reaps it.
pub struct Proc {
    what: String,
    child: Child,
    status: Option<ExitStatus>,
    output: Arc<(Mutex<Output>, Condvar)>,
}

impl Proc {
    /// Starts the command with captured output and no input.
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_with_input(command, Stdio::null())
    }

    /// Starts the command with captured output.
    pub fn spawn_with_input(command: &mut Command, input: Stdio) -> Self {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{what} did not start: {e}"));
        let output = Arc::new((Mutex::new(Output { open_pipes: 2, ..Output::default() }), Condvar::new()));
        read_lines(child.stdout.take().unwrap(), &output, |o| &mut o.stdout);
        read_lines(child.stderr.take().unwrap(), &output, |o| &mut o.stderr);
        Self { what, child, status: None, output }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line, on either stream, that contains `text`, and returns it.
    pub fn wait_for_line(&self, text: &str, deadline: Duration) -> String {
        let until = Instant::now() + deadline;
        let (lock, changed) = &*self.output;
        let mut output = lock.lock().unwrap();
        loop {
            if let Some(line) = output.stdout.iter().chain(&output.stderr).find(|l| l.contains(text)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || output.open_pipes == 0 {
                drop(output);
                panic!("{} never printed {text:?}\n{}", self.what, self.output_so_far());
            }
            output = changed.wait_timeout(output, left).unwrap().0;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
    }

    /// Whether the child still runs.
    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status.is_none()
    }

    /// Fails the test, with all output of the child, if the child has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        assert!(self.is_running(), "{} has ended: {:?}\n{}", self.what, self.status, self.output_so_far());
    }

    /// What the child waits for, and its signals.
    fn state(&self) -> String {
        let read = |name| std::fs::read_to_string(format!("/proc/{}/{name}", self.id())).unwrap_or_default();
        let status = read("status");
        let lines =
            status.lines().filter(|line| ["State", "Sig", "Shd"].iter().any(|name| line.starts_with(name)));
        format!("{}\n{}", lines.collect::<Vec<_>>().join("\n"), read("stack"))
    }

    /// All output of the child so far.
    fn output_so_far(&self) -> String {
        let output = self.output.0.lock().unwrap();
        format!("stdout:\n{}\nstderr:\n{}", output.stdout.join("\n"), output.stderr.join("\n"))
    }

    /// Waits until the child ends, and fails the test after the deadline. The result contains all output.
    pub fn finish(mut self, deadline: Duration) -> Finished {
        let status = self.wait(deadline);
        let until = Instant::now() + Duration::from_secs(10);
        let (lock, changed) = &*self.output;
        let mut output = lock.lock().unwrap();
        while output.open_pipes > 0 {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{} has ended, but a process that it started holds its output",
                self.what
            );
            output = changed.wait_timeout(output, left).unwrap().0;
        }
        let text = |lines: &[String]| lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        Finished {
            status,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            what: self.what.clone(),
        }
    }

    /// Waits for the exit status, and fails the test after the deadline.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        // The pidfd becomes readable when the process ends, so that the wait can have a deadline.
        let pidfd =
            rustix::process::pidfd_open(Pid::from_child(&self.child), rustix::process::PidfdFlags::empty())
                .unwrap();
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let timeout = deadline.try_into().unwrap();
        if rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 0 {
            panic!("{} still runs after {deadline:?}\n{}\n{}", self.what, self.state(), self.output_so_far());
        }
        let status = self.child.wait().unwrap();
        self.status = Some(status);
        status
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_lines(
    pipe: impl Read + Send + 'static,
    output: &Arc<(Mutex<Output>, Condvar)>,
    stream: fn(&mut Output) -> &mut Vec<String>,
) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            stream(&mut output.0.lock().unwrap()).push(text);
            output.1.notify_all();
            line.clear();
        }
        output.0.lock().unwrap().open_pipes -= 1;
        output.1.notify_all();
    });
}

/// A child that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit status.
    pub status: ExitStatus,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
    what: String,
}

impl Finished {
    /// Runs a command to its end.
    pub fn of(command: &mut Command, deadline: Duration) -> Self {
        Proc::spawn(command).finish(deadline)
    }

    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.status.success(),
            "{} failed: {}\nstdout:\n{}\nstderr:\n{}",
            self.what,
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// The one `error:` line of a command that must have failed with this exit code.
    #[track_caller]
    pub fn error(self, code: i32) -> String {
        let Self { status, stdout, stderr, what } = self;
        assert_eq!(status.code(), Some(code), "{what}: {status}\nstdout:\n{stdout}\nstderr:\n{stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(
            errors.len(),
            1,
            "{what} should print one error line, on stderr:\n{stderr}\nstdout:\n{stdout}"
        );
        assert!(!stderr.contains("panicked"), "{what} panicked:\n{stderr}");
        errors[0].to_owned()
    }
}

/// Waits for a condition that no event announces, by polling.
#[track_caller]
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < until, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`until`] that lets other tasks run.
pub async fn until_async(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(deadline, holds).await.is_ok(), "not within {deadline:?}: {what}");
}

/// Waits until a process sleeps in a system call or a page fault that does not end immediately.
#[track_caller]
pub fn until_blocked(process: &Proc) {
    let stat = format!("/proc/{}/stat", process.id());
    let mut last = String::new();
    until("the process blocks", PATIENCE, || {
        let now = std::fs::read_to_string(&stat).unwrap_or_default();
        // The process state, and its user and system time: asleep, and without work since the last poll.
        let fields: Vec<&str> = now.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let key = format!("{:?} {:?} {:?}", fields.first(), fields.get(11), fields.get(12));
        let same = key == last && matches!(fields.first(), Some(&"D" | &"S"));
        last = key;
        same
    });
}
