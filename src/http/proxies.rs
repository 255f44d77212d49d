//! The proxies in the environment of a client, which the daemon uses for that client's requests.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::HttpError;
use super::names::proxy_name;

/// The variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`; lower case precedes upper case. `Debug` hides the
/// addresses, because they may contain passwords.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentProxies {
    http: Option<String>,
    https: Option<String>,
    all: Option<String>,
    no: Option<String>,
}

impl fmt::Debug for EnvironmentProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |proxy: &Option<String>| proxy.is_some();
        write!(f, "EnvironmentProxies({}, {}, {})", set(&self.http), set(&self.https), set(&self.all))
    }
}

impl EnvironmentProxies {
    /// Reads the environment of this process.
    pub fn of_this_process() -> Self {
        let variable = |name: &str| {
            let either = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_uppercase()));
            either.ok().filter(|value| !value.is_empty())
        };
        Self {
            http: variable("http_proxy"),
            https: variable("https_proxy"),
            all: variable("all_proxy"),
            no: variable("no_proxy"),
        }
    }

    /// Whether no proxy is set.
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none() && self.all.is_none()
    }

    /// Makes a client use only these proxies.
    pub(super) fn apply(&self, builder: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, HttpError> {
        let mut builder = builder.no_proxy();
        type Scheme = fn(String) -> reqwest::Result<reqwest::Proxy>;
        let all: [(&Option<String>, Scheme); 3] = [
            (&self.http, reqwest::Proxy::http),
            (&self.https, reqwest::Proxy::https),
            (&self.all, reqwest::Proxy::all),
        ];
        for (address, of) in all {
            let Some(address) = address else { continue };
            // The error is dropped, because it may contain the password.
            let proxy = of(address.clone()).map_err(|_| HttpError::EnvironmentProxy)?;
            let exceptions = self.no.as_deref().and_then(reqwest::NoProxy::from_string);
            builder = builder.proxy(proxy.no_proxy(exceptions));
        }
        Ok(builder)
    }

    /// The host names of the proxies.
    pub(super) fn names(&self) -> HashSet<String> {
        [&self.http, &self.https, &self.all]
            .into_iter()
            .flatten()
            .filter_map(|value| proxy_name(value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Request as Asked;

    use super::*;
    use crate::config::Config;
    use crate::http::{HttpClient, Request};

    #[tokio::test]
    async fn proxies_of_another_process_are_used() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(async move |asked: Asked| asked.uri().to_string());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let environment = EnvironmentProxies { http: Some(proxy), ..EnvironmentProxies::default() };
        assert!(!environment.is_empty() && !format!("{environment:?}").contains("127.0.0.1"));
        let network = Config::defaults(std::path::Path::new("/nowhere")).network;
        let client = HttpClient::for_process(&network, &environment).unwrap();
        let mut answer = client.send(Request::get("http://files.example/x".parse().unwrap())).await.unwrap();
        let text = answer.body.next().await.unwrap().unwrap();
        assert_eq!(&text[..], b"http://files.example/x");
        let wrong = EnvironmentProxies { http: Some("http://".to_owned()), ..environment };
        let error = HttpClient::for_process(&network, &wrong).err().unwrap().to_string();
        assert!(error.contains("environment"), "{error}");
    }
}
