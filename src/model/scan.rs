//! Lists the files of a directory that are shared.
//!
//! All files are shared, including dotfiles, except repositories and download caches (`.git`, `.cache`), silmaril's own
//! manifest and downloads (`.silmaril.json`, `*.silmaril-partial`), and helper files of other programs (see [`remains`]).
//! An entry that cannot be shared exactly (a socket, a dangling link, a name that is not UTF-8) is an error; it is never
//! left out. An unfinished download of another program is an error too, even inside a helper directory.
//!
//! A symbolic link is followed if its target is inside the directory, or if it leads from a repository of the hub's cache
//! to the blobs of that cache. Any other link is an error, unless the caller has approved its target. Each link is
//! resolved once, and its file is opened at the real path without following links again.

mod unfinished;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use super::files::MAX_FILES;
use super::path::{self, PathError};
use super::remains::{self, Remains};
use super::text;
use crate::nofollow;

/// The reason why a directory cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A file or directory could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The path is a file.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory has no file to share.
    #[error("{} has no files to share", .0.display())]
    Empty(PathBuf),
    /// More than [`MAX_FILES`] files or directories.
    #[error("{} has more than {MAX_FILES} files", .0.display())]
    TooMany(PathBuf),
    /// A symbolic link without a target.
    #[error("{} is a symbolic link to a file that does not exist", .0.display())]
    Dangling(PathBuf),
    /// A symbolic link to a directory that contains the link.
    #[error("{} is a symbolic link to a directory around it", .0.display())]
    Loop(PathBuf),
    /// A symbolic link out of the directory.
    #[error("{} is a symbolic link to {}, outside the shared directory", link.display(), target.display())]
    Outside {
        /// The link.
        link: PathBuf,
        /// Its real target.
        target: PathBuf,
    },
    /// A symbolic link leads to a file or directory that is never shared through a link.
    #[error("{} leads through a symbolic link to {}, which {why}", link.display(), target.display())]
    Forbidden {
        /// The path in the shared directory.
        link: PathBuf,
        /// Its real target.
        target: PathBuf,
        /// The reason, as a predicate.
        why: &'static str,
    },
    /// A socket, pipe or device.
    #[error("{} is a {kind}, which cannot be shared", path.display())]
    Special {
        /// The file.
        path: PathBuf,
        /// The kind of the file.
        kind: &'static str,
    },
    /// A name that is not UTF-8.
    #[error("the name of {} is not UTF-8", .0.display())]
    NotUtf8(PathBuf),
    /// A name that no torrent may have.
    #[error(transparent)]
    Name(#[from] PathError),
    /// Unfinished downloads.
    #[error("{} has unfinished downloads: {}", dir.display(), text::listed(files))]
    Unfinished {
        /// The directory.
        dir: PathBuf,
        /// The files, each with the program that writes it.
        files: Vec<String>,
    },
}

/// Links out of a shared directory: the path of each link in it, and the real path of its target.
pub type OutsideLinks = BTreeMap<String, PathBuf>;

/// One file to share.
#[derive(Debug, Clone)]
pub struct ScannedFile {
    /// Path relative to the directory, checked.
    pub path: String,
    /// The real path at which it is opened.
    pub source: PathBuf,
    /// Its metadata at the time of the scan.
    pub metadata: Metadata,
}

/// Whether a file or directory with this name is never shared. `name` is one component of a path in a repository.
pub fn is_left_out(name: &str, is_dir: bool) -> bool {
    path::is_reserved(name) || remains::of(name, is_dir).is_some()
}

/// Lists the files of a directory that are shared, in canonical order. Each file could be opened. A link out of the
/// directory is followed only if `approved` has it with its present target.
pub fn scan(dir: &Path, approved: &OutsideLinks) -> Result<Vec<ScannedFile>, ScanError> {
    let approve = |path: &str, target: &Path| approved.get(path).is_some_and(|known| known == target);
    let mut scanner = Scanner::new(dir, approve)?;
    scanner.check_outside()?;
    scanner.run()?;
    let (mut files, unfinished) = (scanner.files, scanner.unfinished);
    if !unfinished.is_empty() {
        return Err(ScanError::Unfinished { dir: dir.to_owned(), files: unfinished });
    }
    if files.is_empty() {
        return Err(ScanError::Empty(dir.to_owned()));
    }
    files.sort_by(|a, b| path::compare(&a.path, &b.path));
    Ok(files)
}

/// Lists the links out of a directory, for the argument `approved` of [`scan`]. Fails if a link may never be followed.
pub fn outside_links(dir: &Path) -> Result<OutsideLinks, ScanError> {
    let mut found = OutsideLinks::new();
    let collect = |path: &str, target: &Path| {
        found.insert(path.to_owned(), target.to_owned());
        true
    };
    Scanner::new(dir, collect)?.run()?;
    Ok(found)
}

/// A directory to read.
struct ScanDir {
    /// Its path in the shared directory.
    path: String,
    /// Its real path.
    real: PathBuf,
    /// Device and inode of itself and of each directory above it.
    ancestors: Vec<(u64, u64)>,
    /// Whether it was reached through a link out of the shared directory.
    outside: bool,
}

struct Scanner<'a, A> {
    dir: &'a Path,
    root: PathBuf,
    /// Directories of the hub's cache that may contain the targets of links.
    blobs: Vec<PathBuf>,
    hub: Option<PathBuf>,
    approve: A,
    todo: Vec<ScanDir>,
    files: Vec<ScannedFile>,
    /// Unfinished downloads, each as text for an error message.
    unfinished: Vec<String>,
}

impl<'a, A: FnMut(&str, &Path) -> bool> Scanner<'a, A> {
    fn new(dir: &'a Path, approve: A) -> Result<Self, ScanError> {
        let failed = |source| ScanError::Io { path: dir.to_owned(), source };
        let root = fs::canonicalize(dir).map_err(failed)?;
        let metadata = nofollow::metadata(&root).map_err(failed)?;
        if !metadata.is_dir() {
            return Err(ScanError::NotADirectory(dir.to_owned()));
        }
        let ancestors = vec![(metadata.dev(), metadata.ino())];
        let top = ScanDir { path: String::new(), real: root.clone(), ancestors, outside: false };
        let (blobs, hub) = (blobs_of(&root), hub_cache());
        Ok(Self {
            dir,
            root,
            blobs,
            hub,
            approve,
            todo: vec![top],
            files: Vec::new(),
            unfinished: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<(), ScanError> {
        let mut dirs = 0;
        while let Some(place) = self.todo.pop() {
            dirs += 1;
            // With links between directories the number of directories can be unbounded, even without any file.
            if dirs > MAX_FILES {
                return Err(ScanError::TooMany(self.dir.to_owned()));
            }
            let entries = nofollow::read_dir(&place.real);
            let entries =
                entries.map_err(|source| ScanError::Io { path: self.dir.join(&place.path), source })?;
            let names: HashSet<&OsStr> = entries.iter().map(|(name, _)| name.as_os_str()).collect();
            for (name, kind) in &entries {
                let Some(text) = name.to_str() else {
                    return Err(ScanError::NotUtf8(self.dir.join(&place.path).join(name)));
                };
                if path::is_reserved(text) {
                    self.check_left_out(&place, text, None)?;
                    continue;
                }
                let of_axel = remains::axel_target(text).filter(|target| names.contains(OsStr::new(target)));
                match remains::of(text, kind.is_dir()).or(of_axel.map(|_| Remains::Unfinished("axel"))) {
                    None => self.add(&place, text, kind.is_symlink())?,
                    Some(Remains::Helper) => self.check_left_out(&place, text, None)?,
                    Some(Remains::Holds(program)) => self.check_left_out(&place, text, Some(program))?,
                    Some(Remains::Unfinished(program)) => {
                        self.add_unfinished(&join(&place.path, text), program)
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds an entry of a directory: a file to `files`, a directory to `todo`.
    fn add(&mut self, place: &ScanDir, name: &str, link: bool) -> Result<(), ScanError> {
        let shown = self.dir.join(&place.path).join(name);
        let failed = |source| ScanError::Io { path: shown.clone(), source };
        let path = join(&place.path, name);
        path::check_path(&path)?;
        let mut real = place.real.join(name);
        if link {
            real = resolve(&real, &shown)?;
        }
        let metadata = nofollow::metadata(&real).map_err(failed)?;
        let mut outside = place.outside;
        if link {
            let is_blob = metadata.is_file() && self.blobs.iter().any(|blobs| real.starts_with(blobs));
            outside = !is_blob && !real.starts_with(&self.root);
        }
        if outside {
            if let Some(why) = self.forbids(&real, &metadata) {
                return Err(ScanError::Forbidden { link: shown, target: real, why });
            }
            if link && !(self.approve)(&path, &real) {
                return Err(ScanError::Outside { link: shown, target: real });
            }
        }
        let kind = metadata.file_type();
        if kind.is_dir() {
            let id = (metadata.dev(), metadata.ino());
            if place.ancestors.contains(&id) {
                return Err(ScanError::Loop(shown));
            }
            let ancestors = [place.ancestors.as_slice(), &[id]].concat();
            self.todo.push(ScanDir { path, real, ancestors, outside });
        } else if kind.is_file() {
            if self.files.len() == MAX_FILES {
                return Err(ScanError::TooMany(self.dir.to_owned()));
            }
            // Opened only to find an error now instead of after an hour of hashing.
            nofollow::read(&real).map_err(failed)?;
            self.files.push(ScannedFile { path, source: real, metadata });
        } else {
            let kind = if kind.is_fifo() {
                "named pipe"
            } else if kind.is_socket() {
                "socket"
            } else {
                "device"
            };
            return Err(ScanError::Special { path: shown, kind });
        }
        Ok(())
    }

    /// The reason why a file outside the shared directory is not shared even if the user approves the link; none if it may be.
    fn forbids(&self, real: &Path, metadata: &Metadata) -> Option<&'static str> {
        let rest = self.hub.as_deref().and_then(|hub| real.strip_prefix(hub).ok()).unwrap_or(real);
        let hidden = |component: Component<'_>| component.as_os_str().as_encoded_bytes().starts_with(b".");
        if rest.components().any(hidden) {
            return Some("is in a hidden directory, or hidden itself");
        }
        (metadata.uid() != rustix::process::geteuid().as_raw()).then_some("belongs to another user")
    }
}

/// Joins paths that use `/`, either of which may be empty.
fn join(dir: &str, below: &str) -> String {
    match (dir, below) {
        ("", path) | (path, "") => path.to_owned(),
        _ => format!("{dir}/{below}"),
    }
}

/// The real target of a link.
fn resolve(link: &Path, shown: &Path) -> Result<PathBuf, ScanError> {
    fs::canonicalize(link).map_err(|error| {
        match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                ScanError::Dangling(shown.to_owned())
            }
            Some(rustix::io::Errno::LOOP) => ScanError::Loop(shown.to_owned()),
            _ => ScanError::Io { path: shown.to_owned(), source: error },
        }
    })
}

/// Directories that may contain the targets of links in a snapshot of a hub cache: the blobs of its repository, and the
/// blobs that all repositories of the cache share (`models--org--name/snapshots/<commit>/file -> ../../blobs/<etag> ->
/// ../../blobs/<xx>/<hash>`).
fn blobs_of(root: &Path) -> Vec<PathBuf> {
    let is_repository = |dir: &Path| {
        let name = dir.file_name().and_then(OsStr::to_str);
        name.is_some_and(|n| ["models--", "datasets--", "spaces--"].iter().any(|kind| n.starts_with(kind)))
    };
    let snapshots = root.ancestors().find(|dir| {
        dir.file_name() == Some(OsStr::new("snapshots")) && dir.parent().is_some_and(is_repository)
    });
    let repository = snapshots.and_then(Path::parent);
    let repository = repository.or_else(|| Some(root).filter(|root| is_repository(root)));
    let cache = repository.and_then(Path::parent);
    repository.into_iter().chain(cache).map(|dir| dir.join("blobs")).collect()
}

/// The real path of this user's hub cache, `hub`. Not the directory above it, which contains the user's token.
pub fn hub_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(etcetera::home_dir().ok()?.join(".cache")));
        Some(cache?.join("huggingface"))
    };
    let hub = || Some(variable("HF_HOME").or_else(cache)?.join("hub"));
    let hub = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).or_else(hub)?;
    fs::canonicalize(hub).ok()
}

#[cfg(test)]
mod tests;
