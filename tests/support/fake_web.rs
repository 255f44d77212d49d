//! A web in memory: its servers stall, send wrong bytes, fail or disconnect as the test chooses. It records all
//! requests.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use silmaril::fetch::web::{WebBody, WebError, WebRequest, WebSettings, WebSource};

/// Bytes of a chunk of a body.
const CHUNK: usize = 64 << 10;

/// The behaviour of a server for one request.
#[derive(Debug, Clone)]
pub enum FakeAnswer {
    /// All bytes, one chunk after another without delay.
    Good,
    /// All bytes, with this delay before each chunk.
    Slow(Duration),
    /// The server accepts the request and sends nothing.
    Silent,
    /// The answer stalls after this many bytes.
    Stalls(usize),
    /// The connection ends after this many bytes.
    Cut(usize),
    /// Wrong bytes from this offset of the file to its end.
    Lie(u64),
    /// The request fails with this error.
    Error(WebError),
}

#[derive(Default)]
struct Inner {
    files: HashMap<String, Arc<Vec<u8>>>,
    /// Answers for the next requests. When the list is empty, `always` applies.
    next: VecDeque<FakeAnswer>,
    always: HashMap<String, FakeAnswer>,
    asked: Vec<WebRequest>,
    open: usize,
    most_open: usize,
}

/// The web.
#[derive(Default)]
pub struct FakeWeb(Mutex<Inner>);

impl FakeWeb {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The settings with which `Fetch` uses this web.
    pub fn settings(self: &Arc<Self>) -> WebSettings {
        WebSettings {
            source: Arc::new(Handle(self.clone())),
            endpoint: "https://huggingface.co".parse().unwrap(),
        }
    }

    /// Adds a file at an address.
    pub fn serve(&self, url: &str, bytes: Arc<Vec<u8>>) {
        self.inner().files.insert(url.to_owned(), bytes);
    }

    /// Sets the answer to the next request.
    pub fn once(&self, answer: FakeAnswer) {
        self.inner().next.push_back(answer);
    }

    /// Sets the answer to all further requests for addresses that begin with `prefix`.
    pub fn always(&self, prefix: &str, answer: FakeAnswer) {
        self.inner().always.insert(prefix.to_owned(), answer);
    }

    /// All requests since the last call.
    pub fn asked(&self) -> Vec<WebRequest> {
        std::mem::take(&mut self.inner().asked)
    }

    /// The ranges of [`Self::asked`], in order.
    pub fn ranges(&self) -> Vec<std::ops::Range<u64>> {
        self.asked().into_iter().map(|request| request.range).collect()
    }

    /// The number of requests that are open now.
    pub fn open(&self) -> usize {
        self.inner().open
    }

    /// The highest number of requests that were open at the same time.
    pub fn most_open(&self) -> usize {
        self.inner().most_open
    }
}

/// Counts a request as open until it is dropped.
struct Open(Arc<FakeWeb>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.inner().open -= 1;
    }
}

struct Handle(Arc<FakeWeb>);

impl WebSource for Handle {
    fn open(&self, request: WebRequest) -> BoxFuture<'static, Result<WebBody, WebError>> {
        let web = self.0.clone();
        let (answer, file) = {
            let mut inner = web.inner();
            inner.asked.push(request.clone());
            inner.open += 1;
            inner.most_open = inner.most_open.max(inner.open);
            let always = inner.always.iter().find(|(prefix, _)| request.url.starts_with(*prefix));
            let always = always.map(|(_, answer)| answer.clone()).unwrap_or(FakeAnswer::Good);
            (inner.next.pop_front().unwrap_or(always), inner.files.get(&request.url).cloned())
        };
        let open = Open(web);
        async move {
            let missing = || WebError::Unfit(format!("{} answered 404 Not Found", request.url));
            let mut bytes = file.ok_or_else(missing)?.as_ref().clone();
            assert_eq!(bytes.len() as u64, request.file_len);
            let (delay, cut, hangs) = match answer {
                FakeAnswer::Good => (None, None, false),
                FakeAnswer::Slow(delay) => (Some(delay), None, false),
                FakeAnswer::Stalls(after) => (None, Some(after), true),
                FakeAnswer::Cut(after) => (None, Some(after), false),
                FakeAnswer::Lie(from) => {
                    bytes[from as usize..].iter_mut().for_each(|byte| *byte ^= 1);
                    (None, None, false)
                }
                FakeAnswer::Silent => return std::future::pending().await,
                FakeAnswer::Error(error) => return Err(error),
            };
            let mut body = bytes[request.range.start as usize..request.range.end as usize].to_vec();
            body.truncate(cut.unwrap_or(usize::MAX));
            let chunks: Vec<Bytes> = body.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
            let chunks = stream::iter(chunks).then(move |chunk| async move {
                if let Some(delay) = delay {
                    tokio::time::sleep(delay).await;
                }
                Ok(chunk)
            });
            let end = match hangs {
                true => stream::pending().boxed(),
                false => stream::empty().boxed(),
            };
            let body = chunks.chain(end).map(move |chunk| {
                // The body keeps the request counted as open.
                let _open = &open;
                chunk
            });
            Ok(body.boxed())
        }
        .boxed()
    }
}
