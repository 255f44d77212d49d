//! The errors of single requests: `get`, `share`, `warm` and `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::model::ModelRef;
use crate::model::license::LicenseError;
use crate::model::names::NameError;

/// The reason why the files of a `get` cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No file matches the patterns.
    #[error("no file of {0} matches --include and --exclude")]
    NoMatch(ModelRef),
    /// A pattern is invalid.
    #[error("--include or --exclude: {0}")]
    Glob(#[from] globset::Error),
}

/// The reason why a directory cannot be shared with the options of a request.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The directory is inside a silmaril mount.
    #[error(
        "{dir} is inside the silmaril mount {mount}, which shares what it reads by itself",
        dir = dir.display(),
        mount = mount.display()
    )]
    InsideMount {
        /// The directory.
        dir: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
    /// The licence is invalid.
    #[error(transparent)]
    Licence(LicenseError),
    /// A web seed is the address of one file, and the model has several.
    #[error(
        "{seed} is the address of one file, and the model has {files}; the address of a directory ends in /"
    )]
    WebSeedOfFile {
        /// The address.
        seed: String,
        /// Number of files of the model.
        files: usize,
    },
    /// The request has more web seeds than a manifest may contain.
    #[error("at most {0} --web-seed can be given")]
    TooManyWebSeeds(usize),
}

/// The reason why a path cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// The path is too short for a model.
    #[error("{0} is not a model or a file of one")]
    NotAModel(String),
    /// The path contains no valid name of a model.
    #[error("{path}: {source}")]
    Name {
        /// The path.
        path: String,
        /// The reason.
        source: NameError,
    },
    /// The model has no file at or below the path.
    #[error("{model} has no file {path}")]
    NoFile {
        /// The model.
        model: ModelRef,
        /// The path inside the model.
        path: String,
    },
}

/// The reason why an endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The system refused the address.
    #[error("cannot listen on {address}: {}", listen_reason(error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system, which the message has already.
        error: std::io::Error,
    },
    /// Other hosts would reach the endpoint without a token.
    #[error("other hosts reach {0}, so it needs a token")]
    Exposed(SocketAddr),
}

fn listen_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program uses the port".to_owned(),
        _ => error.to_string(),
    }
}
