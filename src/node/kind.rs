//! The kinds of errors: one table with the exit code, the HTTP status and the hints of each.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

/// Declares the table: `/// Meaning` and `Kind: exit code, HTTP status, [hints];`
macro_rules! error_kinds {
    ($( $(#[$meta:meta])+ $kind:ident: $exit:literal, $status:ident, [$($hint:literal),*]; )+) => {
        /// The kind of an error, which decides its exit code and its help; the same on both sides of the control socket.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorKind { $( $(#[$meta])+ $kind, )+ }

        impl ErrorKind {
            /// All kinds.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The exit code of a command that fails with it: 1 not found, refused or no network, 2 wrong usage,
            /// 3 a fault of silmaril or of the system below it.
            pub fn exit_code(self) -> u8 {
                match self { $(Self::$kind => $exit,)+ }
            }

            /// The status of the response on the control socket.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)+ }
            }

            /// The remedies, each on a `help:` line.
            pub fn hints(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($hint),*],)+ }
            }
        }
    };
}

error_kinds! {
    /// Another process holds the base directory.
    Busy: 1, CONFLICT, [
        "`silmaril status` shows what it does, `silmaril stop` ends it",
        "`--home DIR` (or SILMARIL_HOME) gives a second one its own base directory"
    ];
    /// No such model.
    UnknownModel: 1, NOT_FOUND, [
        "`silmaril list` shows the known models; `silmaril registry import FILE` adds one from its manifest"
    ];
    /// The name belongs to another publisher.
    OtherPublisher: 1, CONFLICT, [
        "if you trust the new one instead, remove the former first: `silmaril trust remove ORG/NAME`"
    ];
    /// The publisher is not trusted.
    Untrusted: 1, CONFLICT, [
        "`silmaril trust add KEY` puts a publisher on the list; `security.trust: tofu` in the configuration accepts the first publisher of a name"
    ];
    /// The state is older than the known one of its publisher.
    Older: 1, CONFLICT, [
        "`--allow-older` accepts an older state, with `get --update` and `registry import`"
    ];
    /// Several publishers sign different models under the name.
    Ambiguous: 1, CONFLICT, [
        "choose one with `--publisher`, or list the one that you trust: `silmaril trust add KEY`"
    ];
    /// The manifest contradicts the hub.
    Refuted: 1, CONFLICT, [
        "`silmaril mirror` makes a manifest from the hub itself; `silmaril trust add KEY` or `--publisher KEY` accepts a publisher whatever the hub has"
    ];
    /// The text given names no publisher, or several.
    UnknownPublisher: 1, NOT_FOUND, [
        "a publisher is named by the whole key, by its alias, or, once it is known on this host, by its fingerprint"
    ];
    /// The network does not know the name.
    NotFound: 1, NOT_FOUND, [
        "`silmaril discover` shows the models that peers share; `--peer IP:PORT` names a host that may know it; `silmaril registry import FILE` adds it from its manifest"
    ];
    /// The machine has no network.
    NoNetwork: 1, SERVICE_UNAVAILABLE, [
        "connect this machine, or name a host that has the model with `--peer IP:PORT`"
    ];
    /// The command line has a mistake.
    Usage: 2, BAD_REQUEST, [];
    /// The configuration file has a mistake.
    Configuration: 2, BAD_REQUEST, [
        "`silmaril init --force` replaces the file by one with all defaults"
    ];
    /// The base directory cannot be used.
    BaseDirectory: 1, CONFLICT, [
        "`--home DIR` (or SILMARIL_HOME) chooses another base directory"
    ];
    /// The search has a mistake.
    Query: 2, BAD_REQUEST, [
        "`silmaril discover --help` shows what can be searched for"
    ];
    /// The catalog could not be opened.
    NoCatalog: 1, SERVICE_UNAVAILABLE, [
        "the log of the running silmaril has the reason"
    ];
    /// The port is in use.
    Listen: 1, INTERNAL_SERVER_ERROR, [
        "with `network.listen_port: 0` in the configuration a free port is used"
    ];
    /// The address of the endpoint cannot be used.
    EndpointPort: 1, INTERNAL_SERVER_ERROR, [
        "choose another address with `--listen ADDR:PORT` or `serve.listen`; port 0 is any free port"
    ];
    /// The endpoint would be open to other hosts.
    EndpointExposed: 2, BAD_REQUEST, [
        "set `serve.token` in the configuration, or pass `--open` to serve every host that reaches the address"
    ];
    /// Files do not match their manifest.
    Damaged: 1, INTERNAL_SERVER_ERROR, [
        "`silmaril get MODEL` fetches the damaged parts again"
    ];
    /// No data arrived in time.
    TimedOut: 1, GATEWAY_TIMEOUT, [
        "is anyone sharing it? `--peer IP:PORT` names a host that does; received data is kept"
    ];
    /// No bytes of the model are on this host.
    NothingHere: 1, NOT_FOUND, [
        "`silmaril get MODEL` gets it"
    ];
    /// The model must not be shared.
    Withheld: 1, CONFLICT, [
        "if you may pass it on, confirm that with `--i-have-the-right-to-share`; `--no-auto-share` mirrors without sharing"
    ];
    /// A link leads out of a directory to share.
    OutsideLink: 1, CONFLICT, [
        "put the file itself there, or pass `--follow-links` to share the targets of such links; each target is listed first"
    ];
    /// The model is the user's own directory, which no command deletes.
    Unshared: 1, CONFLICT, [
        "delete them yourself if they are not needed, or share them: `silmaril share MODEL`"
    ];
    /// A directory to share has unfinished downloads.
    Unfinished: 1, CONFLICT, [
        "let the program finish the download, then share again; delete these files where the download has ended"
    ];
    /// The licence of a model to share is not known.
    NoLicence: 1, CONFLICT, [
        "name its licence: `--license ID`, such as `--license apache-2.0`"
    ];
    /// Files of a model to share are cut or missing.
    Incomplete: 1, CONFLICT, [
        "download or copy these files again; an index of files that are not wanted has to leave the directory"
    ];
    /// A file system has too little space.
    Space: 1, CONFLICT, [
        "free some space there, name another directory, or change cache.min_free or cache.max_size"
    ];
    /// A hybrid torrent cannot hold a file of this name.
    Padding: 1, CONFLICT, [
        "rename it, or share without `--hybrid`"
    ];
    /// Another user can write to the directory that receives the files.
    Staging: 1, CONFLICT, [
        "remove that file, or choose another destination with `-o DIR`"
    ];
    /// The text given names no repository.
    Repository: 2, BAD_REQUEST, [];
    /// A repository wants its conditions accepted first.
    Gated: 1, FORBIDDEN, [
        "accept them on that page, then give that account's token in HF_TOKEN, or store it with `hf auth login`"
    ];
    /// A repository wants a credential, or another one.
    Unauthorised: 1, FORBIDDEN, [
        "for the hub, a token in HF_TOKEN or stored with `hf auth login`; for a git server, https://USER:PASSWORD@… or a credential helper of git"
    ];
    /// A repository's server fails, or refuses more requests now.
    Interrupted: 1, BAD_GATEWAY, [
        "run the command again later: received data is kept"
    ];
    /// A link leads to a host with a private address that the configuration does not allow.
    PrivateHost: 1, INTERNAL_SERVER_ERROR, [
        "if the host is yours, add it to `network.allow_private_hosts` in the configuration"
    ];
    /// The control socket fails.
    Control: 1, INTERNAL_SERVER_ERROR, [
        "if that process is stuck, end it with `kill`, then try again"
    ];
    /// The base directory belongs to another user.
    OtherUser: 1, INTERNAL_SERVER_ERROR, [
        "`--home DIR` (or SILMARIL_HOME) chooses a base directory of your own"
    ];
    /// The node is of another version.
    OtherVersion: 1, INTERNAL_SERVER_ERROR, [
        "use that version, or end its daemon with `silmaril stop` and run the command again"
    ];
    /// The node is stopping, or has ended.
    HostLost: 1, SERVICE_UNAVAILABLE, [
        "run the command again"
    ];
    /// The user has stopped the node.
    Stopped: 1, SERVICE_UNAVAILABLE, [
        "run the command again"
    ];
    /// The base directory is on a network file system.
    NetworkDisk: 1, CONFLICT, [
        "choose one on a local disk with SILMARIL_HOME or `silmaril init --path DIR`; `models_dir` may stay on the network"
    ];
    /// The disk is full or read-only.
    Disk: 3, INTERNAL_SERVER_ERROR, [
        "free space on that disk or make it writable, or use a directory on another disk"
    ];
    /// A fault of silmaril or of the system below it.
    Internal: 3, INTERNAL_SERVER_ERROR, [];
    /// Any other error: not found, refused, or the network failed.
    #[serde(other)]
    Failed: 1, BAD_REQUEST, [];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_control_socket() {
        for &kind in ErrorKind::ALL {
            let sent = serde_json::to_string(&kind).unwrap();
            assert_eq!(serde_json::from_str::<ErrorKind>(&sent).unwrap(), kind);
            let status = kind.status();
            assert!(status.is_client_error() || status.is_server_error(), "{kind:?}");
        }
        assert_eq!(serde_json::from_str::<ErrorKind>("\"of_a_later_version\"").unwrap(), ErrorKind::Failed);
    }

    #[test]
    fn exit_code_3_is_an_internal_fault() {
        for &kind in ErrorKind::ALL {
            assert!((1..=3).contains(&kind.exit_code()), "{kind:?}");
            let is_fault = matches!(kind, ErrorKind::Internal | ErrorKind::Disk);
            assert_eq!(kind.exit_code() == 3, is_fault, "{kind:?}");
        }
    }
}
