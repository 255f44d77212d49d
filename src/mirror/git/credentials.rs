//! Which user and password git gets when a server asks: never by asking the user.

use git2::{Config, CredentialHelper};
use parking_lot::{Mutex, MutexGuard};

use crate::http::Token;
use crate::mirror::repo::{Credential, GitRepository, Remote};

/// The user that the hub's documentation gives beside a token; any would do.
const HUB_USER: &str = "hf";

/// A user and password.
pub(in crate::mirror) type Login = Credential;

/// What is tried on each connection, in this order: what the server accepted before, what the address had, the hub's token,
/// git's credential helpers.
pub(super) struct Credentials {
    known: Vec<Login>,
    repository: GitRepository,
    /// Whether the credential helpers of the user's git configuration are asked.
    helpers: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the server accepted on an earlier connection.
    accepted: Option<Login>,
    given: Option<Login>,
    /// How many were tried on this connection.
    tried: usize,
}

impl Credentials {
    /// What is known for a repository.
    pub fn new(repository: &GitRepository, token: Option<&Token>, helpers: bool) -> Self {
        let token = (token.filter(|_| repository.hub.is_some()))
            .map(|token| Login { user: HUB_USER.to_owned(), password: token.secret().to_owned() });
        let known = repository.credential.clone().into_iter().chain(token).collect();
        Self { known, repository: repository.clone(), helpers, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Begins with the first one again, for another connection.
    pub fn begin(&self) {
        let mut state = self.state();
        state.tried = 0;
        state.accepted = state.given.clone();
    }

    /// What was given last on this connection.
    pub fn current(&self) -> Option<Login> {
        let state = self.state();
        state.given.clone().filter(|_| state.tried > 0)
    }

    /// The next one to try, after the server refused the one before.
    pub fn next(&self) -> Option<Login> {
        let (at, accepted) = {
            let mut state = self.state();
            state.tried += 1;
            (state.tried - 1, state.accepted.clone())
        };
        let before_helpers = accepted.iter().chain(&self.known).count();
        let login = match accepted.iter().chain(&self.known).nth(at) {
            Some(login) => Some(login.clone()),
            None if at == before_helpers => self.ask_helpers(),
            None => None,
        }?;
        self.state().given = Some(login.clone());
        Some(login)
    }

    fn ask_helpers(&self) -> Option<Login> {
        let Remote::Http(url) = &self.repository.remote else { return None };
        let config = Config::open_default().ok().filter(|_| self.helpers)?;
        let (user, password) = CredentialHelper::new(url.as_str()).config(&config).execute()?;
        Some(Login { user, password })
    }

    /// Whether one was given: the server asked, and there was one.
    pub fn were_given(&self) -> bool {
        self.state().given.is_some()
    }

    /// What was given last; after success, what the server accepts. Where it asked for none, what the address had.
    pub fn accepted(&self) -> Option<Login> {
        self.state().given.clone().or_else(|| self.known.first().cloned())
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
        // On the next connection, what was given last comes first.
        credentials.begin();
        assert!(credentials.current().is_none(), "a server that wants no credential gets none");
        let next = ["hf", "u", "hf"].map(|_| credentials.next().unwrap().user);
        assert_eq!(next, ["hf", "u", "hf"]);
        assert!(credentials.next().is_none());
    }

    #[test]
    fn the_hubs_token_is_for_the_hub() {
        let (repository, token) = (repository(false), Token::new("hf_x").unwrap());
        let credentials = Credentials::new(&repository, Some(&token), false);
        assert_eq!(credentials.next().unwrap().user, "u");
        assert!(credentials.next().is_none());
    }
}
