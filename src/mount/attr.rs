//! The attributes of inodes, and for how long they and names are valid.

use std::time::{Duration, SystemTime};

use super::inode::Ino;
use super::listing::{ListingNode, NodeKind};
use super::shown::{InodeRef, Placement};
use super::tree_error::TreeError;
use super::view::View;

/// How long names and attributes above the revisions are valid. Short, because `publish` changes them and programs
/// should see the change soon.
pub(super) const TOP_TTL: Duration = Duration::from_secs(1);

/// How long a name within a revision is valid, whether it exists or not: content is named by its hash and never changes.
/// When the revision is removed, the entry of its directory expires first, and all names below it with it.
pub(super) const NAME_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long the attributes of an incomplete file are valid: its blocks grow while it is read.
const PARTIAL_TTL: Duration = Duration::from_secs(1);

/// How long the attributes of a complete file are valid. Eviction may remove blocks, and `st_blocks` should show that
/// within minutes.
const COMPLETE_TTL: Duration = Duration::from_secs(600);

/// The unit of `st_blocks` (POSIX) and of the mount's statfs, in bytes.
pub(super) const BLOCK: u64 = 512;

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InodeKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// The attributes that `stat` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// File type.
    pub kind: InodeKind,
    /// Length in bytes.
    pub size: u64,
    /// Cached bytes, in units of 512; at least 1 for a file that is not empty.
    pub blocks: u64,
    /// Used for all three times.
    pub mtime: SystemTime,
    /// Permission bits.
    pub perm: u16,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How long these attributes are valid.
    pub ttl: Duration,
}

/// Owner and default time of all inodes.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of mounting: the modification time of directories without a better one.
    pub mounted_at: SystemTime,
}

impl Owner {
    /// The user and group of this process, and now.
    pub fn of_this_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { uid: uid.as_raw(), gid: gid.as_raw(), mounted_at: SystemTime::now() }
    }
}

/// The attributes of an empty directory above the revisions.
pub(super) fn dir_attr(ino: Ino, owner: &Owner) -> Attr {
    Attr {
        ino,
        kind: InodeKind::Dir,
        size: 0,
        blocks: 0,
        mtime: owner.mounted_at,
        perm: 0o555,
        nlink: 2,
        uid: owner.uid,
        gid: owner.gid,
        ttl: TOP_TTL,
    }
}

/// The attributes of a link.
pub(super) fn link_attr(ino: Ino, target: &str, owner: &Owner) -> Attr {
    Attr { kind: InodeKind::Link, size: target.len() as u64, perm: 0o777, nlink: 1, ..dir_attr(ino, owner) }
}

pub(super) fn attr_of(view: &View, ino: Ino, owner: &Owner) -> Result<Attr, TreeError> {
    let found = view.find(ino).ok_or(TreeError::Stale)?;
    let attr = Attr { nlink: view.nlink(&found), ..dir_attr(ino, owner) };
    Ok(match &found {
        InodeRef::Top(_) => attr,
        InodeRef::Link(target) => {
            Attr { kind: InodeKind::Link, size: target.len() as u64, perm: 0o777, ..attr }
        }
        InodeRef::Text(text) => {
            Attr { kind: InodeKind::File, size: text.len() as u64, blocks: 1, perm: 0o444, ..attr }
        }
        InodeRef::Inside(placement, index, ListingNode { kind: NodeKind::Dir { .. }, .. }) => {
            let ttl = if *index == 0 { TOP_TTL } else { NAME_TTL };
            Attr { mtime: placement.mtime, ttl, ..attr }
        }
        InodeRef::Inside(placement, _, ListingNode { kind: NodeKind::File(file), .. }) => {
            file_attr(placement, *file as usize, attr)
        }
    })
}

fn file_attr(placement: &Placement, file: usize, base: Attr) -> Attr {
    let content = &placement.revision.contents[file];
    let entry = &placement.revision.manifest.files[file];
    Attr {
        kind: InodeKind::File,
        size: entry.size,
        // GNU tar archives a file with 0 blocks as zeros without reading it, so at least 1.
        blocks: content.cached_bytes().div_ceil(BLOCK).max(entry.size.min(1)),
        mtime: placement.mtime,
        perm: if entry.executable { 0o555 } else { 0o444 },
        ttl: if content.is_complete() { COMPLETE_TTL } else { PARTIAL_TTL },
        ..base
    }
}
