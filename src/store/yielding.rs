//! Files of ours that give way: a file where a directory is to be, and a directory, with all of them that it holds, where a
//! file is to be.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Stamp;
use crate::nofollow;

/// Files in a directory that may go, and how they looked: one that does not look so any more stays.
#[derive(Debug)]
pub(super) struct Yielding {
    dest: PathBuf,
    files: HashMap<PathBuf, Stamp>,
}

impl Yielding {
    /// Files below `dest`.
    pub fn new(dest: &Path, files: impl IntoIterator<Item = (PathBuf, Stamp)>) -> Self {
        Self { dest: dest.to_owned(), files: files.into_iter().collect() }
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Whether nothing is in the way of a new file at `to` once they are gone.
    pub fn gives_way(&self, to: &Path) -> io::Result<bool> {
        match nofollow::metadata(to) {
            Ok(meta) => Ok(meta.is_dir() && self.all_in(to)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            // A file where a directory is to be.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(self.above(to).is_some()),
            Err(e) => Err(e),
        }
    }

    /// Removes what is in the way of a new file at `to`. `AlreadyExists` where that is not what it was.
    pub fn make_way(&self, to: &Path) -> io::Result<()> {
        match nofollow::metadata(to) {
            Ok(meta) if meta.is_dir() => self.remove_dir(to),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => match self.above(to) {
                Some(file) => self.remove(file),
                None => Err(io::ErrorKind::AlreadyExists.into()),
            },
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The file that stands where a directory above `to` is to be.
    fn above<'a>(&self, to: &'a Path) -> Option<&'a Path> {
        let dirs = to.ancestors().skip(1).take_while(|dir| *dir != self.dest);
        dirs.into_iter().find(|dir| self.files.contains_key(*dir))
    }

    /// Whether a directory holds nothing else. An empty one, which a kill may have left, holds nobody's work.
    fn all_in(&self, dir: &Path) -> io::Result<bool> {
        for (name, kind) in nofollow::read_dir(dir)? {
            let path = dir.join(name);
            let goes = if kind.is_dir() { self.all_in(&path)? } else { self.files.contains_key(&path) };
            if !goes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        for (name, kind) in nofollow::read_dir(dir)? {
            let path = dir.join(name);
            if kind.is_dir() {
                self.remove_dir(&path)?;
            } else {
                self.remove(&path)?;
            }
        }
        match nofollow::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Err(io::ErrorKind::AlreadyExists.into())
            }
            other => other,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let now = nofollow::metadata(path)?;
        if !now.is_file() || self.files.get(path) != Some(&Stamp::of(&now)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        nofollow::remove_if_there(path).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(path: &Path, text: &str) -> (PathBuf, Stamp) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        (path.to_owned(), Stamp::at(path).unwrap())
    }

    #[test]
    fn what_was_edited_since_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (file, inside) = (dir.path().join("a"), dir.path().join("b/c/d"));
        let goes = Yielding::new(dir.path(), [put(&file, "ours"), put(&inside, "ours")]);
        let (below, at) = (dir.path().join("a/new"), dir.path().join("b"));
        fs::create_dir(dir.path().join("b/empty")).unwrap();
        assert!(goes.gives_way(&below).unwrap() && goes.gives_way(&at).unwrap());
        for (target, edited) in [(&below, &file), (&at, &inside)] {
            put(edited, "edited");
            let error = goes.make_way(target).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(edited).unwrap(), b"edited");
        }
        let goes = Yielding::new(dir.path(), [put(&file, "ours"), put(&inside, "ours")]);
        goes.make_way(&below).unwrap();
        goes.make_way(&at).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // Somebody's file is in the way, whatever it holds.
        put(&inside, "theirs");
        let goes = Yielding::new(dir.path(), []);
        assert!(!goes.gives_way(&at).unwrap() && !goes.gives_way(&inside.join("e")).unwrap());
    }
}
