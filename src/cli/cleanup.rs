//! `init --cleanup`: deletes what silmaril made, and nothing else.
//!
//! Only names that silmaril itself makes are deleted: its own entries of the base directory, models it fetched (they
//! carry its manifest), and the configuration file. Symbolic links are never followed. A model shared in place
//! stands elsewhere or carries no manifest, and stays.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::size;
use crate::node::lock::NodeLock;
use crate::paths::Paths;

/// Entries of the base directory that silmaril makes.
const OWN: [&str; 10] = [
    "registry",
    "torrents",
    "resume",
    "cache",
    "catalog",
    "log",
    "keys",
    "trust.yaml",
    "silmaril.sock",
    "node.lock",
];

/// One thing to delete.
#[derive(Debug, PartialEq, Eq)]
struct Doomed {
    path: PathBuf,
    bytes: u64,
}

/// Lists what will be deleted, asks, deletes.
pub fn run(paths: &Paths, config_file: &Path, yes: bool, context: &Context) -> Result<(), CommandError> {
    if !paths.base.exists() && !config_file.exists() {
        context.out.line("nothing to delete")?;
        return Ok(());
    }
    // Held to the end, so that no node starts meanwhile.
    let _lock = if paths.base.is_dir() { Some(NodeLock::take(paths)?) } else { None };
    let doomed = list(paths, config_file)?;
    for item in &doomed {
        context.out.line(format_args!("{:>10}  {}", size(item.bytes), item.path.display()))?;
    }
    let total = doomed.iter().map(|item| item.bytes).sum();
    if paths.publisher_key().exists() {
        context.out.warn("this includes your publisher key, which cannot be made again");
    }
    if !yes && !confirmed(&format!("Delete these {} ({})?", doomed.len(), size(total)))? {
        return Err(CommandError::failed("nothing was deleted"));
    }
    for item in &doomed {
        remove(&item.path)?;
    }
    // Directories that others put something into stay.
    let _ = fs::remove_dir(&paths.models);
    let _ = fs::remove_dir(&paths.base);
    let _ = config_file.parent().map(fs::remove_dir);
    context.out.line(format_args!("deleted {}", size(total)))
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

fn list(paths: &Paths, config_file: &Path) -> Result<Vec<Doomed>, CommandError> {
    let mut doomed: Vec<PathBuf> = OWN.iter().map(|name| paths.base.join(name)).collect();
    for org in directories(&paths.models)? {
        let below = if org.ends_with("datasets") { directories(&org)? } else { vec![org] };
        for org in below {
            doomed.extend(directories(&org)?.into_iter().filter(|m| m.join(Paths::MODEL_MANIFEST).is_file()));
        }
    }
    doomed.push(config_file.to_owned());
    doomed
        .into_iter()
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| Ok(Doomed { bytes: bytes_of(&path)?, path }))
        .collect()
}

/// Real directories directly below a directory; none where it does not exist.
fn directories(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(CommandError::io(dir, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| CommandError::io(dir, e))?;
        // The type of the entry itself: a link to a directory is none.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
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

fn remove(path: &Path) -> Result<(), CommandError> {
    let is_dir = path.symlink_metadata().map_err(|e| CommandError::io(path, e))?.is_dir();
    // `remove_dir_all` does not follow links either.
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|e| CommandError::io(path, e))?;
    if let Some(parent) = path.parent() {
        // An organisation of which no model is left.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn only_what_silmaril_made_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir.path().join("base"));
        let elsewhere = dir.path().join("elsewhere");
        put(elsewhere.join(Paths::MODEL_MANIFEST));
        put(paths.base.join("registry/a/b/main.json"));
        put(paths.base.join("notes.txt"));
        put(paths.models.join("a/got").join(Paths::MODEL_MANIFEST));
        put(paths.models.join("datasets/a/got").join(Paths::MODEL_MANIFEST));
        put(paths.models.join("a/mine/model.safetensors"));
        std::os::unix::fs::symlink(&elsewhere, paths.models.join("a/link")).unwrap();
        let config = dir.path().join("config.yaml");
        put(config.clone());
        let listed: Vec<PathBuf> = list(&paths, &config).unwrap().into_iter().map(|d| d.path).collect();
        assert_eq!(
            listed,
            [
                paths.base.join("registry"),
                paths.models.join("a/got"),
                paths.models.join("datasets/a/got"),
                config,
            ]
        );
    }
}
