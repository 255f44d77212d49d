//! The effective configuration as one line, for the log.

use std::fmt;

use super::{Config, Encryption, Proxy, Show, SizeOrPercent, TrustPolicy, Utp};
use humantime::format_duration;

impl fmt::Display for Utp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for TrustPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tofu => "tofu",
            Self::Strict => "strict",
        })
    }
}

impl fmt::Display for Show {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Pinned => "pinned",
            Self::Local => "local",
        })
    }
}

impl fmt::Display for SizeOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

/// One line of `section.key=value`, the proxy's password left out.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { storage, network, torrent, security, mount, cache, hub } = self;
        write!(f, "storage.base_dir={}", storage.base_dir.display())?;
        write!(f, " storage.models_dir={}", storage.models_dir.display())?;
        write!(f, " network.max_connections={}", network.max_connections)?;
        write!(f, " network.upload_rate_limit={}", network.upload_rate_limit)?;
        write!(f, " network.download_rate_limit={}", network.download_rate_limit)?;
        write!(f, " network.dht_enabled={} network.dht_port={}", network.dht_enabled, network.dht_port)?;
        write!(f, " network.listen_port={}", network.listen_port)?;
        match network.listen_address {
            Some(address) => write!(f, " network.listen_address={address}")?,
            None => write!(f, " network.listen_address=any")?,
        }
        write!(f, " network.dht_bootstrap_nodes={}", network.dht_bootstrap_nodes.join(","))?;
        write!(f, " network.trackers={}", network.trackers.join(","))?;
        write!(f, " network.announce={} network.lan_discovery={}", network.announce, network.lan_discovery)?;
        write!(f, " network.port_mapping={}", network.port_mapping)?;
        write!(f, " network.utp={} network.encryption={}", network.utp, network.encryption)?;
        match network.proxy.as_deref().map(str::parse::<Proxy>) {
            Some(Ok(proxy)) => write!(f, " network.proxy={proxy}")?,
            Some(Err(_)) => write!(f, " network.proxy=?")?,
            None => write!(f, " network.proxy=none")?,
        }
        let hosts: Vec<_> = network.allow_private_hosts.iter().map(ToString::to_string).collect();
        write!(f, " network.allow_private_hosts={}", hosts.join(","))?;
        write!(f, " torrent.piece_length={}", torrent.piece_length)?;
        write!(f, " torrent.download_timeout={}", format_duration(torrent.download_timeout))?;
        write!(f, " security.verify_checksums={}", security.verify_checksums)?;
        write!(f, " security.sign_manifests={} security.trust={}", security.sign_manifests, security.trust)?;
        write!(f, " mount.read_timeout={}", format_duration(mount.read_timeout))?;
        write!(f, " mount.resolve_timeout={}", format_duration(mount.resolve_timeout))?;
        write!(f, " mount.never_resolve={}", mount.never_resolve.join(","))?;
        write!(f, " mount.max_lookups={}", mount.max_lookups)?;
        write!(f, " mount.readahead_max={} mount.show={}", mount.readahead_max, mount.show)?;
        write!(f, " cache.max_size={} cache.min_free={}", cache.max_size, cache.min_free)?;
        write!(f, " hub.endpoint={} hub.fallback={}", hub.endpoint, hub.fallback)
    }
}
