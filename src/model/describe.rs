//! Makes the manifest of a directory, in memory, before `share` writes anything.
//!
//! The torrent depends only on the files, the last component of the name and the piece length, so all hosts that share
//! the same files make the same torrent. The rest of the manifest is read from the model card, `config.json` and the
//! safetensors headers. If one of these is broken, that is only a warning.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::card::{self, ModelCard};
use super::code::Findings;
use super::complete::{self, MAX_INDEX, Survey, TensorIndex, find, read_start};
use super::files::{self, TorrentFile};
use super::hash::{self, Control, FileHashes, HashError};
use super::license::{self, LicenseError};
use super::manifest::SourceEntry;
use super::merkle::Hash;
use super::pointer::POINTER_LIMIT;
use super::safetensors::TensorHeader;
use super::scan::{self, OutsideLinks, ScanError, ScannedFile};
use super::text;
use super::{
    FileEntry, Manifest, ManifestError, ModelName, PieceLayers, PiecesRoot, Pointer, Revision, config_json,
};

/// The input of [`describe`] that is not in the directory.
pub struct DescribeOptions<'a> {
    /// Licence. It overrides the licence of the model card.
    pub license: Option<&'a str>,
    /// Whether an unknown licence is an error.
    pub license_needed: bool,
    /// Whether cut or missing files are an error. A mirrored repository may have such files itself.
    pub whole: bool,
    /// Whether the caller also makes a hybrid torrent of the files.
    pub hybrid: bool,
    /// Bytes per piece.
    pub piece_length: u32,
    /// One paragraph for people.
    pub description: Option<&'a str>,
    /// Where the files came from; if none, the manifest gets `local`.
    pub source: Option<SourceEntry>,
    /// Hashes of files by path, computed when the files were written. A hash is used if the file's stamp is unchanged;
    /// otherwise the file is read.
    pub known: HashMap<String, FileHashes>,
    /// Links out of the directory whose targets belong to the model (see [`scan::outside_links`]).
    pub follow: OutsideLinks,
    /// Called from several threads with the number of bytes hashed so far and the total. Files with known hashes count as
    /// hashed.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Set to stop early.
    pub cancel: &'a AtomicBool,
}

/// The result of [`describe`].
#[derive(Debug)]
pub struct Description {
    /// The manifest, unsigned.
    pub manifest: Manifest,
    /// The piece layers of its torrent.
    pub piece_layers: PieceLayers,
    /// The hashes of the granules of each file; empty if they were not computed.
    pub granules: Vec<Vec<Hash>>,
    /// Warnings for the publisher.
    pub warnings: Vec<String>,
    /// The metadata of each file of the manifest. It was the same before and after hashing.
    pub metadata: Vec<Metadata>,
    /// The real paths of files that were reached through a link, by their paths in the manifest.
    pub targets: HashMap<String, PathBuf>,
}

/// The reason why a directory cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Its files cannot be shared.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Its files cannot be read.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Its files cannot be a torrent.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Git LFS pointers instead of files.
    #[error(
        "the directory has Git LFS pointers instead of files: {}; run `git lfs pull` there, or mirror the \
         repository without --skip-lfs",
        text::listed(.0)
    )]
    Pointers(Vec<String>),
    /// Files that are cut or missing.
    #[error("the model is not complete: {}", text::listed(.0))]
    Incomplete(Vec<String>),
    /// No licence is known.
    #[error("the licence of {0} is not known: README.md names none")]
    NoLicense(ModelName),
    /// The text cannot be a licence identifier.
    #[error(transparent)]
    License(#[from] LicenseError),
}

/// Hashes the files of a directory and reads the metadata of the model from them.
pub fn describe(
    dir: &Path,
    name: &ModelName,
    version: &Revision,
    options: &DescribeOptions<'_>,
) -> Result<Description, DescribeError> {
    let files = scan::scan(dir, &options.follow)?;
    let mut warnings = Vec::new();
    let card = read_card(&files, &mut warnings);
    // Checked before hashing, so that a missing option is reported immediately.
    let license = options.license.or(card.license.as_deref());
    if license.is_none() && options.license_needed {
        return Err(DescribeError::NoLicense(name.clone()));
    }
    let (license, unknown) = license.map(license::check).transpose()?.unzip();
    warnings.extend(unknown.flatten());
    check_sizes(&files, options.piece_length)?;
    if options.hybrid {
        files::check_hybrid(name.name(), files.iter().map(|file| file.path.as_str()))
            .map_err(ManifestError::from)?;
    }
    refuse_pointers(&files)?;
    let Survey { headers, gaps, doubts } = complete::survey(&files);
    let gaps = gaps.iter().map(ToString::to_string);
    if options.whole && gaps.len() > 0 {
        return Err(DescribeError::Incomplete(gaps.collect()));
    }
    warnings.extend(gaps.chain(doubts));
    warnings.extend(warn_of_content(&files));

    let hashes = hash_all(&files, options)?;
    let is_executable = |hashes: &FileHashes| hashes.metadata.mode() & 0o100 != 0;
    // If every file is executable, the file system probably has no modes.
    let has_modes = !hashes.iter().all(is_executable);
    let entry = |(file, hashes): (&ScannedFile, &FileHashes)| {
        let size = hashes.metadata.len();
        FileEntry {
            executable: has_modes && is_executable(hashes),
            ..FileEntry::new(file.path.as_str(), size, Some(hashes.sha256), hashes.pieces_root)
        }
    };
    let entries = files.iter().zip(&hashes).map(entry).collect();
    let mut manifest = Manifest::new(name.clone(), version.clone(), options.piece_length, entries)?;
    let mut piece_layers = PieceLayers::default();
    let mut metadata = Vec::with_capacity(hashes.len());
    let mut granules = Vec::with_capacity(hashes.len());
    for hashes in hashes {
        if let Some(root) = hashes.pieces_root {
            piece_layers
                .insert(root, hashes.metadata.len(), options.piece_length, hashes.layer)
                .expect("the root was computed from this layer");
        }
        metadata.push(hashes.metadata);
        granules.push(hashes.granules);
    }

    manifest.license = license;
    manifest.description = options.description.map(str::to_owned);
    manifest.created_at = Some(now());
    let local =
        || SourceEntry { kind: "local".to_owned(), url: None, commit: None, other: Default::default() };
    manifest.source = Some(options.source.clone().unwrap_or_else(local));
    apply_card(&mut manifest, card);
    apply_config(&mut manifest, &files, &mut warnings);
    apply_tensors(&mut manifest, &files, &headers);
    let root = std::fs::canonicalize(dir).map_err(|source| ScanError::Io { path: dir.to_owned(), source })?;
    let linked = files.into_iter().filter(|file| file.source != root.join(&file.path));
    let targets = linked.map(|file| (file.path, file.source)).collect();
    Ok(Description { manifest, piece_layers, granules, warnings, metadata, targets })
}

/// The current time in RFC 3339, to the second.
fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| jiff::Timestamp::now().to_string(), |time| time.to_string())
}

/// Refuses too many pieces or bytes before hashing instead of after it.
fn check_sizes(list: &[ScannedFile], piece_length: u32) -> Result<(), ManifestError> {
    let placeholder = |i: usize| {
        // Any root is sufficient, but files of different sizes need different roots.
        let mut root = [0; 32];
        root[..8].copy_from_slice(&(i as u64).to_le_bytes());
        let size = list[i].metadata.len();
        TorrentFile { path: &list[i].path, size, pieces_root: (size > 0).then_some(PiecesRoot(root)) }
    };
    let listed = (0..list.len()).map(placeholder);
    files::check(piece_length, listed)?;
    Ok(())
}

fn hash_all(files: &[ScannedFile], options: &DescribeOptions<'_>) -> Result<Vec<FileHashes>, HashError> {
    let known = |file: &ScannedFile| {
        let hashes = options.known.get(&file.path)?;
        hashes.hold_for(&file.metadata, options.piece_length).then(|| hashes.clone())
    };
    let mut hashes: Vec<Option<FileHashes>> = files.iter().map(known).collect();
    let unknown: Vec<usize> = (0..files.len()).filter(|&i| hashes[i].is_none()).collect();
    let total = files.iter().map(|file| file.metadata.len()).sum();
    let already: u64 = hashes.iter().flatten().map(|hashes| hashes.metadata.len()).sum();
    let done = AtomicU64::new(already);
    let progress = |bytes| {
        let before = done.fetch_add(bytes, Ordering::Relaxed);
        (options.progress)(before + bytes, total);
    };
    (options.progress)(already, total);
    let list: Vec<(PathBuf, u64)> =
        unknown.iter().map(|&i| (files[i].source.clone(), files[i].metadata.len())).collect();
    let control = Control { progress: &progress, cancel: options.cancel };
    for (i, computed) in unknown.into_iter().zip(hash::hash_files(&list, options.piece_length, control)?) {
        // The file that was scanned must be the file that was hashed.
        let id = |metadata: &Metadata| (metadata.dev(), metadata.ino(), metadata.uid());
        if id(&files[i].metadata) != id(&computed.metadata) {
            return Err(HashError::Changed(files[i].source.clone()));
        }
        hashes[i] = Some(computed);
    }
    Ok(hashes.into_iter().flatten().collect())
}

/// The licence that the model card among the files names.
pub fn license_of(files: &[ScannedFile]) -> Option<String> {
    read_card(files, &mut Vec::new()).license
}

fn read_card(files: &[ScannedFile], warnings: &mut Vec<String>) -> ModelCard {
    let Some(readme) = find(files, "README.md") else { return ModelCard::default() };
    let text = match read_start(readme, card::MAX_FRONT_MATTER as u64) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            warnings.push(format!("README.md cannot be read: {error}"));
            return ModelCard::default();
        }
    };
    let card = card::parse(&text).unwrap_or_default();
    for key in &card.unreadable {
        warnings.push(format!("`{key}` in the front matter of README.md cannot be read and is left out"));
    }
    card
}

fn apply_card(manifest: &mut Manifest, card: ModelCard) {
    manifest.tags = card.tags;
    let target = &mut manifest.card;
    target.pipeline_tag = card.pipeline_tag;
    target.library_name = card.library_name;
    target.base_model = card.base_model;
    target.languages = card.languages;
    for (key, value) in [("license_name", card.license_name), ("license_link", card.license_link)] {
        if let Some(value) = value {
            target.other.insert(key.to_owned(), value.into());
        }
    }
}

fn apply_config(manifest: &mut Manifest, files: &[ScannedFile], warnings: &mut Vec<String>) {
    let Some(file) = find(files, "config.json") else { return };
    let config = read_start(file, config_json::MAX_CONFIG)
        .map_err(|error| error.to_string())
        .and_then(|bytes| config_json::parse(&bytes).map_err(|error| error.to_string()));
    match config {
        Ok(config) => {
            manifest.architecture = config.architecture;
            manifest.model_type = config.model_type;
            manifest.context_length = config.context_length;
            manifest.quantization = config.quantization;
        }
        Err(error) => warnings.push(format!("config.json cannot be read: {error}")),
    }
}

/// Counts parameters. If the model has several sets of weights, only the set that libraries load by default is counted:
/// the files of the index, else `model.safetensors`, else all files.
fn apply_tensors(manifest: &mut Manifest, files: &[ScannedFile], headers: &BTreeMap<String, TensorHeader>) {
    let index = find(files, "model.safetensors.index.json").and_then(|file| {
        let bytes = read_start(file, MAX_INDEX).ok()?;
        serde_json::from_slice::<TensorIndex>(&bytes).ok()
    });
    let all = || files.iter().filter(|file| file.path.ends_with(".safetensors"));
    let chosen: Vec<&ScannedFile> = match (&index, find(files, "model.safetensors")) {
        (Some(index), _) => {
            let names: BTreeSet<&str> = index.files().collect();
            all().filter(|file| names.contains(file.path.as_str())).collect()
        }
        (None, Some(single)) => vec![single],
        (None, None) => all().collect(),
    };
    let mut by_dtype = BTreeMap::<String, u64>::new();
    for header in chosen.iter().filter_map(|file| headers.get(&file.path)) {
        for (dtype, elements) in header.elements_by_dtype() {
            let sum = by_dtype.entry(dtype.to_owned()).or_default();
            *sum = sum.saturating_add(elements);
        }
    }
    let complete = chosen.iter().all(|file| headers.contains_key(&file.path));
    let counted = by_dtype.values().fold(0u64, |sum, &n| sum.saturating_add(n));
    let stated = index.and_then(|index| index.metadata.total_parameters);
    manifest.parameters = stated.or((complete && counted > 0).then_some(counted));
    manifest.dtype = by_dtype.into_iter().max_by_key(|&(_, elements)| elements).map(|(dtype, _)| dtype);
}

/// Warnings about files that run code when they are loaded.
fn warn_of_content(files: &[ScannedFile]) -> Vec<String> {
    let sizes = files.iter().map(|file| (file.path.as_str(), file.metadata.len()));
    // A file that cannot be read is an error later, when it is hashed.
    Findings::of(sizes, |number, limit| read_start(&files[number], limit).ok()).warnings()
}

/// Refuses files that are Git LFS pointers.
pub fn refuse_pointers(files: &[ScannedFile]) -> Result<(), DescribeError> {
    let pointers: Vec<String> =
        files.iter().filter(|file| is_pointer(file)).map(|file| file.path.clone()).collect();
    if pointers.is_empty() { Ok(()) } else { Err(DescribeError::Pointers(pointers)) }
}

/// Whether a file is a Git LFS pointer.
fn is_pointer(file: &ScannedFile) -> bool {
    (1..POINTER_LIMIT as u64).contains(&file.metadata.len())
        && read_start(file, POINTER_LIMIT as u64).is_ok_and(|bytes| Pointer::parse(&bytes).is_some())
}

#[cfg(test)]
mod tests;
