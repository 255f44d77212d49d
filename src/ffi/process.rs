//! The end of the process.

use std::ffi::c_int;
use std::io::Write as _;

unsafe extern "C" {
    /// POSIX `_exit`.
    safe fn _exit(status: c_int) -> !;
}

/// Ends the process with an exit code, and whatever its threads still do, once standard output is written. No exit handler
/// and no destructor runs: OpenSSL's frees what threads that end meanwhile free, too.
pub(crate) fn exit(code: u8) -> ! {
    // Whether that failed was seen, and said, where something was written.
    let _ = std::io::stdout().flush();
    _exit(code.into())
}
