//! From a name to a manifest: what the catalog finds, the choice among it, and the manifest stored.
//!
//! Nothing is stored, and nobody pinned, before the manifest fits what it was announced as.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::candidates::Askable;
use super::catalog::NodeCatalog;
use super::{ErrorKind, Node, NodeError, blocking, candidates, chain};
use crate::catalog::trust::Pinning;
use crate::catalog::{Candidate, CatalogError};
use crate::model::{Manifest, ModelRef, PublisherKey};

/// How long the DHT may take to say whom a publisher has named as successor, and how many of these in turn are followed.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(8);
const MAX_SUCCESSIONS: usize = 8;

/// What somebody is resolving, or was a moment ago.
type Key = (ModelRef, Option<String>);

/// The latest failure of a resolving, and when it came.
type Turn = tokio::sync::Mutex<Option<(Instant, ErrorKind, String)>>;

/// The resolvings in progress: those of one name at once are one.
#[derive(Debug, Default)]
pub(super) struct Resolvings(Mutex<HashMap<Key, Weak<Turn>>>);

impl Resolvings {
    fn of(&self, key: Key) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::default());
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

impl Node {
    /// The manifest of a model: the one known here, or, within a time, the one that the network knows, once the trust
    /// accepts its publisher. `publisher` asks for that of a certain one. Several calls at once for one model are one
    /// piece of work.
    pub async fn resolve(
        self: &Arc<Self>,
        model: &ModelRef,
        publisher: Option<&str>,
        within: Duration,
    ) -> Result<Arc<Manifest>, NodeError> {
        let asked = Instant::now();
        let turn = self.resolvings.of((model.clone(), publisher.map(str::to_owned)));
        let until = tokio::time::Instant::now() + within;
        let Ok(mut failed) = tokio::time::timeout_at(until, turn.lock()).await else {
            return Err(CatalogError::NotFound(model.clone()).into());
        };
        if let Some(known) = self.library.registry.get(model).filter(|known| self.library.stands(known)) {
            return Ok(known);
        }
        if let Some((_, kind, message)) = failed.as_ref().filter(|(when, ..)| *when > asked) {
            return Err(NodeError::Remote { kind: *kind, message: message.clone() });
        }
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let resolved = self.resolve_anew(model, publisher, left).await;
        if let Err(e) = &resolved {
            *failed = Some((Instant::now(), e.kind(), chain(e)));
        }
        resolved
    }

    /// [`resolve`](Self::resolve), whatever is known here; what comes takes its place. A quarter of the time at least is
    /// left for the manifest.
    pub(super) async fn resolve_anew(
        self: &Arc<Self>,
        model: &ModelRef,
        publisher: Option<&str>,
        within: Duration,
    ) -> Result<Arc<Manifest>, NodeError> {
        let part = self.catalog()?;
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        let mut found = part.catalog.resolve(model, within * 3 / 4).await?;
        let from = Asking { part, model };
        // Whoever was first to answer may have nothing to hand out: the others are heard before the time is over.
        let mut by = Instant::now() + left() / 2;
        let (manifest, pinning) = loop {
            let settled =
                candidates::settle(&self.library.trust, model, publisher, found.clone(), &from, by).await;
            match settled {
                Err(NodeError::Catalog(CatalogError::NoManifest { .. })) if Instant::now() < until => {
                    found = part.catalog.resolve(model, left() * 3 / 4).await?;
                    by = until;
                }
                settled => break settled?,
            }
        };
        self.admit(manifest, pinning).await
    }

    /// The manifest of a model by a known publisher, from the record in the DHT.
    pub(super) async fn resolve_of(
        self: &Arc<Self>,
        publisher: &str,
        model: &ModelRef,
        peers: &[SocketAddr],
        within: Duration,
    ) -> Result<Arc<Manifest>, NodeError> {
        let part = self.catalog()?;
        let until = Instant::now() + within;
        part.catalog.introduce(peers);
        let known = part.store.digest().into_iter().map(|have| have.publisher);
        let publisher = self.library.trust.find(publisher, known)?;
        let publisher = self.library.trust.present_key(&publisher);
        let mut found = self.found_of(part, publisher, model, within * 3 / 4).await?;
        let from = Asking { part, model };
        let manifest = loop {
            let left = until.saturating_duration_since(Instant::now());
            match from.fetch(&found, left).await {
                Err(e) if Instant::now() < until => found = from.renewed(&e, &found).ok_or(e)?,
                fetched => break fetched?,
            }
        };
        self.admit(manifest, Pinning::Pin).await
    }

    /// What a publisher announces, or whoever has their key's place now, by what the DHT says.
    async fn found_of(
        &self,
        part: &NodeCatalog,
        mut publisher: PublisherKey,
        model: &ModelRef,
        within: Duration,
    ) -> Result<Candidate, NodeError> {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        for _ in 0..MAX_SUCCESSIONS {
            // Beside each other: most publishers have no successor, which takes the DHT a while to say.
            let found = part.catalog.resolve_of(publisher, model, left());
            let named = part.catalog.successor(publisher, SUCCESSOR_WITHIN.min(left() / 2));
            tokio::pin!(found, named);
            let (early, next) = tokio::select! {
                next = &mut named => (None, next),
                early = &mut found => (Some(early), named.await),
            };
            let next = next.map(|next| self.library.trust.present_key(&next));
            match (next.filter(|next| *next != publisher), early) {
                (Some(next), _) => publisher = next,
                (None, Some(found)) => return Ok(found?),
                (None, None) => return Ok(found.await?),
            }
        }
        Err(CatalogError::NotFound(model.clone()).into())
    }

    /// Whether the publisher of a model known here has announced another state of it since. Answered from memory.
    pub(super) fn is_outdated(&self, known: &Manifest) -> bool {
        let (Some(part), Some(signer)) = (&self.catalog, known.signed_by()) else { return false };
        // It may have been signed by a key that was replaced since.
        let publisher = self.library.trust.present_key(&signer);
        let made = known.created_at.as_ref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let Some(announced) = part.store.of(&publisher, &known.model_ref()) else { return false };
        let time = announced.record().time;
        // Both are told to the second, and a record is made after its manifest.
        let newer = made.is_none_or(|made| i64::try_from(time).is_ok_and(|t| t >= made.as_second()));
        newer && announced.model().is_some_and(|model| model.info_hash != known.torrent.info_hash)
    }

    /// Stores a manifest that was checked, where the trust accepts its publisher, and shows it.
    async fn admit(
        self: &Arc<Self>,
        manifest: Manifest,
        pinning: Pinning,
    ) -> Result<Arc<Manifest>, NodeError> {
        let node = self.clone();
        let (stored, former) = blocking::cancellable(move |_| {
            let former = node.library.registry.get(&manifest.model_ref());
            node.library.trust.accept(&manifest.name, manifest.signed_by(), pinning)?;
            // With the model, what is announced of it survives whatever happens to this process.
            if let Some(Err(e)) = node.catalog.as_ref().map(|part| part.store.flush()) {
                tracing::warn!("what was announced of {} may be lost: {e}", manifest.name);
            }
            Ok((node.library.registry.insert(manifest)?, former))
        })
        .await?;
        if let Some(former) = former.filter(|former| former.torrent.info_hash != stored.torrent.info_hash) {
            self.leave_unless_used(&former);
        }
        if let Some(part) = &self.catalog {
            let info_hash = stored.torrent.info_hash;
            self.fetch.introduce(&info_hash, &part.catalog.holders(&info_hash));
        }
        self.changed();
        Ok(stored)
    }
}

/// The peers who hand out the manifests of a model.
struct Asking<'a> {
    part: &'a NodeCatalog,
    model: &'a ModelRef,
}

impl Asking<'_> {
    /// After nobody handed out a manifest: the newer record of its publisher that came meanwhile.
    fn renewed(&self, failure: &NodeError, known: &Candidate) -> Option<Candidate> {
        if !matches!(failure, NodeError::Catalog(CatalogError::NoManifest { .. })) {
            return None;
        }
        let known = (known.publisher, known.record.as_ref()?.record().sequence);
        let newest = self.part.store.of(&known.0, self.model)?;
        Candidate::of_record(&newest).filter(|_| newest.record().sequence > known.1)
    }
}

impl Askable for Asking<'_> {
    /// Ends without one as soon as a record has come that replaces the candidate's: its state is gone.
    async fn fetch(&self, candidate: &Candidate, within: Duration) -> Result<Manifest, NodeError> {
        let json = tokio::select! {
            json = self.part.catalog.manifest(self.model, candidate, within) => json?,
            () = self.part.catalog.replaced(self.model, candidate) => {
                return Err(CatalogError::NoManifest { model: self.model.clone() }.into());
            }
        };
        let (model, candidate) = (self.model.clone(), candidate.clone());
        blocking::cancellable(move |_| {
            candidates::check(&model, &candidate, &json).map_err(|reason| NodeError::Refused {
                origin: model.to_string(),
                reason: format!("the manifest announced by {} {reason}", candidate.publisher.fingerprint()),
            })
        })
        .await
    }

    async fn succeeded(&self, owner: PublisherKey, within: Duration) -> bool {
        // What the DHT says is kept among the records, as what peers say.
        let asking = async {
            self.part.catalog.successor(owner, within).await;
            std::future::pending::<()>().await;
        };
        let word = async {
            tokio::select! {
                () = self.part.catalog.succeeded(owner) => {}
                () = asking => {}
            }
        };
        tokio::time::timeout(within, word).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn resolvings_of_one_name_share_a_turn() {
        let resolvings = Resolvings::default();
        let key = |name: &str| (name.parse().unwrap(), None);
        let one = resolvings.of(key("a/b"));
        assert!(Arc::ptr_eq(&one, &resolvings.of(key("a/b"))));
        assert!(!Arc::ptr_eq(&one, &resolvings.of(key("a/c"))));
        drop(one);
        resolvings.of(key("a/d"));
        assert!(resolvings.0.lock().unwrap().len() <= 1, "turns that nobody has are forgotten");
    }
}
