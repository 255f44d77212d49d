//! The header `Range` of a request (RFC 9110, section 14).

use std::ops::Range;

/// The bytes that a request for a file of a known length asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// The whole file.
    Whole,
    /// Some bytes: status 206.
    Part(Range<u64>),
    /// Bytes behind the end: status 416.
    Unsatisfiable,
}

impl Requested {
    /// Parses the header of a request for a file of `len` bytes. A header with another unit, with several ranges or with a
    /// mistake is ignored, as the RFC permits.
    pub fn of(header: Option<&str>, len: u64) -> Self {
        let spec = header.and_then(|text| text.trim().strip_prefix("bytes="));
        spec.and_then(|spec| Self::parse(spec, len)).unwrap_or(Self::Whole)
    }

    fn parse(spec: &str, len: u64) -> Option<Self> {
        let (first, last) = spec.trim().split_once('-')?;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| text.parse().unwrap_or(u64::MAX))
        };
        let range = match (first.trim(), last.trim()) {
            ("", last) => match number(last)? {
                0 => return Some(Self::Unsatisfiable),
                count => len.saturating_sub(count)..len,
            },
            (first, "") => number(first)?..len,
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                first..last.saturating_add(1).min(len)
            }
        };
        Some(if range.start >= len { Self::Unsatisfiable } else { Self::Part(range) })
    }
}

/// Whether an entity tag is in the list of `If-None-Match` or `If-Range`. Tags are compared weakly.
pub fn matches_etag(header: &str, etag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    header.trim() == "*" || header.split(',').any(|tag| plain(tag) == plain(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_in_the_rfc() {
        let of = |header: &str| Requested::of(Some(header), 100);
        assert_eq!(Requested::of(None, 100), Requested::Whole);
        assert_eq!(of("bytes=0-0"), Requested::Part(0..1));
        assert_eq!(of("bytes=10-19"), Requested::Part(10..20));
        assert_eq!(of("bytes=90-"), Requested::Part(90..100));
        assert_eq!(of("bytes=90-1000"), Requested::Part(90..100));
        assert_eq!(of("bytes=-10"), Requested::Part(90..100));
        assert_eq!(of("bytes=-1000"), Requested::Part(0..100));
        assert_eq!(of("bytes=0-99999999999999999999999"), Requested::Part(0..100));
        for beyond in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(of(beyond), Requested::Unsatisfiable, "{beyond}");
        }
        for ignored in
            ["bytes=5-4", "bytes=a-b", "bytes=", "bytes=-", "items=0-1", "bytes=0-1,5-6", "bytes=+1-2"]
        {
            assert_eq!(of(ignored), Requested::Whole, "{ignored}");
        }
        assert_eq!(Requested::of(Some("bytes=0-"), 0), Requested::Unsatisfiable);
    }

    #[test]
    fn etags_match_in_lists_and_without_quotes() {
        for header in ["\"ab\"", "ab", "W/\"ab\"", "\"x\", \"ab\"", "*"] {
            assert!(matches_etag(header, "\"ab\""), "{header}");
        }
        assert!(!matches_etag("\"abc\"", "\"ab\""));
    }
}
