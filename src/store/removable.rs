//! Files of this program that may be removed to make space for new ones: a file with the path of a new directory, and a
//! directory, with all its files, with the path of a new file.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Stamp;
use crate::nofollow;

/// Files in a directory that may be removed, with their stamps: a file that has changed stays.
#[derive(Debug)]
pub(super) struct Removable {
    dest: PathBuf,
    files: HashMap<PathBuf, Stamp>,
}

impl Removable {
    /// Files below `dest`.
    pub fn new(dest: &Path, files: impl IntoIterator<Item = (PathBuf, Stamp)>) -> Self {
        Self { dest: dest.to_owned(), files: files.into_iter().collect() }
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Whether the path `to` is free for a new file once these files are removed.
    pub fn can_clear(&self, to: &Path) -> io::Result<bool> {
        match nofollow::metadata(to) {
            Ok(meta) => Ok(meta.is_dir() && self.all_in(to)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            // A file has the path of a directory above.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(self.above(to).is_some()),
            Err(e) => Err(e),
        }
    }

    /// Removes the files that have the path `to` of a new file, or of a directory above it. `AlreadyExists` if one of them has
    /// changed or may not be removed.
    pub fn clear(&self, to: &Path) -> io::Result<()> {
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

    /// The file that has the path of a directory above `to`.
    fn above<'a>(&self, to: &'a Path) -> Option<&'a Path> {
        let dirs = to.ancestors().skip(1).take_while(|dir| *dir != self.dest);
        dirs.into_iter().find(|dir| self.files.contains_key(*dir))
    }

    /// Whether a directory has no other files. An empty directory, which a kill may have left, has none.
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
    fn edited_files_are_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, inside) = (dir.path().join("a"), dir.path().join("b/c/d"));
        let removable = Removable::new(dir.path(), [put(&file, "ours"), put(&inside, "ours")]);
        let (below, at) = (dir.path().join("a/new"), dir.path().join("b"));
        fs::create_dir(dir.path().join("b/empty")).unwrap();
        assert!(removable.can_clear(&below).unwrap() && removable.can_clear(&at).unwrap());
        for (target, edited) in [(&below, &file), (&at, &inside)] {
            put(edited, "edited");
            let error = removable.clear(target).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(edited).unwrap(), b"edited");
        }
        let removable = Removable::new(dir.path(), [put(&file, "ours"), put(&inside, "ours")]);
        removable.clear(&below).unwrap();
        removable.clear(&at).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // A file of the user is never removed.
        put(&inside, "theirs");
        let removable = Removable::new(dir.path(), []);
        assert!(!removable.can_clear(&at).unwrap() && !removable.can_clear(&inside.join("e")).unwrap());
    }
}
