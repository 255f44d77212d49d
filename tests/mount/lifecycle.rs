//! Mounting and unmounting: no mount is left over, and mounts of other programs are not touched.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use silmaril::mount::{MountError, list_mounts, unmount};

use super::rig::{Rig, mount};
use crate::support::mounts::{detach_below, is_mounted};
use crate::support::process::{PATIENCE, Proc};

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
fn a_foreign_mount_is_not_unmounted() {
    let dir = tempfile::tempdir().unwrap();
    rustix::mount::mount("silmaril", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let result = unmount(dir.path(), true);
    let still_there = is_mounted(dir.path());
    detach_below(dir.path());
    assert!(matches!(result, Err(MountError::NotOurs { fs_type, .. }) if fs_type == "tmpfs"));
    assert!(still_there);
}

#[test]
fn stopping_leaves_a_foreign_mount_above() {
    let rig = Rig::new();
    let tmpfs = rustix::mount::MountFlags::empty();
    rustix::mount::mount("other", rig.point(), "tmpfs", tmpfs, None).unwrap();
    std::fs::write(rig.point().join("theirs"), "x").unwrap();
    rig.stop();
    assert!(rig.point().join("theirs").exists(), "another program's mount was unmounted");
}

#[test]
fn a_mount_in_use_is_unmounted_only_lazily() {
    let rig = Rig::new();
    let mut user = Proc::spawn(Command::new("sleep").arg("1000").current_dir(rig.point()));
    assert!(matches!(unmount(&rig.point(), false), Err(MountError::InUse(_))));
    assert!(is_mounted(&rig.point()));
    unmount(&rig.point(), true).unwrap();
    assert!(!is_mounted(&rig.point()));
    user.signal(Signal::KILL);
    user.wait(PATIENCE);
    assert!(rig.is_gone(), "the connection is still open after the end of its last user");
}

#[test]
fn stopping_does_not_wait_for_users() {
    let rig = Rig::new();
    let _user = Proc::spawn(Command::new("sleep").arg("1000").current_dir(rig.point()));
    rig.stop();
    assert!(!is_mounted(&rig.point()));
    assert!(rig.is_gone());
}

#[test]
fn mount_points_with_unusual_names_are_found() {
    let rig = Rig::new();
    let point = rig.dir.path().join("a b\\c\td\u{e9}");
    std::fs::create_dir(&point).unwrap();
    let _mounted = mount(&point, &rig.fetch, &rig.runtime).unwrap();
    assert!(is_listed(&point));
    unmount(&point.join("."), false).unwrap();
    assert!(!is_listed(&point));
}

#[test]
fn a_mount_is_found_through_links() {
    let rig = Rig::new();
    let link = rig.dir.path().join("link");
    std::os::unix::fs::symlink(rig.point(), &link).unwrap();
    assert!(matches!(mount(&link, &rig.fetch, &rig.runtime), Err(MountError::Busy(_))));
    unmount(&link, false).unwrap();
    assert!(!is_mounted(&rig.point()));
}
