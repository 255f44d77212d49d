//! Reads and whole-file jobs, from the request to the bytes.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::waiters::{Ticket, WaitKind, WaitRequest, WaitResult};
use super::{Fetch, FileRef, ReadError, tensors};
use crate::descriptors;
use crate::store::{Content, StoredRevision};

/// How often a read starts again because verified bytes could not be read from the disk.
pub(super) const ATTEMPTS: usize = 3;

/// How long a read waits for a free descriptor, and its first pause; each further one is twice as long.
const SHORTAGE_WITHIN: Duration = Duration::from_secs(10);
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

impl Fetch {
    /// Reads bytes `offset..offset + len` of a file, cut at its end, if all of them are verified. Does not wait.
    pub fn try_read(self: &Arc<Self>, file: &FileRef, offset: u64, len: u64) -> Option<Vec<u8>> {
        let present = file.present();
        let file = present.as_ref()?;
        if self.must_compare(file) {
            return None;
        }
        let range = file.cut(offset, len);
        let bytes = read_cached(file, &range)?;
        if range.is_empty() {
            return Some(bytes);
        }
        let content = file.content();
        // A file outside the cache lacks only bytes that are wrong in it, which are not fetched ahead.
        if !content.is_complete() && !content.is_placed() {
            if file.revision.hub.is_some() {
                self.hub.touched(file, range);
            } else {
                self.learn_tensors(content);
                self.core.with(|state| state.contents.touch(file, range, &mut state.transfers));
            }
        }
        self.sample_later(file, &file.cut(offset, len));
        self.figures.stored(bytes.len() as u64);
        Some(bytes)
    }

    /// [`Self::try_read`] without fetching anything ahead of the reader.
    pub fn try_read_only(&self, file: &FileRef, offset: u64, len: u64) -> Option<Vec<u8>> {
        let file = file.present().filter(|file| !self.must_compare(file))?;
        read_cached(&file, &file.cut(offset, len))
    }

    /// [`Self::read_while`] without a condition.
    pub async fn read(self: &Arc<Self>, file: &FileRef, offset: u64, len: u64) -> Result<Vec<u8>, ReadError> {
        self.read_while(file, offset, len, &|| true).await
    }

    /// Reads bytes `offset..offset + len` of a file, cut at its end, waiting for pieces up to the read timeout. Dropping the
    /// future cancels the request. A read for which `is_shown` returns false does not join the swarm, and fails with `Left`
    /// if bytes are missing. `is_shown` is called with the lock that [`Self::leave`] takes: a model that is first hidden and
    /// then left is not joined again by a read that began before. It must not wait and not call this scheduler.
    pub async fn read_while(
        self: &Arc<Self>,
        file: &FileRef,
        offset: u64,
        len: u64,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Vec<u8>, ReadError> {
        for _ in 0..ATTEMPTS {
            let present = file.present().ok_or(ReadError::Left)?;
            let present = match present.revision.hub {
                Some(_) => match self.read_from_hub(&present, offset, len).await? {
                    Some(bytes) => return Ok(bytes),
                    // Its manifest became known during the read.
                    None => file.present().ok_or(ReadError::Left)?,
                },
                None => present,
            };
            let read = self.read_compared(&present, present.cut(offset, len), is_shown).await;
            let Some(refusal) = present.refusal() else { return read };
            // The manifest contradicts the hub: the read continues there, if that is possible.
            if !self.has_moved_to_hub(&present).await {
                return Err(refusal);
            }
        }
        Err(ReadError::Left)
    }

    /// [`Self::read_while`] for a file of a manifest.
    async fn read_compared(
        self: &Arc<Self>,
        file: &FileRef,
        range: Range<u64>,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Vec<u8>, ReadError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.check_listed(file, is_shown).await?;
        self.sample(file, &range, is_shown).await;
        if let Some(refusal) = file.refusal() {
            return Err(refusal);
        }
        let (began, is_stored) = (Instant::now(), file.content().has(range.clone()));
        let result = self.read_awaiting(file, range.clone(), is_shown).await;
        match &result {
            Ok(bytes) if is_stored => self.figures.stored(bytes.len() as u64),
            result => self.figures.waited(result, began.elapsed()),
        }
        if result.is_ok() {
            self.sample_later(file, &range);
        }
        result
    }

    /// Waits until the readers of a manifest that contradicts the hub continue at the hub. Returns whether they do.
    async fn has_moved_to_hub(&self, file: &FileRef) -> bool {
        let Some(refutation) = &file.revision.refutation else { return false };
        let ended = tokio::time::timeout(self.settings.read_timeout, refutation.ended()).await;
        ended.is_ok() && refutation.successor().is_some()
    }

    pub(super) async fn read_awaiting(
        self: &Arc<Self>,
        file: &FileRef,
        range: Range<u64>,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Vec<u8>, ReadError> {
        self.await_and_read(file, range, is_shown, true).await
    }

    /// [`Self::read_awaiting`] without fetching anything ahead.
    pub(super) async fn read_apart(
        self: &Arc<Self>,
        file: &FileRef,
        range: Range<u64>,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Vec<u8>, ReadError> {
        self.await_and_read(file, range, is_shown, false).await
    }

    async fn await_and_read(
        self: &Arc<Self>,
        file: &FileRef,
        range: Range<u64>,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
        moves_window: bool,
    ) -> Result<Vec<u8>, ReadError> {
        let content = file.content();
        let _guard = self.guards.guard(content, &range);
        let mut trouble = ("the bytes were deleted while they were read".to_owned(), io::ErrorKind::Other);
        let (began, mut pause) = (Instant::now(), SHORTAGE_PAUSE);
        let mut attempts = 0;
        // Bytes that were deleted for another read are fetched again: that is not a failed attempt.
        while attempts < ATTEMPTS && began.elapsed() < self.settings.read_timeout {
            make_fetchable(content, &range).await;
            self.learn_tensors(content);
            let request =
                WaitRequest { file: file.clone(), range: range.clone(), kind: WaitKind::Read, moves_window };
            self.wait_for(vec![request], self.settings.read_timeout, is_shown).await?;
            let (reading, bytes) = (content.clone(), range.clone());
            // A panic was reported; a runtime that ends drops this future too.
            let read = tokio::task::spawn_blocking(move || reading.read(bytes)).await;
            match read.map_err(|_| ReadError::Stopped)? {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {}
                Err(error) if descriptors::is_shortage(&error) && began.elapsed() < SHORTAGE_WITHIN => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => {
                    let path = content.path();
                    tracing::warn!(path = %path.display(), %error, "could not read verified bytes");
                    trouble = (format!("{}: {error}", path.display()), error.kind());
                    attempts += 1;
                }
            }
        }
        Err(ReadError::Disk(trouble.0, trouble.1))
    }

    /// [`Self::read`] for a file that is read from a hub. None if its manifest became known.
    async fn read_from_hub(
        &self,
        file: &FileRef,
        offset: u64,
        len: u64,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let range = file.cut(offset, len);
        let (content, began) = (file.content(), Instant::now());
        loop {
            self.hub.wait_for(file, range.clone(), false, self.settings.read_timeout).await?;
            let (reading, bytes) = (content.clone(), range.clone());
            let read = tokio::task::spawn_blocking(move || reading.read(bytes)).await;
            match read.map_err(|_| ReadError::Stopped)? {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                _ if file.has_successor() => return Ok(None),
                Ok(None) if began.elapsed() < self.settings.read_timeout => {}
                Ok(None) => {
                    return Err(ReadError::Disk(
                        "the bytes were deleted while they were read".to_owned(),
                        io::ErrorKind::NotFound,
                    ));
                }
                Err(error) if descriptors::is_shortage(&error) && began.elapsed() < SHORTAGE_WITHIN => {
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
                Err(error) => {
                    let text = format!("{}: {error}", content.path().display());
                    return Err(ReadError::Disk(text, error.kind()));
                }
            }
        }
    }

    /// Fetches whole files (indices into the manifest). Returns when all are verified, or fails when nothing has come for
    /// `stall_timeout`. Dropping the future ends the fetching.
    pub async fn fetch_files(
        self: &Arc<Self>,
        revision: &Arc<StoredRevision>,
        files: &[usize],
        stall_timeout: Duration,
    ) -> Result<(), ReadError> {
        let whole: Vec<_> = files.iter().map(|&file| (file, 0..u64::MAX)).collect();
        self.fetch_parts(revision, &whole, stall_timeout).await
    }

    /// [`Self::fetch_files`] for parts of files, which are cut at the ends of the files.
    pub async fn fetch_parts(
        self: &Arc<Self>,
        revision: &Arc<StoredRevision>,
        parts: &[(usize, Range<u64>)],
        stall_timeout: Duration,
    ) -> Result<(), ReadError> {
        if revision.hub.is_some() {
            return self.hub.fetch_parts(revision, parts, stall_timeout).await;
        }
        let requests = parts.iter().map(|(file, range)| {
            let file = FileRef { revision: revision.clone(), file: *file };
            let range = file.cut(range.start, range.end.saturating_sub(range.start));
            WaitRequest { file, range, kind: WaitKind::Job, moves_window: false }
        });
        let requests: Vec<WaitRequest> = requests.filter(|request| !request.range.is_empty()).collect();
        for request in &requests {
            make_fetchable(request.file.content(), &request.range).await;
        }
        self.wait_for(requests, stall_timeout, &|| true).await
    }

    /// Waits until all requested bytes are verified, or the first request fails.
    async fn wait_for(
        &self,
        requests: Vec<WaitRequest>,
        timeout: Duration,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<(), ReadError> {
        let (tickets, refused) = self.core.with(|state| {
            let mut tickets = Vec::new();
            for request in &requests {
                if !request.is_verified() && !is_shown() {
                    return (tickets, Err(ReadError::Left));
                }
                match state.park(request, timeout) {
                    Ok(ticket) => tickets.extend(ticket),
                    Err(why) => return (tickets, Err(why)),
                }
            }
            (tickets, Ok(()))
        });
        // Also after a refusal: so the other waiters are removed again.
        let parked: Vec<ParkedWait<'_>> =
            tickets.into_iter().map(|ticket| ParkedWait::new(self, ticket)).collect();
        refused?;
        for waiter in parked {
            waiter.answered().await?;
        }
        Ok(())
    }

    /// Parses the header of a `.safetensors` file once it is verified.
    fn learn_tensors(&self, content: &Content) {
        let Some(key) = content.key() else { return };
        let unread = {
            let state = self.core.state.lock();
            state.contents.all.get(&key).is_some_and(|joined| joined.shape == tensors::FileTensors::Unread)
        };
        if unread
            && let Some(shape) = tensors::read_shape(content)
            && let Some(joined) = self.core.state.lock().contents.all.get_mut(&key)
        {
            joined.shape = shape;
        }
    }
}

/// The reader's end of a waiter. Dropping it removes the waiter and its claims.
pub(super) struct ParkedWait<'a> {
    fetch: &'a Fetch,
    ticket: Ticket,
}

impl<'a> ParkedWait<'a> {
    pub(super) fn new(fetch: &'a Fetch, ticket: Ticket) -> Self {
        Self { fetch, ticket }
    }

    /// Waits for the answer.
    pub(super) async fn answered(mut self) -> WaitResult {
        (&mut self.ticket.answer).await.unwrap_or(Err(ReadError::Stopped))
    }
}

impl Drop for ParkedWait<'_> {
    fn drop(&mut self) {
        let Ticket { key, id, .. } = &self.ticket;
        self.fetch.core.with(|state| state.contents.remove_waiter(key, *id, &mut state.transfers));
    }
}

/// Reads bytes of a file if all of them are verified.
fn read_cached(file: &FileRef, range: &Range<u64>) -> Option<Vec<u8>> {
    if range.is_empty() {
        return Some(Vec::new());
    }
    let content = file.content();
    content.read(range.clone()).unwrap_or_else(|error| {
        tracing::warn!(path = %content.path().display(), %error, "could not read verified bytes");
        None
    })
}

/// Makes bytes that are wrong in a file outside the cache be fetched to the cache: the file is never written to.
async fn make_fetchable(content: &Arc<Content>, range: &Range<u64>) {
    if content.has(range.clone()) || !content.is_placed() {
        return;
    }
    let (moving, bytes) = (content.clone(), range.clone());
    let moved = tokio::task::spawn_blocking(move || moving.make_fetchable(&bytes)).await;
    if let Ok(Err(error)) = moved {
        tracing::warn!(path = %content.path().display(), %error, "could not replace a damaged file by one in the cache");
    }
}
