//! The publisher's Ed25519 key: PKCS#8 PEM (RFC 8410), mode 0600, in a directory of mode 0700.
//!
//! A key file is never overwritten, and a file that other users can read is refused. Signatures are checked only with
//! `verify_strict`, so that a message has exactly one valid signature per key.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::model::PublisherKey;

/// The error for a key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("cannot {doing} the key {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// The key file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Other users can read the file.
    #[error("the key {} can be read by other users (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// The file does not contain a key.
    #[error("{} is not an Ed25519 key in PKCS#8 PEM", .0.display())]
    Malformed(PathBuf),
    /// The file already exists.
    #[error("{} exists and is not overwritten; move it away to make a new key", .0.display())]
    Exists(PathBuf),
    /// The system returned no random bytes.
    #[error("the system returned no random bytes: {0}")]
    Random(getrandom::Error),
}

/// The signature is not one of this key for this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// A publisher's secret and public key. `Debug` shows only the public key.
pub struct PublisherKeypair(SigningKey);

impl KeyError {
    /// Whether the same file may be readable later, without a change to it.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() != io::ErrorKind::NotFound)
    }
}

impl PublisherKeypair {
    /// Makes a new key from the system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { doing: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut pem = Vec::new();
        file.take(64 * 1024).read_to_end(&mut pem).map_err(failed)?;
        (std::str::from_utf8(&pem).ok())
            .and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok())
            .map(Self)
            .ok_or_else(|| KeyError::Malformed(path.to_owned()))
    }

    /// Reads a key file. If it does not exist, makes a key and writes it. Two processes that do this at the same time get
    /// the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let key = Self::generate()?;
        match key.save(path) {
            Ok(()) => Ok(key),
            Err(KeyError::Exists(_)) => Self::load(path),
            Err(error) => Err(error),
        }
    }

    /// Writes the key to a new file, atomically. Fails if the file exists.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |source| KeyError::Io { doing: "write", path: path.to_owned(), source };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
        }
        let pem = self.0.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::Malformed(path.to_owned()))?;
        let mut file = tempfile::Builder::new()
            .prefix(".key-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(parent)
            .map_err(failed)?;
        file.write_all(pem.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        match file.persist_noclobber(path) {
            Ok(_) => File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed),
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(KeyError::Exists(path.to_owned()))
            }
            Err(e) => Err(failed(e.error)),
        }
    }

    /// The public key.
    pub fn public(&self) -> PublisherKey {
        PublisherKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a message (RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for PublisherKeypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublisherKeypair").field(&self.public()).finish()
    }
}

/// The digits of fingerprints. Each digit has five bits.
pub const FINGERPRINT_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl PublisherKey {
    /// A short form of the key for comparison by eye: 80 bits of its SHA-256 in Crockford's base 32 (no i, l, o or u), in
    /// groups of four: `x7k2-9fqa-m3tz-c0d8`.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::digest(self.as_bytes());
        let bits = hash[..10].iter().fold(0u128, |bits, &byte| bits << 8 | u128::from(byte));
        let mut out = String::with_capacity(19);
        for digit in 0..16 {
            if digit > 0 && digit % 4 == 0 {
                out.push('-');
            }
            out.push(char::from(FINGERPRINT_ALPHABET[(bits >> (75 - 5 * digit)) as usize & 31]));
        }
        out
    }

    /// Checks a signature of this key. Weak keys and malleable signatures are refused.
    pub fn verify_strict(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let key = VerifyingKey::from_bytes(self.as_bytes()).map_err(|_| BadSignature)?;
        key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_key_is_private_and_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/publisher.key");
        let key = PublisherKeypair::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file remains");
        assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(PublisherKeypair::load_or_create(&path).unwrap().public(), key.public());
        assert!(matches!(PublisherKeypair::generate().unwrap().save(&path), Err(KeyError::Exists(_))));
        assert_eq!(PublisherKeypair::load(&path).unwrap().public(), key.public());
    }

    #[test]
    fn key_readable_by_other_users_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        PublisherKeypair::generate().unwrap().save(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = PublisherKeypair::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("640"), "{error}");
    }

    #[test]
    fn damaged_key_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(PublisherKeypair::load_or_create(&path), Err(KeyError::Malformed(_))));
        assert!(fs::read_to_string(&path).unwrap().contains("AAAA"));
    }

    /// The key of RFC 8410 section 10.3, whose public half is given in section 10.1.
    #[test]
    fn reads_the_key_of_rfc_8410() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        fs::write(&path, pem).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let public = PublisherKeypair::load(&path).unwrap().public();
        assert_eq!(public.to_string(), "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1");
    }

    #[test]
    fn signatures_bind_key_and_message() {
        let key = PublisherKeypair::generate().unwrap();
        let signature = key.sign(b"mellon");
        assert_eq!(key.public().verify_strict(b"mellon", &signature), Ok(()));
        assert_eq!(key.public().verify_strict(b"Mellon", &signature), Err(BadSignature));
        let other = PublisherKeypair::generate().unwrap().public();
        assert_eq!(other.verify_strict(b"mellon", &signature), Err(BadSignature));
        // The all-zero point has small order: with a lax check every signature would be valid.
        assert_eq!(PublisherKey([0; 32]).verify_strict(b"mellon", &[0; 64]), Err(BadSignature));
    }

    #[test]
    fn fingerprints_are_stable() {
        let key = PublisherKey([7; 32]);
        assert_eq!(key.fingerprint(), key.fingerprint());
        let groups: Vec<usize> = key.fingerprint().split('-').map(str::len).collect();
        assert_eq!(groups, [4, 4, 4, 4]);
        assert_ne!(PublisherKey([8; 32]).fingerprint(), key.fingerprint());
    }
}
