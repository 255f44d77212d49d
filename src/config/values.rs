//! The values of the configuration file: each is parsed and checked where it stands, so that an error carries
//! its line.
//!
//! Every type here accepts a YAML string, number or boolean and parses its text, so `"4"` and `4` are the same.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Visitor};

use super::{Encryption, Show, SizeOrPercent, TrustPolicy, Utp};
use crate::config::proxy::Proxy;
use crate::model::text::{parse_size, parse_time};

/// Reads a scalar of any YAML type as text and parses it.
struct Scalar<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text.trim()).map_err(|why| {
            let shown: String = text.chars().take(80).collect();
            if why.is_empty() {
                E::custom(format_args!("{shown:?} is not {}", self.expected))
            } else {
                E::custom(format_args!("{shown:?} is not {}: {why}", self.expected))
            }
        })
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> Result<T, E> {
        self.visit_str(if b { "true" } else { "false" })
    }
}

macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident($type:ty), $expected:literal, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub(super) $type);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(Scalar { expected: $expected, parse: $parse }).map(Self)
            }
        }
    };
}

fn plain(_: impl fmt::Display) -> String {
    String::new()
}

scalar!(
    /// A switch; the words of YAML 1.1 are accepted too.
    Flag(bool), "true or false", |s| match s.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(String::new()),
    }
);
scalar!(Port(u16), "a port from 0 to 65535", |s| s.parse().map_err(plain));
scalar!(Connections(u32), "a number from 1 to 65535", |s| {
    s.parse().ok().filter(|n| (1..=65535).contains(n)).ok_or_else(String::new)
});
scalar!(
    /// A size in bytes.
    Size(u64), "a size such as 4194304, 4MiB or 4MB", |s| parse_size(s).map_err(plain)
);
scalar!(
    /// Bytes per second.
    Rate(u64), "a rate in bytes per second such as 0, 500KB or 10MiB/s", |s| {
        parse_size(s.strip_suffix("/s").unwrap_or(s)).map_err(plain)
    }
);
scalar!(Lookups(u32), "a number from 1 to 10000", |s| {
    s.parse().ok().filter(|n| (1..=10_000).contains(n)).ok_or_else(String::new)
});
scalar!(
    /// A glob of one component of a path.
    NamePattern(String), "a pattern of names such as lib64 or *.so", |s| {
        match globset::Glob::new(s) {
            Ok(_) if s.is_empty() || s.contains('/') => Err(String::new()),
            Ok(_) => Ok(s.to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }
);
scalar!(PieceLength(u32), "a power of two from 16KiB to 128MiB", |s| {
    let n = parse_size(s).map_err(plain)?;
    u32::try_from(n).ok().filter(|&n| crate::model::is_piece_length(n)).ok_or_else(String::new)
});
scalar!(Window(u64), "a size from 0 to 4GiB such as 32MiB", |s| {
    parse_size(s).ok().filter(|&n| n <= 4 << 30).ok_or_else(String::new)
});
scalar!(MaxSize(SizeOrPercent), "a size such as 200GiB or a share of the disk such as 10%", |s| {
    match s.strip_suffix('%') {
        Some(share) => (share.trim().parse::<f64>().ok())
            .filter(|p| (0.0..=100.0).contains(p))
            .map(SizeOrPercent::Percent)
            .ok_or_else(String::new),
        None => parse_size(s).map(SizeOrPercent::Bytes).map_err(plain),
    }
});
scalar!(
    /// A positive time; a bare number is in seconds.
    Wait(Duration), "a time such as 10m, 1h 30m or a number of seconds", |s| {
        let time = parse_time(s).map_err(plain)?;
        // A century: longer waits overflow the clocks they are added to.
        match time {
            Duration::ZERO => Err("it must be more than zero".to_owned()),
            t if t > Duration::from_secs(100 * 366 * 86400) => Err("it is too long".to_owned()),
            t => Ok(t),
        }
    }
);
scalar!(UtpValue(Utp), "auto, on or off", |s| match s.to_ascii_lowercase().as_str() {
    "auto" => Ok(Utp::Auto),
    "on" | "true" | "yes" => Ok(Utp::On),
    "off" | "false" | "no" => Ok(Utp::Off),
    _ => Err(String::new()),
});
scalar!(EncryptionValue(Encryption), "prefer, require or off", |s| match s.to_ascii_lowercase().as_str() {
    "prefer" => Ok(Encryption::Prefer),
    "require" => Ok(Encryption::Require),
    "off" | "false" | "no" => Ok(Encryption::Off),
    _ => Err(String::new()),
});
scalar!(TrustValue(TrustPolicy), "tofu or strict", |s| match s {
    "tofu" => Ok(TrustPolicy::Tofu),
    "strict" => Ok(TrustPolicy::Strict),
    _ => Err(String::new()),
});
scalar!(ShowValue(Show), "all, pinned or local", |s| match s {
    "all" => Ok(Show::All),
    "pinned" => Ok(Show::Pinned),
    "local" => Ok(Show::Local),
    _ => Err(String::new()),
});
scalar!(
    /// An address of this machine; empty is any.
    ListenAddress(Option<IpAddr>), "an IP address, or empty for all interfaces", |s| {
        if s.is_empty() { Ok(None) } else { s.parse().map(Some).map_err(plain) }
    }
);
scalar!(
    /// A proxy; empty is none.
    ProxyValue(Option<String>), "a proxy address, or empty for none", |s| {
        if s.is_empty() {
            return Ok(None);
        }
        Proxy::from_str(s).map(|_| Some(s.to_owned())).map_err(|e| e.to_string())
    }
);
scalar!(
    /// `host:port`.
    HostPort(String), "HOST:PORT", |s| {
        let (host, port) = s.rsplit_once(':').ok_or_else(String::new)?;
        let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ', '@']),
        };
        match port.parse::<u16>() {
            Ok(1..) if host_ok => Ok(s.to_owned()),
            _ => Err(String::new()),
        }
    }
);
scalar!(Tracker(String), "a tracker address such as udp://host:port or https://host/announce", |s| {
    url(s, &["udp", "http", "https"])
});
scalar!(Endpoint(String), "an address such as https://huggingface.co", |s| {
    let text = url(s.trim_end_matches('/'), &["http", "https"])?;
    let parsed: url::Url = text.parse().map_err(|e| format!("{e}"))?;
    let plain = parsed.query().is_none() && parsed.fragment().is_none();
    // A token belongs into HF_TOKEN.
    let open = parsed.username().is_empty() && parsed.password().is_none();
    if plain && open && parsed.has_host() { Ok(text) } else { Err(String::new()) }
});

scalar!(
    /// A host name or an IP address, without port.
    PrivateHost(url::Host), "a host name or an IP address, without port", |s| {
        match s.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => Ok(url::Host::Ipv6(ip)),
            Err(_) => url::Host::parse(s).map_err(plain),
        }
    }
);

fn url(text: &str, schemes: &[&str]) -> Result<String, String> {
    let (scheme, rest) = text.split_once("://").ok_or_else(String::new)?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if !schemes.contains(&scheme)
        || host.is_empty()
        || text.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(String::new());
    }
    Ok(text.to_owned())
}

scalar!(
    /// A directory: absolute, or below the home directory with `~`. Kept as written until the home is known.
    Directory(String), "an absolute path or one that starts with ~/", |s| {
        if s.starts_with('/') || s == "~" || s.starts_with("~/") { Ok(s.to_owned()) } else { Err(String::new()) }
    }
);

impl Directory {
    /// The directory, with `~` replaced by `home`.
    pub(super) fn expand(&self, home: &std::path::Path) -> PathBuf {
        match self.0.strip_prefix('~') {
            Some(rest) => home.join(rest.trim_start_matches('/')),
            None => PathBuf::from(&self.0),
        }
    }
}
