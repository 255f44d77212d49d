//! Mounts made by separate processes: processes that are killed, and processes without privileges.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;
use silmaril::mount::{Liveness, MountError, liveness};
use silmaril::paths::Paths;

use super::rig::{Rig, fetch, mount, mount_for, runtime, serve, within};
use crate::support::fixtures::noise;
use crate::support::mounts::is_mounted;
use crate::support::process::{Finished, PATIENCE, Proc};

/// Environment variable of the child process: its mount point.
const CHILD_POINT: &str = "SILMARIL_TEST_MOUNT_POINT";

/// Environment variable of the child process: set if other users may use the mount.
const CHILD_ALLOW_OTHER: &str = "SILMARIL_TEST_ALLOW_OTHER";

#[test]
#[ignore = "not a test: the process that the other tests of this file start"]
fn child_that_mounts() {
    let point = PathBuf::from(std::env::var_os(CHILD_POINT).expect("only other tests start this"));
    let allow_other = std::env::var_os(CHILD_ALLOW_OTHER).is_some();
    let runtime = runtime();
    let (fetch, _swarm) = fetch(&runtime, Paths::below(&point.with_extension("base")), PATIENCE);
    match mount_for(&point, allow_other, &fetch, &runtime) {
        Ok(mounted) => {
            eprintln!("child has mounted");
            runtime.block_on(async { tokio::time::timeout(PATIENCE, mounted.gone()).await }).unwrap();
        }
        Err(error) => eprintln!("child cannot mount: {error}"),
    }
}

/// Adds the arguments that run the child to a command.
fn as_child<'a>(command: &'a mut Command, exe: &Path, point: &Path) -> &'a mut Command {
    command
        .arg(exe)
        .args(["--exact", "mount::processes::child_that_mounts", "--ignored", "--nocapture"])
        .env(CHILD_POINT, point)
}

#[test]
fn a_mount_whose_process_was_killed_is_replaced() {
    let rig = Rig::new();
    let point = rig.dir.path().join("dead");
    std::fs::create_dir(&point).unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut process = Proc::spawn(as_child(&mut Command::new("env"), &exe, &point));
    process.wait_for_line("child has mounted", PATIENCE);
    process.signal(Signal::KILL);
    process.wait(PATIENCE);
    let dead = std::fs::metadata(&point).unwrap_err();
    assert_eq!(Errno::from_io_error(&dead), Some(Errno::NOTCONN));
    let again = mount(&point, &rig.fetch, &rig.runtime).unwrap();
    assert_eq!(std::fs::read_dir(&point).unwrap().count(), 0);
    drop(again);
    assert!(!is_mounted(&point), "the dead mount is still below");
}

#[test]
fn a_dead_mount_with_cached_attributes_is_replaced() {
    let rig = Rig::new();
    let point = rig.dir.path().join("dead");
    std::fs::create_dir(&point).unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut process = Proc::spawn(as_child(&mut Command::new("env"), &exe, &point));
    process.wait_for_line("child has mounted", PATIENCE);
    assert_eq!(liveness(&point, PATIENCE), Liveness::Alive);
    // The kernel may answer from these attributes for a second.
    std::fs::metadata(&point).unwrap();
    process.signal(Signal::KILL);
    process.wait(PATIENCE);
    assert_eq!(liveness(&point, PATIENCE), Liveness::Dead);
    drop(mount(&point, &rig.fetch, &rig.runtime).unwrap());
    assert!(!is_mounted(&point), "the dead mount is still below");
}

#[test]
fn a_hung_mount_is_refused_and_not_replaced() {
    let rig = Rig::new();
    let point = rig.dir.path().join("hung");
    std::fs::create_dir(&point).unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut process = Proc::spawn(as_child(&mut Command::new("env"), &exe, &point));
    process.wait_for_line("child has mounted", PATIENCE);
    process.signal(Signal::STOP);
    assert_eq!(liveness(&point, Duration::from_millis(100)), Liveness::Silent);
    let again = {
        let (point, fetch, runtime) = (point.clone(), rig.fetch.clone(), rig.runtime.handle().clone());
        within(PATIENCE, move || serve(&point, false, fetch, runtime).map(drop))
    };
    assert!(matches!(again, Err(MountError::Busy(_))), "{again:?}");
    process.signal(Signal::KILL);
    process.wait(PATIENCE);
}

#[test]
fn other_users_need_allow_other() {
    let rig = Rig::new();
    let model = rig.shared_model("org/model", &[("f", noise(1, 1000))]);
    let open = rig.dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let mounted = mount_for(&open, true, &rig.fetch, &rig.runtime).unwrap();
    mounted.names().publish(vec![model.revision.clone()]);
    rig.publish(&[&model]);
    Finished::of(Command::new("chmod").arg("755").arg(rig.dir.path()), PATIENCE).ok();
    let read_as_other_user = |point: &Path| {
        let mut command = Command::new("setpriv");
        command.args(OTHER_USER).arg("sha256sum").arg(point.join("org/model/f"));
        Finished::of(&mut command, PATIENCE)
    };
    assert!(read_as_other_user(&open).ok().starts_with(&model.hashes()["f"]));
    let refused = read_as_other_user(&rig.point());
    assert!(!refused.status.success() && refused.stderr.contains("Permission denied"), "{}", refused.stderr);
}

/// Arguments of setpriv(1) for a user without privileges.
const OTHER_USER: [&str; 4] = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];

/// A mount namespace for a user without privileges, with a given mode of the device and given content of
/// `/etc/fuse.conf`.
struct Unprivileged {
    holder: Proc,
    /// The test program, in a directory where that user can run it.
    exe: PathBuf,
    point: PathBuf,
    _dir: tempfile::TempDir,
}

impl Unprivileged {
    fn new(device_mode: &str, fuse_conf: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
        let script = format!(
            "set -e; cd {dir}; chmod 755 . test; mkdir mnt; chown 65534:65534 mnt
             mknod fuse c 10 229; chmod {device_mode} fuse; mount --bind fuse /dev/fuse
             echo '{fuse_conf}' > conf; mount --bind conf /etc/fuse.conf
             echo ready; exec sleep 1000",
            dir = dir.path().display()
        );
        let holder = Proc::spawn(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
        holder.wait_for_line("ready", PATIENCE);
        let point = dir.path().join("mnt");
        Self { holder, exe, point, _dir: dir }
    }

    /// A command of that user.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).args(["--mount", "setpriv"]).args(OTHER_USER);
        command
    }

    fn child(&self) -> Proc {
        Proc::spawn(as_child(&mut self.command(), &self.exe, &self.point))
    }

    fn at_point(&self, program: &[&str]) -> Finished {
        Finished::of(self.command().args(program).arg(&self.point), PATIENCE)
    }
}

#[test]
fn a_user_without_privileges_mounts_and_unmounts() {
    let user = Unprivileged::new("666", "");
    let process = user.child();
    process.wait_for_line("child has mounted", PATIENCE);
    assert_eq!(user.at_point(&["stat", "-c", "%u:%g:%a"]).ok().trim(), "65534:65534:555");
    let shown = user.at_point(&["findmnt", "-n", "-o", "SOURCE,FSTYPE"]).ok();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["silmaril", "fuse.silmaril"]);
    user.at_point(&["fusermount3", "-u"]).ok();
    process.finish(Duration::from_secs(30)).ok();
}

#[test]
fn a_user_without_privileges_replaces_a_dead_mount() {
    let user = Unprivileged::new("666", "");
    let mut process = user.child();
    process.wait_for_line("child has mounted", PATIENCE);
    process.signal(Signal::KILL);
    process.wait(PATIENCE);
    assert!(user.at_point(&["stat"]).stderr.contains("not connected"));
    let again = user.child();
    again.wait_for_line("child has mounted", PATIENCE);
    assert_eq!(
        user.at_point(&["findmnt", "-n", "-o", "SOURCE"]).ok().trim(),
        "silmaril",
        "one mount, not two"
    );
    user.at_point(&["fusermount3", "-u"]).ok();
    again.finish(Duration::from_secs(30)).ok();
}

#[test]
fn errors_name_the_missing_permission() {
    let refusal = |user: Unprivileged, allow_other: bool| {
        let mut command = user.command();
        if allow_other {
            command.arg("env").arg(format!("{CHILD_ALLOW_OTHER}=1"));
        }
        let process = Proc::spawn(as_child(&mut command, &user.exe, &user.point));
        process.wait_for_line("child cannot mount", PATIENCE)
    };
    assert!(refusal(Unprivileged::new("600", ""), false).contains("/dev/fuse is closed to this user"));
    assert!(refusal(Unprivileged::new("666", ""), true).contains("user_allow_other in /etc/fuse.conf"));
}

#[test]
fn a_user_may_allow_other_users_if_fuse_conf_permits() {
    let user = Unprivileged::new("666", "user_allow_other");
    let mut command = user.command();
    command.arg("env").arg(format!("{CHILD_ALLOW_OTHER}=1"));
    let process = Proc::spawn(as_child(&mut command, &user.exe, &user.point));
    process.wait_for_line("child has mounted", PATIENCE);
    // Root is another user, too.
    let mut ls = Command::new("nsenter");
    ls.arg(format!("--target={}", user.holder.id())).args(["--mount", "ls"]).arg(&user.point);
    Finished::of(&mut ls, PATIENCE).ok();
    user.at_point(&["fusermount3", "-u"]).ok();
    process.finish(Duration::from_secs(30)).ok();
}
