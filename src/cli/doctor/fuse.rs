//! Checks that `/dev/fuse` can be opened and that mounting is permitted. Each possible fault has its remedy.

use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::io::Errno;

use super::Finding::{self, Fail, Ok as Fine};

const DEVICE: &str = "/dev/fuse";

/// Major and minor number of the device.
const NUMBER: (u32, u32) = (10, 229);

/// The bit of CAP_SYS_ADMIN in a set of capabilities: capabilities(7).
const SYS_ADMIN: u64 = 1 << 21;

const MODULE: &str = "load the kernel module: sudo modprobe fuse";
const CONTAINER: &str = "start the container with --device /dev/fuse --cap-add SYS_ADMIN";

/// Checks the device from this process.
pub(super) fn device() -> Finding {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    finding(&Facts {
        error: opened.err().map(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)),
        device: std::fs::metadata(DEVICE).ok().map(|metadata| Device::of(&metadata)),
        groups: std::fs::read_to_string("/etc/group").unwrap_or_default(),
        in_container: in_container(),
        is_root: rustix::process::geteuid().is_root(),
        may_mount: capabilities().is_none_or(|held| held & SYS_ADMIN != 0),
    })
}

/// Facts of the system that decide the result.
struct Facts {
    /// The reason why the device could not be opened; none if it was opened.
    error: Option<Errno>,
    /// The file at the path of the device; none if there is no file.
    device: Option<Device>,
    /// The text of `/etc/group`.
    groups: String,
    in_container: bool,
    is_root: bool,
    /// Whether this process has CAP_SYS_ADMIN. Users other than root do not need it, because fusermount3 has it.
    may_mount: bool,
}

#[derive(Clone, Copy)]
struct Device {
    is_fuse: bool,
    /// Permission bits.
    mode: u32,
    group: u32,
}

impl Device {
    fn of(metadata: &Metadata) -> Self {
        let number = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let is_fuse = metadata.file_type().is_char_device() && number == NUMBER;
        Self { is_fuse, mode: metadata.mode(), group: metadata.gid() }
    }
}

fn finding(facts: &Facts) -> Finding {
    if let Some(device) = facts.device
        && !device.is_fuse
    {
        let found = format!("{DEVICE} is not the FUSE device");
        let remedy = if facts.in_container {
            CONTAINER.to_owned()
        } else {
            format!("make it: sudo rm {DEVICE} && sudo mknod -m 666 {DEVICE} c 10 229")
        };
        return Fail(found, remedy);
    }
    let Some(error) = facts.error else {
        if facts.is_root && !facts.may_mount {
            return Fail(
                format!("{DEVICE} can be opened, but root may not mount here (no CAP_SYS_ADMIN)"),
                CONTAINER.to_owned(),
            );
        }
        return Fine(DEVICE.to_owned());
    };
    let found = format!("cannot open {DEVICE}: {}", std::io::Error::from(error));
    Fail(found, remedy(error, facts))
}

fn remedy(error: Errno, facts: &Facts) -> String {
    match (error, facts.device) {
        // The kernel checks the permissions of the file first, then the container's list of devices (EPERM) and the mount
        // option nodev.
        (Errno::ACCESS, Some(device)) if device.mode & 0o006 != 0o006 => {
            permission_remedy(device, &facts.groups)
        }
        (Errno::ACCESS | Errno::PERM, _) => CONTAINER.to_owned(),
        (Errno::NOENT, _) if facts.in_container => CONTAINER.to_owned(),
        _ => MODULE.to_owned(),
    }
}

/// The remedy for a device that not every user may open: join its group if the group may read and write, otherwise
/// change the permissions.
fn permission_remedy(device: Device, groups: &str) -> String {
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(device.group)).then(|| name.to_owned())
    });
    match name.filter(|_| device.mode & 0o060 == 0o060 && device.group != 0) {
        Some(group) => {
            format!("join the group {group}, then log in again: sudo usermod -aG {group} \"$USER\"")
        }
        None => format!("let every user open it: sudo chmod 666 {DEVICE}"),
    }
}

/// Whether this process runs in a container, judged by files and variables that common container runtimes set.
fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"]
        .iter()
        .any(|mark| Path::new(mark).exists())
        || std::env::var_os("container").is_some()
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// The effective capabilities of this process; none if they are unknown.
fn capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(held.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(error: Option<Errno>, mode: Option<u32>) -> Facts {
        let device = mode.map(|mode| Device { is_fuse: true, mode, group: 105 });
        let groups = "root:x:0:\nfuse:x:105:ada\n".to_owned();
        Facts { error, device, groups, in_container: false, is_root: false, may_mount: false }
    }

    fn remedy_of(facts: &Facts) -> String {
        match finding(facts) {
            Fail(_, remedy) => remedy,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_fault_has_its_own_remedy() {
        let contained = |error, mode| Facts { in_container: true, ..facts(error, mode) };
        assert_eq!(finding(&facts(None, Some(0o666))), Fine(DEVICE.to_owned()));
        assert!(remedy_of(&facts(Some(Errno::ACCESS), Some(0o660))).contains("usermod -aG fuse"));
        assert!(remedy_of(&facts(Some(Errno::ACCESS), Some(0o600))).contains("chmod 666"));
        assert!(remedy_of(&contained(Some(Errno::ACCESS), Some(0o600))).contains("chmod 666"));
        assert_eq!(remedy_of(&facts(Some(Errno::ACCESS), Some(0o666))), CONTAINER);
        assert_eq!(remedy_of(&facts(Some(Errno::PERM), Some(0o666))), CONTAINER);
        assert_eq!(remedy_of(&contained(Some(Errno::NOENT), None)), CONTAINER);
        assert_eq!(remedy_of(&facts(Some(Errno::NOENT), None)), MODULE);
        assert_eq!(remedy_of(&facts(Some(Errno::NODEV), Some(0o666))), MODULE);
    }

    #[test]
    fn groups_without_access_are_not_proposed() {
        let root = |mode| Facts {
            device: Some(Device { is_fuse: true, mode, group: 0 }),
            ..facts(Some(Errno::ACCESS), None)
        };
        assert!(remedy_of(&root(0o660)).contains("chmod 666"), "no user should join the group of root");
        let unknown = Facts { groups: String::new(), ..facts(Some(Errno::ACCESS), Some(0o660)) };
        assert!(remedy_of(&unknown).contains("chmod 666"));
    }

    #[test]
    fn root_without_the_capability_to_mount_fails() {
        let root = |may_mount| Facts { is_root: true, may_mount, ..facts(None, Some(0o666)) };
        assert_eq!(remedy_of(&root(false)), CONTAINER);
        assert_eq!(finding(&root(true)), Fine(DEVICE.to_owned()));
        let other =
            Facts { device: Some(Device { is_fuse: false, mode: 0o666, group: 0 }), ..facts(None, None) };
        assert!(remedy_of(&other).contains("mknod"));
    }
}
