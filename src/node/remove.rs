//! `remove`: deletes a model with everything that this program stored for it.

use std::collections::HashSet;
use std::sync::Arc;

use super::sharing::Rule;
use super::{Library, Node, NodeError, blocking, former_states};
use crate::fsutil;
use crate::mirror::git::replacements;
use crate::model::ModelRef;

/// Deletes a model: its manifest, its files that this program put into the models directory, and cached bytes that no
/// other model uses. Files shared in place stay. Also deletes the files of a mirror without large files. The caller
/// holds the node lock. An interrupted call is completed by the next one: the manifest is deleted late, and the rule of
/// sharing last, so that a withheld model is never shared meanwhile.
pub fn remove(library: &Library, model: &ModelRef) -> Result<(), NodeError> {
    let remaining: Vec<_> = library.manifests().into_iter().filter(|m| m.model_ref() != *model).collect();
    let of_publishers = library.by_publisher.of_model(model);
    let was_of_hub = library.store.hub().forget(model)?;
    match library.revision(model) {
        Ok(revision) => {
            for former in
                library.store.former_states().list(model, &revision.manifest.torrent.info_hash, None)?
            {
                library.store.former_states().forget(&former, model, &remaining)?;
            }
            library.store.forget(&revision, &remaining)?;
            library.store.partial_mirrors().clear(model)?;
        }
        Err(NodeError::UnknownModel(_))
            if library.store.partial_mirrors().clear(model)? || !of_publishers.is_empty() || was_of_hub => {}
        Err(NodeError::UnknownModel(model)) => return Err(library.absent(model)),
        Err(e) => return Err(e),
    }
    for manifest in of_publishers {
        let Some(publisher) = manifest.signed_by() else { continue };
        library.store.forget(&*library.store.revision(manifest)?, &remaining)?;
        library.by_publisher.remove(&publisher, model)?;
    }
    // The git history of a mirror, remains of a killed one, and files received for the next state.
    let (history, staging) = (library.paths.mirror_of(model), library.paths.mirror_staging(model));
    for path in replacements(&history).into_iter().chain([history]) {
        fsutil::remove_dir_if_there(&path).map_err(|source| NodeError::Io { path, source })?;
    }
    library.store.staging().remove(&staging)?;
    library.registry.remove(model)?;
    library.sharing.set(model, Rule::default())?;
    Ok(())
}

/// [`remove`] while the engine has closed the files of the model. `InUse` while another job has it.
pub(super) async fn run(node: &Arc<Node>, model: &ModelRef) -> Result<(), NodeError> {
    let revisions = node.library.revisions_of(model)?;
    let Some(main) = revisions.first().map(|revision| revision.manifest.torrent.info_hash) else {
        return remove_laid_out(node, model).await;
    };
    let in_use = || NodeError::InUse(model.clone());
    let mirror = node.mirrors.try_turn(model).ok_or_else(in_use)?;
    let (mut held, mut former_held, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for revision in &revisions {
        // Two publishers may have published the same files.
        if seen.insert(revision.manifest.torrent.info_hash) {
            let turn = node.jobs.try_turn(&revision.manifest.torrent.info_hash).ok_or_else(in_use)?;
            held.push((turn, node.seeds.close(revision).await?));
        }
    }
    for former in node.library.store.former_states().list(model, &main, None)? {
        if seen.insert(former.info_hash) {
            former_held.push(former_states::hold(node, model, &former).await?);
        }
    }
    let (node, model) = (node.clone(), model.clone());
    // It continues to its end if the future is dropped.
    blocking::cancellable(move |_| {
        let _until_done = (mirror, held, former_held);
        remove(&node.library, &model)?;
        revisions.iter().for_each(|revision| node.seeds.leave_unless_used(&revision.manifest));
        node.seeds.apply_all_rules();
        // Contents may now belong only to withheld models.
        node.fetch.withdraw_reserved();
        node.changed();
        Ok(())
    })
    .await
}

/// [`remove`] for the files of a mirror that is no model. The engine does not know them.
async fn remove_laid_out(node: &Arc<Node>, model: &ModelRef) -> Result<(), NodeError> {
    let turn = node.mirrors.try_turn(model).ok_or_else(|| NodeError::InUse(model.clone()))?;
    let (node, model) = (node.clone(), model.clone());
    blocking::cancellable(move |_| {
        let _until_done = turn;
        // Before its bytes are deleted, so that no request writes any more.
        node.hub.remove_shown(&model);
        remove(&node.library, &model)?;
        node.changed();
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::Config;
    use crate::model::{FileEntry, InfoHash, Manifest, PiecesRoot};
    use crate::node::sharing::WithheldReason;
    use crate::paths::Paths;
    use crate::store::Stamp;

    /// Stores a state of a model in a directory like a `get`.
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
    fn remains_of_a_killed_update_are_removed_with_the_model() {
        for superseded in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let library = Library::open(Config::defaults(&dir.path().join("base"))).unwrap();
            let dest = library.paths.models.join("acme/m");
            got(&library, &dest, &[("both", 1), ("old", 2)]);
            let other = dir.path().join("other");
            let mut new = got(&library, if superseded { &other } else { &dest }, &[("both", 1), ("new", 3)]);
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
            remove(&library, &"acme/m".parse().unwrap()).unwrap();
            assert!(!dest.parent().unwrap().exists(), "{:?}", files(dest.parent().unwrap()));
            assert_eq!(fs::read_dir(history.parent().unwrap()).unwrap().count(), 0);
            let Paths { base, .. } = &library.paths;
            let left: Vec<_> = ["resume", "torrents"].iter().flat_map(|of| files(&base.join(of))).collect();
            assert_eq!(left, Vec::<PathBuf>::new());
        }
    }
    #[test]
    fn an_interrupted_removal_is_completed_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::open(Config::defaults(&dir.path().join("base"))).unwrap();
        let model: ModelRef = "acme/m".parse().unwrap();
        let manifest = got(&library, &library.paths.models.join("acme/m"), &[("a", 1)]);
        library.registry.insert(manifest).unwrap();
        let withheld = Rule { withheld: Some(WithheldReason::Private), ..Rule::default() };
        library.sharing.set(&model, withheld).unwrap();
        let history = library.paths.mirror_of(&model);
        fs::create_dir_all(history.parent().unwrap()).unwrap();
        fs::write(&history, "no directory").unwrap();
        remove(&library, &model).unwrap_err();
        assert_eq!(library.sharing.of(&model), withheld, "a known model must stay withheld");
        fs::remove_file(&history).unwrap();
        remove(&library, &model).unwrap();
        assert!(library.registry.get(&model).is_none());
        assert_eq!(library.sharing.of(&model), Rule::default());
    }
}
