//! Signed links to LFS objects that are valid for an hour, as storage services use them.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

/// The time for which a link is valid, in seconds, as on the hub.
pub const LIFETIME: u64 = 3600;

/// The key of the signatures. It changes when links must expire early.
#[derive(Debug, Default)]
pub struct Links(Mutex<u64>);

impl Links {
    /// The query that makes a path (not percent-encoded) a valid link.
    pub fn sign(&self, path: &str) -> String {
        let expires = now() + LIFETIME;
        format!("Expires={expires}&Signature={}&Key-Pair-Id=TEST", self.signature(path, expires))
    }

    /// Whether a path (percent-decoded) and its query are a valid link.
    pub fn is_good(&self, path: &str, query: &str) -> bool {
        let field = |name| query.split('&').find_map(|field| field.strip_prefix(name));
        let expires = field("Expires=").and_then(|text| text.parse().ok()).unwrap_or(0);
        expires > now() && field("Signature=") == Some(self.signature(path, expires).as_str())
    }

    /// Makes all links expire.
    pub fn expire(&self) {
        *self.0.lock().unwrap() += 1;
    }

    fn signature(&self, path: &str, expires: u64) -> String {
        let key = *self.0.lock().unwrap();
        hex::encode(Sha256::digest(format!("{key}\n{expires}\n{path}")))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
