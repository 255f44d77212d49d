//! The formats of the keys: the valid texts, the type of the value, and the formatting of a value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use globset::{Glob, GlobBuilder};
use url::{Host, Url};

use super::Token;
use super::address::{HostPort, Proxy};
use super::format::{Format, choice, format_of};
use crate::model::text::{parse_size, parse_time};

fn no_reason(_: impl fmt::Display) -> String {
    String::new()
}

fn reason(error: impl fmt::Display) -> String {
    error.to_string()
}

/// A whole number within bounds.
#[derive(Debug)]
pub enum Number<const MIN: u32, const MAX: u32> {}

impl<const MIN: u32, const MAX: u32> Format for Number<MIN, MAX> {
    type Value = u32;

    fn allowed() -> String {
        format!("a number from {MIN} to {MAX}")
    }

    fn parse(text: &str) -> Result<u32, String> {
        text.parse().ok().filter(|n| (MIN..=MAX).contains(n)).ok_or_else(String::new)
    }

    fn write(value: &u32) -> String {
        value.to_string()
    }
}

format_of!(
    /// A switch. The words of YAML 1.1 are also accepted.
    Flag -> bool: "true or false",
    |text| match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(String::new()),
    }
);
format_of!(
    /// A port. The meaning of 0 depends on the key.
    Port -> u16: "a port from 0 to 65535",
    |text| text.parse().map_err(no_reason)
);
format_of!(
    /// Bytes.
    Size -> u64: "a size such as 4194304, 4MiB or 4MB",
    |text| parse_size(text).map_err(no_reason),
    |bytes| write_size(*bytes)
);
format_of!(
    /// A number of bytes that are fetched ahead of a reader.
    Window -> u64: "a size from 0 to 4GiB such as 32MiB",
    |text| parse_size(text).ok().filter(|&bytes| bytes <= 4 << 30).ok_or_else(String::new),
    |bytes| write_size(*bytes)
);
format_of!(
    /// Bytes per second.
    Rate -> u64: "a rate in bytes per second such as 0, 500KB or 10MiB/s",
    |text| parse_size(text.strip_suffix("/s").unwrap_or(text)).map_err(no_reason),
    |bytes| if *bytes == 0 { "0".to_owned() } else { format!("{}/s", write_size(*bytes)) }
);
format_of!(
    /// Bytes per piece.
    PieceLength -> u32: "a power of two from 16KiB to 128MiB",
    |text| {
        let bytes = parse_size(text).map_err(no_reason)?;
        u32::try_from(bytes).ok().filter(|&bytes| crate::model::is_piece_length(bytes)).ok_or_else(String::new)
    },
    |bytes| write_size((*bytes).into())
);
format_of!(
    /// A positive duration. A bare number is in seconds.
    Time -> Duration: "a time such as 10m, 1h 30m or a number of seconds",
    |text| match parse_time(text).map_err(no_reason)? {
        Duration::ZERO => Err("it must be more than zero".to_owned()),
        // A century. Longer durations overflow the clocks to which they are added.
        time if time > Duration::from_secs(100 * 366 * 86400) => Err("it is too long".to_owned()),
        time => Ok(time),
    },
    |time| humantime::format_duration(*time).to_string()
);
format_of!(
    /// A directory: an absolute path, or a path with `~`, which [`super::load`] replaces by the home directory.
    Directory -> PathBuf: "an absolute path or one that starts with ~/",
    |text| {
        let rooted = text.starts_with('/') || text == "~" || text.starts_with("~/");
        if rooted { Ok(PathBuf::from(text)) } else { Err(String::new()) }
    },
    |path| path.display().to_string()
);
format_of!(
    /// An address of this machine.
    Address -> IpAddr: "an IP address", |text| text.parse().map_err(no_reason)
);
format_of!(
    /// An address and a port of this machine. The port may be 0.
    ListenAddress -> SocketAddr: "an address and port such as 127.0.0.1:8910",
    |text| listen_address(text).ok_or_else(String::new)
);
/// A token that clients must send. It is never printed.
#[derive(Debug)]
pub enum AccessToken {}

impl Format for AccessToken {
    type Value = Token;

    const IS_SECRET: bool = true;

    fn allowed() -> String {
        "a token of printable characters without spaces".to_owned()
    }

    fn parse(text: &str) -> Result<Token, String> {
        Token::new(text).map_err(no_reason)
    }

    fn write(_: &Token) -> String {
        "(set)".to_owned()
    }
}

format_of!(
    /// The address of a proxy.
    ProxyAddress -> Proxy: "a proxy such as socks5://host:1080 or http://user:password@host:3128",
    |text| Proxy::from_str(text).map_err(reason)
);
format_of!(
    /// A node of the DHT.
    BootstrapNode -> HostPort: "HOST:PORT", |text| text.parse().map_err(no_reason)
);
format_of!(
    /// A host name or an IP address.
    AnyHost -> Host: "a host name or an IP address, without port",
    |text| match text.parse() {
        Ok(ip) => Ok(Host::Ipv6(ip)),
        Err(_) => Host::parse(text).map_err(no_reason),
    }
);
format_of!(
    /// A tracker.
    Tracker -> Url: "a tracker address such as udp://host:port or https://host/announce",
    |text| address(text, &["udp", "http", "https"])
);
format_of!(
    /// The address of a hub. An address with a user is refused, because tokens belong in `HF_TOKEN`.
    Endpoint -> Url: "an address such as https://huggingface.co",
    |text| {
        let url = address(text.trim_end_matches('/'), &["http", "https"])?;
        let bare = url.query().is_none() && url.fragment().is_none();
        let open = url.username().is_empty() && url.password().is_none();
        if bare && open { Ok(url) } else { Err(String::new()) }
    },
    |url| url.as_str().trim_end_matches('/').to_owned()
);
/// A glob for the name of an organisation or of a model, or for both: `org/name`. It ignores case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(Glob);

impl NamePattern {
    /// The compiled glob.
    pub fn glob(&self) -> &Glob {
        &self.0
    }
}

impl FromStr for NamePattern {
    /// The reason. It is empty for a text with an empty name, or with more than one slash.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.split('/').any(str::is_empty) || text.matches('/').count() > 1 {
            return Err(String::new());
        }
        let mut glob = GlobBuilder::new(text);
        glob.case_insensitive(true).literal_separator(true).build().map(Self).map_err(reason)
    }
}

format_of!(
    /// A pattern of names.
    Pattern -> NamePattern: "a pattern of names such as lib64, *.so or org/name*", str::parse,
    |pattern| pattern.0.glob().to_owned()
);

choice!(
    /// Whether uTP is used.
    Utp: "auto, on or off" {
        /// Never, until the known faults of the engine's uTP are patched.
        Auto = "auto",
        /// Always.
        On = "on" | "true" | "yes",
        /// Never.
        Off = "off" | "false" | "no",
    }
);
choice!(
    /// Whether connections to peers are encrypted.
    Encryption: "prefer, require or off" {
        /// Both kinds, encrypted first.
        Prefer = "prefer",
        /// Only encrypted connections.
        Require = "require",
        /// Only plain connections.
        Off = "off" | "false" | "no",
    }
);
choice!(
    /// Which publishers are accepted.
    TrustPolicy: "tofu or strict" {
        /// The first publisher accepted for a name is pinned.
        Tofu = "tofu",
        /// Only listed publishers.
        Strict = "strict",
    }
);
choice!(
    /// Which names `ls` of the mount lists.
    Show: "all, pinned or local" {
        /// All known names.
        All = "all",
        /// Names that belong to a publisher.
        Pinned = "pinned",
        /// Names of models with cached or complete files.
        Local = "local",
    }
);

/// A size that may be a share of the disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SizeOrPercent {
    /// Bytes.
    Bytes(u64),
    /// Per cent of the file system of the cache.
    Percent(f64),
}

format_of!(
    /// A size that may be a share of the disk.
    Share -> SizeOrPercent: "a size such as 200GiB or a share of the disk such as 10%",
    |text| match text.strip_suffix('%') {
        None => parse_size(text).map(SizeOrPercent::Bytes).map_err(no_reason),
        Some(share) => {
            let share = share.trim().parse().ok().filter(|share| (0.0..=100.0).contains(share));
            share.map(SizeOrPercent::Percent).ok_or_else(String::new)
        }
    },
    |share| match share {
        SizeOrPercent::Bytes(bytes) => write_size(*bytes),
        SizeOrPercent::Percent(share) => format!("{share}%"),
    }
);

/// Parses an IP address, or `localhost`, with a port.
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some((Ipv4Addr::LOCALHOST, port.parse::<u16>().ok()?).into()),
        None => text.parse().ok(),
    }
}

/// Formats a number of bytes in the largest binary unit in which it is a whole number.
fn write_size(bytes: u64) -> String {
    let units = ["", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = if bytes == 0 { 0 } else { (bytes.trailing_zeros() as usize / 10).min(units.len() - 1) };
    format!("{}{}", bytes >> (10 * unit), units[unit])
}

/// Parses a URL with one of these schemes and a host. A text that a URL parser would have to correct is refused.
fn address(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let odd = text.contains(|c: char| c.is_whitespace() || c.is_control());
    let has_host = text.split_once("://").is_some_and(|(_, rest)| !rest.starts_with(['/', '?', '#']));
    let url: Url = text.parse().map_err(no_reason)?;
    let fits = schemes.contains(&url.scheme()) && url.has_host() && has_host && !odd;
    if fits { Ok(url) } else { Err(String::new()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_round_trip<F: Format<Value: PartialEq + fmt::Debug>>(value: &F::Value) {
        let text = F::write(value);
        assert_eq!(F::parse(&text).as_ref(), Ok(value), "{text}");
    }

    proptest! {
        #[test]
        fn written_values_are_read_back(bytes: u64, share in 0.0..100.0, seconds in 1..3_000_000_000_u64, millis in 1..999_u64) {
            assert_round_trip::<Size>(&bytes);
            assert_round_trip::<Rate>(&bytes);
            assert_round_trip::<Share>(&SizeOrPercent::Bytes(bytes));
            assert_round_trip::<Share>(&SizeOrPercent::Percent(share));
            assert_round_trip::<Time>(&Duration::from_secs(seconds));
            assert_round_trip::<Time>(&Duration::from_millis(millis));
        }
    }

    #[test]
    fn tokens_are_not_written() {
        let token = AccessToken::parse("secret").unwrap();
        assert_eq!(AccessToken::write(&token), "(set)");
        assert!(AccessToken::parse("two words").is_err());
    }

    #[test]
    fn listen_addresses_have_an_address_and_a_port() {
        for (text, address) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("localhost:1", "127.0.0.1:1"), ("[::]:8910", "[::]:8910")]
        {
            assert_eq!(ListenAddress::parse(text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in ["8910", "127.0.0.1", "host.example:80", "localhost:", ":80"] {
            assert!(ListenAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_the_largest_whole_unit() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1023, "1023"),
            (1 << 10, "1KiB"),
            (3 << 29, "1536MiB"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(write_size(bytes), text);
        }
        assert_eq!(Rate::write(&(10 << 20)), "10MiB/s");
    }
}
