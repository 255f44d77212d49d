//! Files that stand in a model directory without being a model: a mirror that left its large files out.

use std::fs;
use std::io;
use std::path::Path;

use super::copy::same_bytes;
use super::publish::refuse_links;
use super::staging::resolve;
use super::{Store, StoreError};
use crate::fsutil;

impl Store {
    /// Moves files from below `tree` to the same paths below `dest`, on the same file system. Where a file stands with the
    /// same bytes, that stays. Refuses, moving nothing, where something else stands in the way.
    pub fn lay_out(&self, tree: &Path, dest: &Path, paths: &[&str]) -> Result<(), StoreError> {
        let _moving = self.moving();
        let dest = resolve(dest)?;
        let mut steps = Vec::new();
        for path in paths {
            let (from, to) = (tree.join(path), dest.join(path));
            refuse_links(&dest, &to)?;
            let stands = match fs::symlink_metadata(&to) {
                Ok(meta) if meta.is_file() => same_bytes(&from, &to).map_err(|e| StoreError::io(&to, e))?,
                Ok(_) => false,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    steps.push((from, to));
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => false,
                Err(e) => return Err(StoreError::io(&to, e)),
            };
            if !stands {
                return Err(StoreError::Occupied { path: to });
            }
        }
        for (from, to) in steps {
            let parent = fsutil::parent(&to);
            fs::create_dir_all(parent).map_err(|e| StoreError::io(parent, e))?;
            fs::rename(&from, &to).map_err(|e| StoreError::io(&to, e))?;
            fsutil::sync_dir(parent).map_err(|e| StoreError::io(parent, e))?;
        }
        Ok(())
    }
}
