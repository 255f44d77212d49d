//! Which files of a directory are shared.
//!
//! Everything is, dotfiles too, except repositories and download caches (`.git`, `.cache`), our own manifest
//! (`.silmaril.json`), and files somebody is still writing (`*.silmaril-partial`, `*.incomplete`, `.~lock.*`). What cannot
//! be shared faithfully (a socket, a dangling link, a name that is not UTF-8) is an error and never left out.
//!
//! A symbolic link to a file or directory is followed where it leads to something inside the directory, or from a
//! repository of the hub's cache to that cache's blobs. Any other link is an error, unless the caller gives its target
//! as approved. Each link is resolved once; its file is opened at the real path, without following links again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use super::files::MAX_FILES;
use super::path::{self, PathError};
use crate::nofollow;

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
    /// More than [`MAX_FILES`] files or directories.
    #[error("{} has more than {MAX_FILES} files", .0.display())]
    TooMany(PathBuf),
    /// A symbolic link to nothing.
    #[error("{} is a symbolic link to something that does not exist", .0.display())]
    Dangling(PathBuf),
    /// A symbolic link to a directory that holds it.
    #[error("{} is a symbolic link to a directory around it", .0.display())]
    Loop(PathBuf),
    /// A symbolic link out of the directory.
    #[error("{} is a symbolic link to {}, outside the shared directory", link.display(), target.display())]
    Outside {
        /// The link.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A symbolic link leads to a file or directory that is never shared through one.
    #[error("{} leads through a symbolic link to {}, which {why}", link.display(), target.display())]
    Forbidden {
        /// The path in the shared directory.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
        /// What speaks against it.
        why: &'static str,
    },
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

/// Links that lead out of a shared directory: their paths in it, and the real paths of their targets.
pub type OutsideLinks = BTreeMap<String, PathBuf>;

/// One file to share.
#[derive(Debug, Clone)]
pub struct ScannedFile {
    /// Path relative to the directory, checked.
    pub path: String,
    /// Its real path, where it is opened.
    pub source: PathBuf,
    /// How it looked.
    pub metadata: Metadata,
}

/// Whether files or directories of this name are never shared.
pub fn is_left_out(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        path::is_reserved(name) || name.ends_with(".incomplete") || name.starts_with(".~lock.")
    })
}

/// Lists the files of a directory that are shared, in canonical order. Every one could be opened. Links out of the
/// directory are followed where `approved` has them with the targets that they have now.
pub fn scan(dir: &Path, approved: &OutsideLinks) -> Result<Vec<ScannedFile>, ScanError> {
    let approve = |path: &str, target: &Path| approved.get(path).is_some_and(|known| known == target);
    let mut scanner = Scanner::new(dir, approve)?;
    scanner.run()?;
    let mut files = scanner.files;
    if files.is_empty() {
        return Err(ScanError::Empty(dir.to_owned()));
    }
    files.sort_by(|a, b| path::compare(&a.path, &b.path));
    Ok(files)
}

/// Lists the links out of a directory that [`scan`] can be given as approved. Fails where one may never be followed.
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
struct Place {
    /// Its path in the shared directory.
    path: String,
    real: PathBuf,
    /// Device and inode of each directory on the way down.
    ancestors: Vec<(u64, u64)>,
    /// Whether a link led out of the shared directory on the way.
    outside: bool,
}

struct Scanner<'a, A> {
    dir: &'a Path,
    root: PathBuf,
    /// Directories of the hub's cache whose files links may lead to.
    blobs: Vec<PathBuf>,
    hub: Option<PathBuf>,
    approve: A,
    todo: Vec<Place>,
    files: Vec<ScannedFile>,
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
        let top = Place { path: String::new(), real: root.clone(), ancestors, outside: false };
        let (blobs, hub) = (blobs_of(&root), hub_cache());
        Ok(Self { dir, root, blobs, hub, approve, todo: vec![top], files: Vec::new() })
    }

    fn run(&mut self) -> Result<(), ScanError> {
        let mut dirs = 0;
        while let Some(place) = self.todo.pop() {
            dirs += 1;
            // Links that lead back and forth make a directory of any depth, and no file need be in it.
            if dirs > MAX_FILES {
                return Err(ScanError::TooMany(self.dir.to_owned()));
            }
            let entries = nofollow::read_dir(&place.real);
            let entries =
                entries.map_err(|source| ScanError::Io { path: self.dir.join(&place.path), source })?;
            for (name, kind) in entries {
                if !is_left_out(&name) {
                    self.take(&place, &name, kind.is_symlink())?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, place: &Place, name: &OsStr, link: bool) -> Result<(), ScanError> {
        let shown = self.dir.join(&place.path).join(name);
        let failed = |source| ScanError::Io { path: shown.clone(), source };
        let name = name.to_str().ok_or_else(|| ScanError::NotUtf8(shown.clone()))?;
        let path = if place.path.is_empty() { name.to_owned() } else { format!("{}/{name}", place.path) };
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
            self.todo.push(Place { path, real, ancestors, outside });
        } else if kind.is_file() {
            if self.files.len() == MAX_FILES {
                return Err(ScanError::TooMany(self.dir.to_owned()));
            }
            // Better now than after an hour of hashing.
            nofollow::read(&real).map_err(failed)?;
            self.files.push(ScannedFile { path, source: real, metadata });
        } else {
            let kind = match () {
                () if kind.is_fifo() => "named pipe",
                () if kind.is_socket() => "socket",
                () => "device",
            };
            return Err(ScanError::Special { path: shown, kind });
        }
        Ok(())
    }

    /// Why something outside the shared directory is not shared, even where the user approves of the link to it.
    fn forbids(&self, real: &Path, metadata: &Metadata) -> Option<&'static str> {
        let rest = self.hub.as_deref().and_then(|hub| real.strip_prefix(hub).ok()).unwrap_or(real);
        let hidden = |component: Component<'_>| component.as_os_str().as_encoded_bytes().starts_with(b".");
        if rest.components().any(hidden) {
            return Some("is in a hidden directory, or hidden itself");
        }
        (metadata.uid() != rustix::process::geteuid().as_raw()).then_some("belongs to another user")
    }
}

/// Where a link leads in the end.
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

/// Where links of a snapshot in a hub cache may lead: to the blobs of its repository, and to those that all repositories
/// of the cache have in common (`models--org--name/snapshots/<commit>/file -> ../../blobs/<etag> ->
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

/// The real path of this user's hub cache. Only what is below it: the directory around it holds the user's token.
fn hub_cache() -> Option<PathBuf> {
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
        scan(dir, &OutsideLinks::new()).unwrap().into_iter().map(|file| file.path).collect()
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

    fn scanned(dir: &Path) -> Result<Vec<String>, ScanError> {
        Ok(scan(dir, &OutsideLinks::new())?.into_iter().map(|file| file.path).collect())
    }

    /// A directory that is not hidden, as the usual temporary ones are.
    fn visible() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::Builder::new().prefix("scan-").tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        (dir, real)
    }

    #[test]
    fn links_are_followed_as_in_the_cache_of_the_hub() {
        let (_dir, hub) = visible();
        let repository = hub.join("models--org--name");
        for path in
            ["models--org--name/blobs/abc", "blobs/12/345", "blobs-not/x", "models--org--other/blobs/def"]
        {
            put(&hub, path);
        }
        // As huggingface_hub 2.4 has it: a blob that is a link to one that all repositories have in common.
        symlink("../../blobs/12/345", repository.join("blobs/345")).unwrap();
        let snapshot = repository.join("snapshots/1");
        fs::create_dir_all(snapshot.join("sub")).unwrap();
        symlink("../../blobs/abc", snapshot.join("model.bin")).unwrap();
        symlink("../../../blobs/345", snapshot.join("sub/shared.bin")).unwrap();
        let files = scan(&snapshot, &OutsideLinks::new()).unwrap();
        assert_eq!((files[0].path.as_str(), &files[0].source), ("model.bin", &repository.join("blobs/abc")));
        assert_eq!((files[1].path.as_str(), &files[1].source), ("sub/shared.bin", &hub.join("blobs/12/345")));
        symlink(&snapshot, hub.join("entry")).unwrap();
        assert_eq!(names(&hub.join("entry")), names(&snapshot));
        assert_eq!(names(&snapshot.join("sub")), ["shared.bin"]);
        for outside in ["blobs-not/x", "models--org--other/blobs/def"] {
            symlink(hub.join(outside), snapshot.join("x")).unwrap();
            let error = scanned(&snapshot).unwrap_err();
            assert!(matches!(&error, ScanError::Outside { link, .. } if link.ends_with("x")), "{error}");
            fs::remove_file(snapshot.join("x")).unwrap();
        }
        // Only the cache of the hub is laid out so.
        let other = hub.join("other/snapshots/1");
        put(&hub, "other/blobs/abc");
        fs::create_dir_all(&other).unwrap();
        symlink("../../blobs/abc", other.join("x")).unwrap();
        assert!(matches!(scanned(&other), Err(ScanError::Outside { .. })));
    }

    #[test]
    fn a_directory_with_every_kind_of_link() {
        let (_dir, top) = visible();
        let root = top.join("model");
        for path in
            ["model/a/file", "model/b/file", "out/file", "out/deep/file", ".ssh/id", "out/.env", "theirs"]
        {
            put(&top, path);
        }
        symlink("a/file", root.join("inside")).unwrap();
        symlink(root.join("b"), root.join("inside-dir")).unwrap();
        let inside = ["a/file", "b/file", "inside", "inside-dir/file"];
        assert_eq!(scanned(&root).unwrap(), inside);
        assert_eq!(outside_links(&root).unwrap(), OutsideLinks::new());

        let check = |link: &str, target: &str, part: &str, approved: Option<&[&str]>| {
            let at = root.join(link);
            symlink(target, &at).unwrap();
            let error = scanned(&root).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains(at.to_str().unwrap()),
                "{error} does not say {part}"
            );
            match (outside_links(&root), approved) {
                (Ok(links), Some(more)) => {
                    let found: Vec<String> =
                        scan(&root, &links).unwrap().into_iter().map(|file| file.path).collect();
                    let mut all = [&inside[..], more].concat();
                    all.sort();
                    assert_eq!(found, all, "{link}");
                }
                (Err(refused), None) => assert_eq!(refused.to_string(), error),
                (found, _) => panic!("{link}: {found:?}"),
            }
            fs::remove_file(at).unwrap();
        };
        check("x", "../out/file", "outside the shared directory", Some(&["x"]));
        check("a/x", "../../out/deep", "outside the shared directory", Some(&["a/x/file"]));
        symlink("../../out/file", root.join("b/y")).unwrap();
        symlink("b/y", root.join("chain")).unwrap();
        assert_eq!(outside_links(&root).unwrap().len(), 3, "b/y, inside-dir/y and chain");
        for link in ["b/y", "chain"] {
            fs::remove_file(root.join(link)).unwrap();
        }
        // Refused even where the user follows links.
        check("x", "../.ssh/id", "hidden", None);
        check("x", "../.ssh", "hidden", None);
        check("x", "../out/.env", "hidden", None);
        let follow = |part: &str| {
            symlink("../out", root.join("x")).unwrap();
            let error = outside_links(&root).unwrap_err().to_string();
            assert!(error.contains(part), "{error} does not say {part}");
            let approved = OutsideLinks::from([("x".to_owned(), top.join("out"))]);
            assert_eq!(scan(&root, &approved).unwrap_err().to_string(), error);
            fs::remove_file(root.join("x")).unwrap();
        };
        follow("hidden");
        std::os::unix::fs::chown(top.join("theirs"), Some(4242), Some(4242)).unwrap();
        check("x", "../theirs", "belongs to another user", None);
        fs::remove_file(top.join("out/.env")).unwrap();
        std::os::unix::fs::chown(top.join("out/deep/file"), Some(4242), Some(4242)).unwrap();
        follow("belongs to another user");
        fs::remove_file(top.join("out/deep/file")).unwrap();
        symlink(root.join("a/file"), top.join("out/deep/back")).unwrap();
        check("x", "../out", "outside the shared directory", Some(&["x/deep/back", "x/file"]));
        check("x", "nowhere", "does not exist", None);
        check("x", "x", "around it", None);
        check("a/x", "..", "around it", None);
        // Two directories that lead to each other.
        symlink("../b", root.join("a/b")).unwrap();
        symlink("../a", root.join("b/a")).unwrap();
        assert!(matches!(scanned(&root), Err(ScanError::Loop(_))));
    }

    #[test]
    fn approval_is_of_one_target() {
        let (_dir, top) = visible();
        for path in ["model/a", "one", "two"] {
            put(&top, path);
        }
        let root = top.join("model");
        symlink("../one", root.join("x")).unwrap();
        let approved = outside_links(&root).unwrap();
        assert_eq!(approved, OutsideLinks::from([("x".to_owned(), top.join("one"))]));
        assert_eq!(scan(&root, &approved).unwrap().len(), 2);
        fs::remove_file(root.join("x")).unwrap();
        symlink("../two", root.join("x")).unwrap();
        let error = scan(&root, &approved).unwrap_err();
        assert!(matches!(&error, ScanError::Outside { target, .. } if target.ends_with("two")), "{error}");
    }

    #[test]
    fn directories_that_links_multiply_are_not_read_for_ever() {
        let (_dir, top) = visible();
        // Each directory leads twice to the next: 2^40 of them, and no file.
        for level in 0..40 {
            fs::create_dir(top.join(level.to_string())).unwrap();
        }
        for level in 0..39 {
            for way in ["a", "b"] {
                symlink(format!("../{}", level + 1), top.join(level.to_string()).join(way)).unwrap();
            }
        }
        assert!(matches!(scanned(&top), Err(ScanError::TooMany(_))));
    }

    #[test]
    fn what_cannot_be_shared_is_named() {
        let check = |make: &dyn Fn(&Path), part: &str, name: &str| {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), "sub/config.json");
            make(dir.path());
            let error = scan(dir.path(), &OutsideLinks::new()).unwrap_err().to_string();
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
        assert!(matches!(scanned(dir.path()), Err(ScanError::Empty(_))));
        put(dir.path(), ".git/HEAD");
        assert!(matches!(scanned(dir.path()), Err(ScanError::Empty(_))));
        assert!(matches!(scanned(&dir.path().join(".git/HEAD")), Err(ScanError::NotADirectory(_))));
        assert!(matches!(scanned(&dir.path().join("none")), Err(ScanError::Io { .. })));
    }
}
