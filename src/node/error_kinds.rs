//! The kind of each error of the node.

use super::ErrorKind;
use super::error::NodeError;
use super::request_errors::{EndpointError, GetError, ShareError};
use crate::catalog::CatalogError;
use crate::fetch::ReadError;
use crate::fsutil::is_full_or_read_only;
use crate::mirror::{MirrorError, MirrorErrorKind};
use crate::model::ManifestError;
use crate::model::describe::DescribeError;
use crate::model::files::FilesError;
use crate::model::scan::ScanError;
use crate::mount::MountError;
use crate::store::StoreError;
use crate::torrent::EngineError;
use crate::trust::TrustError;

impl NodeError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        if is_disk_failure(self) || matches!(self, Self::Trust(error) if error.is_full_or_read_only()) {
            return ErrorKind::Disk;
        }
        match self {
            Self::Busy { .. } => ErrorKind::Busy,
            Self::UnknownModel(_) => ErrorKind::UnknownModel,
            Self::Restricted(_) => ErrorKind::Unauthorised,
            Self::Unshared { .. } => ErrorKind::Unshared,
            Self::Trust(TrustError::OtherPublisher { .. } | TrustError::Pinned { .. }) => {
                ErrorKind::OtherPublisher
            }
            Self::Trust(TrustError::Untrusted { .. }) => ErrorKind::Untrusted,
            Self::Older { .. } => ErrorKind::Older,
            Self::Trust(TrustError::Ambiguous { .. }) => ErrorKind::Ambiguous,
            Self::Trust(
                TrustError::UnknownPublisher(_)
                | TrustError::AmbiguousPublisher { .. }
                | TrustError::TooShort { .. },
            ) => ErrorKind::UnknownPublisher,
            Self::Trust(
                TrustError::Replaced { .. }
                | TrustError::NotOffered { .. }
                | TrustError::Unpublished(_)
                | TrustError::NotListed(_)
                | TrustError::NotPinned(_)
                | TrustError::AliasTaken { .. }
                | TrustError::FormerKey { .. }
                | TrustError::Full
                | TrustError::File { .. },
            ) => ErrorKind::Failed,
            Self::Catalog(CatalogError::NotFound(_)) => ErrorKind::NotFound,
            Self::Catalog(CatalogError::NoManifest { .. }) => ErrorKind::TimedOut,
            Self::Catalog(CatalogError::Stopped) => ErrorKind::HostLost,
            Self::Catalog(CatalogError::Store(_)) => ErrorKind::Failed,
            Self::Query(_) => ErrorKind::Query,
            Self::NoNetwork { .. } => ErrorKind::NoNetwork,
            Self::NoCatalog => ErrorKind::NoCatalog,
            Self::Engine(EngineError::Listen { .. }) => ErrorKind::Listen,
            Self::Engine(EngineError::BadTorrent(_) | EngineError::BadItem(_)) => ErrorKind::Failed,
            Self::Engine(
                EngineError::UnknownTorrent
                | EngineError::MessageTooLong(_)
                | EngineError::Busy
                | EngineError::Internal(_),
            ) => ErrorKind::Internal,
            Self::Fetch { source: ReadError::TimedOut(_), .. } => ErrorKind::TimedOut,
            Self::Fetch { source: ReadError::Stopped, .. } => ErrorKind::HostLost,
            Self::Fetch { source: ReadError::Denied(_), .. } => ErrorKind::Unauthorised,
            Self::Fetch { source: ReadError::NoSpace, .. } => ErrorKind::Space,
            Self::Fetch { source: ReadError::Disk(_, kind), .. } if is_full_or_read_only(*kind) => {
                ErrorKind::Disk
            }
            Self::Fetch { source: ReadError::Left | ReadError::Disk(..) | ReadError::Broken(_), .. } => {
                ErrorKind::Failed
            }
            Self::Refuted { .. } => ErrorKind::Refuted,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::NothingHere(_) => ErrorKind::NothingHere,
            Self::Withheld { .. } => ErrorKind::Withheld,
            Self::Mirror(MirrorError::NoSpace { .. }) => ErrorKind::Space,
            Self::Mirror(error) => match error.kind() {
                MirrorErrorKind::Usage => ErrorKind::Repository,
                MirrorErrorKind::Gated => ErrorKind::Gated,
                MirrorErrorKind::Unauthorised => ErrorKind::Unauthorised,
                MirrorErrorKind::RateLimited | MirrorErrorKind::Network => ErrorKind::Interrupted,
                MirrorErrorKind::PrivateHost => ErrorKind::PrivateHost,
                MirrorErrorKind::NotFound
                | MirrorErrorKind::Damaged
                | MirrorErrorKind::Refused
                | MirrorErrorKind::Disk
                | MirrorErrorKind::Cancelled => ErrorKind::Failed,
            },
            Self::Describe(DescribeError::Scan(ScanError::Outside { .. })) => ErrorKind::OutsideLink,
            Self::Describe(DescribeError::Scan(ScanError::Unfinished { .. })) => ErrorKind::Unfinished,
            Self::Describe(DescribeError::NoLicense(_)) => ErrorKind::NoLicence,
            Self::Describe(DescribeError::Incomplete(_)) => ErrorKind::Incomplete,
            Self::Describe(DescribeError::Manifest(ManifestError::Files(FilesError::Padding(_)))) => {
                ErrorKind::Padding
            }
            Self::Store(StoreError::Staging { .. }) => ErrorKind::Staging,
            Self::Http(error) if error.is_private_host() => ErrorKind::PrivateHost,
            Self::Control { .. } => ErrorKind::Control,
            Self::OtherUser { .. } => ErrorKind::OtherUser,
            Self::OtherVersion { .. } => ErrorKind::OtherVersion,
            Self::HostLost => ErrorKind::HostLost,
            Self::Stopped => ErrorKind::Stopped,
            Self::Mount(MountError::Io { .. } | MountError::Timeout { .. }) | Self::Internal(_) => {
                ErrorKind::Internal
            }
            Self::NetworkDisk { .. } => ErrorKind::NetworkDisk,
            Self::Endpoint(EndpointError::Listen { .. }) => ErrorKind::EndpointPort,
            Self::Endpoint(EndpointError::Exposed(_)) => ErrorKind::EndpointExposed,
            Self::Usage(_)
            | Self::Get(GetError::Glob(_))
            | Self::Share(
                ShareError::Licence(_) | ShareError::WebSeedOfFile { .. } | ShareError::TooManyWebSeeds(_),
            ) => ErrorKind::Usage,
            Self::Remote { kind, .. } => *kind,
            Self::Io { .. }
            | Self::Key(_)
            | Self::Rotation(_)
            | Self::Describe(_)
            | Self::Store(_)
            | Self::Http(_)
            | Self::Refused { .. }
            | Self::InUse(_)
            | Self::Mount(_)
            | Self::Get(GetError::NoMatch(_))
            | Self::Share(ShareError::InsideMount { .. })
            | Self::Warm(_)
            | Self::Cancelled => ErrorKind::Failed,
            Self::Space { .. } => ErrorKind::Space,
            Self::Paths(_) => ErrorKind::BaseDirectory,
        }
    }
}

/// Whether an error is caused by a disk that is full or read-only.
pub fn is_disk_failure(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| is_full_or_read_only(error.kind()))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind as Io;

    use super::*;

    #[test]
    fn full_disk_during_the_work_is_a_failure_of_the_disk() {
        let mirror = |source: Option<Io>| {
            let source = source.map(Into::into);
            NodeError::Mirror(MirrorError::NoSpace { path: "/m".into(), needed: 1, free: 0, source })
        };
        let fetch = |kind| NodeError::Fetch {
            model: "o/m".parse().unwrap(),
            source: ReadError::Disk("/m/w.bin: it failed".to_owned(), kind),
        };
        for error in [mirror(Some(Io::StorageFull)), fetch(Io::StorageFull), fetch(Io::ReadOnlyFilesystem)] {
            assert_eq!(error.kind(), ErrorKind::Disk, "{error}");
        }
        assert_eq!(mirror(None).kind(), ErrorKind::Space, "nothing was written");
        assert_eq!(fetch(Io::UnexpectedEof).kind(), ErrorKind::Failed);
    }
}
