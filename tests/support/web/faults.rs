//! Faults of a server that can be switched on: for every path or some, permanently or a number of times.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;

use super::uri::decoded_path;

/// A wrong way to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status, with only its name in the body: 500, 503.
    Status(u16),
    /// 401, with a request for Basic or Bearer credentials, also to a client that has sent some.
    Unauthorized,
    /// 403 with `X-Error-Code: GatedRepo`, as a hub whose conditions the user has not accepted.
    Gated,
    /// 404 with `X-Error-Code: RepoNotFound`, as a hub answers for a repository that it hides.
    RepoNotFound,
    /// 404 with `X-Error-Code: EntryNotFound`: the file or object is not there.
    NotFound,
    /// 429 with `Retry-After` in whole seconds.
    RetryAfter(u64),
    /// 429 with the header `RateLimit` as the hub sends it: no request left, more after this many seconds.
    RateLimit(u64),
    /// 403 as a storage service answers for a signed link that has expired.
    ExpiredLink,
    /// 302 to the same path and query at another origin (`http://host:port`).
    Redirect(String),
    /// The connection ends after this many bytes of the body. The network may lose the last few of them.
    Truncated(u64),
    /// The body has the right length, and one wrong bit in each 64 KiB.
    WrongBytes,
    /// The body stalls after this many bytes, and the connection stays open.
    Stalled(u64),
    /// The body is sent at this many bytes per second.
    Slow(u64),
    /// A request with `Range` gets 200 and the whole file.
    IgnoresRange,
    /// A request with `Range` gets 206 and a range that begins one byte later than requested, with a true
    /// `Content-Range`.
    OtherRange,
}

impl Fault {
    /// The whole answer, if the fault needs no file for it.
    pub fn answer(&self, request: &Request) -> Option<Response> {
        let response = Response::builder();
        let (response, text) = match self {
            Self::Status(status) => {
                let status = StatusCode::from_u16(*status).unwrap();
                (response.status(status), status.canonical_reason().unwrap_or_default().to_owned())
            }
            Self::Unauthorized => (
                response
                    .status(401)
                    .header(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")
                    .header("LFS-Authenticate", "Basic realm=\"test\""),
                "Unauthorized".to_owned(),
            ),
            Self::Gated => (
                response.status(403).header("X-Error-Code", "GatedRepo"),
                "Access to this repository is restricted and you are not in the authorized list.".to_owned(),
            ),
            Self::RepoNotFound => {
                (response.status(404).header("X-Error-Code", "RepoNotFound"), "Repository not found".to_owned())
            }
            Self::NotFound => {
                (response.status(404).header("X-Error-Code", "EntryNotFound"), "Entry not found".to_owned())
            }
            Self::RetryAfter(seconds) => {
                (response.status(429).header(header::RETRY_AFTER, *seconds), "Too Many Requests".to_owned())
            }
            Self::RateLimit(seconds) => (
                response
                    .status(429)
                    .header("RateLimit", format!("\"resolvers\";r=0;t={seconds}"))
                    .header("RateLimit-Policy", "\"fixed window\";\"resolvers\";q=3000;w=300"),
                "Too Many Requests".to_owned(),
            ),
            Self::ExpiredLink => (
                response.status(403).header(header::CONTENT_TYPE, "application/xml"),
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
                    .to_owned(),
            ),
            Self::Redirect(origin) => {
                let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                let target = format!("{}{path}", origin.trim_end_matches('/'));
                (response.status(302).header(header::LOCATION, target), "Found".to_owned())
            }
            Self::Truncated(_)
            | Self::WrongBytes
            | Self::Stalled(_)
            | Self::Slow(_)
            | Self::IgnoresRange
            | Self::OtherRange => return None,
        };
        let text = if request.method() == Method::HEAD { String::new() } else { text };
        Some(response.body(Body::from(text)).unwrap())
    }

    /// Whether the fault changes how a file is sent, instead of replacing the answer.
    fn is_of_files(&self) -> bool {
        matches!(self, Self::Truncated(_) | Self::WrongBytes | Self::Stalled(_) | Self::Slow(_))
            || self.needs_range()
    }

    fn needs_range(&self) -> bool {
        matches!(self, Self::IgnoresRange | Self::OtherRange)
    }

    /// Whether the fault can have an effect on the answer to this request.
    fn applies(&self, request: &Request) -> bool {
        let is_get = request.method() == Method::GET;
        let has_range = request.headers().contains_key(header::RANGE);
        !self.is_of_files() || is_get && (has_range || !self.needs_range())
    }
}

/// The faults of one server. Clones share the same switches.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Rule>>>);

#[derive(Debug)]
struct Rule {
    path: String,
    fault: Fault,
    left: Option<u32>,
}

impl Faults {
    /// Switches a fault on for paths that contain `path`; for all paths if it is empty. Earlier faults have priority.
    /// An answer that refuses or redirects uses up no fault of how a file is sent.
    pub fn always(&self, path: &str, fault: Fault) {
        self.0.lock().unwrap().push(Rule { path: path.to_owned(), fault, left: None });
    }

    /// Switches a fault on for the next `times` requests that it can affect, for paths that contain `path`.
    pub fn times(&self, times: u32, path: &str, fault: Fault) {
        self.0.lock().unwrap().push(Rule { path: path.to_owned(), fault, left: Some(times) });
    }

    /// Switches all faults off.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Whether a fault waits for requests to a path.
    pub fn awaits(&self, path: &str) -> bool {
        self.0.lock().unwrap().iter().any(|rule| rule.left != Some(0) && path.contains(&rule.path))
    }

    /// The fault that answers a request instead of the server. Counts as a use.
    pub fn take(&self, request: &Request) -> Option<Fault> {
        self.take_if(request, |fault| !fault.is_of_files())
    }

    /// The fault for a file that is about to be sent. Counts as a use.
    pub fn take_of_file(&self, request: &Request) -> Option<Fault> {
        self.take_if(request, Fault::is_of_files)
    }

    fn take_if(&self, request: &Request, is_wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let path = decoded_path(request);
        let mut rules = self.0.lock().unwrap();
        let rule = rules.iter_mut().find(|Rule { path: part, fault, left }| {
            *left != Some(0) && path.contains(part) && is_wanted(fault) && fault.applies(request)
        })?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        Some(rule.fault.clone())
    }
}

/// The time that a truncated body waits before the connection ends, so that the sent bytes arrive.
pub const LAST_BYTES: Duration = Duration::from_millis(50);
