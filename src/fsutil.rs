//! Small file-system operations that several modules need: atomic writes, capped reads, durable renames.
//!
//! A file that is written with [`write_atomic`] has either all new bytes or all old ones, also after a crash: the bytes go to
//! a temporary file in the same directory, reach the disk, and are renamed to the path.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

/// Temporary files begin with this, so that a reader of a directory can distinguish them from content.
pub const TEMP_PREFIX: &str = ".silmaril-tmp-";
/// Suffix of files that `get` has not finished.
pub const PARTIAL_SUFFIX: &str = ".silmaril-partial";

/// Mode of files that other users may read, before the umask.
pub const MODE_SHARED: u32 = 0o644;

/// Mode of files with secrets or with private information of this user.
pub const MODE_PRIVATE: u32 = 0o600;

/// How long another process may hold a lock file, for the time of a write.
const MAX_LOCK_TIME: Duration = Duration::from_secs(10);
/// How often a lock file is tried; polled, because there is no event for this.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// Opens a lock file, creating it, and acquires the exclusive lock of all processes on it. Dropping the file releases the lock.
/// Fails if another process holds the lock for longer than a write may last. Blocks.
pub fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(MODE_PRIVATE).open(path)?;
    let until = Instant::now() + MAX_LOCK_TIME;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(TRY_EVERY),
            Err(Errno::WOULDBLOCK) => {
                let waited = MAX_LOCK_TIME.as_secs();
                return Err(io::Error::other(format!("another process holds it for {waited} s")));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Replaces a file's bytes atomically and durably, creating parent directories. `mode` is cut by the umask.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    #[cfg(test)]
    if DISK_IS_FULL.get() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let dir = parent(path);
    fs::create_dir_all(dir)?;
    let mut temp = tempfile::Builder::new()
        .prefix(TEMP_PREFIX)
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)?;
    temp.write_all(bytes)?;
    flush(temp.as_file())?;
    temp.persist(path).map_err(|e| e.error)?;
    sync_dir(dir)
}

/// Whether a write failed because the disk, or the user's share of it, is full, or because it cannot be written at all.
pub fn is_full_or_read_only(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(kind, StorageFull | ReadOnlyFilesystem | QuotaExceeded)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    flush(&File::open(dir)?)
}

/// Makes an open file or directory durable. Waits for the disk.
pub fn flush(file: &File) -> io::Result<()> {
    #[cfg(test)]
    FLUSHES.set(FLUSHES.get() + 1);
    file.sync_all()
}

/// Makes durable all writes to the file system of an open file. Waits for the disk.
pub fn flush_file_system(file: &File) -> io::Result<()> {
    #[cfg(test)]
    FLUSHES.set(FLUSHES.get() + 1);
    Ok(rustix::fs::syncfs(file)?)
}

#[cfg(test)]
thread_local! {
    /// How often this thread has waited for the disk.
    pub static FLUSHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    /// Whether atomic writes of this thread fail as on a full disk.
    static DISK_IS_FULL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// If set, this thread sometimes pauses for a random time at these points.
    pub static JITTER: std::cell::RefCell<Option<(Point, fastrand::Rng)>> =
        const { std::cell::RefCell::new(None) };
}

/// Calls `action` while atomic writes of this thread fail as on a full disk.
#[cfg(test)]
pub fn without_space<T>(action: impl FnOnce() -> T) -> T {
    DISK_IS_FULL.set(true);
    let done = action();
    DISK_IS_FULL.set(false);
    done
}

/// A point where a pause shows whether another thread may use the same path.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before a path is looked up.
    Look,
    /// After a file was renamed.
    Renamed,
}

/// Makes it likely that another thread runs between two operations on one path, in a test that sets `JITTER`.
#[cfg(test)]
pub fn jitter(at: Point) {
    JITTER.with_borrow_mut(|jitter| {
        if let Some((point, rng)) = jitter
            && *point == at
            && rng.u8(..4) == 0
        {
            std::thread::sleep(Duration::from_micros(rng.u64(..500)));
        }
    });
}

/// The result of an operation on a file or directory; none if it does not exist.
pub fn existing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads a whole file of at most `cap` bytes; a longer one is an error.
pub fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    read_file_capped(&File::open(path)?, cap)
}

/// [`read_capped`] of an open file, from its position.
pub fn read_file_capped(file: &File, cap: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(file.metadata()?.len().min(cap) as usize);
    Read::take(file, cap + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {cap} bytes")));
    }
    Ok(bytes)
}

/// Identifies a version of a file: it differs after each change, unless the file was changed twice within one tick of the
/// clock (see [`FileVersion::is_settled`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// The version of a file with this metadata.
    pub fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether the last change was more than a second ago, so that every later change has another version.
    pub fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(now).is_ok_and(|now| self.changed.0 + 1 < now)
    }
}

/// Removes a file. Returns whether it existed; a missing file is no error.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    existing(fs::remove_file(path)).map(|removed| removed.is_some())
}

/// Removes a directory with all its files; a missing directory is no error.
pub fn remove_dir_if_there(path: &Path) -> io::Result<()> {
    existing(fs::remove_dir_all(path)).map(drop)
}

/// The directory that holds `path`; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// The identity of this boot of the kernel (random(4)). Page cache outlives processes, not boots.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let mut id = [0; 16];
    hex::decode_to_slice(text.trim().replace('-', ""), &mut id)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("boot id {text:?}: {e}")))?;
    Ok(id)
}

/// The umask of this process, without changing it for a moment as umask(2) would (proc_pid_status(5)).
pub fn umask() -> u32 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| {
            s.lines()
                .find_map(|l| l.strip_prefix("Umask:"))
                .and_then(|m| u32::from_str_radix(m.trim(), 8).ok())
        })
        .unwrap_or(0o022)
}

/// Makes a hole in a file. Returns the number of freed bytes.
pub fn punch(file: &File, range: &Range<u64>) -> io::Result<u64> {
    let before = file.metadata()?.blocks();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, range.start, range.end - range.start)?;
    Ok(before.saturating_sub(file.metadata()?.blocks()) * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        write_atomic(&path, b"one", MODE_PRIVATE).unwrap();
        write_atomic(&path, b"two", MODE_PRIVATE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn failed_write_leaves_only_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
        assert!(write_atomic(&path, b"two", MODE_SHARED).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn capped_read_refuses_one_byte_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_capped(&path, 5).unwrap(), b"12345");
        assert_eq!(read_capped(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
