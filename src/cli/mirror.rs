//! `mirror`: makes a model of a repository of a hub or a git server, and shares it.

use std::path::{Path, PathBuf};

use crate::cli::connection::Daemon;
use crate::cli::context::{Context, surroundings};
use crate::cli::error::CommandError;
use crate::cli::format::{clean, count, size};
use crate::cli::seeding;
use crate::cli::session::with_daemon;
use crate::cli::signals::StopSignals;
use crate::cli::transfers::TransferDisplay;
use crate::config::Config;
use crate::mirror::{GitRepository, MirrorError, Remote, Repository, token};
use crate::model::ModelName;
use crate::node::control::Seed;
use crate::node::mirror::{MirrorProgress, MirrorReport, MirrorRequest};
use crate::node::{NodeError, Surroundings};

const EXAMPLES: &str = "\
Examples:
  silmaril mirror sentence-transformers/all-MiniLM-L6-v2      from the hub, the current state of `main`
  silmaril mirror acme/minilm --branch v1.0                   a branch, tag or commit
  silmaril mirror datasets/acme/corpus --no-auto-share        mirror now, share later
  silmaril mirror https://git.example/team/model.git          any git server, with LFS
  silmaril mirror --all models.txt                            a list with one repository per line; works in cron";

/// Largest list of repositories that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// Mirror a repository of Hugging Face, or of any git server with LFS, and share it
///
/// The command first fixes the commit and writes it into the manifest. Each file is checked against the repository's hash
/// of it, and is hashed for sharing during the download. After an interruption the received data is kept; the same
/// command resumes. Files that are up to date are not downloaded again. Hosts that mirror the same commit join the same
/// swarm. A mirrored model that no peer has any more is still read from the hub.
///
/// A model whose licence permits redistribution is shared by the daemon, until `silmaril remove` or `silmaril stop`. All
/// other models, and those of gated or private repositories, are mirrored but not shared, unless you confirm your right
/// with --i-have-the-right-to-share. The token comes from HF_TOKEN or from the file of `hf auth login`, and is sent only
/// to the hub.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// ORG/NAME or datasets/ORG/NAME on the hub, an address of the hub, or the address of a git repository
    #[arg(value_name = "REPO|URL", required_unless_present = "all")]
    repository: Option<String>,
    /// Mirror every repository of a list, one per line (ORG/NAME, ORG/NAME@REF or an address; # starts a comment). The
    /// daemon shares them afterwards
    #[arg(long, value_name = "FILE", conflicts_with_all = ["repository", "branch", "name", "license"])]
    all: Option<PathBuf>,
    /// The branch, tag or commit to mirror [default: main]
    #[arg(long, value_name = "REF")]
    branch: Option<String>,
    /// Number of commits of the history to fetch and keep next to the model; 0 fetches all. The hub's API has no history:
    /// with any value but 1, git is used
    #[arg(long, value_name = "N", default_value_t = 1)]
    depth: u32,
    /// Leave large files (LFS) as git's pointer files. A model with pointer files is never shared
    #[arg(long)]
    skip_lfs: bool,
    /// The name of the model [default: the last two parts of the address]
    #[arg(long, value_name = "ORG/NAME")]
    name: Option<ModelName>,
    /// The licence of the model, if the repository names none
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Share the model without announcing it: not in the DHT, not on the local network, not in the catalog
    #[arg(long)]
    no_broadcast: bool,
    /// Mirror only. `silmaril share ORG/NAME` shares the model later
    #[arg(long, conflicts_with = "no_broadcast")]
    no_auto_share: bool,
    /// Share the model even if its licence or its hub does not permit everybody to redistribute it
    #[arg(long, conflicts_with = "no_auto_share")]
    i_have_the_right_to_share: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// One repository of the command line or of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedRepository {
    repository: String,
    branch: Option<String>,
}

/// State of the command, kept if the daemon ends and a new one continues.
#[derive(Default)]
struct MirrorQueue {
    /// Index of the next request.
    next: usize,
    reports: Vec<MirrorReport>,
    failed: usize,
    /// The seeding request for a single repository, once it is mirrored.
    shared: Option<Seed>,
}

/// Has the daemon mirror the repositories and share the models that may be shared.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let repositories = repositories(args)?;
    let token =
        token::find().map_err(|e| CommandError::failed(e).hint("`hf auth login` stores a new token"))?;
    let requests: Vec<MirrorRequest> = repositories
        .into_iter()
        .map(|listed| request(args, &config, listed, surroundings(token.clone())))
        .collect::<Result<_, _>>()?;
    let mut queue = MirrorQueue::default();
    let result = with_daemon(context, async |daemon, signals| match &args.all {
        None => mirror_one(args, context, daemon, &requests[0], &mut queue, signals).await,
        Some(_) => mirror_list(args, context, daemon, &requests, &mut queue, signals).await,
    });
    if queue.next == requests.len() { result } else { result.map_err(CommandError::resumable) }
}

fn repositories(args: &Args) -> Result<Vec<ListedRepository>, CommandError> {
    match (&args.all, &args.repository) {
        (Some(path), _) => read_list(path),
        (None, Some(repository)) => {
            Ok(vec![ListedRepository { repository: repository.clone(), branch: args.branch.clone() }])
        }
        // clap requires one of the two.
        (None, None) => Ok(Vec::new()),
    }
}

fn read_list(path: &Path) -> Result<Vec<ListedRepository>, CommandError> {
    let bytes = crate::fsutil::read_capped(path, MAX_LIST).map_err(|e| CommandError::io(path, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| CommandError::usage(format!("{}: it is not UTF-8 text", path.display())))?;
    let repositories: Vec<ListedRepository> = text.lines().filter_map(parse_line).collect();
    if repositories.is_empty() {
        return Err(CommandError::usage(format!("{}: the list names no repository", path.display())));
    }
    Ok(repositories)
}

/// Parses one line of a list. None for blank lines and comments.
fn parse_line(line: &str) -> Option<ListedRepository> {
    let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(ListedRepository { repository: line.to_owned(), branch: None })
}

/// Parses the text of the user, so that mistakes are reported before the daemon is started.
fn request(
    args: &Args,
    config: &Config,
    listed: ListedRepository,
    surroundings: Surroundings,
) -> Result<MirrorRequest, CommandError> {
    let wrong = |e| CommandError::from(NodeError::from(MirrorError::from(e)));
    let repository = Repository::parse(&listed.repository, &config.hub.endpoint).map_err(wrong)?.repository;
    let typed = match &repository {
        // The daemon has another working directory, so it gets the absolute path.
        Repository::Git(GitRepository { remote: Remote::Directory(path), .. }) => path.display().to_string(),
        _ => listed.repository,
    };
    Ok(MirrorRequest {
        repository: typed,
        shown: repository.default_name().map_or_else(|| repository.to_string(), |name| name.to_string()),
        branch: listed.branch,
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

/// Mirrors one repository, prints the report, and shares the model.
async fn mirror_one(
    args: &Args,
    context: &Context,
    daemon: &Daemon,
    request: &MirrorRequest,
    queue: &mut MirrorQueue,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    if queue.next == 0 {
        let report = mirror(context, daemon, request, signals).await?;
        if args.json {
            context.out.json(&report)?;
        } else {
            print(context, &report)?;
        }
        queue.next = 1;
        if let Some(withheld) = withheld(args, &report) {
            return Err(withheld.into());
        }
        queue.shared = seed_of(&report);
    }
    if let Some(seed) = &queue.shared {
        seeding::seed(context, daemon, seed, signals, None).await?;
        seeding::explain(context, daemon, seed.model.as_ref());
    }
    Ok(())
}

/// Mirrors a list. The failure of one repository does not end the command.
async fn mirror_list(
    args: &Args,
    context: &Context,
    daemon: &Daemon,
    requests: &[MirrorRequest],
    queue: &mut MirrorQueue,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    while let Some(request) = requests.get(queue.next) {
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
                queue.reports.push(report);
            }
            Err(error) if error.ends_all() => return Err(error),
            Err(error) => {
                context.out.note(format_args!("{}: not mirrored", clean(&request.shown)));
                error.print();
                queue.failed += 1;
            }
        }
        queue.next += 1;
    }
    if args.json {
        context.out.json(&queue.reports)?;
    }
    let done = queue.reports.len();
    match queue.failed {
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

fn show(shown: &TransferDisplay, progress: &MirrorProgress) {
    match progress {
        MirrorProgress::Looking => shown.set_text("requesting the list of files"),
        MirrorProgress::Cloning { received, objects } => {
            shown.set_text(format_args!("fetching git, {}, {}", count(*objects, "object"), size(*received)));
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
    let text = format!(
        "{} of {}: commit {} is in {} ({}, {}",
        report.model,
        clean(&report.source),
        report.commit,
        report.path.display(),
        count(report.files as u64, "file"),
        size(report.total_size)
    );
    if report.up_to_date {
        out.line(format_args!("{text}; up to date)"))?;
    } else {
        out.line(format_args!("{text}; {} downloaded)", size(report.downloaded)))?;
    }
    if let Some(first) = report.pointers.first() {
        out.warn(format_args!(
            "{} left as LFS pointers ({}, …): the model is incomplete and is not shared",
            count(report.pointers.len() as u64, "file"),
            first
        ));
    }
    if let Some(info_hash) = report.info_hash {
        out.line(format_args!("info hash {info_hash}"))?;
    }
    if let Some(why) = report.withheld {
        let right = if why.needs_right() { " --i-have-the-right-to-share" } else { "" };
        out.note(format_args!("it is not shared; to share it: silmaril share {}{right}", report.model));
    }
    Ok(())
}

/// The error for a model that should be shared but is withheld.
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
    fn lists_have_revisions_and_comments() {
        let of = |line| parse_line(line).map(|listed| (listed.repository, listed.branch));
        assert_eq!(of("acme/m"), Some(("acme/m".to_owned(), None)));
        assert_eq!(of(" acme/m@v1 # why"), Some(("acme/m@v1".to_owned(), None)));
        assert_eq!(of("# remark"), None);
        assert_eq!(of("  "), None);
    }

    #[test]
    fn list_without_repositories_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, "# nothing\n\n").unwrap();
        assert_eq!(read_list(&path).unwrap_err().exit_code(), 2);
        assert_eq!(read_list(&dir.path().join("none")).unwrap_err().exit_code(), 1);
    }
}
