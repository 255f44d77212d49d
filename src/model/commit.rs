//! The commit that names the files of a manifest for programs that expect a repository.

use sha2::{Digest as _, Sha256};

use super::Manifest;

/// The first bytes of what is hashed for a derived commit.
const DOMAIN: &[u8] = b"silmaril-commit-v1\n";

impl Manifest {
    /// The commit of the repository that the files came from, if the manifest names one. Otherwise 40 hexadecimal digits
    /// that depend on the info hash alone (docs/PROTOCOL.md, "Commits"), so that they are equal on every host.
    pub fn commit(&self) -> String {
        let stated = self.source.as_ref().and_then(|source| source.commit.as_deref());
        match stated.filter(|commit| is_commit(commit)) {
            Some(commit) => commit.to_owned(),
            None => {
                let hash =
                    Sha256::new().chain_update(DOMAIN).chain_update(self.torrent.info_hash.0).finalize();
                hex::encode(&hash[..20])
            }
        }
    }
}

/// Whether a text is a whole commit: 40 hexadecimal digits in lower case.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::SourceEntry;
    use crate::model::{FileEntry, PiecesRoot, Revision};

    fn manifest(root: u8) -> Manifest {
        let files = vec![FileEntry::new("a", 3, None, Some(PiecesRoot([root; 32])))];
        Manifest::new("acme/m".parse().unwrap(), Revision::default(), 1 << 14, files).unwrap()
    }

    #[test]
    fn stated_commit_is_used_or_one_is_derived() {
        let mut one = manifest(1);
        let derived = one.commit();
        assert!(is_commit(&derived));
        assert_eq!(derived, manifest(1).commit());
        assert_ne!(derived, manifest(2).commit());
        let source = |commit: &str| SourceEntry {
            kind: "huggingface".into(),
            url: None,
            commit: Some(commit.into()),
            other: Default::default(),
        };
        one.source = Some(source(&"ab".repeat(20)));
        assert_eq!(one.commit(), "ab".repeat(20));
        for bad in ["main", &"AB".repeat(20), &"ab".repeat(32), "../../../../../../../../../../../../../ab"] {
            one.source = Some(source(bad));
            assert_eq!(one.commit(), derived, "{bad}");
        }
    }
}
