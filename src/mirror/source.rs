//! The common interface of hubs and git servers: a commit, its files, and the bytes of each file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use super::limits::DownloadPermit;
use super::{GitOid, Identity};
use super::{MirrorError, blocking};
use crate::http;
use crate::model::files::{FilesError, MAX_FILES, MAX_TOTAL};
use crate::model::manifest::SourceEntry as ManifestSource;
use crate::model::path::{self, PathProblem};
use crate::model::text::{clean, listed};
use crate::model::{ModelName, Pointer, scan};

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// The relative path, which is checked.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// The hash of the bytes.
    pub identity: Identity,
    /// The blob in the commit; for a file in LFS, the blob of its pointer.
    pub blob: GitOid,
    /// Whether git has it as executable. Always false for the hub, which does not report it.
    pub executable: bool,
}

impl RemoteFile {
    /// The pointer of a file in LFS.
    pub fn pointer(&self) -> Option<Pointer> {
        match self.identity {
            Identity::Lfs(sha256) => Some(Pointer { sha256, size: self.size }),
            Identity::Git(_) => None,
        }
    }
}

/// One commit.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The identifier of the commit.
    pub commit: GitOid,
    /// The files in canonical order, without duplicates.
    pub files: Vec<RemoteFile>,
    /// Whether users must accept conditions to read the repository.
    pub gated: bool,
    /// Whether only certain users can read the repository; none if it is unknown.
    pub private: Option<bool>,
    /// The licence that the hub reports.
    pub license: Option<String>,
    /// Warnings for the user, such as files that are left out.
    pub warnings: Vec<String>,
}

/// Bytes per read of a local file.
const CHUNK: usize = 1 << 20;

/// The bytes of a file, read in chunks.
pub enum FileBody {
    /// From the network.
    Http(Box<http::Body>),
    /// All bytes, in memory.
    Whole(Option<Bytes>),
    /// From a local file.
    Local(LocalBody),
    /// The bytes of a test, then an optional error.
    #[cfg(test)]
    Scripted(Option<Bytes>, Option<MirrorError>),
}

/// A local file that is read in chunks.
pub struct LocalBody {
    file: Arc<File>,
    path: PathBuf,
    at: u64,
}

impl LocalBody {
    async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        let (file, at) = (self.file.clone(), self.at);
        let read = move || -> io::Result<Vec<u8>> {
            let mut buffer = vec![0; CHUNK];
            let len = file.read_at(&mut buffer, at)?;
            buffer.truncate(len);
            Ok(buffer)
        };
        let bytes = blocking::run(move |_| read()).await?.map_err(MirrorError::io(&self.path))?;
        self.at += bytes.len() as u64;
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }
}

impl FileBody {
    /// A local file from an offset on.
    pub(super) fn local(file: File, path: PathBuf, from: u64) -> Self {
        Self::Local(LocalBody { file: Arc::new(file), path, at: from })
    }

    /// The bytes as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, MirrorError>> + Send + 'static {
        let next = async |body: Option<Self>| {
            let mut body = body?;
            match body.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        };
        stream::unfold(Some(self), next)
    }

    /// The next bytes; none at the end. Waits at most as long as HTTP does.
    pub async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        match self {
            Self::Http(body) => Ok(body.next().await?),
            Self::Local(body) => body.next().await,
            #[cfg(test)]
            Self::Scripted(bytes, error) => match bytes.take().filter(|bytes| !bytes.is_empty()) {
                None => error.take().map_or(Ok(None), Err),
                some => Ok(some),
            },
            Self::Whole(bytes) => Ok(bytes.take().filter(|bytes| !bytes.is_empty())),
        }
    }
}

impl OpenedFile {
    /// The bytes from an offset on. Fails if the source sends the file from its start and more than `max_skipped` bytes would
    /// be discarded.
    pub fn from(
        self,
        offset: u64,
        max_skipped: u64,
    ) -> Option<BoxStream<'static, Result<Bytes, MirrorError>>> {
        let skip = offset.checked_sub(self.from).filter(|skip| *skip <= max_skipped)?;
        let mut skip = skip;
        let cut = move |mut bytes: Bytes| {
            let cut = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            let _ = bytes.split_to(cut);
            skip -= cut as u64;
            bytes
        };
        Some(self.body.into_stream().map_ok(cut).boxed())
    }
}

/// A file that the source is sending.
pub struct OpenedFile {
    /// Offset of the first byte: the requested offset, or 0 if the server sends the whole file.
    pub from: u64,
    /// The entity tag of the file, for resuming.
    pub etag: Option<String>,
    /// The bytes up to the end of the file.
    pub body: FileBody,
}

/// A repository from which files are read.
pub trait RepositorySource: Send + Sync {
    /// Fixes the commit, then lists its files. All other methods use this commit.
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, MirrorError>>;

    /// Opens a file from an offset on. `etag` is the entity tag of the bytes before the offset.
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        from: u64,
        etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<OpenedFile, MirrorError>>;

    /// Opens bytes of a file. The response may have more bytes after the range.
    fn open_range<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<OpenedFile, MirrorError>> {
        self.open(file, range.start, None)
    }

    /// Whether several ranges of one file may be requested at the same time.
    fn sends_ranges(&self) -> bool {
        false
    }

    /// Waits until one more range may be requested; the permit is held until it is received.
    fn permit(&self) -> BoxFuture<'_, Option<DownloadPermit>> {
        Box::pin(std::future::ready(None))
    }

    /// The bytes of an LFS pointer in the commit; none if this source does not have them.
    fn pointer<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, Result<Option<Vec<u8>>, MirrorError>>;

    /// The source that the manifest names, without secrets.
    fn describe(&self, commit: GitOid) -> ManifestSource;

    /// The name that a hub uses for the repository, once it has described it: it differs from the requested one after a
    /// renaming, and in the case of letters.
    fn canonical_name(&self) -> Option<&ModelName> {
        None
    }

    /// The address below which HTTP serves the files of the commit unchanged; none if there is no such address.
    fn web_seed(&self, commit: GitOid) -> Option<String>;
}

/// Whether files with this path are never shared.
fn is_left_out(path: &str) -> bool {
    let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
    scan::is_left_out(name, false) || dirs.split('/').any(|dir| scan::is_left_out(dir, true))
}

/// Collects and checks the files that a server lists.
pub(super) struct Listing {
    repository: String,
    files: Vec<RemoteFile>,
    total: u64,
    left_out: Vec<String>,
    links: Vec<String>,
    submodules: Vec<String>,
}

impl Listing {
    pub fn new(repository: String) -> Self {
        Self { repository, files: vec![], total: 0, left_out: vec![], links: vec![], submodules: vec![] }
    }

    fn refused(&self, reason: String) -> MirrorError {
        MirrorError::Refused { repository: self.repository.clone(), reason }
    }

    fn files_error(&self, source: FilesError) -> MirrorError {
        MirrorError::Files { repository: self.repository.clone(), source }
    }

    /// Adds a file, or leaves it out if files with this name are never shared.
    pub fn add(&mut self, file: RemoteFile) -> Result<(), MirrorError> {
        let parts = || file.path.split('/');
        if parts().any(|part| part.eq_ignore_ascii_case(".git")) {
            let path: String = clean(&file.path).chars().take(120).collect();
            return Err(self.refused(format!("it has {path:?}, which would be part of a git directory")));
        }
        match path::check_path(&file.path) {
            Err(error) if error.why == PathProblem::Reserved => {
                self.left_out.push(file.path);
                return self.bounded(self.left_out.len());
            }
            Err(source) => return Err(MirrorError::Path { repository: self.repository.clone(), source }),
            Ok(()) if is_left_out(&file.path) => {
                self.left_out.push(file.path);
                return self.bounded(self.left_out.len());
            }
            Ok(()) => {}
        }
        self.total = (self.total.checked_add(file.size))
            .filter(|&total| total <= MAX_TOTAL)
            .ok_or_else(|| self.files_error(FilesError::TooLarge))?;
        self.files.push(file);
        self.bounded(self.files.len())
    }

    /// Adds a symbolic link as a file that contains the target.
    pub fn add_link(&mut self, file: RemoteFile) -> Result<(), MirrorError> {
        self.links.push(file.path.clone());
        self.add(file)
    }

    /// Records a submodule, which is left out.
    pub fn submodule(&mut self, path: &str) -> Result<(), MirrorError> {
        self.submodules.push(path.to_owned());
        self.bounded(self.submodules.len())
    }

    fn bounded(&self, count: usize) -> Result<(), MirrorError> {
        if count > MAX_FILES { Err(self.files_error(FilesError::TooMany(count))) } else { Ok(()) }
    }

    /// Returns the files in canonical order, and warnings.
    pub fn finish(mut self) -> Result<(Vec<RemoteFile>, Vec<String>), MirrorError> {
        self.files.sort_by(|a, b| path::compare(&a.path, &b.path));
        path::check_sorted(self.files.iter().map(|file| file.path.as_str()))
            .map_err(|source| MirrorError::Path { repository: self.repository.clone(), source })?;
        if self.files.is_empty() {
            return Err(self.files_error(FilesError::Empty));
        }
        if self.total == 0 {
            return Err(self.files_error(FilesError::NoBytes));
        }
        let mut warnings = Vec::new();
        for (names, what) in [
            (&self.left_out, "left out, because files with these names are never shared"),
            (&self.links, "symbolic links, stored as files that contain the target"),
            (&self.submodules, "submodules, which are left out"),
        ] {
            if !names.is_empty() {
                let names: Vec<String> = names.iter().map(|name| clean(name)).collect();
                warnings.push(format!("{}: {what}", listed(&names)));
            }
        }
        Ok((self.files, warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> RemoteFile {
        let blob = GitOid::of_blob(path.as_bytes());
        RemoteFile { path: path.to_owned(), size, identity: Identity::Git(blob), blob, executable: false }
    }

    fn list(paths: &[&str]) -> Result<(Vec<String>, Vec<String>), MirrorError> {
        let mut listing = Listing::new("R".to_owned());
        paths.iter().try_for_each(|path| listing.add(file(path, 1)))?;
        let (files, warnings) = listing.finish()?;
        Ok((files.into_iter().map(|file| file.path).collect(), warnings))
    }

    #[test]
    fn files_that_are_never_shared_are_left_out() {
        let (files, warnings) =
            list(&["b", "a/x", ".cache/y", "a.z", "sub/.silmaril.json", "m.bin.incomplete", ".hfd/z", ".mv"])
                .unwrap();
        assert_eq!(files, ["a/x", "a.z", "b"], "in canonical order");
        assert!(
            warnings[0].starts_with(".cache/y, sub/.silmaril.json, m.bin.incomplete, .hfd/z, .mv: left out"),
            "{warnings:?}"
        );
    }

    #[test]
    fn hostile_lists_are_refused() {
        for paths in [
            &["../x"][..],
            &["/etc/passwd"],
            &["a", "a"],
            &["a", "a/b"],
            &["a\\b"],
            &["a\u{1b}[31m"],
            &["a//b"],
        ] {
            let error = list(paths).unwrap_err();
            assert!(matches!(error, MirrorError::Path { .. }), "{paths:?}: {error}");
            assert!(error.to_string().starts_with("R cannot be mirrored"), "{error}");
        }
        for paths in [&[".git/config"][..], &["sub/.GIT/hooks/x"]] {
            assert!(matches!(list(paths), Err(MirrorError::Refused { .. })), "{paths:?}");
        }
        assert!(matches!(list(&[]), Err(MirrorError::Files { source: FilesError::Empty, .. })));
        let mut empty = Listing::new("R".to_owned());
        empty.add(file("a", 0)).unwrap();
        assert!(matches!(empty.finish(), Err(MirrorError::Files { source: FilesError::NoBytes, .. })));
        let mut listing = Listing::new("R".to_owned());
        listing.add(file("a", MAX_TOTAL)).unwrap();
        let error = listing.add(file("b", 1)).unwrap_err();
        assert!(matches!(error, MirrorError::Files { source: FilesError::TooLarge, .. }), "{error}");
    }

    #[test]
    fn links_and_submodules_give_warnings() {
        let mut listing = Listing::new("R".to_owned());
        listing.add_link(file("link", 4)).unwrap();
        listing.submodule("vendor/x").unwrap();
        let (files, warnings) = listing.finish().unwrap();
        assert_eq!(files.len(), 1);
        assert!(
            warnings[0].starts_with("link: symbolic links")
                && warnings[1].starts_with("vendor/x: submodules")
        );
    }
}
