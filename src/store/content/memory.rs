//! Files in memory, for contents that find no space on the disk.
//!
//! They have paths, because the engine opens files by path. A path is never used again, and no program can create a file there.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::fsutil::punch;

/// A path below a file that is no directory.
const DIR: &str = "/dev/null/silmaril-memory";

static FILES: LazyLock<Mutex<HashMap<PathBuf, Weak<MemoryFile>>>> = LazyLock::new(Mutex::default);

/// A sparse file that is only in memory, until it is dropped and its last descriptor closed.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    path: PathBuf,
    file: File,
}

impl MemoryFile {
    /// Makes a file of `len` bytes, all of them a hole.
    pub(crate) fn new(len: u64) -> io::Result<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let file = File::from(memfd_create("silmaril", MemfdFlags::CLOEXEC)?);
        file.set_len(len)?;
        let path = Path::new(DIR).join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let made = Arc::new(Self { path: path.clone(), file });
        files().insert(path, Arc::downgrade(&made));
        Ok(made)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of the file, for reading and writing at given positions.
    pub(crate) fn open(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Bytes of memory that it occupies.
    pub(crate) fn allocated(&self) -> u64 {
        self.file.metadata().map_or(0, |found| found.blocks() * 512)
    }

    /// Makes a hole. Returns the number of freed bytes of memory.
    pub(crate) fn punch(&self, range: &Range<u64>) -> io::Result<u64> {
        punch(&self.file, range)
    }
}

impl PartialEq for MemoryFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for MemoryFile {}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        files().remove(&self.path);
    }
}

/// Opens a file in memory by its path. None if the path is on the disk; an error of kind `NotFound` if the file is gone.
pub fn open_memory(path: &Path) -> Option<io::Result<File>> {
    path.starts_with(DIR).then(|| match files().get(path).and_then(Weak::upgrade) {
        Some(file) => file.open(),
        None => Err(io::ErrorKind::NotFound.into()),
    })
}

fn files() -> MutexGuard<'static, HashMap<PathBuf, Weak<MemoryFile>>> {
    FILES.lock()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn memory_file_is_found_by_path_until_dropped() {
        let made = MemoryFile::new(1 << 20).unwrap();
        let path = made.path().to_owned();
        open_memory(&path).unwrap().unwrap().write_all_at(b"bytes", 4096).unwrap();
        let mut read = [0; 5];
        open_memory(&path).unwrap().unwrap().read_exact_at(&mut read, 4096).unwrap();
        assert_eq!(&read, b"bytes");
        assert_eq!(made.punch(&(0..65536)).unwrap(), 4096);
        let found = made.open().unwrap().metadata().unwrap();
        assert_eq!((found.len(), found.blocks()), (1 << 20, 0));
        drop(made);
        assert_eq!(open_memory(&path).unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(open_memory(Path::new("/dev/null")).is_none());
        assert!(File::open(&path).is_err());
    }
}
