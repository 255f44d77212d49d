//! Starting a process of this program in the background, and reading from it that it is ready.
//!
//! The background process leads a session of its own, has the working directory `/`, and holds none of the caller's
//! descriptors: standard input is empty, standard error its log, and standard output a pipe to the caller, replaced by the
//! log once it has carried [`READY`], [`BUSY`] or the error that ended the process.

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

/// How long the background process may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take to end once it was asked to, or once it has reported its error.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What the background process writes when it is ready.
const READY: &[u8] = b"ready\n";

/// What it writes when another process has the base directory.
const BUSY: &[u8] = b"busy\n";

/// A log that has grown beyond this, in bytes, is renamed before the next process.
const MAX_LOG: u64 = 16 << 20;

/// Variables that hold for the command that has them and not for the daemon: proxies and tokens.
const OF_THE_COMMAND: [&str; 10] = [
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

/// What became of a process that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It is ready. Its process.
    Ready(u32),
    /// Another process has the base directory.
    Busy,
}

/// Starts `silmaril` with arguments in the background, and waits until it is ready or has failed. `log` gets its log.
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
    for name in OF_THE_COMMAND {
        command.env_remove(name);
    }
    if let Some(file) = &context.globals.config {
        command.arg("--config").arg(std::path::absolute(file).map_err(|e| CommandError::io(file, e))?);
    }
    command.arg("--home").arg(&paths.base);
    // A log that is not watched has one level more than a terminal.
    let verbosity = context.verbosity().saturating_add(1);
    command.args((0..verbosity).map(|_| "-v")).args((verbosity..0).map(|_| "-q")).args(arguments);
    let mut child = start_alone(&mut command).spawn().map_err(CommandError::internal)?;
    let pid = child.id();
    match hear(&mut child, Instant::now() + READY_WITHIN) {
        Ok(said) if said == READY => Ok(Started::Ready(pid)),
        Ok(said) if said == BUSY => {
            end(&mut child);
            Ok(Started::Busy)
        }
        Ok(said) => Err(failure(&mut child, &said, log)),
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

/// The part of the background process: does its work and reports once that it is ready, or the error that ended it.
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
        // A caller that is gone reads nothing.
        let _ = report(&text);
    }
    result
}

/// Writes the one thing there is to write on standard output, then closes it.
fn report(what: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(what)?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(())
}

/// Reads what the process writes until it closes its output.
fn hear(child: &mut Child, until: Instant) -> io::Result<Vec<u8>> {
    let mut pipe = child.stdout.take().ok_or(io::ErrorKind::NotConnected)?;
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while said.len() < 1 << 20 {
        readable(&pipe, until)?;
        match pipe.read(&mut chunk)? {
            0 => return Ok(said),
            n => said.extend_from_slice(&chunk[..n]),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// Waits until a descriptor is readable.
fn readable(fd: &impl AsFd, until: Instant) -> io::Result<()> {
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

/// Waits until the process has ended.
fn ended(child: &mut Child, within: Duration) -> io::Result<std::process::ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    let pid = Pid::from_child(child);
    readable(&pidfd_open(pid, PidfdFlags::empty())?, Instant::now() + within)?;
    child.wait()
}

/// Asks the process to end, then makes it.
fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    if ended(child, END_WITHIN).is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The error that the process reported, or how it ended.
fn failure(child: &mut Child, said: &[u8], log: &Path) -> CommandError {
    let status = ended(child, END_WITHIN);
    if status.is_err() {
        end(child);
    }
    let said = String::from_utf8_lossy(said);
    match (status.ok().and_then(|s| s.code()), said.starts_with("error: ")) {
        (Some(code), true) => CommandError::relayed(code.try_into().unwrap_or(3), &said),
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
    fn a_large_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        open_log(&path).unwrap().set_len(MAX_LOG + 1).unwrap();
        assert_eq!(open_log(&path).unwrap().metadata().unwrap().len(), 0);
        assert!(dir.path().join("daemon.log.old").exists());
    }

    #[test]
    fn what_a_process_says_is_heard_to_its_end() {
        let spawn = |script| Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let soon = Instant::now() + Duration::from_secs(20);
        let mut child = spawn("printf 'ready\\n'");
        assert_eq!(hear(&mut child, soon).unwrap(), READY);
        let mut child = spawn("echo 'error: no'; echo 'help: yes'; exit 1");
        let said = hear(&mut child, soon).unwrap();
        let error = failure(&mut child, &said, Path::new("/log"));
        assert_eq!((error.exit_code(), error.render().as_str()), (1, "error: no\nhelp: yes\n"));
        let mut child = spawn("exit 7");
        let said = hear(&mut child, soon).unwrap();
        let error = failure(&mut child, &said, Path::new("/log"));
        assert_eq!(error.exit_code(), 3);
        assert!(error.render().contains("ended with 7") && error.render().contains("/log"));
    }

    #[test]
    fn a_process_that_says_nothing_is_not_waited_for() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
        let error = hear(&mut child, Instant::now() + Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        end(&mut child);
        assert!(child.try_wait().unwrap().is_some());
    }
}
