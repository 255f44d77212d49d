//! `init --cleanup`: deletes what silmaril made, and nothing else.
//!
//! That is: its own entries of the base directory, the files of models that it fetched into the models directory, as
//! its records tell, and the configuration file. Symbolic links are never followed. What is shared in place stays,
//! wherever it lies.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::size;
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

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Doomed {
    /// What the user is shown.
    shown: PathBuf,
    /// What goes: the same, or files in it.
    paths: Vec<PathBuf>,
    bytes: u64,
}

/// Lists what will be deleted, asks, deletes.
pub fn run(paths: &Paths, config_file: &Path, yes: bool, context: &Context) -> Result<(), CommandError> {
    // Held to the end, so that no node starts meanwhile.
    let mut _lock = None;
    let mut doomed = Vec::new();
    if paths.base.is_dir() {
        _lock = Some(NodeLock::take(paths)?);
        doomed.extend(own(&paths.base)?);
        doomed.extend(models(&Store::open_to_read(paths)?.made_below_models(), &paths.models)?);
    }
    if is_configured_by(config_file, paths) {
        doomed.extend(whole(config_file.to_owned())?);
    } else if config_file.exists() {
        context.out.note(format_args!(
            "{} is the configuration of another base directory and stays",
            config_file.display()
        ));
    }
    if doomed.is_empty() {
        return context.out.line("nothing to delete");
    }
    for item in &doomed {
        context.out.line(format_args!("{:>10}  {}", size(item.bytes), item.shown.display()))?;
    }
    let total = size(doomed.iter().map(|item| item.bytes).sum());
    if paths.publisher_key().exists() {
        context.out.warn("this includes your publisher key, which cannot be made again");
    }
    if !yes && !confirmed(&format!("Delete all of this ({total})?"))? {
        return Err(CommandError::failed("nothing was deleted"));
    }
    let models = paths.models.canonicalize().unwrap_or_else(|_| paths.models.clone());
    for path in doomed.iter().flat_map(|item| &item.paths) {
        remove(path, &models)?;
    }
    // Directories that others put something into stay.
    let _ = fs::remove_dir(&paths.models);
    let _ = fs::remove_dir(&paths.base);
    let _ = config_file.parent().filter(|dir| dir.ends_with("silmaril")).map(fs::remove_dir);
    context.out.line(format_args!("deleted {total}"))
}

/// Whether a configuration file is that of this base directory: it names this one, or it is as `init` writes it and the
/// base directory that it names does not exist. An unreadable file counts as the file of this one.
fn is_configured_by(config_file: &Path, paths: &Paths) -> bool {
    let options = LoadOptions { config_path: Some(config_file.to_owned()), home: None };
    let Ok(config) = Config::load_without_environment(&options) else { return true };
    let named = config.paths().base;
    let is_unchanged = || fs::read_to_string(config_file).is_ok_and(|text| text == Config::example(None));
    named == paths.base || (is_unchanged() && !named.exists())
}

/// Asks on the terminal; refuses where there is none.
pub fn confirmed(question: &str) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() {
        return Err(
            CommandError::usage("there is no terminal to ask on").hint("--yes does it without asking")
        );
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(CommandError::internal)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Silmaril's own entries of the base directory that are there.
fn own(base: &Path) -> Result<Vec<Doomed>, CommandError> {
    let entries = OWN.iter().map(|name| whole(base.join(name))).collect::<Result<Vec<_>, _>>()?;
    Ok(entries.into_iter().flatten().collect())
}

/// A file or a directory with all that is in it, if it is there.
fn whole(path: PathBuf) -> Result<Option<Doomed>, CommandError> {
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    Ok(Some(Doomed { bytes: bytes_of(&path)?, paths: vec![path.clone()], shown: path }))
}

/// Files below the models directory, by the model's directory.
fn models(made: &[PathBuf], models: &Path) -> Result<Vec<Doomed>, CommandError> {
    let models = models.canonicalize().map_err(|e| CommandError::io(models, e))?;
    let mut by_model: BTreeMap<PathBuf, Doomed> = BTreeMap::new();
    for path in made {
        let below = path.strip_prefix(&models).unwrap_or(path);
        let depth = if below.starts_with("datasets") { 3 } else { 2 };
        let shown = models.join(below.components().take(depth).collect::<PathBuf>());
        let item = by_model.entry(shown.clone());
        let item = item.or_insert_with(|| Doomed { shown, paths: Vec::new(), bytes: 0 });
        item.bytes += bytes_of(path)?;
        item.paths.push(path.clone());
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

/// Removes a file or directory. Below the models directory, a real path, no link is followed on the way, and directories
/// that are empty then go as well.
fn remove(path: &Path, models: &Path) -> Result<(), CommandError> {
    let failed = |e| CommandError::io(path, e);
    if path.starts_with(models) {
        match nofollow::metadata(path).map_err(failed)?.is_dir() {
            true => nofollow::remove_dir_all(path).map_err(failed)?,
            false => nofollow::remove_if_there(path).map(drop).map_err(failed)?,
        }
        nofollow::remove_empty_parents(path, models);
        return Ok(());
    }
    let is_dir = path.symlink_metadata().map_err(failed)?.is_dir();
    // `remove_dir_all` does not follow links either.
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
    fn files_are_shown_by_model_and_go_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let paths = Paths::below(&root);
        let made: Vec<PathBuf> =
            ["a/b/c/d.bin", "a/b/e.bin", "datasets/a/b/f.bin"].map(|p| paths.models.join(p)).into();
        for path in made.iter().chain([&paths.models.join("a/b/mine.txt")]) {
            put(path.clone());
        }
        let doomed = models(&made, &paths.models).unwrap();
        let shown: Vec<&Path> = doomed.iter().map(|d| d.shown.strip_prefix(&paths.models).unwrap()).collect();
        assert_eq!(shown, [Path::new("a/b"), Path::new("datasets/a/b")]);
        for path in doomed.iter().flat_map(|d| &d.paths) {
            remove(path, &paths.models).unwrap();
        }
        assert!(paths.models.join("a/b/mine.txt").exists());
        assert!(!paths.models.join("a/b/c").exists() && !paths.models.join("datasets").exists());
        assert!(paths.models.exists());
    }

    #[test]
    fn only_own_entries_of_the_base_directory_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let elsewhere = dir.path().join("elsewhere");
        put(elsewhere.join("precious"));
        put(base.join("registry/a/b/main.json"));
        put(base.join("notes.txt"));
        std::os::unix::fs::symlink(&elsewhere, base.join("cache")).unwrap();
        let doomed = own(&base).unwrap();
        let shown: Vec<&Path> = doomed.iter().map(|d| d.shown.as_path()).collect();
        assert_eq!(shown, [base.join("registry"), base.join("cache")]);
        for path in doomed.iter().flat_map(|d| &d.paths) {
            remove(path, &base.join("models")).unwrap();
        }
        assert!(elsewhere.join("precious").exists() && base.join("notes.txt").exists());
    }
}
