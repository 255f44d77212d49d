//! Git LFS pointers: short texts that replace large files in a git repository.
//!
//! The format is that of <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>: lines of key and value, first
//! `version`, then the other keys in alphabetical order. This module writes the canonical form, the same bytes as `git lfs`.

use std::fmt;

use super::Sha256Digest;
use super::files::MAX_TOTAL;

/// Every pointer is shorter than this, in bytes.
pub const POINTER_LIMIT: usize = 1024;

const VERSION: &str = "https://git-lfs.github.com/spec/v1";
/// Names of versions before the first.
const OLD_VERSIONS: [&str; 2] = ["https://hawser.github.com/spec/v1", "http://git-media.io/v/2"];

/// A pointer to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// SHA-256 of the file.
    pub sha256: Sha256Digest,
    /// Length of the file in bytes.
    pub size: u64,
}

impl Pointer {
    /// Reads a pointer; none if the bytes are not a pointer. Like `git lfs` it accepts other line ends and white space at
    /// the end.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() >= POINTER_LIMIT {
            return None;
        }
        let mut lines = std::str::from_utf8(bytes).ok()?.trim_end().lines().map(|line| line.split_once(' '));
        let (key, version) = lines.next()??;
        if key != "version" || !(version == VERSION || OLD_VERSIONS.contains(&version)) {
            return None;
        }
        let (mut last, mut sha256, mut size) = ("", None, None);
        for line in lines {
            let (key, value) = line?;
            if key <= last {
                return None;
            }
            last = key;
            match key {
                "oid" => sha256 = Some(digest(value)?),
                "size" => size = Some(number(value)?),
                _ if key.starts_with("ext-") => {}
                _ => return None,
            }
        }
        Some(Self { sha256: sha256?, size: size? })
    }
}

fn digest(value: &str) -> Option<Sha256Digest> {
    let hex = value.strip_prefix("sha256:")?;
    hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then(|| hex.parse().ok())?
}

fn number(value: &str) -> Option<u64> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|&size| digits && size <= MAX_TOTAL)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {VERSION}\noid sha256:{}\nsize {}\n", self.sha256, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OID: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

    #[test]
    fn pointers_of_git_lfs_are_written_unchanged() {
        let text = format!("version {VERSION}\noid sha256:{OID}\nsize 90868376\n");
        let pointer = Pointer::parse(text.as_bytes()).unwrap();
        assert_eq!((pointer.sha256.to_string().as_str(), pointer.size), (OID, 90_868_376));
        assert_eq!(pointer.to_string(), text);
        for other in [
            text.replace('\n', "\r\n"),
            text.trim_end().to_owned(),
            text.replace(VERSION, OLD_VERSIONS[0]),
            text.replace("oid", &format!("ext-0-foo sha256:{OID}\noid")),
        ] {
            assert_eq!(Pointer::parse(other.as_bytes()), Some(pointer), "{other}");
        }
    }

    #[test]
    fn similar_texts_are_not_pointers() {
        let text = format!("version {VERSION}\noid sha256:{OID}\nsize 5\n");
        for (from, to) in [
            ("v1", "v9"),
            ("version", "Version"),
            ("sha256", "sha512"),
            ("53aa", "53AA"),
            ("53aa", "53a"),
            ("size 5", "size +5"),
            ("size 5", "size -5"),
            ("size 5", "size 9007199254740992"),
            ("size 5", "size 5\nsize 6"),
            ("size 5", "colour red\nsize 5"),
            ("size 5", ""),
            ("oid", "size 5\noid"),
            ("size 5\n", &format!("size 5\n{}", "ext-9-x y\n".repeat(100))),
        ] {
            let changed = text.replace(from, to);
            assert_eq!(Pointer::parse(changed.as_bytes()), None, "{changed}");
        }
        for bytes in [&b""[..], b"\xff", b"version ", VERSION.as_bytes()] {
            assert_eq!(Pointer::parse(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn every_written_pointer_is_read_again(sha256: [u8; 32], size in 0..=MAX_TOTAL) {
            let pointer = Pointer { sha256: Sha256Digest(sha256), size };
            prop_assert_eq!(Pointer::parse(pointer.to_string().as_bytes()), Some(pointer));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200), text in "version https://git-lfs.github.com/spec/v1\n[a-z0-9:\n -]{0,200}") {
            let _ = (Pointer::parse(&bytes), Pointer::parse(text.as_bytes()));
        }
    }
}
