//! Checks the endpoint, and whether programs of this shell use it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::Finding::{self, Fail, Ok as Fine, Warn};
use crate::node::control::Status;

/// Time within which the endpoint must accept a connection and answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The variables of the environment that decide what programs use.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// `HF_ENDPOINT`.
    pub endpoint: Option<String>,
    /// Whether `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is set.
    pub offline: bool,
}

impl Variables {
    /// The variables of this process.
    pub fn of_this_process() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_on = |name: &str| {
            text(name).is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
            })
        };
        Self {
            endpoint: text("HF_ENDPOINT"),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
        }
    }
}

/// Checks the endpoint of the running node.
pub(super) fn check(node: Option<&Status>, variables: &Variables) -> Finding {
    if let Some(problem) = node.and_then(|node| node.endpoint_problem.as_ref()) {
        return Fail(problem.clone(), "set another serve.listen, then `silmaril stop`".to_owned());
    }
    let served = node.and_then(|node| node.endpoint.as_ref());
    let used = variables.endpoint.as_deref().map(|url| url.trim_end_matches('/'));
    match (served, used) {
        (None, Some(url)) if is_local(url) && !answers(url) => Warn(
            format!("HF_ENDPOINT is {url}, where no program answers"),
            "start it with `silmaril serve`, or unset HF_ENDPOINT".to_owned(),
        ),
        (None, _) => Fine("none is served".to_owned()),
        (Some(endpoint), _) if !answers(&endpoint.url) => Fail(
            format!("{} does not answer", endpoint.url),
            "start it again: silmaril serve --stop, then silmaril serve".to_owned(),
        ),
        (Some(endpoint), Some(url)) if is_same(url, &endpoint.url) && variables.offline => Warn(
            format!("{}, but HF_HUB_OFFLINE keeps programs of this shell from using it", endpoint.url),
            "unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE".to_owned(),
        ),
        (Some(endpoint), Some(url)) if is_same(url, &endpoint.url) => {
            Fine(format!("{}, used by programs of this shell", endpoint.url))
        }
        (Some(endpoint), Some(url)) => {
            Warn(format!("{}, but HF_ENDPOINT is {url}", endpoint.url), "eval \"$(silmaril env)\"".to_owned())
        }
        (Some(endpoint), None) => {
            Fine(format!("{}; to use it in this shell: eval \"$(silmaril env)\"", endpoint.url))
        }
    }
}

/// The address of an endpoint; none if it is not a plain HTTP address.
fn address(url: &str) -> Option<SocketAddr> {
    let host = url.strip_prefix("http://")?.split('/').next()?;
    let host = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    host.to_socket_addrs().ok()?.next()
}

fn is_local(url: &str) -> bool {
    address(url).is_some_and(|address| crate::serve::is_loopback(address.ip()))
}

fn is_same(one: &str, other: &str) -> bool {
    one == other || address(one).is_some_and(|address_of_one| Some(address_of_one) == address(other))
}

/// Whether an endpoint answers `/healthz`.
fn answers(url: &str) -> bool {
    let Some(address) = address(url) else { return false };
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        write!(stream, "GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        std::io::Result::Ok(start == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_without_a_server_is_a_warning() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let variables = |endpoint: &str| Variables { endpoint: Some(endpoint.to_owned()), offline: false };
        assert!(matches!(check(None, &variables(&format!("http://{free}"))), Warn(..)));
        assert!(matches!(check(None, &variables("https://hub.example")), Fine(_)));
        assert!(matches!(check(None, &Variables::default()), Fine(_)));
    }

    #[test]
    fn addresses_are_compared_by_host_and_port() {
        assert!(
            is_same("http://localhost:8910", "http://127.0.0.1:8910")
                || address("http://localhost:8910").is_some_and(|a| a.is_ipv6())
        );
        assert!(!is_same("http://127.0.0.1:1", "http://127.0.0.1:2"));
        assert_eq!(address("http://127.0.0.1/"), Some(([127, 0, 0, 1], 80).into()));
        assert_eq!(address("https://127.0.0.1"), None);
    }
}
