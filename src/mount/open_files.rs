//! Open files: the file of each handle, and how the kernel reads it.
//!
//! The kernel can read an inode in two ways: by requests to the mount, with results in the page cache, or directly from a
//! backing file (passthrough). It refuses to mix them within one inode. So the way is chosen when the first handle of an
//! inode is opened, and kept until its last handle is closed, even if the file becomes complete before that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::inode::Ino;
use crate::fetch::FileRef;

/// The open files of a mount. A `B` keeps the backing file of an inode open.
pub struct OpenFiles<B> {
    state: RwLock<HandleTable<B>>,
}

struct HandleTable<B> {
    next: u64,
    handles: HashMap<u64, (Ino, Arc<FileRef>)>,
    inodes: HashMap<Ino, OpenInode<B>>,
}

struct OpenInode<B> {
    handles: usize,
    backing: Option<Arc<B>>,
}

impl<B> Default for OpenFiles<B> {
    fn default() -> Self {
        Self { state: RwLock::new(HandleTable { next: 1, handles: HashMap::new(), inodes: HashMap::new() }) }
    }
}

impl<B> OpenFiles<B> {
    /// Opens a file. Returns its handle, and its backing file if the kernel reads that directly. `choose` is called
    /// when no other handle of the inode is open, and returns the backing file or none. It is called without the lock,
    /// because it opens a file. If two threads call it at the same time, the first result is used for both.
    pub fn open(
        &self,
        ino: Ino,
        file: FileRef,
        choose: impl FnOnce(&FileRef) -> Option<B>,
    ) -> (u64, Option<Arc<B>>) {
        let is_open = self.state.read().inodes.contains_key(&ino);
        let chosen = if is_open { None } else { choose(&file).map(Arc::new) };
        let mut state = self.state.write();
        // If the other handle was closed meanwhile, `chosen` is none: reading by requests is always correct.
        let inode = state.inodes.entry(ino).or_insert(OpenInode { handles: 0, backing: chosen });
        inode.handles += 1;
        let backing = inode.backing.clone();
        let handle = state.next;
        state.next += 1;
        state.handles.insert(handle, (ino, Arc::new(file)));
        (handle, backing)
    }

    /// The backing file of an open inode that the kernel reads directly.
    pub fn backing(&self, ino: Ino) -> Option<Arc<B>> {
        self.state.read().inodes.get(&ino)?.backing.clone()
    }

    /// The file of a handle.
    pub fn get(&self, handle: u64) -> Option<Arc<FileRef>> {
        self.state.read().handles.get(&handle).map(|(_, file)| file.clone())
    }

    /// Closes a handle. Returns the file if it was the last handle of its inode.
    pub fn close(&self, handle: u64) -> Option<Arc<FileRef>> {
        let mut state = self.state.write();
        let (ino, file) = state.handles.remove(&handle)?;
        let inode = state.inodes.get_mut(&ino)?;
        inode.handles -= 1;
        if inode.handles > 0 {
            return None;
        }
        state.inodes.remove(&ino);
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileEntry, Manifest, PiecesRoot, Revision};
    use crate::paths::Paths;
    use crate::store::Store;

    #[test]
    fn the_backing_file_is_kept_until_the_last_close() {
        let dir = tempfile::tempdir().unwrap();
        let entry = FileEntry::new("f", 1, None, Some(PiecesRoot([1; 32])));
        let manifest =
            Manifest::new("o/m".parse().unwrap(), Revision::default(), 65536, vec![entry]).unwrap();
        let revision = Store::open(&Paths::below(dir.path())).unwrap().revision(Arc::new(manifest)).unwrap();
        let file = FileRef { revision, file: 0 };
        let opens = OpenFiles::default();
        let (first, backing) = opens.open(Ino(5), file.clone(), |_| None::<&str>);
        assert_eq!(backing, None);
        let (second, backing) = opens.open(Ino(5), file.clone(), |_| panic!("it is open already"));
        assert_eq!(backing, None);
        assert!(opens.close(first).is_none(), "one handle is still open");
        assert!(opens.get(first).is_none() && opens.get(second).is_some());
        let (other, backing) = opens.open(Ino(6), file.clone(), |_| Some("backing"));
        assert_eq!(backing.as_deref(), Some(&"backing"));
        assert!(opens.close(second).is_some());
        let (_, backing) = opens.open(Ino(5), file, |_| Some("now"));
        assert_eq!(backing.as_deref(), Some(&"now"));
        assert!(opens.close(other).is_some());
        assert!(opens.close(other).is_none(), "a handle is closed once");
    }
}
