//! `warm`: fetches whole files into the cache before a program reads them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::connection::not_running;
use crate::cli::context::{Context, surroundings, token_if_usable};
use crate::cli::error::CommandError;
use crate::cli::format::{count, size};
use crate::cli::session::with_daemon;
use crate::cli::signals::StopSignals;
use crate::node::control::{DaemonClient, WarmRequest};
use crate::node::mounts::MountStatus;
use crate::node::{ErrorKind, NodeError, Surroundings};

/// Pause between two searches for a model that was not found.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Interval at which the progress is requested.
const ASK_EVERY: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  silmaril warm ~/models/acme/minilm                     a whole model
  silmaril warm ~/models/acme/minilm/model.safetensors   one file
  silmaril warm acme/minilm                              by name, from any directory
  silmaril warm --header-only acme/minilm                small files, and the headers of weights
  silmaril warm --wait acme/minilm                       for an init container: waits for the model to appear";

/// Fetch files of a mounted model before a program reads them
///
/// The daemon fetches the files; this command waits until they are in the cache.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files, directories or models: below the mount point, or by name
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Start the daemon if none runs, and repeat the search until each model is found and fetched
    #[arg(long)]
    wait: bool,
    /// Fetch only small files and the headers of weights (safetensors, GGUF)
    #[arg(long)]
    header_only: bool,
    /// Take the present commit of models that are read from the hub
    #[arg(long)]
    update: bool,
}

impl Args {
    /// The request for a path below a mount point.
    fn request(&self, path: String, resolve: bool, surroundings: &Surroundings) -> WarmRequest {
        let (header_only, update) = (self.header_only, self.update);
        WarmRequest { path, resolve, header_only, update, surroundings: surroundings.clone() }
    }
}

/// Has the daemon fetch the files, and waits.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if args.wait {
        return with_daemon(context, async |daemon, signals| {
            let mounts = signals.unless(async { Ok(daemon.client.status().await?) }).await?.mounts;
            let surroundings = surroundings(token_if_usable());
            for path in &args.paths {
                let (path, resolve) = below_mount(path, &mounts)?;
                let request = args.request(path, resolve, &surroundings);
                let warming = warm_when_found(context, &daemon.client, &request);
                let warmed = signals.unless(warming).await.map_err(CommandError::resumable)?;
                context.out.line(format_args!("{}: {warmed} cached", request.path))?;
            }
            Ok(())
        });
    }
    let config = context.config()?;
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let paths = config.paths();
        let (client, status) = DaemonClient::find(&paths).await?.ok_or_else(|| not_running(&paths))?;
        let wanted =
            args.paths.iter().map(|path| below_mount(path, &status.mounts)).collect::<Result<Vec<_>, _>>()?;
        let surroundings = surroundings(token_if_usable());
        for (path, resolve) in wanted {
            let request = args.request(path, resolve, &surroundings);
            let warming = async { Ok(warm_with_progress(context, &client, &request).await?) };
            let warmed = signals.unless(warming).await.map_err(CommandError::resumable)?;
            context.out.line(format_args!("{}: {warmed} cached", request.path))?;
        }
        Ok(())
    })
}

/// Repeats [`warm_with_progress`] while the model cannot be found or no peer delivers it.
async fn warm_when_found(
    context: &Context,
    client: &DaemonClient,
    request: &WarmRequest,
) -> Result<String, CommandError> {
    let mut has_reported = false;
    loop {
        match warm_with_progress(context, client, request).await {
            Err(error) if is_of_the_moment(error.kind()) => {
                if !std::mem::replace(&mut has_reported, true) {
                    context.out.note(format_args!("{}: {error}; waiting for it", request.path));
                }
                tokio::time::sleep(RETRY_EVERY).await;
            }
            done => return Ok(done?),
        }
    }
}

/// Whether a peer that appears can end a failure.
fn is_of_the_moment(kind: ErrorKind) -> bool {
    use ErrorKind::{NoNetwork, NotFound, TimedOut, UnknownModel};
    matches!(kind, NotFound | UnknownModel | NoNetwork | TimedOut)
}

/// Fetches a path and shows the progress. Returns the number of files and bytes as a text.
async fn warm_with_progress(
    context: &Context,
    client: &DaemonClient,
    request: &WarmRequest,
) -> Result<String, NodeError> {
    let path = &request.path;
    let progress = context.out.progress(path);
    let warming = client.warm(request);
    tokio::pin!(warming);
    let mut clock = tokio::time::interval(ASK_EVERY);
    loop {
        tokio::select! {
            warmed = &mut warming => {
                let warmed = warmed?;
                return Ok(format!("{}, {}", count(warmed.files as u64, "file"), size(warmed.bytes)));
            }
            _ = clock.tick() => {
                // An error of the daemon is ignored here, because `warming` returns it, too.
                let Ok(status) = client.status().await else { continue };
                if let Some(model) = status.hub.iter().find(|model| is_in_model(path, &model.model)) {
                    progress.set(model.cached_bytes, model.total_size, "from the hub".to_owned());
                }
                let transfers = status.transfers;
                if let Some(t) = transfers.iter().find(|t| is_in_model(path, &t.model)) {
                    let detail = format_args!("{}/s from {}", size(t.download_rate + t.web_rate), count(t.peers.into(), "peer")).to_string();
                    progress.set(t.cached_bytes, t.total_size, detail);
                }
            }
        }
    }
}

/// Whether a path below the mount point is in a model.
fn is_in_model(path: &str, model: &str) -> bool {
    path.strip_prefix(model).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path relative to the mount point, and whether the daemon may look an unknown model up on the network.
fn below_mount(path: &Path, mounts: &[MountStatus]) -> Result<(String, bool), CommandError> {
    let absolute = std::path::absolute(path).map_err(|e| CommandError::io(path, e))?;
    let text =
        path.to_str().ok_or_else(|| CommandError::failed(format!("{} is not UTF-8", path.display())))?;
    for mount in mounts {
        if let Some(below) = absolute.strip_prefix(&mount.path).ok().and_then(Path::to_str) {
            return match below {
                "" => Err(CommandError::failed(format!("{text} is the mount itself"))
                    .hint("name a model in it, such as org/name")),
                below => Ok((below.to_owned(), mount.options.resolve)),
            };
        }
    }
    if text.starts_with(['/', '.', '~']) && !text.starts_with(".by/") {
        return Err(CommandError::failed(format!("{text} is not in a mount of the running silmaril")));
    }
    // A name may be looked up if there is no mount, or if one mount looks names up.
    let resolve = mounts.is_empty() || mounts.iter().any(|mount| mount.options.resolve);
    Ok((text.to_owned(), resolve))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::MountLayout;
    use crate::node::mounts::ServeOptions;

    #[test]
    fn paths_are_relative_to_the_mount() {
        let options =
            ServeOptions { allow_other: false, resolve: false, peers: vec![], layout: MountLayout::Plain };
        let mounts = [MountStatus { path: "/mnt/models".into(), options, held: false }];
        let at = |path: &str| below_mount(Path::new(path), &mounts).map_err(|e| e.exit_code());
        assert_eq!(at("/mnt/models/a/b/c.bin"), Ok(("a/b/c.bin".into(), false)));
        assert_eq!(at("a/b"), Ok(("a/b".into(), false)));
        assert_eq!(at(".by/r5fk-b70b-psbb-5vew/a/b"), Ok((".by/r5fk-b70b-psbb-5vew/a/b".into(), false)));
        assert_eq!(at("/mnt/models"), Err(1));
        assert_eq!(at("/outside/a/b"), Err(1));
        assert_eq!(at("./a/b"), Err(1));
    }

    #[test]
    fn path_belongs_to_one_model() {
        assert!(is_in_model("a/b", "a/b") && is_in_model("a/b/c", "a/b"));
        assert!(!is_in_model("a/bc", "a/b") && !is_in_model("a/b@v1", "a/b"));
    }
}
