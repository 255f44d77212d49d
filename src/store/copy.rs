//! A second file with the bytes of a first: with shared extents, as a hard link, or as a copy.

use std::fs::Metadata;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::blockmap::BlockMap;
use crate::{fsutil, nofollow};

/// The parts that two files with the same bytes may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtentSharing {
    /// The inode: both belong to this program, and an edit of one may show in the other.
    Inode,
    /// The extents: the first belongs to the user, and its edits must not show in the second.
    Extents,
}

/// Makes the new file `to` with the bytes of `from`, on the disk when this returns: by reflink, else by a hard
/// link if `sharing` allows one, else by copying. Returns the metadata after the reading of the file that was read: another
/// file may have its path by then.
pub(crate) fn duplicate(from: &Path, to: &Path, sharing: ExtentSharing) -> io::Result<Metadata> {
    let found = duplicate_unsynced(from, to, sharing)?;
    fsutil::flush(&nofollow::read(to)?)?;
    Ok(found)
}

/// [`duplicate`] for a caller that makes `to` durable.
pub(super) fn duplicate_unsynced(from: &Path, to: &Path, sharing: ExtentSharing) -> io::Result<Metadata> {
    nofollow::remove_if_there(to)?;
    let source = nofollow::read(from)?;
    let target = nofollow::create_new(to)?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => return source.metadata(),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    if sharing == ExtentSharing::Inode {
        nofollow::remove_if_there(to)?;
        if nofollow::hard_link(&source, from, to).is_ok() {
            return source.metadata();
        }
        io::copy(&mut &source, &mut &nofollow::create_new(to)?)?;
        return source.metadata();
    }
    io::copy(&mut &source, &mut &target)?;
    source.metadata()
}

/// Copies the verified blocks of `from` into the new sparse file `to`, on the disk when this returns. Returns the metadata of
/// `from` after the reading.
pub(super) fn copy_verified(from: &Path, to: &Path, map: &BlockMap, len: u64) -> io::Result<Metadata> {
    use std::io::{Read, Seek, SeekFrom};
    let mut source = nofollow::read(from)?;
    let mut target = nofollow::create_new(to)?;
    for run in map.runs(&(0..len), true) {
        source.seek(SeekFrom::Start(run.start))?;
        target.seek(SeekFrom::Start(run.start))?;
        let expected = run.end - run.start;
        if io::copy(&mut Read::take(&source, expected), &mut target)? != expected {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    fsutil::flush(&target)?;
    source.metadata()
}

/// The metadata of the second of two files with the same bytes; none if the bytes differ.
pub(crate) fn same_bytes(a: &Path, b: &Path) -> io::Result<Option<Metadata>> {
    use std::io::{BufRead, BufReader};
    let (a, b) = (nofollow::read(a)?, nofollow::read(b)?);
    let found = b.metadata()?;
    if a.metadata()?.len() != found.len() {
        return Ok(None);
    }
    let (mut a, mut b) = (BufReader::with_capacity(1 << 20, a), BufReader::with_capacity(1 << 20, b));
    loop {
        let (x, y) = (a.fill_buf()?, b.fill_buf()?);
        let n = x.len().min(y.len());
        if n == 0 {
            return Ok((x.len() == y.len()).then_some(found));
        }
        if x[..n] != y[..n] {
            return Ok(None);
        }
        a.consume(n);
        b.consume(n);
    }
}

/// Whether a rename failed because the paths are on different file systems.
pub(super) fn crosses_devices(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::CrossesDevices
}
