//! The hashes by which repositories identify the bytes of a file.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::Sha256Digest;

/// The identifier of a git object: SHA-1 of a header and the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GitOid(pub [u8; 20]);

/// The text is not 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identifier of a git object has 40 hexadecimal digits")]
pub struct ParseOidError;

impl GitOid {
    /// The identifier of a blob with these bytes.
    pub fn of_blob(bytes: &[u8]) -> Self {
        let mut hasher = BlobHasher::new(bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for GitOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for GitOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitOid({self})")
    }
}

impl FromStr for GitOid {
    type Err = ParseOidError;

    fn from_str(text: &str) -> Result<Self, ParseOidError> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseOidError)?;
        Ok(Self(bytes))
    }
}

impl Serialize for GitOid {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GitOid {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes the identifier of a blob incrementally.
pub struct BlobHasher(Sha1);

impl BlobHasher {
    /// For a blob of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self(Sha1::new().chain_update(format!("blob {len}\0")))
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The identifier, after all bytes have been added.
    pub fn finish(self) -> GitOid {
        GitOid(self.0.finalize().into())
    }
}

/// The hash that the bytes of a file must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// An object of Git LFS: SHA-256 of the bytes.
    Lfs(Sha256Digest),
    /// A blob of git.
    Git(GitOid),
}

impl Identity {
    /// Whether the `len` bytes of a reader have this hash. Reads to the end.
    pub fn is_of(&self, len: u64, mut bytes: impl Read) -> io::Result<bool> {
        let mut chunk = vec![0; 1 << 20];
        let (mut sha256, mut blob) = (Sha256::new(), BlobHasher::new(len));
        loop {
            let read = match bytes.read(&mut chunk) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            match self {
                _ if read == 0 => break,
                Self::Lfs(_) => sha256.update(&chunk[..read]),
                Self::Git(_) => blob.update(&chunk[..read]),
            }
        }
        Ok(match self {
            Self::Lfs(expected) => *expected == Sha256Digest(sha256.finalize().into()),
            Self::Git(expected) => *expected == blob.finish(),
        })
    }
}

/// In the form of a file name: `sha256-…` or `git-…`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lfs(sha256) => write!(f, "sha256-{sha256}"),
            Self::Git(oid) => write!(f, "git-{oid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_identifiers_are_equal_to_those_of_git() {
        // git hash-object -t blob
        for (bytes, oid) in [
            (&b""[..], "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
        ] {
            assert_eq!(GitOid::of_blob(bytes).to_string(), oid);
        }
        for bad in ["", "ce0136", "zz013625030ba8dba906f756967f9e9ca394464a"] {
            assert_eq!(bad.parse::<GitOid>(), Err(ParseOidError));
        }
    }

    #[test]
    fn identities_are_compared_with_bytes() {
        let bytes = b"hello\n";
        let lfs = Identity::Lfs(Sha256Digest(Sha256::digest(bytes).into()));
        for identity in [lfs, Identity::Git(GitOid::of_blob(bytes))] {
            assert!(identity.is_of(6, &bytes[..]).unwrap());
            assert!(!identity.is_of(6, &b"hullo\n"[..]).unwrap());
        }
    }

    #[test]
    fn identities_survive_json() {
        for identity in [Identity::Lfs(Sha256Digest([1; 32])), Identity::Git(GitOid([2; 20]))] {
            let json = serde_json::to_string(&identity).unwrap();
            assert_eq!(serde_json::from_str::<Identity>(&json).unwrap(), identity);
        }
        assert_eq!(Identity::Git(GitOid([2; 20])).to_string(), format!("git-{}", "02".repeat(20)));
    }
}
