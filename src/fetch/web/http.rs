//! The real web: requests over HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use url::Url;

use super::{WebBody, WebError, WebRequest, WebSource};
use crate::http::{Auth, Body, HttpClient, HttpError, Request, Token};

/// The most bytes of a file that are read and discarded where a server sends the whole file instead of the requested part.
/// Beyond that the server is not used.
const MAX_SKIPPED: u64 = 1 << 20;

/// Status codes for missing or insufficient credentials.
const DENIED: [u16; 3] = [401, 403, 407];
/// Status codes for "later".
const BUSY: [u16; 2] = [429, 503];

/// Fetches over HTTP, with the client and the token that a command lent last, or with its own.
#[derive(Debug)]
pub struct HttpSource {
    endpoint: Url,
    own: Access,
    lent: Arc<Mutex<Vec<Arc<Access>>>>,
}

/// A client, and the credentials for the hub.
#[derive(Debug, Clone)]
struct Access {
    client: HttpClient,
    auth: Option<Auth>,
}

impl Access {
    fn new(client: HttpClient, endpoint: &Url, token: Option<&Token>) -> Self {
        let auth = token.map(|token| Auth::bearer(endpoint, token));
        Self { client, auth }
    }
}

/// The client and the token of a command are used while this lives.
#[derive(Debug)]
pub struct Lent {
    access: Arc<Access>,
    all: Arc<Mutex<Vec<Arc<Access>>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.all.lock().retain(|access| !Arc::ptr_eq(access, &self.access));
    }
}

impl HttpSource {
    /// Fetches with a client. The token is for the origin of `endpoint` alone.
    pub fn new(client: HttpClient, endpoint: &Url, token: Option<&Token>) -> Self {
        let own = Access::new(client, endpoint, token);
        Self { endpoint: endpoint.clone(), own, lent: Arc::default() }
    }

    /// Fetches with the client and the token of a command, until the returned guard is dropped.
    #[must_use]
    pub fn lend(&self, client: HttpClient, token: Option<&Token>) -> Lent {
        let access = Arc::new(Access::new(client, &self.endpoint, token));
        self.lent.lock().push(access.clone());
        Lent { access, all: self.lent.clone() }
    }

    fn access(&self) -> Access {
        self.lent.lock().last().map_or_else(|| self.own.clone(), |access| Access::clone(access))
    }
}

impl WebSource for HttpSource {
    fn open(&self, request: WebRequest) -> BoxFuture<'static, Result<WebBody, WebError>> {
        let Access { client, auth } = self.access();
        async move {
            let unfit = |why: &str| WebError::Unfit(format!("{} {why}", request.url));
            let url: Url = request.url.parse().map_err(|_| unfit("is not an address"))?;
            let range = request.range.clone();
            let asked = Request::get(url).auth(auth.as_ref()).range(range.start, Some(range.end));
            let answer = client.send(asked).await.map_err(|error| web_error(&error))?;
            if answer.total.is_some_and(|total| total != request.file_len) {
                return Err(unfit("is a file of another length"));
            }
            let skip = range.start.saturating_sub(answer.start);
            if skip > MAX_SKIPPED {
                return Err(unfit("is not sent in parts"));
            }
            Ok(without_start(answer.body, skip))
        }
        .boxed()
    }
}

/// The bytes of a body after the first `skip`.
fn without_start(body: Body, skip: u64) -> WebBody {
    let next = async |(mut body, mut skip): (Body, u64)| {
        loop {
            let mut bytes: Bytes = match body.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return None,
                Err(error) => return Some((Err(web_error(&error)), (body, skip))),
            };
            let cut = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            let _ = bytes.split_to(cut);
            skip -= cut as u64;
            if !bytes.is_empty() {
                return Some((Ok(bytes), (body, skip)));
            }
        }
    };
    stream::unfold((body, skip), next).boxed()
}

fn web_error(error: &HttpError) -> WebError {
    let why = error.to_string();
    if let Some(refusal) = error.error_response() {
        let status = refusal.status.as_u16();
        if BUSY.contains(&status) {
            let retry_after: Option<Duration> = refusal.retry_after;
            return WebError::Busy { why, retry_after };
        }
        if DENIED.contains(&status) {
            return WebError::Denied(format!("{why}; a token with read access is needed"));
        }
    }
    if error.is_transient() { WebError::Unreachable(why) } else { WebError::Unfit(why) }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;

    use axum::Router;
    use axum::extract::Request as Asked;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};

    use super::*;
    use crate::config::Config;

    const LEN: u64 = 4 << 20;

    fn file() -> Vec<u8> {
        (0..LEN).map(|i| (i / 1000) as u8).collect()
    }

    /// A server on loopback. Returns its address.
    async fn serve(answer: fn(&Asked) -> Response) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let router = Router::new().fallback(async move |asked: Asked| answer(&asked));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        base
    }

    async fn fetch(base: &str, path: &str, range: Range<u64>) -> Result<Vec<u8>, WebError> {
        fetch_as(base, path, range, "http://hub.example", None).await
    }

    async fn fetch_as(
        base: &str,
        path: &str,
        range: Range<u64>,
        endpoint: &str,
        token: Option<&Token>,
    ) -> Result<Vec<u8>, WebError> {
        let client = HttpClient::new(&Config::defaults(Path::new("/nonexistent")).network).unwrap();
        let client = client.allowing_private(&base.parse().unwrap());
        let source = HttpSource::new(client, &endpoint.parse().unwrap(), token);
        let request = WebRequest { url: format!("{base}{path}"), range, file_len: LEN };
        let mut body = source.open(request).await?;
        let mut all = Vec::new();
        while let Some(bytes) = body.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    /// The requested range, from the header.
    fn asked_range(asked: &Asked) -> Range<usize> {
        let text = asked.headers()["range"].to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = text.split_once('-').unwrap();
        first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
    }

    fn files(asked: &Asked) -> Response {
        let partial = |range: Range<usize>, total: u64| {
            let content_range = format!("bytes {}-{}/{total}", range.start, range.end - 1);
            (StatusCode::PARTIAL_CONTENT, [("content-range", content_range)], file()[range].to_vec())
                .into_response()
        };
        let refusal = |status: StatusCode| (status, [("retry-after", "7")]).into_response();
        match asked.uri().path() {
            "/good" => partial(asked_range(asked), LEN),
            "/whole" => file().into_response(),
            "/other-file" => partial(asked_range(asked), LEN + 1),
            "/other-range" => partial(0..100, LEN),
            "/short" => file()[..100].to_vec().into_response(),
            "/busy" => refusal(StatusCode::TOO_MANY_REQUESTS),
            "/away" => refusal(StatusCode::SERVICE_UNAVAILABLE),
            "/faulty" => refusal(StatusCode::INTERNAL_SERVER_ERROR),
            "/range" => refusal(StatusCode::RANGE_NOT_SATISFIABLE),
            "/gated" => refusal(StatusCode::FORBIDDEN),
            "/private" => refusal(StatusCode::UNAUTHORIZED),
            "/token" => {
                let token = asked.headers().get("authorization").map(|t| t.to_str().unwrap().to_owned());
                let mut bytes = token.unwrap_or_default().into_bytes();
                bytes.resize(LEN as usize, b' ');
                bytes.into_response()
            }
            _ => refusal(StatusCode::NOT_FOUND),
        }
    }

    #[tokio::test]
    async fn requested_part_is_cut_out_of_a_whole_file() {
        let base = serve(files).await;
        let good = fetch(&base, "good", 1_500_000..2_500_000).await.unwrap();
        assert!(good == file()[1_500_000..2_500_000]);
        let whole = fetch(&base, "whole", 1_000_000..1_500_000).await.unwrap();
        assert!(whole[..500_000] == file()[1_000_000..1_500_000]);
    }

    #[tokio::test]
    async fn other_bytes_than_requested_are_refused() {
        let base = serve(files).await;
        for (path, reason) in [
            ("whole", "is not sent in parts"),
            ("other-file", "of another length"),
            ("other-range", "did not send the requested range"),
            ("short", "of another length"),
            ("range", "416"),
            ("none", "404"),
        ] {
            let error = fetch(&base, path, 2_000_000..3_000_000).await.unwrap_err();
            assert!(matches!(error, WebError::Unfit(_)), "{path}: {error:?}");
            assert!(error.to_string().contains(reason), "{path}: {error}");
        }
    }

    #[tokio::test]
    async fn failures_are_distinguished() {
        let base = serve(files).await;
        for path in ["busy", "away"] {
            let error = fetch(&base, path, 0..10).await.unwrap_err();
            let WebError::Busy { retry_after, .. } = error else { panic!("{path}: {error:?}") };
            assert_eq!(retry_after, Some(Duration::from_secs(7)));
        }
        for path in ["gated", "private"] {
            let error = fetch(&base, path, 0..10).await.unwrap_err();
            assert!(matches!(error, WebError::Denied(_)), "{path}: {error:?}");
        }
        let error = fetch(&base, "faulty", 0..10).await.unwrap_err();
        assert!(matches!(error, WebError::Unreachable(_)), "{error:?}");
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = fetch(&format!("http://{closed}/"), "x", 0..10).await.unwrap_err();
        assert!(matches!(error, WebError::Unreachable(_)), "{error:?}");
    }

    #[tokio::test]
    async fn token_is_sent_to_the_hub_only() {
        let (hub, other) = (serve(files).await, serve(files).await);
        let token = Token::new("hf_secret").unwrap();
        for (base, expected) in [(&hub, "Bearer hf_secret"), (&other, "")] {
            let sent = fetch_as(base, "token", 0..100, &hub, Some(&token)).await.unwrap();
            assert_eq!(String::from_utf8(sent[..30].to_vec()).unwrap().trim(), expected);
        }
    }
}
