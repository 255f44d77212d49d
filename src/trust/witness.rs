//! Compares manifests with the listing of the hub, which is the witness. Uses no network.
//!
//! The hub lists the path, the length and a hash of each file of a commit. A manifest that states this commit is compared with
//! the list. The list has no pieces roots, so equal lists do not show that a pieces root is right: [`stretch`] finds the bytes
//! that decide between two manifests.

pub(crate) mod stretch;

use std::cmp::Ordering;

use crate::model::path;
use crate::model::{FileEntry, Identity, Manifest, Sha256Digest};

/// A file as the hub lists it.
#[derive(Debug, Clone, Copy)]
pub struct ListedFile<'a> {
    /// The relative path.
    pub path: &'a str,
    /// Length in bytes.
    pub size: u64,
    /// The hash that the hub lists.
    pub identity: Identity,
}

/// The first difference between a manifest and the hub, as users read it behind the name of the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The commit has no such file.
    #[error("{path} is in the manifest, and the hub does not list it in this commit")]
    NotListed {
        /// The path.
        path: String,
    },
    /// The manifest has no such file.
    #[error("{path} is listed by the hub in this commit, and is not in the manifest")]
    Missing {
        /// The path.
        path: String,
    },
    /// The lengths differ.
    #[error("{path} has {stated} bytes in the manifest and {listed} at the hub")]
    Size {
        /// The path.
        path: String,
        /// Length in the manifest.
        stated: u64,
        /// Length at the hub.
        listed: u64,
    },
    /// The SHA-256 differ.
    #[error("{path} has the SHA-256 {stated} in the manifest and {listed} at the hub")]
    Sha256 {
        /// The path.
        path: String,
        /// In the manifest.
        stated: Sha256Digest,
        /// At the hub.
        listed: Sha256Digest,
    },
    /// Bytes from the hub do not have the hash of the manifest.
    #[error("the bytes of {path} at the hub, from {from} to {to}, do not have the hash of the manifest")]
    Bytes {
        /// The path.
        path: String,
        /// Offset of the first byte.
        from: u64,
        /// Offset behind the last byte.
        to: u64,
    },
}

/// Compares the files of a manifest with the files that the hub lists for its commit, both in canonical order. A file without a
/// SHA-256 on one of the two sides agrees if its length does.
pub fn compare<'a>(
    manifest: &Manifest,
    listed: impl IntoIterator<Item = ListedFile<'a>>,
) -> Result<(), Difference> {
    let mut stated = manifest.files.iter().peekable();
    let mut listed = listed.into_iter().peekable();
    loop {
        let order = match (stated.peek(), listed.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(file), Some(other)) => path::compare(&file.path, other.path),
        };
        match order {
            Ordering::Equal => {
                if let (Some(file), Some(other)) = (stated.next(), listed.next()) {
                    compare_file(file, &other)?;
                }
            }
            Ordering::Less => {
                let path = stated.next().map(|file| file.path.clone()).unwrap_or_default();
                return Err(Difference::NotListed { path });
            }
            Ordering::Greater => {
                let path = listed.next().map(|file| file.path.to_owned()).unwrap_or_default();
                return Err(Difference::Missing { path });
            }
        }
    }
}

fn compare_file(file: &FileEntry, listed: &ListedFile<'_>) -> Result<(), Difference> {
    let path = || file.path.clone();
    if file.size != listed.size {
        return Err(Difference::Size { path: path(), stated: file.size, listed: listed.size });
    }
    match (file.sha256, listed.identity) {
        (Some(stated), Identity::Lfs(listed)) if stated != listed => {
            Err(Difference::Sha256 { path: path(), stated, listed })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GitOid, PiecesRoot, Revision};

    fn manifest(files: &[(&str, u64, Option<u8>)]) -> Manifest {
        let entry = |&(path, size, sha): &(&str, u64, Option<u8>)| {
            let root = (size > 0).then_some(PiecesRoot([size as u8; 32]));
            FileEntry::new(path, size, sha.map(|byte| Sha256Digest([byte; 32])), root)
        };
        let entries = files.iter().map(entry).collect();
        Manifest::new("acme/m".parse().unwrap(), Revision::default(), 1 << 22, entries).unwrap()
    }

    fn lfs(path: &str, size: u64, byte: u8) -> ListedFile<'_> {
        ListedFile { path, size, identity: Identity::Lfs(Sha256Digest([byte; 32])) }
    }

    fn git(path: &str, size: u64) -> ListedFile<'_> {
        ListedFile { path, size, identity: Identity::Git(GitOid([3; 20])) }
    }

    #[test]
    fn equal_lists_agree_whatever_the_hub_knows_of_each_file() {
        let of = [("a.json", 2, Some(9)), ("sub/b.json", 0, None), ("w.bin", 5, Some(1)), ("x.bin", 6, None)];
        let listed = [git("a.json", 2), git("sub/b.json", 0), lfs("w.bin", 5, 1), lfs("x.bin", 6, 2)];
        assert_eq!(compare(&manifest(&of), listed), Ok(()));
    }

    #[test]
    fn first_difference_is_named() {
        let of = manifest(&[("a.json", 2, Some(9)), ("w.bin", 5, Some(1))]);
        let difference = |listed: &[ListedFile<'_>]| compare(&of, listed.iter().copied()).unwrap_err();
        let path = |path: &str| path.to_owned();
        for (listed, expected) in [
            (vec![git("a.json", 2)], Difference::NotListed { path: path("w.bin") }),
            (vec![lfs("w.bin", 5, 1)], Difference::NotListed { path: path("a.json") }),
            (
                vec![git("a.json", 2), git("b", 1), lfs("w.bin", 5, 1)],
                Difference::Missing { path: path("b") },
            ),
            (
                vec![git("a.json", 2), lfs("w.bin", 5, 1), git("z", 1)],
                Difference::Missing { path: path("z") },
            ),
            (
                vec![git("a.json", 3), lfs("w.bin", 5, 1)],
                Difference::Size { path: path("a.json"), stated: 2, listed: 3 },
            ),
            (
                vec![git("a.json", 2), lfs("w.bin", 5, 2)],
                Difference::Sha256 {
                    path: path("w.bin"),
                    stated: Sha256Digest([1; 32]),
                    listed: Sha256Digest([2; 32]),
                },
            ),
        ] {
            assert_eq!(difference(&listed), expected);
        }
        assert!(compare(&of, []).is_err());
        let text = difference(&[git("a.json", 2), lfs("w.bin", 5, 2)]).to_string();
        assert!(text.starts_with("w.bin has the SHA-256 0101") && text.contains("0202"), "{text}");
    }
}
