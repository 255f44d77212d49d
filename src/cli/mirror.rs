//! `mirror`: a repository of a hub or a git server becomes a model here, and is shared.

use std::path::{Path, PathBuf};

use crate::cli::context::{Context, surroundings};
use crate::cli::error::CommandError;
use crate::cli::output::{clean, count, size};
use crate::cli::seeding;
use crate::cli::session::{Daemon, with_daemon};
use crate::cli::signals::StopSignals;
use crate::cli::transfers::Transfers;
use crate::config::Config;
use crate::mirror::{GitRepository, MirrorError, Remote, Repository, token};
use crate::model::ModelName;
use crate::node::control::Seed;
use crate::node::mirror::{MirrorProgress, MirrorReport, MirrorRequest};
use crate::node::{NodeError, Surroundings};

const EXAMPLES: &str = "\
Examples:
  silmaril mirror sentence-transformers/all-MiniLM-L6-v2      from the hub, at what `main` is now
  silmaril mirror acme/minilm --branch v1.0                   a branch, tag or commit
  silmaril mirror datasets/acme/corpus --no-auto-share        mirror now, share later
  silmaril mirror https://git.example/team/model.git          any git server, with LFS
  silmaril mirror --all models.txt                            a list, one repository a line; fit for cron";

/// Longest list of repositories that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// Mirror a repository of Hugging Face, or of any git server with LFS, and share it
///
/// The commit is fixed first and written into the manifest; every file is checked against what the repository says of it,
/// and hashed for sharing while it comes. What an interrupted call got is kept: calling it again goes on from there. What
/// is up to date is not downloaded again. Whoever mirrors the same commit joins the same swarm, and a mirrored model that
/// no peer has any more is still read from the hub.
///
/// Models under a licence that permits passing them on are shared at once, until Ctrl-C. Others, and those of gated or
/// private repositories, are mirrored and not shared unless you say that you may. A token is taken from HF_TOKEN or from
/// where `hf auth login` puts it, and sent to the hub alone.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// ORG/NAME or datasets/ORG/NAME on the hub, an address of the hub, or the address of a git repository
    #[arg(value_name = "REPO|URL", required_unless_present = "all")]
    repository: Option<String>,
    /// Mirror every repository of a list, one a line (ORG/NAME, ORG/NAME@REF or an address; # begins a remark), then end.
    /// A daemon or a mount on the same base directory goes on sharing them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["repository", "branch", "name", "license"])]
    all: Option<PathBuf>,
    /// The branch, tag or commit to mirror [default: main]
    #[arg(long, value_name = "REF")]
    branch: Option<String>,
    /// Commits of the history to fetch and keep beside the model, 0 is all of them. The hub's own interface has no history:
    /// with anything but 1 its git is used
    #[arg(long, value_name = "N", default_value_t = 1)]
    depth: u32,
    /// Leave large files (LFS) as the pointers that git has of them. What has pointers is never shared
    #[arg(long)]
    skip_lfs: bool,
    /// The name to know it under [default: the last two parts of its address]
    #[arg(long, value_name = "ORG/NAME")]
    name: Option<ModelName>,
    /// Its licence, where the repository says none
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Share it without announcing it: not in the DHT, not on the local network, not in the catalog
    #[arg(long)]
    no_broadcast: bool,
    /// Mirror only. `silmaril share ORG/NAME` shares it later
    #[arg(long, conflicts_with = "no_broadcast")]
    no_auto_share: bool,
    /// Share it although its licence or its hub does not say that everybody may pass it on
    #[arg(long, conflicts_with = "no_auto_share")]
    i_have_the_right_to_share: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// One repository to mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    repository: String,
    branch: Option<String>,
}

/// What is left to do, and what came of the rest; kept when another host has to go on.
#[derive(Default)]
struct Work {
    next: usize,
    reports: Vec<MirrorReport>,
    failed: usize,
    shared: Option<Seed>,
}

/// Mirrors, and has the daemon share what may be shared.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let items = items(args)?;
    let token =
        token::find().map_err(|e| CommandError::failed(e).hint("`hf auth login` stores a token anew"))?;
    let requests: Vec<MirrorRequest> = items
        .into_iter()
        .map(|item| request(args, &config, item, surroundings(token.clone())))
        .collect::<Result<_, _>>()?;
    let mut work = Work::default();
    let result = with_daemon(context, async |daemon, signals| match &args.all {
        None => one(args, context, daemon, &requests[0], &mut work, signals).await,
        Some(_) => every(args, context, daemon, &requests, &mut work, signals).await,
    });
    if work.next == requests.len() { result } else { result.map_err(CommandError::resumable) }
}

fn items(args: &Args) -> Result<Vec<Item>, CommandError> {
    match (&args.all, &args.repository) {
        (Some(path), _) => list(path),
        (None, Some(repository)) => {
            Ok(vec![Item { repository: repository.clone(), branch: args.branch.clone() }])
        }
        // clap has one of them required.
        (None, None) => Ok(Vec::new()),
    }
}

/// Reads a list of repositories.
fn list(path: &Path) -> Result<Vec<Item>, CommandError> {
    let bytes = crate::fsutil::read_capped(path, MAX_LIST).map_err(|e| CommandError::io(path, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| CommandError::usage(format!("{}: it is not UTF-8 text", path.display())))?;
    let items: Vec<Item> = text.lines().filter_map(item).collect();
    match items.is_empty() {
        true => Err(CommandError::usage(format!("{}: it names no repository", path.display()))),
        false => Ok(items),
    }
}

/// One line of a list: none for blank lines and remarks.
fn item(line: &str) -> Option<Item> {
    let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(Item { repository: line.to_owned(), branch: None })
}

/// Takes apart what the user typed, so that what makes no sense is told before anything is started.
fn request(
    args: &Args,
    config: &Config,
    item: Item,
    surroundings: Surroundings,
) -> Result<MirrorRequest, CommandError> {
    let wrong = |e| CommandError::from(NodeError::from(MirrorError::from(e)));
    let repository = Repository::parse(&item.repository, &config.hub.endpoint).map_err(wrong)?.repository;
    let typed = match &repository {
        // Another process may do the work.
        Repository::Git(GitRepository { remote: Remote::Directory(path), .. }) => path.display().to_string(),
        _ => item.repository,
    };
    Ok(MirrorRequest {
        repository: typed,
        shown: repository.default_name().map_or_else(|| repository.to_string(), |name| name.to_string()),
        branch: item.branch,
        depth: args.depth,
        skip_lfs: args.skip_lfs,
        name: args.name.clone(),
        license: args.license.clone(),
        broadcast: !args.no_broadcast,
        share: !args.no_auto_share,
        right: args.i_have_the_right_to_share,
        sign: config.security.sign_manifests,
        piece_length: config.torrent.piece_length,
        surroundings,
    })
}

/// Mirrors one repository, says what came of it, and shares it.
async fn one(
    args: &Args,
    context: &Context,
    daemon: &Daemon,
    request: &MirrorRequest,
    work: &mut Work,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    if work.next == 0 {
        let report = mirror(context, daemon, request, signals).await?;
        if args.json {
            context.out.json(&report)?;
        } else {
            print(context, &report)?;
        }
        work.next = 1;
        if let Some(withheld) = withheld(args, &report) {
            return Err(withheld.into());
        }
        work.shared = seed_of(&report);
    }
    match &work.shared {
        Some(seed) => {
            seeding::seed(context, daemon, seed, signals, None).await?;
            seeding::explain(context, daemon, seed.model.as_ref());
            Ok(())
        }
        None => Ok(()),
    }
}

/// Mirrors a list. One that fails does not end it.
async fn every(
    args: &Args,
    context: &Context,
    daemon: &Daemon,
    requests: &[MirrorRequest],
    work: &mut Work,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    while let Some(request) = requests.get(work.next) {
        match mirror(context, daemon, request, signals).await {
            Ok(report) => {
                if !args.json {
                    print(context, &report)?;
                }
                if let Some(withheld) = withheld(args, &report) {
                    context.out.warn(withheld);
                } else if let Some(seed) = seed_of(&report) {
                    match signals.unless(async { Ok(daemon.client.seed(&seed).await?) }).await {
                        Err(error) if error.ends_all() => return Err(error),
                        Err(error) => {
                            context.out.note(format_args!("{}: not shared", report.model));
                            error.print();
                        }
                        Ok(_) => {}
                    }
                }
                work.reports.push(report);
            }
            Err(error) if error.ends_all() => return Err(error),
            Err(error) => {
                context.out.note(format_args!("{}: not mirrored", clean(&request.shown)));
                error.print();
                work.failed += 1;
            }
        }
        work.next += 1;
    }
    if args.json {
        context.out.json(&work.reports)?;
    }
    let done = work.reports.len();
    match work.failed {
        0 => Ok(()),
        failed => {
            let all = count((done + failed) as u64, "repository").replace("repositorys", "repositories");
            Err(CommandError::failed(format!("{failed} of {all} could not be mirrored")))
        }
    }
}

async fn mirror(
    context: &Context,
    daemon: &Daemon,
    request: &MirrorRequest,
    signals: &mut StopSignals,
) -> Result<MirrorReport, CommandError> {
    let shown = context.out.transfers(&request.shown);
    let mirroring = daemon.client.mirror(request, |progress| show(&shown, &progress));
    signals.unless(async { Ok(mirroring.await?) }).await
}

fn show(shown: &Transfers, progress: &MirrorProgress) {
    match progress {
        MirrorProgress::Looking => shown.say("asking for its files"),
        MirrorProgress::Cloning { received, objects } => {
            shown.say(format_args!("fetching git, {}, {}", count(*objects, "object"), size(*received)));
        }
        MirrorProgress::Downloading { done, total, files, waiting } => {
            let detail = match waiting {
                Some(seconds) => format!("the server asks to wait {seconds} s"),
                None => String::new(),
            };
            shown.set(*done, *total, detail, files.iter().map(|f| (f.path.as_str(), f.done, f.size)));
        }
    }
}

fn print(context: &Context, report: &MirrorReport) -> Result<(), CommandError> {
    let out = &context.out;
    for warning in &report.warnings {
        out.warn(warning);
    }
    let what = format!(
        "{} of {}: commit {} is in {} ({}, {}",
        report.model,
        clean(&report.source),
        report.commit,
        report.path.display(),
        count(report.files as u64, "file"),
        size(report.total_size)
    );
    match report.up_to_date {
        true => out.line(format_args!("{what}; up to date)"))?,
        false => out.line(format_args!("{what}; {} downloaded)", size(report.downloaded)))?,
    }
    if let Some(first) = report.pointers.first() {
        out.warn(format_args!(
            "{} left as LFS pointers ({}, …): the model is not complete, and not shared",
            count(report.pointers.len() as u64, "file"),
            first
        ));
    }
    if let Some(info_hash) = report.info_hash {
        out.line(format_args!("info hash {info_hash}"))?;
    }
    if let Some(why) = report.withheld {
        let right = if why.needs_right() { " --i-have-the-right-to-share" } else { "" };
        out.note(format_args!("it is not shared; `silmaril share {}{right}` does that", report.model));
    }
    Ok(())
}

/// Why it is not shared, where that was to be.
fn withheld(args: &Args, report: &MirrorReport) -> Option<NodeError> {
    let why = report.withheld.filter(|_| !args.no_auto_share)?;
    Some(NodeError::Withheld { model: report.model.clone(), why })
}

fn seed_of(report: &MirrorReport) -> Option<Seed> {
    let shared = report.info_hash.is_some() && report.withheld.is_none();
    shared.then(|| Seed { model: Some(report.model.clone()), ..Seed::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_repositories_with_revisions_and_remarks() {
        let of = |line| item(line).map(|item| (item.repository, item.branch));
        assert_eq!(of("acme/m"), Some(("acme/m".to_owned(), None)));
        assert_eq!(of(" acme/m@v1 # why"), Some(("acme/m@v1".to_owned(), None)));
        assert_eq!(of("# remark"), None);
        assert_eq!(of("  "), None);
    }

    #[test]
    fn a_list_that_names_nothing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, "# nothing\n\n").unwrap();
        assert_eq!(list(&path).unwrap_err().exit_code(), 2);
        assert_eq!(list(&dir.path().join("none")).unwrap_err().exit_code(), 1);
    }
}
