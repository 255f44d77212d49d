//! One announce to an HTTP tracker (BEP 3, BEP 7, BEP 23).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bt_bencode::Value;

use crate::http::{HttpClient, HttpError, Request, Scope, scope, without_secrets};
use crate::model::{InfoHash, bencode};

/// The longest reply that is read, in bytes.
const MAX_REPLY: usize = 1 << 20;
/// The most peers of one reply that are used.
const MAX_PEERS: usize = 200;
/// The interval if a tracker sends none.
const INTERVAL: Duration = Duration::from_secs(1800);
/// The bounds of the interval of a tracker.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

/// The announcement: this node looks for the info dictionary of a torrent.
pub(super) struct Announce {
    query: String,
}

/// The reply of a tracker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub interval: Duration,
    pub peers: Vec<SocketAddr>,
}

impl Announce {
    pub fn new(info_hash: InfoHash, port: u16) -> Self {
        // Trackers know a v2 torrent by the first 20 bytes of its info hash (BEP 52).
        let hash: String = info_hash.as_bytes()[..20].iter().map(|byte| format!("%{byte:02X}")).collect();
        let id: String = std::iter::repeat_with(fastrand::alphanumeric).take(12).collect();
        let query = format!(
            "info_hash={hash}&peer_id=-SM0100-{id}&port={port}&uploaded=0&downloaded=0&left=1&compact=1&numwant=50"
        );
        Self { query }
    }

    pub async fn send(&self, client: &HttpClient, tracker: &reqwest::Url) -> Result<Reply, HttpError> {
        let mut url = tracker.clone();
        let query = match tracker.query().filter(|query| !query.is_empty()) {
            Some(query) => format!("{query}&{}", self.query),
            None => self.query.clone(),
        };
        url.set_query(Some(&query));
        let bytes = client.send(Request::get(url)).await?.body.read(MAX_REPLY).await?;
        parse(&bytes).map_err(|reason| HttpError::Connect { url: without_secrets(tracker), reason })
    }
}

fn parse(bytes: &[u8]) -> Result<Reply, String> {
    let entries = bencode::check(bytes).map_err(|e| format!("it sent something that is {e}"))?;
    let value = |key: &str| bt_bencode::from_slice::<Value>(entries.raw(key)?).ok();
    if let Some(failure) = value("failure reason") {
        let text = crate::model::text::clean(failure.as_str().unwrap_or_default());
        return Err(text.chars().take(200).collect());
    }
    let interval = value("interval").and_then(|seconds| seconds.as_u64()).map(Duration::from_secs);
    let mut peers = Vec::new();
    match value("peers") {
        Some(Value::ByteStr(compact)) => peers.extend(compact.chunks_exact(6).map(|peer| {
            let [a, b, c, d, high, low] = *peer else { unreachable!("a chunk has 6 bytes") };
            SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))
        })),
        Some(Value::List(list)) => peers.extend(list.iter().filter_map(|peer| {
            let ip: IpAddr = peer.get("ip")?.as_str()?.parse().ok()?;
            Some(SocketAddr::new(ip, peer.get("port")?.as_u64()?.try_into().ok()?))
        })),
        _ => {}
    }
    if let Some(Value::ByteStr(compact)) = value("peers6") {
        peers.extend(compact.chunks_exact(18).filter_map(|peer| {
            let ip: [u8; 16] = peer[..16].try_into().ok()?;
            Some(SocketAddr::new(Ipv6Addr::from(ip).into(), u16::from_be_bytes([peer[16], peer[17]])))
        }));
    }
    peers.retain(|peer| peer.port() > 0 && scope(peer.ip()) != Scope::Forbidden);
    peers.truncate(MAX_PEERS);
    Ok(Reply { interval: interval.unwrap_or(INTERVAL).clamp(SHORTEST, LONGEST), peers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(reply: &[u8]) -> Vec<String> {
        parse(reply).unwrap().peers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn peers_are_read_in_every_form() {
        let compact = b"d8:intervali900e5:peers12:\x0a\x00\x00\x01\x1a\xe1\x0a\x00\x00\x02\x00\x00e";
        assert_eq!(peers(compact), ["10.0.0.1:6881"]);
        assert_eq!(parse(compact).unwrap().interval, Duration::from_secs(900));
        let list = b"d5:peersld2:ip8:10.0.0.14:porti6881eed2:ip1:x4:porti1eeee";
        assert_eq!(peers(list), ["10.0.0.1:6881"]);
        let mut six = b"d6:peers618:".to_vec();
        six.extend_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        six.extend_from_slice(b"\x1a\xe1e");
        assert_eq!(peers(&six), ["[2001:db8::1]:6881"]);
    }

    #[test]
    fn metadata_services_are_no_peers() {
        assert_eq!(peers(b"d5:peers6:\xa9\xfe\xa9\xfe\x00\x50e"), [""; 0]);
    }

    #[test]
    fn failures_and_nonsense_are_errors() {
        let failure = parse(b"d14:failure reason8:go\x1b awaye").unwrap_err();
        assert_eq!(failure, "go away");
        for bad in [&b""[..], b"<html>", b"le", b"d5:peers99:xe"] {
            assert!(parse(bad).is_err());
        }
        let bounds = |text: &[u8]| parse(text).unwrap().interval;
        assert_eq!(bounds(b"d8:intervali1ee"), SHORTEST);
        assert_eq!(bounds(b"d8:intervali99999999ee"), LONGEST);
        assert_eq!(bounds(b"d8:intervali-5ee"), INTERVAL);
    }
}
