//! Replies to the kernel: attributes, error numbers, and the span of a request.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyData, ReplyEntry, ReplyXattr};
use rustix::io::Errno;
use tracing::span::EnteredSpan;
use tracing::{debug, debug_span, warn};

use crate::mount::attr::{Attr, InodeKind};
use crate::mount::errno::{RequestError, ToErrno};
use crate::mount::reads::ReadReply;
use crate::mount::tree::Lookup;
use crate::mount::tree_error::TreeError;

/// Inode numbers are never reused, so there is one generation.
pub(super) const GENERATION: Generation = Generation(0);

fn fuse_errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

/// The span of one request: all log lines of the request carry its fields. Nearly free while debug logging is off.
pub(super) fn request_span(
    operation: &'static str,
    inode: INodeNo,
    offset: Option<u64>,
    size: Option<u32>,
) -> EnteredSpan {
    debug_span!("fuse", operation, inode = inode.0, offset, size).entered()
}

/// Logs a failed operation and returns the error number for the reply.
pub(super) fn refuse(operation: &'static str, inode: INodeNo, error: &impl ToErrno) -> fuser::Errno {
    let inode = inode.0;
    if error.is_fault() {
        warn!(operation, inode, %error, "a file system operation failed");
    } else {
        debug!(operation, inode, %error, "a file system operation was refused");
    }
    fuse_errno(error.errno())
}

pub(super) fn file_type(kind: InodeKind) -> FileType {
    match kind {
        InodeKind::Dir => FileType::Directory,
        InodeKind::File => FileType::RegularFile,
        InodeKind::Link => FileType::Symlink,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.mtime,
        crtime: attr.mtime,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        // The proposed size of one read: large, because every request is a round trip.
        blksize: 128 * 1024,
        flags: 0,
    }
}

/// The attributes of inode 0. With a time to live they mean in FUSE: the name does not exist, and the kernel may cache that.
fn absent() -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn reply_entry(parent: INodeNo, found: Result<Lookup, TreeError>, reply: ReplyEntry) {
    match found {
        Ok(Lookup::Present { attr, ttl }) => {
            reply.entry_with_ttls(&attr.ttl, &ttl, &file_attr(&attr), GENERATION);
        }
        Ok(Lookup::Absent(Duration::ZERO) | Lookup::Unknown(_)) => reply.error(fuser::Errno::ENOENT),
        Ok(Lookup::Absent(ttl)) => reply.entry(&ttl, &absent(), GENERATION),
        Err(error) => reply.error(refuse("lookup", parent, &error)),
    }
}

pub(super) fn reply_xattr(op: &'static str, ino: INodeNo, value: &[u8], size: u32, reply: ReplyXattr) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() <= size as usize {
        reply.data(value);
    } else {
        reply.error(refuse(op, ino, &RequestError::SmallBuffer));
    }
}

impl ReadReply for ReplyData {
    fn data(self, bytes: &[u8]) {
        Self::data(self, bytes);
    }

    fn fail(self, errno: Errno) {
        Self::error(self, fuse_errno(errno));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    /// The log of a failed read at this level.
    fn log_at(level: LevelFilter) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = Mutex::new(file.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(level).with_writer(writer);
        tracing::subscriber::with_default(subscriber.finish(), || {
            let _span = request_span("read", INodeNo(7), Some(4096), Some(100));
            let _ = refuse("read", INodeNo(7), &RequestError::BadHandle);
        });
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn log_lines_of_a_request_carry_its_span() {
        let span = "fuse{operation=\"read\" inode=7 offset=4096 size=100}";
        let log = log_at(LevelFilter::DEBUG);
        assert!(log.contains(span), "{log}");
        let log = log_at(LevelFilter::WARN);
        assert!(log.contains("inode=7") && !log.contains("fuse{"), "{log}");
    }
}
