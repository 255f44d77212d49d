//! Makes hybrid torrents.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::thread::available_parallelism;

use super::EngineError;
use crate::ffi::{self, RawFile};
use crate::model::is_piece_length;

/// One file of a new torrent.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Relative path with `/` between components.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// The path of the file on the disk.
    pub source: PathBuf,
}

/// Makes the bencoded metainfo of a hybrid torrent, which v1 clients can join too. Reads all files, on as many threads
/// as there are cores: a blocking call.
pub fn hybrid(name: &str, files: &[NewFile], piece_length: u32) -> Result<Vec<u8>, EngineError> {
    if !is_piece_length(piece_length) {
        return Err(EngineError::BadTorrent(format!(
            "the piece length is {piece_length}; it must be a power of two from 16 KiB to 128 MiB"
        )));
    }
    let raw = |file: &NewFile| RawFile {
        path: file.path.clone(),
        size: file.size,
        source: file.source.as_os_str().as_bytes().to_vec(),
    };
    let threads = available_parallelism().map_or(1, |n| n.get().min(64)) as i32;
    ffi::create_hybrid(name, &files.iter().map(raw).collect(), piece_length, threads)
        .map_err(|error| EngineError::BadTorrent(error.what().to_owned()))
}
