//! The publishers that the user of this node has chosen.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::TrustDocument;
use crate::model::PublisherKey;

/// The keys, and the sources that they were collected from.
#[derive(Default)]
pub(super) struct KnownKeys(Mutex<Option<CollectedKeys>>);

struct CollectedKeys {
    own: Option<PublisherKey>,
    document: Option<Arc<TrustDocument>>,
    keys: Arc<HashSet<PublisherKey>>,
}

impl KnownKeys {
    /// The publishers that `document` lists or that own a name in it, `own`, and the former keys of all these. Collected again
    /// when one of the sources has changed.
    pub fn collect(
        &self,
        own: Option<PublisherKey>,
        document: Option<Arc<TrustDocument>>,
    ) -> Arc<HashSet<PublisherKey>> {
        let mut collected = self.0.lock();
        let is_same = |then: &Option<Arc<TrustDocument>>| match (then, &document) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now),
            (None, None) => true,
            _ => false,
        };
        if let Some(same) = collected.as_ref().filter(|then| then.own == own && is_same(&then.document)) {
            return Arc::clone(&same.keys);
        }
        let listed = document.iter().flat_map(|document| &document.publishers).map(|listed| listed.key);
        let pinned = document.iter().flat_map(|document| document.pins.values()).map(|pin| pin.publisher);
        let mut keys: HashSet<_> = listed.chain(pinned).chain(own).collect();
        let leads_to_one = |document: &TrustDocument, former| {
            document.present(former).is_some_and(|key| keys.contains(&key))
        };
        let former: Vec<_> = document
            .iter()
            .flat_map(|document| {
                document.successions.keys().filter(|former| leads_to_one(document, former)).copied()
            })
            .collect();
        keys.extend(former);
        let keys = Arc::new(keys);
        *collected = Some(CollectedKeys { own, keys: Arc::clone(&keys), document });
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrustPolicy;
    use crate::paths::Paths;
    use crate::trust::Trust;

    #[test]
    fn keys_are_collected_again_when_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir.path().join("base"));
        paths.create().unwrap();
        let trust = Trust::open(&paths, TrustPolicy::Tofu);
        let (listed, stranger) = (PublisherKey([1; 32]), PublisherKey([2; 32]));
        assert!(trust.known_keys().is_empty());
        trust.add(listed, None, &[]).unwrap();
        let keys = trust.known_keys();
        assert_eq!(*keys, HashSet::from([listed]));
        assert!(
            Arc::ptr_eq(&keys, &trust.known_keys()),
            "the keys are collected again although no file changed"
        );
        trust.add(stranger, None, &[]).unwrap();
        assert_eq!(*trust.known_keys(), HashSet::from([listed, stranger]));
        // A former key is known as long as its successor is.
        let (replaced, other) = (PublisherKey([3; 32]), PublisherKey([4; 32]));
        trust.succeed(&[(replaced, listed), (other, PublisherKey([5; 32]))]).unwrap();
        assert_eq!(*trust.known_keys(), HashSet::from([listed, stranger, replaced]));
        trust.remove(&listed, false).unwrap();
        assert_eq!(*trust.known_keys(), HashSet::from([stranger]));
    }
}
