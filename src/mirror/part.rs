//! A file that is being received: written and hashed in one pass, and checked against the listed hash at the end.
//!
//! All functions block and run on threads for blocking work.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::fs::OFlags;

use super::Identity;
use crate::model::hash::{FileHasher, FileHashes};
use crate::model::identity::BlobHasher;
use crate::{fsutil, nofollow};

/// Bytes per read when an existing part is hashed.
const CHUNK: usize = 1 << 20;

/// Bytes were not accepted.
#[derive(Debug)]
pub(super) enum PartError {
    /// The disk failed.
    Io(io::Error),
    /// The bytes do not match the length or the hash of the file.
    Damaged(String),
}

impl From<io::Error> for PartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An incomplete file.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    identity: Identity,
    size: u64,
    piece_length: u32,
    hasher: FileHasher,
    blob: Option<BlobHasher>,
}

impl Part {
    /// Opens the part of a file of `size` bytes at `path`, and hashes its present bytes. Fails if `cancel` is set meanwhile.
    pub fn open(
        path: &Path,
        identity: Identity,
        size: u64,
        piece_length: u32,
        cancel: &AtomicBool,
    ) -> io::Result<Self> {
        nofollow::create_dir_all(fsutil::parent(path))?;
        let file = create(path)?;
        let mut part = Self {
            file,
            path: path.to_owned(),
            identity,
            size,
            piece_length,
            hasher: FileHasher::new(piece_length),
            blob: None,
        };
        part.reset_hashers();
        if part.file.metadata()?.len() > size {
            part.start_over()?;
        }
        let mut buffer = vec![0; usize::try_from(size.min(CHUNK as u64)).unwrap_or(CHUNK)];
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("cancelled"));
            }
            match part.file.read(&mut buffer) {
                Ok(0) => return Ok(part),
                Ok(len) => part.hash(&buffer[..len]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn reset_hashers(&mut self) {
        self.hasher = FileHasher::new(self.piece_length);
        self.blob = matches!(self.identity, Identity::Git(_)).then(|| BlobHasher::new(self.size));
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some(blob) = &mut self.blob {
            blob.update(bytes);
        }
    }

    /// Number of received bytes.
    pub fn len(&self) -> u64 {
        self.hasher.len()
    }

    /// Whether all bytes are received. They are not verified yet.
    pub fn is_full(&self) -> bool {
        self.len() == self.size
    }

    /// Discards all bytes. A new file replaces the old one, because a copy may share the old one's inode.
    pub fn start_over(&mut self) -> io::Result<()> {
        nofollow::remove_if_there(&self.path)?;
        self.file = create(&self.path)?;
        self.reset_hashers();
        Ok(())
    }

    /// Writes and hashes the next bytes.
    pub fn write(&mut self, buffers: &[Bytes]) -> Result<(), PartError> {
        for bytes in buffers {
            if bytes.len() as u64 > self.size - self.len() {
                return Err(PartError::Damaged(format!("more than {} bytes", self.size)));
            }
            self.file.write_all(bytes)?;
            self.hash(bytes);
        }
        Ok(())
    }

    /// Syncs the file to the disk and verifies its hash. `mode` is restricted by the umask.
    pub fn finish(self, mode: u32) -> Result<FileHashes, PartError> {
        let metadata = self.seal(mode)?;
        let found = self.blob.map(BlobHasher::finish);
        let hashes = self.hasher.finish(metadata);
        let (expected, found) = match self.identity {
            Identity::Lfs(sha256) => (sha256.to_string(), hashes.sha256.to_string()),
            Identity::Git(oid) => (oid.to_string(), found.map(|oid| oid.to_string()).unwrap_or_default()),
        };
        if expected != found {
            return Err(PartError::Damaged(format!("{found} instead of {expected}")));
        }
        Ok(hashes)
    }

    fn seal(&self, mode: u32) -> io::Result<Metadata> {
        self.file.set_permissions(Permissions::from_mode(mode & !fsutil::umask()))?;
        self.file.sync_all()?;
        self.file.metadata()
    }
}

fn create(path: &Path) -> io::Result<File> {
    nofollow::open(path, OFlags::RDWR | OFlags::CREATE, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::GitOid;
    use crate::model::Sha256Digest;
    use sha2::{Digest as _, Sha256};
    use std::fs;

    static NEVER: AtomicBool = AtomicBool::new(false);

    fn identities(bytes: &[u8]) -> [Identity; 2] {
        [Identity::Lfs(Sha256Digest(Sha256::digest(bytes).into())), Identity::Git(GitOid::of_blob(bytes))]
    }

    #[test]
    fn reopened_part_continues_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        for identity in identities(&bytes) {
            let path = dir.path().join(identity.to_string());
            let open = || Part::open(&path, identity, 100_000, 16384, &NEVER).unwrap();
            let mut part = open();
            part.write(&[Bytes::copy_from_slice(&bytes[..30_001])]).unwrap();
            drop(part);
            let mut part = open();
            assert_eq!((part.len(), part.is_full()), (30_001, false));
            part.write(&[
                Bytes::copy_from_slice(&bytes[30_001..50_000]),
                Bytes::copy_from_slice(&bytes[50_000..]),
            ])
            .unwrap();
            assert!(matches!(part.write(&[Bytes::from_static(b"x")]), Err(PartError::Damaged(_))));
            let hashes = part.finish(0o666).unwrap();
            assert_eq!(hashes.sha256.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
            assert!(hashes.hold_for(&fs::metadata(&path).unwrap(), 16384));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn wrong_bytes_are_never_complete() {
        let dir = tempfile::tempdir().unwrap();
        for identity in identities(b"right") {
            let path = dir.path().join(identity.to_string());
            let mut part = Part::open(&path, identity, 5, 16384, &NEVER).unwrap();
            part.write(&[Bytes::from_static(b"wrong")]).unwrap();
            assert!(part.is_full());
            let error = part.finish(0o666).unwrap_err();
            assert!(matches!(&error, PartError::Damaged(why) if why.contains(" instead of ")), "{error:?}");
            let mut part = Part::open(&path, identity, 5, 16384, &NEVER).unwrap();
            part.start_over().unwrap();
            part.write(&[Bytes::from_static(b"rig")]).unwrap();
            part.start_over().unwrap();
            part.write(&[Bytes::from_static(b"right")]).unwrap();
            part.finish(0o666).unwrap();
        }
        // A part that is longer than the file is discarded.
        let path = dir.path().join("long");
        fs::write(&path, b"longer than it").unwrap();
        assert_eq!(Part::open(&path, identities(b"")[0], 0, 16384, &NEVER).unwrap().len(), 0);
    }
}
