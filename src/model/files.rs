//! Checks of the files of a torrent, the same for files from a manifest, from metainfo and from a directory.

use std::collections::HashMap;

use super::path::{self, PathError};
use super::{PiecesRoot, is_piece_length};

/// The most files of a torrent.
pub const MAX_FILES: usize = 100_000;
/// The most bytes of a torrent: the largest integer that a JSON number holds exactly (RFC 8785 has doubles).
pub const MAX_TOTAL: u64 = (1 << 53) - 1;
/// The most bytes of a file: 16 TiB, the longest file of ext4, so that no file needs a block map of more than 128 MiB.
pub const MAX_FILE: u64 = 1 << 44;
/// The most pieces of a torrent. The engine needs some 77 bytes of memory for each, so a torrent of a stranger costs at most
/// 40 MiB.
pub const MAX_PIECES: u64 = 1 << 19;

/// A file as a torrent describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TorrentFile<'a> {
    /// Relative path.
    pub path: &'a str,
    /// Bytes.
    pub size: u64,
    /// Merkle root; none for an empty file.
    pub pieces_root: Option<PiecesRoot>,
}

/// The reason why a list of files is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// A path is refused or conflicts with another.
    #[error(transparent)]
    Path(#[from] PathError),
    /// No files.
    #[error("there are no files")]
    Empty,
    /// All files are empty. No client joins a torrent without pieces.
    #[error("all files are empty; a model needs at least one byte")]
    NoBytes,
    /// More than [`MAX_FILES`].
    #[error("there are {0} files; at most {MAX_FILES} are accepted")]
    TooMany(usize),
    /// [`is_piece_length`] refuses it.
    #[error("the piece length {0} is not a power of two from 16 KiB to 128 MiB")]
    PieceLength(u32),
    /// A file with bytes but no root.
    #[error("the file {0:?} has no pieces root")]
    NoRoot(String),
    /// An empty file with a root.
    #[error("the empty file {0:?} has a pieces root")]
    RootOfNothing(String),
    /// The same root for two lengths, so one of them is wrong.
    #[error("the file {0:?} has the pieces root of a file with another size")]
    RootOfOtherSize(String),
    /// More than [`MAX_TOTAL`] bytes.
    #[error("the sizes of the files add up to more than 2^53 - 1 bytes")]
    TooLarge,
    /// A file of more than [`MAX_FILE`] bytes.
    #[error("the file {0:?} is longer than 16 TiB")]
    FileTooLarge(String),
    /// A file, or the torrent itself, has a name that BitTorrent v1 uses for padding.
    #[error("BitTorrent v1 clients treat {0:?} as padding, so it cannot be in a hybrid torrent")]
    Padding(String),
    /// More than [`MAX_PIECES`].
    #[error(
        "there are {pieces} pieces of {piece_length} bytes; at most {MAX_PIECES} are possible: use longer pieces"
    )]
    TooManyPieces {
        /// Number of pieces.
        pieces: u64,
        /// Bytes per piece.
        piece_length: u32,
    },
}

/// Checks files that are in canonical order, and returns the sum of their sizes.
pub fn check<'a>(
    piece_length: u32,
    files: impl ExactSizeIterator<Item = TorrentFile<'a>> + Clone,
) -> Result<u64, FilesError> {
    match files.len() {
        0 => return Err(FilesError::Empty),
        n if n > MAX_FILES => return Err(FilesError::TooMany(n)),
        _ => {}
    }
    if !is_piece_length(piece_length) {
        return Err(FilesError::PieceLength(piece_length));
    }
    path::check_sorted(files.clone().map(|file| file.path))?;
    let mut total = 0u64;
    let mut pieces = 0u64;
    let mut sizes = HashMap::new();
    for file in files {
        match file.pieces_root {
            None if file.size > 0 => return Err(FilesError::NoRoot(file.path.to_owned())),
            _ if file.size > MAX_FILE => return Err(FilesError::FileTooLarge(file.path.to_owned())),
            Some(_) if file.size == 0 => return Err(FilesError::RootOfNothing(file.path.to_owned())),
            Some(root) if *sizes.entry(root).or_insert(file.size) != file.size => {
                return Err(FilesError::RootOfOtherSize(file.path.to_owned()));
            }
            _ => {}
        }
        total =
            total.checked_add(file.size).filter(|&total| total <= MAX_TOTAL).ok_or(FilesError::TooLarge)?;
        pieces += file.size.div_ceil(u64::from(piece_length));
    }
    if total == 0 {
        return Err(FilesError::NoBytes);
    }
    if pieces > MAX_PIECES {
        return Err(FilesError::TooManyPieces { pieces, piece_length });
    }
    Ok(total)
}

/// Checks that a torrent with these paths can be hybrid. Between the files v1 needs padding, which is itself a file:
/// `.pad/<length>` in BEP 47, and any path with `_____padding_file_` in BitComet and libtorrent.
pub fn check_hybrid<'a>(name: &'a str, paths: impl IntoIterator<Item = &'a str>) -> Result<(), FilesError> {
    let is_padding = |path: &&str| {
        path.contains("_____padding_file_") || path.split('/').next().is_some_and(|top| top == ".pad")
    };
    let found = [name].into_iter().chain(paths).find(is_padding);
    found.map_or(Ok(()), |path| Err(FilesError::Padding(path.chars().take(120).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64, root: Option<u8>) -> TorrentFile<'_> {
        TorrentFile { path, size, pieces_root: root.map(|b| PiecesRoot([b; 32])) }
    }

    #[test]
    fn hybrid_torrents_refuse_names_of_padding() {
        assert_eq!(check_hybrid("m", ["a", "padding_file_", "x/.pad", ".padding"]), Ok(()));
        for path in
            ["_____padding_file_0_x", "sub/a_____padding_file_1", "_____padding_file_/a", ".pad/5", ".pad"]
        {
            assert_eq!(check_hybrid("m", ["a", path]), Err(FilesError::Padding(path.into())), "{path}");
        }
        assert!(check_hybrid("_____padding_file_", ["a"]).is_err());
    }

    #[test]
    fn lists_are_checked() {
        let check = |files: &[TorrentFile<'_>]| check(16384, files.iter().copied());
        assert_eq!(check(&[file("a", 3, Some(1)), file("b", 0, None), file("c", 3, Some(1))]), Ok(6));
        assert_eq!(check(&[]), Err(FilesError::Empty));
        assert_eq!(check(&[file("a", 0, None), file("b", 0, None)]), Err(FilesError::NoBytes));
        assert_eq!(check(&[file("a", 3, None)]), Err(FilesError::NoRoot("a".into())));
        let long = check(&[file("a", MAX_FILE + 1, Some(1))]);
        assert_eq!(long, Err(FilesError::FileTooLarge("a".into())));
        assert_eq!(check(&[file("a", 0, Some(1))]), Err(FilesError::RootOfNothing("a".into())));
        assert_eq!(
            check(&[file("a", 3, Some(1)), file("b", 4, Some(1))]),
            Err(FilesError::RootOfOtherSize("b".into()))
        );
        let paths: Vec<String> = (0..=MAX_TOTAL / MAX_FILE).map(|i| format!("{i:06}")).collect();
        let longest: Vec<_> = paths.iter().map(|path| file(path, MAX_FILE, Some(1))).collect();
        assert_eq!(super::check(128 << 20, longest.into_iter()), Err(FilesError::TooLarge));
        assert!(matches!(check(&[file("a", 1 << 40, Some(1))]), Err(FilesError::TooManyPieces { .. })));
        assert!(matches!(check(&[file("../a", 1, Some(1))]), Err(FilesError::Path(_))));
        let paths: Vec<String> = (0..=MAX_FILES).map(|i| format!("{i:06}")).collect();
        let many: Vec<_> = paths.iter().map(|path| file(path, 0, None)).collect();
        assert_eq!(check(&many), Err(FilesError::TooMany(MAX_FILES + 1)));
        assert_eq!(super::check(5, [file("a", 1, Some(1))].into_iter()), Err(FilesError::PieceLength(5)));
    }
}
