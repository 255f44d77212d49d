//! Identifiers of 32 bytes. Each has its own type, so that the compiler finds a confused one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The string is not an identifier of 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 64 hexadecimal digits, not {given:?}")]
pub struct ParseIdError {
    what: &'static str,
    given: String,
}

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 32];
                match hex::decode_to_slice(s, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(ParseIdError { what: $what, given: s.chars().take(80).collect() }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id32!(
    /// The v2 info hash of a torrent: SHA-256 of its bencoded info dictionary (BEP 52).
    InfoHash,
    "an info hash"
);
id32!(
    /// The root of the merkle tree over one file's 16 KiB blocks (BEP 52, `pieces root`). It does not depend on the piece
    /// length, so it identifies the file's content in every torrent.
    PiecesRoot,
    "a pieces root"
);
id32!(
    /// SHA-256 of a whole file.
    Sha256Digest,
    "a sha256"
);
id32!(
    /// The Ed25519 public key of a publisher.
    PublisherKey,
    "a publisher key"
);
