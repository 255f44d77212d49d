//! `registry`: imports and exports manifests.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{count, size};
use crate::cli::list;
use crate::cli::session::with_daemon;
use crate::fsutil;
use crate::model::magnet::is_magnet;
use crate::model::metainfo::MAX_METAINFO;
use crate::model::{Manifest, ModelRef, text};
use crate::node::control::DaemonClient;
use crate::node::import::{ImportRequest, Imported};
use crate::node::{NodeError, export};
use crate::paths::Paths;
use crate::trust::Trust;

/// Largest manifest or torrent that is accepted, in bytes.
const MAX_FILE: u64 = MAX_METAINFO as u64;

const EXAMPLES: &str = "\
Examples:
  silmaril registry export acme/minilm > minilm.json    on the host that shares it
  silmaril registry import minilm.json                  on another host
  silmaril registry export acme/minilm --torrent minilm.torrent      for other BitTorrent clients
  silmaril registry import model.torrent --name acme/other
  silmaril registry import 7d0f…c5/acme/minilm          from the network, by its publisher's key
  silmaril registry import 'magnet:?xt=urn:btmh:1220...' --name acme/other
  silmaril registry list";

/// Import and export manifests: the signed descriptions of models
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum RegistryCommand {
    /// Add a model from its manifest or a torrent; its files are not downloaded yet
    Import(Import),
    /// Write the manifest of a model for other hosts, or its torrent for other BitTorrent clients
    Export(Export),
    /// List the known models
    List(list::Args),
}

#[derive(Debug, clap::Args)]
pub struct Import {
    /// A manifest (JSON or YAML), a .torrent, a magnet link, or a publisher's key or alias with the name of one of its
    /// models, as KEY/ORG/NAME or KEY/ORG/NAME@REVISION; `-` is standard input
    #[arg(value_name = "FILE|MAGNET|KEY/MODEL")]
    source: String,
    /// The name for the model of a torrent, as ORG/NAME or ORG/NAME@REVISION
    #[arg(long, value_name = "MODEL")]
    name: Option<ModelRef>,
    /// Accept a manifest that is older than the known one of its publisher
    #[arg(long)]
    allow_older: bool,
    /// A host to ask if the import needs the network; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
}

#[derive(Debug, clap::Args)]
pub struct Export {
    /// The model, as ORG/NAME or ORG/NAME@REVISION
    model: ModelRef,
    /// File to write the manifest to [default: standard output]
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["torrent", "magnet"])]
    output: Option<PathBuf>,
    /// Write the .torrent file instead; `-` is standard output
    ///
    /// If the model was shared from this host with `share --hybrid`, this is the hybrid torrent, which clients of BitTorrent
    /// v1 and v2 can join. Otherwise it is the v2 torrent.
    #[arg(long, value_name = "FILE")]
    torrent: Option<PathBuf>,
    /// Print the magnet link of the same torrent instead
    #[arg(long)]
    magnet: bool,
    /// With --torrent or --magnet: the v2 torrent, even if there is a hybrid one
    #[arg(long)]
    v2_only: bool,
}

pub fn run(command: &RegistryCommand, context: &Context) -> Result<(), CommandError> {
    match command {
        RegistryCommand::Import(args) => import(args, context),
        RegistryCommand::Export(args) => export(args, context),
        RegistryCommand::List(args) => list::run(args, context),
    }
}

fn import(import: &Import, context: &Context) -> Result<(), CommandError> {
    let (source, name) = (import.source.as_str(), import.name.as_ref());
    if is_magnet(source) {
        let (link, name, peers) = (source.to_owned(), name.cloned(), import.peers.clone());
        return import_from_network(ImportRequest::Magnet { link, name, peers }, ASKING_SWARM, context);
    }
    if let Some((publisher, model)) = parse_publisher_and_model(source, |path| path.exists()) {
        if name.is_some() {
            return Err(CommandError::usage(
                "--name is for torrents; the manifest has the name of the model",
            ));
        }
        let activity = format!("looking for {model}");
        let peers = import.peers.clone();
        let allow_older = import.allow_older;
        return import_from_network(
            ImportRequest::Of { publisher, model, peers, allow_older },
            &activity,
            context,
        );
    }
    let bytes = read_source(source)?;
    let library = context.library()?;
    let origin = if source == "-" { "standard input" } else { source };
    let manifest = match library.import(&bytes, origin, name, import.allow_older)? {
        Imported::Stored(manifest) => manifest,
        Imported::Legacy(_) => {
            drop(library);
            let text = String::from_utf8(bytes)
                .map_err(|_| CommandError::failed(format!("{origin} is not UTF-8 text")))?;
            let (origin, peers) = (origin.to_owned(), import.peers.clone());
            let request = ImportRequest::Legacy { text, origin, peers };
            return import_from_network(request, ASKING_SWARM, context);
        }
    };
    reload_daemon(&context.config()?.paths(), context)?;
    print_imported(&manifest, context)
}

/// Activity while the metadata of a torrent is fetched.
const ASKING_SWARM: &str = "asking the swarm for its metadata";

/// Parses KEY/ORG/NAME. None if a file has this name.
fn parse_publisher_and_model(text: &str, exists: impl Fn(&Path) -> bool) -> Option<(String, ModelRef)> {
    let (publisher, model) = text.split_once('/')?;
    let model: ModelRef = model.parse().ok()?;
    let like_a_path = publisher.is_empty() || publisher.starts_with(['.', '~']);
    // `datasets/ORG/NAME` is the name of a dataset: treat it as a file, whose absence is then reported.
    let is_dataset = publisher.eq_ignore_ascii_case("datasets");
    (!like_a_path && !is_dataset && !exists(Path::new(text))).then(|| (publisher.to_owned(), model))
}

/// Has the daemon run an import that needs the network.
fn import_from_network(
    request: ImportRequest,
    activity: &str,
    context: &Context,
) -> Result<(), CommandError> {
    let manifest = with_daemon(context, async |daemon, signals| {
        let _line = context.out.activity(activity);
        signals.unless(async { Ok(daemon.client.import(&request).await?) }).await
    })?;
    print_imported(&manifest, context)
}

/// Makes a running daemon and its mounts show the changed files of the registry or of `trust.yaml` immediately. A daemon
/// that is ending is ignored: the next one reads the files at its start.
pub(in crate::cli) fn reload_daemon(paths: &Paths, context: &Context) -> Result<(), CommandError> {
    context.block_on(async {
        if let Some(client) = DaemonClient::connect(paths).await? {
            match client.reload().await {
                Ok(()) | Err(NodeError::HostLost) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    })
}

fn print_imported(manifest: &Manifest, context: &Context) -> Result<(), CommandError> {
    let by = match manifest.publisher {
        Some(key) => {
            let config = context.config()?;
            format!("signed by {}", Trust::open(&config.paths(), config.security.trust).describe(&key))
        }
        None => "unsigned".to_owned(),
    };
    context.out.line(format_args!(
        "imported {} ({}, {}, {by})",
        manifest.model_ref(),
        count(manifest.files.len() as u64, "file"),
        size(manifest.total_size)
    ))
}

fn read_source(source: &str) -> Result<Vec<u8>, CommandError> {
    let path = Path::new(source);
    if source == "-" {
        let mut bytes = Vec::new();
        let stdin = std::io::stdin().lock();
        stdin.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| CommandError::io(path, e))?;
        return within_limit(bytes, path);
    }
    let file = File::open(path).map_err(|e| CommandError::io(path, e))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| CommandError::io(path, e))?;
    within_limit(bytes, path)
}

fn within_limit(bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>, CommandError> {
    if bytes.len() as u64 > MAX_FILE {
        let limit = size(MAX_FILE);
        return Err(CommandError::failed(format!(
            "{} has more than {limit}, the limit for manifests and torrents",
            path.display()
        )));
    }
    Ok(bytes)
}

fn export(args: &Export, context: &Context) -> Result<(), CommandError> {
    let library = context.library()?;
    if args.torrent.is_none() && !args.magnet {
        if args.v2_only {
            return Err(CommandError::usage("--v2-only is for --torrent and --magnet"));
        }
        let manifest = library.manifest(&args.model)?;
        // The text of a manifest comes from its publisher and may be printed on a terminal.
        let json = manifest.to_json();
        let text = text::escape_json(&String::from_utf8_lossy(&json)).into_bytes();
        return write(&text, args.output.as_deref(), context);
    }
    let torrent = export::torrent(&library, &args.model, args.v2_only)?;
    if let Some(file) = &args.torrent {
        write(
            &torrent.metainfo,
            Some(file).filter(|file| *file != Path::new("-")).map(PathBuf::as_path),
            context,
        )?;
    }
    if args.magnet { context.out.line(torrent.magnet) } else { Ok(()) }
}

/// Writes to a file, or to standard output if `file` is none.
fn write(bytes: &[u8], file: Option<&Path>, context: &Context) -> Result<(), CommandError> {
    let Some(path) = file else { return context.out.bytes(bytes) };
    fsutil::write_atomic(path, bytes, 0o644).map_err(|e| CommandError::io(path, e))?;
    context.out.note(format_args!("wrote {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_not_taken_for_a_publisher() {
        let of = |text: &str| parse_publisher_and_model(text, |path| path == Path::new("my/dir/m.json"));
        let key = "ab".repeat(32);
        let found = |publisher: &str, model: &str| Some((publisher.to_owned(), model.parse().unwrap()));
        assert_eq!(of(&format!("{key}/acme/m@v1")), found(&key, "acme/m@v1"));
        assert_eq!(of("alice/datasets/acme/d"), found("alice", "datasets/acme/d"));
        for file in
            ["m.json", "dir/m.json", "./a/m.json", "/srv/a/m", "../a/b", "my/dir/m.json", "datasets/a/b", "-"]
        {
            assert_eq!(of(file), None, "{file}");
        }
    }
}
