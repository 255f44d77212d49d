//! Settings of libgit2 that are global there, which makes setting them unsafe.

use std::sync::Once;
use std::time::Duration;

/// How long a server may take to accept a connection, and may send nothing afterwards. Servers that are busy packing send
/// a sign of life every few seconds.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Has all that git fetches end when the server is silent. Called before each use of a remote; only the first counts.
pub(crate) fn set_timeouts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let milliseconds = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: each writes one C int that only connections read, and no connection is made before this returns.
        let set = unsafe {
            git2::opts::set_server_connect_timeout_in_milliseconds(milliseconds(CONNECT_WITHIN))
                .and_then(|()| git2::opts::set_server_timeout_in_milliseconds(milliseconds(ANSWER_WITHIN)))
        };
        if let Err(e) = set {
            tracing::warn!("libgit2 takes no timeouts: {e}.");
        }
    });
}
