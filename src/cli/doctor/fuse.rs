//! Whether the device of FUSE can be opened and mounts can be made, with the remedy for each reason why not.

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

/// Looks at the device as this process sees it.
pub(super) fn device() -> Finding {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    judge(&Seen {
        error: opened.err().map(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)),
        device: std::fs::metadata(DEVICE).ok().map(|metadata| Device::of(&metadata)),
        groups: std::fs::read_to_string("/etc/group").unwrap_or_default(),
        in_container: in_container(),
        is_root: rustix::process::geteuid().is_root(),
        may_mount: capabilities().is_none_or(|held| held & SYS_ADMIN != 0),
    })
}

/// What decides.
struct Seen {
    /// Why it could not be opened.
    error: Option<Errno>,
    /// What is at its path.
    device: Option<Device>,
    /// The text of `/etc/group`.
    groups: String,
    in_container: bool,
    is_root: bool,
    /// Whether this process holds CAP_SYS_ADMIN. An ordinary user needs it not: fusermount3 has it.
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

fn judge(seen: &Seen) -> Finding {
    if let Some(device) = seen.device
        && !device.is_fuse
    {
        let found = format!("{DEVICE} is not the device of FUSE");
        let remedy = match seen.in_container {
            true => CONTAINER.to_owned(),
            false => format!("make it: sudo rm {DEVICE} && sudo mknod -m 666 {DEVICE} c 10 229"),
        };
        return Fail(found, remedy);
    }
    let Some(error) = seen.error else {
        return match seen.is_root && !seen.may_mount {
            true => Fail(
                format!("{DEVICE} can be opened, but root may not mount here (no CAP_SYS_ADMIN)"),
                CONTAINER.to_owned(),
            ),
            false => Fine(DEVICE.to_owned()),
        };
    };
    let found = format!("cannot open {DEVICE}: {}", std::io::Error::from(error));
    Fail(found, remedy(error, seen))
}

fn remedy(error: Errno, seen: &Seen) -> String {
    match (error, seen.device) {
        // Permissions of the file decide first, then the container's list of devices (EPERM) and the option nodev.
        (Errno::ACCESS, Some(device)) if device.mode & 0o006 != 0o006 => by_permission(device, &seen.groups),
        (Errno::ACCESS | Errno::PERM, _) => CONTAINER.to_owned(),
        (Errno::NOENT, _) if seen.in_container => CONTAINER.to_owned(),
        _ => MODULE.to_owned(),
    }
}

/// The device does not let every user in: membership of its group helps where the group may read and write.
fn by_permission(device: Device, groups: &str) -> String {
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

/// Whether this process runs in a container, as far as containers leave a mark.
fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"]
        .iter()
        .any(|mark| Path::new(mark).exists())
        || std::env::var_os("container").is_some()
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// The effective capabilities; none where they are not known.
fn capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(held.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(error: Option<Errno>, mode: Option<u32>) -> Seen {
        let device = mode.map(|mode| Device { is_fuse: true, mode, group: 105 });
        let groups = "root:x:0:\nfuse:x:105:ada\n".to_owned();
        Seen { error, device, groups, in_container: false, is_root: false, may_mount: false }
    }

    fn remedy_of(seen: &Seen) -> String {
        match judge(seen) {
            Fail(_, remedy) => remedy,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_reason_has_its_own_remedy() {
        let contained = |error, mode| Seen { in_container: true, ..seen(error, mode) };
        assert_eq!(judge(&seen(None, Some(0o666))), Fine(DEVICE.to_owned()));
        assert!(remedy_of(&seen(Some(Errno::ACCESS), Some(0o660))).contains("usermod -aG fuse"));
        assert!(remedy_of(&seen(Some(Errno::ACCESS), Some(0o600))).contains("chmod 666"));
        assert!(remedy_of(&contained(Some(Errno::ACCESS), Some(0o600))).contains("chmod 666"));
        assert_eq!(remedy_of(&seen(Some(Errno::ACCESS), Some(0o666))), CONTAINER);
        assert_eq!(remedy_of(&seen(Some(Errno::PERM), Some(0o666))), CONTAINER);
        assert_eq!(remedy_of(&contained(Some(Errno::NOENT), None)), CONTAINER);
        assert_eq!(remedy_of(&seen(Some(Errno::NOENT), None)), MODULE);
        assert_eq!(remedy_of(&seen(Some(Errno::NODEV), Some(0o666))), MODULE);
    }

    #[test]
    fn a_group_that_cannot_open_the_device_is_not_named() {
        let root = |mode| Seen {
            device: Some(Device { is_fuse: true, mode, group: 0 }),
            ..seen(Some(Errno::ACCESS), None)
        };
        assert!(remedy_of(&root(0o660)).contains("chmod 666"), "no user should join the group of root");
        let unknown = Seen { groups: String::new(), ..seen(Some(Errno::ACCESS), Some(0o660)) };
        assert!(remedy_of(&unknown).contains("chmod 666"));
    }

    #[test]
    fn a_device_that_opens_is_not_enough() {
        let root = |may_mount| Seen { is_root: true, may_mount, ..seen(None, Some(0o666)) };
        assert_eq!(remedy_of(&root(false)), CONTAINER);
        assert_eq!(judge(&root(true)), Fine(DEVICE.to_owned()));
        let other =
            Seen { device: Some(Device { is_fuse: false, mode: 0o666, group: 0 }), ..seen(None, None) };
        assert!(remedy_of(&other).contains("mknod"));
    }
}
