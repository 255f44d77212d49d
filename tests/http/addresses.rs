//! No request reaches a refused address, whether its URL has the address, a name, or a redirect.
//!
//! A network with one host has all these addresses, and a server listens on all of them. A refusal is proved by the
//! requests that the server did not receive.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request as Asked;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use silmaril::config::{Config, NetworkConfig};
use silmaril::http::{Auth, HttpClient, HttpError, NameLookup, Request, Scope, Token, Url};

use crate::mirror::rig::run;
use crate::support::net::sh;
use crate::support::private_net::in_private_net;

/// Link-local and metadata addresses, and forms that are translated to them: mapped, compatible, NAT64, 6to4, Teredo.
const FORBIDDEN: [&str; 15] = [
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "fe80::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "::ffff:100.100.100.200",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::6464:64c8",
    "2002:a9fe:a9fe::1",
    "2002:6464:64c8:1::1",
    "2001:0:4136:e378:8000:63bf:5601:5601",
    "2001:0:a9fe:a9fe:8000:63bf:3fff:fdd2",
];

const PRIVATE: [&str; 15] = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "::",
    "::1",
    "fc00::1",
    "fd12::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    "198.18.0.1",
];

/// An address for documentation, which these tests use as a public address.
const PUBLIC: &str = "192.0.2.1";

/// The addresses that each lookup of a name returns. The last addresses are repeated.
#[derive(Debug, Default)]
struct TestNames(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

impl TestNames {
    fn set(&self, name: &str, lookups: &[&[&str]]) {
        let ips = |texts: &&[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        self.0.lock().insert(name.to_owned(), lookups.iter().map(ips).collect());
    }
}

impl NameLookup for TestNames {
    fn addresses(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut names = self.0.lock();
        let found = match names.get_mut(name) {
            Some(lookups) if lookups.len() > 1 => Ok(lookups.remove(0)),
            Some(lookups) => Ok(lookups[0].clone()),
            None => Err(io::Error::other("no such name")),
        };
        std::future::ready(found).boxed()
    }
}

/// The URI and headers of each request that the server received.
type RequestLog = Arc<Mutex<Vec<(String, HeaderMap)>>>;

/// A network of one host with all addresses, and a server on each.
struct World {
    port: u16,
    log: RequestLog,
    names: Arc<TestNames>,
    client: HttpClient,
}

fn network() -> NetworkConfig {
    Config::defaults(Path::new("/nonexistent")).network
}

impl World {
    async fn new() -> Self {
        for address in FORBIDDEN.iter().chain(&PRIVATE).chain([&PUBLIC]) {
            let ip: IpAddr = address.parse().unwrap();
            let built_in = ["0.0.0.0", "127.0.0.1", "::", "::1"].contains(address) || ip.to_canonical() != ip;
            if !built_in {
                let (family, bits) = if ip.is_ipv4() { ("-4", 32) } else { ("-6", 128) };
                sh(&format!("ip {family} addr add {address}/{bits} dev lo"));
            }
        }
        let listener = tokio::net::TcpListener::bind("[::]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = RequestLog::default();
        let router = Router::new().fallback({
            let log = log.clone();
            async move |asked: Asked| answer(&log, &asked)
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let names = Arc::<TestNames>::default();
        names.set("public.example", &[&[PUBLIC]]);
        let client = HttpClient::with_lookup(&network(), names.clone()).unwrap();
        Self { port, log, names, client }
    }

    fn literal(&self, address: &str) -> Url {
        format!("http://{}/", SocketAddr::new(address.parse().unwrap(), self.port)).parse().unwrap()
    }

    fn named(&self, name: &str, rest: &str) -> Url {
        format!("http://{name}:{}/{rest}", self.port).parse().unwrap()
    }

    /// A URL of the public host that redirects to another one.
    fn redirect(&self, to: &Url) -> Url {
        let mut url = self.named("public.example", "redirect");
        url.query_pairs_mut().append_pair("to", to.as_str());
        url
    }

    /// Number of requests that the server received since the last call.
    fn new_requests(&self) -> usize {
        std::mem::take(&mut *self.log.lock()).len()
    }
}

fn answer(log: &RequestLog, asked: &Asked) -> Response {
    log.lock().push((asked.uri().to_string(), asked.headers().clone()));
    let query = asked.uri().query().unwrap_or_default().to_owned();
    let to = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "to");
    match to {
        Some((_, to)) => (StatusCode::FOUND, [("location", to.into_owned())]).into_response(),
        None if asked.uri().path() == "/close" => ([("connection", "close")], "reached").into_response(),
        None => "reached".into_response(),
    }
}

async fn reached(client: &HttpClient, url: &Url) -> Result<(), HttpError> {
    let body = client.send(Request::get(url.clone())).await?.body.read(100).await?;
    assert_eq!(body, b"reached");
    Ok(())
}

#[track_caller]
fn refused(result: Result<(), HttpError>, scope: Scope, what: &str) {
    match result {
        Err(error @ HttpError::Address { .. }) => {
            assert!(!error.is_transient(), "{what}: {error}");
            assert_eq!(error.is_private_host(), scope == Scope::Private, "{what}: {error}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn urls_names_and_redirects_cannot_reach_refused_addresses() {
    in_private_net(|| {
        run(async {
            let world = World::new().await;
            reached(&world.client, &world.named("public.example", "")).await.unwrap();
            assert_eq!(world.new_requests(), 1);
            let all = FORBIDDEN.iter().map(|address| (address, Scope::Forbidden));
            for (address, scope) in all.chain(PRIVATE.iter().map(|address| (address, Scope::Private))) {
                world.names.set("target.example", &[&[address]]);
                let (literal, name) = (world.literal(address), world.named("target.example", ""));
                if scope == Scope::Private {
                    // The server responds to requests for a host that the user named.
                    reached(&world.client.allowing_private(&literal), &literal).await.unwrap();
                    reached(&world.client.allowing_private(&name), &name).await.unwrap();
                    assert_eq!(world.new_requests(), 2, "{address}");
                } else {
                    refused(
                        reached(&world.client.allowing_private(&literal), &literal).await,
                        scope,
                        address,
                    );
                    refused(reached(&world.client.allowing_private(&name), &name).await, scope, address);
                }
                // Connections of the previous requests must not be used for other requests.
                for url in [&literal, &name] {
                    refused(reached(&world.client, url).await, scope, &format!("{url} is {address}"));
                }
                assert_eq!(world.new_requests(), 0, "{address} was contacted");
                for url in [&literal, &name] {
                    let from = world.redirect(url);
                    refused(reached(&world.client, &from).await, scope, &format!("redirect to {url}"));
                    // The target is refused even if the user named the host that redirects.
                    refused(reached(&world.client.allowing_private(&from), &from).await, scope, address);
                }
                assert_eq!(world.new_requests(), 4, "{address} was contacted by a redirect");
            }
        });
    });
}

#[test]
fn changed_address_of_a_name_is_checked_again() {
    in_private_net(|| {
        run(async {
            let world = World::new().await;
            world.names.set("moving.example", &[&[PUBLIC], &["127.0.0.1"]]);
            let url = world.named("moving.example", "close");
            reached(&world.client, &url).await.unwrap();
            refused(reached(&world.client, &url).await, Scope::Private, "moved");
            assert_eq!(world.new_requests(), 1);
            // Of several addresses, the public one is used.
            world.names.set("both.example", &[&["127.0.0.1", "169.254.169.254", PUBLIC]]);
            reached(&world.client, &world.named("both.example", "")).await.unwrap();
        });
    });
}

#[test]
fn configured_hosts_may_be_private_and_never_link_local() {
    in_private_net(|| {
        run(async {
            let world = World::new().await;
            let mut network = network();
            let hosts = ["minio.lan", "192.168.0.1", "[fd12::1]", "metadata.lan", "169.254.169.254"];
            network.allow_private_hosts = hosts.iter().map(|host| url::Host::parse(host).unwrap()).collect();
            let client = HttpClient::with_lookup(&network, world.names.clone()).unwrap();
            world.names.set("minio.lan", &[&["10.0.0.1"]]);
            world.names.set("metadata.lan", &[&["169.254.169.254"]]);
            world.names.set("alias.example", &[&["192.168.0.1"]]);
            for url in [world.named("minio.lan", ""), world.literal("192.168.0.1"), world.literal("fd12::1")]
            {
                reached(&client, &url).await.unwrap();
                reached(&client, &world.redirect(&url)).await.unwrap();
            }
            reached(&client, &world.named("alias.example", "")).await.unwrap();
            // The address of a configured name is not configured itself.
            refused(reached(&client, &world.literal("10.0.0.1")).await, Scope::Private, "10.0.0.1");
            for url in [world.named("metadata.lan", ""), world.literal("169.254.169.254")] {
                refused(reached(&client, &url).await, Scope::Forbidden, url.as_str());
            }
        });
    });
}

#[test]
fn proxy_resolves_names_and_literals_are_checked() {
    in_private_net(|| {
        run(async {
            let world = World::new().await;
            let mut network = network();
            network.proxy = Some(format!("http://proxy.lan:{}", world.port).parse().unwrap());
            let client = HttpClient::with_lookup(&network, world.names.clone()).unwrap();
            world.names.set("proxy.lan", &[&["10.0.0.1"]]);
            // Neither name exists on this host.
            for name in ["http://files.example/x", "http://intranet.example/x"] {
                reached(&client, &name.parse().unwrap()).await.unwrap();
                assert_eq!(std::mem::take(&mut *world.log.lock())[0].0, name);
            }
            for literal in ["http://10.0.0.9/", "http://[::1]/", "http://localhost/", "http://proxy.lan/"] {
                refused(reached(&client, &literal.parse().unwrap()).await, Scope::Private, literal);
            }
            for literal in ["http://169.254.169.254/", "http://[64:ff9b::a9fe:a9fe]/", "http://2852039166/"] {
                refused(reached(&client, &literal.parse().unwrap()).await, Scope::Forbidden, literal);
            }
            assert_eq!(world.new_requests(), 0);
        });
    });
}

#[test]
fn redirect_back_from_another_origin_gets_no_credential() {
    in_private_net(|| {
        run(async {
            let world = World::new().await;
            world.names.set("home.example", &[&[PUBLIC]]);
            let back = world.named("home.example", "back");
            let there = world.redirect(&back);
            let mut start = world.named("home.example", "start");
            start.query_pairs_mut().append_pair("to", there.as_str());
            let auth = Auth::bearer(&start, &Token::new("secret").unwrap());
            let mut request = Request::get(start).auth(Some(&auth));
            request.headers.insert("x-secret", "s".parse().unwrap());
            request.headers.insert("user-agent", "git/2".parse().unwrap());
            world.client.send(request).await.unwrap();
            let log = std::mem::take(&mut *world.log.lock());
            let has =
                |name: &str| log.iter().map(|(_, headers)| headers.contains_key(name)).collect::<Vec<_>>();
            assert_eq!(has("authorization"), [true, false, false], "{log:?}");
            assert_eq!(has("x-secret"), [true, false, false], "{log:?}");
            assert!(log.iter().all(|(_, headers)| headers["user-agent"] == "git/2"), "{log:?}");
        });
    });
}
