//! `init --cleanup`: deletes the files that silmaril made, and no other file.
//!
//! These are its own entries of the base directory, the files that it fetched into the models directory (according to its
//! records), and the configuration file. Symbolic links are never followed. Files that are shared in place stay.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::size;
use crate::config::{Config, LoadOptions};
use crate::node::lock::NodeLock;
use crate::nofollow;
use crate::paths::Paths;
use crate::store::Store;

/// Entries of the base directory that silmaril makes.
const OWN: [&str; 17] = [
    "registry",
    "torrents",
    "resume",
    "cache",
    "granules",
    "scrub.json",
    "catalog",
    "dht.state",
    "log",
    "keys",
    "mirror",
    "sharing.yaml",
    "trust.yaml",
    "trust.lock",
    "silmaril.sock",
    "node.lock",
    "node.next",
];

/// One line of the list that the user confirms.
#[derive(Debug, PartialEq, Eq)]
struct Deletion {
    /// The path in the list.
    shown: PathBuf,
    /// The paths to delete: `shown` itself, or files below it.
    paths: Vec<PathBuf>,
    /// Bytes on the disk.
    bytes: u64,
}

/// Lists the paths to delete, asks for confirmation, then deletes them.
pub fn run(paths: &Paths, config_file: &Path, yes: bool, context: &Context) -> Result<(), CommandError> {
    // Held to the end, so that no daemon starts while files are deleted.
    let mut _lock = None;
    let mut deletions = Vec::new();
    if paths.base.is_dir() {
        _lock = Some(NodeLock::take(paths)?);
        deletions.extend(base_entries(&paths.base)?);
        deletions
            .extend(model_files(&Store::open_to_read(paths)?.placed().made_below_models(), &paths.models)?);
    }
    if is_configured_by(config_file, paths) {
        deletions.extend(whole(config_file.to_owned())?);
    } else if config_file.exists() {
        context.out.note(format_args!(
            "{} is the configuration of another base directory and is kept",
            config_file.display()
        ));
    }
    if deletions.is_empty() {
        return context.out.line("nothing to delete");
    }
    for deletion in &deletions {
        context.out.line(format_args!("{:>10}  {}", size(deletion.bytes), deletion.shown.display()))?;
    }
    let total = size(deletions.iter().map(|deletion| deletion.bytes).sum());
    if paths.publisher_key().exists() {
        context.out.warn("this includes your publisher key, which cannot be restored");
    }
    if !yes && !confirmed(&format!("Delete all of this ({total})?"))? {
        return Err(CommandError::failed("nothing was deleted"));
    }
    let models = paths.models.canonicalize().unwrap_or_else(|_| paths.models.clone());
    for path in deletions.iter().flat_map(|deletion| &deletion.paths) {
        remove(path, &models)?;
    }
    // These calls fail, and the directories stay, if the directories have other entries.
    let _ = fs::remove_dir(&paths.models);
    let _ = fs::remove_dir(&paths.base);
    let _ = config_file.parent().filter(|dir| dir.ends_with("silmaril")).map(fs::remove_dir);
    context.out.line(format_args!("deleted {total}"))
}

/// Whether a configuration file belongs to this base directory: either it names this directory, or it is unchanged since
/// `init` and the directory that it names does not exist. A file that cannot be parsed counts as belonging.
fn is_configured_by(config_file: &Path, paths: &Paths) -> bool {
    let options = LoadOptions { config_path: Some(config_file.to_owned()), home: None };
    let Ok(config) = Config::load_without_environment(&options) else { return true };
    let named = config.paths().base;
    let is_unchanged = || fs::read_to_string(config_file).is_ok_and(|text| text == Config::example(None));
    named == paths.base || (is_unchanged() && !named.exists())
}

/// Asks a question on the terminal. Fails if standard input is no terminal.
pub fn confirmed(question: &str) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() {
        return Err(CommandError::usage("cannot ask for confirmation: standard input is no terminal")
            .hint("--yes confirms in advance"));
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(CommandError::internal)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// The existing entries of the base directory that silmaril made.
fn base_entries(base: &Path) -> Result<Vec<Deletion>, CommandError> {
    let entries = OWN.iter().map(|name| whole(base.join(name))).collect::<Result<Vec<_>, _>>()?;
    Ok(entries.into_iter().flatten().collect())
}

/// A file, or a directory with its content. None if the path does not exist.
fn whole(path: PathBuf) -> Result<Option<Deletion>, CommandError> {
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    Ok(Some(Deletion { bytes: bytes_of(&path)?, paths: vec![path.clone()], shown: path }))
}

/// Groups files below the models directory by model. `made` has the files that silmaril made.
fn model_files(made: &[PathBuf], models: &Path) -> Result<Vec<Deletion>, CommandError> {
    let models = models.canonicalize().map_err(|e| CommandError::io(models, e))?;
    let mut by_model: BTreeMap<PathBuf, Deletion> = BTreeMap::new();
    for path in made {
        let below = path.strip_prefix(&models).unwrap_or(path);
        let depth = if below.starts_with("datasets") { 3 } else { 2 };
        let shown = models.join(below.components().take(depth).collect::<PathBuf>());
        let deletion = by_model.entry(shown.clone());
        let deletion = deletion.or_insert_with(|| Deletion { shown, paths: Vec::new(), bytes: 0 });
        deletion.bytes += bytes_of(path)?;
        deletion.paths.push(path.clone());
    }
    Ok(by_model.into_values().collect())
}

/// Bytes on disk below a path.
fn bytes_of(path: &Path) -> Result<u64, CommandError> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = |e| CommandError::io(path, e);
    let meta = path.symlink_metadata().map_err(failed)?;
    let mut sum = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            sum += bytes_of(&entry.map_err(failed)?.path())?;
        }
    }
    Ok(sum)
}

/// Removes a file or directory. Below `models`, which is a canonical path, no component may be a symbolic link, and
/// parent directories that become empty are removed too.
fn remove(path: &Path, models: &Path) -> Result<(), CommandError> {
    let failed = |e| CommandError::io(path, e);
    if path.starts_with(models) {
        if nofollow::metadata(path).map_err(failed)?.is_dir() {
            nofollow::remove_dir_all(path).map_err(failed)?;
        } else {
            nofollow::remove_if_there(path).map_err(failed)?;
        }
        nofollow::remove_empty_parents(path, models);
        return Ok(());
    }
    let is_dir = path.symlink_metadata().map_err(failed)?.is_dir();
    // `remove_dir_all` does not follow symbolic links.
    if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn only_recorded_files_of_models_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let paths = Paths::below(&root);
        let made: Vec<PathBuf> =
            ["a/b/c/d.bin", "a/b/e.bin", "datasets/a/b/f.bin"].map(|p| paths.models.join(p)).into();
        for path in made.iter().chain([&paths.models.join("a/b/mine.txt")]) {
            put(path.clone());
        }
        let deletions = model_files(&made, &paths.models).unwrap();
        let shown: Vec<&Path> =
            deletions.iter().map(|d| d.shown.strip_prefix(&paths.models).unwrap()).collect();
        assert_eq!(shown, [Path::new("a/b"), Path::new("datasets/a/b")]);
        for path in deletions.iter().flat_map(|d| &d.paths) {
            remove(path, &paths.models).unwrap();
        }
        assert!(paths.models.join("a/b/mine.txt").exists());
        assert!(!paths.models.join("a/b/c").exists() && !paths.models.join("datasets").exists());
        assert!(paths.models.exists());
    }

    #[test]
    fn foreign_entries_and_targets_of_links_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let outside = dir.path().join("outside");
        put(outside.join("precious"));
        put(base.join("registry/a/b/main.json"));
        put(base.join("notes.txt"));
        std::os::unix::fs::symlink(&outside, base.join("cache")).unwrap();
        let deletions = base_entries(&base).unwrap();
        let shown: Vec<&Path> = deletions.iter().map(|d| d.shown.as_path()).collect();
        assert_eq!(shown, [base.join("registry"), base.join("cache")]);
        for path in deletions.iter().flat_map(|d| &d.paths) {
            remove(path, &base.join("models")).unwrap();
        }
        assert!(outside.join("precious").exists() && base.join("notes.txt").exists());
    }
}
