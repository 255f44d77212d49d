//! File operations that follow no symbolic link, for paths below a directory that other users may be able to write to.
//!
//! A path given here is *real*: absolute, without `..` and without a link in it, as [`real_path`] returns it. If a
//! component has become a link since then, the result is an error of kind `InvalidData`, and also if a component is a staging
//! directory (`*.silmaril-partial`) that another user owns or can write to. No other user can therefore put a hard link
//! or a special file where this program writes, or exchange a file that it renames.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileType, Metadata};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::descriptors;
use crate::fsutil::{self, PARTIAL_SUFFIX, TEMP_PREFIX};

/// Maximum number of links that lead to one real path; the limit of Linux for one lookup.
const MAX_LINKS: u32 = 40;

/// Up to this number, files of one file system are made durable one by one.
pub const MAX_SINGLE_SYNCS: usize = 32;

/// Bits of a mode that permit writing to users other than the owner.
const WRITE_BY_OTHER_USERS: u32 = 0o022;

/// The real path of `below` in the directory `named`, which a user named. Links above `named` are followed. A link at `named`
/// or below it is followed only if this user or root has made it, or if no other user can write to its directory.
/// Components that do not exist are kept unchanged; the directory above `named` must exist.
pub fn real_path(named: &Path, below: &Path) -> io::Result<PathBuf> {
    let named = std::path::absolute(named)?;
    let (mut real, mut todo) = match (named.parent(), named.file_name()) {
        (Some(parent), Some(name)) => (fs::canonicalize(parent)?, VecDeque::from([name.to_owned()])),
        _ => (fs::canonicalize(&named)?, VecDeque::new()),
    };
    todo.extend(names(below));
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let dir = match open_fd(&real, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                real = next;
                continue;
            }
            dir => dir?,
        };
        match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let around = File::from(dir.try_clone()?).metadata()?;
                if !is_trusted(stat.st_uid) && !is_exclusive(&around) {
                    return Err(refused(&next, "is a symbolic link that another user has made"));
                }
                let target = rustix::fs::readlinkat(&dir, &name, Vec::new())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    todo.push_front(name);
                }
            }
            Ok(_) | Err(Errno::NOENT) => real = next,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(real)
}

fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// Whether a user may decide where this program writes: the user of this process, and root.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Whether only this user and root can put files into a directory.
fn is_exclusive(dir: &Metadata) -> bool {
    is_trusted(dir.uid()) && dir.mode() & WRITE_BY_OTHER_USERS == 0
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} {why}", path.display()))
}

/// Splits a path after the first staging directory in it.
fn split_at_staging(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut components = path.components();
    let mut staging = PathBuf::new();
    while let Some(component) = components.next() {
        staging.push(component);
        if component.as_os_str().as_bytes().ends_with(PARTIAL_SUFFIX.as_bytes()) {
            let rest = components.as_path();
            return (!rest.as_os_str().is_empty()).then(|| (staging, rest.to_owned()));
        }
    }
    None
}

/// Opens a path. A path below a staging directory is opened only if this user owns that directory. If descriptors are short,
/// cached files are closed.
fn open_fd(path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    descriptors::open(|| open_fd_once(path, flags, mode))
}

fn open_fd_once(path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(refused(path, "is not an absolute path"));
    }
    let opened = match split_at_staging(path) {
        Some((staging, rest)) => {
            let dir = open_below(CWD, &staging, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
            let dir = dir.map_err(|e| explain(&staging, e))?;
            check_staging(&dir, &staging)?;
            open_below(dir.as_fd(), &rest, flags, mode)
        }
        None => open_below(CWD, path, flags, mode),
    };
    opened.map_err(|e| explain(path, e))
}

fn explain(path: &Path, error: Errno) -> io::Error {
    match error {
        Errno::LOOP => refused(path, "is or leads through a symbolic link, which is not followed here"),
        error => error.into(),
    }
}

fn check_staging(dir: &OwnedFd, path: &Path) -> io::Result<()> {
    let found = File::from(dir.try_clone()?).metadata()?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused(path, "was made by another user"));
    }
    if found.mode() & WRITE_BY_OTHER_USERS != 0 {
        return Err(refused(path, "can be written to by other users"));
    }
    Ok(())
}

fn open_below(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // Otherwise a link is opened itself, and is then no directory.
    let follow = if flags.contains(OFlags::DIRECTORY) { flags - OFlags::NOFOLLOW } else { flags };
    loop {
        match rustix::fs::openat2(dir, path, follow, mode, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::INTR) => {}
            // An old kernel, or a container's filter of system calls.
            Err(Errno::NOSYS | Errno::PERM) => return walk(dir, path, flags, mode),
            opened => return opened,
        }
    }
}

/// [`open_below`] without openat2(2): one component after another.
fn walk(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names: VecDeque<OsString> = names(path).into();
    let last = names.pop_back().unwrap_or_else(|| ".".into());
    let mut here = if path.is_absolute() {
        rustix::fs::openat(CWD, "/", step, Mode::empty())?
    } else {
        rustix::fs::openat(dir, ".", step, Mode::empty())?
    };
    // If a directory is requested, the error for a link does not show that it is a link.
    let open = |here: &OwnedFd, name: &OsStr, flags: OFlags, mode: Mode| {
        rustix::fs::openat(here, name, flags, mode).map_err(|e| {
            let found = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW);
            let is_link = found.is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_symlink());
            if is_link { Errno::LOOP } else { e }
        })
    };
    for name in names {
        here = open(&here, &name, step, Mode::empty())?;
    }
    open(&here, &last, flags, mode)
}

/// The directory of a path, and the name in it.
fn holder(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let name = path.file_name().ok_or_else(|| refused(path, "names no file"))?;
    let parent = fsutil::parent(path);
    // `open_fd` checks a staging directory only if a path below it is opened.
    if parent.as_os_str().as_bytes().ends_with(PARTIAL_SUFFIX.as_bytes()) {
        let dir = open_fd(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        check_staging(&dir, parent)?;
        return Ok((dir, name));
    }
    Ok((open_fd(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?, name))
}

/// Opens a regular file. A pipe or device is an error and is not waited for.
pub fn open(path: &Path, flags: OFlags, mode: u32) -> io::Result<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open_fd(path, flags, Mode::from_raw_mode(mode))?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused(path, "is not a regular file")) }
}

/// Opens a regular file for reading.
pub fn read(path: &Path) -> io::Result<File> {
    #[cfg(test)]
    fsutil::jitter(fsutil::Point::Look);
    open(path, OFlags::RDONLY, 0)
}

/// Opens a regular file that exists for writing.
pub fn write(path: &Path) -> io::Result<File> {
    open(path, OFlags::RDWR, 0)
}

/// Makes a file at a free path; its mode is cut by the umask.
pub fn create_new(path: &Path) -> io::Result<File> {
    open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, 0o666)
}

/// The metadata of a file, directory or link.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    #[cfg(test)]
    fsutil::jitter(fsutil::Point::Look);
    match open_fd(path, OFlags::PATH, Mode::empty()) {
        // A shortage of descriptors must not make a file look lost. No byte is read or written this way.
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::MFILE | Errno::NFILE)) => {
            fs::symlink_metadata(path)
        }
        opened => File::from(opened?).metadata(),
    }
}

/// Whether a file, directory or link exists.
pub fn exists(path: &Path) -> bool {
    metadata(path).is_ok()
}

/// Reads a whole file of at most `cap` bytes; a longer one is an error.
pub fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    fsutil::read_file_capped(&read(path)?, cap)
}

/// Makes a directory and the missing ones above it, with modes cut by the umask. Staging directories among them are made for
/// this user only; existing ones must belong to this user only.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    let open = || open_fd(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
    let is_staging = path.as_os_str().as_bytes().ends_with(PARTIAL_SUFFIX.as_bytes());
    match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        opened if is_staging => return check_staging(&opened?, path),
        opened => return opened.map(drop),
    }
    if let Some(parent) = path.parent() {
        create_dir_all(parent)?;
    }
    let (dir, name) = holder(path)?;
    let mode = Mode::from_raw_mode(if is_staging { 0o700 } else { 0o777 });
    match rustix::fs::mkdirat(&dir, name, mode) {
        Err(Errno::EXIST) => {}
        made => return Ok(made?),
    }
    let found = open()?;
    if is_staging { check_staging(&found, path) } else { Ok(()) }
}

/// Makes a staging directory, or finds one that this user has made and no other user can write to. If `known` is given, an
/// existing directory must have this inode. Returns the inode.
pub fn create_staging(path: &Path, known: Option<u64>) -> io::Result<u64> {
    create_dir_all(fsutil::parent(path))?;
    let (around, name) = holder(path)?;
    let made = match rustix::fs::mkdirat(&around, name, Mode::RWXU) {
        Err(Errno::EXIST) => false,
        made => made.map(|()| true)?,
    };
    let dir = open_fd(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    check_staging(&dir, path)?;
    let inode = File::from(dir).metadata()?.ino();
    match known {
        Some(known) if !made && known != inode => {
            Err(refused(path, "is not the directory that was made there"))
        }
        _ => Ok(inode),
    }
}

/// Renames a file, and replaces a file at `to`.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let ((a, from), (b, to)) = (holder(from)?, holder(to)?);
    rustix::fs::renameat(a, from, b, to)?;
    #[cfg(test)]
    fsutil::jitter(fsutil::Point::Renamed);
    Ok(())
}

/// Renames a file to a free path; otherwise the error is `AlreadyExists`.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let ((a, from), (b, name)) = (holder(from)?, holder(to)?);
    let renamed = rustix::fs::renameat_with(&a, from, &b, name, RenameFlags::NOREPLACE);
    #[cfg(test)]
    fsutil::jitter(fsutil::Point::Renamed);
    match renamed {
        // The file system has no such rename: the check of the path is the best that remains.
        Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::statat(&b, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(rustix::fs::renameat(&a, from, &b, name)?),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) => Err(e.into()),
        },
        renamed => Ok(renamed?),
    }
}

/// Makes a second name for a file that is open as `file`. Fails if `from` is no longer the name of that file.
pub fn hard_link(file: &File, from: &Path, to: &Path) -> io::Result<()> {
    let ((a, from), (b, name)) = (holder(from)?, holder(to)?);
    rustix::fs::linkat(&a, from, &b, name, AtFlags::empty())?;
    let (source, linked) = (file.metadata()?, metadata(to)?);
    if (source.dev(), source.ino()) != (linked.dev(), linked.ino()) {
        rustix::fs::unlinkat(&b, name, AtFlags::empty())?;
        return Err(refused(to, "would become another file than the one that was opened"));
    }
    Ok(())
}

/// Removes a file. Returns whether it existed; a missing file is no error.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    let removed = holder(path).and_then(|(dir, name)| Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?));
    fsutil::existing(removed).map(|removed| removed.is_some())
}

/// Removes an empty directory.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    let (dir, name) = holder(path)?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Removes a directory with all its files; a missing directory is no error.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    let Some((dir, name)) = fsutil::existing(holder(path))? else { return Ok(()) };
    // Below the directory the standard library follows no link either.
    fsutil::remove_dir_if_there(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

/// Removes the directories above `path` while they are empty, up to and without `top`.
pub fn remove_empty_parents(path: &Path, top: &Path) {
    let mut dir = path.parent();
    while let Some(d) = dir.filter(|d| *d != top && d.starts_with(top)) {
        if remove_dir(d).is_err() {
            return;
        }
        dir = d.parent();
    }
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    fsutil::flush(&File::from(open_fd(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?))
}

/// Makes files and directories durable. If many are on one file system, the whole file system is flushed, which waits for the
/// disk a few times and not once for each file. A missing path is skipped: another thread may have renamed it, and the caller
/// notices when it uses it.
pub fn sync_all<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> io::Result<()> {
    let mut by_device: BTreeMap<u64, Vec<P>> = BTreeMap::new();
    for path in paths {
        if let Some(found) = fsutil::existing(metadata(path.as_ref()))? {
            by_device.entry(found.dev()).or_default().push(path);
        }
    }
    for paths in by_device.values() {
        let mut opened = paths.iter().filter_map(|path| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            fsutil::existing(open_fd(path.as_ref(), flags, Mode::empty()).map(File::from)).transpose()
        });
        if paths.len() > MAX_SINGLE_SYNCS {
            opened.next().map_or(Ok(()), |file| fsutil::flush_file_system(&file?))?;
        } else {
            opened.try_for_each(|file| fsutil::flush(&file?))?;
        }
    }
    Ok(())
}

/// The names in a directory, and their file types; links are not followed.
pub fn read_dir(path: &Path) -> io::Result<Vec<(OsString, FileType)>> {
    let fd = open_fd(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()))? {
        let entry = entry?;
        found.push((entry.file_name(), entry.file_type()?));
    }
    Ok(found)
}

/// Removes the temporary files that interrupted writes left in a directory. No other thread or process may be writing to it.
pub fn remove_temporary(dir: &Path) -> io::Result<()> {
    let entries = match read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries?,
    };
    for (name, kind) in entries {
        if kind.is_file() && name.as_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
            remove_if_there(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Replaces a file's bytes atomically and durably, creating parent directories. `mode` is cut by the umask.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, true)?;
    sync_dir(fsutil::parent(path))
}

/// [`write_atomic`] without waiting for the disk: survives the end of this process, not a power cut.
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, false)
}

fn replace(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<()> {
    create_dir_all(fsutil::parent(path))?;
    let (dir, name) = holder(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (temporary, fd) = loop {
        let temporary = format!("{TEMP_PREFIX}{:016x}", RandomState::new().build_hasher().finish());
        match rustix::fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST | Errno::INTR) => {}
            fd => break (temporary, fd?),
        }
    };
    let write = || -> io::Result<()> {
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        if sync {
            fsutil::flush(&file)?;
        }
        Ok(rustix::fs::renameat(&dir, &temporary, &dir, name)?)
    };
    write().inspect_err(|_| {
        let _ = rustix::fs::unlinkat(&dir, &temporary, AtFlags::empty());
    })
}

#[cfg(test)]
mod tests;
