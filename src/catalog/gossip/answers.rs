//! The requests of peers: their costs, the answers, and the data from which they are answered.

use std::sync::Arc;

use super::budget::Work;
use crate::catalog::message::{
    Have, HeldManifest, MANIFEST_PART, MAX_HAVE, Message, PeerAnswer, PeerQuestion,
};
use crate::catalog::query::Query;
use crate::catalog::record::{RecordBody, SharedRecord};
use crate::catalog::store::Page;
use crate::model::{InfoHash, ModelRef, PublisherKey, Sha256Digest};

/// Bytes of records in one message, in their wire form; the rest of [`MAX_MESSAGE`] is for the other fields.
///
/// [`MAX_MESSAGE`]: crate::torrent::overlay::MAX_MESSAGE
pub const RECORD_BYTES: usize = 48 * 1024;

/// Publishers in one page of a digest: 44 KB.
pub const DIGEST_PAGE: usize = MAX_HAVE;

/// Publishers in one request for records.
pub const WANT_PAGE: usize = 128;

/// Records in one page of search results: of the longest ones, 40 make 47 KiB.
pub const SEARCH_PAGE: usize = 40;

/// Records of models, held manifests, and successions in the answer to a lookup, each.
const MAX_HOLDS: usize = 32;

/// The records and models of this node.
pub trait RecordSource {
    /// How many records are known.
    fn count(&self) -> usize;
    /// The summary of one publisher's records.
    fn have(&self, publisher: &PublisherKey) -> Option<Have>;
    /// The summaries of the publishers after a key, in the order of their keys.
    fn page(&self, after: Option<&PublisherKey>, limit: usize) -> Vec<Have>;
    /// A publisher's records after a sequence, ascending by sequence.
    fn after(&self, publisher: &PublisherKey, sequence: i64, limit: usize) -> Vec<SharedRecord>;
    /// Records that match, from a cursor on.
    fn search(&self, query: &Query, from: Option<&[u8]>, limit: usize) -> Page;
    /// All records of one revision.
    fn records_of(&self, model: &ModelRef) -> Vec<SharedRecord>;
    /// The record in which a publisher names their successor.
    fn successor(&self, publisher: &PublisherKey) -> Option<SharedRecord>;
    /// The manifests of one revision that this node holds.
    fn held(&self, model: &ModelRef) -> Vec<HeldManifest>;
    /// Whether this node has every byte of a torrent.
    fn is_complete(&self, info_hash: &InfoHash) -> bool;
    /// The JSON of a manifest that this node holds.
    fn manifest(&self, digest: &Sha256Digest) -> Option<Arc<[u8]>>;
}

/// A request of a peer.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerRequest {
    /// The page of our digest after a publisher.
    Digest(Option<PublisherKey>),
    /// Records of publishers after a sequence.
    Want(Vec<(PublisherKey, i64)>),
    /// A question, and the number that the peer chose for it.
    Question(u32, PeerQuestion),
}

impl PeerRequest {
    /// The most bytes of the answer.
    pub(super) fn cost(&self) -> f64 {
        let bytes = match self {
            Self::Digest(_) | Self::Want(_) | Self::Question(_, PeerQuestion::Query(..)) => RECORD_BYTES,
            Self::Question(_, PeerQuestion::Lookup(_) | PeerQuestion::Part(..)) => MANIFEST_PART,
        };
        bytes as f64
    }

    /// The work of the answer that is charged in addition to its bytes.
    pub(super) fn work(&self) -> Option<Work> {
        match self {
            Self::Question(_, PeerQuestion::Query(..)) => Some(Work::Query),
            Self::Question(_, PeerQuestion::Lookup(_)) => Some(Work::Lookup),
            Self::Digest(_) | Self::Want(_) | Self::Question(_, PeerQuestion::Part(..)) => None,
        }
    }

    /// The answer. May read the whole catalog.
    pub fn answer(&self, source: &dyn RecordSource) -> Message {
        match self {
            Self::Digest(after) => {
                let known = source.page(after.as_ref(), DIGEST_PAGE);
                Message::Have { more: known.len() == DIGEST_PAGE, known }
            }
            Self::Want(after) => wanted(after, source),
            Self::Question(id, question) => Message::Answer(*id, answer(question, source)),
        }
    }
}

fn answer(question: &PeerQuestion, source: &dyn RecordSource) -> PeerAnswer {
    match question {
        PeerQuestion::Query(query, cursor) => {
            let page = source.search(query, cursor.as_deref(), SEARCH_PAGE);
            let is_complete = |record: &SharedRecord| {
                record.model().is_some_and(|model| source.is_complete(&model.info_hash))
            };
            let complete = (0u32..).zip(&page.records).filter(|(_, r)| is_complete(r)).map(|(i, _)| i);
            PeerAnswer::Found { complete: complete.collect(), records: page.records, cursor: page.next }
        }
        PeerQuestion::Lookup(model) => {
            let mut held = source.held(model);
            held.sort_by_key(|held| !held.complete);
            held.truncate(MAX_HOLDS);
            let mut records = source.records_of(model);
            if records.len() > MAX_HOLDS {
                choose(&mut records, &held);
            }
            let publishers = records.iter().map(|record| record.record().publisher);
            let publishers = publishers.chain(held.iter().map(|held| held.publisher));
            records.extend(successions(publishers.collect(), source));
            PeerAnswer::Holds { records, held }
        }
        PeerQuestion::Part(manifest, part) => {
            let json = source.manifest(manifest);
            let bytes = json.as_deref().and_then(|json| json.chunks(MANIFEST_PART).nth(*part as usize));
            PeerAnswer::Part { manifest: *manifest, part: *part, bytes: bytes.unwrap_or(&[]).to_vec() }
        }
    }
}

/// Of too many records, keeps first the ones whose models this node has completely, then the ones whose manifests it holds,
/// then the rest in the order of the source: kept publishers first, then a random order.
fn choose(records: &mut Vec<SharedRecord>, held: &[HeldManifest]) {
    let rank = |record: &SharedRecord| {
        let manifest = record.model().map(|model| model.manifest);
        match held.iter().find(|held| Some(held.manifest) == manifest) {
            Some(held) if held.complete => 0,
            Some(_) => 1,
            None => 2,
        }
    };
    records.sort_by_key(rank);
    let left_out = records.len() - MAX_HOLDS;
    tracing::debug!(left_out, "a lookup is answered with some of the known records");
    records.truncate(MAX_HOLDS);
}

/// As many records as fit into one message, publisher by publisher in the order of the request.
fn wanted(after: &[(PublisherKey, i64)], source: &dyn RecordSource) -> Message {
    let mut records: Vec<SharedRecord> = Vec::new();
    let mut bytes = 0;
    let mut more = false;
    'publishers: for (publisher, sequence) in after.iter().take(WANT_PAGE) {
        let mut sequence = *sequence;
        loop {
            let next = source.after(publisher, sequence, READ_AT_ONCE);
            let last = next.len() < READ_AT_ONCE;
            for record in next {
                bytes += record_bytes(&record);
                if bytes > RECORD_BYTES {
                    more = true;
                    break 'publishers;
                }
                sequence = record.record().sequence;
                records.push(record);
            }
            if last {
                break;
            }
        }
    }
    Message::Wanted { records, more }
}

/// The successor records of these publishers, and of their successors: without them, the asker regards a publisher and
/// their former key as two publishers.
fn successions(mut publishers: Vec<PublisherKey>, source: &dyn RecordSource) -> Vec<SharedRecord> {
    let mut found: Vec<SharedRecord> = Vec::new();
    while let Some(publisher) = publishers.pop()
        && found.len() < MAX_HOLDS
    {
        if found.iter().any(|known| known.record().publisher == publisher) {
            continue;
        }
        let Some(record) = source.successor(&publisher) else { continue };
        if let RecordBody::Successor(next) = record.record().body {
            publishers.push(next);
        }
        found.push(record);
    }
    found
}

/// Records read from the store in one step.
const READ_AT_ONCE: usize = 64;

/// A record's bytes within a message.
pub(super) fn record_bytes(record: &SharedRecord) -> usize {
    record.wire_len() + 8
}
