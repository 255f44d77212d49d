//! The log of a server: requests and answers.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};

use super::uri::decoded_path;

/// The requests to one or several servers, in the order of their arrival. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Vec<Asked>>,
    changed: Condvar,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The name of the server, as given at its start.
    pub site: &'static str,
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// The text after the question mark, not decoded.
    pub query: String,
    /// The header `Range`.
    pub range: Option<String>,
    /// The header `If-Range`.
    pub if_range: Option<String>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// Bytes of the body given to the connection so far. A client that disconnected did not receive all of them.
    pub sent: u64,
}

/// A request's position in the log.
#[derive(Debug, Clone)]
pub struct Entry(Log, usize);

impl Log {
    /// All requests so far.
    pub fn all(&self) -> Vec<Asked> {
        self.0.entries.lock().unwrap().clone()
    }

    /// The requests for a path that contains `path`.
    pub fn of(&self, path: &str) -> Vec<Asked> {
        self.all().into_iter().filter(|asked| asked.path.contains(path)).collect()
    }

    /// Bytes of bodies sent for paths that contain this text.
    pub fn sent(&self, path: &str) -> u64 {
        self.of(path).iter().map(|asked| asked.sent).sum()
    }

    /// Waits until the log has a request that satisfies a condition, and returns the first.
    #[track_caller]
    pub fn wait_for(&self, deadline: Duration, condition: impl Fn(&Asked) -> bool) -> Asked {
        let until = Instant::now() + deadline;
        let mut entries = self.0.entries.lock().unwrap();
        loop {
            if let Some(asked) = entries.iter().find(|asked| condition(asked)) {
                return asked.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all = entries.clone();
                drop(entries);
                panic!("no such request within {deadline:?}; all requests: {all:#?}");
            }
            entries = self.0.changed.wait_timeout(entries, left).unwrap().0;
        }
    }

    /// Adds a request that has arrived.
    pub fn begin(&self, site: &'static str, request: &Request) -> Entry {
        let asked = Asked {
            site,
            method: request.method().to_string(),
            path: decoded_path(request),
            query: request.uri().query().unwrap_or_default().to_owned(),
            range: header(request.headers(), "range"),
            if_range: header(request.headers(), "if-range"),
            authorization: header(request.headers(), "authorization"),
            status: 0,
            sent: 0,
        };
        let mut entries = self.0.entries.lock().unwrap();
        entries.push(asked);
        self.0.changed.notify_all();
        Entry(self.clone(), entries.len() - 1)
    }
}

impl Entry {
    /// Records the answer, and the number of body bytes that are sent with it.
    pub fn answered(&self, status: StatusCode, bytes: u64) {
        self.change(|asked| {
            asked.status = status.as_u16();
            asked.sent += bytes;
        });
    }

    /// Adds sent bytes of the body.
    pub fn sent(&self, bytes: u64) {
        self.change(|asked| asked.sent += bytes);
    }

    fn change(&self, change: impl FnOnce(&mut Asked)) {
        let shared = &self.0.0;
        change(&mut shared.entries.lock().unwrap()[self.1]);
        shared.changed.notify_all();
    }
}

/// A header as text.
pub fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
