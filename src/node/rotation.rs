//! After a replacement of the publisher's key: signs the manifests of the former key with the new one.

use super::{Library, NodeError};
use crate::model::PublisherKey;
use crate::model::keys::PublisherKeypair;
use crate::trust::rotation;

/// Completes all replacements of the key: names of a former key belong to its successor, and own manifests are signed
/// with the present key. Returns how many manifests it signed. The caller holds the node lock. Blocks.
pub fn finish(library: &Library) -> Result<usize, NodeError> {
    rotation::complete(&library.paths)?;
    let steps = rotation::successors(&library.paths);
    if steps.is_empty() {
        return Ok(0);
    }
    library.trust.succeed(&steps)?;
    let key = PublisherKeypair::load(&library.paths.publisher_key())?;
    let former = former_keys(&steps, key.public());
    let mut signed = 0;
    for manifest in library.registry.all() {
        if manifest.signed_by().is_none_or(|publisher| !former.contains(&publisher)) {
            continue;
        }
        let revised = library.registry.revise(&manifest.model_ref(), |manifest| {
            let ours = manifest.signed_by().is_some_and(|publisher| former.contains(&publisher));
            ours.then(|| {
                let mut manifest = manifest.clone();
                manifest.sign(&key);
                manifest
            })
        })?;
        signed += usize::from(revised);
    }
    if signed > 0 {
        tracing::info!(
            manifests = signed,
            key = key.public().fingerprint(),
            "signed manifests with the new key"
        );
    }
    Ok(signed)
}

/// Like [`finish`]. A failure is logged: the node continues with the manifests that the former key signed.
pub(super) fn finish_or_log(library: &Library) {
    if let Err(error) = finish(library) {
        tracing::error!(%error, "could not finish the replacement of the publisher's key");
    }
}

/// The keys whose successions lead to `current`.
fn former_keys(steps: &[(PublisherKey, PublisherKey)], current: PublisherKey) -> Vec<PublisherKey> {
    let mut keys = vec![current];
    let mut at = 0;
    while at < keys.len() {
        let before = steps.iter().filter(|(_, successor)| *successor == keys[at]).map(|(former, _)| *former);
        let new: Vec<PublisherKey> = before.filter(|former| !keys.contains(former)).collect();
        keys.extend(new);
        at += 1;
    }
    keys.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::{FileEntry, Manifest, ModelRef, PiecesRoot};
    use crate::trust::Pinning;

    fn manifest(name: &str, key: Option<&PublisherKeypair>) -> Manifest {
        let model: ModelRef = name.parse().unwrap();
        let file = FileEntry::new("w.bin", 5, None, Some(PiecesRoot([1; 32])));
        let mut manifest = Manifest::new(model.name, model.revision, 1 << 22, vec![file]).unwrap();
        if let Some(key) = key {
            manifest.sign(key);
        }
        manifest
    }

    #[test]
    fn what_a_former_key_signed_is_signed_by_the_present_one() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::defaults(&dir.path().join("base"));
        let library = Library::open(config.clone()).unwrap();
        let first = PublisherKeypair::load_or_create(&library.paths.publisher_key()).unwrap();
        let other = PublisherKeypair::generate().unwrap();
        for (name, key) in [
            ("acme/a", Some(&first)),
            ("acme/b@v2", Some(&first)),
            ("acme/c", Some(&other)),
            ("acme/d", None),
        ] {
            let manifest = manifest(name, key);
            library.trust.accept(&manifest.name, manifest.signed_by(), Pinning::Pin).unwrap();
            library.registry.insert(manifest).unwrap();
        }
        assert_eq!(finish(&library).unwrap(), 0);
        rotation::rotate(&library.paths, 1000).unwrap();
        // Killed here, and once more.
        let second = rotation::rotate(&library.paths, 2000).unwrap();
        let (reopened, _lock) = crate::node::open_locked(config).unwrap();
        let signer = |name: &str| reopened.registry.get(&name.parse().unwrap()).unwrap().signed_by();
        let expected = [Some(second.current), Some(second.current), Some(other.public()), None];
        assert_eq!(["acme/a", "acme/b@v2", "acme/c", "acme/d"].map(signer), expected);
        let pinned = |name: &str| reopened.trust.pinned(&name.parse().unwrap()).unwrap();
        assert_eq!(["acme/a", "acme/b", "acme/c", "acme/d"].map(pinned), expected);
        let replaced = first.public();
        assert!(
            reopened.trust.known_keys().contains(&replaced),
            "otherwise the record of the succession expires"
        );
        assert_eq!(finish(&reopened).unwrap(), 0);
        let read_again =
            Manifest::from_json(&std::fs::read(reopened.paths.manifest(&"acme/a".parse().unwrap())).unwrap());
        assert_eq!(read_again.unwrap().signed_by(), Some(second.current));
    }
}
