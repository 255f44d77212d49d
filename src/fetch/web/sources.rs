//! The addresses of one torrent on the web, and which of them can be asked now.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::WebError;
use crate::model::web_seed::WebSeed;
use crate::model::{Manifest, web_seed};

/// The pause after a first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause, unless a server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The longest pause that a server may ask for. The hub counts requests over five minutes.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// A growing pause after failures.
#[derive(Debug, Clone, Copy, Default)]
struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    fn failed(&mut self, now: Instant, at_least: Duration) {
        let pause = (FIRST_PAUSE * (1 << self.failures.min(10))).min(LONGEST_PAUSE);
        self.failures += 1;
        self.until = Some(now + pause.max(at_least));
    }
}

/// Servers that asked for a pause, by origin: for all torrents of the node.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Servers(HashMap<String, Pause>);

impl Servers {
    fn until(&self, origin: &str) -> Option<Instant> {
        self.0.get(origin)?.until
    }

    fn busy(&mut self, origin: &str, retry_after: Option<Duration>, now: Instant) {
        self.0.retain(|_, pause| pause.until.is_some_and(|until| until + LONGEST_PAUSE > now));
        let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
        self.0.entry(origin.to_owned()).or_default().failed(now, asked);
    }

    fn answered(&mut self, origin: &str) {
        self.0.remove(origin);
    }
}

/// One address.
#[derive(Debug)]
struct WebAddress {
    seed: WebSeed,
    origin: String,
    /// It sent wrong bytes.
    lied: bool,
    pause: Pause,
    /// Files that it does not have, or has in another form.
    unfit: HashMap<usize, Pause>,
}

/// The addresses of one torrent, the preferred one first.
#[derive(Debug)]
pub(super) struct Sources {
    all: Vec<WebAddress>,
    files: usize,
}

/// Whether some address has a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Availability {
    /// The source of this index can be asked now, under this address.
    Now(usize, String),
    /// No source can be asked before this time.
    Later(Instant),
    Never,
}

impl Sources {
    /// The addresses of a manifest; none where it has none.
    pub(super) fn of(manifest: &Manifest, endpoint: &Url) -> Option<Self> {
        let source = |seed: WebSeed| {
            let origin = Url::parse(&seed.to_string()).ok()?.origin().ascii_serialization();
            let (pause, unfit) = (Pause::default(), HashMap::new());
            Some(WebAddress { seed, origin, lied: false, pause, unfit })
        };
        let all: Vec<WebAddress> =
            web_seed::of_manifest(manifest, endpoint).into_iter().filter_map(source).collect();
        (!all.is_empty()).then_some(Self { all, files: manifest.files.len() })
    }

    /// The first source that can be asked for the file at `path`, with index `file` in the manifest.
    pub(super) fn choose(&self, file: usize, path: &str, servers: &Servers, now: Instant) -> Availability {
        let mut earliest: Option<Instant> = None;
        for (i, source) in self.all.iter().enumerate().filter(|(_, source)| !source.lied) {
            let Some(url) = source.seed.file_url(path, self.files) else { continue };
            let pauses = [
                source.pause.until,
                source.unfit.get(&file).and_then(|pause| pause.until),
                servers.until(&source.origin),
            ];
            match pauses.into_iter().flatten().max().filter(|&until| until > now) {
                None => return Availability::Now(i, url),
                Some(until) => earliest = Some(earliest.map_or(until, |at| at.min(until))),
            }
        }
        earliest.map_or(Availability::Never, Availability::Later)
    }

    /// A piece of a file came from a source and matched its hash.
    pub(super) fn delivered(&mut self, source: usize, file: usize, servers: &mut Servers) {
        if let Some(source) = self.all.get_mut(source) {
            source.pause = Pause::default();
            source.unfit.remove(&file);
            servers.answered(&source.origin);
        }
    }

    /// A request for a file failed.
    pub(super) fn failed(
        &mut self,
        source: usize,
        file: usize,
        error: &WebError,
        servers: &mut Servers,
        now: Instant,
    ) {
        let Some(source) = self.all.get_mut(source) else { return };
        match error {
            WebError::Unreachable(_) => source.pause.failed(now, Duration::ZERO),
            // The user or the server's owner has to act first.
            WebError::Denied(_) => source.pause.failed(now, LONGEST_PAUSE / 5),
            WebError::Busy { retry_after, .. } => servers.busy(&source.origin, *retry_after, now),
            WebError::Unfit(_) => source.unfit.entry(file).or_default().failed(now, Duration::ZERO),
            WebError::Lied(_) => source.lied = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileEntry, PiecesRoot, Revision};

    const ENDPOINT: &str = "https://huggingface.co";

    fn sources(seeds: &[&str]) -> Sources {
        let file = |path: &str, root| FileEntry::new(path, 5, None, Some(PiecesRoot([root; 32])));
        let files = vec![file("a", 1), file("b", 2)];
        let mut manifest = Manifest::new("o/n".parse().unwrap(), Revision::default(), 16384, files).unwrap();
        manifest.web_seeds = seeds.iter().map(|&seed| seed.to_owned()).collect();
        Sources::of(&manifest, &ENDPOINT.parse().unwrap()).unwrap()
    }

    fn ask(i: usize, url: &str) -> Availability {
        Availability::Now(i, url.to_owned())
    }

    #[test]
    fn failed_server_is_skipped_for_growing_pauses() {
        let (mut sources, mut servers) = (sources(&["http://x/", "http://y/"]), Servers::default());
        let mut now = Instant::now();
        let down = WebError::Unreachable("gone".to_owned());
        for pause in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert_eq!(sources.choose(0, "a", &servers, now), ask(0, "http://x/a"));
            sources.failed(0, 0, &down, &mut servers, now);
            assert_eq!(sources.choose(1, "b", &servers, now), ask(1, "http://y/b"));
            now += Duration::from_secs(pause);
        }
        sources.failed(0, 0, &down, &mut servers, now);
        sources.failed(1, 0, &down, &mut servers, now);
        assert_eq!(sources.choose(0, "a", &servers, now), Availability::Later(now + FIRST_PAUSE));
        sources.delivered(0, 0, &mut servers);
        assert_eq!(sources.choose(0, "a", &servers, now), ask(0, "http://x/a"));
    }

    #[test]
    fn missing_file_does_not_exclude_other_files() {
        let (mut sources, mut servers) = (sources(&["http://x/"]), Servers::default());
        let now = Instant::now();
        sources.failed(0, 0, &WebError::Unfit("404".to_owned()), &mut servers, now);
        assert_eq!(sources.choose(0, "a", &servers, now), Availability::Later(now + FIRST_PAUSE));
        assert_eq!(sources.choose(1, "b", &servers, now), ask(0, "http://x/b"));
    }

    #[test]
    fn server_of_wrong_bytes_is_not_asked_again() {
        let (mut sources, mut servers) = (sources(&["http://x/"]), Servers::default());
        let now = Instant::now();
        sources.failed(0, 0, &WebError::Lied("other bytes".to_owned()), &mut servers, now);
        assert_eq!(sources.choose(1, "b", &servers, now + LONGEST_PAUSE), Availability::Never);
    }

    #[test]
    fn busy_server_is_skipped_by_all_torrents_as_long_as_it_asks() {
        let (mut one, mut servers) = (sources(&["http://x/1/", "http://x:81/1/"]), Servers::default());
        let other = sources(&["http://x/2/"]);
        let now = Instant::now();
        let busy = |seconds| WebError::Busy {
            why: "429".to_owned(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        one.failed(0, 0, &busy(40), &mut servers, now);
        assert_eq!(one.choose(0, "a", &servers, now), ask(1, "http://x:81/1/a"));
        let until = now + Duration::from_secs(40);
        assert_eq!(other.choose(0, "a", &servers, now), Availability::Later(until));
        assert_eq!(other.choose(0, "a", &servers, until), ask(0, "http://x/2/a"));
        one.failed(0, 0, &busy(u64::MAX), &mut servers, now);
        assert_eq!(other.choose(0, "a", &servers, now), Availability::Later(now + LONGEST_ASKED));
    }

    #[test]
    fn address_of_one_file_serves_no_torrent_of_two() {
        let (sources, servers) = (sources(&["http://x/a"]), Servers::default());
        assert_eq!(sources.choose(0, "a", &servers, Instant::now()), Availability::Never);
    }
}
