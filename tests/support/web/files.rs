//! Files over HTTP: ranges and validators as in RFC 9110, and bodies with faults.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use futures_util::stream::unfold;

use super::faults::{Fault, Faults, LAST_BYTES};
use super::log::{Entry, header as text};

/// Bytes in one chunk of a body.
const CHUNK: u64 = 64 << 10;

/// The source of a served file.
pub enum Content {
    /// Bytes in memory.
    Memory(Bytes),
    /// A file on disk, and its length in bytes.
    Disk(File, u64),
}

impl Content {
    /// A file on disk.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self::Disk(file, len))
    }

    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk(_, len) => *len,
        }
    }

    fn read(&self, start: u64, len: u64) -> Vec<u8> {
        match self {
            Self::Memory(bytes) => bytes[start as usize..(start + len) as usize].to_vec(),
            Self::Disk(file, _) => {
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, start).unwrap();
                bytes
            }
        }
    }
}

/// Answers `GET` or `HEAD` with a file. `etag` is its strong entity tag, without quotes. Applies the server's faults,
/// and counts the bytes that are sent.
pub fn answer(request: &Request, content: Content, etag: &str) -> Response {
    let fault = request.extensions().get::<Faults>().and_then(|faults| faults.take_of_file(request));
    let entry = request.extensions().get::<Entry>().cloned();
    let (len, etag) = (content.len(), format!("\"{etag}\""));
    let response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream");

    let headers = request.headers();
    let is_current = text(headers, "if-range").is_none_or(|expected| expected == etag);
    let mut range = match text(headers, "range").filter(|_| is_current && fault != Some(Fault::IgnoresRange))
    {
        Some(range) => parse_range(&range, len),
        None => Range::Whole,
    };
    if let (Some(Fault::OtherRange), Range::Part(start, end)) = (&fault, &mut range) {
        assert!(start < end, "no range begins later than a range of one byte");
        *start += 1;
    }
    let (response, start, end) = match range {
        Range::Whole => (response.status(StatusCode::OK), 0, len),
        Range::Part(start, last) => (
            response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {start}-{last}/{len}")),
            start,
            last + 1,
        ),
        Range::Beyond => {
            let response = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            return response
                .header(header::CONTENT_RANGE, format!("bytes */{len}"))
                .body(Body::empty())
                .unwrap();
        }
    };
    let response = response.header(header::CONTENT_LENGTH, end - start);
    if request.method() == Method::HEAD {
        return response.body(Body::empty()).unwrap();
    }
    let sending = Sending { content, start, at: start, end, fault, entry };
    response.body(Body::from_stream(unfold(sending, Sending::next))).unwrap()
}

/// A body that is being sent.
struct Sending {
    content: Content,
    start: u64,
    at: u64,
    end: u64,
    fault: Option<Fault>,
    entry: Option<Entry>,
}

impl Sending {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Self)> {
        let mut len = CHUNK.min(self.end - self.at);
        if len == 0 {
            return None;
        }
        let sent = self.at - self.start;
        match self.fault {
            Some(Fault::Truncated(limit)) if sent >= limit => {
                tokio::time::sleep(LAST_BYTES).await;
                return Some((Err(std::io::Error::other("cut by the test")), self));
            }
            Some(Fault::Stalled(limit)) if sent >= limit => std::future::pending().await,
            Some(Fault::Truncated(limit) | Fault::Stalled(limit)) => len = len.min(limit - sent),
            Some(Fault::Slow(rate)) => {
                len = len.min((rate / 20).max(1));
                tokio::time::sleep(Duration::from_secs_f64(len as f64 / rate as f64)).await;
            }
            _ => {}
        }
        let mut bytes = self.content.read(self.at, len);
        if self.fault == Some(Fault::WrongBytes) {
            bytes[0] ^= 1;
        }
        self.at += len;
        if let Some(entry) = &self.entry {
            entry.sent(len);
        }
        Some((Ok(bytes.into()), self))
    }
}

/// The meaning of a `Range` header.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// The first byte and the last.
    Part(u64, u64),
    Beyond,
}

/// Parses one range of bytes. An invalid header, or one with several ranges, counts as absent (RFC 9110, section
/// 14.2).
fn parse_range(text: &str, len: u64) -> Range {
    let parsed = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'));
    let Some((first, last)) = parsed.map(|(first, last)| (first.parse::<u64>(), last.parse::<u64>())) else {
        return Range::Whole;
    };
    match (first, last) {
        (Ok(first), Ok(last)) if first > last => Range::Whole,
        (Ok(first), _) if first >= len => Range::Beyond,
        (Ok(first), Ok(last)) => Range::Part(first, last.min(len - 1)),
        (Ok(first), Err(_)) if text.ends_with('-') => Range::Part(first, len - 1),
        (Err(_), Ok(0)) if text.contains("=-") => Range::Beyond,
        (Err(_), Ok(suffix)) if text.contains("=-") && len > 0 => {
            Range::Part(len.saturating_sub(suffix), len - 1)
        }
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed_as_in_the_rfc() {
        for (text, expected) in [
            ("bytes=0-0", Range::Part(0, 0)),
            ("bytes=2-4", Range::Part(2, 4)),
            ("bytes=2-", Range::Part(2, 9)),
            ("bytes=2-99", Range::Part(2, 9)),
            ("bytes=-3", Range::Part(7, 9)),
            ("bytes=-30", Range::Part(0, 9)),
            ("bytes=10-", Range::Beyond),
            ("bytes=-0", Range::Beyond),
            ("bytes=4-2", Range::Whole),
            ("bytes=0-1,4-5", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("bytes=a-b", Range::Whole),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }
}
