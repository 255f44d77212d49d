//! Open files: which file a handle means, and how the kernel reads it.
//!
//! The kernel refuses to mix its two ways of reading within one inode: through our page cache, or straight from
//! the file behind (passthrough). So the way is chosen when an inode's first handle is opened and kept until its
//! last is closed, even if the file has become complete in between.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::inode::Ino;
use crate::fetch::FileRef;

/// The open files of a mount. `B` is what keeps a file behind an inode open.
pub struct Opens<B> {
    state: RwLock<State<B>>,
}

struct State<B> {
    next: u64,
    handles: HashMap<u64, (Ino, Arc<FileRef>)>,
    inodes: HashMap<Ino, Inode<B>>,
}

struct Inode<B> {
    handles: usize,
    behind: Option<Arc<B>>,
}

impl<B> Default for Opens<B> {
    fn default() -> Self {
        Self { state: RwLock::new(State { next: 1, handles: HashMap::new(), inodes: HashMap::new() }) }
    }
}

impl<B> Opens<B> {
    fn read(&self) -> RwLockReadGuard<'_, State<B>> {
        self.state.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<B>> {
        self.state.write()
    }

    /// Opens a file and gives its handle, and the file behind if it is to be read from there. `choose` is asked
    /// for that when no other handle of the inode is open. It is asked outside the lock, since it opens a file;
    /// if two are asked at once, the first to answer decides for both.
    pub fn open(
        &self,
        ino: Ino,
        file: FileRef,
        choose: impl FnOnce(&FileRef) -> Option<B>,
    ) -> (u64, Option<Arc<B>>) {
        let is_open = self.read().inodes.contains_key(&ino);
        let chosen = if is_open { None } else { choose(&file).map(Arc::new) };
        let mut state = self.write();
        // Closed in between: read through the page cache, which is always right.
        let inode = state.inodes.entry(ino).or_insert(Inode { handles: 0, behind: chosen });
        inode.handles += 1;
        let behind = inode.behind.clone();
        let handle = state.next;
        state.next += 1;
        state.handles.insert(handle, (ino, Arc::new(file)));
        (handle, behind)
    }

    /// The file that a handle means.
    pub fn get(&self, handle: u64) -> Option<Arc<FileRef>> {
        self.read().handles.get(&handle).map(|(_, file)| file.clone())
    }

    /// Closes a handle. Gives the file if it was its inode's last.
    pub fn close(&self, handle: u64) -> Option<Arc<FileRef>> {
        let mut state = self.write();
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
    fn the_way_is_chosen_once_until_the_last_handle_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let entry = FileEntry::new("f", 1, None, Some(PiecesRoot([1; 32])));
        let manifest =
            Manifest::new("o/m".parse().unwrap(), Revision::default(), 65536, vec![entry]).unwrap();
        let revision = Store::open(&Paths::below(dir.path())).unwrap().revision(Arc::new(manifest)).unwrap();
        let file = FileRef { revision, file: 0 };
        let opens = Opens::default();
        let (first, behind) = opens.open(Ino(5), file.clone(), |_| None::<&str>);
        assert_eq!(behind, None);
        let (second, behind) = opens.open(Ino(5), file.clone(), |_| panic!("it is open already"));
        assert_eq!(behind, None);
        assert!(opens.close(first).is_none(), "one handle is still open");
        assert!(opens.get(first).is_none() && opens.get(second).is_some());
        let (other, behind) = opens.open(Ino(6), file.clone(), |_| Some("behind"));
        assert_eq!(behind.as_deref(), Some(&"behind"));
        assert!(opens.close(second).is_some());
        let (_, behind) = opens.open(Ino(5), file, |_| Some("now"));
        assert_eq!(behind.as_deref(), Some(&"now"));
        assert!(opens.close(other).is_some());
        assert!(opens.close(other).is_none(), "a handle is closed once");
    }
}
