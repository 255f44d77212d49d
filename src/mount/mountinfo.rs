//! The mounts of this process's namespace: `/proc/self/mountinfo`, parsed as proc(5) describes it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The mount source that identifies silmaril mounts, for this program and for loaders. The file system type does not:
/// root can choose it freely, and kernels show it differently.
pub const SOURCE: &str = "silmaril";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The kernel's number of the mount.
    pub id: u32,
    /// Device major number.
    pub major: u32,
    /// Device minor number. For FUSE, with major 0, also the number of its connection.
    pub minor: u32,
    /// The mount point.
    pub mount_point: PathBuf,
    /// File system type, e.g. `fuse.silmaril`.
    pub fs_type: String,
    /// The mount source, a text that the mounting program chose.
    pub source: OsString,
    /// Options of the superblock, comma-separated.
    pub super_options: String,
}

impl MountEntry {
    /// Whether it is a silmaril mount.
    pub fn is_silmaril(&self) -> bool {
        (self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")) && self.source == SOURCE
    }

    /// The user who mounted it, if the options contain it (FUSE).
    pub fn user_id(&self) -> Option<u32> {
        self.super_options.split(',').find_map(|o| o.strip_prefix("user_id="))?.parse().ok()
    }
}

/// All mounts of this process's namespace, oldest first. Of two mounts at one mount point the later one hides the
/// earlier one.
pub fn read() -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_line).collect())
}

/// The topmost mount at exactly this path, which must be absolute and without symbolic links.
pub fn at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rfind(|m| m.mount_point == path))
}

/// The mount that contains the directory above this path, which must be absolute and without symbolic links.
pub fn above(path: &Path) -> io::Result<Option<MountEntry>> {
    let Some(parent) = path.parent() else { return Ok(None) };
    let around = read()?.into_iter().filter(|m| parent.starts_with(&m.mount_point));
    Ok(around.max_by_key(|m| m.mount_point.components().count()))
}

/// Parses a line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let _parent = fields.next()?;
    let (major, minor) = text(fields.next()?)?.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let _root = fields.next()?;
    let mount_point = PathBuf::from(unescape(fields.next()?));
    let _options = fields.next()?;
    // Zero or more optional fields, then a hyphen as separator.
    fields.by_ref().find(|f| *f == b"-")?;
    let fs_type = unescape(fields.next()?).into_string().ok()?;
    let source = unescape(fields.next()?);
    let super_options = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    Some(MountEntry { id, major, minor, mount_point, fs_type, source, super_options })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Undoes the kernel's octal escapes (`\040` for a space).
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| byte == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal.map(|d| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'))) {
            Some(code) if code <= 0xff => {
                out.push(code as u8);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// The absolute path without symbolic links and `..`. Never reads the attributes of the last component: a file system
/// that does not answer may be mounted there.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if name.as_bytes() != b".." => {
            let joined = parent.canonicalize()?.join(name);
            if joined.read_link().is_ok() { joined.canonicalize() } else { Ok(joined) }
        }
        _ => absolute.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let line = br"297 27 0:51 / /tmp/a\040b\134c\011d ro,nosuid shared:160 master:3 - fuse.silmaril silmaril ro,user_id=1000,group_id=7";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.id, 297);
        assert_eq!((entry.major, entry.minor), (0, 51));
        assert_eq!(entry.mount_point, Path::new("/tmp/a b\\c\td"));
        assert!(entry.is_silmaril());
        assert_eq!(entry.user_id(), Some(1000));
    }

    #[test]
    fn another_source_is_not_ours() {
        let line = b"297 27 0:51 / /mnt rw - fuse.sshfs host: rw";
        assert!(!parse_line(line).unwrap().is_silmaril());
        let line = b"297 27 0:51 / /mnt rw - tmpfs silmaril rw";
        assert!(!parse_line(line).unwrap().is_silmaril());
    }

    #[test]
    fn broken_lines_are_skipped() {
        for line in [&b""[..], b"x", b"1 2 3 / /mnt rw", b"1 2 0:1 / /mnt rw - "] {
            assert_eq!(parse_line(line), None, "{:?}", String::from_utf8_lossy(line));
        }
        assert_eq!(unescape(br"a\04"), r"a\04");
        assert_eq!(unescape(br"a\777"), r"a\777");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(at(Path::new("/")).unwrap().is_some());
    }
}
