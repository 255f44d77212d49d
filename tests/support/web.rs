//! Shared parts of the tests' web servers: a place to listen, a log of requests, faults that can be switched on, and
//! files with ranges.
//!
//! A [`Site`] is one origin (host and port). Its log records requests and answers. Its [`faults::Faults`] are looked
//! up before each request, so a test can break a running server and repair it again.

pub mod faults;
pub mod files;
pub mod lighttpd;
pub mod links;
pub mod log;
pub mod place;
pub mod uri;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt as _;
use tokio::runtime::Runtime;

use faults::Faults;
use log::Log;
use place::Place;

/// A running server on a port of its own. Dropping it closes all connections.
pub struct Site {
    url: String,
    faults: Faults,
    runtime: Option<Runtime>,
}

impl Site {
    /// Listens at `place` and answers with the router that `router` makes for the site's URL. The log calls the site
    /// `name`.
    pub fn start(place: &Place, name: &'static str, log: &Log, router: impl FnOnce(&str) -> Router) -> Self {
        let listener = place.listen();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let faults = Faults::default();
        let watch = Watch { name, log: log.clone(), faults: faults.clone() };
        let router = router(&url).layer(from_fn_with_state(watch, watch_request));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            axum::serve(listener, router).await.unwrap();
        });
        Self { url, faults, runtime: Some(runtime) }
    }

    /// `http://address:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The switches of its faults.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Watch {
    name: &'static str,
    log: Log,
    faults: Faults,
}

/// The result of a handler.
pub type HandlerResult = Result<Response, ErrorResponse>;

/// An error answer.
pub struct ErrorResponse(Box<Response>);

impl From<Response> for ErrorResponse {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        *self.0
    }
}

/// Writes the log, and lets a fault answer instead of the server.
async fn watch_request(State(watch): State<Watch>, mut request: Request, next: Next) -> Response {
    let entry = watch.log.begin(watch.name, &request);
    let response = match watch.faults.take(&request).and_then(|fault| fault.answer(&request)) {
        Some(response) => response,
        None => {
            request.extensions_mut().insert(watch.faults);
            request.extensions_mut().insert(entry.clone());
            next.run(request).await
        }
    };
    // File bodies count their bytes while they are sent.
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    entry.answered(response.status(), bytes);
    response
}
