//! What the user typed becomes a repository: one of the hub, which has an API, or any that git can fetch.
//!
//! A user and password in an address are taken out here. Nothing else of this module, no error and no manifest, has them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;

use crate::http::shown;
use crate::model::text::{clean, percent_decode};
use crate::model::{Kind, ModelName};

/// The longest address that is looked at, in bytes.
const MAX_ADDRESS: usize = 4096;

/// Why a text does not name a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// Neither a name nor an address nor a path.
    #[error(
        "{0:?} is no repository; write org/name or datasets/org/name for one of the hub, an https:// address, or the path of \
         a git repository, such as ./name"
    )]
    Shape(String),
    /// The address cannot be read.
    #[error("this address cannot be read: {0}")]
    Address(url::ParseError),
    /// A protocol that is not spoken.
    #[error("{scheme} is not spoken here; use https{}", instead.as_ref().map(|url| format!(", such as {url}")).unwrap_or_default())]
    Protocol {
        /// Its name.
        scheme: String,
        /// What may work in its place.
        instead: Option<String>,
    },
    /// Something of the hub that is neither model nor dataset.
    #[error("{0} is no model and no dataset of the hub")]
    NotOfTheHub(String),
    /// A query or fragment.
    #[error("{0} has more behind it than an address of a repository may have ('?' or '#')")]
    Extra(String),
    /// No directory is there.
    #[error("there is no directory {}", .0.display())]
    NoDirectory(PathBuf),
    /// Not the name of a branch, tag or commit.
    #[error("{0:?} cannot be the name of a branch, tag or commit")]
    Reference(String),
}

/// The name of a branch or tag, or a commit in hex, as the user gives it. Names are those that git-check-ref-format(1) allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(String);

impl Reference {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Reference {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        let bad = |c: char| {
            c.is_control() || c.is_whitespace() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\')
        };
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        let sound = text.len() <= 255
            && text != "@"
            && !text.starts_with('-')
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(bad)
            && text.split('/').all(part);
        if sound { Ok(Self(text.to_owned())) } else { Err(RepositoryError::Reference(short(text))) }
    }
}

/// A user and password for one host. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Who.
    pub user: String,
    /// The password, or a token.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// A model or dataset of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRepository {
    /// The hub's address.
    pub endpoint: Url,
    /// Its name there.
    pub id: ModelName,
}

impl HubRepository {
    /// Its page, which is also its git address.
    pub fn page(&self) -> Url {
        self.below(&[])
    }

    /// `{endpoint}/api/models/org/name/…`.
    pub fn api(&self, more: &[&str]) -> Url {
        let kind = match self.id.kind() {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        join(&self.endpoint, ["api", kind, self.id.org(), self.id.name()].iter().chain(more).copied())
    }

    /// Where one of its files is served.
    pub fn resolve(&self, commit: &str, path: &str) -> Url {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(path.split('/')).collect();
        self.below(&parts)
    }

    /// The address below which its files are served: a web seed (BEP 19).
    pub fn web_seed(&self, commit: &str) -> Url {
        self.below(&["resolve", commit, ""])
    }

    fn below(&self, more: &[&str]) -> Url {
        let kind = if self.id.kind() == Kind::Dataset { Some("datasets") } else { None };
        let parts = kind.into_iter().chain([self.id.org(), self.id.name()]).chain(more.iter().copied());
        join(&self.endpoint, parts)
    }
}

/// An address with components behind its path.
fn join<'a>(base: &Url, parts: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    url
}

/// Where git fetches from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A server that speaks smart HTTP; the address is without user and password.
    Http(Url),
    /// A directory of this machine, from the root.
    Directory(PathBuf),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&shown(url)),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A repository that git fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRepository {
    /// Where it is.
    pub remote: Remote,
    /// What the address had before its host.
    pub credential: Option<Credential>,
    /// What it is on the hub, if that serves it.
    pub hub: Option<HubRepository>,
}

/// A repository to mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// Through the API of the hub.
    Hub(HubRepository),
    /// Through git.
    Git(GitRepository),
}

/// A repository, and what else was in the text that named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Which repository.
    pub repository: Repository,
    /// The branch, tag or commit in a hub's address, or behind `@`.
    pub reference: Option<Reference>,
    /// What the user should know: a file's address stands for its whole repository.
    pub note: Option<String>,
}

impl Repository {
    /// Takes apart what the user typed. `endpoint` is the hub's address.
    pub fn parse(text: &str, endpoint: &Url) -> Result<Named, RepositoryError> {
        let text = text.trim();
        if text.len() > MAX_ADDRESS || text.chars().any(char::is_control) {
            return Err(RepositoryError::Shape(short(text)));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => http(text, endpoint),
                "file" => Ok(plain(directory(file_path(text)?)?)),
                _ => Err(protocol(text)),
            };
        }
        if Path::new(text).is_absolute() || matches!(text.split('/').next(), Some("." | "..")) {
            return Ok(plain(directory(PathBuf::from(text))?));
        }
        if text.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(protocol(text));
        }
        let (name, reference) = match text.split_once('@') {
            Some((name, reference)) => (name, Some(reference)),
            None => (text, None),
        };
        match name.parse::<ModelName>() {
            Ok(id) => Ok(Named {
                repository: Self::Hub(HubRepository { endpoint: endpoint.clone(), id }),
                reference: reference.map(str::parse).transpose()?,
                note: None,
            }),
            Err(_) if Path::new(text).is_dir() => Ok(plain(directory(PathBuf::from(text))?)),
            Err(_) => Err(RepositoryError::Shape(short(text))),
        }
    }

    /// How to get it at a depth: the hub's API knows one state alone; for more (0 is all), it is fetched by git.
    #[must_use]
    pub fn at_depth(self, depth: u32) -> Self {
        match self {
            Self::Hub(hub) if depth != 1 => Self::Git(GitRepository {
                remote: Remote::Http(hub.page()),
                credential: None,
                hub: Some(hub),
            }),
            other => other,
        }
    }

    /// The name that its address suggests; none where that cannot be one.
    pub fn default_name(&self) -> Option<ModelName> {
        let git = match self {
            Self::Hub(hub) => return Some(hub.id.clone()),
            Self::Git(git) => git,
        };
        if let Some(hub) = &git.hub {
            return Some(hub.id.clone());
        }
        let parts: Vec<String> = match &git.remote {
            Remote::Http(url) => segments(url)?,
            Remote::Directory(path) => {
                path.iter().filter_map(|part| part.to_str()).map(str::to_owned).collect()
            }
        };
        let [.., org, name] = parts.as_slice() else { return None };
        ModelName::new(Kind::Model, org, name.strip_suffix(".git").unwrap_or(name)).ok()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(hub) => hub.page().fmt(f),
            Self::Git(git) => git.remote.fmt(f),
        }
    }
}

fn short(text: &str) -> String {
    clean(text).chars().take(120).collect()
}

fn plain(remote: Remote) -> Named {
    let repository = Repository::Git(GitRepository { remote, credential: None, hub: None });
    Named { repository, reference: None, note: None }
}

fn directory(path: PathBuf) -> Result<Remote, RepositoryError> {
    match std::fs::canonicalize(&path) {
        Ok(found) if found.is_dir() => Ok(Remote::Directory(found)),
        _ => Err(RepositoryError::NoDirectory(path)),
    }
}

fn file_path(text: &str) -> Result<PathBuf, RepositoryError> {
    let url: Url = text.parse().map_err(RepositoryError::Address)?;
    url.to_file_path().map_err(|()| RepositoryError::Shape(short(text)))
}

/// Refuses `ssh://`, `git://` and `user@host:path`, and names the address that most servers have beside them.
fn protocol(text: &str) -> RepositoryError {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme, rest.split_once('/')),
        None => ("ssh", text.split_once(':')),
    };
    let instead = rest.and_then(|(host, path)| {
        let host = host.rsplit('@').next()?.split(':').next()?;
        let url: Url = format!("https://{host}/{}", path.trim_start_matches('/')).parse().ok()?;
        Some(shown(&url))
    });
    RepositoryError::Protocol { scheme: short(scheme), instead: instead.map(|url| short(&url)) }
}

fn http(text: &str, endpoint: &Url) -> Result<Named, RepositoryError> {
    let mut url: Url = text.parse().map_err(RepositoryError::Address)?;
    let credential = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => {
            let plain = |text: &str| percent_decode(text).unwrap_or_else(|| text.to_owned());
            Some(Credential { user: plain(user), password: plain(password.unwrap_or_default()) })
        }
    };
    // Both succeed for whatever has a host, as every http address does.
    let _ = (url.set_username(""), url.set_password(None));
    if let Some(rest) = below(&url, endpoint) {
        return of_the_hub(&url, &rest, endpoint, credential);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(RepositoryError::Extra(shown(&url)));
    }
    let repository = Repository::Git(GitRepository { remote: Remote::Http(url), credential, hub: None });
    Ok(Named { repository, reference: None, note: None })
}

/// The decoded components of an address's path, without an empty one at the end.
fn segments(url: &Url) -> Option<Vec<String>> {
    let mut parts: Vec<&str> = url.path_segments()?.collect();
    parts.pop_if(|last| last.is_empty());
    parts.into_iter().map(percent_decode).collect()
}

/// The components that an address has behind those of the hub's; none where it is not the hub's.
fn below(url: &Url, endpoint: &Url) -> Option<Vec<String>> {
    if url.origin() != endpoint.origin() {
        return None;
    }
    let (base, parts) = (segments(endpoint)?, segments(url)?);
    parts.strip_prefix(base.as_slice()).map(<[String]>::to_vec)
}

fn of_the_hub(
    url: &Url,
    parts: &[String],
    endpoint: &Url,
    credential: Option<Credential>,
) -> Result<Named, RepositoryError> {
    let refused = || RepositoryError::NotOfTheHub(shown(url));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (kind, parts) = match parts.as_slice() {
        ["datasets", rest @ ..] => (Kind::Dataset, rest),
        ["models", rest @ ..] => (Kind::Model, rest),
        ["spaces" | "api", ..] => return Err(refused()),
        rest => (Kind::Model, rest),
    };
    let [org, name, rest @ ..] = parts else { return Err(refused()) };
    let name = name.strip_suffix(".git").unwrap_or(name);
    let id = ModelName::new(kind, org, name).map_err(|_| refused())?;
    let (reference, inside) = match rest {
        [] => (None, false),
        ["tree" | "blob" | "resolve" | "raw" | "commit", reference, inside @ ..] => {
            (Some(reference.parse()?), !inside.is_empty())
        }
        _ => return Err(refused()),
    };
    let note = inside.then(|| format!("{id} is mirrored whole, not only what the address names in it"));
    let hub = HubRepository { endpoint: endpoint.clone(), id };
    let repository = match credential {
        None => Repository::Hub(hub),
        // The API knows tokens, git knows users and passwords.
        credential => {
            Repository::Git(GitRepository { remote: Remote::Http(hub.page()), credential, hub: Some(hub) })
        }
    };
    Ok(Named { repository, reference, note })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint() -> Url {
        "https://hub.example".parse().unwrap()
    }

    fn parse(text: &str) -> Result<Named, RepositoryError> {
        Repository::parse(text, &endpoint())
    }

    fn hub(text: &str) -> (String, Option<String>) {
        let named = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let Repository::Hub(hub) = named.repository else { panic!("{text} is not of the hub") };
        (hub.id.to_string(), named.reference.map(|r| r.to_string()))
    }

    #[test]
    fn names_and_addresses_of_the_hub_are_the_same_repository() {
        for (text, id, reference) in [
            ("org/name", "org/name", None),
            ("org/name@v1.0", "org/name", Some("v1.0")),
            ("datasets/org/name", "datasets/org/name", None),
            ("https://hub.example/org/name", "org/name", None),
            ("https://hub.example/org/name/", "org/name", None),
            ("https://hub.example/org/name.git", "org/name", None),
            ("https://hub.example:443/datasets/org/name?x=1#y", "datasets/org/name", None),
            ("https://hub.example/org/name/tree/refs%2Fpr%2F1", "org/name", Some("refs/pr/1")),
            ("https://hub.example/org/name/blob/main/a/config.json", "org/name", Some("main")),
        ] {
            assert_eq!(hub(text), (id.to_owned(), reference.map(str::to_owned)), "{text}");
        }
        assert!(parse("https://hub.example/org/name/blob/main/x").unwrap().note.is_some());
        assert!(parse("https://hub.example/org/name/tree/main").unwrap().note.is_none());
        for text in [
            "https://hub.example/spaces/o/n",
            "https://hub.example/gpt2",
            "https://hub.example/o/n/discussions",
        ] {
            assert!(matches!(parse(text), Err(RepositoryError::NotOfTheHub(_))), "{text}");
        }
        let proxied: Url = "http://127.0.0.1:8080/hub/".parse().unwrap();
        let named = Repository::parse("http://127.0.0.1:8080/hub/org/name", &proxied).unwrap();
        let Repository::Hub(hub) = named.repository else { panic!() };
        assert_eq!(
            hub.api(&["tree", "main"]).as_str(),
            "http://127.0.0.1:8080/hub/api/models/org/name/tree/main"
        );
    }

    #[test]
    fn addresses_of_files_are_escaped() {
        let Repository::Hub(hub) = parse("datasets/org/name").unwrap().repository else { panic!() };
        assert_eq!(
            hub.resolve("c0", "a b/ö?#%.txt").as_str(),
            "https://hub.example/datasets/org/name/resolve/c0/a%20b/%C3%B6%3F%23%25.txt"
        );
        assert_eq!(hub.web_seed("c0").as_str(), "https://hub.example/datasets/org/name/resolve/c0/");
        assert_eq!(hub.page().as_str(), "https://hub.example/datasets/org/name");
    }

    #[test]
    fn other_addresses_are_fetched_by_git() {
        let named = parse("https://frodo:p%40ss@git.example/group/team/model.git").unwrap();
        let shown = format!("{named:?} {}", named.repository);
        assert!(!shown.contains("p@ss") && !shown.contains("p%40ss") && !shown.contains("frodo"), "{shown}");
        assert_eq!(named.repository.default_name().unwrap().to_string(), "team/model");
        let Repository::Git(git) = named.repository else { panic!() };
        assert_eq!(git.credential, Some(Credential { user: "frodo".into(), password: "p@ss".into() }));
        assert_eq!(git.remote.to_string(), "https://git.example/group/team/model.git");
        assert!(
            matches!(parse("https://git.example/a/b?token=secret"), Err(e @ RepositoryError::Extra(_)) if !e.to_string().contains("secret"))
        );
        // The same host, but not what the hub serves there.
        let other: Url = "http://127.0.0.1:80/hub".parse().unwrap();
        let named = Repository::parse("http://127.0.0.1/git/x.git", &other).unwrap();
        assert!(matches!(named.repository, Repository::Git(GitRepository { hub: None, .. })));
    }

    #[test]
    fn directories_are_fetched_by_git() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("org/mo del.git");
        std::fs::create_dir_all(&path).unwrap();
        for text in [
            path.to_str().unwrap().to_owned(),
            format!("file://{}", path.to_str().unwrap().replace(' ', "%20")),
        ] {
            let named = parse(&text).unwrap();
            let Repository::Git(git) = &named.repository else { panic!() };
            assert_eq!(git.remote, Remote::Directory(path.clone()));
            assert_eq!(named.repository.default_name(), None, "a space is in no name");
        }
        assert!(matches!(parse("./no/such"), Err(RepositoryError::NoDirectory(_))));
        assert!(matches!(parse("file://elsewhere/x"), Err(RepositoryError::Shape(_))));
    }

    #[test]
    fn what_is_not_spoken_is_refused_with_what_is() {
        for (text, instead) in [
            ("ssh://git@host.example:22/org/name.git", Some("https://host.example/org/name.git")),
            ("git@host.example:org/name.git", Some("https://host.example/org/name.git")),
            ("host:org/name", Some("https://host/org/name")),
            ("git://host.example/x", Some("https://host.example/x")),
            ("ftp://u:secret@host.example/x", Some("https://host.example/x")),
            ("ext::sh -c x", None),
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
            let RepositoryError::Protocol { instead: found, .. } = error else { panic!("{text}: {error}") };
            if let Some(instead) = instead {
                assert_eq!(found.as_deref(), Some(instead), "{text}");
            }
        }
        for text in ["", "gpt2", "a/b/c/d", "https", "org/na me", "datasets/x"] {
            assert!(matches!(parse(text), Err(RepositoryError::Shape(_))), "{text}");
        }
        assert!(matches!(parse("https://"), Err(RepositoryError::Address(_))));
    }

    #[test]
    fn references_are_names_of_git() {
        for good in
            ["main", "v1.0", "refs/pr/12", "feature/x-y_z", "0123456789abcdef0123456789abcdef01234567", "a@b"]
        {
            assert!(good.parse::<Reference>().is_ok(), "{good}");
        }
        for bad in [
            "", "-x", "a..b", "a b", "a\nb", "x.lock", "/a", "a//b", "a/", ".a", "@", "a@{1}", "a:b", "a^",
            "*", "a.",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn more_than_one_state_of_the_hub_is_fetched_by_git() {
        let hub = || parse("org/name").unwrap().repository;
        assert!(matches!(hub().at_depth(1), Repository::Hub(_)));
        let Repository::Git(git) = hub().at_depth(0) else { panic!() };
        assert_eq!(git.remote.to_string(), "https://hub.example/org/name");
        assert_eq!(Repository::Git(git).default_name().unwrap().to_string(), "org/name");
    }

    proptest! {
        #[test]
        fn any_text_can_be_looked_at(text in any::<String>(), address in "https?://[a-z@:%/.?#]{0,40}") {
            let _ = (parse(&text), parse(&address));
            let _ = text.parse::<Reference>();
        }
    }
}
