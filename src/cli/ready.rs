//! A mount in the background: starting the process, and hearing from it that it is ready.
//!
//! The background process leads a session of its own and holds none of the caller's descriptors: standard input is
//! empty, standard error its log, and standard output a pipe to the caller, replaced by the log once it has carried
//! either [`READY`] or the error that ended the process. The caller returns the same exit code.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, setsid};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::mount::Args;
use crate::ffi::process::inherit_streams_only;

/// How long the background process may take until it is ready. It may have to wait until another lets go of the base
/// directory.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take to end once it was asked to, or once it has said its error.
const END_WITHIN: Duration = Duration::from_secs(10);

/// What the background process says when models can be read.
const READY: &[u8] = b"ready\n";

/// A log that has grown beyond this, in bytes, is put aside before the next mount.
const MAX_LOG: u64 = 16 << 20;

/// Starts the background process and waits until it is ready or has failed.
pub fn start(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let paths = config.paths();
    paths.create()?;
    let point = crate::mount::resolve(&args.mountpoint)?;
    let log = paths.logs().join(log_name(&point));
    let exe = std::env::current_exe().ok().filter(|exe| exe.exists()).unwrap_or("/proc/self/exe".into());
    let mut command = Command::new(exe);
    // A pipe that nobody writes to: a container without /dev/fuse may have no /dev/null either.
    let (nothing, _) = io::pipe().map_err(CommandError::internal)?;
    command.arg0("silmaril").current_dir("/").stdin(nothing).stdout(Stdio::piped());
    command.stderr(open_log(&log).map_err(|e| CommandError::io(&log, e))?);
    if let Some(file) = &context.globals.config {
        command.arg("--config").arg(std::path::absolute(file).map_err(|e| CommandError::io(file, e))?);
    }
    command.arg("--home").arg(&paths.base);
    // A log that nobody watches says one level more than a terminal.
    let verbosity = context.verbosity().saturating_add(1);
    command.args((0..verbosity).map(|_| "-v")).args((verbosity..0).map(|_| "-q"));
    command.args(["mount", "--ready-on-stdout"]).args(args.allow_other.then_some("--allow-other"));
    command.args(args.no_resolve.then_some("--no-resolve"));
    command.args(args.peers.iter().map(|peer| format!("--peer={peer}"))).arg("--").arg(&point);
    // A pipe of the caller would otherwise stay open for as long as the mount.
    inherit_streams_only(&mut command);
    let mut child = command.spawn().map_err(CommandError::internal)?;

    let said = hear(&mut child, Instant::now() + READY_WITHIN);
    match said {
        Ok(said) if said == READY => {
            context.out.line(format_args!("mounted on {} (process {})", point.display(), child.id()))?;
            context.out.note(format_args!("its log is {}", log.display()));
            context.out.note(format_args!("unmount with: silmaril unmount {}", args.mountpoint.display()));
            Ok(())
        }
        Ok(said) => Err(failure(&mut child, &said, &log)),
        Err(error) => {
            end(&mut child);
            let why = match error.kind() {
                io::ErrorKind::TimedOut => {
                    format!("the mount was not ready within {} s", READY_WITHIN.as_secs())
                }
                _ => format!("the mount process cannot be heard: {error}"),
            };
            Err(CommandError::internal(why).hint(format!("its log is {}", log.display())))
        }
    }
}

/// Runs the background process's part: detaches from the caller's session, and passes on readiness or the error.
pub fn in_background(
    serve: impl FnOnce(Box<dyn FnOnce(&Path) -> Result<(), CommandError>>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    // Fails only where this process leads a session already.
    let _ = setsid();
    let told = std::rc::Rc::new(std::cell::Cell::new(false));
    let telling = told.clone();
    let result = serve(Box::new(move |_| {
        tell(READY).map_err(CommandError::internal)?;
        telling.set(true);
        Ok(())
    }));
    if let Err(error) = &result
        && !told.get()
    {
        // A caller that is gone cannot be told.
        let _ = tell(error.render().as_bytes());
    }
    result
}

/// Says the one thing there is to say on standard output, then closes it.
fn tell(what: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(what)?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(())
}

/// Reads what the process says until it closes its output.
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

/// The error that the process said, or what can be told of its end.
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
            CommandError::internal(format!("the mount process {how} before it was ready"))
                .hint(format!("its log is {}", log.display()))
        }
    }
}

/// The log's name: the mount point's path with dashes.
fn log_name(point: &Path) -> PathBuf {
    let text: String = (point.to_string_lossy().chars())
        .map(|c| if c.is_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' })
        .collect();
    // A file name has 255 bytes at most; the end of a path tells more than its start.
    let start = (0..text.len()).find(|&i| text.len() - i <= 200 && text.is_char_boundary(i)).unwrap_or(0);
    format!("mount-{}.log", text[start..].trim_start_matches('-')).into()
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
    fn logs_are_named_after_the_mount_point() {
        assert_eq!(log_name(Path::new("/home/u/my models")), Path::new("mount-home-u-my-models.log"));
        let long = format!("/{}/x", "ä".repeat(300));
        let name = log_name(Path::new(&long));
        assert!(name.as_os_str().len() < 255 && name.to_str().unwrap().ends_with("-x.log"));
    }

    #[test]
    fn a_large_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mount-a.log");
        open_log(&path).unwrap().set_len(MAX_LOG + 1).unwrap();
        assert_eq!(open_log(&path).unwrap().metadata().unwrap().len(), 0);
        assert!(dir.path().join("mount-a.log.old").exists());
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
