//! Accepts manifests of other publishers into the registry. The trust must accept the publisher for the name, and the
//! state must not be older than the newest known state of that publisher.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error_kinds::is_disk_failure;
use super::{Library, NodeError};
use crate::catalog::now;
use crate::catalog::record::SignedRecord;
use crate::model::{Manifest, ModelRef, PublisherKey};
use crate::store::states::{Newest, StatesLock};
use crate::store::{Announced, SignedState};
use crate::trust::Pinning;

/// How a manifest is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Intent {
    /// To show and read it. Reading pins nothing.
    Read,
    /// A user requested it by command: its name is pinned to its publisher.
    Take {
        /// Whether a state may be older than the one known.
        allow_older: bool,
    },
}

impl Intent {
    /// Whether a state may be older than the one known.
    pub fn allows_older(self) -> bool {
        self == Self::Take { allow_older: true }
    }

    fn is_read(self) -> bool {
        self == Self::Read
    }

    /// `chosen`, or no pin if the manifest is only read.
    pub(super) fn pinning(self, chosen: Pinning) -> Pinning {
        if self.is_read() { Pinning::Leave } else { chosen }
    }
}

impl Library {
    /// Refuses a manifest if a newer state of its publisher is known, also under another key of that publisher.
    /// `record` announced the manifest. Reads the disk.
    pub(super) fn check_state(
        &self,
        manifest: &Manifest,
        record: Option<&SignedRecord>,
    ) -> Result<(), NodeError> {
        let Some(publisher) = manifest.signed_by() else { return Ok(()) };
        let state = state_of(manifest, record);
        let model = manifest.model_ref();
        let owner = self.trust.present_key(&publisher);
        for (key, known) in self.newest_states(&model)? {
            if self.trust.present_key(&key) == owner && state.is_older_than(&known, key == publisher) {
                let (given, known) = (state.signed_at(), known.signed_at());
                return Err(NodeError::Older { model, given, known });
            }
        }
        Ok(())
    }

    /// The newest states known of a model's publishers. A manifest that an earlier version stored counts as well.
    pub(super) fn newest_states(&self, model: &ModelRef) -> Result<Newest, NodeError> {
        let mut newest = self.states.of(model)?;
        if let Some(known) = self.registry.get(model)
            && let Some(publisher) = known.signed_by()
        {
            newest.entry(publisher).or_insert_with(|| state_of(&known, None));
        }
        Ok(newest)
    }

    /// Stores a checked manifest in the registry, unless its publisher is not accepted for the name or its state is
    /// older than the known one. Records its state, and pins the name if `pinning` requires it. Blocks.
    pub(super) fn accept(
        &self,
        manifest: Manifest,
        record: Option<&SignedRecord>,
        intent: Intent,
        pinning: Pinning,
    ) -> Result<Arc<Manifest>, NodeError> {
        let lock = self.states.lock()?;
        if !intent.allows_older() {
            self.check_state(&manifest, record)?;
        }
        self.trust.accept(&manifest.name, manifest.signed_by(), intent.pinning(pinning))?;
        let publisher = manifest.signed_by();
        let stored = if intent.is_read() {
            self.enter_state_of_read(&manifest, record, &lock)?;
            self.looked_up.fetch_add(1, Ordering::Relaxed);
            self.registry.insert_to_read(manifest)?
        } else {
            self.enter_state(&manifest, record, false, &lock)?;
            self.registry.insert(manifest)?
        };
        if let Some(publisher) = publisher {
            self.by_publisher.remove(&publisher, &stored.model_ref())?;
        }
        Ok(stored)
    }

    /// Stores a checked manifest that is read by the fingerprint of its publisher, under the same condition on its
    /// state. Pins nothing. Blocks.
    pub(super) fn accept_by_publisher(
        &self,
        manifest: Manifest,
        record: Option<&SignedRecord>,
    ) -> Result<Arc<Manifest>, NodeError> {
        let lock = self.states.lock()?;
        self.check_state(&manifest, record)?;
        self.enter_state_of_read(&manifest, record, &lock)?;
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        Ok(self.by_publisher.insert(manifest)?)
    }

    /// Saves the manifests, with their states, for which the disk had no space when they were read. Blocks.
    pub(super) fn save_unsaved(&self) -> Result<(), NodeError> {
        if self.registry.unsaved().is_empty() && self.by_publisher.unsaved().is_empty() {
            return Ok(());
        }
        let lock = self.states.lock()?;
        for manifest in self.registry.unsaved() {
            self.enter_state(&manifest, None, true, &lock)?;
            self.registry.insert(Manifest::clone(&manifest))?;
        }
        for manifest in self.by_publisher.unsaved() {
            self.enter_state(&manifest, None, true, &lock)?;
            self.by_publisher.insert(Manifest::clone(&manifest))?;
        }
        Ok(())
    }

    /// Records the state of a manifest that was made on this host: its author decides which state is the newest.
    /// Blocks.
    pub(super) fn enter_own_state(&self, manifest: &Manifest) -> Result<(), NodeError> {
        let Some(publisher) = manifest.signed_by() else { return Ok(()) };
        let lock = self.states.lock()?;
        Ok(self.states.enter(&manifest.model_ref(), publisher, state_of(manifest, None), &lock)?)
    }

    /// [`enter_state`](Self::enter_state) of a manifest that is only read. On a full disk the state is not recorded, and neither
    /// is the manifest: the next start knows nothing of both.
    fn enter_state_of_read(
        &self,
        manifest: &Manifest,
        record: Option<&SignedRecord>,
        lock: &StatesLock,
    ) -> Result<(), NodeError> {
        match self.enter_state(manifest, record, true, lock) {
            Err(error) if is_disk_failure(&error) => {
                tracing::warn!(model = %manifest.model_ref(), %error, "could not record the state of a model that is read");
                Ok(())
            }
            entered => entered,
        }
    }

    /// Records an accepted state. An older state, which the user allowed, does not replace the newest known one.
    fn enter_state(
        &self,
        manifest: &Manifest,
        record: Option<&SignedRecord>,
        only_read: bool,
        lock: &StatesLock,
    ) -> Result<(), NodeError> {
        let Some(publisher) = manifest.signed_by() else { return Ok(()) };
        let model = manifest.model_ref();
        let mut state = SignedState { only_read, ..state_of(manifest, record) };
        if let Some(known) = self.newest_states(&model)?.get(&publisher) {
            // A name that a command pinned keeps its pin when a mount reads it as well.
            state.only_read &= known.only_read;
            if state.is_older_than(known, true) {
                state = SignedState { only_read: state.only_read, ..*known };
            } else if state.announced.is_none() && state.created_at == known.created_at {
                state.announced = known.announced.filter(|_| state.info_hash == known.info_hash);
            }
        }
        Ok(self.states.enter(&model, publisher, state, lock)?)
    }

    /// The names and publishers of manifests that commands accepted, for a base directory without `trust.yaml`.
    pub(super) fn pinned_by_command(&self) -> Vec<(crate::model::ModelName, PublisherKey)> {
        let only_read = |model: &ModelRef, key: &PublisherKey| {
            self.states.of(model).is_ok_and(|newest| newest.get(key).is_some_and(|state| state.only_read))
        };
        let signed = self.registry.all().into_iter().filter_map(|m| Some((m.model_ref(), m.publisher?)));
        signed.filter(|(model, key)| !only_read(model, key)).map(|(model, key)| (model.name, key)).collect()
    }
}

/// The state that a manifest describes.
pub(super) fn state_of(manifest: &Manifest, record: Option<&SignedRecord>) -> SignedState {
    let announced = record.map(SignedRecord::record).map(|record| Announced {
        sequence: record.sequence,
        time: i64::try_from(record.time).unwrap_or(i64::MAX),
    });
    SignedState::of(manifest, announced, i64::try_from(now()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::record::Record;
    use crate::config::Config;
    use crate::model::keys::PublisherKeypair;
    use crate::model::{FileEntry, PiecesRoot};
    use crate::node::ErrorKind;

    struct Rig {
        _dir: tempfile::TempDir,
        library: Library,
        key: PublisherKeypair,
    }

    const TAKE: Intent = Intent::Take { allow_older: false };
    const ALLOW: Intent = Intent::Take { allow_older: true };

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let library = Library::open(Config::defaults(&dir.path().join("base"))).unwrap();
            Self { _dir: dir, library, key: PublisherKeypair::generate().unwrap() }
        }

        /// The base directory, opened by the next process.
        fn restarted(&self) -> Library {
            Library::open(self.library.config.clone()).unwrap()
        }

        fn accept(
            &self,
            manifest: &Manifest,
            sequence: Option<i64>,
            intent: Intent,
        ) -> Result<(), ErrorKind> {
            let record = sequence.map(|sequence| record(manifest, &self.key, sequence));
            let accepted = self.library.accept(manifest.clone(), record.as_ref(), intent, Pinning::Pin);
            accepted.map(|_| ()).map_err(|e| e.kind())
        }

        fn known(&self) -> Arc<Manifest> {
            self.library.registry.get(&"a/b".parse().unwrap()).unwrap()
        }
    }

    fn state(day: u8, key: &PublisherKeypair) -> Manifest {
        let model: ModelRef = "a/b".parse().unwrap();
        let file = FileEntry::new("w.bin", 5, None, Some(PiecesRoot([day; 32])));
        let mut manifest = Manifest::new(model.name, model.revision, 1 << 22, vec![file]).unwrap();
        manifest.created_at = Some(format!("2020-01-{day:02}T00:00:00Z"));
        manifest.sign(key);
        manifest
    }

    fn record(manifest: &Manifest, key: &PublisherKeypair, sequence: i64) -> SignedRecord {
        let time = u64::try_from(1_600_000_000 + sequence).unwrap();
        SignedRecord::sign(Record::of_manifest(manifest, key.public(), sequence, time), key).unwrap()
    }

    #[test]
    fn an_older_manifest_is_refused_however_it_arrives() {
        let rig = Rig::new();
        let (old, new) = (state(1, &rig.key), state(2, &rig.key));
        rig.accept(&new, Some(5), TAKE).unwrap();
        for (sequence, intent) in
            [(None, TAKE), (Some(4), TAKE), (None, Intent::Read), (Some(4), Intent::Read)]
        {
            assert_eq!(rig.accept(&old, sequence, intent), Err(ErrorKind::Older), "{sequence:?} {intent:?}");
        }
        let refused = rig.library.accept_by_publisher(old.clone(), None);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Older);
        assert_eq!(*rig.known(), new);
        rig.accept(&new, None, TAKE).unwrap();
        // A later record of the same key may announce an earlier manifest again.
        rig.accept(&old, Some(6), TAKE).unwrap();
        assert_eq!(*rig.known(), old);
    }

    #[test]
    fn the_newest_state_is_remembered_after_removal_and_restart() {
        let rig = Rig::new();
        let (old, new) = (state(1, &rig.key), state(2, &rig.key));
        rig.accept(&new, Some(5), TAKE).unwrap();
        rig.library.registry.remove(&new.model_ref()).unwrap();
        let library = rig.restarted();
        let refused = library.accept(old, None, TAKE, Pinning::Pin).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("2020-01-01T") && text.contains("2020-01-02T"), "{text}");
    }

    #[test]
    fn an_allowed_older_state_does_not_lower_the_newest_one() {
        let rig = Rig::new();
        let (old, new) = (state(1, &rig.key), state(3, &rig.key));
        rig.accept(&new, None, TAKE).unwrap();
        rig.accept(&old, None, ALLOW).unwrap();
        assert_eq!(*rig.known(), old);
        assert_eq!(rig.accept(&state(2, &rig.key), None, TAKE), Err(ErrorKind::Older));
        rig.accept(&new, None, TAKE).unwrap();
    }

    #[test]
    fn a_replaced_key_cannot_bring_back_an_older_state() {
        let rig = Rig::new();
        let next = PublisherKeypair::generate().unwrap();
        rig.accept(&state(2, &rig.key), Some(90), TAKE).unwrap();
        rig.library.trust.succeed(&[(rig.key.public(), next.public())]).unwrap();
        let accept = |day, sequence| {
            let manifest = state(day, &next);
            let record = record(&manifest, &next, sequence);
            rig.library.accept(manifest, Some(&record), TAKE, Pinning::Pin).map(|_| ()).map_err(|e| e.kind())
        };
        assert_eq!(accept(1, 99), Err(ErrorKind::Older));
        // Sequences of two keys cannot be compared.
        assert_eq!(accept(2, 3), Ok(()));
        assert_eq!(accept(3, 4), Ok(()));
    }

    #[test]
    fn a_manifest_of_an_earlier_version_counts_as_known_state() {
        let rig = Rig::new();
        rig.library.registry.insert(state(2, &rig.key)).unwrap();
        assert_eq!(rig.accept(&state(1, &rig.key), None, TAKE), Err(ErrorKind::Older));
        rig.accept(&state(3, &rig.key), None, TAKE).unwrap();
    }

    #[test]
    fn an_older_state_that_is_refused_pins_nothing() {
        let rig = Rig::new();
        rig.accept(&state(2, &rig.key), None, Intent::Read).unwrap();
        assert_eq!(rig.accept(&state(1, &rig.key), None, TAKE), Err(ErrorKind::Older));
        let name = "a/b".parse().unwrap();
        assert_eq!(rig.library.trust.pinned(&name).unwrap(), None);
        // If the file of pins is lost, a name that was only read gets no pin.
        std::fs::remove_file(rig.library.paths.trust()).unwrap();
        assert_eq!(rig.restarted().trust.pinned(&name).unwrap(), None);
        rig.accept(&state(2, &rig.key), None, TAKE).unwrap();
        assert_eq!(rig.library.trust.pinned(&name).unwrap(), Some(rig.key.public()));
    }
    #[test]
    fn a_model_that_cannot_be_opened_hides_no_other() {
        let rig = Rig::new();
        rig.accept(&state(1, &rig.key), None, Intent::Read).unwrap();
        let mut other = state(2, &rig.key);
        other.name = "a/other".parse().unwrap();
        let other = Manifest::new(other.name, other.version, 1 << 22, other.files).unwrap();
        rig.library.accept(other.clone(), None, Intent::Read, Pinning::Leave).unwrap();
        assert_eq!(rig.library.revisions().len(), 2);
        // The map of its blocks cannot be read.
        let blocked = rig
            .library
            .paths
            .cached(&PiecesRoot([1; 32]))
            .with_file_name(format!("{}.5", PiecesRoot([1; 32])));
        let map = std::path::PathBuf::from(format!("{}.have", blocked.display()));
        std::fs::create_dir_all(&map).unwrap();
        let names = |library: &Library| -> Vec<_> {
            library.revisions().iter().map(|revision| revision.manifest.name.to_string()).collect()
        };
        assert_eq!(names(&rig.restarted()), ["a/other"]);
        let listed = crate::node::models::all(&rig.restarted()).unwrap();
        assert_eq!(listed.len(), 1);
    }
}
