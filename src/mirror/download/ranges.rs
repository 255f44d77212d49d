//! A large file in several ranges at the same time: one connection seldom fills the line, and servers limit each connection.
//!
//! The ranges are short and delivered in order, so that a part is always a prefix of its file, as with one connection. A
//! range that is interrupted continues where it ended.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use crate::http::HttpError;
use crate::mirror::MirrorError;
use crate::mirror::source::{RemoteFile, RepositorySource};

/// Files with fewer missing bytes use one connection.
pub(super) const MIN: u64 = 16 << 20;
/// Bytes in one range: together with [`PARALLEL`], this bounds the memory for one file, and the bytes that are received again
/// after a crash.
const RANGE: u64 = 2 << 20;
/// Ranges of one file at a time.
const PARALLEL: usize = 8;
/// How often one range is requested without receiving any byte.
const TRIES: u32 = 3;

/// The bytes of a file from an offset on.
pub(super) fn of<'a>(
    source: &'a dyn RepositorySource,
    file: &'a RemoteFile,
    from: u64,
) -> impl Stream<Item = Result<Bytes, MirrorError>> + Send + 'a {
    let count = (file.size - from).div_ceil(RANGE);
    let ranges = (0..count).map(move |n| from + n * RANGE..(from + (n + 1) * RANGE).min(file.size));
    let received = stream::iter(ranges).map(move |range| receive(source, file, range)).buffered(PARALLEL);
    received.map_ok(|bytes| stream::iter(bytes.into_iter().map(Ok))).try_flatten()
}

/// Receives one range.
async fn receive(
    source: &dyn RepositorySource,
    file: &RemoteFile,
    range: Range<u64>,
) -> Result<Vec<Bytes>, MirrorError> {
    let _permit = source.permit().await;
    let (mut bytes, mut at, mut failures) = (Vec::new(), range.start, 0);
    loop {
        let before = at;
        match receive_once(source, file, &mut at, range.end, &mut bytes).await {
            Ok(()) => return Ok(bytes),
            Err(error) if !error.is_transient() || error.retry_after().is_some() => return Err(error),
            Err(error) => {
                failures = if at > before { 0 } else { failures + 1 };
                if failures >= TRIES {
                    return Err(error);
                }
                tracing::debug!(%error, path = %file.path, at, "continuing a range");
            }
        }
    }
}

async fn receive_once(
    source: &dyn RepositorySource,
    file: &RemoteFile,
    at: &mut u64,
    end: u64,
    bytes: &mut Vec<Bytes>,
) -> Result<(), MirrorError> {
    let opened = source.open_range(file, *at..end).await?;
    let no_ranges = || HttpError::WrongRange { url: file.path.clone() };
    let mut body = opened.from(*at, 0).ok_or_else(no_ranges)?;
    while *at < end {
        let cut = || HttpError::Cut { url: file.path.clone(), source: None };
        let mut next = body.next().await.ok_or_else(cut)??;
        next.truncate(usize::try_from(end - *at).unwrap_or(usize::MAX));
        *at += next.len() as u64;
        bytes.push(next);
    }
    Ok(())
}
