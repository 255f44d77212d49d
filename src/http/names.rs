//! Resolves host names and decides which addresses a connection may use.
//!
//! The check is in the resolver of the HTTP client, so that the client connects to the address that was checked. A name
//! whose address changes between two lookups therefore cannot evade the check.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

use super::address::{self, RefusedAddress, Scope, plain_name};

/// Resolves host names.
pub trait NameLookup: fmt::Debug + Send + Sync {
    /// All addresses of a name.
    fn addresses(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The resolver of this machine: `/etc/hosts`, DNS and other configured sources.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

impl NameLookup for SystemLookup {
    fn addresses(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        let lookup =
            async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect()) };
        lookup.boxed()
    }
}

/// The hosts that may have private addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct PrivateHosts(Vec<Host>);

impl PrivateHosts {
    pub fn new(hosts: impl IntoIterator<Item = Host>) -> Self {
        Self(hosts.into_iter().map(|host| plain(&host)).collect())
    }

    /// A copy with one more host.
    pub fn with(&self, host: &Host<&str>) -> Self {
        Self(self.0.iter().cloned().chain([plain(host)]).collect())
    }

    pub fn has(&self, host: &Host<&str>) -> bool {
        self.0.contains(&plain(host))
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().filter_map(|host| match host {
            Host::Ipv4(ip) => Some((*ip).into()),
            Host::Ipv6(ip) => Some(IpAddr::from(*ip).to_canonical()),
            Host::Domain(_) => None,
        })
    }
}

/// The form of a host for comparisons. An IPv4 address in IPv6 form becomes the IPv4 address.
fn plain<S: AsRef<str>>(host: &Host<S>) -> Host {
    match host {
        Host::Domain(name) => Host::Domain(plain_name(name.as_ref())),
        Host::Ipv4(ip) => Host::Ipv4(*ip),
        Host::Ipv6(ip) => match IpAddr::from(*ip).to_canonical() {
            IpAddr::V4(ip) => Host::Ipv4(ip),
            IpAddr::V6(ip) => Host::Ipv6(ip),
        },
    }
}

/// The addresses that a name may have.
#[derive(Debug, Clone, Default)]
pub(super) struct AddressRule {
    /// Whether all private addresses are permitted.
    pub private: bool,
    /// Private addresses that are permitted in any case.
    allowed: HashSet<IpAddr>,
    /// Names of proxies, which may have any address.
    proxies: HashSet<String>,
}

impl AddressRule {
    /// The rule for hosts that are not in `configured`.
    pub fn new(configured: &PrivateHosts, proxies: HashSet<String>) -> Self {
        Self { private: false, allowed: configured.addresses().collect(), proxies }
    }

    /// The rule for hosts that may have private addresses.
    pub fn for_configured(&self) -> Self {
        Self { private: true, ..self.clone() }
    }

    /// Whether the host is a configured proxy, compared by name.
    pub fn is_proxy(&self, host: &Host<&str>) -> bool {
        matches!(host, Host::Domain(name) if self.proxies.contains(&plain_name(name)))
    }

    fn permits(&self, ip: IpAddr) -> bool {
        match address::scope(ip) {
            Scope::Public => true,
            Scope::Private => self.private || self.allowed.contains(&ip.to_canonical()),
            Scope::Forbidden => false,
        }
    }

    /// The permitted addresses of a name. Fails if the name has addresses but none is permitted.
    pub fn filter(&self, name: &str, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, RefusedAddress> {
        if self.proxies.contains(&plain_name(name)) {
            return Ok(found);
        }
        let (good, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(|ip| self.permits(*ip));
        match refused.into_iter().max_by_key(|ip| address::scope(*ip)) {
            Some(ip) if good.is_empty() => {
                Err(RefusedAddress { host: name.to_owned(), address: Some(ip), scope: address::scope(ip) })
            }
            _ => Ok(good),
        }
    }
}

/// The resolver of an HTTP client, which returns only permitted addresses.
#[derive(Debug)]
pub(super) struct CheckedResolver {
    pub names: Arc<dyn NameLookup>,
    pub rule: AddressRule,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, rule) = (self.names.addresses(name.as_str()), self.rule.clone());
        Box::pin(async move {
            let good = rule.filter(name.as_str(), lookup.await?)?;
            // reqwest replaces port 0 by the port of the URL.
            Ok(Box::new(good.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

/// The host name in the address of a proxy. None for an IP address, which needs no lookup.
pub(super) fn proxy_name(value: &str) -> Option<String> {
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    match with_scheme.parse::<Url>().ok()?.host_str()?.trim_matches(['[', ']']) {
        host if host.parse::<IpAddr>().is_ok() => None,
        host => Some(plain_name(host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn private_and_forbidden_addresses_are_left_out() {
        let rule = AddressRule::default();
        let mixed = ips(&["10.0.0.1", "192.0.2.1", "fe80::1", "2001:db8::1"]);
        assert_eq!(rule.filter("h", mixed.clone()).unwrap(), ips(&["192.0.2.1", "2001:db8::1"]));
        let open = rule.for_configured();
        assert_eq!(open.filter("h", mixed).unwrap(), ips(&["10.0.0.1", "192.0.2.1", "2001:db8::1"]));
        let refused = rule.filter("h", ips(&["10.0.0.1", "169.254.169.254"])).unwrap_err();
        assert_eq!(refused.address, Some("169.254.169.254".parse().unwrap()));
        assert!(open.filter("h", ips(&["169.254.169.254", "fd00:ec2::254"])).is_err());
        assert_eq!(rule.filter("h", vec![]).unwrap(), ips(&[]));
    }

    #[test]
    fn configured_address_is_permitted_for_every_name() {
        let hosts =
            PrivateHosts::new([Host::Ipv4([10, 0, 0, 5].into()), Host::Domain("Minio.lan.".to_owned())]);
        let rule = AddressRule::new(&hosts, HashSet::new());
        assert!(rule.filter("other.example", ips(&["10.0.0.5"])).is_ok());
        assert!(rule.filter("other.example", ips(&["::ffff:10.0.0.5"])).is_ok());
        assert!(rule.filter("other.example", ips(&["10.0.0.6"])).is_err());
        assert!(hosts.has(&Host::Domain("minio.lan")) && hosts.has(&Host::Domain("MINIO.lan.")));
        assert!(!hosts.has(&Host::Domain("a.minio.lan")) && !hosts.has(&Host::Ipv4([10, 0, 0, 6].into())));
        assert!(hosts.has(&Host::Ipv6("::ffff:10.0.0.5".parse().unwrap())));
    }

    #[test]
    fn proxy_may_have_any_address() {
        let proxies = ["http://Squid.lan:3128", "squid.lan:3128", "socks5://me:pw@squid.lan:1"];
        for proxy in proxies {
            assert_eq!(proxy_name(proxy).as_deref(), Some("squid.lan"), "{proxy}");
        }
        assert_eq!(proxy_name("http://10.0.0.1:3128"), None);
        assert_eq!(proxy_name("http://[fd00::1]:3128"), None);
        let rule = AddressRule::new(&PrivateHosts::default(), HashSet::from(["squid.lan".to_owned()]));
        assert_eq!(rule.filter("squid.lan", ips(&["169.254.1.1"])).unwrap(), ips(&["169.254.1.1"]));
        assert!(rule.is_proxy(&Host::Domain("SQUID.lan")) && !rule.is_proxy(&Host::Domain("other.lan")));
    }
}
