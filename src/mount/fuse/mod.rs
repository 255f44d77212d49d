//! The FUSE adapter: converts types and sends replies, without decisions of its own. Only this directory uses `fuser`'s types.
//!
//! `fuser` receives a connection that is already mounted ([`super::attach`]): its own mounting fails if `/dev/fuse` is not
//! readable, and its own unmounting can remove a mount of another program.
//!
//! Each request that reads has a span ([`request_span`]) with its operation, inode, offset and size. `fuser` has no common
//! entry for requests, so each handler opens the span.

mod backing;
mod reply;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, Config, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use tracing::debug;

use backing::{BackingFile, UnchangedFile};
use reply::{GENERATION, file_attr, file_type, refuse, reply_entry, reply_xattr, request_span};

use super::code_warnings::CodeWarnings;
use super::errno::RequestError;
use super::handles::Handles;
use super::inode::Ino;
use super::lookups::Lookups;
use super::open_dir::OpenDir;
use super::open_files::OpenFiles;
use super::read_ahead::ReadAhead;
use super::reads::Reads;
use super::requester::Requester;
use super::tree::Tree;
use crate::fetch::FileRef;

/// The largest request, in bytes: the kernel's default limit (`fs.fuse.max_pages_limit`, 256 pages).
const MAX_REQUEST: u32 = 1024 * 1024;

/// How many read-ahead requests the kernel keeps in flight over the whole mount. With `fuser`'s default of 16, one swarm
/// that sends nothing could block 16 of them, and with them every buffered read of all models. One stream has at most 16
/// in flight (2 MiB of read-ahead in requests of 128 KiB), so 512 leave room for 32 blocked streams.
const MAX_BACKGROUND: u16 = 512;

/// From this number on the kernel treats the mount as congested and reduces read-ahead.
const CONGESTION_THRESHOLD: u16 = 448;

/// The longest name (statfs), in bytes, as on other Linux file systems.
const NAME_MAX: u32 = 255;

/// Handles the kernel's requests.
pub struct Service {
    tree: Arc<Tree>,
    lookups: Arc<Lookups>,
    reads: Reads,
    read_ahead: ReadAhead,
    files: OpenFiles<BackingFile>,
    dirs: Handles<OpenDir>,
    code_warnings: CodeWarnings,
    passthrough: bool,
    sees_processes: bool,
}

/// The handle of all files above the revisions; [`OpenFiles`] begins with 1.
const TEXT_HANDLE: u64 = 0;

impl Service {
    /// The thread that sent a request; unknown if its number means another thread in this process.
    fn requester(&self, request: &Request) -> Requester {
        Requester::new(if self.sees_processes { request.pid() } else { 0 })
    }

    /// Answers metadata from the tree, names through `lookups` and file data through `reads`. `sees_processes`: whether
    /// the process numbers of requests mean the same in this process.
    pub fn new(
        tree: Arc<Tree>,
        lookups: Arc<Lookups>,
        reads: Reads,
        read_ahead: ReadAhead,
        sees_processes: bool,
    ) -> Self {
        Self {
            tree,
            lookups,
            reads,
            read_ahead,
            files: OpenFiles::default(),
            dirs: Handles::default(),
            code_warnings: CodeWarnings::default(),
            passthrough: false,
            sees_processes,
        }
    }
}

/// Exchanges the first messages with the kernel over a mounted connection. The returned function handles requests on
/// `threads` threads until the connection ends. With `clone_fd` each thread has its own queue.
pub fn connect(
    service: Service,
    connection: OwnedFd,
    threads: usize,
    clone_fd: bool,
) -> io::Result<impl FnOnce() -> io::Result<()> + Send + 'static> {
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = clone_fd;
    // The kernel checks which users may use the mount (`allow_other`), so `fuser` need not.
    let session = Session::from_fd(service, connection, SessionACL::All, config)?;
    Ok(move || session.run())
}

/// Operations that have one answer. Listed with the types of their arguments between the inode and the reply.
macro_rules! refused {
    ($error:expr => $($operation:ident($($argument:ty),*) -> $reply:ty;)*) => {$(
        fn $operation(&self, _: &Request, ino: INodeNo, $(_: $argument,)* reply: $reply) {
            let error: fn(&'static str, INodeNo) -> fuser::Errno = $error;
            reply.error(error(stringify!($operation), ino));
        }
    )*};
}

impl Filesystem for Service {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_MAX_PAGES,
        ] {
            if config.add_capabilities(wanted).is_err() {
                debug!(capability = ?wanted, "the kernel does not offer a FUSE capability");
            }
        }
        let refused = |_| io::Error::from(io::ErrorKind::InvalidInput);
        config.set_max_write(MAX_REQUEST).map_err(refused)?;
        let refused = |_| io::Error::from(io::ErrorKind::InvalidInput);
        config.set_max_background(MAX_BACKGROUND).map_err(refused)?;
        config.set_congestion_threshold(CONGESTION_THRESHOLD).map_err(refused)?;
        // Passthrough needs CAP_SYS_ADMIN. With a depth of 1 an overlay file system can still use the mount.
        self.passthrough = rustix::process::geteuid().is_root()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _span = request_span("lookup", parent, None, None);
        let answer = Box::new(move |found| reply_entry(parent, found, reply));
        self.lookups.serve(Ino(parent.0), name.to_owned(), self.requester(req), answer);
    }

    // `tree` never forgets the number of a shown inode, whatever the kernel still references.
    fn forget(&self, _req: &Request, _ino: INodeNo, _nlookup: u64) {}

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _span = request_span("getattr", ino, None, None);
        match self.tree.attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&attr.ttl, &file_attr(&attr)),
            Err(error) => reply.error(refuse("getattr", ino, &error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _span = request_span("readlink", ino, None, None);
        match self.tree.link(Ino(ino.0)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(refuse("readlink", ino, &error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _span = request_span("open", ino, None, None);
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(refuse("open", ino, &RequestError::ReadOnly));
        }
        let file = match self.tree.file(Ino(ino.0)) {
            Ok(file) => file,
            // The text may have changed, so the page cache is emptied.
            Err(_) if self.tree.text(Ino(ino.0)).is_some() => {
                return reply.opened(FileHandle(TEXT_HANDLE), FopenFlags::empty());
            }
            Err(error) => return reply.error(refuse("open", ino, &error)),
        };
        self.code_warnings.check_opened(&file);
        let unchanged = UnchangedFile::open(&file);
        // The kernel reads all handles of an inode from the same file, which is wrong now.
        let direct = self.files.backing(Ino(ino.0));
        if unchanged.is_none() && direct.is_some_and(|backing| !backing.is_unchanged()) {
            return reply.error(refuse("open", ino, &RequestError::Changed));
        }
        self.reads.opened(&file);
        self.read_ahead.set_for(&file);
        let backing = |_: &FileRef| {
            unchanged.filter(|_| self.passthrough).and_then(|unchanged| unchanged.register(&reply))
        };
        match self.files.open(Ino(ino.0), file, backing) {
            (handle, Some(backing)) => {
                reply.opened_passthrough(FileHandle(handle), FopenFlags::empty(), &backing.id);
            }
            // Content never changes, so the page cache stays valid from one open to the next.
            (handle, None) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _span = request_span("read", ino, Some(offset), Some(size));
        if fh.0 == TEXT_HANDLE {
            let text = self.tree.text(Ino(ino.0)).unwrap_or_default();
            let from = text.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            let end = text.len().min(from.saturating_add(size as usize));
            return reply.data(&text.as_bytes()[from..end]);
        }
        match self.files.get(fh.0) {
            Some(file) => {
                let tree = self.tree.clone();
                let is_shown = move || tree.file(Ino(ino.0)).is_ok();
                self.reads.serve(&file, offset, size.into(), self.requester(req), is_shown, reply);
            }
            None => reply.error(refuse("read", ino, &RequestError::BadHandle)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _span = request_span("release", ino, None, None);
        if let Some(file) = self.files.close(fh.0) {
            self.reads.released(&file);
            self.code_warnings.check_closed(&file);
        }
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _span = request_span("opendir", ino, None, None);
        match self.tree.open_dir(Ino(ino.0)) {
            Ok(dir) => reply.opened(FileHandle(self.dirs.insert(dir)), FopenFlags::empty()),
            Err(error) => reply.error(refuse("opendir", ino, &error)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _span = request_span("readdir", ino, Some(offset), None);
        let Some(dir) = self.dirs.get(fh.0) else {
            return reply.error(refuse("readdir", ino, &RequestError::BadHandle));
        };
        // The offset of an entry is the position of the next one.
        for position in offset.. {
            let Some(entry) = dir.entry(position) else { break };
            let ino = INodeNo(entry.attr.ino.0);
            if reply.add(ino, position + 1, file_type(entry.attr.kind), &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _span = request_span("readdirplus", ino, Some(offset), None);
        let Some(dir) = self.dirs.get(fh.0) else {
            return reply.error(refuse("readdirplus", ino, &RequestError::BadHandle));
        };
        for position in offset.. {
            let Some(entry) = dir.entry(position) else { break };
            let (ino, attr) = (INodeNo(entry.attr.ino.0), file_attr(&entry.attr));
            if reply.add(ino, position + 1, &entry.name, &entry.ttl, &attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let _span = request_span("releasedir", ino, None, None);
        self.dirs.remove(fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let _span = request_span("statfs", ino, None, None);
        let totals = self.tree.totals();
        // Blocks that are not cached are "free", so that `df` shows the cached bytes as used. No block is available,
        // because the mount is read-only.
        reply.statfs(totals.blocks, totals.missing, 0, totals.inodes, 0, 512, NAME_MAX, 512);
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let _span = request_span("access", ino, None, None);
        let attr = match self.tree.attr(Ino(ino.0)) {
            Ok(attr) => attr,
            Err(error) => return reply.error(refuse("access", ino, &error)),
        };
        if mask.contains(AccessFlags::W_OK) {
            reply.error(refuse("access", ino, &RequestError::ReadOnly));
        } else if mask.contains(AccessFlags::X_OK) && attr.perm & 0o111 == 0 {
            reply.error(refuse("access", ino, &RequestError::Access));
        } else {
            reply.ok();
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _span = request_span("getxattr", ino, None, Some(size));
        match self.tree.xattr(Ino(ino.0), name) {
            Ok(value) => reply_xattr("getxattr", ino, value.as_bytes(), size, reply),
            Err(error) => reply.error(refuse("getxattr", ino, &error)),
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _span = request_span("listxattr", ino, None, Some(size));
        match self.tree.xattr_names(Ino(ino.0)) {
            Ok(names) => {
                let list: String = names.iter().flat_map(|name| [name, "\0"]).collect();
                reply_xattr("listxattr", ino, list.as_bytes(), size, reply);
            }
            Err(error) => reply.error(refuse("listxattr", ino, &error)),
        }
    }

    // After ENOSYS the kernel handles these operations itself: flush and fsync succeed, and lseek, poll and ioctl get the
    // kernel's default. Its lseek reports that a file is data up to its end. That is correct, because bytes that are not
    // cached are fetched and are no hole.
    refused! { |_, _| fuser::Errno::ENOSYS =>
        flush(FileHandle, LockOwner) -> ReplyEmpty;
        fsync(FileHandle, bool) -> ReplyEmpty;
        fsyncdir(FileHandle, bool) -> ReplyEmpty;
        lseek(FileHandle, i64, i32) -> ReplyLseek;
        poll(FileHandle, PollNotifier, PollEvents, PollFlags) -> ReplyPoll;
        ioctl(FileHandle, IoctlFlags, u32, &[u8], u32) -> ReplyIoctl;
    }

    // All operations that write. Because of the `ro` flag the kernel refuses most of them without a request.
    refused! { |operation, ino| refuse(operation, ino, &RequestError::ReadOnly) =>
        setattr(Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>, Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>, Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>) -> ReplyAttr;
        mknod(&OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(&OsStr, u32, u32) -> ReplyEntry;
        unlink(&OsStr) -> ReplyEmpty;
        rmdir(&OsStr) -> ReplyEmpty;
        symlink(&OsStr, &Path) -> ReplyEntry;
        rename(&OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, &OsStr) -> ReplyEntry;
        create(&OsStr, u32, u32, i32) -> ReplyCreate;
        write(FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>) -> ReplyWrite;
        setxattr(&OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(&OsStr) -> ReplyEmpty;
        fallocate(FileHandle, u64, u64, i32) -> ReplyEmpty;
        copy_file_range(FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags) -> ReplyWrite;
    }
}
