//! Decides about the manifests of a name with the answers of the hub.
//!
//! A manifest that states another file, length or SHA-256 than the hub lists for its commit is refuted. If two manifests agree with
//! the list and have different pieces roots for a file, bytes of that file from the hub decide: one piece in which they differ, or
//! the whole file if the list has no SHA-256 for it. Of the manifests that remain, those of the newest commit of the
//! revision are the best.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::ask::{Question, can_ask};
use crate::catalog::Candidate;
use crate::model::{FileEntry, GitOid, Identity, Manifest, ModelRef, PieceLayers, Sha256Digest, commit};
use crate::node::candidates::{Judge, Opinion};
use crate::node::hub::access::HubAccess;
use crate::node::{Node, NodeError, blocking};
use crate::store::{HubFile, Judgement, Verdict};
use crate::trust::witness::stretch::{HashedFile, Stretch, root_of};
use crate::trust::witness::{Difference, ListedFile, compare};

/// The most commits that are listed for one decision, and the most parts of files that are read for it.
const MAX_COMMITS: usize = 4;
const MAX_PARTS: usize = 16;

/// The most bytes that are read for one decision.
const MAX_BYTES: u64 = 64 << 20;

/// The longest file without a SHA-256 in the list that is read, in bytes. The hub keeps longer files in LFS.
const MAX_GIT: u64 = 16 << 20;

/// Asks the hub about the candidates of one name.
pub(in crate::node) struct HubJudge<'a> {
    pub node: &'a Arc<Node>,
    /// How the hub is asked; none if it is not.
    pub access: Option<&'a Arc<HubAccess>>,
    pub model: &'a ModelRef,
}

/// What is known about a manifest during a decision.
enum State {
    Unknown,
    Refuted(Difference),
    /// The hub lists its files.
    Listed(GitOid, Arc<Vec<HubFile>>),
}

impl State {
    fn file(&self, path: &str) -> Option<(GitOid, &HubFile)> {
        let Self::Listed(commit, files) = self else { return None };
        let at = files.binary_search_by(|file| crate::model::path::compare(&file.path, path)).ok()?;
        Some((*commit, &files[at]))
    }
}

impl Judge for HubJudge<'_> {
    fn is_able(&self) -> bool {
        self.question().is_some()
    }

    fn refuted(&self, candidate: &Candidate) -> Option<NodeError> {
        match self.node.library.store.witnessed.verdict(self.model, &candidate.manifest)? {
            Verdict::Refuted(difference) => {
                let publisher = self.node.library.trust.describe(&candidate.publisher);
                Some(NodeError::refuted(self.model.clone(), &publisher, &difference))
            }
            Verdict::Listed(_) | Verdict::Outranked => None,
        }
    }

    async fn judge(&self, manifests: &[&Manifest], until: Instant) -> Vec<Opinion> {
        let unknown = || manifests.iter().map(|_| Opinion::Unknown).collect();
        let Some(question) = self.question() else { return unknown() };
        let until = tokio::time::Instant::from_std(until);
        match tokio::time::timeout_at(until, decide(&question, manifests)).await {
            Ok(opinions) => opinions,
            Err(_) => {
                tracing::info!(model = %self.model, "the hub did not answer in time about the manifests of a name");
                unknown()
            }
        }
    }
}

impl HubJudge<'_> {
    /// None if the hub is not asked about this name, or cannot be asked now.
    fn question(&self) -> Option<Question<'_>> {
        let (node, model) = (self.node, self.model);
        let access = self.access.filter(|access| can_ask(node, access, model))?;
        Some(Question { node, access, model })
    }
}

/// Decides, and records the results.
async fn decide(question: &Question<'_>, manifests: &[&Manifest]) -> Vec<Opinion> {
    let mut states = compare_with_lists(question, manifests).await;
    compare_bytes(question, manifests, &mut states).await;
    let mut ages = Vec::new();
    for state in &states {
        ages.push(match state {
            State::Listed(commit, _) => question.age(*commit).await,
            State::Unknown | State::Refuted(_) => None,
        });
    }
    let best = best_of(question, manifests, &ages);
    record(question, manifests, &states, &best).await;
    let describe = |manifest: &Manifest| match manifest.signed_by() {
        Some(key) => question.node.library.trust.describe(&key),
        None => "no publisher".to_owned(),
    };
    let opinion = |(at, state): (usize, State)| match state {
        State::Refuted(difference) => {
            let publisher = describe(manifests[at]);
            let error = NodeError::refuted(question.model.clone(), &publisher, &difference.to_string());
            tracing::warn!(%error, "refused a manifest");
            Opinion::Refuted(Box::new(error))
        }
        State::Listed(..) | State::Unknown if best.chosen.contains(&at) => {
            Opinion::Best { is_shared: best.is_shared }
        }
        State::Listed(..) | State::Unknown => Opinion::Unknown,
    };
    states.into_iter().enumerate().map(opinion).collect()
}

async fn compare_with_lists(question: &Question<'_>, manifests: &[&Manifest]) -> Vec<State> {
    let mut lists: BTreeMap<GitOid, Option<Arc<Vec<HubFile>>>> = BTreeMap::new();
    let mut states = Vec::new();
    for manifest in manifests {
        let Some(commit) = stated_commit(manifest) else {
            states.push(State::Unknown);
            continue;
        };
        if !lists.contains_key(&commit) && lists.len() < MAX_COMMITS {
            lists.insert(commit, question.files(commit).await.flatten());
        }
        let files = lists.get(&commit).cloned().flatten();
        states.push(match files {
            None => State::Unknown,
            Some(files) => match compare(manifest, files.iter().map(listed)) {
                Ok(()) => State::Listed(commit, files),
                Err(difference) => State::Refuted(difference),
            },
        });
    }
    states
}

fn stated_commit(manifest: &Manifest) -> Option<GitOid> {
    let stated = manifest.source.as_ref()?.commit.as_deref()?;
    stated.parse().ok().filter(|_| commit::is_commit(stated))
}

fn listed(file: &HubFile) -> ListedFile<'_> {
    ListedFile { path: &file.path, size: file.size, identity: file.identity }
}

/// Has bytes of the hub decide about files for which the manifests that agree with the lists have different hashes.
async fn compare_bytes(question: &Question<'_>, manifests: &[&Manifest], states: &mut [State]) {
    let (mut parts, mut bytes_left) = (MAX_PARTS, MAX_BYTES);
    for (commit, file) in files_in_question(manifests, states) {
        loop {
            let claims = claims(&file, manifests, states);
            let Some(sought) = part_that_decides(question, &file, &claims).await else { break };
            let len = sought.bytes().end - sought.bytes().start;
            if parts == 0 || len > bytes_left {
                break;
            }
            (parts, bytes_left) = (parts - 1, bytes_left - len);
            let Some(bytes) = question.bytes(commit, &file, sought.bytes()).await else { break };
            let Some(wrong) = sought.wrong(&file, &claims, &bytes) else { break };
            for at in wrong {
                let Some(claim) = claims.iter().find(|claim| claim.at == at) else { continue };
                let (path, part) = (claim.entry.path.clone(), sought.bytes());
                states[at] = State::Refuted(Difference::Bytes { path, from: part.start, to: part.end });
            }
        }
    }
}

/// The files of the hub for which the manifests have different hashes, each with a commit that has it.
fn files_in_question(manifests: &[&Manifest], states: &[State]) -> Vec<(GitOid, HubFile)> {
    let mut hashes: BTreeMap<(Identity, u64), BTreeSet<_>> = BTreeMap::new();
    let mut found = Vec::new();
    for (manifest, state) in manifests.iter().zip(states) {
        let State::Listed(commit, files) = state else { continue };
        // Both are in canonical order, and have the same paths.
        for (entry, file) in manifest.files.iter().zip(files.iter()) {
            let stated = hashes.entry((file.identity, file.size)).or_default();
            let is_new = stated.insert((entry.pieces_root.map(|root| root.0), stated_sha256(entry, file)));
            if is_new && stated.len() == 2 {
                found.push((*commit, file.clone()));
            }
        }
    }
    found
}

/// The SHA-256 that a manifest states for a file, if the list has none: otherwise they are compared already.
fn stated_sha256(entry: &FileEntry, file: &HubFile) -> Option<[u8; 32]> {
    match file.identity {
        Identity::Lfs(_) => None,
        Identity::Git(_) => entry.sha256.map(|sha256| sha256.0),
    }
}

/// What one manifest states about a file of the hub.
struct Claim<'a> {
    /// The number of the manifest.
    at: usize,
    manifest: &'a Manifest,
    entry: &'a FileEntry,
}

/// The claims about a file of the hub, of manifests that are not refuted.
fn claims<'a>(file: &HubFile, manifests: &[&'a Manifest], states: &[State]) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    for (at, (manifest, state)) in manifests.iter().zip(states).enumerate() {
        let of_manifest = manifest.files.iter().filter(|entry| {
            entry.size == file.size
                && state.file(&entry.path).is_some_and(|(_, listed)| listed.identity == file.identity)
        });
        claims.extend(of_manifest.map(|entry| Claim { at, manifest, entry }));
    }
    claims
}

/// The bytes that decide between claims about a file.
enum Sought {
    /// All bytes of a file for which the list has no SHA-256.
    Whole(u64),
    /// A part in which two claims differ, with their numbers.
    Part(Stretch, usize, usize),
}

impl Sought {
    fn bytes(&self) -> std::ops::Range<u64> {
        match self {
            Self::Whole(len) => 0..*len,
            Self::Part(stretch, ..) => stretch.bytes.clone(),
        }
    }

    /// The manifests whose claims these bytes refute. None if the bytes cannot be those that the hub lists, and if they decide
    /// nothing.
    fn wrong(&self, file: &HubFile, claims: &[Claim<'_>], bytes: &[u8]) -> Option<Vec<usize>> {
        let wrong: Vec<usize> = match self {
            Self::Whole(len) => {
                if !file.identity.is_of(*len, bytes).is_ok_and(|is_right| is_right) {
                    tracing::warn!(path = file.path, "the hub sent other bytes of a file than it lists");
                    return None;
                }
                let (root, sha256) = (root_of(bytes), Sha256Digest(Sha256::digest(bytes).into()));
                let is_wrong = |claim: &&Claim<'_>| {
                    claim.entry.pieces_root != Some(root) || claim.entry.sha256.is_some_and(|of| of != sha256)
                };
                claims.iter().filter(is_wrong).map(|claim| claim.at).collect()
            }
            Self::Part(stretch, first, second) => {
                let fits = stretch.fits(bytes);
                let root = |claim: usize| claims[claim].entry.pieces_root;
                let refuted = [(fits.0, root(*first)), (fits.1, root(*second))];
                let refuted = refuted.into_iter().filter(|(fits, _)| !fits).map(|(_, root)| root);
                let refuted: Vec<_> = refuted.collect();
                let of = claims.iter().filter(|claim| refuted.contains(&claim.entry.pieces_root));
                of.map(|claim| claim.at).collect()
            }
        };
        (!wrong.is_empty()).then_some(wrong)
    }
}

/// The bytes that decide between claims that differ. None if all claims are equal, or if no part decides.
async fn part_that_decides(question: &Question<'_>, file: &HubFile, claims: &[Claim<'_>]) -> Option<Sought> {
    let first = claims.first()?;
    let hashes = |claim: &Claim<'_>| (claim.entry.pieces_root, stated_sha256(claim.entry, file));
    let differing = claims.iter().enumerate().filter(|(_, claim)| hashes(claim) != hashes(first));
    if matches!(file.identity, Identity::Git(_)) {
        return (differing.count() > 0 && file.size <= MAX_GIT).then_some(Sought::Whole(file.size));
    }
    let of_first = layers(question, first).await;
    for (number, other) in differing {
        let of_other = layers(question, other).await;
        let files = hashed_file(first, &of_first).zip(hashed_file(other, &of_other));
        if let Some(stretch) = files.and_then(|(one, another)| Stretch::between(&one, &another)) {
            return Some(Sought::Part(stretch, 0, number));
        }
    }
    None
}

fn hashed_file<'a>(claim: &Claim<'a>, layers: &'a PieceLayers) -> Option<HashedFile<'a>> {
    let layer = claim.entry.pieces_root.and_then(|root| layers.get(&root));
    HashedFile::of(claim.entry, claim.manifest.torrent.piece_length, layer)
}

/// The piece layers of a manifest: those that it carries, or those of its torrent that were saved.
async fn layers(question: &Question<'_>, claim: &Claim<'_>) -> PieceLayers {
    let carried = claim.manifest.piece_layers();
    let is_known = claim.entry.pieces_root.is_some_and(|root| carried.get(&root).is_some());
    if is_known || claim.entry.size <= u64::from(claim.manifest.torrent.piece_length) {
        return carried;
    }
    let (store, manifest) = (question.node.library.store.clone(), claim.manifest.clone());
    let saved = blocking::run(move || Ok(store.torrents.layers(&manifest)?)).await;
    saved.unwrap_or_default()
}

/// The best of some manifests.
#[derive(Default)]
struct Best {
    chosen: BTreeSet<usize>,
    /// Whether other publishers have the same files.
    is_shared: bool,
}

/// The manifests of the newest commit among those in the history of the revision. Of manifests with the same files only one: the one
/// that is known here, or that of the first key.
fn best_of(question: &Question<'_>, manifests: &[&Manifest], ages: &[Option<usize>]) -> Best {
    let Some(newest) = ages.iter().flatten().min() else { return Best::default() };
    let mut of_newest: Vec<usize> = (0..ages.len()).filter(|&at| ages[at] == Some(*newest)).collect();
    let known = question.node.library.registry.get(question.model);
    let is_known = |at: usize| known.as_ref().is_some_and(|known| known.signature == manifests[at].signature);
    of_newest.sort_by_key(|&at| (!is_known(at), manifests[at].signed_by()));
    let mut best = Best::default();
    for at in of_newest {
        let equal = best.chosen.iter().find(|&&chosen| has_same_files(manifests[at], manifests[chosen]));
        match equal {
            Some(&equal) => best.is_shared |= manifests[at].signed_by() != manifests[equal].signed_by(),
            None => drop(best.chosen.insert(at)),
        }
    }
    best
}

fn has_same_files(one: &Manifest, other: &Manifest) -> bool {
    let files = |manifest: &Manifest| -> Vec<_> {
        manifest.files.iter().map(|file| (file.path.clone(), file.size, file.pieces_root)).collect()
    };
    files(one) == files(other)
}

async fn record(question: &Question<'_>, manifests: &[&Manifest], states: &[State], best: &Best) {
    let mut lists = BTreeMap::new();
    let mut judged = Vec::new();
    for (at, (manifest, state)) in manifests.iter().zip(states).enumerate() {
        let is_outranked = !best.chosen.is_empty() && !best.chosen.contains(&at);
        let verdict = match state {
            State::Refuted(difference) => Verdict::Refuted(difference.to_string()),
            State::Listed(..) | State::Unknown if is_outranked => Verdict::Outranked,
            State::Listed(commit, files) => {
                lists.insert(*commit, files.clone());
                Verdict::Listed(*commit)
            }
            State::Unknown => continue,
        };
        judged.push((Manifest::clone(manifest), verdict));
    }
    let (node, model) = (question.node.clone(), question.model.clone());
    let completed = node.witness.completed.clone();
    let recording = blocking::run(move || {
        let judgement = |(manifest, verdict): (Manifest, Verdict)| Judgement {
            manifest: manifest.digest().0,
            signature: manifest.signature.clone(),
            publisher: manifest.publisher,
            verdict,
        };
        let judged = judged.into_iter().map(judgement).collect();
        node.library.store.witnessed.record(&model, judged, lists);
        Ok(())
    });
    if let Err(error) = recording.await {
        tracing::error!(%error, "could not record what the hub has shown");
    }
    // Files of it may be complete already.
    completed.notify_one();
}
