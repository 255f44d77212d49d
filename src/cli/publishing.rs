//! Publishes a directory, and asks for its licence if it is unknown.

use std::io::{BufRead as _, IsTerminal as _, Write as _, stderr, stdin};

use crate::cli::connection::Daemon;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{count, size};
use crate::cli::signals::StopSignals;
use crate::model::license;
use crate::node::control::Seed;
use crate::node::share::{ShareRequest, Shared};
use crate::node::{ErrorKind, NodeError};

/// Shares a directory of the models directory: as the known model of `seed` if the directory has its files, otherwise as a
/// new model. The inner error comes from the daemon and concerns only this directory.
pub async fn share_at_its_place(
    context: &Context,
    daemon: &Daemon,
    seed: &Seed,
    request: &mut ShareRequest,
    skip_dht: bool,
    signals: &mut StopSignals,
) -> Result<Result<(), NodeError>, CommandError> {
    match signals.unless(async { Ok(daemon.client.seed(seed).await) }).await? {
        Err(e) if matches!(e.kind(), ErrorKind::UnknownModel | ErrorKind::NothingHere) => {}
        Err(NodeError::HostLost) => return Err(NodeError::HostLost.into()),
        seeded => return Ok(seeded.map(drop)),
    }
    match publish(context, daemon, request, signals).await? {
        Ok(shared) => report(context, &shared, skip_dht).map(Ok),
        Err(NodeError::HostLost) => Err(NodeError::HostLost.into()),
        Err(error) => Ok(Err(error)),
    }
}

/// Publishes a directory. Asks on the terminal for a licence that is unknown. The inner error comes from the daemon.
pub async fn publish(
    context: &Context,
    daemon: &Daemon,
    request: &mut ShareRequest,
    signals: &mut StopSignals,
) -> Result<Result<Shared, NodeError>, CommandError> {
    daemon.check_sees(&request.path)?;
    loop {
        let progress = context.out.progress(&format!("hashing {}", request.name));
        let publishing = daemon.client.share(request, |p| progress.set(p.done, p.total, ""));
        let shared = signals.unless(async { Ok(publishing.await) }).await?;
        drop(progress);
        match shared {
            Err(error) if error.kind() == ErrorKind::NoLicence && stdin().is_terminal() => {
                let question =
                    format!("Licence of {} (such as apache-2.0; empty: do not share)? ", request.name);
                let asking = tokio::task::spawn_blocking(move || ask_licence(&question));
                let answer = signals.unless(async { asking.await.map_err(CommandError::internal)? }).await?;
                match answer {
                    Some(licence) => request.license = Some(licence),
                    None => return Ok(Err(error)),
                }
            }
            shared => return Ok(shared),
        }
    }
}

/// Asks until the answer is a valid licence. None for an empty answer.
fn ask_licence(question: &str) -> Result<Option<String>, CommandError> {
    loop {
        let _ = write!(stderr().lock(), "{question}");
        let mut answer = String::new();
        stdin().lock().read_line(&mut answer).map_err(CommandError::internal)?;
        match answer.trim() {
            "" => return Ok(None),
            licence => match license::check(licence) {
                // The warnings of the shared model name a licence that is not on the list.
                Ok((licence, _)) => return Ok(Some(licence)),
                Err(error) => drop(writeln!(stderr().lock(), "{error}")),
            },
        }
    }
}

/// Prints the published model and its warnings.
pub fn report(context: &Context, shared: &Shared, skip_dht: bool) -> Result<(), CommandError> {
    let (out, manifest) = (&context.out, &shared.manifest);
    for warning in &shared.warnings {
        out.warn(warning);
    }
    let model = manifest.model_ref();
    out.line(format_args!(
        "shared {model} ({}, {})",
        count(manifest.files.len() as u64, "file"),
        size(manifest.total_size)
    ))?;
    out.line(format_args!("info hash {}", manifest.torrent.info_hash))?;
    out.line(format_args!("magnet {}", manifest.magnet_uri))?;
    if let Some(magnet) = &shared.hybrid_magnet {
        out.line(format_args!("hybrid magnet {magnet}"))?;
    }
    match manifest.publisher {
        Some(key) => out.line(format_args!("publisher {}", key.fingerprint()))?,
        None => out.line("unsigned")?,
    }
    if manifest.publisher.is_some() && !skip_dht {
        out.note(format_args!("other hosts get it by its name: silmaril get {model}"));
        return Ok(());
    }
    let file = manifest.name.name();
    out.note(format_args!("other hosts need its manifest: silmaril registry export {model} > {file}.json"));
    Ok(())
}
