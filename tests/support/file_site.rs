//! A web server of a directory that can be made to fail.

use std::path::Path;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;

use super::web::Site;
use super::web::faults::Faults;
use super::web::files::{self, Content};
use super::web::log::Log;
use super::web::place::Place;
use super::web::uri::decoded_path;

/// A running server. Dropping it ends the server.
pub struct FileSite {
    site: Site,
    log: Log,
}

impl FileSite {
    /// Serves the files below a directory.
    pub fn start(place: &Place, dir: &Path) -> Self {
        let log = Log::default();
        let dir = dir.to_owned();
        let site = Site::start(place, "files", &log, |_| {
            Router::new().fallback(async move |request: Request| {
                match Content::open(&dir.join(decoded_path(&request).trim_start_matches('/'))) {
                    Ok(content) => files::answer(&request, content, "1"),
                    Err(_) => StatusCode::NOT_FOUND.into_response(),
                }
            })
        });
        Self { site, log }
    }

    /// `http://address:port`.
    pub fn url(&self) -> &str {
        self.site.url()
    }

    /// The requests that the server has received.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The faults that can be switched on.
    pub fn faults(&self) -> &Faults {
        self.site.faults()
    }
}
