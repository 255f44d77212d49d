//! A directory on a plain web server: what a web seed is (BEP 19).

use std::path::Path;

use super::web::lighttpd::{Lighttpd, Served};
use super::web::place::Place;

/// A running server of a directory, with ranges. Dropping it ends that.
pub struct FileServer(Lighttpd);

impl FileServer {
    /// Serves all that is below a directory, whatever is put there later too.
    pub fn start(place: &Place, dir: &Path) -> Self {
        Self(Lighttpd::start(place, &dir.canonicalize().unwrap(), ""))
    }

    /// `http://address:port`, with no slash at the end.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// The requests that have been answered, in the order of their ends.
    #[track_caller]
    pub fn served(&self) -> Vec<Served> {
        self.0.served()
    }

    /// Bytes of bodies that were sent, for paths that contain this text.
    #[track_caller]
    pub fn sent(&self, path: &str) -> u64 {
        self.served().iter().filter(|served| served.path.contains(path)).map(|served| served.sent).sum()
    }
}
