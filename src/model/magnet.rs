//! Magnet links of v2 torrents (BEP 9, BEP 52): `magnet:?xt=urn:btmh:1220<info hash>&dn=…&tr=…`. The link of a hybrid
//! torrent has a second `xt` with the v1 info hash.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::InfoHash;

/// Longest link that is read, in bytes.
pub const MAX_MAGNET: usize = 64 * 1024;

/// The beginning of a link; the case does not matter.
const SCHEME: &str = "magnet:";

/// A magnet link with a v2 info hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Magnet {
    /// `xt=urn:btmh:`.
    pub info_hash: InfoHash,
    /// `xt=urn:btih:`: the SHA-1 of the info dictionary of a hybrid torrent.
    pub v1_info_hash: Option<[u8; 20]>,
    /// `dn`: a name for people.
    pub display_name: Option<String>,
    /// `tr`.
    pub trackers: Vec<String>,
    /// `ws`: HTTP addresses that serve the content (BEP 19).
    pub web_seeds: Vec<String>,
    /// `xs`: addresses of the metainfo file.
    pub exact_sources: Vec<String>,
    /// `x.pe`: addresses of peers. Entries with host names are ignored.
    pub peers: Vec<SocketAddr>,
}

/// The reason why a string is not a usable magnet link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MagnetError {
    /// Another scheme.
    #[error("a magnet link starts with magnet:?")]
    Scheme,
    /// Longer than [`MAX_MAGNET`].
    #[error("the magnet link is longer than {MAX_MAGNET} bytes")]
    TooLong,
    /// `urn:btmh:` without a SHA-256.
    #[error("{0:?} is not a v2 info hash (urn:btmh:1220 and 64 hexadecimal digits)")]
    Hash(String),
    /// Two v2 info hashes.
    #[error("the magnet link names two v2 torrents")]
    Ambiguous,
    /// Only `urn:btih:`.
    #[error(
        "the magnet link names a BitTorrent v1 torrent; only v2 and hybrid torrents (urn:btmh:) can be used"
    )]
    V1Only,
    /// No `xt`.
    #[error("the magnet link has no info hash (xt=urn:btmh:...)")]
    NoHash,
}

impl Magnet {
    /// A link with only a hash and a name.
    pub fn new(info_hash: InfoHash, display_name: &str) -> Self {
        Self {
            info_hash,
            v1_info_hash: None,
            display_name: Some(display_name.to_owned()),
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            exact_sources: Vec::new(),
            peers: Vec::new(),
        }
    }
}

/// Percent-encodes all characters except the unreserved ones of RFC 3986.
pub(super) fn escape(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.write_char(byte.into())?
            }
            _ => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

/// Decodes a value; none for a broken escape, or bytes that are not UTF-8.
fn unescape(text: &str) -> Option<String> {
    super::text::percent_decode(&text.replace('+', " "))
}

/// `text` without `prefix`, whose case does not matter.
fn without_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Parses a SHA-1 in hexadecimal.
fn sha1_of(hash: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    hex::decode_to_slice(hash, &mut bytes).ok().map(|()| bytes)
}

/// Whether a text is a magnet link, valid or not.
pub fn is_magnet(text: &str) -> bool {
    without_prefix(text.trim_start(), SCHEME).is_some()
}

impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, MagnetError> {
        let text = text.trim();
        if text.len() > MAX_MAGNET {
            return Err(MagnetError::TooLong);
        }
        let query = without_prefix(text, SCHEME).and_then(|rest| rest.strip_prefix('?'));
        let query = query.ok_or(MagnetError::Scheme)?;
        let mut info_hash = None;
        let mut v1 = false;
        let mut magnet = Self::new(InfoHash([0; 32]), "");
        magnet.display_name = None;
        for pair in query.split('&') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            // Only the hash is required. Other parameters that cannot be read are ignored.
            let Some(value) = unescape(value) else { continue };
            let key = key.trim().to_ascii_lowercase();
            // Repeated keys may have a number: tr.1, xt.2.
            let base =
                key.split_once('.').map_or(&*key, |(base, number)| if base == "x" { number } else { base });
            match base {
                "xt" => {
                    let value = value.trim();
                    if let Some(hash) = without_prefix(value, "urn:btmh:") {
                        let hash: InfoHash =
                            (hash.strip_prefix("1220").and_then(|hash| hash.parse().ok()))
                                .ok_or_else(|| MagnetError::Hash(value.chars().take(100).collect()))?;
                        if info_hash.replace(hash).is_some_and(|other| other != hash) {
                            return Err(MagnetError::Ambiguous);
                        }
                    }
                    if let Some(hash) = without_prefix(value, "urn:btih:") {
                        v1 = true;
                        // A hash in base 32 is ignored, because the v2 hash is sufficient to join.
                        magnet.v1_info_hash = magnet.v1_info_hash.or_else(|| sha1_of(hash));
                    }
                }
                "dn" => magnet.display_name = Some(value),
                "tr" => magnet.trackers.push(value),
                "ws" => magnet.web_seeds.push(value),
                "xs" => magnet.exact_sources.push(value),
                "pe" => magnet.peers.extend(value.parse::<SocketAddr>()),
                _ => {}
            }
        }
        magnet.info_hash = info_hash.ok_or(if v1 { MagnetError::V1Only } else { MagnetError::NoHash })?;
        Ok(magnet)
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?")?;
        // The v1 hash is first, because some v1 clients read only the first `xt`.
        if let Some(hash) = self.v1_info_hash {
            f.write_str("xt=urn:btih:")?;
            hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("&")?;
        }
        write!(f, "xt=urn:btmh:1220{}", self.info_hash)?;
        let lists = [("tr", &self.trackers), ("ws", &self.web_seeds), ("xs", &self.exact_sources)];
        let name = self.display_name.iter().map(|name| ("dn", name));
        for (key, value) in
            name.chain(lists.iter().flat_map(|(key, list)| list.iter().map(|value| (*key, value))))
        {
            write!(f, "&{key}=")?;
            escape(f, value)?;
        }
        self.peers.iter().try_for_each(|peer| write!(f, "&x.pe={peer}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "3ed3ae080c3d0bcf7d921ddacf94e788f7e1fd51e3481ee90764f4013cc14e48";

    #[test]
    fn links_are_read() {
        let text = format!(
            "magnet:?xt=urn:btih:631a31dd0a46257d5078c0dee4e66e26f73e42ac&xt=urn:btmh:1220{HASH}&dn=a+b%20c\
             &tr=udp%3A%2F%2Ft%3A1&tr.1=http://u/a&x.pe=10.0.0.1:6881&x.pe=[::1]:7&x.pe=host:1&xs=http%3A%2F%2Fx&zz"
        );
        let magnet: Magnet = text.parse().unwrap();
        assert_eq!(magnet.info_hash.to_string(), HASH);
        assert_eq!(magnet.display_name.as_deref(), Some("a b c"));
        assert_eq!(magnet.trackers, ["udp://t:1", "http://u/a"]);
        assert_eq!(magnet.exact_sources, ["http://x"]);
        assert_eq!(magnet.peers, ["10.0.0.1:6881".parse().unwrap(), "[::1]:7".parse().unwrap()]);
        assert_eq!(magnet.to_string().parse::<Magnet>().unwrap(), magnet);
    }

    #[test]
    fn unusable_links_are_refused() {
        let other = HASH.replace('3', "4");
        for (text, error) in [
            ("http://x".to_owned(), MagnetError::Scheme),
            ("magnet:?dn=x".into(), MagnetError::NoHash),
            ("magnet:?xt=urn:btih:631a31dd0a46257d5078c0dee4e66e26f73e42ac".into(), MagnetError::V1Only),
            (format!("magnet:?xt=urn:btmh:1220{HASH}&xt=urn:btmh:1220{other}"), MagnetError::Ambiguous),
            ("magnet:?xt=urn%zzbtmh:1220".into(), MagnetError::NoHash),
            ("magnet".into(), MagnetError::Scheme),
            ("magnet:?xt=urn:btmh:1220abcd".into(), MagnetError::Hash("urn:btmh:1220abcd".into())),
            (format!("magnet:?dn={}", "x".repeat(MAX_MAGNET)), MagnetError::TooLong),
        ] {
            assert_eq!(text.parse::<Magnet>(), Err(error));
        }
    }

    #[test]
    fn a_bad_parameter_is_ignored() {
        for bad in
            ["dn=%zz", "dn=%f", "dn=%E9t%E9", "tr=http%3A%2F%2F%", "tr.2=%ff", "x.pe=%q", "ws=%", "so=%x"]
        {
            let text = format!("magnet:?{bad}&xt=urn:btmh:1220{HASH}&tr=udp%3A%2F%2Ft%3A1&dn=a");
            let magnet: Magnet = text.parse().unwrap();
            assert_eq!(magnet.info_hash.to_string(), HASH, "{bad}");
            assert_eq!(magnet.display_name.as_deref(), Some("a"), "{bad}");
            assert_eq!(magnet.trackers, ["udp://t:1"], "{bad}");
        }
    }

    #[test]
    fn case_and_surrounding_blanks_are_ignored() {
        let plain: Magnet = format!("magnet:?xt=urn:btmh:1220{HASH}&dn=A&tr=http://t/A").parse().unwrap();
        for text in [
            format!("MAGNET:?xt=urn:btmh:1220{HASH}&dn=A&tr=http://t/A"),
            format!("  \tmagnet:?xt=urn:btmh:1220{HASH}&dn=A&tr=http://t/A\n"),
            format!("Magnet:?XT=URN:BTMH:1220{}&DN=A&TR.1=http://t/A", HASH.to_uppercase()),
        ] {
            assert!(is_magnet(&text), "{text:?}");
            assert_eq!(text.parse::<Magnet>().as_ref(), Ok(&plain), "{text:?}");
        }
        assert!(!is_magnet("magnets.json") && !is_magnet("./magnet:x") && !is_magnet("é"));
    }

    proptest! {
        #[test]
        fn every_written_link_is_read_again(name in ".*", tracker in ".*", hash: [u8; 32], v1: Option<[u8; 20]>) {
            let mut magnet = Magnet::new(InfoHash(hash), &name);
            magnet.v1_info_hash = v1;
            magnet.trackers.push(tracker);
            prop_assert_eq!(magnet.to_string().parse::<Magnet>().unwrap(), magnet);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(magnet:\\?)?.*") {
            let _ = text.parse::<Magnet>();
        }
    }
}
