//! Which addresses may be asked, and how they are shown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::Url;
use url::Host;

use super::HttpError;

/// How long a name may take to resolve before a redirect to it is refused.
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);

/// Who named an address, and so where it may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedBy {
    /// The user, on the command line or in the configuration: anywhere.
    User,
    /// A manifest, a torrent or a server that the user did not name: not from the internet into the local network, not to
    /// link-local addresses (where clouds keep their secrets), and into the local network only without a query.
    Stranger,
}

/// An address without what may be secret in it: user, password, query and fragment.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for addresses that can have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Internet,
    Local,
    LinkLocal,
}

fn scope_v4(ip: Ipv4Addr) -> Scope {
    // 100.64.0.0/10 is shared address space (RFC 6598).
    let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
    match () {
        () if ip.is_link_local() => Scope::LinkLocal,
        () if ip.is_private() || ip.is_loopback() || ip.is_unspecified() || ip.is_broadcast() || shared => {
            Scope::Local
        }
        () => Scope::Internet,
    }
}

fn scope_v6(ip: Ipv6Addr) -> Scope {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return scope_v4(v4);
    }
    match () {
        () if ip.is_unicast_link_local() => Scope::LinkLocal,
        () if ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() => Scope::Local,
        () => Scope::Internet,
    }
}

fn scope_of(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) => scope_v4(ip),
        IpAddr::V6(ip) => scope_v6(ip),
    }
}

/// What an address alone tells of where it lies; nothing for names that have to be resolved.
fn literal_scope(url: &Url) -> Option<Scope> {
    match url.host()? {
        Host::Ipv4(ip) => Some(scope_v4(ip)),
        Host::Ipv6(ip) => Some(scope_v6(ip)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            (name == "localhost" || name.ends_with(".localhost")).then_some(Scope::Local)
        }
    }
}

/// Where an address lies; of several that a name resolves to, the one nearest to us counts.
async fn scope(url: &Url) -> Option<Scope> {
    if let Some(scope) = literal_scope(url) {
        return Some(scope);
    }
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    let found = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((host, port))).await;
    found.ok()?.ok()?.map(|address| scope_of(address.ip())).max()
}

/// Refuses what is not HTTP, and what a stranger may not name.
pub(super) fn check(url: &Url, named_by: NamedBy) -> Result<(), HttpError> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(HttpError::NotHttp { url: shown(url) });
    }
    if named_by == NamedBy::Stranger {
        let allowed = match literal_scope(url) {
            Some(Scope::LinkLocal) => false,
            Some(Scope::Local) => url.query().is_none(),
            Some(Scope::Internet) | None => true,
        };
        if !allowed {
            return Err(HttpError::Forbidden { url: shown(url) });
        }
    }
    Ok(())
}

/// Refuses redirects from TLS to plain HTTP, and those that a stranger may not cause.
pub(super) async fn check_redirect(from: &Url, to: &Url, named_by: NamedBy) -> Result<(), HttpError> {
    check(to, NamedBy::User)?;
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(HttpError::Forbidden { url: shown(to) });
    }
    if named_by == NamedBy::User || from.origin() == to.origin() {
        return Ok(());
    }
    let allowed = match scope(to).await {
        // A name that we cannot resolve: a proxy may. It is not in our network then.
        Some(Scope::Internet) | None => true,
        Some(Scope::Local) => scope(from).await.is_some_and(|scope| scope >= Scope::Local),
        Some(Scope::LinkLocal) => false,
    };
    if allowed { Ok(()) } else { Err(HttpError::Forbidden { url: shown(to) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_shown_without_what_may_be_secret() {
        assert_eq!(shown(&url("https://me:pw@h.example/a%20b?X-Sig=1#x")), "https://h.example/a%20b");
    }

    #[test]
    fn a_stranger_names_no_link_local_address_and_no_query_in_the_local_network() {
        for bad in [
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://10.0.0.1/x?y",
            "http://localhost/?y",
        ] {
            assert!(matches!(check(&url(bad), NamedBy::Stranger), Err(HttpError::Forbidden { .. })), "{bad}");
            assert!(check(&url(bad), NamedBy::User).is_ok());
        }
        for good in ["http://10.0.0.1/x", "https://h.example/?y", "http://127.0.0.1:8080/"] {
            assert!(check(&url(good), NamedBy::Stranger).is_ok(), "{good}");
        }
        for bad in ["ftp://h.example/", "file:///etc/passwd"] {
            assert!(matches!(check(&url(bad), NamedBy::User), Err(HttpError::NotHttp { .. })), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_redirect_leads_from_the_internet_into_no_local_network() {
        let (out, inside) = (url("http://192.0.2.1/"), url("http://127.0.0.1/"));
        let refused = check_redirect(&out, &inside, NamedBy::Stranger).await;
        assert!(matches!(refused, Err(HttpError::Forbidden { .. })), "{refused:?}");
        check_redirect(&url("http://10.0.0.1/"), &inside, NamedBy::Stranger).await.unwrap();
        check_redirect(&inside, &out, NamedBy::Stranger).await.unwrap();
        check_redirect(&out, &inside, NamedBy::User).await.unwrap();
        let mapped = url("http://[::ffff:10.0.0.1]/");
        assert!(check_redirect(&out, &mapped, NamedBy::Stranger).await.is_err());
        assert!(check_redirect(&url("https://192.0.2.1/"), &out, NamedBy::User).await.is_err());
    }
}
