//! Which files of a directory are shared.
//!
//! Everything is, dotfiles too, except repositories and download caches (`.git`, `.cache`), our own manifest
//! (`.silmaril.json`), and files somebody is still writing (`*.silmaril-partial`, `*.incomplete`, `.~lock.*`).
//! Symbolic links to files and directories are followed, since the hub's cache is made of them. What cannot be
//! shared faithfully (a socket, a dangling link, a name that is not UTF-8) is an error and never left out.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::files::MAX_FILES;
use super::path::{self, PathError};

/// Why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Something could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is a file.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// There is no file in it.
    #[error("{} has no files to share", .0.display())]
    Empty(PathBuf),
    /// More than [`MAX_FILES`].
    #[error("{} has more than {MAX_FILES} files", .0.display())]
    TooMany(PathBuf),
    /// A symbolic link to nothing.
    #[error("{} is a symbolic link to something that does not exist", .0.display())]
    Dangling(PathBuf),
    /// A symbolic link to a directory that holds it.
    #[error("{} is a symbolic link to a directory around it", .0.display())]
    Loop(PathBuf),
    /// A socket, pipe or device.
    #[error("{} is a {kind}, which cannot be shared", path.display())]
    Special {
        /// Which file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A name that is not text.
    #[error("the name of {} is not UTF-8", .0.display())]
    NotUtf8(PathBuf),
    /// A name that other machines could not use.
    #[error(transparent)]
    Name(#[from] PathError),
}

/// One file to share.
#[derive(Debug, Clone)]
pub struct ScannedFile {
    /// Path relative to the directory, checked.
    pub path: String,
    /// Where it is opened.
    pub source: PathBuf,
    /// How it looked, through links.
    pub metadata: Metadata,
}

/// Whether files or directories of this name are never shared.
pub fn is_left_out(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        path::is_reserved(name) || name.ends_with(".incomplete") || name.starts_with(".~lock.")
    })
}

/// Lists the files of a directory that are shared, in canonical order. Every one could be opened.
pub fn scan(dir: &Path) -> Result<Vec<ScannedFile>, ScanError> {
    let failed = |path: &Path, source| ScanError::Io { path: path.to_owned(), source };
    let root = fs::metadata(dir).map_err(|source| failed(dir, source))?;
    if !root.is_dir() {
        return Err(ScanError::NotADirectory(dir.to_owned()));
    }
    let mut files: Vec<ScannedFile> = Vec::new();
    // Directories to read: relative path, and device and inode of each directory on the way down.
    let mut todo = vec![(String::new(), vec![(root.dev(), root.ino())])];
    while let Some((prefix, ancestors)) = todo.pop() {
        let here = dir.join(&prefix);
        for entry in fs::read_dir(&here).map_err(|source| failed(&here, source))? {
            let entry = entry.map_err(|source| failed(&here, source))?;
            let name = entry.file_name();
            if is_left_out(&name) {
                continue;
            }
            let source = entry.path();
            let name = name.to_str().ok_or_else(|| ScanError::NotUtf8(source.clone()))?;
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            path::check_path(&path)?;
            let link = entry.file_type().map_err(|error| failed(&source, error))?.is_symlink();
            let metadata = match fs::metadata(&source) {
                Ok(metadata) => metadata,
                Err(error) if link && error.kind() == io::ErrorKind::NotFound => {
                    return Err(ScanError::Dangling(source));
                }
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                    return Err(ScanError::Loop(source));
                }
                Err(error) => return Err(failed(&source, error)),
            };
            let kind = metadata.file_type();
            if kind.is_dir() {
                let id = (metadata.dev(), metadata.ino());
                if ancestors.contains(&id) {
                    return Err(ScanError::Loop(source));
                }
                todo.push((path, [ancestors.as_slice(), &[id]].concat()));
            } else if kind.is_file() {
                if files.len() == MAX_FILES {
                    return Err(ScanError::TooMany(dir.to_owned()));
                }
                // Better now than after an hour of hashing.
                File::open(&source).map_err(|error| failed(&source, error))?;
                files.push(ScannedFile { path, source, metadata });
            } else {
                let kind = match () {
                    () if kind.is_fifo() => "named pipe",
                    () if kind.is_socket() => "socket",
                    () => "device",
                };
                return Err(ScanError::Special { path: source, kind });
            }
        }
    }
    if files.is_empty() {
        return Err(ScanError::Empty(dir.to_owned()));
    }
    files.sort_by(|a, b| path::compare(&a.path, &b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn put(dir: &Path, path: &str) {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), path).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        scan(dir).unwrap().into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn repositories_caches_and_unfinished_files_are_left_out_and_dotfiles_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let shared = [
            "1_Pooling/config.json",
            "1_Pooling.json",
            ".gitattributes",
            ".eval_results/x.yaml",
            "config.json",
        ];
        let left_out = [
            ".git/HEAD",
            "sub/.git/HEAD",
            ".cache/huggingface/x",
            ".silmaril.json",
            ".m.bin.silmaril-partial",
            "m.bin.incomplete",
            ".~lock.table.csv#",
        ];
        shared.iter().chain(&left_out).for_each(|path| put(dir.path(), path));
        let expected = [
            ".eval_results/x.yaml",
            ".gitattributes",
            "1_Pooling/config.json",
            "1_Pooling.json",
            "config.json",
        ];
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn links_are_followed_as_in_the_cache_of_the_hub() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "blobs/abc");
        put(dir.path(), "other/deep/file");
        let snapshot = dir.path().join("snapshots/1");
        fs::create_dir_all(&snapshot).unwrap();
        symlink("../../blobs/abc", snapshot.join("model.bin")).unwrap();
        symlink(dir.path().join("other"), snapshot.join("dir")).unwrap();
        let files = scan(&snapshot).unwrap();
        assert_eq!(files[0].path, "dir/deep/file");
        assert_eq!((files[1].path.as_str(), files[1].metadata.len()), ("model.bin", 9));
        symlink(&snapshot, dir.path().join("entry")).unwrap();
        assert_eq!(names(&dir.path().join("entry")), names(&snapshot));
    }

    #[test]
    fn what_cannot_be_shared_is_named() {
        let check = |make: &dyn Fn(&Path), part: &str, name: &str| {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), "sub/config.json");
            make(dir.path());
            let error = scan(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains(name),
                "{error:?} does not say {part:?} and {name:?}"
            );
        };
        check(&|dir| symlink("nowhere", dir.join("sub/gone")).unwrap(), "does not exist", "sub/gone");
        check(&|dir| symlink("..", dir.join("sub/up")).unwrap(), "around it", "sub/up");
        check(&|dir| symlink("self", dir.join("self")).unwrap(), "around it", "self");
        check(&|dir| drop(UnixListener::bind(dir.join("s")).unwrap()), "socket", "/s");
        check(&|dir| fs::write(dir.join("a\\b"), "").unwrap(), "backslash", "b");
        check(&|dir| fs::write(dir.join("a\nb"), "").unwrap(), "control", "b");
        check(&|dir| fs::write(dir.join(OsStr::from_bytes(b"a\xffb")), "").unwrap(), "not UTF-8", "a");
        let fifo = |dir: &Path| {
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::mknodat(rustix::fs::CWD, dir.join("p"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        };
        check(&fifo, "named pipe", "/p");
    }

    #[test]
    fn nothing_to_share_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(scan(dir.path()), Err(ScanError::Empty(_))));
        put(dir.path(), ".git/HEAD");
        assert!(matches!(scan(dir.path()), Err(ScanError::Empty(_))));
        assert!(matches!(scan(&dir.path().join(".git/HEAD")), Err(ScanError::NotADirectory(_))));
        assert!(matches!(scan(&dir.path().join("none")), Err(ScanError::Io { .. })));
    }
}
