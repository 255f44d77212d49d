//! The transport of libgit2 for `http` and `https`, and the limit of its memory: both are global in libgit2, so setting them
//! is unsafe.
//!
//! After [`prepare`] libgit2 makes no connection to an HTTP server itself. Each fetch sets the transport of its thread.

use std::cell::RefCell;
use std::sync::OnceLock;

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport, register};
use git2::{Error, ErrorClass, ErrorCode};

use super::git_memory;
pub(crate) use super::git_memory::{MAX_ALLOCATION, MAX_MEMORY, is_exceeded};

/// Makes the transport of one connection.
type Make = Box<dyn Fn() -> Box<dyn SmartSubtransport>>;

thread_local! {
    /// The transport of the fetch that runs in this thread.
    static CURRENT: RefCell<Option<Make>> = const { RefCell::new(None) };
}

/// Replaces the HTTP of libgit2 and limits its memory ([`git_memory`]). Must be called before each use of a remote, also of a
/// local directory; only the first call has an effect.
pub(crate) fn prepare() -> Result<(), Error> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        git_memory::limit().map_err(|e| e.message().to_owned())?;
        for scheme in ["http", "https"] {
            // SAFETY: no transport may be made meanwhile. All code that makes one calls this function first and waits for it.
            let registered =
                unsafe { register(scheme, |remote| Transport::smart(remote, true, Boxed(current()?))) };
            registered.map_err(|e| e.message().to_owned())?;
        }
        Ok(())
    });
    done.clone().map_err(|e| Error::from_str(&e))
}

fn current() -> Result<Box<dyn SmartSubtransport>, Error> {
    let made = CURRENT.with_borrow(|current| current.as_ref().map(|make| make()));
    made.ok_or_else(|| {
        Error::new(ErrorCode::GenericError, ErrorClass::Http, "no HTTP client is set for this fetch")
    })
}

/// Runs `work`, whose HTTP connections are made by `make`.
pub(crate) fn with_http<T>(
    make: impl Fn() -> Box<dyn SmartSubtransport> + 'static,
    work: impl FnOnce() -> T,
) -> T {
    /// Resets the transport, also when the work panics.
    struct Reset(Option<Make>);
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _reset = Reset(CURRENT.replace(Some(Box::new(make))));
    work()
}

/// libgit2's binding expects a type, not a trait object.
struct Boxed(Box<dyn SmartSubtransport>);

impl SmartSubtransport for Boxed {
    fn action(&self, url: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        self.0.action(url, action)
    }

    fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}
