//! Tests with real servers on loopback.

use axum::Router;
use axum::extract::{Request as Asked, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use super::*;
use crate::config::{Config, LoadOptions};

type Handler = Arc<dyn Fn(&Asked) -> Response + Send + Sync>;
/// Path and headers of each request.
type RequestLog = Arc<Mutex<Vec<(String, HeaderMap)>>>;

/// A server whose responses come from a function, and that logs its requests.
struct Server {
    base: Url,
    log: RequestLog,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(answer: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let log = RequestLog::default();
        let answer: Handler = Arc::new(answer);
        let all = async |State((log, answer)): State<(RequestLog, Handler)>, asked: Asked| {
            log.lock().push((asked.uri().to_string(), asked.headers().clone()));
            answer(&asked)
        };
        let router = Router::new().fallback(all).with_state((log.clone(), answer));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, log, task }
    }

    fn url(&self, path: &str) -> Url {
        self.base.join(path).unwrap()
    }

    fn authorized(&self) -> Vec<bool> {
        self.log.lock().iter().map(|(_, headers)| headers.contains_key("authorization")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client() -> HttpClient {
    let home = tempfile::tempdir().unwrap();
    let options = LoadOptions { home: Some(home.path().to_owned()), ..LoadOptions::default() };
    let client = HttpClient::new(&Config::load(&options).unwrap().network).unwrap();
    // The servers of these tests have private addresses.
    client.allowing_private(&"http://127.0.0.1".parse().unwrap())
}

fn to(url: &Url) -> Response {
    (StatusCode::FOUND, [("location", url.as_str())]).into_response()
}

#[tokio::test]
async fn token_is_not_sent_after_a_redirect_to_another_host() {
    let cdn = Server::start(|_| "bytes".into_response()).await;
    let target = cdn.url("object?X-Sig=1");
    let hub = Server::start(move |asked| match asked.uri().path() {
        "/first" => (StatusCode::TEMPORARY_REDIRECT, [("location", "/second")]).into_response(),
        _ => to(&target),
    })
    .await;
    let auth = Auth::bearer(&hub.base, &Token::new("hf_secret").unwrap());
    let answer = client().send(Request::get(hub.url("first")).auth(Some(&auth))).await.unwrap();
    assert_eq!(answer.url, cdn.url("object?X-Sig=1"));
    assert_eq!(answer.body.read(10).await.unwrap(), b"bytes");
    assert_eq!((hub.authorized(), cdn.authorized()), (vec![true, true], vec![false]));
}

#[tokio::test]
async fn response_is_the_range_or_the_whole_or_an_error() {
    let server = Server::start(|asked| match asked.uri().path() {
        "/good" => (StatusCode::PARTIAL_CONTENT, [("content-range", "bytes 3-5/10")], "345").into_response(),
        "/other" => (StatusCode::PARTIAL_CONTENT, [("content-range", "bytes 2-4/10")], "234").into_response(),
        "/no-header" => (StatusCode::PARTIAL_CONTENT, "345").into_response(),
        _ => "0123456789".into_response(),
    })
    .await;
    let client = client();
    let ask = |path| client.send(Request::get(server.url(path)).range(3, Some(6)));
    let good = ask("good").await.unwrap();
    assert_eq!((good.start, good.total, good.body.left), (3, Some(10), Some(3)));
    assert_eq!(good.body.read(3).await.unwrap(), b"345");
    let whole = ask("whole").await.unwrap();
    assert_eq!((whole.start, whole.total), (0, Some(10)));
    for path in ["other", "no-header"] {
        let refused = ask(path).await;
        assert!(matches!(refused, Err(HttpError::WrongRange { .. })), "{path}: {refused:?}");
    }
    assert_eq!(server.log.lock()[0].1["range"], "bytes=3-5");
}

#[tokio::test]
async fn error_has_the_message_of_the_server() {
    let server = Server::start(|asked| match asked.uri().path() {
        "/gated" => (
            StatusCode::FORBIDDEN,
            [("x-error-code", "GatedRepo"), ("x-error-message", "Access is\u{9b}restricted")],
        )
            .into_response(),
        "/busy" => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3")], "{\"error\":\"slow\\ndown\"}")
            .into_response(),
        _ => (StatusCode::NOT_FOUND, "<html>").into_response(),
    })
    .await;
    let client = client();
    let ask = async |path| client.send(Request::get(server.url(path))).await.unwrap_err();
    let gated = ask("gated?token=1").await;
    assert_eq!(gated.error_response().unwrap().code.as_deref(), Some("GatedRepo"));
    assert!(!gated.is_transient() && !gated.to_string().contains("token"), "{gated}");
    let busy = ask("busy").await;
    assert!(busy.is_transient());
    assert_eq!(busy.error_response().unwrap().retry_after, Some(Duration::from_secs(3)));
    assert!(busy.to_string().ends_with("429 Too Many Requests (slow down)"), "{busy}");
    assert_eq!(ask("none").await.error_response().unwrap().message, None);
}

#[tokio::test]
async fn short_and_long_bodies_are_errors() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 1024];
        assert!(stream.read(&mut asked).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123").await.unwrap();
    });
    let answer = client().send(Request::get(url.clone())).await.unwrap();
    assert!(matches!(answer.body.read(100).await, Err(HttpError::Cut { .. })));
    server.await.unwrap();
    let gone = client().send(Request::get(url)).await.unwrap_err();
    assert!(matches!(gone, HttpError::Connect { .. }) && gone.is_transient(), "{gone:?}");

    let long = Server::start(|_| "0123456789".into_response()).await;
    let answer = client().send(Request::get(long.url("x"))).await.unwrap();
    assert!(matches!(answer.body.read(9).await, Err(HttpError::TooLong { .. })));
}

#[tokio::test]
async fn number_of_redirects_is_limited() {
    let round = Server::start(|_| (StatusCode::FOUND, [("location", "/again")]).into_response()).await;
    let refused = client().send(Request::get(round.url("x"))).await;
    assert!(matches!(refused, Err(HttpError::Redirects { .. })), "{refused:?}");
    assert_eq!(round.log.lock().len(), MAX_REDIRECTS + 1);
    let nowhere = Server::start(|_| (StatusCode::FOUND, [("location", "http://")]).into_response()).await;
    let refused = client().send(Request::get(nowhere.url("x"))).await;
    assert!(matches!(refused, Err(HttpError::BadRedirect { .. })), "{refused:?}");
}
