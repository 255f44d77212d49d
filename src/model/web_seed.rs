//! HTTP addresses that serve the files of a model.
//!
//! An address in `web_seeds` of a manifest that ends with `/` is a directory: the percent-encoded path of a file is
//! appended to it. Any other address is the file of a torrent with a single file. For a torrent with several files BEP 19
//! also appends the torrent's name, so addresses of foreign torrents are converted when they are imported.
//!
//! An address has no query: otherwise an untrusted manifest could make this host run a program on a server in its network.
//! It has no user name and no password either.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use super::magnet::escape;
use super::manifest::MAX_WEB_SEEDS;
use super::metainfo::ParsedMetainfo;
use super::{Manifest, ModelName};

/// Longest address, in bytes.
const MAX_URL: usize = 2048;

/// The hub's own address. The configuration can replace it by that of a mirror.
const HUB: &str = "https://huggingface.co/";

/// The reason why an address cannot be a web seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} {reason}")]
pub struct WebSeedError {
    /// The address, cut to a readable length.
    pub address: String,
    /// The reason, as a predicate.
    pub reason: &'static str,
}

/// A checked address of a web seed, unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebSeed(String);

impl TryFrom<String> for WebSeed {
    type Error = WebSeedError;

    fn try_from(text: String) -> Result<Self, WebSeedError> {
        text.parse()
    }
}

impl From<WebSeed> for String {
    fn from(seed: WebSeed) -> Self {
        seed.0
    }
}

impl FromStr for WebSeed {
    type Err = WebSeedError;

    fn from_str(text: &str) -> Result<Self, WebSeedError> {
        let refused = |reason| WebSeedError { address: text.chars().take(120).collect(), reason };
        if text.len() > MAX_URL {
            return Err(refused("is longer than 2048 bytes"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(refused("has a character that an address cannot have"));
        }
        let url = Url::parse(text).map_err(|_| refused("is not an address"))?;
        if !matches!(url.scheme(), "http" | "https") || !text.contains("://") || !url.has_host() {
            return Err(refused("is not an http or https address"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("has a user name or a password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused("has a query or a fragment"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for WebSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl WebSeed {
    /// Whether it is a directory; otherwise it is a single file.
    pub fn is_directory(&self) -> bool {
        self.0.ends_with('/')
    }

    /// The address of the file at `path` of a torrent with this number of files; none if it does not serve that file.
    pub fn file_url(&self, path: &str, files: usize) -> Option<String> {
        if !self.is_directory() {
            return (files == 1).then(|| self.0.clone());
        }
        let mut url = self.0.clone();
        append(&mut url, path);
        Some(url)
    }

    /// Replaces the hub's own address by `endpoint`; other addresses are unchanged.
    fn at(self, endpoint: &Url) -> Self {
        match self.0.strip_prefix(HUB) {
            Some(rest) => Self(format!("{}/{rest}", endpoint.as_str().trim_end_matches('/'))),
            None => self,
        }
    }
}

/// Appends a path, each component percent-encoded.
fn append(url: &mut String, path: &str) {
    for (i, component) in path.split('/').enumerate() {
        if i > 0 {
            url.push('/');
        }
        // Writing to a string cannot fail.
        let _ = escape(url, component);
    }
}

/// The addresses for the files of a manifest: its web seeds, or if it has none, its source commit on the hub. `endpoint` is
/// the configured address of the hub.
pub fn of_manifest(manifest: &Manifest, endpoint: &Url) -> Vec<WebSeed> {
    if manifest.web_seeds.is_empty() {
        return of_source(manifest, endpoint).into_iter().collect();
    }
    manifest.web_seeds.iter().filter_map(|seed| Some(seed.parse::<WebSeed>().ok()?.at(endpoint))).collect()
}

/// The directory of a commit on the hub.
fn of_source(manifest: &Manifest, endpoint: &Url) -> Option<WebSeed> {
    let source = manifest.source.as_ref().filter(|source| source.kind == "huggingface")?;
    let commit =
        source.commit.as_ref().filter(|c| c.len() == 40 && c.bytes().all(|b| b.is_ascii_hexdigit()))?;
    // The name on the hub is in the source's address. It may differ from the model's name.
    let path = source.url.as_deref().and_then(|url| Some(Url::parse(url).ok()?.path().to_owned()));
    let id = match path.as_deref().map(|path| path.trim_matches('/').trim_end_matches(".git")) {
        Some(id) => id.parse::<ModelName>().ok()?.to_string(),
        None => manifest.name.to_string(),
    };
    format!("{}/{id}/resolve/{commit}/", endpoint.as_str().trim_end_matches('/')).parse().ok()
}

/// The web seeds of a foreign torrent: its `url-list` (BEP 19).
pub fn of_torrent(torrent: &ParsedMetainfo) -> Vec<WebSeed> {
    of_list(&torrent.web_seeds, torrent)
}

/// Converts addresses by the rules of BEP 19, from the `url-list` of a torrent or the `ws` of its magnet link. Leaves out
/// addresses that cannot be used.
pub fn of_list(list: &[String], torrent: &ParsedMetainfo) -> Vec<WebSeed> {
    let single = matches!(&torrent.files[..], [file] if file.path == torrent.name);
    let mut seeds = Vec::new();
    for address in list.iter().take(MAX_WEB_SEEDS) {
        let mut url = address.clone();
        if !single {
            if !url.ends_with('/') {
                url.push('/');
            }
            append(&mut url, &torrent.name);
            url.push('/');
        }
        match url.parse::<WebSeed>() {
            Ok(seed) if !seeds.contains(&seed) => seeds.push(seed),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a web seed is left out"),
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::SourceEntry;
    use crate::model::metainfo::{parse_info, parse_metainfo};
    use crate::model::{FileEntry, PiecesRoot, Revision};

    fn seed(text: &str) -> WebSeed {
        text.parse().unwrap()
    }

    #[test]
    fn only_plain_http_addresses_are_web_seeds() {
        for good in ["http://a/", "https://a.b:81/c/d%20e/", "http://[::1]:8080/x", "http://10.0.0.1/m.gguf"]
        {
            assert_eq!(seed(good).to_string(), good);
        }
        for (bad, reason) in [
            ("ftp://a/", "http or https"),
            ("file:///etc/passwd", "http or https"),
            ("http:a", "http or https"),
            ("http://", "not an address"),
            ("a/b/", "not an address"),
            ("http://u@a/", "user name"),
            ("http://u:p@a/", "user name"),
            ("http://:p@a/", "user name"),
            ("http://a/?x", "query"),
            ("http://a/#x", "query"),
            ("http://a/b c/", "character"),
            ("http://a/\n", "character"),
            ("http://a\\b/", "character"),
        ] {
            let error = bad.parse::<WebSeed>().unwrap_err().to_string();
            assert!(error.contains(reason), "{bad}: {error}");
        }
        assert!(format!("http://a/{}/", "x".repeat(MAX_URL)).parse::<WebSeed>().is_err());
    }

    #[test]
    fn a_directory_serves_every_file() {
        let directory = seed("http://a/m/");
        assert_eq!(directory.file_url("a b/ü?#%.bin", 7).unwrap(), "http://a/m/a%20b/%C3%BC%3F%23%25.bin");
        let file = seed("http://a/m.gguf");
        assert_eq!(file.file_url("m.gguf", 1).unwrap(), "http://a/m.gguf");
        assert_eq!(file.file_url("m.gguf", 2), None);
    }

    fn manifest() -> Manifest {
        let files = vec![FileEntry::new("a", 3, None, Some(PiecesRoot([1; 32])))];
        Manifest::new("o/n".parse().unwrap(), Revision::default(), 16384, files).unwrap()
    }

    fn addresses(manifest: &Manifest, endpoint: &str) -> Vec<String> {
        of_manifest(manifest, &endpoint.parse().unwrap()).iter().map(WebSeed::to_string).collect()
    }

    #[test]
    fn without_web_seeds_the_source_on_the_hub_is_used() {
        let mut manifest = manifest();
        let hub = "http://127.0.0.1:8080/";
        assert_eq!(addresses(&manifest, hub), [""; 0]);
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let source = |kind: &str, url: Option<&str>, commit: &str| {
            let (kind, url, commit) = (kind.to_owned(), url.map(str::to_owned), Some(commit.to_owned()));
            Some(SourceEntry { kind, url, commit, other: Default::default() })
        };
        for (url, id) in [
            (None, "o/n"),
            (Some("https://huggingface.co/org/name"), "org/name"),
            (Some("https://huggingface.co/datasets/org/name/"), "datasets/org/name"),
            (Some("https://mirror.example/org/name.git"), "org/name"),
        ] {
            manifest.source = source("huggingface", url, commit);
            assert_eq!(addresses(&manifest, hub), [format!("http://127.0.0.1:8080/{id}/resolve/{commit}/")]);
        }
        for source in [
            source("git", None, commit),
            source("huggingface", None, "main"),
            source("huggingface", Some("https://huggingface.co/../x"), commit),
        ] {
            manifest.source = source;
            assert_eq!(addresses(&manifest, hub), [""; 0]);
        }
        manifest.source = source("huggingface", None, commit);
        manifest.web_seeds = vec!["http://w.example/".into()];
        assert_eq!(addresses(&manifest, hub), ["http://w.example/"]);
    }

    #[test]
    fn addresses_of_the_hub_use_the_configured_endpoint() {
        let mut manifest = manifest();
        manifest.web_seeds =
            vec!["https://huggingface.co/o/n/resolve/x/".into(), "https://huggingface.com/".into()];
        let mirror = addresses(&manifest, "https://hf-mirror.example");
        assert_eq!(mirror, ["https://hf-mirror.example/o/n/resolve/x/", "https://huggingface.com/"]);
        assert_eq!(addresses(&manifest, "https://huggingface.co"), manifest.web_seeds);
    }

    #[test]
    fn addresses_of_foreign_torrents_are_converted() {
        let several = parse_metainfo(include_bytes!("../../tests/fixtures/v2.torrent")).unwrap();
        let list = ["http://w.example/", "http://w.example", "http://w.example/x?y", "udp://x/"];
        let list = list.map(str::to_owned);
        let ours: Vec<String> = of_list(&list, &several).iter().map(WebSeed::to_string).collect();
        assert_eq!(ours, ["http://w.example/model/"]);

        let root = PiecesRoot([1; 32]);
        let file = crate::model::files::TorrentFile { path: "a b", size: 3, pieces_root: Some(root) };
        let info = crate::model::metainfo::info_dict("a b", 16384, [file].into_iter());
        let single = parse_info(&info).unwrap();
        let list = ["http://w.example/d/", "http://w.example/file"].map(str::to_owned);
        let seeds = of_list(&list, &single);
        let urls: Vec<String> = seeds.iter().filter_map(|s| s.file_url("a b", 1)).collect();
        assert_eq!(urls, ["http://w.example/d/a%20b", "http://w.example/file"]);
    }
}
