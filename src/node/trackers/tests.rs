use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::*;
use crate::config::Config;
use crate::http::NameLookup;

/// Names with the addresses that their first labels suggest.
#[derive(Debug)]
struct TestNames;

impl NameLookup for TestNames {
    fn addresses(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = match name {
            "public.example" => Ok(["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec()),
            "private.example" => Ok(vec!["10.0.0.1".parse().unwrap()]),
            "mapped.example" => Ok(vec!["::ffff:10.0.0.1".parse().unwrap()]),
            "metadata.example" => Ok(vec!["169.254.169.254".parse().unwrap()]),
            "both.example" => Ok(["10.0.0.1", "192.0.2.2"].map(|ip| ip.parse().unwrap()).to_vec()),
            _ => Err(io::Error::other("no such name")),
        };
        std::future::ready(found).boxed()
    }
}

fn client(allowed: &[&str]) -> HttpClient {
    let mut network = Config::defaults(Path::new("/nonexistent")).network;
    network.allow_private_hosts = allowed.iter().map(|host| Host::parse(host).unwrap()).collect();
    HttpClient::with_lookup(&network, Arc::new(TestNames)).unwrap()
}

async fn engine(tracker: &str, client: &HttpClient, proxied: bool) -> Vec<String> {
    Trackers::of(&[tracker.to_owned()], client, proxied).await.engine
}

#[tokio::test]
async fn the_engine_receives_udp_trackers_by_their_checked_address() {
    let strict = client(&[]);
    let both = ["udp://192.0.2.1:6969/announce?x", "udp://[2001:db8::1]:6969/announce?x"];
    assert_eq!(engine("udp://public.example:6969/announce?x", &strict, false).await, both);
    assert_eq!(engine("udp://both.example:6969", &strict, false).await, ["udp://192.0.2.2:6969"]);
    assert_eq!(engine("udp://me:pw@192.0.2.9:1/", &strict, false).await, ["udp://192.0.2.9:1/"]);
}

#[tokio::test]
async fn private_and_forbidden_trackers_are_not_given_to_the_engine() {
    let (strict, open) =
        (client(&[]), client(&["private.example", "10.0.0.7", "metadata.example", "169.254.169.254"]));
    for private in [
        "udp://10.0.0.7:1/",
        "udp://167772167:1/",
        "udp://0x0a000007:1/",
        "udp://10.7:1/",
        "udp://[::ffff:10.0.0.7]:1/",
        "udp://private.example:1/",
    ] {
        assert!(engine(private, &strict, false).await.is_empty(), "{private}");
        assert_eq!(engine(private, &open, false).await.len(), 1, "{private}");
    }
    for refused in [
        "udp://127.0.0.1:1/",
        "udp://localhost:1/",
        "udp://[::1]:1/",
        "udp://[64:ff9b::a00:1]:1/",
        "udp://[2002:a00:1::]:1/",
        "udp://169.254.169.254:1/",
        "udp://2852039166:1/",
        "udp://metadata.example:1/",
        "udp://mapped.example:1/",
        "udp://none.example:1/",
    ] {
        assert!(engine(refused, &strict, false).await.is_empty(), "{refused}");
        assert!(engine(refused, &open, false).await.is_empty(), "{refused}");
    }
    for nonsense in
        ["", "gopher://192.0.2.1:1/", "udp://192.0.2.1/", "udp://192.0.2.1:0/", "wss://192.0.2.1:1/"]
    {
        assert!(engine(nonsense, &open, false).await.is_empty(), "{nonsense}");
    }
}

#[tokio::test]
async fn with_a_proxy_names_are_left_to_it_and_literals_are_checked() {
    let strict = client(&[]);
    for name in ["udp://private.example:1/", "udp://none.example:1/"] {
        assert_eq!(engine(name, &strict, true).await, [name]);
    }
    for refused in
        ["udp://10.0.0.7:1/", "udp://167772167:1/", "udp://localhost:1/", "udp://169.254.169.254:1/"]
    {
        assert!(engine(refused, &strict, true).await.is_empty(), "{refused}");
    }
}

#[tokio::test]
async fn http_trackers_are_asked_by_the_client_and_not_by_the_engine() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    let router = axum::Router::new().fallback(async move |request: axum::extract::Request| {
        asked.send(request.uri().to_string()).unwrap();
        b"d5:peers6:\xc0\x00\x02\x09\x1a\xe1e".to_vec()
    });
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let named = [format!("{base}/announce?key=1")];
    let info_hash = InfoHash([0xab; 32]);
    let ask = async |client: &HttpClient| {
        let trackers = Trackers::of(&named, client, false).await;
        assert!(trackers.engine.is_empty());
        let (found, mut peers) = tokio::sync::mpsc::unbounded_channel();
        let asking = trackers.ask(client, info_hash, 6881, move |peer| found.send(peer).unwrap());
        tokio::select! {
            never = asking => match never {},
            peer = peers.recv() => peer,
            () = tokio::time::sleep(Duration::from_millis(300)) => None,
        }
    };
    assert_eq!(ask(&client(&[])).await, None);
    assert!(questions.try_recv().is_err(), "a private tracker was asked");
    let peer = ask(&client(&["127.0.0.1"])).await;
    assert_eq!(peer, Some("192.0.2.9:6881".parse().unwrap()));
    let question = questions.try_recv().unwrap();
    assert!(question.starts_with("/announce?key=1&info_hash=%AB%AB"), "{question}");
    assert!(question.contains("&port=6881&"), "{question}");
    server.abort();
}
