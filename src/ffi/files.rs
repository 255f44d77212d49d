//! Opens the files of torrents for the engine, which opens no file itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::RawOpened;
use crate::store::open_memory;
use crate::{fsutil, nofollow};

pub(super) fn open_file(path: &[u8], write: bool) -> RawOpened {
    let path = Path::new(OsStr::from_bytes(path));
    let opened = match open_memory(path) {
        Some(opened) => opened.map(|file| (file, false)),
        None if write => open_or_create(path),
        None => nofollow::read(path).map(|file| (file, false)),
    };
    match opened {
        Ok((file, created)) => RawOpened { descriptor: file.into_raw_fd(), error: 0, created },
        Err(e) => {
            // For a link, another user's directory or a file that is not regular.
            let error = e.raw_os_error().unwrap_or(Errno::LOOP.raw_os_error());
            RawOpened { descriptor: -1, error, created: false }
        }
    }
}

fn open_or_create(path: &Path) -> io::Result<(File, bool)> {
    match nofollow::write(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            nofollow::create_dir_all(fsutil::parent(path))?;
            Ok((nofollow::open(path, OFlags::RDWR | OFlags::CREATE, 0o644)?, true))
        }
        opened => opened.map(|file| (file, false)),
    }
}
