//! Makes torrents of files that are already hashed.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::thread::available_parallelism;

use super::EngineError;
use crate::ffi::{self, RawFile};
use crate::model::BLOCK_LEN;

/// One file of a new torrent.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Relative path with `/` between components.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// The path of the file on the disk. Read only for a hybrid torrent.
    pub source: PathBuf,
    /// The root of each piece's blocks (BEP 52). Used only for a v2 torrent.
    pub piece_hashes: Vec<[u8; 32]>,
}

fn raw(files: &[NewFile]) -> Vec<RawFile> {
    files
        .iter()
        .map(|file| RawFile {
            path: file.path.clone(),
            size: file.size,
            source: file.source.as_os_str().as_bytes().to_vec(),
            piece_hashes: file.piece_hashes.concat(),
        })
        .collect()
}

fn checked(piece_length: u32) -> Result<u32, EngineError> {
    // libtorrent loads no torrent with longer pieces.
    const LONGEST: u32 = 128 * 1024 * 1024;
    if piece_length.is_power_of_two() && u64::from(piece_length) >= BLOCK_LEN && piece_length <= LONGEST {
        Ok(piece_length)
    } else {
        Err(EngineError::BadTorrent(format!(
            "the piece length is {piece_length}; it must be a power of two from 16 KiB to 128 MiB"
        )))
    }
}

/// Makes the bencoded metainfo, with piece layers, of a v2 torrent (BEP 52). It depends only on names, sizes and hashes: it
/// has no dates, attributes or comments.
pub fn v2(name: &str, files: &[NewFile], piece_length: u32) -> Result<Vec<u8>, EngineError> {
    ffi::create_v2(name, &raw(files), checked(piece_length)?)
        .map_err(|error| EngineError::BadTorrent(error.what().to_owned()))
}

/// Makes the bencoded metainfo of a hybrid torrent, which v1 clients can join too. Reads all files, on as many threads
/// as there are cores: a blocking call.
pub fn hybrid(name: &str, files: &[NewFile], piece_length: u32) -> Result<Vec<u8>, EngineError> {
    let threads = available_parallelism().map_or(1, |n| n.get().min(64)) as i32;
    ffi::create_hybrid(name, &raw(files), checked(piece_length)?, threads)
        .map_err(|error| EngineError::BadTorrent(error.what().to_owned()))
}
