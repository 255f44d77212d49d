//! Selects the user and password for a git server that requires a login. The user is never asked.

use git2::{Config, CredentialHelper};
use parking_lot::Mutex;

use crate::http::Token;
use crate::mirror::repo::{Credential, GitRepository, Remote};

/// The user name that the hub's documentation uses with a token. The hub accepts any name.
const HUB_USER: &str = "hf";

/// A user and password.
pub(in crate::mirror) type Login = Credential;

/// The credentials that are tried on each connection, in this order: the credential that the server accepted before, the
/// credential of the address, the token for the hub, git's credential helpers.
pub(super) struct Credentials {
    /// The credential of the address, and the token.
    known: Vec<Login>,
    repository: GitRepository,
    /// Whether the credential helpers of the user's git configuration are used.
    helpers: bool,
    state: Mutex<CredentialState>,
}

#[derive(Default)]
struct CredentialState {
    /// The credential that the server accepted on an earlier connection.
    accepted: Option<Login>,
    /// The credential that was sent last.
    given: Option<Login>,
    /// Number of credentials that were tried on this connection.
    tried: usize,
}

impl Credentials {
    /// The credentials for a repository.
    pub fn new(repository: &GitRepository, token: Option<&Token>, helpers: bool) -> Self {
        let token = (token.filter(|_| repository.hub.is_some()))
            .map(|token| Login { user: HUB_USER.to_owned(), password: token.secret().to_owned() });
        let known = repository.credential.clone().into_iter().chain(token).collect();
        Self { known, repository: repository.clone(), helpers, state: Mutex::default() }
    }

    /// Starts with the first credential again, for a new connection.
    pub fn begin(&self) {
        let mut state = self.state.lock();
        state.tried = 0;
        state.accepted = state.given.clone();
    }

    /// The credential that was sent last on this connection.
    pub fn current(&self) -> Option<Login> {
        let state = self.state.lock();
        state.given.clone().filter(|_| state.tried > 0)
    }

    /// The next credential to try, after the server refused the previous one.
    pub fn next(&self) -> Option<Login> {
        let (at, accepted) = {
            let mut state = self.state.lock();
            state.tried += 1;
            (state.tried - 1, state.accepted.clone())
        };
        let before_helpers = accepted.iter().chain(&self.known).count();
        let login = match accepted.iter().chain(&self.known).nth(at) {
            Some(login) => Some(login.clone()),
            None if at == before_helpers => self.ask_helpers(),
            None => None,
        }?;
        self.state.lock().given = Some(login.clone());
        Some(login)
    }

    fn ask_helpers(&self) -> Option<Login> {
        let Remote::Http(url) = &self.repository.remote else { return None };
        let config = Config::open_default().ok().filter(|_| self.helpers)?;
        let (user, password) = CredentialHelper::new(url.as_str()).config(&config).execute()?;
        Some(Login { user, password })
    }

    /// Whether a credential was sent: the server required one, and there was one.
    pub fn were_given(&self) -> bool {
        self.state.lock().given.is_some()
    }

    /// The credential that was sent last, which the server has accepted if the fetch succeeded. If the server required none,
    /// the credential of the address.
    pub fn accepted(&self) -> Option<Login> {
        self.state.lock().given.clone().or_else(|| self.known.first().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(hub: bool) -> GitRepository {
        let url: url::Url = "https://hub.example/org/name".parse().unwrap();
        let hub = hub.then(|| crate::mirror::HubRepository {
            endpoint: "https://hub.example".parse().unwrap(),
            id: "org/name".parse().unwrap(),
        });
        let credential = Some(Credential { user: "u".to_owned(), password: "p".to_owned() });
        GitRepository { remote: Remote::Http(url), credential, hub }
    }

    #[test]
    fn each_credential_is_tried_once() {
        let (repository, token) = (repository(true), Token::new("hf_x").unwrap());
        let credentials = Credentials::new(&repository, Some(&token), false);
        assert!(!credentials.were_given() && credentials.current().is_none());
        for (user, password) in [("u", "p"), ("hf", "hf_x")] {
            let given = credentials.next().unwrap();
            assert_eq!((given.user.as_str(), given.password.as_str()), (user, password));
            assert!(credentials.current() == Some(given.clone()) && credentials.accepted() == Some(given));
        }
        for _ in 0..3 {
            assert!(credentials.next().is_none());
        }
        assert!(credentials.were_given());
        // On the next connection, the credential that was sent last is tried first.
        credentials.begin();
        assert!(credentials.current().is_none(), "a server that requires no credential gets none");
        let next = ["hf", "u", "hf"].map(|_| credentials.next().unwrap().user);
        assert_eq!(next, ["hf", "u", "hf"]);
        assert!(credentials.next().is_none());
    }

    #[test]
    fn token_is_only_for_the_hub() {
        let (repository, token) = (repository(false), Token::new("hf_x").unwrap());
        let credentials = Credentials::new(&repository, Some(&token), false);
        assert_eq!(credentials.next().unwrap().user, "u");
        assert!(credentials.next().is_none());
    }
}
