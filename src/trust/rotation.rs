//! Replacing this node's publisher key by a new one. Nodes that trust the former key then trust the new one.
//!
//! The former key signs a record that names the new one. The steps in `keys/`, so that a kill between any two of them
//! leaves exactly one key that signs and is trusted:
//!
//! 1. `publisher-next.key`: the new key. A key that an earlier attempt left was never published; it is used.
//! 2. `publisher-FINGERPRINT.key`: the former key, kept.
//! 3. `successions/FINGERPRINT.pending`: the record. It is not published yet.
//! 4. `publisher-next.key` becomes `publisher.key`: from now on the new key signs.
//! 5. The record becomes `successions/FINGERPRINT.record`: from now on it is published. After a kill before this step,
//!    [`complete`] does it.
//!
//! The record has the highest possible sequence. So it stays the newest record of the key whatever the key signs later, and
//! a thief of the former key cannot revoke it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{TrustError, TrustLock};
use crate::catalog::UnixTime;
use crate::catalog::record::{MAX_RECORD, Record, RecordBody, RecordError, SharedRecord, SignedRecord};
use crate::fsutil;
use crate::model::PublisherKey;
use crate::model::keys::{KeyError, PublisherKeypair};
use crate::paths::Paths;

/// The most successions that are read; more than a user makes.
const MAX_SUCCESSIONS: usize = 1000;

/// The reason why the key could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// There is no key to replace.
    #[error("there is no key at {}", .0.display())]
    NoKey(PathBuf),
    /// A key cannot be read or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The lock failed.
    #[error(transparent)]
    Lock(#[from] TrustError),
    /// The former key has named another successor already.
    #[error("the key {0} has already been replaced; it cannot be replaced a second time")]
    Replaced(String),
    /// The record cannot be signed.
    #[error("could not sign the succession: {0}")]
    Record(#[from] RecordError),
    /// A file could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The result of replacing the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key that signed so far.
    pub former: PublisherKey,
    /// The key that signs from now on.
    pub current: PublisherKey,
    /// The file with the former key.
    pub kept: PathBuf,
}

/// Makes a new key, and a record in which the former key names it as successor. Manifests signed with the former key are
/// signed again by [`finish`](crate::node::rotation::finish). Blocks.
pub fn rotate(paths: &Paths, now: UnixTime) -> Result<Rotated, RotationError> {
    let _lock = TrustLock::acquire(paths)?;
    complete_locked(paths)?;
    let own = paths.publisher_key();
    if !own.exists() {
        return Err(RotationError::NoKey(own));
    }
    let former = PublisherKeypair::load(&own)?;
    let (name, keys) = (former.public().fingerprint(), fsutil::parent(&own));
    if record(paths, &name).exists() {
        return Err(RotationError::Replaced(name));
    }
    let next = keys.join("publisher-next.key");
    let current = PublisherKeypair::load_or_create(&next)?;
    let kept = keys.join(format!("publisher-{name}.key"));
    keep(&own, &kept, &former)?;
    let succession = Record {
        publisher: former.public(),
        sequence: i64::MAX,
        time: now,
        body: RecordBody::Successor(current.public()),
    };
    let pending = pending(paths, &name);
    let bytes = SignedRecord::sign(succession, &former)?.to_bytes();
    fsutil::write_atomic(&pending, &bytes, fsutil::MODE_PRIVATE).map_err(failed(&pending))?;
    fs::rename(&next, &own).and_then(|()| fsutil::sync_dir(keys)).map_err(failed(&own))?;
    complete_locked(paths)?;
    Ok(Rotated { former: former.public(), current: current.public(), kept })
}

/// Completes a [`rotate`] that was killed, if there is one. Blocks.
pub fn complete(paths: &Paths) -> Result<(), RotationError> {
    if files(paths, "pending").is_empty() {
        return Ok(());
    }
    let _lock = TrustLock::acquire(paths)?;
    complete_locked(paths)
}

/// Publishes the pending records whose successor is the key that signs now.
fn complete_locked(paths: &Paths) -> Result<(), RotationError> {
    for path in files(paths, "pending") {
        let Some((record, RecordBody::Successor(successor))) =
            read(&path).map(|record| (record.clone(), record.record().body.clone()))
        else {
            continue;
        };
        // Before step 4 the former key still signs, and the next attempt makes a new record.
        if PublisherKeypair::load(&paths.publisher_key())?.public() == successor {
            let shown = self::record(paths, &record.record().publisher.fingerprint());
            fs::rename(&path, &shown)
                .and_then(|()| fsutil::sync_dir(&paths.successions()))
                .map_err(failed(&shown))?;
        }
    }
    Ok(())
}

/// The records in which our former keys name their successors. Logs unusable ones. Blocks.
pub fn successions(paths: &Paths) -> Vec<SharedRecord> {
    files(paths, "record").iter().filter_map(|path| read(path)).collect()
}

/// Our former keys, each with its successor.
pub fn successors(paths: &Paths) -> Vec<(PublisherKey, PublisherKey)> {
    let of = |record: SharedRecord| match record.record().body {
        RecordBody::Successor(successor) => Some((record.record().publisher, successor)),
        RecordBody::Model(_) => None,
    };
    successions(paths).into_iter().filter_map(of).collect()
}

fn record(paths: &Paths, fingerprint: &str) -> PathBuf {
    paths.successions().join(format!("{fingerprint}.record"))
}

fn pending(paths: &Paths, fingerprint: &str) -> PathBuf {
    paths.successions().join(format!("{fingerprint}.pending"))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RotationError {
    move |source| RotationError::Io { path: path.to_owned(), source }
}

/// The files of successions with this extension, sorted by name.
fn files(paths: &Paths, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(paths.successions()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).take(MAX_SUCCESSIONS).collect();
    files.sort();
    files
}

/// Reads a record that names a successor, and whose file name is the fingerprint of its key.
fn read(path: &Path) -> Option<SharedRecord> {
    let bytes = fsutil::read_capped(path, MAX_RECORD as u64).map_err(|e| e.to_string());
    let record = bytes.and_then(|bytes| SignedRecord::from_bytes(&bytes).map_err(|e| e.to_string()));
    match record {
        Ok(record)
            if matches!(record.record().body, RecordBody::Successor(_))
                && path.file_stem().is_some_and(|s| *s == *record.record().publisher.fingerprint()) =>
        {
            Some(Arc::new(record))
        }
        Ok(_) => {
            tracing::warn!(file = %path.display(), "a succession does not name a successor of its key");
            None
        }
        Err(e) => {
            tracing::warn!(file = %path.display(), error = e, "could not read a succession");
            None
        }
    }
}

/// Gives the former key's file a second name, unless an earlier attempt has done so.
fn keep(own: &Path, kept: &Path, former: &PublisherKeypair) -> Result<(), RotationError> {
    match fs::hard_link(own, kept) {
        Ok(()) => fsutil::sync_dir(fsutil::parent(kept)).map_err(failed(kept)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if PublisherKeypair::load(kept)?.public() == former.public() {
                Ok(())
            } else {
                Err(KeyError::Exists(kept.to_owned()).into())
            }
        }
        // The file system has no hard links.
        Err(_) => Ok(former.save(kept)?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    struct Base {
        _dir: tempfile::TempDir,
        paths: Paths,
    }

    fn base() -> Base {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir.path().join("base"));
        paths.create().unwrap();
        PublisherKeypair::load_or_create(&paths.publisher_key()).unwrap();
        Base { _dir: dir, paths }
    }

    fn own(paths: &Paths) -> PublisherKey {
        PublisherKeypair::load(&paths.publisher_key()).unwrap().public()
    }

    #[test]
    fn each_key_names_its_successor_and_stays_private() {
        let Base { _dir, paths } = &base();
        let first = own(paths);
        let one = rotate(paths, 1000).unwrap();
        let two = rotate(paths, 2000).unwrap();
        assert_eq!(
            (one.former, one.current, two.former, two.current),
            (first, two.former, one.current, own(paths))
        );
        for rotated in [&one, &two] {
            assert_eq!(PublisherKeypair::load(&rotated.kept).unwrap().public(), rotated.former);
            assert_eq!(rotated.kept.metadata().unwrap().mode() & 0o777, 0o600);
        }
        let mut successors = successors(paths);
        successors.sort_by_key(|(former, _)| *former != first);
        assert_eq!(successors, [(one.former, one.current), (two.former, two.current)]);
        for record in successions(paths) {
            assert_eq!(SignedRecord::from_bytes(&record.to_bytes()).as_ref(), Ok(&*record));
        }
        assert_eq!(
            fs::read_dir(paths.base.join("keys")).unwrap().count(),
            4,
            "three keys and the successions"
        );
    }

    #[test]
    fn kill_between_steps_leaves_one_trusted_key() {
        // The state after each step is made by undoing the later steps.
        for steps in 0..=5 {
            let Base { _dir, paths } = &base();
            let (first, keys) = (own(paths), paths.base.join("keys"));
            let done = rotate(paths, 1000).unwrap();
            let name = first.fingerprint();
            let next = keys.join("publisher-next.key");
            if steps < 5 {
                fs::rename(record(paths, &name), pending(paths, &name)).unwrap();
            }
            if steps < 4 {
                fs::rename(paths.publisher_key(), &next).unwrap();
                fs::hard_link(&done.kept, paths.publisher_key()).unwrap();
            }
            if steps < 3 {
                fs::remove_file(pending(paths, &name)).unwrap();
            }
            if steps < 2 {
                fs::remove_file(&done.kept).unwrap();
            }
            if steps < 1 {
                fs::remove_file(&next).unwrap();
            }
            complete(paths).unwrap();
            if steps < 4 {
                assert_eq!(own(paths), first, "step {steps}");
                assert_eq!(successors(paths), [], "step {steps}: a key that does not sign is published");
                let again = rotate(paths, 2000).unwrap();
                assert_eq!(again.former, first);
                assert_eq!(again.current == done.current, steps > 0, "step {steps}");
                assert!(!next.exists());
            }
            assert_eq!(successors(paths), [(first, own(paths))], "step {steps}");
            assert!(files(paths, "pending").is_empty(), "step {steps}");
        }
    }

    #[test]
    fn key_cannot_be_replaced_twice() {
        let Base { _dir, paths } = &base();
        let done = rotate(paths, 1000).unwrap();
        // The user restores the former key.
        fs::remove_file(paths.publisher_key()).unwrap();
        fs::copy(&done.kept, paths.publisher_key()).unwrap();
        assert!(
            matches!(rotate(paths, 2000), Err(RotationError::Replaced(name)) if name == done.former.fingerprint())
        );
        assert_eq!(successors(paths), [(done.former, done.current)]);
    }

    #[test]
    fn missing_key_is_an_error_and_foreign_files_are_ignored() {
        let Base { _dir, paths } = &base();
        let done = rotate(paths, 1000).unwrap();
        let shown = record(paths, &done.former.fingerprint());
        fs::copy(&shown, paths.successions().join("other.record")).unwrap();
        fs::write(paths.successions().join("x.record"), "nonsense").unwrap();
        fs::write(paths.successions().join("x.pending"), "nonsense").unwrap();
        assert_eq!(successors(paths).len(), 1);
        complete(paths).unwrap();
        fs::remove_file(paths.publisher_key()).unwrap();
        assert!(matches!(rotate(paths, 2000), Err(RotationError::NoKey(_))));
    }
}
