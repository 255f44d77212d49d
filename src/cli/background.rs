//! Starts this program in the background and waits until that process reports that it is ready.
//!
//! The background process leads a session of its own, has the working directory `/`, and inherits no descriptor of the
//! caller. Its standard input is empty and its standard error is its log. Its standard output is a pipe to the caller;
//! the process writes [`READY`], [`BUSY`] or its error to the pipe, then replaces the pipe by the log.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::ffi::process::start_alone;
use crate::paths::Paths;

/// Time within which the background process must be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Time within which the process must end after SIGTERM, or after it has reported its error.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Output of a background process that is ready.
const READY: &[u8] = b"ready\n";

/// Output of a background process that found the base directory locked by another process.
const BUSY: &[u8] = b"busy\n";

/// Size in bytes above which a log is renamed before the next process starts.
const MAX_LOG: u64 = 16 << 20;

/// Environment variables that apply to one command and are removed from the daemon's environment: proxies and tokens.
const COMMAND_ONLY: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
];

/// Outcome of the start of a background process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The process with this identifier is ready.
    Ready(u32),
    /// Another process has locked the base directory.
    Busy,
}

/// Starts `silmaril` with arguments in the background, and waits until it is ready or has failed. The process appends
/// its log to `log`.
pub fn start(
    context: &Context,
    paths: &Paths,
    arguments: &[OsString],
    log: &Path,
) -> Result<Started, CommandError> {
    let exe = std::env::current_exe().ok().filter(|exe| exe.exists()).unwrap_or("/proc/self/exe".into());
    let mut command = Command::new(exe);
    // A pipe that no process writes to: a container without /dev/fuse may have no /dev/null either.
    let (nothing, _) = io::pipe().map_err(CommandError::internal)?;
    command.arg0("silmaril").current_dir("/").stdin(nothing).stdout(Stdio::piped());
    command.stderr(open_log(log).map_err(|e| CommandError::io(log, e))?);
    for name in COMMAND_ONLY {
        command.env_remove(name);
    }
    if let Some(file) = &context.globals.config {
        command.arg("--config").arg(std::path::absolute(file).map_err(|e| CommandError::io(file, e))?);
    }
    command.arg("--home").arg(&paths.base);
    // The log file of a background process has one level more than a terminal.
    let verbosity = context.verbosity().saturating_add(1);
    command.args((0..verbosity).map(|_| "-v")).args((verbosity..0).map(|_| "-q")).args(arguments);
    let mut child = start_alone(&mut command).spawn().map_err(CommandError::internal)?;
    let pid = child.id();
    match read_output(&mut child, Instant::now() + READY_WITHIN) {
        Ok(output) if output == READY => Ok(Started::Ready(pid)),
        Ok(output) if output == BUSY => {
            end(&mut child);
            Ok(Started::Busy)
        }
        Ok(output) => Err(failure(&mut child, &output, log)),
        Err(error) => {
            end(&mut child);
            let why = match error.kind() {
                io::ErrorKind::TimedOut => {
                    format!("the background process was not ready within {} s", READY_WITHIN.as_secs())
                }
                _ => format!("the output of the background process cannot be read: {error}"),
            };
            Err(CommandError::internal(why).hint(format!("its log is {}", log.display())))
        }
    }
}

/// Runs the work of a background process. The work calls its argument once when it is ready; otherwise its error is
/// reported to the caller.
pub fn serve(
    work: impl FnOnce(Box<dyn FnOnce() -> Result<(), CommandError>>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let reported = std::rc::Rc::new(std::cell::Cell::new(false));
    let reporting = reported.clone();
    let result = work(Box::new(move || {
        report(READY).map_err(CommandError::internal)?;
        reporting.set(true);
        Ok(())
    }));
    if let Err(error) = &result
        && !reported.get()
    {
        let text = if error.is_busy() { BUSY.to_vec() } else { error.render().into_bytes() };
        // The write fails if the caller has ended.
        let _ = report(&text);
    }
    result
}

/// Writes to the pipe that is standard output, then replaces the pipe by the log.
fn report(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(())
}

/// Reads the standard output of the process until the process closes it. Fails after 1 MiB, and at `until`.
fn read_output(child: &mut Child, until: Instant) -> io::Result<Vec<u8>> {
    let mut pipe = child.stdout.take().ok_or(io::ErrorKind::NotConnected)?;
    let mut output = Vec::new();
    let mut chunk = [0; 4096];
    while output.len() < 1 << 20 {
        wait_until_readable(&pipe, until)?;
        match pipe.read(&mut chunk)? {
            0 => return Ok(output),
            n => output.extend_from_slice(&chunk[..n]),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

fn wait_until_readable(fd: &impl AsFd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = left.try_into().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_for_end(child: &mut Child, within: Duration) -> io::Result<std::process::ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    let pid = Pid::from_child(child);
    wait_until_readable(&pidfd_open(pid, PidfdFlags::empty())?, Instant::now() + within)?;
    child.wait()
}

/// Ends the process with SIGTERM, and with SIGKILL if it still runs after [`END_WITHIN`].
fn end(child: &mut Child) {
    // Fails if the process has already ended.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    if wait_for_end(child, END_WITHIN).is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The error that the process reported, or how it ended.
fn failure(child: &mut Child, output: &[u8], log: &Path) -> CommandError {
    let status = wait_for_end(child, END_WITHIN);
    if status.is_err() {
        end(child);
    }
    let output = String::from_utf8_lossy(output);
    match (status.ok().and_then(|s| s.code()), output.starts_with("error: ")) {
        (Some(code), true) => CommandError::relayed(code.try_into().unwrap_or(3), &output),
        (code, _) => {
            let how = code.map_or("was killed".to_owned(), |code| format!("ended with {code}"));
            CommandError::internal(format!("the background process {how} before it was ready"))
                .hint(format!("its log is {}", log.display()))
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if path.metadata().is_ok_and(|meta| meta.len() > MAX_LOG) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_log_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        open_log(&path).unwrap().set_len(MAX_LOG + 1).unwrap();
        assert_eq!(open_log(&path).unwrap().metadata().unwrap().len(), 0);
        assert!(dir.path().join("daemon.log.old").exists());
    }

    #[test]
    fn output_and_exit_code_of_the_process_are_reported() {
        let spawn = |script| Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let soon = Instant::now() + Duration::from_secs(20);
        let mut child = spawn("printf 'ready\\n'");
        assert_eq!(read_output(&mut child, soon).unwrap(), READY);
        let mut child = spawn("echo 'error: no'; echo 'help: yes'; exit 1");
        let output = read_output(&mut child, soon).unwrap();
        let error = failure(&mut child, &output, Path::new("/log"));
        assert_eq!((error.exit_code(), error.render().as_str()), (1, "error: no\nhelp: yes\n"));
        let mut child = spawn("exit 7");
        let output = read_output(&mut child, soon).unwrap();
        let error = failure(&mut child, &output, Path::new("/log"));
        assert_eq!(error.exit_code(), 3);
        assert!(error.render().contains("ended with 7") && error.render().contains("/log"));
    }

    #[test]
    fn silent_process_is_ended_at_the_deadline() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
        let error = read_output(&mut child, Instant::now() + Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        end(&mut child);
        assert!(child.try_wait().unwrap().is_some());
    }
}
