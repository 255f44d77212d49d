//! Parses the name or address of a repository: one of the hub, which has an API, or any repository that git can fetch.
//!
//! The parser moves the user and password of an address into a [`Credential`]. No address, error or manifest contains them.

mod error;
mod hf;
mod reference;

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

pub(crate) use error::RepositoryError;
use error::short;
pub(crate) use reference::Reference;

use crate::http::without_secrets;
use crate::model::text::percent_decode;
use crate::model::{Kind, ModelName};

/// Longest address that is accepted, in bytes.
const MAX_ADDRESS: usize = 4096;

/// A user and password for one host. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user name.
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
    /// The address of the hub.
    pub endpoint: Url,
    /// The name on the hub.
    pub id: ModelName,
}

impl HubRepository {
    /// The page of the repository, which is also its git address.
    pub fn page(&self) -> Url {
        self.below(&[])
    }

    /// `{endpoint}/api/models/org/name/…`.
    pub fn api(&self, more: &[&str]) -> Url {
        let kind = match self.id.kind() {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        join(&self.endpoint, ["api", kind].into_iter().chain(self.id.hub_parts()).chain(more.iter().copied()))
    }

    /// The address of a file.
    pub fn resolve(&self, commit: &str, path: &str) -> Url {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(path.split('/')).collect();
        self.below(&parts)
    }

    /// The address below which the files are served: a web seed (BEP 19).
    pub fn web_seed(&self, commit: &str) -> Url {
        self.below(&["resolve", commit, ""])
    }

    fn below(&self, more: &[&str]) -> Url {
        let kind = if self.id.kind() == Kind::Dataset { Some("datasets") } else { None };
        let parts = kind.into_iter().chain(self.id.hub_parts()).chain(more.iter().copied());
        join(&self.endpoint, parts)
    }
}

/// Appends components to the path of an address.
fn join<'a>(base: &Url, parts: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    url
}

/// The remote from which git fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A server with the smart HTTP protocol. The address has no user and no password.
    Http(Url),
    /// A local directory, as an absolute path.
    Directory(PathBuf),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&without_secrets(url)),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A repository that git fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRepository {
    /// The server or directory.
    pub remote: Remote,
    /// The user and password of the address.
    pub credential: Option<Credential>,
    /// The repository on the hub, if the hub is the remote.
    pub hub: Option<HubRepository>,
}

/// A repository to mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// Fetched through the API of the hub.
    Hub(HubRepository),
    /// Fetched by git.
    Git(GitRepository),
}

/// The parts of a text that names a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedRepository {
    /// The repository itself.
    pub repository: Repository,
    /// The branch, tag or commit of a hub's address or after `@`.
    pub reference: Option<Reference>,
    /// The path of a file or directory in the repository; none for the whole repository.
    pub inside: Option<String>,
}

impl Repository {
    /// The address of the server; none for a local directory.
    pub fn address(&self) -> Option<&Url> {
        match self {
            Self::Hub(hub) => Some(&hub.endpoint),
            Self::Git(GitRepository { remote: Remote::Http(url), .. }) => Some(url),
            Self::Git(GitRepository { remote: Remote::Directory(_), .. }) => None,
        }
    }

    /// Parses the text of a user. `endpoint` is the address of the hub.
    pub fn parse(text: &str, endpoint: &Url) -> Result<ParsedRepository, RepositoryError> {
        let text = text.trim();
        if text.len() > MAX_ADDRESS || text.chars().any(char::is_control) {
            return Err(RepositoryError::Shape(short(text)));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => http(text, endpoint),
                "hf" => {
                    let hf::Parsed { id, reference, inside } = hf::parse(text)?;
                    let hub = HubRepository { endpoint: endpoint.clone(), id };
                    Ok(ParsedRepository { repository: Self::Hub(hub), reference, inside })
                }
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
        let id = match name.parse::<ModelName>() {
            Ok(id) => id,
            Err(_) if Path::new(text).is_dir() => return Ok(plain(directory(PathBuf::from(text))?)),
            // The hub names some models by one word.
            Err(_) => {
                ModelName::of_hub(Kind::Model, name).map_err(|_| RepositoryError::Shape(short(text)))?
            }
        };
        Ok(ParsedRepository {
            repository: Self::Hub(HubRepository { endpoint: endpoint.clone(), id }),
            reference: reference.map(str::parse).transpose()?,
            inside: None,
        })
    }

    /// The repository for a depth of history. The hub's API has only one commit; for any other depth (0 is all) git is used.
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

    /// The model name that the address suggests; none if it is not a valid name.
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

fn plain(remote: Remote) -> ParsedRepository {
    let repository = Repository::Git(GitRepository { remote, credential: None, hub: None });
    ParsedRepository { repository, reference: None, inside: None }
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

/// The error for `ssh://`, `git://` and `user@host:path`. It proposes the https address, which most servers also have.
fn protocol(text: &str) -> RepositoryError {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme, rest.split_once('/')),
        None => ("ssh", text.split_once(':')),
    };
    let instead = rest.and_then(|(host, path)| {
        let host = host.rsplit('@').next()?.split(':').next()?;
        let url: Url = format!("https://{host}/{}", path.trim_start_matches('/')).parse().ok()?;
        Some(without_secrets(&url))
    });
    RepositoryError::Protocol { scheme: short(scheme), instead: instead.map(|url| short(&url)) }
}

fn http(text: &str, endpoint: &Url) -> Result<ParsedRepository, RepositoryError> {
    let mut url: Url = text.parse().map_err(RepositoryError::Address)?;
    let credential = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => {
            let plain = |text: &str| percent_decode(text).unwrap_or_else(|| text.to_owned());
            Some(Credential { user: plain(user), password: plain(password.unwrap_or_default()) })
        }
    };
    // Both succeed for every address with a host, so for every http address.
    let _ = (url.set_username(""), url.set_password(None));
    if let Some(rest) = below(&url, endpoint) {
        return of_the_hub(&url, &rest, endpoint, credential);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(RepositoryError::Extra(without_secrets(&url)));
    }
    let repository = Repository::Git(GitRepository { remote: Remote::Http(url), credential, hub: None });
    Ok(ParsedRepository { repository, reference: None, inside: None })
}

/// The decoded components of an address's path, without an empty component at the end.
fn segments(url: &Url) -> Option<Vec<String>> {
    let mut parts: Vec<&str> = url.path_segments()?.collect();
    parts.pop_if(|last| last.is_empty());
    parts.into_iter().map(percent_decode).collect()
}

/// The components of an address after those of the hub's address; none if it is not an address of the hub.
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
) -> Result<ParsedRepository, RepositoryError> {
    let refused = || RepositoryError::NotOfTheHub(without_secrets(url));
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
        // The API accepts only tokens; git accepts users and passwords.
        credential => {
            Repository::Git(GitRepository { remote: Remote::Http(hub.page()), credential, hub: Some(hub) })
        }
    };
    Ok(ParsedRepository { repository, reference, inside })
}

#[cfg(test)]
mod tests;
