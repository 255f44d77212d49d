//! What the user typed becomes a repository: one of the hub, which has an API, or any that git can fetch.
//!
//! A user and password in an address are taken out here. Nothing else of this module, no error and no manifest, has them.

mod hf;
mod reference;

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

pub use reference::Reference;

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
    /// The path of a file or directory in the repository that the address names; none where it names all of it.
    pub inside: Option<String>,
}

impl Repository {
    /// The address of the server that has it; none for a directory of this machine.
    pub fn address(&self) -> Option<&Url> {
        match self {
            Self::Hub(hub) => Some(&hub.endpoint),
            Self::Git(GitRepository { remote: Remote::Http(url), .. }) => Some(url),
            Self::Git(GitRepository { remote: Remote::Directory(_), .. }) => None,
        }
    }

    /// Takes apart what the user typed. `endpoint` is the hub's address.
    pub fn parse(text: &str, endpoint: &Url) -> Result<Named, RepositoryError> {
        let text = text.trim();
        if text.len() > MAX_ADDRESS || text.chars().any(char::is_control) {
            return Err(RepositoryError::Shape(short(text)));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => http(text, endpoint),
                "hf" => hf::parse(text, endpoint),
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
                inside: None,
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
    Named { repository, reference: None, inside: None }
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
    Ok(Named { repository, reference: None, inside: None })
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
        [] => (None, [].as_slice()),
        ["tree" | "blob" | "resolve" | "raw" | "commit", reference, inside @ ..] => {
            (Some(reference.parse()?), inside)
        }
        _ => return Err(refused()),
    };
    let inside = (!inside.is_empty()).then(|| inside.join("/"));
    let hub = HubRepository { endpoint: endpoint.clone(), id };
    let repository = match credential {
        None => Repository::Hub(hub),
        // The API knows tokens, git knows users and passwords.
        credential => {
            Repository::Git(GitRepository { remote: Remote::Http(hub.page()), credential, hub: Some(hub) })
        }
    };
    Ok(Named { repository, reference, inside })
}

#[cfg(test)]
mod tests;
