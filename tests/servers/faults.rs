//! Tests of the faults of the test servers, with an ordinary HTTP client: the effect of each fault, and its end.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};

use crate::support::fixtures::noise;
use crate::support::process::PATIENCE;
use crate::support::web::Site;
use crate::support::web::faults::Fault;
use crate::support::web::files::{self, Content};
use crate::support::web::log::Log;
use crate::support::web::place::Place;

const SIZE: usize = 300_000;

/// A server that has the same file under every path.
struct Server {
    site: Site,
    log: Log,
    file: Vec<u8>,
    client: Client,
}

impl Server {
    fn new() -> Self {
        let (log, file) = (Log::default(), noise(3, SIZE));
        let bytes = file.clone();
        let site = Site::start(&Place::loopback(), "files", &log, |_| {
            Router::new().fallback(move |request: Request| {
                let content = Content::Memory(bytes.clone().into());
                async move { files::answer(&request, content, "tag") }
            })
        });
        let client = Client::builder().no_proxy().timeout(PATIENCE).redirect(Policy::none()).build().unwrap();
        Self { site, log, file, client }
    }

    async fn get(&self, path: &str, headers: &[(reqwest::header::HeaderName, &str)]) -> Response {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        self.client.get(format!("{}{path}", self.site.url())).headers(headers).send().await.unwrap()
    }

    /// Status and header of a response with this fault. Checks that the next response has no fault.
    async fn once(&self, fault: Fault, header: &str) -> (u16, String) {
        self.site.faults().times(1, "/file", fault);
        let response = self.get("/file", &[]).await;
        let header = response.headers().get(header).map_or("", |value| value.to_str().unwrap()).to_owned();
        let status = response.status().as_u16();
        assert_eq!(self.get("/file", &[]).await.bytes().await.unwrap(), self.file);
        (status, header)
    }
}

/// The bytes up to the end or the failure of the body, and whether it ended.
async fn read(mut response: Response) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend(chunk),
            Ok(None) => return (bytes, true),
            Err(_) => return (bytes, false),
        }
    }
}

#[tokio::test]
async fn ranges_are_sent_only_for_the_current_tag() {
    let server = Server::new();
    let response = server.get("/file", &[(RANGE, "bytes=10-19"), (IF_RANGE, "\"tag\"")]).await;
    assert_eq!(response.status(), 206);
    assert_eq!(response.headers()[CONTENT_RANGE], "bytes 10-19/300000");
    assert_eq!(response.headers()[ETAG], "\"tag\"");
    assert_eq!(response.bytes().await.unwrap(), server.file[10..20]);
    let response = server.get("/file", &[(RANGE, "bytes=10-19"), (IF_RANGE, "\"other\"")]).await;
    assert_eq!((response.status().as_u16(), response.content_length()), (200, Some(SIZE as u64)));
    let response = server.get("/file", &[(RANGE, "bytes=300000-")]).await;
    assert_eq!(response.status(), 416);
    assert_eq!(response.headers()[CONTENT_RANGE], "bytes */300000");
}

#[tokio::test]
async fn refusals_have_the_requested_number() {
    let server = Server::new();
    let cases = [
        (Fault::Status(503), "", (503, "")),
        (Fault::Unauthorized, WWW_AUTHENTICATE.as_str(), (401, "Basic realm=\"test\"")),
        (Fault::Gated, "x-error-code", (403, "GatedRepo")),
        (Fault::RepoNotFound, "x-error-code", (404, "RepoNotFound")),
        (Fault::NotFound, "x-error-code", (404, "EntryNotFound")),
        (Fault::RetryAfter(7), "retry-after", (429, "7")),
        (Fault::RateLimit(9), "ratelimit", (429, "\"resolvers\";r=0;t=9")),
        (Fault::ExpiredLink, "content-type", (403, "application/xml")),
        (Fault::Redirect("http://192.0.2.1".into()), LOCATION.as_str(), (302, "http://192.0.2.1/file")),
    ];
    for (fault, header, (status, value)) in cases {
        let header = if header.is_empty() { "x-none" } else { header };
        assert_eq!(server.once(fault.clone(), header).await, (status, value.to_owned()), "{fault:?}");
    }
    server.site.faults().always("/file", Fault::Status(500));
    for _ in 0..3 {
        assert_eq!(server.get("/file", &[]).await.status(), 500);
    }
    assert_eq!(server.get("/other", &[]).await.status(), 200);
    server.site.faults().clear();
    assert_eq!(server.get("/file", &[]).await.status(), 200);
}

#[tokio::test]
async fn bodies_have_the_requested_faults() {
    let server = Server::new();
    let faults = server.site.faults();
    faults.times(1, "/file", Fault::Truncated(100_000));
    let (bytes, ended) = read(server.get("/file", &[]).await).await;
    assert!(!ended && bytes == server.file[..100_000], "{} bytes", bytes.len());

    faults.times(1, "/file", Fault::WrongBytes);
    let (bytes, ended) = read(server.get("/file", &[]).await).await;
    let differing = bytes.iter().zip(&server.file).filter(|(a, b)| a != b).count();
    assert!(ended && bytes.len() == SIZE);
    assert_eq!(differing, SIZE.div_ceil(64 << 10));

    faults.times(1, "/file", Fault::Slow(1_000_000));
    let before = Instant::now();
    let (bytes, ended) = read(server.get("/file", &[]).await).await;
    assert!(ended && bytes == server.file);
    assert!(before.elapsed() >= Duration::from_millis(290), "{:?}", before.elapsed());

    // The bytes before the stall are received, and the connection stays open.
    faults.times(1, "/file", Fault::Stalled(100_000));
    let mut response = server.get("/file", &[]).await;
    let mut bytes = 0;
    while bytes < 100_000 {
        bytes += response.chunk().await.unwrap().unwrap().len();
    }
    assert_eq!(bytes, 100_000);
    let more = tokio::time::timeout(Duration::from_millis(200), response.chunk()).await;
    assert!(more.is_err(), "a stalled body returned {more:?}");
}

#[tokio::test]
async fn ranges_have_the_requested_faults() {
    let server = Server::new();
    let faults = server.site.faults();
    faults.times(1, "/file", Fault::IgnoresRange);
    assert_eq!(server.get("/file", &[]).await.status(), 200);
    let response = server.get("/file", &[(RANGE, "bytes=10-19")]).await;
    assert_eq!((response.status().as_u16(), response.content_length()), (200, Some(SIZE as u64)));

    faults.times(1, "/file", Fault::OtherRange);
    let response = server.get("/file", &[(RANGE, "bytes=10-19")]).await;
    assert_eq!(response.status(), 206);
    assert_eq!(response.headers()[CONTENT_RANGE], "bytes 11-19/300000");
    assert_eq!(response.bytes().await.unwrap(), server.file[11..20]);
}

#[tokio::test]
async fn log_has_requests_and_sent_bytes() {
    let server = Server::new();
    let request = server.client.get(format!("{}/a%20b?x=1", server.site.url()));
    let response = request.header(RANGE, "bytes=0-9").bearer_auth("secret").send().await.unwrap();
    assert_eq!(response.bytes().await.unwrap().len(), 10);
    let asked = server.log.wait_for(PATIENCE, |asked| asked.sent == 10);
    assert_eq!((asked.site, &*asked.method, &*asked.path, &*asked.query), ("files", "GET", "/a b", "x=1"));
    assert_eq!((asked.range.as_deref(), asked.if_range.as_deref()), (Some("bytes=0-9"), None));
    assert_eq!((asked.authorization.as_deref(), asked.status), (Some("Bearer secret"), 206));
    assert_eq!(server.log.sent("/a b"), 10);
    assert_eq!(server.log.all().len(), 1);
}
