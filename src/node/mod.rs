//! The running engine and its control socket.
