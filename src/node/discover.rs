//! `discover`: searches the models that peers share, and rates their publishers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Node, NodeError};
use crate::catalog::{CatalogStatus, FoundModel, Query, UnixTime};
use crate::model::{InfoHash, ModelName, ModelRef, PublisherKey, Revision};
use crate::trust::Standing;

/// The most models in one result.
pub const MAX_MODELS: usize = 10_000;

/// The longest search.
pub const MAX_WITHIN: Duration = Duration::from_secs(3600);

/// The body of `POST /v1/discover`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiscoverRequest {
    /// See [`Query`].
    pub query: String,
    /// How long to search, in milliseconds; at most [`MAX_WITHIN`].
    pub within: u64,
    /// Hosts to ask in addition to known ones.
    pub peers: Vec<SocketAddr>,
}

/// The progress of a search.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiscoverProgress {
    /// How many models were found.
    pub found: usize,
    /// The model that was found last.
    pub latest: Option<String>,
}

/// A model that a peer shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedModel {
    /// `org/name`, or `org/name@revision`.
    pub model: ModelRef,
    /// Its name.
    pub name: ModelName,
    /// The revision.
    pub revision: Revision,
    /// Bytes of all files.
    pub total_size: u64,
    /// Number of files.
    pub files: u32,
    /// Licence, where known.
    pub license: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Who signed its record.
    pub publisher: PublisherKey,
    /// The fingerprint of the key, for people to compare.
    pub fingerprint: String,
    /// The alias that the user has given the publisher.
    pub alias: Option<String>,
    /// How the rules of trust rate the publisher for this name.
    pub trust: Standing,
    /// Whether several publishers have different bytes under this name and version.
    pub contested: bool,
    /// How many nodes reported that they have all of it.
    pub seeds: u32,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// When the record was signed, in seconds since 1970.
    pub announced_at: UnixTime,
}

/// The result of a search.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Discovered {
    /// The models, by name.
    pub models: Vec<SharedModel>,
    /// Whether more than [`MAX_MODELS`] match.
    pub more: bool,
    /// The peers and records of the catalog after the search.
    pub catalog: CatalogStatus,
    /// Whether the DHT is used.
    pub dht: bool,
    /// Whether the machine has no network, so that only known records were searched.
    pub offline: bool,
}

/// Searches the known records and the network. `progress` is called for each found model.
pub async fn run(
    node: &Node,
    request: &DiscoverRequest,
    mut progress: impl FnMut(DiscoverProgress) + Send,
) -> Result<Discovered, NodeError> {
    let query: Query = request.query.parse().map_err(NodeError::Query)?;
    let catalog = &node.catalog()?.catalog;
    node.session.trust_hosts(&request.peers);
    catalog.introduce(&request.peers);
    let mut all = BTreeMap::new();
    let mut more = false;
    progress(DiscoverProgress { found: 0, latest: None });
    let add = |found: &FoundModel| {
        let Some(shared) = shared(node, found) else { return };
        let key = (shared.model.clone(), shared.publisher);
        if all.len() >= MAX_MODELS && !all.contains_key(&key) {
            more = true;
            return;
        }
        let latest = Some(shared.name.to_string());
        all.insert(key, shared);
        progress(DiscoverProgress { found: all.len(), latest });
    };
    let offline = node.reach.is_offline(&request.peers);
    let within = if offline { Duration::ZERO } else { Duration::from_millis(request.within) };
    let within = within.min(MAX_WITHIN);
    catalog.discover(&query, within, add).await?;
    let models = tokio::task::block_in_place(|| reported(node, all.into_values().collect()))?;
    Ok(Discovered { models, more, catalog: catalog.status(), dht: node.settings.discovery.dht, offline })
}

/// The matches to return. A record under a former key is left out if the publisher announces the model under the
/// present key as well. All records of a name decide whether it is contested, also those that do not match the query.
/// Reads the disk.
fn reported(node: &Node, models: Vec<SharedModel>) -> Result<Vec<SharedModel>, NodeError> {
    let store = &node.catalog()?.store;
    let trust = &node.library.trust;
    let known = trust.known_keys();
    let mut models = sorted(models);
    for same in models.chunk_by_mut(is_same) {
        let records = store.of_model(&same[0].model, &known);
        let stored = records.iter().filter_map(|record| {
            Some((record.record().publisher, record.record().time, record.model()?.info_hash))
        });
        mark(same, stored.collect(), &|key| trust.present_key(key));
    }
    models.retain(|model| {
        let present = trust.present_key(&model.publisher);
        present == model.publisher || store.of(&present, &model.model).is_none()
    });
    Ok(models)
}

fn shared(node: &Node, found: &FoundModel) -> Option<SharedModel> {
    let record = found.record.record();
    let model = found.record.model()?;
    let trust = &node.library.trust;
    Some(SharedModel {
        model: ModelRef { name: model.name.clone(), revision: model.version.clone() },
        name: model.name.clone(),
        revision: model.version.clone(),
        total_size: model.size,
        files: model.files,
        license: model.license.clone(),
        tags: model.tags.clone(),
        publisher: record.publisher,
        fingerprint: record.publisher.fingerprint(),
        alias: trust.document().ok().and_then(|d| d.alias(&record.publisher).map(ToString::to_string)),
        trust: trust.standing(&model.name, Some(&record.publisher)),
        contested: false,
        seeds: found.seeds,
        info_hash: model.info_hash,
        announced_at: record.time,
    })
}

/// Sorts by name and version; of equal ones the most trusted publisher is first.
fn sorted(mut models: Vec<SharedModel>) -> Vec<SharedModel> {
    let rank = |trust: &Standing| match trust {
        Standing::Pinned => 0,
        Standing::Listed => 1,
        Standing::Own => 2,
        Standing::Unknown => 3,
        Standing::Refused => 4,
    };
    models.sort_by(|a, b| {
        let of = |m: &SharedModel| (rank(&m.trust), std::cmp::Reverse(m.seeds), m.publisher);
        a.model.cmp(&b.model).then_with(|| of(a).cmp(&of(b)))
    });
    models
}

fn is_same(a: &SharedModel, b: &SharedModel) -> bool {
    a.model == b.model
}

/// The publisher, time and torrent of a record.
type Signed = (PublisherKey, UnixTime, InfoHash);

/// Marks models of one name and version that several publishers have with different bytes, by the found models and the
/// stored records. All keys of a publisher count as one. Of their records, the latest with the present key counts, or
/// else the latest.
fn mark(same: &mut [SharedModel], stored: Vec<Signed>, present: &dyn Fn(&PublisherKey) -> PublisherKey) {
    let found = same.iter().map(|model| (model.publisher, model.announced_at, model.info_hash));
    let mut latest: BTreeMap<PublisherKey, (bool, UnixTime, InfoHash)> = BTreeMap::new();
    for (publisher, time, info_hash) in found.chain(stored) {
        let now = present(&publisher);
        let signed = (now == publisher, time, info_hash);
        latest.entry(now).and_modify(|known| *known = signed.max(*known)).or_insert(signed);
    }
    let contents: BTreeSet<InfoHash> = latest.into_values().map(|(.., info_hash)| info_hash).collect();
    let contested = contents.len() > 1;
    same.iter_mut().for_each(|model| model.contested = contested);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, publisher: u8, content: u8, trust: Standing, seeds: u32) -> SharedModel {
        let key = PublisherKey([publisher; 32]);
        SharedModel {
            model: name.parse().unwrap(),
            name: name.parse().unwrap(),
            revision: Revision::default(),
            total_size: 1,
            files: 1,
            license: None,
            tags: Vec::new(),
            publisher: key,
            fingerprint: key.fingerprint(),
            alias: None,
            trust,
            contested: false,
            seeds,
            info_hash: InfoHash([content; 32]),
            announced_at: 0,
        }
    }

    #[test]
    fn trusted_publishers_are_first_and_different_bytes_contested() {
        let mut models = sorted(vec![
            model("b/m", 1, 1, Standing::Unknown, 9),
            model("b/m", 2, 2, Standing::Pinned, 0),
            model("a/m", 3, 3, Standing::Unknown, 1),
            model("a/m", 4, 3, Standing::Unknown, 5),
        ]);
        models.chunk_by_mut(is_same).for_each(|same| mark(same, Vec::new(), &|key| *key));
        let sorted: Vec<_> =
            models.iter().map(|m| (m.name.to_string(), m.publisher.0[0], m.contested)).collect();
        let expected = [("a/m", 4, false), ("a/m", 3, false), ("b/m", 2, true), ("b/m", 1, true)];
        assert_eq!(
            sorted,
            expected.map(|(name, publisher, contested)| (name.to_owned(), publisher, contested))
        );
    }

    #[test]
    fn a_former_key_does_not_contest_a_name() {
        let key = |number: u8| PublisherKey([number; 32]);
        let present = |publisher: &PublisherKey| if *publisher == key(1) { key(2) } else { *publisher };
        let contested = |stored: &[(u8, u8)]| {
            let mut found = [model("a/m", 2, 2, Standing::Unknown, 1)];
            let stored = stored.iter().map(|&(by, content)| (key(by), 9, InfoHash([content; 32])));
            mark(&mut found, stored.collect(), &present);
            found[0].contested
        };
        assert!(!contested(&[]));
        assert!(!contested(&[(1, 1)]), "the former key of the same publisher");
        assert!(!contested(&[(3, 2)]), "another publisher of the same bytes");
        assert!(contested(&[(3, 3)]));
    }
}
