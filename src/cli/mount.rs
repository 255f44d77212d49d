//! `mount`: serves the models as a directory until it is unmounted.
//!
//! In the foreground this process is the node. In the background [`super::ready`] starts the same command in a process
//! of its own and waits until that one says that it is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::catalog::trust::Document;
use crate::catalog::{News, Patience, Trust};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::ready;
use crate::cli::signals::StopSignals;
use crate::config::Show;
use crate::model::{Manifest, PublisherKey};
use crate::mount::{
    Judge, LookupRules, MountOptions, Mounted, NeverResolve, ResolveError, Resolver, Resolving, Sought,
};
use crate::node::{ErrorKind, Node, NodeOptions, chain};

/// What `status` says of a mount, before the mount point.
pub const ACTIVITY: &str = "mount ";

/// How long the mount waits for the first look at the models directory.
const LOCAL_WITHIN: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  mkdir -p ~/models && silmaril mount ~/models
  ls -l ~/models/acme/minilm                          known models are there; reading fetches them
  silmaril unmount ~/models
  cat ~/models/acme/other/config.json                 others are found by their path
  silmaril mount -f ~/models                          stay in the foreground, log to the terminal
  silmaril mount ~/models --peer 192.0.2.7:6881       a host that has the models";

/// Show all known models as a directory; what is read is fetched
///
/// Returns when the directory can be read; a process in the background serves it, and the path of its log is printed. What is read is kept in the cache and
/// uploaded to others while the mount is there.
///
/// A path such as ORG/NAME or ORG/NAME@REV need not be known: the first look at it asks the network, for at most
/// `mount.resolve_timeout`, so that `cat ~/models/acme/minilm/config.json` works. A path that no connected peer knows is
/// absent within a second, and is not looked up again for a minute, then for longer, unless news of it arrive; `silmaril
/// status` shows such paths. Listing never asks. Since any name could be that of an organisation, any is a directory,
/// except those of `mount.never_resolve`: `ls` shows those of which something is known.
///
/// Reading pins no name to its publisher. A name that several publishers dispute cannot be read; the path
/// .by/FINGERPRINT/ORG/NAME is the model of one of them, and `silmaril status` shows these paths.
///
/// Other commands may run on the same base directory, before and after. One that works by itself leaves its work to
/// the mount (a share that is still hashing begins anew), and goes on by itself when the mount ends.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An empty directory
    pub mountpoint: PathBuf,
    /// Stay in the foreground until Ctrl-C
    #[arg(short, long)]
    pub foreground: bool,
    /// Let other users read it, too
    #[arg(long)]
    pub allow_other: bool,
    /// A host that has models; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    pub peers: Vec<SocketAddr>,
    /// Show only what is known here: a path that is not known asks nobody
    #[arg(long)]
    pub no_resolve: bool,
    /// Serve in this process and say on standard output when ready: what the background process is started with
    #[arg(long, hide = true)]
    pub ready_on_stdout: bool,
}

/// Mounts in the background, or serves in the foreground.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if args.ready_on_stdout {
        ready::in_background(|ready| serve(args, context, ready))
    } else if args.foreground {
        serve(args, context, |point| {
            context.out.note(format_args!(
                "mounted on {}; its log is on standard error; Ctrl-C unmounts it",
                point.display()
            ));
            Ok(())
        })
    } else {
        ready::start(args, context)
    }
}

/// Runs the node and its mount until a signal, an unmount or a request to stop. `ready` is called once models can be
/// read.
fn serve(
    args: &Args,
    context: &Context,
    ready: impl FnOnce(&Path) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let config = context.config()?;
    // Before anything is started: what is wrong with the directory is said at once.
    let point = crate::mount::prepare(&args.mountpoint)?;
    let options = NodeOptions {
        peers: args.peers.clone(),
        activity: format!("{ACTIVITY}{}", point.display()),
        mount: Some(point.clone()),
        no_resolve: args.no_resolve,
        ..NodeOptions::default()
    };
    let ask = !args.no_resolve;
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let node = signals.unless(async { Ok(Node::start_or_take_over(config, options).await?) }).await?;
        let mount = MountOptions { mountpoint: point.clone(), allow_other: args.allow_other };
        let runtime = tokio::runtime::Handle::current();
        let fetch = node.fetch.clone();
        let mounted = match tokio::task::block_in_place(|| Mounted::new(&mount, fetch, runtime)) {
            Ok(mounted) => Arc::new(mounted),
            Err(error) => {
                signals.stopping(node.stop(), || ()).await;
                return Err(error.into());
            }
        };
        let result = attend(&node, &mounted, || ready(&mount.mountpoint), &mut signals, ask).await;
        let stop = async {
            // Parked reads get their answers first, so that nothing holds the mount.
            node.begin_stop();
            mounted.stop().await;
            node.stop().await;
        };
        // A process that ends hard leaves no dead mount behind: usually there is nothing left to unmount.
        let last = move || drop(crate::mount::unmount(&point, true));
        signals.stopping(stop, last).await;
        result
    })
}

/// Shows the models and waits for the end.
async fn attend(
    node: &Arc<Node>,
    mounted: &Arc<Mounted>,
    ready: impl FnOnce() -> Result<(), CommandError>,
    signals: &mut StopSignals,
    ask: bool,
) -> Result<(), CommandError> {
    let publishers = Arc::new(Publishers { trust: node.library.trust.clone(), latest: Mutex::default() });
    mounted.ask_trust(publishers.clone());
    match node.library.config.mount.show {
        Show::All => {}
        Show::Pinned => {
            let publishers = publishers.clone();
            mounted.list_only(move |revision| revision.is_local || publishers.is_pinned(&revision.manifest));
        }
        Show::Local => mounted.list_only(|revision| revision.held_bytes() > 0),
    }
    // So that they are there when the mount is ready; a slow disk delays only them.
    let _ = tokio::time::timeout(LOCAL_WITHIN, node.looked_for_local_models()).await;
    let shown = Arc::downgrade(mounted);
    node.on_change(move |node| {
        if let Some(mounted) = shown.upgrade() {
            node.note_kept(mounted.publish(node.shown()?));
        }
        Ok(())
    })?;
    if ask {
        let mount = &node.library.config.mount;
        let rules = LookupRules {
            within: mount.resolve_timeout,
            never: NeverResolve::new(&mount.never_resolve).map_err(CommandError::internal)?,
            per_minute: mount.max_lookups,
        };
        mounted.resolve_with(Arc::new(Network(Arc::downgrade(node))), rules);
        let looks_up = Arc::downgrade(mounted);
        node.report_news(move |news| match (news, looks_up.upgrade()) {
            (News::Name(name), Some(mounted)) => mounted.name_appeared(name),
            (News::Peer, Some(mounted)) => mounted.peer_appeared(),
            (News::Holder, Some(mounted)) => mounted.holder_appeared(),
            (_, None) => {}
        });
    }
    // What is here already is passed on, too.
    node.seed_local()?;
    ready()?;
    tokio::select! {
        stop = signals.wait() => stop.end_of_service(),
        () = mounted.gone() => Ok(()),
        () = node.stop_requested() => Ok(()),
    }
}

/// Asks the network for models that are looked up and not known.
struct Network(Weak<Node>);

impl Resolver for Network {
    fn resolve(&self, sought: Sought, within: Duration) -> Resolving {
        let node = self.0.clone();
        Box::pin(async move {
            let node = node.upgrade().ok_or(ResolveError::NotFound)?;
            let error = match node.look_up(&sought, within, Patience::Peers).await {
                Ok(_) => None,
                Err(e) if e.kind() == ErrorKind::HostLost => return Err(ResolveError::NotFound),
                Err(e) => Some(e),
            };
            node.note_lookup(&sought, error.as_ref());
            error.map_or(Ok(()), |e| match e.kind() {
                ErrorKind::NotFound => Err(ResolveError::NotFound),
                ErrorKind::NoNetwork | ErrorKind::TimedOut => Err(ResolveError::Unreachable(chain(&e))),
                ErrorKind::Ambiguous => Err(ResolveError::Disputed(chain(&e))),
                _ => Err(ResolveError::Refused(chain(&e))),
            })
        })
    }

    fn over_budget(&self, sought: &Sought, process: u32) {
        if let Some(node) = self.0.upgrade() {
            node.note_over_budget(sought, process);
        }
    }
}

/// How long it may take until the mount knows of a name that was pinned or given away.
const PINS_LAST: Duration = Duration::from_secs(1);

/// Answers the mount's questions about publishers. A listing asks for every entry, so the file's contents are kept for a
/// moment.
struct Publishers {
    trust: Arc<Trust>,
    latest: Mutex<Option<(Instant, Option<Arc<Document>>)>>,
}

impl Judge for Publishers {
    fn is_pinned(&self, manifest: &Manifest) -> bool {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.as_ref().is_none_or(|(when, _)| when.elapsed() >= PINS_LAST) {
            let read = self.trust.document();
            let read = read.inspect_err(|error| tracing::error!("no name counts as pinned: {error}"));
            *latest = Some((Instant::now(), read.ok()));
        }
        let document = latest.as_ref().and_then(|(_, document)| document.as_ref());
        let pinned = document.and_then(|document| document.pinned(&manifest.name));
        pinned.is_some() && pinned == manifest.signed_by()
    }

    fn find(&self, text: &str) -> Option<PublisherKey> {
        // Beginnings of the keys of strangers could be made to fit.
        self.trust.find(text, []).ok()
    }
}
