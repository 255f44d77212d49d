//! `verify` and `remove`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::sharing::Rule;
use super::{Library, Node, NodeError, blocking};
use crate::fetch::EvictionHold;
use crate::fsutil;
use crate::mirror::git::replacements;
use crate::model::ModelRef;
use crate::model::hash::Control;
use crate::store::{ContentKey, StoredRevision};

/// How long the engine may take to close the files of a model.
const RELEASE_WITHIN: Duration = Duration::from_secs(20);

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verified {
    /// The model.
    pub model: String,
    /// Bytes compared with their hashes and found right.
    pub right: u64,
    /// Bytes that are here but were not checked: parts of pieces, and pieces whose hashes are not known.
    pub unchecked: u64,
    /// Bytes that are not here.
    pub missing: u64,
    /// Files of which bytes were wrong. These bytes count as missing now and are fetched again when needed.
    pub damaged: Vec<String>,
    /// Files whose bytes fit the pieces root but not the sha256: the manifest contradicts itself.
    pub contradictory: Vec<String>,
}

impl Library {
    /// Reads every byte of a model that is here and compares it with its hashes. `progress` gets bytes read and
    /// bytes to read; once `cancel` is set it stops. The caller holds the node lock and the thread, for as long as
    /// the disk takes.
    pub fn verify(
        &self,
        model: &ModelRef,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Verified, NodeError> {
        let revision = self.revision(model)?;
        let manifest = &revision.manifest;
        let layers = self.store.torrents.layers(manifest)?;
        let known = self.store.torrents.piece_hashes(manifest, layers.clone())?;
        let done = AtomicU64::new(0);
        let total = manifest.total_size;
        let told =
            |bytes: u64| progress((done.fetch_add(bytes, Ordering::Relaxed) + bytes).min(total), total);
        let watch = Control { progress: &told, cancel };
        let mut found = Verified { model: model.to_string(), ..Verified::default() };
        let mut adopted = vec![false; revision.contents.len()];
        let mut wrong = vec![false; revision.contents.len()];
        for dir in self.store.placed().dirs_of(manifest) {
            let files = self.store.placed().unverified(&revision, &dir);
            let seen = self.store.placed().adopt(&revision, &files, &dir, &layers, watch)?;
            seen.right.iter().for_each(|&file| adopted[file] = true);
            seen.wrong.iter().for_each(|&file| wrong[file] = true);
        }
        for (file, entry) in manifest.files.iter().enumerate() {
            let content = &revision.contents[file];
            if adopted[file] {
                found.right += entry.size;
                continue;
            }
            let report = self.store.verify(&revision, file, &known, watch)?;
            let damaged: u64 = report.damaged.iter().map(|range| range.end - range.start).sum();
            found.right += report.checked.saturating_sub(damaged);
            found.unchecked += report.unchecked;
            let here = content.cached_bytes() + content.unproved_bytes();
            found.missing += entry.size.saturating_sub(here);
            if damaged > 0 || wrong[file] {
                found.damaged.push(entry.path.clone());
            } else if report.sha256_fits == Some(false) {
                found.contradictory.push(entry.path.clone());
            }
        }
        Ok(found)
    }

    /// Forgets a model: its manifest, what this program put into the models directory, and cached bytes that no other
    /// model uses. Files shared in place stay. What a mirror without its large files left is taken for one. The caller
    /// holds the node lock. What is cut short is done by the next call: the manifest goes late, and after it only the
    /// rule of sharing, which keeps the model to its user until then.
    pub fn remove(&self, model: &ModelRef) -> Result<(), NodeError> {
        let others: Vec<_> = self.manifests().into_iter().filter(|m| m.model_ref() != *model).collect();
        let beside = self.beside.of_model(model);
        match self.revision(model) {
            Ok(revision) => {
                for former in
                    self.store.former_states().list(model, &revision.manifest.torrent.info_hash, None)?
                {
                    self.store.former_states().forget(&former, model, &others)?;
                }
                self.store.forget(&revision, &others)?;
                self.store.partial_mirrors().clear(model)?;
            }
            Err(NodeError::UnknownModel(_))
                if self.store.partial_mirrors().clear(model)? || !beside.is_empty() => {}
            Err(NodeError::UnknownModel(model)) => return Err(self.absent(model)),
            Err(e) => return Err(e),
        }
        for manifest in beside {
            let Some(publisher) = manifest.signed_by() else { continue };
            self.store.forget(&*self.store.revision(manifest)?, &others)?;
            self.beside.remove(&publisher, model)?;
        }
        // The history that a mirror kept goes with it, what a kill left beside it, and what came of its next state.
        let (history, staging) = (self.paths.mirror_of(model), self.paths.mirror_staging(model));
        for path in replacements(&history).into_iter().chain([history]) {
            fsutil::remove_dir_if_there(&path).map_err(|source| NodeError::Io { path, source })?;
        }
        self.store.staging().remove(&staging)?;
        self.registry.remove(model)?;
        self.sharing.set(model, Rule::default())?;
        Ok(())
    }
}

impl Node {
    /// [`Library::verify`] while the engine has the model's files closed: bytes that are here can be read meanwhile,
    /// others come after it. Dropping the future stops it soon.
    pub async fn verify(
        self: &Arc<Self>,
        model: &ModelRef,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Verified, NodeError> {
        let revision = self.library.revision(model)?;
        let turn = self.jobs.turn(&revision.manifest.torrent.info_hash).await;
        let held = self.closed(&revision).await?;
        let (node, model) = (self.clone(), model.clone());
        let found = blocking::cancellable(move |cancel| {
            // Both outlive the future: the thread may still read when nobody waits for it any more.
            let _until_done = (turn, held);
            node.library.verify(&model, &progress, cancel)
        })
        .await?;
        self.fetch.relocate(&revision);
        Ok(found)
    }

    /// [`Library::remove`], once the engine has let go of the model. Refused while another job has it.
    pub async fn remove(self: &Arc<Self>, model: &ModelRef) -> Result<(), NodeError> {
        let revisions = self.library.revisions_of(model)?;
        let Some(main) = revisions.first().map(|revision| revision.manifest.torrent.info_hash) else {
            return self.remove_laid_out(model).await;
        };
        let in_use = || NodeError::InUse(model.clone());
        let mirror = self.mirrors.try_turn(model).ok_or_else(in_use)?;
        let (mut held, mut former_held, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for revision in &revisions {
            // Two publishers may have published the same files.
            if seen.insert(revision.manifest.torrent.info_hash) {
                let turn = self.jobs.try_turn(&revision.manifest.torrent.info_hash).ok_or_else(in_use)?;
                held.push((turn, self.closed(revision).await?));
            }
        }
        for former in self.library.store.former_states().list(model, &main, None)? {
            if seen.insert(former.info_hash) {
                former_held.push(self.hold_former(model, &former).await?);
            }
        }
        let (node, model) = (self.clone(), model.clone());
        // Once begun it is brought to its end, even if nobody waits for it any more.
        blocking::cancellable(move |_| {
            let _until_done = (mirror, held, former_held);
            node.library.remove(&model)?;
            revisions.iter().for_each(|revision| node.leave_unless_used(&revision.manifest));
            node.apply_all_rules();
            // It may have been the last model with which some contents were stored and not withheld.
            node.fetch.withdraw_reserved();
            node.changed();
            Ok(())
        })
        .await
    }

    /// [`Library::remove`] of what is no model, and nothing to the engine.
    async fn remove_laid_out(self: &Arc<Self>, model: &ModelRef) -> Result<(), NodeError> {
        let turn = self.mirrors.try_turn(model).ok_or_else(|| NodeError::InUse(model.clone()))?;
        let (node, model) = (self.clone(), model.clone());
        blocking::cancellable(move |_| {
            let _until_done = turn;
            node.library.remove(&model)
        })
        .await
    }

    /// Has the engine close a model's files until what is returned is dropped.
    pub(super) async fn closed(&self, revision: &StoredRevision) -> Result<EvictionHold, NodeError> {
        let keys: Vec<_> = revision.contents.iter().filter_map(|content| content.key()).collect();
        self.closed_keys(&revision.manifest.model_ref(), &keys).await
    }

    /// [`Node::closed`] for contents that are or were a model's.
    pub(super) async fn closed_keys(
        &self,
        model: &ModelRef,
        keys: &[ContentKey],
    ) -> Result<EvictionHold, NodeError> {
        let held = self.fetch.release_for_eviction(keys, RELEASE_WITHIN).await;
        held.map_err(|e| NodeError::Internal(format!("{model}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::Config;
    use crate::model::{FileEntry, InfoHash, Manifest, PiecesRoot};
    use crate::node::sharing::Withheld;
    use crate::paths::Paths;
    use crate::store::Stamp;

    /// A state of a model, as a `get` leaves it in a directory.
    fn got(library: &Library, dir: &Path, files: &[(&str, u8)]) -> Manifest {
        let model: ModelRef = "acme/m".parse().unwrap();
        let entries =
            files.iter().map(|(path, byte)| FileEntry::new(*path, 1, None, Some(PiecesRoot([*byte; 32]))));
        let manifest = Manifest::new(model.name, model.revision, 1 << 22, entries.collect()).unwrap();
        fs::create_dir_all(dir).unwrap();
        let stamps = files.iter().map(|(path, byte)| {
            let path = dir.join(path);
            if !path.exists() {
                fs::write(&path, [*byte]).unwrap();
            }
            Stamp::at(&path).unwrap()
        });
        let stamps: Vec<_> = stamps.collect();
        library.store.placed().record_own(&manifest, dir, &stamps).unwrap();
        library.store.torrents.save_metainfo(&manifest.torrent.info_hash, b"metainfo").unwrap();
        fs::write(dir.join(Paths::MODEL_MANIFEST), manifest.to_json()).unwrap();
        manifest
    }

    /// The files below a directory.
    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn what_a_killed_update_left_goes_with_the_model() {
        for superseded in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let library = Library::open(Config::defaults(&dir.path().join("base"))).unwrap();
            let dest = library.paths.models.join("acme/m");
            got(&library, &dest, &[("both", 1), ("old", 2)]);
            let elsewhere = dir.path().join("elsewhere");
            let mut new =
                got(&library, if superseded { &elsewhere } else { &dest }, &[("both", 1), ("new", 3)]);
            let hybrid = InfoHash([9; 32]);
            new.torrent.hybrid_info_hash = Some(hybrid);
            library.store.torrents.save_metainfo(&hybrid, b"metainfo").unwrap();
            library.registry.insert(new).unwrap();
            let history = library.paths.mirror_of(&"acme/m".parse().unwrap());
            let staging = library.paths.mirror_staging(&"acme/m".parse().unwrap());
            fs::create_dir_all(staging.join("parts")).unwrap();
            fs::write(dest.join(format!("{}x", fsutil::TEMP_PREFIX)), "half a manifest").unwrap();
            for path in replacements(&history).into_iter().chain([history.clone()]) {
                fs::create_dir_all(path.join("objects")).unwrap();
            }
            library.remove(&"acme/m".parse().unwrap()).unwrap();
            assert!(!dest.parent().unwrap().exists(), "{:?}", files(dest.parent().unwrap()));
            assert_eq!(fs::read_dir(history.parent().unwrap()).unwrap().count(), 0);
            let Paths { base, .. } = &library.paths;
            let left: Vec<_> = ["resume", "torrents"].iter().flat_map(|of| files(&base.join(of))).collect();
            assert_eq!(left, Vec::<PathBuf>::new());
        }
    }
    #[test]
    fn a_removal_that_was_cut_short_is_brought_to_its_end_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::open(Config::defaults(&dir.path().join("base"))).unwrap();
        let model: ModelRef = "acme/m".parse().unwrap();
        let manifest = got(&library, &library.paths.models.join("acme/m"), &[("a", 1)]);
        library.registry.insert(manifest).unwrap();
        let withheld = Rule { withheld: Some(Withheld::Private), ..Rule::default() };
        library.sharing.set(&model, withheld).unwrap();
        let history = library.paths.mirror_of(&model);
        fs::create_dir_all(history.parent().unwrap()).unwrap();
        fs::write(&history, "no directory").unwrap();
        library.remove(&model).unwrap_err();
        assert_eq!(
            library.sharing.of(&model),
            withheld,
            "it is known and nothing keeps it from being shared"
        );
        fs::remove_file(&history).unwrap();
        library.remove(&model).unwrap();
        assert!(library.registry.get(&model).is_none());
        assert_eq!(library.sharing.of(&model), Rule::default());
    }
}
