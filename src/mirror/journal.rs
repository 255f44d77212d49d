//! What a staging directory knows of the files in it, so that a later run goes on where this one was killed.
//!
//! One JSON value a line, appended. A complete file is written down, durably, before it is renamed to its place, with how it
//! looks; a record counts where a file at its place, or the part it was, still looks so. Nothing is keyed by path: after the
//! branch has moved, what is the same is kept. A last line that is torn is ignored. Opening writes the journal anew, without
//! what no longer counts.

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

/// The longest journal that is read, in bytes: the hashes of as many pieces as a torrent has, several times.
const MAX_JOURNAL: u64 = 1 << 30;
/// The longest entity tag that is remembered, in bytes.
const MAX_ETAG: usize = 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// The bytes of a part are of this state of the server's.
    Part {
        /// Which part.
        identity: Identity,
        /// The entity tag.
        etag: String,
    },
    /// A file is complete.
    File(Complete),
}

/// A complete file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Complete {
    /// What it is.
    pub identity: Identity,
    /// Where it stands, relative to the staging directory.
    pub at: String,
    /// SHA-256 of its bytes.
    pub sha256: Sha256Digest,
    /// Its merkle root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces_root: Option<PiecesRoot>,
    /// The hashes of its pieces, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    layer: String,
    /// How it looks.
    pub stamp: Stamp,
}

impl Complete {
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

    /// Its hashes, given how it looks now.
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

/// Reads lines; what is no event, as a torn last line, is passed over.
pub(super) fn parse(bytes: &[u8]) -> impl Iterator<Item = Event> {
    bytes.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("events are plain data");
    line.push(b'\n');
    line
}

/// The journal of a staging directory.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
}

/// What a journal says that still counts.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Complete files, by identity: where they are, and their hashes.
    pub files: HashMap<Identity, Vec<(PathBuf, FileHashes)>>,
    /// Entity tags of parts.
    pub etags: HashMap<Identity, String>,
}

impl Journal {
    /// Reads the journal of a staging directory and begins it anew with what counts.
    pub fn open(staging: &Path) -> io::Result<(Self, Known)> {
        let path = staging.join("journal");
        let bytes = match nofollow::read_capped(&path, MAX_JOURNAL) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut known = Known::default();
        let mut kept = Vec::new();
        for event in parse(&bytes) {
            match &event {
                Event::Part { identity, etag } => {
                    known.etags.insert(*identity, etag.clone());
                    continue;
                }
                Event::File(complete) => {
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
            kept.extend(line(&Event::Part { identity: *identity, etag: etag.clone() }));
        }
        nofollow::write_atomic(&path, &kept, fsutil::MODE_PRIVATE)?;
        let file = nofollow::open(&path, OFlags::WRONLY | OFlags::APPEND, 0)?;
        Ok((Self { file, path }, known))
    }

    /// Writes down that a file is complete; on the disk when this returns.
    pub fn complete(&self, complete: Complete) -> io::Result<()> {
        (&self.file).write_all(&line(&Event::File(complete)))?;
        self.file.sync_data()
    }

    /// Writes down the state of which a part is.
    pub fn part(&self, identity: Identity, etag: &str) -> io::Result<()> {
        if etag.len() > MAX_ETAG {
            return Ok(());
        }
        (&self.file).write_all(&line(&Event::Part { identity, etag: etag.to_owned() }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Where a part is collected.
pub(super) fn part_path(staging: &Path, identity: &Identity) -> PathBuf {
    staging.join("parts").join(identity.to_string())
}

/// The complete file of a record: at its place, or still where it was collected.
fn find(staging: &Path, complete: &Complete) -> Option<(PathBuf, FileHashes)> {
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

    fn put(staging: &Path, at: &str, bytes: &[u8]) -> (Complete, FileHashes) {
        let path = staging.join(at);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let mut hasher = FileHasher::new(16384);
        hasher.update(bytes);
        let hashes = hasher.finish(fs::metadata(&path).unwrap());
        (Complete::new(Identity::Git(GitOid::of_blob(bytes)), at.to_owned(), &hashes), hashes)
    }

    #[test]
    fn what_still_looks_as_it_did_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let (complete, hashes) = put(dir.path(), "tree/a/x", &[7; 40_000]);
        let (changed, _) = put(dir.path(), "tree/y", b"y");
        let (in_parts, _) = put(dir.path(), "tree/z", b"z");
        let (journal, known) = Journal::open(dir.path()).unwrap();
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
            let (_, known) = Journal::open(dir.path()).unwrap();
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
    fn no_record_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (mut complete, _) = put(dir.path(), "outside", b"x");
        let staging = dir.path().join("staging");
        fs::create_dir(&staging).unwrap();
        complete.at = "../outside".to_owned();
        assert!(find(&staging, &complete).is_none());
    }

    proptest! {
        #[test]
        fn a_torn_journal_loses_its_torn_line_alone(oids: Vec<[u8; 20]>, etag in ".{0,20}", cut in 0..60usize) {
            let events: Vec<Event> = oids.into_iter().map(|oid| Event::Part { identity: Identity::Git(GitOid(oid)), etag: etag.clone() }).collect();
            let lines: Vec<Vec<u8>> = events.iter().map(line).collect();
            let mut bytes = lines.concat();
            prop_assert_eq!(parse(&bytes).collect::<Vec<_>>(), events.clone());
            let last = lines.last().map_or(0, Vec::len);
            bytes.truncate(bytes.len() - cut.min(last));
            let left = parse(&bytes).collect::<Vec<_>>();
            prop_assert!(left.len() + 1 >= events.len() && events.starts_with(&left));
        }

        #[test]
        fn any_bytes_can_be_looked_at(bytes: Vec<u8>) {
            let _ = parse(&bytes).count();
        }
    }
}
