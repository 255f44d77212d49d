//! Whole files from a hub: `warm` and `get`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::HubReads;
use crate::fetch::{FileRef, ReadError};
use crate::store::StoredRevision;

/// Files up to this size, in bytes, are fetched first: they describe the model, and take little time.
const SMALL: u64 = 1 << 20;

/// The part of a file that is waited for at a time, in bytes. Without parts, each request would look through the map of a
/// large file.
const PART: u64 = 64 << 20;

/// Parts that are waited for at a time.
const PARTS: usize = 8;

impl HubReads {
    /// Fetches parts of files of a model, which are cut at the ends of the files; the small ones first. Fails when nothing has
    /// come for `stall`.
    pub(in crate::fetch) async fn fetch_parts(
        self: &Arc<Self>,
        revision: &Arc<StoredRevision>,
        parts: &[(usize, Range<u64>)],
        stall: Duration,
    ) -> Result<(), ReadError> {
        let cut = |(file, range): &(usize, Range<u64>)| {
            let len = revision.manifest.files[*file].size;
            (*file, range.start.min(len)..range.end.min(len))
        };
        let len = |(_, range): &(usize, Range<u64>)| range.end - range.start;
        let (mut small, mut large): (Vec<_>, Vec<_>) =
            parts.iter().map(cut).partition(|part| len(part) <= SMALL);
        small.sort_by_key(len);
        large.sort_by_key(|part| std::cmp::Reverse(len(part)));
        self.fetch_piecemeal(revision, small, stall).await?;
        self.fetch_piecemeal(revision, large, stall).await
    }

    async fn fetch_piecemeal(
        self: &Arc<Self>,
        revision: &Arc<StoredRevision>,
        parts: Vec<(usize, Range<u64>)>,
        stall: Duration,
    ) -> Result<(), ReadError> {
        let pieces = parts.into_iter().flat_map(|(file, range)| {
            let count = (range.end - range.start).div_ceil(PART);
            (0..count).map(move |n| {
                let start = range.start + n * PART;
                (file, start..(start + PART).min(range.end))
            })
        });
        let fetching = stream::iter(pieces).map(|(file, range)| {
            let file = FileRef { revision: revision.clone(), file };
            async move {
                loop {
                    self.wait_for(&file, range.clone(), true, stall).await?;
                    if file.content().has(range.clone()) || file.has_successor() {
                        return Ok(());
                    }
                }
            }
        });
        fetching.buffer_unordered(PARTS).try_collect().await
    }
}
