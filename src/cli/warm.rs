//! `warm`: whole files into the cache, ahead of their readers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{count, size};
use crate::cli::signals::StopSignals;
use crate::cli::status::not_running;
use crate::node::control::Client;
use crate::node::mounts::MountStatus;

/// How often progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  silmaril warm ~/models/acme/minilm                     a whole model
  silmaril warm ~/models/acme/minilm/model.safetensors   one file
  silmaril warm acme/minilm                              by name, from anywhere";

/// Fetch files of a mounted model ahead of reading them
///
/// The running mount fetches them; this command waits until they are here.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files, directories or models: below the mount point, or by name
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Asks the running node and waits.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let paths = config.paths();
        let (client, status) = Client::find(&paths).await?.ok_or_else(|| not_running(&paths))?;
        let wanted =
            args.paths.iter().map(|path| below_mount(path, &status.mounts)).collect::<Result<Vec<_>, _>>()?;
        for (path, resolve) in wanted {
            let warmed = signals
                .unless(watched(context, &client, &path, resolve))
                .await
                .map_err(CommandError::resumable)?;
            context.out.line(format_args!("{path}: {warmed} here"))?;
        }
        Ok(())
    })
}

/// Warms a path, showing what the node is fetching meanwhile.
async fn watched(
    context: &Context,
    client: &Client,
    path: &str,
    resolve: bool,
) -> Result<String, CommandError> {
    let progress = context.out.progress(path);
    let warming = client.warm(path, resolve);
    tokio::pin!(warming);
    let mut clock = tokio::time::interval(ASK_EVERY);
    loop {
        tokio::select! {
            warmed = &mut warming => {
                let warmed = warmed?;
                return Ok(format!("{}, {}", count(warmed.files as u64, "file"), size(warmed.bytes)));
            }
            _ = clock.tick() => {
                // What comes of it is for the job itself to say.
                let transfers = client.status().await.map(|status| status.transfers).unwrap_or_default();
                if let Some(t) = transfers.iter().find(|t| names(path, &t.model)) {
                    let detail = format_args!("{}/s from {}", size(t.download_rate + t.web_rate), count(t.peers.into(), "peer")).to_string();
                    progress.set(t.cached_bytes, t.total_size, detail);
                }
            }
        }
    }
}

/// Whether a path below the mount point lies in a model.
fn names(path: &str, model: &str) -> bool {
    path.strip_prefix(model).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path relative to the mount point, and whether a model that is not known there is looked up.
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
    // A name is looked up unless no mount looks names up.
    let resolve = mounts.is_empty() || mounts.iter().any(|mount| mount.options.resolve);
    Ok((text.to_owned(), resolve))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::mounts::ServeOptions;

    #[test]
    fn paths_are_taken_relative_to_the_mount() {
        let options = ServeOptions { allow_other: false, resolve: false, peers: vec![] };
        let mounts = [MountStatus { path: "/mnt/models".into(), options, held: false }];
        let at = |path: &str| below_mount(Path::new(path), &mounts).map_err(|e| e.exit_code());
        assert_eq!(at("/mnt/models/a/b/c.bin"), Ok(("a/b/c.bin".into(), false)));
        assert_eq!(at("a/b"), Ok(("a/b".into(), false)));
        assert_eq!(at(".by/r5fk-b70b-psbb-5vew/a/b"), Ok((".by/r5fk-b70b-psbb-5vew/a/b".into(), false)));
        assert_eq!(at("/mnt/models"), Err(1));
        assert_eq!(at("/elsewhere/a/b"), Err(1));
        assert_eq!(at("./a/b"), Err(1));
    }

    #[test]
    fn a_path_names_its_model_only() {
        assert!(names("a/b", "a/b") && names("a/b/c", "a/b"));
        assert!(!names("a/bc", "a/b") && !names("a/b@v1", "a/b"));
    }
}
