//! Unfinished downloads in helper directories of download programs, and next to the shared directory.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{ScanDir, ScanError, Scanner, join};
use crate::model::files::MAX_FILES;
use crate::model::remains::{self, Unfinished};
use crate::model::{path, text};
use crate::nofollow;

/// The most unfinished downloads of one error.
const MAX_UNFINISHED: usize = 1000;
/// The longest download list of hfd that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;

impl<A> Scanner<'_, A> {
    /// Adds an unfinished download of `program`.
    pub(super) fn add_unfinished(&mut self, path: &str, program: Unfinished) {
        if self.unfinished.len() < MAX_UNFINISHED {
            self.unfinished.push(format!("{} ({program})", text::clean(path)));
        }
    }

    /// Finds unfinished downloads in a directory that is left out. If a program `holds` unfinished files there, every file
    /// in it counts.
    pub(super) fn check_left_out(
        &mut self,
        place: &ScanDir,
        name: &str,
        holds: Option<Unfinished>,
    ) -> Result<(), ScanError> {
        // Other helper directories have no downloads. Repositories are skipped, because they have many files.
        let dir = match name {
            _ if holds.is_some() => name.to_owned(),
            ".huggingface" => ".huggingface/download".to_owned(),
            ".cache" => ".cache/huggingface/download".to_owned(),
            ".hfd" => return self.check_lists_of_hfd(place),
            _ => return Ok(()),
        };
        let path = join(&place.path, &dir);
        let found =
            files_below(&place.real.join(&dir), &|file| holds.is_some() || file.ends_with(".incomplete"));
        let found = found.map_err(|source| ScanError::Io { path: self.dir.join(&path), source })?;
        for file in found {
            self.add_unfinished(&join(&path, &file), holds.unwrap_or("huggingface_hub"));
        }
        Ok(())
    }

    /// hfd stores lists of files to download. A listed file counts as unfinished only if it is absent; otherwise it was
    /// downloaded before, or by another program.
    fn check_lists_of_hfd(&mut self, place: &ScanDir) -> Result<(), ScanError> {
        for list in remains::LISTS_OF_HFD.map(|list| place.real.join(list)) {
            let mut text = Vec::new();
            match nofollow::read(&list).and_then(|file| file.take(MAX_LIST).read_to_end(&mut text)) {
                Err(e) if is_out_of_reach(&e) => continue,
                read => read.map_err(|source| ScanError::Io { path: list, source })?,
            };
            for file in remains::listed_by_hfd(&String::from_utf8_lossy(&text)) {
                let is_missing = || nofollow::metadata(&place.real.join(&file)).is_err_and(|e| is_absent(&e));
                if path::check_path(&file).is_ok() && is_missing() {
                    self.add_unfinished(&join(&place.path, &file), "hfd");
                }
            }
        }
        Ok(())
    }

    /// Finds unfinished downloads of the model outside its directory: in the blobs of its repository in the hub's cache,
    /// and in the cache of ModelScope.
    pub(super) fn check_outside(&mut self) -> Result<(), ScanError> {
        // The first entry is the blobs of the repository itself.
        if let Some(blobs) = self.blobs.first().cloned() {
            self.check_dir(&blobs, &|name| name.ends_with(".incomplete"), "huggingface_hub")?;
        }
        // `._____temp/org/name` has the downloads of `org/name`. ModelScope writes a dot as three underscores.
        let around: Vec<PathBuf> = self.root.ancestors().skip(1).take(3).map(Path::to_owned).collect();
        for dir in around {
            let Some(below) = self.root.strip_prefix(&dir).ok().and_then(Path::to_str) else { continue };
            for below in BTreeSet::from([below.to_owned(), below.replace("___", ".")]) {
                self.check_dir(&dir.join("._____temp").join(below), &|_| true, "ModelScope")?;
            }
        }
        Ok(())
    }

    /// Adds the files below a directory whose names are those of unfinished downloads.
    fn check_dir(
        &mut self,
        dir: &Path,
        is_unfinished: &dyn Fn(&str) -> bool,
        program: Unfinished,
    ) -> Result<(), ScanError> {
        let found = files_below(dir, is_unfinished);
        let found = found.map_err(|source| ScanError::Io { path: dir.to_owned(), source })?;
        for file in found {
            self.add_unfinished(&dir.join(file).display().to_string(), program);
        }
        Ok(())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether a helper file is absent, behind a link, or of another user. The scan ignores such files, because they are
/// never shared.
fn is_out_of_reach(error: &io::Error) -> bool {
    is_absent(error) || matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied)
}

/// The files below a directory whose names are chosen, as paths relative to it. Follows no link.
fn files_below(dir: &Path, is_chosen: &dyn Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let (mut found, mut todo, mut seen) = (Vec::new(), vec![String::new()], 0);
    while let Some(path) = todo.pop() {
        let place = if path.is_empty() { dir.to_owned() } else { dir.join(&path) };
        let entries = match nofollow::read_dir(&place) {
            Err(e) if is_out_of_reach(&e) => continue,
            entries => entries?,
        };
        for (name, kind) in entries {
            seen += 1;
            if seen > MAX_FILES || found.len() == MAX_UNFINISHED {
                return Ok(found);
            }
            let name = name.to_string_lossy();
            let path = join(&path, &name);
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file() && is_chosen(&name) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
