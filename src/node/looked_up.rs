//! Bounds for models that were only looked up or read, by a mount or at the endpoint. A peer that answers for any name, together
//! with a program that looks names up, could otherwise fill the disk and the memory with manifests, and the engine with
//! torrents.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Library, Node, NodeError, blocking};
use crate::model::{Manifest, PublisherKey};
use crate::store::StoredRevision;

/// Most manifests of models that were only looked up and of which no byte is stored, and the most memory for them, in bytes.
const MAX_UNREAD: usize = 1000;
const MAX_UNREAD_MEMORY: usize = 64 << 20;

/// Memory of a manifest, and of one of its files in addition to its path, in bytes.
const MANIFEST_MEMORY: usize = 1024;
const FILE_MEMORY: usize = 160;

/// Most memory that the engine may use for all torrents before idle ones of models that were only read leave, and what it uses
/// for a torrent and for each of its pieces, in bytes.
const MAX_ENGINE_MEMORY: u64 = 320 << 20;
const TORRENT_MEMORY: u64 = 64 << 10;
const PIECE_MEMORY: u64 = 77;

/// How many models may be looked up until the manifests are counted again.
const COUNT_AFTER: usize = 64;

/// A manifest that a lookup accepted, and that no command has named.
struct LookedUp {
    manifest: Arc<Manifest>,
    publisher: PublisherKey,
    /// Whether it is read by the fingerprint of its publisher, and not by its name.
    by_publisher: bool,
    /// When it was stored. None if it is in memory only, because the disk was full.
    since: Option<SystemTime>,
}

/// Drops the oldest manifests that were only looked up, and leaves the swarms of models that were only read and that no program
/// reads now, until the bounds are kept. Failures are logged.
pub(super) async fn keep_bounds(node: &Arc<Node>) {
    let node = node.clone();
    let kept = blocking::run(move || {
        if LookedUpModels(&node.library).begin_count(COUNT_AFTER) {
            drop_unread(&node)?;
        }
        leave_idle(&node);
        Ok(())
    });
    if let Err(error) = kept.await {
        tracing::warn!(%error, "could not drop models that were only looked up");
    }
}

fn drop_unread(node: &Node) -> Result<(), NodeError> {
    let mut dropped = 0;
    for unread in beyond(&node.library, MAX_UNREAD, MAX_UNREAD_MEMORY) {
        let info_hash = unread.manifest.torrent.info_hash;
        // A job that fetches it, and readers that wait for it, keep it.
        let Some(_turn) = node.jobs.try_turn(&info_hash) else { continue };
        if node.fetch.leave_if_idle(&info_hash) {
            LookedUpModels(&node.library).forget(&unread)?;
            // A read may have joined it again.
            node.seeds.leave_unless_used(&unread.manifest);
            dropped += 1;
        }
    }
    if dropped > 0 {
        tracing::info!(dropped, "dropped the oldest manifests that were only looked up");
        node.changed();
    }
    Ok(())
}

/// The oldest manifests that were only looked up and of which no byte is stored, beyond the first `max`, or beyond the first that
/// use `max_memory` bytes. Reads the disk.
fn beyond(library: &Library, max: usize, max_memory: usize) -> Vec<LookedUp> {
    let known = library.manifests();
    if known.len() <= max && known.iter().map(|manifest| memory_of(manifest)).sum::<usize>() <= max_memory {
        return Vec::new();
    }
    let mut unread = LookedUpModels(library).all();
    unread.retain(|one| {
        let revision = library.usable_revision(one.manifest.clone());
        revision.is_some_and(|revision| revision.held_bytes() == 0)
    });
    unread.sort_by_key(|one| Reverse(one.since));
    let (mut count, mut memory) = (0, 0);
    unread.retain(|one| {
        count += 1;
        memory += memory_of(&one.manifest);
        count > max || memory > max_memory
    });
    unread
}

fn memory_of(manifest: &Manifest) -> usize {
    MANIFEST_MEMORY + manifest.files.iter().map(|file| FILE_MEMORY + file.path.len()).sum::<usize>()
}

/// Leaves the swarms of the models that were read the longest time ago. The next read joins again.
fn leave_idle(node: &Node) {
    let joined = node.fetch.joined().into_iter().map(|revision| Joined {
        memory: engine_memory(&revision),
        last_used: revision.contents.iter().map(|content| content.last_used()).max(),
        of: revision,
    });
    let is_only_read = |revision: &Arc<StoredRevision>| {
        let manifest = &revision.manifest;
        LookedUpModels(&node.library).is_only_read(manifest).is_some()
    };
    leave_oldest(MAX_ENGINE_MEMORY, joined.collect(), is_only_read, |revision| {
        let left = node.fetch.leave_if_idle(&revision.manifest.torrent.info_hash);
        if left {
            tracing::info!(model = %revision.manifest.model_ref(), "left the swarm of an idle model, to save memory");
        }
        left
    });
}

/// A model whose swarm this node has joined.
struct Joined<T> {
    of: T,
    /// What the engine uses for it, in bytes.
    memory: u64,
    /// Seconds since 1970 of its last read.
    last_used: Option<u64>,
}

/// Leaves models that were only read, the one of the oldest read first, until all use at most `max` bytes. `leave` returns false if
/// a program reads the model.
fn leave_oldest<T>(
    max: u64,
    mut joined: Vec<Joined<T>>,
    is_only_read: impl Fn(&T) -> bool,
    mut leave: impl FnMut(&T) -> bool,
) {
    let mut memory: u64 = joined.iter().map(|one| one.memory).sum();
    joined.sort_by_key(|one| one.last_used);
    for one in joined {
        if memory <= max {
            return;
        }
        // Reads the disk.
        if is_only_read(&one.of) && leave(&one.of) {
            memory -= one.memory;
        }
    }
}

fn engine_memory(revision: &StoredRevision) -> u64 {
    TORRENT_MEMORY + PIECE_MEMORY * u64::from(revision.layout.piece_count())
}

/// The manifests of a registry that were only looked up.
struct LookedUpModels<'a>(&'a Library);

impl LookedUpModels<'_> {
    /// Begins a count of the manifests that were only looked up, unless fewer than `after` were accepted since the last one.
    fn begin_count(&self, after: usize) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.looked_up.load(Relaxed) >= after && self.0.looked_up.swap(0, Relaxed) >= after
    }

    /// The publisher of a manifest that only lookups have accepted. None for any other manifest, and if that is not known. Reads
    /// the disk.
    fn is_only_read(&self, manifest: &Manifest) -> Option<PublisherKey> {
        let publisher = manifest.signed_by()?;
        let newest = self.0.states.of(&manifest.model_ref()).ok()?;
        newest.get(&publisher).is_some_and(|state| state.only_read).then_some(publisher)
    }

    fn all(&self) -> Vec<LookedUp> {
        let of = |manifest: Arc<Manifest>, by_publisher: bool| {
            let (model, signed_by) = (manifest.model_ref(), manifest.signed_by()?);
            let (since, is_unsaved) = if by_publisher {
                self.0.by_publisher.since(&signed_by, &model)
            } else {
                self.0.registry.since(&model)
            };
            // Only a manifest that is read may be in memory alone.
            let publisher = if is_unsaved { signed_by } else { self.is_only_read(&manifest)? };
            Some(LookedUp { manifest, publisher, by_publisher, since })
        };
        let named = self.0.registry.all().into_iter().filter_map(|manifest| of(manifest, false));
        let further = self.0.by_publisher.all().into_iter().filter_map(|manifest| of(manifest, true));
        named.chain(further).collect()
    }

    /// Forgets a manifest of which no byte is stored, and the state of its publisher.
    fn forget(&self, one: &LookedUp) -> Result<(), NodeError> {
        let (model, info_hash) = (one.manifest.model_ref(), one.manifest.torrent.info_hash);
        let lock = self.0.states.lock()?;
        // A command may have accepted it since.
        if one.since.is_some() && self.is_only_read(&one.manifest).is_none() {
            return Ok(());
        }
        if one.by_publisher {
            self.0.by_publisher.remove(&one.publisher, &model)?;
        } else {
            self.0.registry.remove(&model)?;
        }
        self.0.states.forget(&model, &one.publisher, &lock)?;
        if !self.0.manifests().iter().any(|known| known.torrent.info_hash == info_hash) {
            self.0.store.torrents.remove(&info_hash)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::keys::PublisherKeypair;
    use crate::model::{FileEntry, ModelRef, PiecesRoot};
    use crate::node::accept::Intent;
    use crate::trust::Pinning;

    struct Rig {
        _dir: tempfile::TempDir,
        library: Library,
        key: PublisherKeypair,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let library = Library::open(Config::defaults(&dir.path().join("base"))).unwrap();
            Self { _dir: dir, library, key: PublisherKeypair::generate().unwrap() }
        }

        /// Accepts a model of one file. Later ones are newer.
        fn accept(&self, name: &str, number: u8, intent: Intent) -> Manifest {
            let model: ModelRef = name.parse().unwrap();
            let file = FileEntry::new("w.bin", 5, None, Some(PiecesRoot([number; 32])));
            let mut manifest = Manifest::new(model.name, model.revision, 1 << 22, vec![file]).unwrap();
            manifest.sign(&self.key);
            self.library.accept(manifest.clone(), None, intent, Pinning::Pin).unwrap();
            let at =
                SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000 + u64::from(number));
            let path = crate::paths::manifest_below(&self.library.paths.registry(), &manifest.model_ref());
            if intent == Intent::Read {
                std::fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
            }
            manifest
        }

        fn beyond(&self, max: usize, max_memory: usize) -> Vec<String> {
            let beyond = beyond(&self.library, max, max_memory);
            beyond.iter().map(|one| one.manifest.name.to_string()).collect()
        }
    }

    const TAKE: Intent = Intent::Take { allow_older: false };

    #[test]
    fn oldest_models_that_were_only_looked_up_are_dropped() {
        let rig = Rig::new();
        rig.accept("a/taken", 1, TAKE);
        rig.accept("a/old", 2, Intent::Read);
        let read = rig.accept("a/read", 3, Intent::Read);
        rig.accept("a/new", 4, Intent::Read);
        let data = rig.library.paths.cached(&PiecesRoot([3; 32]));
        let revision = rig.library.store.revision(Arc::new(read)).unwrap();
        let path = revision.contents[0].path();
        assert!(path.starts_with(data.parent().unwrap()));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"bytes").unwrap();
        revision.contents[0].mark_verified_at(0..5, revision.contents[0].moves()).unwrap();
        assert_eq!(rig.beyond(4, usize::MAX), [""; 0]);
        assert_eq!(rig.beyond(1, usize::MAX), ["a/old"]);
        assert_eq!(rig.beyond(4, MANIFEST_MEMORY + FILE_MEMORY + 5), ["a/old"]);
        assert_eq!(rig.beyond(0, usize::MAX), ["a/new", "a/old"]);
    }

    #[test]
    fn a_dropped_model_is_forgotten_on_the_disk_too() {
        let rig = Rig::new();
        let manifest = rig.accept("a/old", 2, Intent::Read);
        for one in &beyond(&rig.library, 0, 0) {
            LookedUpModels(&rig.library).forget(one).unwrap();
        }
        let library = Library::open(rig.library.config.clone()).unwrap();
        assert!(library.manifests().is_empty());
        assert!(library.states.of(&manifest.model_ref()).unwrap().is_empty());
        assert!(!library.paths.states(&manifest.model_ref()).exists());
    }

    #[test]
    fn a_model_that_a_command_has_accepted_since_stays() {
        let rig = Rig::new();
        rig.accept("a/old", 2, Intent::Read);
        let unread = beyond(&rig.library, 0, 0);
        rig.accept("a/old", 2, TAKE);
        LookedUpModels(&rig.library).forget(&unread[0]).unwrap();
        assert_eq!(rig.library.manifests().len(), 1);
    }

    #[test]
    fn idle_models_are_left_from_the_oldest_read_on() {
        const TAKEN: &str = "taken";
        const BUSY: &str = "busy";
        let left = |max: u64| {
            let joined = |of, memory, last_used| Joined { of, memory, last_used: Some(last_used) };
            let all = vec![
                joined("new", 10, 5),
                joined("never", 10, 0),
                joined(TAKEN, 10, 1),
                joined("old", 10, 3),
                joined(BUSY, 10, 2),
            ];
            let mut left = vec![];
            let leave = |of: &&'static str| {
                if *of != BUSY {
                    left.push(*of);
                }
                *of != BUSY
            };
            leave_oldest(max, all, |of| *of != TAKEN, leave);
            left
        };
        assert_eq!(left(50), [""; 0]);
        assert_eq!(left(49), ["never"]);
        assert_eq!(left(40), ["never"]);
        assert_eq!(left(39), ["never", "old"]);
        assert_eq!(left(0), ["never", "old", "new"]);
    }

    #[test]
    fn a_model_that_a_command_has_named_is_not_only_read() {
        let rig = Rig::new();
        let [read, taken] =
            [("a/read", Intent::Read), ("a/taken", TAKE)].map(|(name, intent)| rig.accept(name, 1, intent));
        assert_eq!(LookedUpModels(&rig.library).is_only_read(&read), Some(rig.key.public()));
        assert_eq!(LookedUpModels(&rig.library).is_only_read(&taken), None);
    }

    #[test]
    fn manifests_are_counted_after_some_lookups() {
        let rig = Rig::new();
        assert!(!LookedUpModels(&rig.library).begin_count(2));
        rig.accept("a/taken", 1, TAKE);
        rig.accept("a/one", 2, Intent::Read);
        assert!(!LookedUpModels(&rig.library).begin_count(2));
        rig.accept("a/two", 3, Intent::Read);
        assert!(LookedUpModels(&rig.library).begin_count(2) && !LookedUpModels(&rig.library).begin_count(2));
    }
}
