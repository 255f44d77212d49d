//! Parses and formats the headers that the client uses.

use std::time::{Duration, SystemTime};

use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderValue};

/// `Range: bytes=from-` or `bytes=from-(to-1)` (RFC 9110, 14.2).
pub(super) fn range(from: u64, to: Option<u64>) -> HeaderValue {
    let text = match to {
        Some(to) => format!("bytes={from}-{}", to.saturating_sub(1)),
        None => format!("bytes={from}-"),
    };
    HeaderValue::from_str(&text).expect("digits are a header value")
}

/// `Content-Range: bytes first-last/total` (RFC 9110, 14.4), `last` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub first: u64,
    last: u64,
    pub total: Option<u64>,
}

impl ContentRange {
    /// None if the header is absent or invalid.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(header::CONTENT_RANGE)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        let range = Self { first: number(first)?, last: number(last)?, total };
        let sound = unit.eq_ignore_ascii_case("bytes")
            && range.first <= range.last
            && range.last < u64::MAX
            && total.is_none_or(|total| range.last < total);
        sound.then_some(range)
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether this is the requested range, up to the end of the whole.
    pub fn answers(&self, from: u64, to: Option<u64>) -> bool {
        let end = self.last + 1;
        let wanted = match (to, self.total) {
            (Some(to), Some(total)) => Some(to.min(total)),
            (to, total) => to.or(total),
        };
        self.first == from && wanted.is_none_or(|wanted| end == wanted)
    }
}

/// The entity tag if it is a strong one (RFC 9110, 8.8.3).
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?;
    (tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"')).then_some(tag)
}

/// The pause that the server requests: `Retry-After` (RFC 9110, 10.2.3) in seconds or as a date, otherwise the `t` of a
/// `RateLimit` whose remainder is 0 (draft-ietf-httpapi-ratelimit-headers), such as `"api";r=0;t=55`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let asked = text("retry-after").and_then(|value| {
        let value = value.trim();
        match value.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
                let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_second()).ok()?);
                Some(at.duration_since(SystemTime::now()).unwrap_or_default())
            }
        }
    });
    asked.or_else(|| text("ratelimit").and_then(rate_limit))
}

fn rate_limit(value: &str) -> Option<Duration> {
    // If several policies are used up, the longest pause counts.
    let spent = value.split(',').filter_map(|policy| {
        let parameter = |name: &str| {
            policy.split(';').skip(1).find_map(|p| {
                let (key, value) = p.split_once('=')?;
                (key.trim() == name).then(|| value.trim().parse::<u64>().ok())?
            })
        };
        (parameter("r")? == 0).then(|| parameter("t"))?
    });
    spent.max().map(Duration::from_secs)
}

/// The `rel="next"` of `Link` headers (RFC 8288), resolved against `base`, the URL of the response.
pub fn next_page(headers: &HeaderMap, base: &Url) -> Option<Url> {
    let values = headers.get_all(header::LINK).into_iter().filter_map(|value| value.to_str().ok());
    let target = values.flat_map(links).find(|(_, rest)| is_next(rest)).map(|(target, _)| target)?;
    base.join(target).ok()
}

/// The targets in angle brackets, each with the parameters that follow it.
fn links(value: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((target, after)) = after.split_once('>') else { break };
        let end = after.find('<').unwrap_or(after.len());
        found.push((target.trim(), &after[..end]));
        rest = &after[end..];
    }
    found
}

fn is_next(parameters: &str) -> bool {
    parameters.split([';', ',']).any(|parameter| {
        parameter.split_once('=').is_some_and(|(key, value)| {
            key.trim().eq_ignore_ascii_case("rel")
                && value
                    .trim()
                    .trim_matches('"')
                    .split_whitespace()
                    .any(|rel| rel.eq_ignore_ascii_case("next"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_the_requested_content_range_is_accepted() {
        let range = ContentRange::parse("bytes 10-19/100").unwrap();
        assert_eq!((range.first, range.len(), range.total), (10, 10, Some(100)));
        assert!(range.answers(10, Some(20)));
        assert!(!range.answers(10, None) && !range.answers(10, Some(30)) && !range.answers(11, Some(20)));
        // A requested range beyond the end is cut at the end.
        assert!(ContentRange::parse("bytes 90-99/100").unwrap().answers(90, Some(200)));
        assert!(ContentRange::parse("bytes 90-99/*").unwrap().answers(90, None));
        for bad in [
            "bytes 5-4/10",
            "bytes 5-10/10",
            "bytes */10",
            "lines 1-2/3",
            "bytes 0-18446744073709551615/*",
            "",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn requested_pauses_are_read_in_every_form() {
        assert_eq!(retry_after(&map("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&map("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")), Some(Duration::ZERO));
        assert_eq!(retry_after(&map("ratelimit", "\"api\";r=0;t=55")), Some(Duration::from_secs(55)));
        assert_eq!(
            retry_after(&map("ratelimit", "\"a\";r=0;t=5, \"b\";r=0;t=9")),
            Some(Duration::from_secs(9))
        );
        for none in ["\"api\";r=3;t=55", "x", "\"api\";r=0"] {
            assert_eq!(retry_after(&map("ratelimit", none)), None, "{none}");
        }
        assert_eq!(retry_after(&map("retry-after", "-1")), None);
    }

    #[test]
    fn next_page_is_found_among_links() {
        let base: Url = "https://h.example/api/x?limit=5".parse().unwrap();
        let next = |value: &str| next_page(&map("link", value), &base).map(String::from);
        assert_eq!(
            next("<https://h.example/api/x?c=1>; rel=\"next\""),
            Some("https://h.example/api/x?c=1".into())
        );
        assert_eq!(next("</a>; rel=prev, </b,c>; rel=next"), Some("https://h.example/b,c".into()));
        assert_eq!(next("</a>; rel=\"first next\""), Some("https://h.example/a".into()));
        for none in ["</a>; rel=\"prev\"", "</a", "rel=next", "</a>; title=\"rel\""] {
            assert_eq!(next(none), None, "{none}");
        }
    }

    #[test]
    fn only_strong_tags_are_used() {
        assert_eq!(strong_etag(&map("etag", "\"abc\"")), Some("\"abc\""));
        for weak in ["W/\"abc\"", "abc", "\""] {
            assert_eq!(strong_etag(&map("etag", weak)), None);
        }
    }
}
