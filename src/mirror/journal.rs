//! The journal of a staging directory, with which a later run resumes after this one was killed.
//!
//! It has one JSON value per line and is only appended to. A complete file is recorded durably, with its stamp, before it
//! is renamed to its path. A record is valid while the file at its path, or the part that it was, still has this stamp. No
//! record is keyed by path, so that equal files are kept after the branch has moved. An incomplete last line is ignored.
//! Opening rewrites the journal without invalid records.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::Identity;
use crate::model::hash::FileHashes;
use crate::model::merkle::Hash;
use crate::model::{PiecesRoot, Sha256Digest};
use crate::store::Stamp;
use crate::{fsutil, nofollow};

/// Longest journal that is read, in bytes. It has room for all piece hashes of the largest torrent, several times.
const MAX_JOURNAL: u64 = 1 << 30;
/// Longest entity tag that is recorded, in bytes.
const MAX_ETAG: usize = 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JournalEntry {
    /// The entity tag with which the server sent the bytes of a part.
    Part { identity: Identity, etag: String },
    /// A file is complete.
    File(CompleteFile),
}

/// A complete file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CompleteFile {
    pub identity: Identity,
    /// The path, relative to the staging directory.
    pub at: String,
    pub sha256: Sha256Digest,
    /// The merkle root; none for an empty file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces_root: Option<PiecesRoot>,
    /// The hashes of the pieces, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    layer: String,
    pub stamp: Stamp,
}

impl CompleteFile {
    pub fn new(identity: Identity, at: String, hashes: &FileHashes) -> Self {
        Self {
            identity,
            at,
            sha256: hashes.sha256,
            pieces_root: hashes.pieces_root,
            layer: STANDARD.encode(hashes.layer.concat()),
            stamp: Stamp::of(&hashes.metadata),
        }
    }

    /// The recorded hashes, together with the current metadata of the file. None if the record is invalid.
    pub fn hashes(&self, metadata: Metadata) -> Option<FileHashes> {
        let bytes = STANDARD.decode(&self.layer).ok()?;
        let (layer, rest) = bytes.as_chunks::<{ size_of::<Hash>() }>();
        let (sha256, pieces_root) = (self.sha256, self.pieces_root);
        rest.is_empty().then(|| FileHashes {
            sha256,
            pieces_root,
            layer: layer.to_vec(),
            granules: Vec::new(),
            metadata,
        })
    }
}

/// Parses lines. A line that cannot be parsed, such as an incomplete last line, is skipped.
pub(super) fn parse(bytes: &[u8]) -> impl Iterator<Item = JournalEntry> {
    bytes.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

fn line(event: &JournalEntry) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("events are plain data");
    line.push(b'\n');
    line
}

/// The journal of a staging directory.
#[derive(Debug)]
pub(super) struct StagingJournal {
    file: File,
    path: PathBuf,
}

/// The valid records of a journal.
#[derive(Debug, Default)]
pub(super) struct JournalContent {
    /// Complete files by identity, each with its path and hashes.
    pub files: HashMap<Identity, Vec<(PathBuf, FileHashes)>>,
    /// Entity tags of parts.
    pub etags: HashMap<Identity, String>,
}

impl StagingJournal {
    /// Reads the journal of a staging directory, and rewrites it with the valid records only.
    pub fn open(staging: &Path) -> io::Result<(Self, JournalContent)> {
        let path = staging.join("journal");
        let bytes = match nofollow::read_capped(&path, MAX_JOURNAL) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut known = JournalContent::default();
        let mut kept = Vec::new();
        for event in parse(&bytes) {
            match &event {
                JournalEntry::Part { identity, etag } => {
                    known.etags.insert(*identity, etag.clone());
                    continue;
                }
                JournalEntry::File(complete) => {
                    let Some((place, hashes)) = find(staging, complete) else { continue };
                    let places = known.files.entry(complete.identity).or_default();
                    if !places.iter().any(|(known, _)| *known == place) {
                        places.push((place, hashes));
                    }
                }
            }
            kept.extend(line(&event));
        }
        known.etags.retain(|identity, _| nofollow::exists(&part_path(staging, identity)));
        for (identity, etag) in &known.etags {
            kept.extend(line(&JournalEntry::Part { identity: *identity, etag: etag.clone() }));
        }
        nofollow::write_atomic(&path, &kept, fsutil::MODE_PRIVATE)?;
        let file = nofollow::open(&path, OFlags::WRONLY | OFlags::APPEND, 0)?;
        Ok((Self { file, path }, known))
    }

    /// Records that a file is complete. The record is on the disk when this returns.
    pub fn complete(&self, complete: CompleteFile) -> io::Result<()> {
        (&self.file).write_all(&line(&JournalEntry::File(complete)))?;
        self.file.sync_data()
    }

    /// Records the entity tag of a part.
    pub fn part(&self, identity: Identity, etag: &str) -> io::Result<()> {
        if etag.len() > MAX_ETAG {
            return Ok(());
        }
        (&self.file).write_all(&line(&JournalEntry::Part { identity, etag: etag.to_owned() }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The path of the part of a file that is incomplete.
pub(super) fn part_path(staging: &Path, identity: &Identity) -> PathBuf {
    staging.join("parts").join(identity.to_string())
}

/// Finds the complete file of a record: at its path, or still at the path of the part.
fn find(staging: &Path, complete: &CompleteFile) -> Option<(PathBuf, FileHashes)> {
    let sound = complete.at.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let places = [staging.join(&complete.at), part_path(staging, &complete.identity)];
    places.into_iter().filter(|_| sound).find_map(|place| {
        let metadata = nofollow::metadata(&place).ok().filter(Metadata::is_file)?;
        (Stamp::of(&metadata) == complete.stamp).then(|| Some((place, complete.hashes(metadata)?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::GitOid;
    use crate::model::hash::FileHasher;
    use proptest::prelude::*;
    use std::fs;

    fn put(staging: &Path, at: &str, bytes: &[u8]) -> (CompleteFile, FileHashes) {
        let path = staging.join(at);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let mut hasher = FileHasher::new(16384);
        hasher.update(bytes);
        let hashes = hasher.finish(fs::metadata(&path).unwrap());
        (CompleteFile::new(Identity::Git(GitOid::of_blob(bytes)), at.to_owned(), &hashes), hashes)
    }

    #[test]
    fn unchanged_files_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (complete, hashes) = put(dir.path(), "tree/a/x", &[7; 40_000]);
        let (changed, _) = put(dir.path(), "tree/y", b"y");
        let (in_parts, _) = put(dir.path(), "tree/z", b"z");
        let (journal, known) = StagingJournal::open(dir.path()).unwrap();
        assert!(known.files.is_empty());
        for file in [&complete, &changed, &in_parts] {
            journal.complete(file.clone()).unwrap();
        }
        let part = Identity::Lfs(Sha256Digest([1; 32]));
        journal.part(part, "\"tag\"").unwrap();
        fs::write(dir.path().join("tree/y"), b"other").unwrap();
        // Killed before the rename.
        fs::create_dir_all(dir.path().join("parts")).unwrap();
        fs::rename(dir.path().join("tree/z"), part_path(dir.path(), &in_parts.identity)).unwrap();
        fs::write(part_path(dir.path(), &part), b"part").unwrap();
        let mut bytes = fs::read(journal.path()).unwrap();
        bytes.extend_from_slice(b"{\"file\":{\"identity\":{\"git\":\"12");
        fs::write(journal.path(), bytes).unwrap();
        for _ in 0..2 {
            let (_, known) = StagingJournal::open(dir.path()).unwrap();
            assert_eq!(known.files.len(), 2);
            let (place, found) = &known.files[&complete.identity][0];
            assert_eq!(*place, dir.path().join("tree/a/x"));
            assert_eq!((found.sha256, found.pieces_root), (hashes.sha256, hashes.pieces_root));
            assert_eq!(found.layer, hashes.layer);
            assert_eq!(known.files[&in_parts.identity][0].0, part_path(dir.path(), &in_parts.identity));
            assert_eq!(known.etags, HashMap::from([(part, "\"tag\"".to_owned())]));
        }
    }

    #[test]
    fn records_outside_the_directory_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let (mut complete, _) = put(dir.path(), "outside", b"x");
        let staging = dir.path().join("staging");
        fs::create_dir(&staging).unwrap();
        complete.at = "../outside".to_owned();
        assert!(find(&staging, &complete).is_none());
    }

    proptest! {
        #[test]
        fn truncated_journal_loses_only_its_last_line(oids: Vec<[u8; 20]>, etag in ".{0,20}", cut in 0..60usize) {
            let events: Vec<JournalEntry> = oids.into_iter().map(|oid| JournalEntry::Part { identity: Identity::Git(GitOid(oid)), etag: etag.clone() }).collect();
            let lines: Vec<Vec<u8>> = events.iter().map(line).collect();
            let mut bytes = lines.concat();
            prop_assert_eq!(parse(&bytes).collect::<Vec<_>>(), events.clone());
            let last = lines.last().map_or(0, Vec::len);
            bytes.truncate(bytes.len() - cut.min(last));
            let left = parse(&bytes).collect::<Vec<_>>();
            prop_assert!(left.len() + 1 >= events.len() && events.starts_with(&left));
        }

        #[test]
        fn any_bytes_can_be_parsed(bytes: Vec<u8>) {
            let _ = parse(&bytes).count();
        }
    }
}
