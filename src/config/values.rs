//! The formats of values: what a key accepts, the typed value it becomes, and how that is written again.
//!
//! A value is read where it stands in the file, so that an error has its line. YAML strings, numbers and booleans are
//! all read as text: `"4"` and `4` are the same.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use globset::{Glob, GlobBuilder};
use serde::de::{Deserialize, Deserializer, Visitor};
use url::{Host, Url};

use super::address::{HostPort, Proxy};
use crate::model::text::{parse_size, parse_time};

/// The format of a value.
pub trait Format: Sized {
    /// The type that the program uses.
    type Value;

    /// What is accepted, as it follows "is not": `a port from 0 to 65535`.
    fn allowed() -> String;

    /// Reads a value. The error is a reason to add to [`Self::allowed`]; empty where that is enough.
    fn parse(text: &str) -> Result<Self::Value, String>;

    /// Writes a value as a file has it, without secrets.
    fn write(value: &Self::Value) -> String;

    /// Reads a value from a file.
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(Scalar::<Self>(PhantomData))
    }
}

/// A value that was read in the format `F`.
pub(super) struct Read<F: Format>(pub(super) F::Value);

impl<'de, F: Format> Deserialize<'de> for Read<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        F::deserialize(deserializer).map(Self)
    }
}

/// Reads a scalar of any YAML type as text.
struct Scalar<F>(PhantomData<F>);

impl<F: Format> Visitor<'_> for Scalar<F> {
    type Value = F::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&F::allowed())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<F::Value, E> {
        F::parse(text.trim()).map_err(|why| {
            let shown: String = text.chars().take(80).collect();
            let why = if why.is_empty() { why } else { format!(": {why}") };
            E::custom(format_args!("{shown:?} is not {}{why}", F::allowed()))
        })
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<F::Value, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<F::Value, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<F::Value, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> Result<F::Value, E> {
        self.visit_str(if b { "true" } else { "false" })
    }
}

fn no_reason(_: impl fmt::Display) -> String {
    String::new()
}

fn reason(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Defines a format: the type of its values, what is accepted, a parser, and a writer unless `Display` is one.
macro_rules! format_of {
    ($(#[$doc:meta])* $name:ident -> $value:ty: $allowed:expr, $parse:expr) => {
        format_of!($(#[$doc])* $name -> $value: $allowed, $parse, |value| value.to_string());
    };
    ($(#[$doc:meta])* $name:ident -> $value:ty: $allowed:expr, $parse:expr, $write:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl Format for $name {
            type Value = $value;

            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn parse(text: &str) -> Result<$value, String> {
                let parse: fn(&str) -> Result<$value, String> = $parse;
                parse(text)
            }

            fn write(value: &$value) -> String {
                let write: fn(&$value) -> String = $write;
                write(value)
            }
        }
    };
}

/// Defines an enum whose variants are the words that a key accepts, each with its synonyms.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident: $allowed:literal { $(
        $(#[$about:meta])* $variant:ident = $word:literal $(| $synonym:literal)*
    ),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$about])* $variant),+ }

        impl Format for $name {
            type Value = Self;

            fn allowed() -> String {
                $allowed.to_owned()
            }

            fn parse(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word $(| $synonym)* => Ok(Self::$variant),)+
                    _ => Err(String::new()),
                }
            }

            fn write(value: &Self) -> String {
                value.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
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

/// Values of one format.
#[derive(Debug)]
pub struct List<F>(PhantomData<F>);

impl<F: Format> Format for List<F> {
    type Value = Vec<F::Value>;

    fn allowed() -> String {
        format!("a list; each element is {}", F::allowed())
    }

    fn parse(text: &str) -> Result<Vec<F::Value>, String> {
        F::parse(text).map(|value| vec![value])
    }

    fn write(values: &Vec<F::Value>) -> String {
        format!(
            "[{}]",
            values.iter().map(|value| format!("{:?}", F::write(value))).collect::<Vec<_>>().join(", ")
        )
    }

    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<F::Value>, D::Error> {
        Ok(Vec::<Read<F>>::deserialize(deserializer)?.into_iter().map(|read| read.0).collect())
    }
}

/// A value that may be empty.
#[derive(Debug)]
pub struct Optional<F>(PhantomData<F>);

impl<F: Format> Format for Optional<F> {
    type Value = Option<F::Value>;

    fn allowed() -> String {
        format!("{}, or empty", F::allowed())
    }

    fn parse(text: &str) -> Result<Option<F::Value>, String> {
        if text.is_empty() { Ok(None) } else { F::parse(text).map(Some) }
    }

    fn write(value: &Option<F::Value>) -> String {
        value.as_ref().map_or_else(|| "\"\"".to_owned(), F::write)
    }
}

format_of!(
    /// A switch; the words of YAML 1.1 are accepted too.
    Flag -> bool: "true or false",
    |text| match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(String::new()),
    }
);
format_of!(
    /// A port; 0 has the meaning that the key gives it.
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
    /// Bytes that are fetched ahead of a reader.
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
    /// Bytes of a piece.
    PieceLength -> u32: "a power of two from 16KiB to 128MiB",
    |text| {
        let bytes = parse_size(text).map_err(no_reason)?;
        u32::try_from(bytes).ok().filter(|&bytes| crate::model::is_piece_length(bytes)).ok_or_else(String::new)
    },
    |bytes| write_size((*bytes).into())
);
format_of!(
    /// A positive time; a bare number is in seconds.
    Time -> Duration: "a time such as 10m, 1h 30m or a number of seconds",
    |text| match parse_time(text).map_err(no_reason)? {
        Duration::ZERO => Err("it must be more than zero".to_owned()),
        // A century: longer waits overflow the clocks they are added to.
        time if time > Duration::from_secs(100 * 366 * 86400) => Err("it is too long".to_owned()),
        time => Ok(time),
    },
    |time| humantime::format_duration(*time).to_string()
);
format_of!(
    /// A directory: absolute, or with `~` for the home directory, which [`super::load`] puts in.
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
    /// A hub. A token belongs into `HF_TOKEN`, so that an address with a user is refused.
    Endpoint -> Url: "an address such as https://huggingface.co",
    |text| {
        let url = address(text.trim_end_matches('/'), &["http", "https"])?;
        let bare = url.query().is_none() && url.fragment().is_none();
        let open = url.username().is_empty() && url.password().is_none();
        if bare && open { Ok(url) } else { Err(String::new()) }
    },
    |url| url.as_str().trim_end_matches('/').to_owned()
);
/// A glob of one component of a path, which matches upper and lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(Glob);

impl NamePattern {
    /// The compiled glob.
    pub fn glob(&self) -> &Glob {
        &self.0
    }
}

impl FromStr for NamePattern {
    /// The reason; empty for a text that is empty or several components.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('/') {
            return Err(String::new());
        }
        GlobBuilder::new(text).case_insensitive(true).build().map(Self).map_err(reason)
    }
}

format_of!(
    /// A pattern of names.
    Pattern -> NamePattern: "a pattern of names such as lib64 or *.so", str::parse,
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
    /// How strictly publishers are chosen.
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
        /// All that are known.
        All = "all",
        /// Those with a known publisher: the first to sign a name is pinned to it.
        Pinned = "pinned",
        /// Those with local bytes.
        Local = "local",
    }
);

/// A size that may be a share of the disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SizeOrPercent {
    /// Bytes.
    Bytes(u64),
    /// Per cent of the file system that holds the cache.
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

/// A number of bytes in the largest binary unit that keeps it a whole number.
fn write_size(bytes: u64) -> String {
    let units = ["", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = if bytes == 0 { 0 } else { (bytes.trailing_zeros() as usize / 10).min(units.len() - 1) };
    format!("{}{}", bytes >> (10 * unit), units[unit])
}

/// Reads a URL of one of these schemes that names a host. Anything that a URL parser would mend is refused.
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
    fn survives<F: Format<Value: PartialEq + fmt::Debug>>(value: &F::Value) {
        let text = F::write(value);
        assert_eq!(F::parse(&text).as_ref(), Ok(value), "{text}");
    }

    proptest! {
        #[test]
        fn written_values_are_read_back(bytes: u64, share in 0.0..100.0, seconds in 1..3_000_000_000_u64, millis in 1..999_u64) {
            survives::<Size>(&bytes);
            survives::<Rate>(&bytes);
            survives::<Share>(&SizeOrPercent::Bytes(bytes));
            survives::<Share>(&SizeOrPercent::Percent(share));
            survives::<Time>(&Duration::from_secs(seconds));
            survives::<Time>(&Duration::from_millis(millis));
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
