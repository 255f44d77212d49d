//! Which user and password git gets when a server asks: never by asking the user.

use std::cell::{Cell, RefCell};

use git2::{Config, Cred, CredentialHelper, CredentialType, Error, ErrorClass, ErrorCode};

use crate::http::Token;
use crate::mirror::repo::{Credential, GitRepository, Remote};

/// The user that the hub's documentation gives beside a token; any would do.
const HUB_USER: &str = "hf";

/// A user and password.
pub(in crate::mirror) type Login = Credential;

/// What is tried on each connection, in this order: what the server took before, what the address had, the hub's token,
/// git's credential helpers.
pub(super) struct Credentials<'a> {
    taken: RefCell<Option<Login>>,
    known: Vec<Login>,
    repository: &'a GitRepository,
    helpers: Option<Config>,
    tried: Cell<usize>,
    given: RefCell<Option<Login>>,
}

impl<'a> Credentials<'a> {
    /// What is known for a repository. Helpers are those of the user's own configuration.
    pub fn new(repository: &'a GitRepository, token: Option<&Token>, helpers: Option<Config>) -> Self {
        let token = (token.filter(|_| repository.hub.is_some()))
            .map(|token| Login { user: HUB_USER.to_owned(), password: token.secret().to_owned() });
        let known = repository.credential.clone().into_iter().chain(token).collect();
        let (taken, given) = (RefCell::default(), RefCell::default());
        Self { taken, known, repository, helpers, tried: Cell::new(0), given }
    }

    /// Begins anew, for another connection.
    pub fn begin(&self) {
        self.tried.set(0);
        self.taken.replace(self.given.borrow().clone());
    }

    /// Answers libgit2, which asks again for as long as the server refuses.
    pub fn answer(&self, allowed: CredentialType) -> Result<Cred, Error> {
        if !allowed.contains(CredentialType::USER_PASS_PLAINTEXT) {
            return Err(none());
        }
        let at = self.tried.get();
        self.tried.set(at + 1);
        let taken = self.taken.borrow();
        let mut before_helpers = taken.iter().chain(&self.known);
        let login = match before_helpers.nth(at) {
            Some(login) => login.clone(),
            None if at == self.known.len() + usize::from(taken.is_some()) => {
                self.ask_helpers().ok_or_else(none)?
            }
            None => return Err(none()),
        };
        let cred = Cred::userpass_plaintext(&login.user, &login.password);
        self.given.replace(Some(login));
        cred
    }

    fn ask_helpers(&self) -> Option<Login> {
        let (Some(config), Remote::Http(url)) = (&self.helpers, &self.repository.remote) else { return None };
        let (user, password) = CredentialHelper::new(url.as_str()).config(config).execute()?;
        Some(Login { user, password })
    }

    /// Whether one was given: the server asked, and there was one.
    pub fn were_given(&self) -> bool {
        self.given.borrow().is_some()
    }

    /// What was given last; after success, what the server takes. Where it asked for none, what the address had.
    pub fn accepted(&self) -> Option<Login> {
        self.given.borrow().clone().or_else(|| self.known.first().cloned())
    }
}

fn none() -> Error {
    Error::new(ErrorCode::Auth, ErrorClass::Http, "the server wants a credential that it takes")
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
        let credentials = Credentials::new(&repository, Some(&token), None);
        assert!(!credentials.were_given());
        let plain = CredentialType::USER_PASS_PLAINTEXT;
        for (user, password) in [("u", "p"), ("hf", "hf_x")] {
            credentials.answer(plain).unwrap();
            let given = credentials.accepted().unwrap();
            assert_eq!((given.user.as_str(), given.password.as_str()), (user, password));
        }
        for _ in 0..3 {
            assert!(credentials.answer(plain).is_err_and(|e| e.code() == ErrorCode::Auth));
        }
        assert!(credentials.were_given());
        // On the next connection, what was given last comes first.
        credentials.begin();
        let next = ["hf", "u", "hf"].map(|_| {
            credentials.answer(plain).unwrap();
            credentials.accepted().unwrap().user
        });
        assert_eq!(next, ["hf", "u", "hf"]);
        assert!(credentials.answer(plain).is_err());
    }

    #[test]
    fn the_hubs_token_is_for_the_hub() {
        let (repository, token) = (repository(false), Token::new("hf_x").unwrap());
        let credentials = Credentials::new(&repository, Some(&token), None);
        credentials.answer(CredentialType::USER_PASS_PLAINTEXT).unwrap();
        assert!(credentials.answer(CredentialType::USER_PASS_PLAINTEXT).is_err());
        assert!(Credentials::new(&repository, None, None).answer(CredentialType::DEFAULT).is_err());
    }
}
