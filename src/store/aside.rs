//! Edited files of this program are kept when a new file replaces them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::nofollow;

/// An edited file that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its path before, which the model's file has now.
    pub path: PathBuf,
    /// Its new path.
    pub aside: PathBuf,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, aside) = (self.path.display(), self.aside.display());
        write!(
            f,
            "{path} was changed on this host; the changed file is kept as {aside}, and the model's file has its path"
        )
    }
}

/// Renames a file to `<name>.edited`, with a number if that name is used. The caller syncs the directory.
pub(super) fn set_aside(path: &Path) -> io::Result<Kept> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".edited");
    for number in 2.. {
        match nofollow::rename_new(path, Path::new(&aside)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                aside = path.as_os_str().to_owned();
                aside.push(format!(".edited{number}"));
            }
            done => return done.map(|()| Kept { path: path.to_owned(), aside: aside.into() }),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
