//! Tests of the hub that other tests use, with the real client: it behaves like the real hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::fixtures::{downloaded, hashes, minilm, model_dir, noise};
use crate::support::host::Host;
use crate::support::hub::{Access, Hub, MEMBER, STRANGER};
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE};
use crate::support::repos::{Repo, Repos};
use crate::support::web::faults::Fault;
use crate::support::web::place::Place;

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const ATTRIBUTES: &[u8] = b"*.bin filter=lfs diff=lfs merge=lfs -text\n";

/// A hub on one host, and the real client on another host that can reach only the hub.
struct Hf {
    hub: Hub,
    repos: Repos,
    user: Host,
    _server: Host,
    _net: Net,
}

impl Hf {
    fn new() -> Self {
        let net = Net::new();
        let (server, user) = (net.host("server"), net.host("user"));
        let repos = Repos::new();
        let hub = Hub::start(&Place::from(&server), &repos);
        Self { hub, repos, user, _server: server, _net: net }
    }

    /// A repository of a few small files, one of which is in LFS.
    fn small(&self, id: &str) -> Repo {
        let repo = self.repos.create(id);
        repo.commit(&model_dir(
            &self.user.home().join(id),
            &[
                (".gitattributes", ATTRIBUTES),
                ("README.md", b"---\nlicense: mit\n---\n# A model\n"),
                ("config.json", b"{}"),
                ("sub/a file+.json", b"[1]"),
                ("sub/weights.bin", &noise(1, 300_000)),
            ],
        ));
        repo
    }

    fn command(&self, program: &str, token: Option<&str>) -> Command {
        let mut command = self.user.command(downloaded(program));
        command
            .env("HF_ENDPOINT", self.hub.url())
            .env("HF_HOME", self.user.home().join("hf"))
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env("HF_HUB_DISABLE_UPDATE_CHECK", "1")
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
        if let Some(token) = token {
            command.env("HF_TOKEN", token);
        }
        command
    }

    /// `hf download`, into a new directory of the user's home.
    fn download(&self, out: &str, args: &[&str], token: Option<&str>) -> PathBuf {
        let out = self.user.home().join(out);
        let mut command = self.command("venv/bin/hf", token);
        command.arg("download").args(args).arg("--local-dir").arg(&out);
        Finished::of(&mut command, PATIENCE).ok();
        out
    }

    /// Runs a script that uses huggingface_hub.
    fn python(&self, script: &str, token: Option<&str>) -> Finished {
        let mut command = self.command("venv/bin/python", token);
        Finished::of(command.args(["-I", "-c", script]), PATIENCE)
    }
}

/// The files of a directory without the client's cache.
fn content(dir: &Path) -> BTreeMap<String, String> {
    let mut files = hashes(dir, PATIENCE);
    files.retain(|path, _| !path.starts_with(".cache/"));
    files
}

#[test]
fn hf_download_sends_its_token_only_to_the_hub() {
    let hf = Hf::new();
    hf.repos.create(MINILM).commit(&minilm());
    hf.hub.set_page_size(5);
    let out = hf.download("out", &[MINILM], Some(STRANGER));
    assert_eq!(content(&out), hashes(&minilm(), PATIENCE));

    let bearer = Some(format!("Bearer {STRANGER}"));
    let log = hf.hub.log();
    assert!(log.of(MINILM).iter().filter(|a| a.site == "hub").all(|a| a.authorization == bearer));
    let cdn: Vec<_> = log.all().into_iter().filter(|asked| asked.site == "cdn").collect();
    assert!(cdn.iter().all(|asked| asked.authorization.is_none()), "{cdn:#?}");
    assert_eq!(log.sent("/lfs/"), 90_868_376);
    assert_eq!(log.of("/tree/").len(), 3, "13 files and a directory, 5 a page");
}

#[test]
fn branches_tags_and_commits_are_served() {
    let hf = Hf::new();
    let repo = hf.small("org/name");
    let first = repo.resolve("main").unwrap();
    repo.tag("v1.0", &first);
    let changed = model_dir(&hf.user.home().join("changed"), &[("config.json", b"{\"a\": 1}")]);
    let second = repo.commit(&changed);
    repo.branch("refs/heads", &first);

    let old = content(&hf.user.home().join("org/name"));
    assert_eq!(content(&hf.download("a", &["org/name"], None)), content(&changed));
    for (out, revision) in [("b", "v1.0"), ("c", &first[..]), ("d", "refs/heads/refs/heads")] {
        assert_eq!(
            content(&hf.download(out, &["org/name", "--revision", revision], None)),
            old,
            "{revision}"
        );
    }
    repo.branch("main", &first);
    assert_eq!(content(&hf.download("e", &["org/name"], None)), old);
    assert_eq!(content(&hf.download("f", &["org/name", "--revision", &second], None)), content(&changed));
    let script = "from huggingface_hub import HfApi\n\
        from huggingface_hub.errors import RevisionNotFoundError\n\
        try: HfApi().model_info('org/name', revision='v2')\n\
        except RevisionNotFoundError: print('no such revision')\n";
    assert_eq!(hf.python(script, None).ok(), "no such revision\n");
}

#[test]
fn cut_download_is_resumed() {
    let hf = Hf::new();
    hf.repos.create(MINILM).commit(&minilm());
    hf.hub.cdn_faults().times(1, "model.safetensors", Fault::Truncated(30_000_000));
    let out = hf.download("out", &[MINILM, "model.safetensors"], None);
    assert_eq!(content(&out)["model.safetensors"], hashes(&minilm(), PATIENCE)["model.safetensors"]);

    let asked = hf.hub.log().of("/lfs/");
    assert_eq!(asked.len(), 2, "{asked:#?}");
    let from = asked[1].range.as_ref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
    let from: u64 = from.unwrap().parse().unwrap();
    assert!(from > 20_000_000 && from <= 30_000_000, "resumed at {from}");
    assert_eq!((asked[0].sent, asked[1].sent), (30_000_000, 90_868_376 - from));
    assert_eq!((asked[0].status, asked[1].status), (200, 206));
}

#[test]
fn patterns_select_the_files_of_a_snapshot() {
    let hf = Hf::new();
    hf.small("org/name");
    let script = "from huggingface_hub import snapshot_download\n\
        import os, sys\n\
        dir = snapshot_download('org/name', allow_patterns=['*.json', '*.md'], ignore_patterns=['config*'])\n\
        print(sorted(os.path.relpath(os.path.join(d, f), dir) for d, _, fs in os.walk(dir) for f in fs))\n";
    assert_eq!(hf.python(script, None).ok(), "['README.md', 'sub/a file+.json']\n");
    assert_eq!(hf.hub.log().sent("weights.bin"), 0);
}

#[test]
fn gated_and_private_repositories_are_refused() {
    let hf = Hf::new();
    hf.small("org/gated");
    hf.small("org/private");
    hf.hub.set_access("org/gated", Access::Gated);
    hf.hub.set_access("org/private", Access::Private);
    let script = "from huggingface_hub import HfApi, hf_hub_download\n\
        from huggingface_hub.errors import HfHubHTTPError\n\
        for repo in ['org/gated', 'org/private', 'org/nothing']:\n    \
            for ask in [lambda: HfApi().model_info(repo).gated,\n                \
                        lambda: len(list(HfApi().list_repo_tree(repo, recursive=True))),\n                \
                        lambda: open(hf_hub_download(repo, 'config.json')).read()]:\n        \
                try: print(repo, ask())\n        \
                except HfHubHTTPError as e: print(repo, type(e).__name__, e.response.status_code)\n";
    assert_eq!(
        hf.python(script, None).ok(),
        "org/gated manual\norg/gated 6\norg/gated GatedRepoError 401\n\
         org/private RepositoryNotFoundError 401\norg/private RepositoryNotFoundError 401\n\
         org/private RepositoryNotFoundError 401\norg/nothing RepositoryNotFoundError 401\n\
         org/nothing RepositoryNotFoundError 401\norg/nothing RepositoryNotFoundError 401\n"
    );
    assert_eq!(
        hf.python(script, Some(STRANGER)).ok(),
        "org/gated manual\norg/gated 6\norg/gated GatedRepoError 403\n\
         org/private RepositoryNotFoundError 404\norg/private RepositoryNotFoundError 404\n\
         org/private RepositoryNotFoundError 404\norg/nothing RepositoryNotFoundError 404\n\
         org/nothing RepositoryNotFoundError 404\norg/nothing RepositoryNotFoundError 404\n"
    );
    assert_eq!(
        hf.python(script, Some(MEMBER)).ok(),
        "org/gated manual\norg/gated 6\norg/gated {}\norg/private False\norg/private 6\norg/private {}\n\
         org/nothing RepositoryNotFoundError 404\norg/nothing RepositoryNotFoundError 404\n\
         org/nothing RepositoryNotFoundError 404\n"
    );
    for repo in ["org/gated", "org/private"] {
        let name = repo.replace('/', "-");
        assert_eq!(content(&hf.download(&name, &[repo], Some(MEMBER))), content(&hf.user.home().join(repo)));
    }
}

#[test]
fn datasets_are_separate_from_models() {
    let hf = Hf::new();
    hf.small("datasets/org/name");
    let out = hf.download("out", &["org/name", "--repo-type", "dataset"], None);
    assert_eq!(content(&out), content(&hf.user.home().join("datasets/org/name")));
    let script = "from huggingface_hub import HfApi\n\
        i = HfApi().dataset_info('org/name', files_metadata=True)\n\
        print(i.id, i.card_data.license, i.tags, [(s.rfilename, s.size) for s in i.siblings][-1], \
              HfApi().repo_exists('org/name'))\n";
    assert_eq!(
        hf.python(script, Some(MEMBER)).ok(),
        "org/name mit ['license:mit'] ('sub/weights.bin', 300000) False\n"
    );
}

#[tokio::test]
async fn redirects_lead_to_the_bytes_and_links_expire() {
    let repos = Repos::new();
    let dir = tempfile::tempdir().unwrap();
    let weights = noise(2, 100_000);
    let files: [(&str, &[u8]); 2] = [(".gitattributes", ATTRIBUTES), ("sub/a b.bin", &weights)];
    repos.create("org/name").commit(&model_dir(&dir.path().join("model"), &files));
    let hub = Hub::start(&Place::loopback(), &repos);
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    let client = client.redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let get = |url: String| {
        let client = client.clone();
        async move { client.get(url).send().await.unwrap() }
    };
    let file = format!("{}/org/name/resolve/main/sub/a%20b.bin", hub.url());
    let link = async || {
        let response = get(file.clone()).await;
        assert_eq!(response.status(), 302);
        assert_eq!(response.headers()["x-linked-size"], "100000");
        response.headers()["location"].to_str().unwrap().to_owned()
    };

    let old = link().await;
    assert!(old.starts_with(hub.cdn_url()));
    assert_eq!(get(old.clone()).await.bytes().await.unwrap(), weights);
    assert_eq!(get(old.replace("Signature=", "Signature=0")).await.status(), 403);
    hub.expire_links();
    assert_eq!(get(old).await.status(), 403);
    assert_eq!(get(link().await).await.bytes().await.unwrap(), weights);
    assert_eq!(get(format!("{}/org/name/resolve/main/sub", hub.url())).await.status(), 404);

    // A fault of a small file affects its bytes, not the redirect to them.
    hub.faults().times(1, ".gitattributes", Fault::WrongBytes);
    let redirect = get(format!("{}/org/name/resolve/main/.gitattributes", hub.url())).await;
    assert_eq!(redirect.status(), 307);
    let place = format!("{}{}", hub.url(), redirect.headers()["location"].to_str().unwrap());
    let wrong = get(place.clone()).await.bytes().await.unwrap();
    assert!(wrong.len() == ATTRIBUTES.len() && wrong != ATTRIBUTES);
    assert_eq!(get(place).await.bytes().await.unwrap(), ATTRIBUTES);
}

#[test]
fn renamed_repository_is_found_by_its_old_name() {
    let hf = Hf::new();
    hf.small("org/new");
    hf.hub.moved("org/old", "org/new");
    let out = hf.download("out", &["org/old"], None);
    assert_eq!(content(&out), content(&hf.user.home().join("org/new")));
}

#[test]
fn client_waits_for_the_requested_pause() {
    let hf = Hf::new();
    hf.small("org/name");
    hf.hub.cdn_faults().times(1, "weights.bin", Fault::RetryAfter(1));
    hf.hub.faults().times(1, "/tree/", Fault::RateLimit(1));
    let out = hf.download("out", &["org/name"], None);
    assert_eq!(content(&out), content(&hf.user.home().join("org/name")));
    let statuses = |path| hf.hub.log().of(path).iter().map(|asked| asked.status).collect::<Vec<_>>();
    assert_eq!(statuses("/lfs/"), [429, 200]);
    assert_eq!(statuses("/tree/"), [429, 200]);
}
