//! Runs the program with a temporary home directory, for commands that need no network.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::process::{Finished, PATIENCE};

/// A temporary home directory.
pub struct Home(tempfile::TempDir);

impl Home {
    /// An empty home directory.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A path in the home directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    /// The program with arguments, run in the home directory.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_silmaril"));
        command.args(args).env_clear().env("HOME", self.0.path()).env("LANG", "C.UTF-8");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(self.0.path());
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, args: &[&str]) -> Finished {
        Finished::of(&mut self.command(args), PATIENCE)
    }

    /// Writes the configuration file.
    pub fn configure(&self, text: &str) -> PathBuf {
        let path = self.path(".config/silmaril/config.yaml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// All files of the home directory by relative path, with a digest of their bytes. The lock file is left out, because
    /// it changes with each process.
    pub fn files(&self) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        walk(self.0.path(), self.0.path(), &mut found);
        found.remove(Path::new(".silmaril/node.lock"));
        found
    }
}

fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, u64>) {
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, found);
        } else if entry.file_type().unwrap().is_file() {
            let mut digest = DefaultHasher::new();
            std::fs::read(&path).unwrap().hash(&mut digest);
            found.insert(path.strip_prefix(root).unwrap().to_owned(), digest.finish());
        }
    }
}
