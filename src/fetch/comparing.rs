//! Large files of manifests that the user did not choose: the hub lists their SHA-256, which does not show that the pieces root is
//! right before a file is complete. So some parts are compared with the bytes of the hub before a reader gets the first
//! byte: the part that the reader wants, the beginning of the file, and parts at random. One difference refuses the manifest.
//!
//! The hub has a short time to answer. If it does not, reads continue, and the comparison is repeated in the background.
//! Later, parts that readers get are compared at random, also in the background.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::samples::{Due, RANDOM, Sampling, granules, random_parts, wanted_part};
use super::witness::HubBytes;
use super::{Fetch, FileRef};

/// How long the first reader of a file waits for the comparison.
const WITHIN: Duration = Duration::from_secs(3);

/// How long a comparison in the background may take.
const BACKGROUND_WITHIN: Duration = Duration::from_secs(30);

/// Of so many reads one is compared later.
const ONE_READ_OF: u32 = 32;

/// Where the bytes of a comparison come from, in addition to the hub.
#[derive(Clone, Copy)]
enum Sampled<'a> {
    /// From the swarm, while the model is shown.
    Fetched(&'a (dyn Fn() -> bool + Send + Sync)),
    /// Only cached bytes are compared.
    Cached,
}

/// The result of a comparison.
enum Compared {
    Equal,
    Different(Range<u64>),
    /// The swarm or the hub did not send some of the bytes.
    Unknown,
}

impl Fetch {
    /// Whether a read of the file must first compare bytes with the hub.
    pub(super) fn must_compare(&self, file: &FileRef) -> bool {
        file.is_refuted() || file.unchecked_whole().is_some() || self.samples.are_due(file)
    }

    /// Compares parts of a large file with the hub, unless that was done: those of `wanted` and parts at random. Returns after a
    /// short time also if the hub does not answer. The manifest is refuted if a part differs.
    pub(super) async fn sample(
        self: &Arc<Self>,
        file: &FileRef,
        wanted: &Range<u64>,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) {
        let Some(sampling) = self.samples.of(file) else { return };
        let due = sampling.due();
        match due {
            Due::Nothing => {}
            Due::First => self.sample_first(file, wanted, &sampling, is_shown).await,
            Due::Again => {
                let (this, file) = (self.clone(), file.clone());
                tokio::spawn(async move { this.sample_again(&file, &sampling).await });
            }
        }
    }

    async fn sample_first(
        self: &Arc<Self>,
        file: &FileRef,
        wanted: &Range<u64>,
        sampling: &Sampling,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) {
        let until = Instant::now() + WITHIN;
        let Ok(_turn) = tokio::time::timeout_at(until, sampling.turn.lock()).await else { return };
        if matches!(sampling.due(), Due::Nothing) {
            return;
        }
        let hub = self.hub_bytes(file).filter(|_| !self.samples.missed_lately());
        let Some(hub) = hub else { return self.note(file, sampling, Compared::Unknown) };
        let len = file.content().len();
        let comparing = async {
            // The wanted part first: then the redirect of the hub is known for the further requests.
            let first = vec![wanted_part(len, wanted)];
            match self.compare_parts(file, &*hub, first, Sampled::Fetched(is_shown)).await {
                Compared::Equal => {
                    let more = random_parts(len, wanted);
                    self.compare_parts(file, &*hub, more, Sampled::Fetched(is_shown)).await
                }
                other => other,
            }
        };
        let compared = tokio::time::timeout_at(until, comparing).await;
        self.samples.note_missed(compared.is_err());
        self.note(file, sampling, compared.unwrap_or(Compared::Unknown));
    }

    /// Compares cached granules at random.
    async fn sample_again(self: &Arc<Self>, file: &FileRef, sampling: &Sampling) {
        let Ok(_turn) = sampling.turn.try_lock() else { return };
        if !matches!(sampling.due(), Due::Again) {
            return;
        }
        let len = file.content().len();
        let cached = file.content().verified_ranges(0..len);
        let mut parts: Vec<_> = cached.iter().flat_map(|range| granules(len, range)).collect();
        fastrand::shuffle(&mut parts);
        parts.truncate(RANDOM);
        let compared = match self.hub_bytes(file).filter(|_| !parts.is_empty()) {
            Some(hub) => {
                let comparing = self.compare_parts(file, &*hub, parts, Sampled::Cached);
                tokio::time::timeout(BACKGROUND_WITHIN, comparing).await.unwrap_or(Compared::Unknown)
            }
            None => Compared::Unknown,
        };
        self.note(file, sampling, compared);
    }

    /// Compares one part that a reader got with the hub, in the background, for a few reads of large files. Must be called inside
    /// the runtime.
    pub(super) fn sample_later(self: &Arc<Self>, file: &FileRef, read: &Range<u64>) {
        if file.revision.listed.is_none() || read.is_empty() || fastrand::u32(..ONE_READ_OF) > 0 {
            return;
        }
        let Some(hub) = file.unchecked_large().and_then(|_| self.hub_bytes(file)) else { return };
        let granules = granules(file.content().len(), read);
        let Some(part) = granules.get(fastrand::usize(..granules.len().max(1))).cloned() else { return };
        let (this, file) = (self.clone(), file.clone());
        tokio::spawn(async move {
            let comparing = this.compare_part(&file, &*hub, part, Sampled::Cached);
            if let Ok(Compared::Different(part)) = tokio::time::timeout(BACKGROUND_WITHIN, comparing).await {
                this.report_different(&file, &part);
            }
        });
    }

    fn hub_bytes(&self, file: &FileRef) -> Option<Arc<dyn HubBytes>> {
        self.witness.get()?.open(file)
    }

    fn note(&self, file: &FileRef, sampling: &Sampling, compared: Compared) {
        match compared {
            Compared::Equal => sampling.note_equal(),
            Compared::Different(part) => self.report_different(file, &part),
            Compared::Unknown => {
                sampling.note_failure();
                let model = &file.revision.manifest.name;
                tracing::info!(%model, path = file.path(), "the hub did not send parts of a file for a comparison");
            }
        }
    }

    fn report_different(&self, file: &FileRef, part: &Range<u64>) {
        let difference = format!(
            "the bytes of {} at the hub, from {} to {}, do not have the hash of the manifest",
            file.path(),
            part.start,
            part.end
        );
        self.report_contradiction(file, difference);
    }

    /// Compares several parts at the same time, until one differs.
    async fn compare_parts(
        self: &Arc<Self>,
        file: &FileRef,
        hub: &dyn HubBytes,
        parts: Vec<Range<u64>>,
        from: Sampled<'_>,
    ) -> Compared {
        let mut comparing: FuturesUnordered<_> =
            parts.into_iter().map(|part| self.compare_part(file, hub, part, from)).collect();
        let mut result = Compared::Equal;
        while let Some(compared) = comparing.next().await {
            match compared {
                Compared::Equal => {}
                Compared::Different(part) => return Compared::Different(part),
                Compared::Unknown => result = Compared::Unknown,
            }
        }
        result
    }

    /// Compares the verified bytes of a part with those of the hub. The hub is asked twice before it decides against the
    /// manifest: the manifest is refused for ever.
    async fn compare_part(
        self: &Arc<Self>,
        file: &FileRef,
        hub: &dyn HubBytes,
        part: Range<u64>,
        from: Sampled<'_>,
    ) -> Compared {
        let of_hub = async { hub.part(part.clone()).await.ok_or(()) };
        let verified = async {
            match from {
                Sampled::Fetched(is_shown) => {
                    self.read_apart(file, part.clone(), is_shown).await.map_err(|_| ())
                }
                Sampled::Cached => {
                    let (content, part) = (file.content().clone(), part.clone());
                    let reading = tokio::task::spawn_blocking(move || content.read(part));
                    reading.await.ok().and_then(Result::ok).flatten().ok_or(())
                }
            }
        };
        let Ok((of_hub, verified)) = tokio::try_join!(of_hub, verified) else { return Compared::Unknown };
        if of_hub == verified {
            return Compared::Equal;
        }
        match hub.part(part.clone()).await {
            Some(again) if again == of_hub => Compared::Different(part),
            Some(_) => {
                tracing::warn!(path = file.path(), "the hub sent different bytes for one part of a file");
                Compared::Unknown
            }
            None => Compared::Unknown,
        }
    }
}
