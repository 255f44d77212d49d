//! Mounting and unmounting: no mount stays behind, none of somebody else's is touched.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use silmaril::mount::{MountError, list_mounts, unmount};

use super::rig::{Rig, fetch, mount};
use crate::support::mounts::{detach_below, is_mounted};
use crate::support::process::{Finished, PATIENCE, Proc};
use silmaril::paths::Paths;

/// Names the mount point for the test that plays a process of its own.
const CHILD_POINT: &str = "SILMARIL_TEST_MOUNT_POINT";

fn is_listed(point: &Path) -> bool {
    list_mounts().unwrap().iter().any(|m| m.mountpoint == point)
}

#[test]
fn a_mount_is_listed_until_it_is_unmounted() {
    let rig = Rig::new();
    assert!(is_listed(&rig.point()));
    unmount(&rig.point(), false).unwrap();
    assert!(!is_listed(&rig.point()));
    assert!(!is_mounted(&rig.point()));
    assert!(rig.is_gone(), "the session did not notice the unmount");
    assert!(matches!(unmount(&rig.point(), false), Err(MountError::NotMounted(_))));
}

#[test]
fn stopping_unmounts_and_ends_the_session() {
    let rig = Rig::new();
    rig.stop();
    assert!(!is_mounted(&rig.point()));
    assert!(rig.is_gone());
    // A second stop finds nothing to do.
    rig.stop();
}

#[test]
fn dropping_unmounts() {
    let rig = Rig::new();
    let point = rig.dir.path().join("second");
    std::fs::create_dir(&point).unwrap();
    let second = mount(&point, &rig.fetch, &rig.runtime).unwrap();
    assert!(is_mounted(&point));
    drop(second);
    assert!(!is_mounted(&point));
}

#[test]
fn a_live_mount_is_not_mounted_over() {
    let rig = Rig::new();
    let again = mount(&rig.point(), &rig.fetch, &rig.runtime);
    assert!(matches!(again, Err(MountError::Busy(p)) if p == rig.point()));
    assert!(is_mounted(&rig.point()));
}

#[test]
fn what_is_not_ours_is_not_unmounted() {
    let dir = tempfile::tempdir().unwrap();
    rustix::mount::mount("silmaril", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let result = unmount(dir.path(), true);
    let still_there = is_mounted(dir.path());
    detach_below(dir.path());
    assert!(matches!(result, Err(MountError::NotOurs { fs_type, .. }) if fs_type == "tmpfs"));
    assert!(still_there);
}

#[test]
fn a_mount_over_ours_survives_our_stop() {
    let rig = Rig::new();
    let tmpfs = rustix::mount::MountFlags::empty();
    rustix::mount::mount("other", rig.point(), "tmpfs", tmpfs, None).unwrap();
    std::fs::write(rig.point().join("theirs"), "x").unwrap();
    rig.stop();
    assert!(rig.point().join("theirs").exists(), "somebody else's mount was taken down");
}

#[test]
fn a_mount_in_use_is_unmounted_lazily_only() {
    let rig = Rig::new();
    let mut user = Proc::spawn(Command::new("sleep").arg("1000").current_dir(rig.point()));
    assert!(matches!(unmount(&rig.point(), false), Err(MountError::InUse(_))));
    assert!(is_mounted(&rig.point()));
    unmount(&rig.point(), true).unwrap();
    assert!(!is_mounted(&rig.point()));
    user.signal(Signal::KILL);
    user.wait(PATIENCE);
    assert!(rig.is_gone(), "the connection outlived its last user");
}

#[test]
fn stopping_does_not_wait_for_users() {
    let rig = Rig::new();
    let _user = Proc::spawn(Command::new("sleep").arg("1000").current_dir(rig.point()));
    rig.stop();
    assert!(!is_mounted(&rig.point()));
    assert!(rig.is_gone());
}

fn child(runner: &[&str], exe: &Path, point: &Path) -> Proc {
    let mut command = match runner {
        [] => Command::new(exe),
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args).arg(exe);
            command
        }
    };
    command.args(["--exact", "mount::lifecycle::child_that_mounts", "--ignored", "--nocapture"]);
    Proc::spawn(command.env(CHILD_POINT, point))
}

#[test]
#[ignore = "run as a process of its own by the tests beside it"]
fn child_that_mounts() {
    let point = std::env::var_os(CHILD_POINT).expect("only run by another test");
    let base = Path::new(&point).with_extension("base");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (fetch, _swarm) = fetch(&runtime, Paths::below(&base), Duration::from_secs(60));
    let mounted = mount(Path::new(&point), &fetch, &runtime).unwrap();
    eprintln!("child has mounted");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, mounted.gone()).await }).unwrap();
}

#[test]
fn a_mount_whose_process_was_killed_is_replaced() {
    let rig = Rig::new();
    let point = rig.dir.path().join("dead");
    std::fs::create_dir(&point).unwrap();
    let mut process = child(&[], &std::env::current_exe().unwrap(), &point);
    process.wait_for_line("child has mounted", PATIENCE);
    process.signal(Signal::KILL);
    process.wait(PATIENCE);
    let dead = std::fs::metadata(&point).unwrap_err();
    assert_eq!(rustix::io::Errno::from_io_error(&dead), Some(rustix::io::Errno::NOTCONN));
    let again = mount(&point, &rig.fetch, &rig.runtime).unwrap();
    assert_eq!(std::fs::read_dir(&point).unwrap().count(), 0);
    drop(again);
    assert!(!is_mounted(&point), "the dead mount is still below");
}

/// Runs what follows as nobody in a mount namespace of its own, where the device is open to all, as it is wherever
/// udev runs. The directory is the first argument.
const AS_NOBODY: &str = r#"
set -e
mknod "$1/fuse" c 10 229
chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"
"#;

#[test]
fn a_user_without_privileges_mounts_and_unmounts() {
    let dir = tempfile::tempdir().unwrap();
    // Where that user can run it, wherever this test was built.
    let exe = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let point = dir.path().join("mnt");
    std::fs::create_dir(&point).unwrap();
    Finished::of(Command::new("chmod").arg("755").arg(dir.path()).arg(&exe), PATIENCE).ok();
    Finished::of(Command::new("chown").arg("65534:65534").arg(&point), PATIENCE).ok();
    let dir_path = dir.path().to_str().unwrap();
    let process = child(&["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh", dir_path], &exe, &point);
    process.wait_for_line("child has mounted", PATIENCE);
    let inside = |program: &[&str]| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", process.id())).args(["--mount", "setpriv", "--reuid=65534"]);
        command.args(["--regid=65534", "--clear-groups", "--"]).args(program).arg(&point);
        Finished::of(&mut command, PATIENCE)
    };
    assert_eq!(inside(&["stat", "-c", "%u:%g:%a"]).ok().trim(), "65534:65534:555");
    let shown = inside(&["findmnt", "-n", "-o", "SOURCE,FSTYPE"]).ok();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["silmaril", "fuse.silmaril"]);
    inside(&["fusermount3", "-u"]).ok();
    process.finish(Duration::from_secs(30)).ok();
}

#[test]
fn a_closed_device_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let point = dir.path().join("mnt");
    std::fs::create_dir(&point).unwrap();
    Finished::of(Command::new("chmod").arg("755").arg(dir.path()).arg(&exe), PATIENCE).ok();
    Finished::of(Command::new("chown").arg("65534:65534").arg(&point), PATIENCE).ok();
    let closed = AS_NOBODY.replace("666", "600");
    let dir_path = dir.path().to_str().unwrap();
    let process = child(&["unshare", "--mount", "sh", "-c", &closed, "sh", dir_path], &exe, &point);
    process.wait_for_line("DeviceClosed", PATIENCE);
}
