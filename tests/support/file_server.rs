//! A directory on a plain web server, as a web seed (BEP 19) is.

use std::path::Path;

use super::web::lighttpd::{Lighttpd, Served};
use super::web::place::Place;

/// A running server of a directory, with ranges. Dropping it ends the server.
pub struct FileServer(Lighttpd);

impl FileServer {
    /// Serves all files below a directory, including files that are added later.
    pub fn start(place: &Place, dir: &Path) -> Self {
        Self(Lighttpd::start(place, &dir.canonicalize().unwrap(), ""))
    }

    /// `http://address:port`, with no slash at the end.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// The answered requests, in the order of their ends.
    #[track_caller]
    pub fn served(&self) -> Vec<Served> {
        self.0.served()
    }

    /// Bytes of bodies that were sent for paths that contain `path`.
    #[track_caller]
    pub fn sent(&self, path: &str) -> u64 {
        self.served().iter().filter(|served| served.path.contains(path)).map(|served| served.sent).sum()
    }
}
