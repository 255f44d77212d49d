//! Reading the bytes of a content.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Content, ContentState, Location};
use crate::model::BLOCK_LEN;
use crate::nofollow;
use crate::store::placement::Stamp;
use crate::store::{mapfile, record};

/// How often a read is repeated when the file was missing and exists when it is checked: it was being renamed.
pub(crate) const ATTEMPTS: u32 = 16;

/// The failure of a read.
enum ReadFault {
    /// The file no longer has these bytes.
    Lost(Range<u64>, io::Error),
    /// The file may still have the bytes.
    Other(io::Error),
}

/// The result of one attempt to read bytes.
enum ReadAttempt {
    Read(Vec<u8>),
    /// Some bytes are not cached.
    NotCached,
    /// The content has moved or lost blocks during the read: the bytes do not count.
    Changed,
    /// The file was just being renamed.
    Renamed(io::Error),
}

impl Content {
    /// Reads verified bytes. `Ok(None)` if some are not verified. If the file cannot be read or is too short, the range is
    /// missing from then on, and the result is an error.
    pub fn read(&self, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        if range.start > range.end || range.end > self.len() {
            let text = format!("{}..{} is not inside {} bytes", range.start, range.end, self.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if range.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if let Some(twin) = self.twin()
            && let Ok(Some(bytes)) = twin.read(range.clone())
        {
            return Ok(Some(bytes));
        }
        self.used.store(record::now(), Ordering::Relaxed);
        self.read_repeatedly(&range, |state| state.map.has(&range))
    }

    /// Reads verified bytes to compare them with their hash: this does not keep them from being evicted. None if some are not
    /// verified.
    pub fn read_to_prove(&self, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        match self.read_once(&range, |state| state.map.has(&range))? {
            ReadAttempt::Read(bytes) => Ok(Some(bytes)),
            ReadAttempt::NotCached | ReadAttempt::Changed => Ok(None),
            ReadAttempt::Renamed(error) => Err(error),
        }
    }

    /// Reads bytes of which some are not proved, only to prove them. None if some are not cached, or all are proved. If the
    /// file is too short or cannot be read, the range is missing from then on, and the result is an error.
    pub fn read_unproved(&self, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        self.read_repeatedly(&range, |state| state.is_unproved(&range))
    }

    fn read_repeatedly(
        &self,
        range: &Range<u64>,
        is_cached: impl Fn(&ContentState) -> bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            match self.read_once(range, &is_cached)? {
                ReadAttempt::Read(bytes) => return Ok(Some(bytes)),
                ReadAttempt::NotCached => return Ok(None),
                ReadAttempt::Changed => {}
                ReadAttempt::Renamed(error) if attempts.next().is_none() => return Err(error),
                ReadAttempt::Renamed(_) => {}
            }
        }
    }

    /// Reads bytes if `is_cached` is true. Lost bytes are missing from then on, and are an error.
    fn read_once(
        &self,
        range: &Range<u64>,
        is_cached: impl Fn(&ContentState) -> bool,
    ) -> io::Result<ReadAttempt> {
        let (location, version) = {
            let state = self.state();
            if !is_cached(&state) {
                return Ok(ReadAttempt::NotCached);
            }
            (state.location.clone(), state.version)
        };
        let read = self.read_at(&location, version.moves, range);
        if self.version() != version {
            return Ok(ReadAttempt::Changed);
        }
        match read {
            Ok(bytes) => Ok(ReadAttempt::Read(bytes)),
            Err(ReadFault::Lost(lost, error)) if self.remove_lost(version.moves, lost.clone(), &error)? => {
                let path = self.path();
                tracing::warn!(file = %path.display(), %error, "the file lacks bytes; they are fetched again");
                Err(error)
            }
            Err(ReadFault::Lost(_, error)) => Ok(ReadAttempt::Renamed(error)),
            Err(ReadFault::Other(error)) => Err(error),
        }
    }

    fn read_at(&self, location: &Location, moves: u64, range: &Range<u64>) -> Result<Vec<u8>, ReadFault> {
        let all = 0..self.len();
        let file = self.open(location, moves).map_err(|e| match e.kind() {
            // A link, or the directory of another user, has the path of the file.
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData => ReadFault::Lost(all.clone(), e),
            _ => ReadFault::Other(e),
        })?;
        if let Location::Placed(placed) = location {
            // Another program may change the same inode in place. A file that a rename replaced stays whole for this handle.
            let stamp = Stamp::of(&file.metadata().map_err(ReadFault::Other)?);
            if stamp != placed.stamp {
                let text = "the file has changed since it was verified";
                return Err(ReadFault::Lost(all, io::Error::new(io::ErrorKind::InvalidData, text)));
            }
        }
        let len = (range.end - range.start) as usize;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = range.start + bytes.len() as u64;
            bytes.reserve_exact(len - bytes.len());
            match rustix::io::pread(&*file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => {
                    let text = "the file is shorter than it was";
                    let lost = at / BLOCK_LEN * BLOCK_LEN..self.len();
                    return Err(ReadFault::Lost(lost, io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::IO) => {
                    return Err(ReadFault::Lost(range.clone(), rustix::io::Errno::IO.into()));
                }
                Err(e) => return Err(ReadFault::Other(e.into())),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn open(&self, location: &Location, moves: u64) -> io::Result<Arc<File>> {
        self.parts.fds.get((self.id, moves), || match location {
            Location::Empty => Err(io::ErrorKind::NotFound.into()),
            Location::Memory(file) => file.open(),
            Location::Own(_) | Location::Placed(_) => nofollow::read(location.path()),
        })
    }

    /// The file, if all of it is verified and, for a placed one, unchanged; for FUSE passthrough. The caller holds a
    /// [`Content::pin`] as long as the file: otherwise an eviction could empty it under its reader.
    pub fn open_for_passthrough(&self) -> Option<File> {
        let (location, version) = {
            let state = self.state();
            if !state.map.is_full() {
                return None;
            }
            (state.location.clone(), state.version)
        };
        let file = match location {
            Location::Empty | Location::Memory(_) => None,
            Location::Own(path) => self.open_own(&path, version.moves),
            Location::Placed(placed) => {
                let file = nofollow::read(&placed.path).ok()?;
                (Stamp::of(&file.metadata().ok()?) == placed.stamp).then_some(file)
            }
        };
        // If the content has moved, another file than the one that the map describes may have been opened.
        file.filter(|_| self.version() == version)
    }

    /// Opens the content's own file if it has the right length: with passthrough, the kernel shows the length of the file. If
    /// the file is shorter, the rest counts as missing; if it is longer, it is cut.
    fn open_own(&self, path: &Path, moves: u64) -> Option<File> {
        let opened = nofollow::read(path).and_then(|file| {
            let found = file.metadata()?;
            if found.len() == self.len() && mapfile::is_other(path, &found) {
                self.writer().doubt_all(moves)?;
                return Err(io::Error::other("it is proved again"));
            }
            Ok((found.len(), file))
        });
        let (len, lost, error) = match opened {
            Ok((len, file)) if len == self.len() => return Some(file),
            Ok((len, _)) if len > self.len() => {
                let cut = nofollow::write(path).and_then(|file| file.set_len(self.len()));
                tracing::warn!(file = %path.display(), "the file is longer than its content; it is cut");
                return match mapfile::stamp(path) {
                    Some(_) => cut.and_then(|()| self.writer().doubt_all(moves)).ok().and(None),
                    None => cut.and_then(|()| nofollow::read(path)).ok(),
                };
            }
            Ok((len, _)) => (len, len / BLOCK_LEN * BLOCK_LEN, io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, 0, error),
            Err(_) => return None,
        };
        match self.remove_lost(moves, lost..self.len(), &error) {
            Ok(true) => {
                tracing::warn!(file = %path.display(), len, "the file is too short; the rest is fetched again");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "could not record that the file is too short");
            }
        }
        None
    }
}
