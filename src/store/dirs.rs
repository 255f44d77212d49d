//! The real paths of the directories of models.

use std::fs;
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::model::ModelRef;
use crate::{fsutil, nofollow};

/// The models directory, and the paths that a user names.
pub(crate) struct ModelDirs {
    /// The models directory, as a real path.
    pub models: PathBuf,
    /// The models directory as the user named it.
    pub named: PathBuf,
}

impl ModelDirs {
    /// A model's own directory.
    pub fn of(&self, model: &ModelRef) -> PathBuf {
        self.models.join(model.to_string())
    }

    /// Whether a directory is a model's own one below the models directory.
    pub fn is_own(&self, model: &ModelRef, dir: &Path) -> bool {
        self.resolve(&self.of(model)).is_ok_and(|own| self.resolve(dir).is_ok_and(|dir| dir == own))
    }

    /// The real path of a directory in which files of a model are or may be (see [`nofollow::real_path`]). The user has
    /// named the models directory, or `dest` itself.
    pub fn resolve(&self, dest: &Path) -> Result<PathBuf, StoreError> {
        let real = match self.below_models(dest) {
            Some(below) => nofollow::real_path(&self.models, below),
            None => nofollow::real_path(dest, Path::new("")),
        };
        real.map_err(|e| StoreError::io(dest, e))
    }

    /// [`Self::resolve`] for a directory that receives files. The directory above the one that the user has named is made
    /// if it is missing.
    pub fn destination(&self, dest: &Path) -> Result<PathBuf, StoreError> {
        if self.below_models(dest).is_none() {
            let parent = fsutil::parent(dest);
            fs::create_dir_all(parent).map_err(|e| StoreError::io(parent, e))?;
        }
        self.resolve(dest)
    }

    fn below_models<'a>(&self, dest: &'a Path) -> Option<&'a Path> {
        [&self.models, &self.named].into_iter().find_map(|models| dest.strip_prefix(models).ok())
    }
}
