//! A git host: the real `git-http-backend` under lighttpd, with an LFS server.
//!
//! The repositories are those of [`super::repos`], so a commit has the same id here and on the test hub. The batch
//! endpoint has the path that git-lfs expects below the remote's URL. Objects are static files of lighttpd, or come
//! from a second origin in Rust that can be made to fail. Results are compared with `git clone` and git-lfs:
//! [`clone`].

mod lfs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::fixtures::hashes;
use super::host::Host;
use super::net::temp_dir;
use super::process::{Finished, PATIENCE};
use super::repos::Repos;
use super::web::Site;
use super::web::faults::Faults;
use super::web::lighttpd::{Lighttpd, Served};
use super::web::links::Links;
use super::web::log::Log;
use super::web::place::Place;

/// The links that the batch endpoint returns for objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hrefs {
    /// Links to lighttpd, the origin of the repository itself, that never expire.
    Static,
    /// Signed links to the second origin, which expire, as on the hub.
    SignedQuery,
    /// Links to the second origin that need a header from the batch endpoint, as on Gitea.
    SignedHeader,
}

/// The login of a private host: user and password for git; the same, or the password as bearer token, for LFS.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password, or token.
    pub password: String,
}

/// A running git host. Dropping it ends the host.
pub struct GitServer {
    lighttpd: Lighttpd,
    batch: Site,
    objects: Site,
    state: Arc<GitState>,
    log: Log,
    _dir: tempfile::TempDir,
}

/// The data that the batch endpoint uses.
struct GitState {
    repos: Repos,
    links: Arc<Links>,
    hrefs: Mutex<Hrefs>,
    login: Option<Login>,
    objects: String,
    object_faults: Faults,
}

impl GitServer {
    /// Starts a host that all clients may read.
    pub fn start(place: &Place, repos: &Repos) -> Self {
        Self::with(place, place, repos, None)
    }

    /// Starts a host in front of a test hub (`http://address:port`): together they are one origin that serves the
    /// hub's API and git, as the real hub does. With a login, git requires it.
    pub fn before_hub(place: &Place, repos: &Repos, hub: &str, login: Option<Login>) -> Self {
        let server = Self::build(place, place, repos, login, Some(hub));
        server.set_hrefs(Hrefs::SignedQuery);
        server
    }

    /// Starts a host that answers 401 to clients without the login. Objects have links of [`Hrefs::SignedHeader`].
    pub fn private(place: &Place, repos: &Repos, login: Login) -> Self {
        let server = Self::with(place, place, repos, Some(login));
        server.set_hrefs(Hrefs::SignedHeader);
        server
    }

    /// Starts a host whose second origin has another address.
    pub fn with(place: &Place, objects: &Place, repos: &Repos, login: Option<Login>) -> Self {
        Self::build(place, objects, repos, login, None)
    }

    fn build(place: &Place, objects: &Place, repos: &Repos, login: Option<Login>, hub: Option<&str>) -> Self {
        let (log, links) = (Log::default(), Arc::new(Links::default()));
        let objects = Site::start(objects, "objects", &log, |_| lfs::objects(repos.clone(), links.clone()));
        let state = Arc::new(GitState {
            repos: repos.clone(),
            links,
            hrefs: Mutex::new(Hrefs::Static),
            login: login.clone(),
            objects: objects.url().to_owned(),
            object_faults: objects.faults().clone(),
        });
        let batch = Site::start(place, "batch", &log, |_| lfs::batch(state.clone()));
        let dir = temp_dir("git");
        let conf = configuration(repos, batch.url(), hub, login.as_ref(), dir.path());
        let lighttpd = Lighttpd::start(place, repos.dir(), &conf);
        Self { lighttpd, batch, objects, state, log, _dir: dir }
    }

    /// `http://address:port`.
    pub fn origin(&self) -> String {
        self.lighttpd.url()
    }

    /// The URL for `git clone`: `http://address:port/org/name.git`.
    pub fn url(&self, id: &str) -> String {
        format!("{}/{id}.git", self.lighttpd.url())
    }

    /// The second origin of objects.
    pub fn objects_url(&self) -> &str {
        self.objects.url()
    }

    /// The requests to the batch endpoint and to the second origin; `site` is `batch` or `objects`.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The requests that lighttpd has answered: git, batches, static objects.
    #[track_caller]
    pub fn served(&self) -> Vec<Served> {
        self.lighttpd.served()
    }

    /// Faults of the batch endpoint.
    pub fn faults(&self) -> &Faults {
        self.batch.faults()
    }

    /// Faults of the bytes of objects, whose paths end in the SHA-256. While a fault waits for an object, its link
    /// leads to the second origin.
    pub fn object_faults(&self) -> &Faults {
        self.objects.faults()
    }

    /// Sets the kind of links for objects.
    pub fn set_hrefs(&self, hrefs: Hrefs) {
        *self.state.hrefs.lock().unwrap() = hrefs;
    }

    /// Makes all signed links so far expire. New links work.
    pub fn expire_links(&self) {
        self.state.links.expire();
    }
}

/// lighttpd's configuration: LFS requests go to the batch endpoint, git requests to git, all other ones to the hub or
/// to static files.
fn configuration(repos: &Repos, batch: &str, hub: Option<&str>, login: Option<&Login>, dir: &Path) -> String {
    let proxy = |to: &str| {
        let (host, port) = to.strip_prefix("http://").unwrap().split_once(':').unwrap();
        format!("proxy.server = (\"\" => ((\"host\" => \"{host}\", \"port\" => {port})))\n")
    };
    let rest = hub.map_or(String::new(), |hub| format!("else {{\n{}}}", proxy(hub)));
    let backend = Finished::of(Command::new("git").arg("--exec-path"), PATIENCE).ok();
    let backend = PathBuf::from(backend.trim()).join("git-http-backend");
    let login = login.map_or(String::new(), |Login { user, password }| {
        let file = dir.join("passwords");
        std::fs::write(&file, format!("{user}:{password}\n")).unwrap();
        format!(
            "auth.backend = \"plain\"\n\
             auth.backend.plain.userfile = \"{}\"\n\
             auth.require = (\"\" => (\"method\" => \"basic\", \"realm\" => \"git\", \"require\" => \"valid-user\"))\n",
            file.display()
        )
    });
    format!(
        "server.modules += (\"mod_auth\", \"mod_authn_file\", \"mod_alias\", \"mod_setenv\", \"mod_proxy\", \"mod_cgi\")\n\
         $HTTP[\"url\"] =~ \"/info/lfs/\" {{\n\
             {}\
         }} else $HTTP[\"url\"] =~ \"/(info/refs|git-upload-pack)$\" {{\n\
             {login}\
             alias.url = (\"/\" => \"{}/\")\n\
             cgi.assign = (\"\" => \"\")\n\
             setenv.add-environment = (\"GIT_PROJECT_ROOT\" => \"{}\", \"GIT_HTTP_EXPORT_ALL\" => \"1\",\n\
                 \"PATH\" => \"/usr/local/bin:/usr/bin:/bin\")\n\
         }} {rest}\n",
        proxy(batch),
        backend.display(),
        repos.dir().display()
    )
}

/// Clones a revision with `git clone` and git-lfs into a new directory of a host's home, and returns the directory.
#[track_caller]
pub fn clone(host: &Host, url: &str, revision: &str, into: &str) -> PathBuf {
    let dir = host.home().join(into);
    let git = |args: &[&str]| {
        let mut git = host.command("git");
        Finished::of(git.env("GIT_TERMINAL_PROMPT", "0").args(args), PATIENCE).ok();
    };
    git(&["lfs", "install", "--skip-repo"]);
    git(&["clone", "-q", "--no-checkout", url, into]);
    git(&["-C", into, "checkout", "-q", revision]);
    dir
}

/// The SHA-256 of each file of a directory, by path, without `.git` and the files that silmaril adds to a model.
pub fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut files = hashes(dir, PATIENCE);
    files.retain(|path, _| !path.starts_with(".git/") && path != ".silmaril.json");
    files
}
