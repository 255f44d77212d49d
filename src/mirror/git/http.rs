//! A transport for libgit2: git's smart protocol over the HTTP client of this program.
//!
//! The rules for addresses, the proxy, the rate limit and the deadlines are therefore the same as for all other requests.
//! If the first request of a connection is redirected, later requests use the target of the redirect. A redirect to another
//! origin receives no credential ([`HttpClient::send`]).

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream};
use git2::{Error, ErrorClass, ErrorCode};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::credentials::Credentials;
use crate::ffi::libgit2;
use crate::http::{
    Auth, Body, HeaderMap, HeaderValue, HttpClient, HttpError, HttpResponse, Method, Request, Url,
    without_secrets,
};

/// Longest pause of a server. A server that is packing objects sends progress messages every few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval at which a wait checks for cancellation; polled, because there is no event for this.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Some hosts serve git only to clients whose name starts with `git/`.
const USER_AGENT: &str = concat!("git/2.0 (silmaril ", env!("CARGO_PKG_VERSION"), ")");
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";
const REQUEST: &str = "application/x-git-upload-pack-request";
const RESULT: &str = "application/x-git-upload-pack-result";

/// The HTTP side of one fetch.
pub(super) struct GitHttp {
    client: HttpClient,
    /// The address of the repository, without user and password.
    remote: Url,
    pub credentials: Credentials,
    runtime: Handle,
    cancel: Arc<AtomicBool>,
    state: Mutex<HttpState>,
}

#[derive(Default)]
struct HttpState {
    /// The address of the repository after the redirects of the first request.
    base: Option<Url>,
    /// The last error.
    error: Option<HttpError>,
    /// The fetch ended because git needed too much memory.
    too_much: bool,
}

impl GitHttp {
    /// Must be called on a thread of the tokio runtime.
    pub fn new(client: HttpClient, remote: Url, credentials: Credentials, cancel: Arc<AtomicBool>) -> Self {
        Self { client, remote, credentials, runtime: Handle::current(), cancel, state: Mutex::default() }
    }

    /// Prepares for a new connection: clears the error, and starts with the first credential again.
    pub fn begin(&self) {
        self.credentials.begin();
        *self.state.lock() = HttpState::default();
    }

    /// Whether HTTP failed with an error that every other request to the server would get, too.
    pub fn failed_for_all(&self) -> bool {
        let failed =
            |e: &HttpError| e.is_transient() || e.status().is_some_and(|status| status.as_u16() == 401);
        self.state.lock().error.as_ref().is_some_and(failed)
    }

    /// Whether the last fetch ended because git needed too much memory.
    pub fn needed_too_much(&self) -> bool {
        self.state.lock().too_much
    }

    /// The last error of HTTP. A second call returns none.
    pub fn take_error(&self) -> Option<HttpError> {
        self.state.lock().error.take()
    }

    /// Stores an error and returns it as an error of libgit2.
    fn failed(&self, error: HttpError) -> Error {
        let git_error = Error::new(ErrorCode::GenericError, ErrorClass::Http, error.to_string());
        self.state.lock().error = Some(error);
        git_error
    }

    /// Waits for HTTP, or until the fetch is cancelled.
    fn wait<T>(&self, future: impl Future<Output = Result<T, HttpError>>) -> Result<T, Error> {
        let done = self.runtime.block_on(async {
            tokio::pin!(future);
            while !self.cancel.load(Ordering::Relaxed) {
                if let Ok(done) = tokio::time::timeout(POLL_EVERY, &mut future).await {
                    return Some(done);
                }
            }
            None
        });
        let cancelled = || Error::new(ErrorCode::User, ErrorClass::Callback, "cancelled");
        done.ok_or_else(cancelled)?.map_err(|e| self.failed(e))
    }

    /// Sends a request. Repeats it with the next credential while the server refuses the credential and another one remains.
    fn send(&self, request: &Request<'_>) -> Result<HttpResponse, Error> {
        let mut login = self.credentials.current();
        loop {
            let auth = login.as_ref().map(|login| Auth::basic(&self.remote, &login.user, &login.password));
            let asked =
                self.wait(async { Ok(self.client.send(request.clone().auth(auth.as_ref())).await) })?;
            let error = match asked {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Other origins receive no credential, so another credential would not help.
            let refused = error.error_response().filter(|refusal| refusal.status.as_u16() == 401);
            let is_own = refused.and_then(|refusal| refusal.url.parse::<Url>().ok());
            let is_own = is_own.is_some_and(|url| url.origin() == self.remote.origin());
            match if is_own { self.credentials.next() } else { None } {
                Some(next) => login = Some(next),
                None => return Err(self.failed(error)),
            }
        }
    }

    /// Requests the references of the repository: the first request of a connection.
    fn advertisement(&self) -> Result<Body, Error> {
        let mut url = below(&self.remote, "info/refs");
        url.set_query(Some("service=git-upload-pack"));
        let answer =
            self.send(&Request { headers: headers(None, "*/*"), patience: PATIENCE, ..Request::get(url) })?;
        let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        let is_git =
            kind.is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == ADVERTISEMENT));
        let base = answer.url.path().strip_suffix("/info/refs").map(|path| {
            let mut base = answer.url.clone();
            base.set_path(path);
            base.set_query(None);
            base
        });
        match base.filter(|_| is_git) {
            Some(base) => self.state.lock().base = Some(base),
            None => {
                let message =
                    format!("{} does not support git's smart protocol", without_secrets(&answer.url));
                return Err(Error::new(ErrorCode::NotFound, ErrorClass::Http, message));
            }
        }
        Ok(answer.body)
    }

    /// Requests objects.
    fn upload_pack(&self, body: Vec<u8>) -> Result<Body, Error> {
        let base = self.state.lock().base.clone().unwrap_or_else(|| self.remote.clone());
        let request = Request {
            method: Method::POST,
            headers: headers(Some(REQUEST), RESULT),
            body: Some(body),
            patience: PATIENCE,
            ..Request::get(below(&base, "git-upload-pack"))
        };
        Ok(self.send(&request)?.body)
    }
}

fn headers(kind: Option<&'static str>, accept: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static(USER_AGENT));
    headers.insert("accept", HeaderValue::from_static(accept));
    if let Some(kind) = kind {
        headers.insert("content-type", HeaderValue::from_static(kind));
    }
    headers
}

fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// The transport of one connection.
pub(super) struct Transport(pub Arc<GitHttp>);

impl SmartSubtransport for Transport {
    fn action(&self, _: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        let body = match action {
            Service::UploadPackLs => Some(self.0.advertisement()?),
            Service::UploadPack => None,
            Service::ReceivePackLs | Service::ReceivePack => {
                return Err(Error::new(ErrorCode::Invalid, ErrorClass::Http, "pushing is not supported"));
            }
        };
        Ok(Box::new(RequestStream { http: self.0.clone(), request: Vec::new(), body, rest: Bytes::new() }))
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A request and its response. The written bytes are sent when the first byte of the response is read.
struct RequestStream {
    http: Arc<GitHttp>,
    request: Vec<u8>,
    body: Option<Body>,
    /// Bytes that are received but not read yet.
    rest: Bytes,
}

impl RequestStream {
    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        // A server may list references without end.
        if libgit2::is_exceeded() {
            self.http.state.lock().too_much = true;
            return Err(Error::new(ErrorCode::GenericError, ErrorClass::NoMemory, "too much memory"));
        }
        let body = match &mut self.body {
            Some(body) => body,
            none => none.insert(self.http.upload_pack(std::mem::take(&mut self.request))?),
        };
        self.http.wait(body.next())
    }
}

impl Read for RequestStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.next().map_err(|e| io::Error::other(e.message().to_owned()))? {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let part = self.rest.split_to(self.rest.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

impl Write for RequestStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
