//! Logging to stderr or to a file.
