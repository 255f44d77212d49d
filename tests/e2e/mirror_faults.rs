//! Faults of a hub or a git server during `mirror`: temporary ones are retried, permanent ones are reported, and
//! nothing is shared that must not be.

use std::time::{Duration, Instant};

use crate::support::fixtures::{hashes, model_dir};
use crate::support::git_server::{GitServer, Hrefs, Login, clone};
use crate::support::host::Host;
use crate::support::hub::{Access, MEMBER};
use crate::support::mirror::{HubNet, mirror, mirror_command, mirrored, tree};
use crate::support::process::{Finished, PATIENCE};
use crate::support::repos::{Repo, What};
use crate::support::web::faults::Fault;
use crate::support::web::place::Place;

const M: &str = "acme/m";
const LARGE: &str = "large.bin";

/// A hub with one repository, and a host to mirror it to.
fn setting() -> (HubNet, Repo, Host) {
    let net = HubNet::new();
    let repo = net.small(M, "mit");
    let host = net.host("a", "");
    (net, repo, host)
}

/// Mirrors with temporary faults. The result must be right.
#[track_caller]
fn assert_survives(prepare: impl FnOnce(&HubNet)) -> (HubNet, Host) {
    let (net, _, host) = setting();
    prepare(&net);
    mirror(&host, &[M, "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&host, M)), hashes(&net.tree(M, "mit", 1), PATIENCE));
    (net, host)
}

/// Mirrors with permanent faults: exit code 1, one error line, and no model.
#[track_caller]
fn assert_fails(prepare: impl FnOnce(&HubNet, &Repo)) -> String {
    let (net, repo, host) = setting();
    prepare(&net, &repo);
    let error = mirror(&host, &[M]).error(1);
    assert!(!mirrored(&host, M).exists(), "an incomplete model has its final directory");
    assert!(!host.run(&["list"]).ok().contains(M), "an incomplete model is known");
    error
}

#[test]
fn a_busy_hub_is_asked_again_after_its_retry_time() {
    for fault in [Fault::RetryAfter(2), Fault::RateLimit(2)] {
        let began = Instant::now();
        assert_survives(|net| net.hub.faults().times(1, "/api/", fault));
        assert!(began.elapsed() > Duration::from_secs(2), "the request was repeated too early");
    }
}

#[test]
fn a_truncated_body_is_continued() {
    let (net, _) = assert_survives(|net| net.hub.cdn_faults().times(2, LARGE, Fault::Truncated(1_000_000)));
    let asked: Vec<_> = net.hub.log().of(LARGE).into_iter().filter(|a| a.site == "cdn").collect();
    assert!(asked.last().unwrap().range.is_some(), "{asked:#?}");
    assert!(net.hub.log().sent(LARGE) < 4_000_000, "bytes were sent twice");
}

#[test]
fn servers_with_temporary_errors_are_retried() {
    assert_survives(|net| {
        net.hub.faults().times(2, "config.json", Fault::Status(503));
        net.hub.cdn_faults().times(1, LARGE, Fault::Status(500));
    });
}

#[test]
fn an_expired_link_is_requested_again() {
    let (net, _) = assert_survives(|net| net.hub.cdn_faults().times(1, LARGE, Fault::ExpiredLink));
    let asked = net.hub.log().of(LARGE).iter().filter(|a| a.site == "hub" && a.method == "GET").count();
    assert!(asked >= 2, "the hub was not requested to send another link");
}

#[test]
fn ignored_or_wrong_ranges_do_no_harm() {
    for fault in [Fault::IgnoresRange, Fault::OtherRange] {
        assert_survives(|net| {
            net.hub.cdn_faults().times(1, LARGE, Fault::Truncated(1_000_000));
            net.hub.cdn_faults().times(1, LARGE, fault);
        });
    }
}

#[test]
fn wrong_bytes_are_fetched_again_once_and_then_an_error() {
    assert_survives(|net| net.hub.cdn_faults().times(1, LARGE, Fault::WrongBytes));
    let error = assert_fails(|net, _| net.hub.cdn_faults().always(LARGE, Fault::WrongBytes));
    assert!(error.contains(LARGE), "{error}");
    let error = assert_fails(|net, _| net.hub.faults().always("config.json", Fault::WrongBytes));
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = assert_fails(|net, _| net.hub.faults().always(LARGE, Fault::NotFound));
    assert!(error.contains(LARGE), "{error}");
    let error = assert_fails(|_, repo| {
        let head = repo.resolve("main").unwrap();
        let What::Lfs(pointer) = repo.entry(&head, LARGE).unwrap().what else { panic!("not in LFS") };
        std::fs::remove_file(repo.lfs_object(&pointer.sha256).unwrap()).unwrap();
    });
    assert!(error.contains(LARGE), "{error}");
}

#[test]
fn a_missing_or_wrong_token_is_reported_with_help() {
    let (net, _, host) = setting();
    net.hub.faults().always("/api/", Fault::Unauthorized);
    let run = mirror(&host, &[M]);
    assert!(run.stderr.contains("needs a token"), "{}", run.stderr);
    run.error(1);
    // A token that the hub does not know.
    net.hub.faults().clear();
    let run = Finished::of(&mut mirror_command(&host, &[M], Some("hf_wrong")), PATIENCE);
    assert!(!run.stderr.contains("hf_wrong"), "{}", run.stderr);
    run.error(1);
}

#[test]
fn a_token_does_not_follow_redirects_to_other_hosts() {
    let (net, _, host) = setting();
    net.hub.faults().times(1, "config.json", Fault::Redirect(net.hub.cdn_url().to_owned()));
    let run = Finished::of(&mut mirror_command(&host, &[M, "--no-auto-share"], Some(MEMBER)), PATIENCE);
    // The other host does not have the file. The test checks which headers the host received.
    assert!(run.status.code().is_some(), "{run:?}");
    let log = net.hub.log();
    assert!(log.of("config.json").iter().any(|a| a.site == "cdn"), "the redirect was not followed");
    assert!(log.all().iter().filter(|a| a.site == "cdn").all(|a| a.authorization.is_none()), "{log:#?}");
}

#[test]
fn a_missing_repository_or_branch_is_not_found() {
    let (net, _, host) = setting();
    let error = mirror(&host, &["acme/none"]).error(1);
    assert!(error.contains("acme/none"), "{error}");
    let error = mirror(&host, &[M, "--branch", "nowhere"]).error(1);
    assert!(error.contains("nowhere"), "{error}");
    for bad in ["not a name", "git@git.example:a/b", "a/b/c/d"] {
        mirror(&host, &[bad]).error(2);
    }
    net.unplug();
    mirror(&host, &["acme/none"]).error(1);
}

/// The line with the info hash in the output of `mirror`.
#[track_caller]
fn info_hash(printed: &str) -> String {
    printed.lines().find(|l| l.starts_with("info hash")).unwrap().to_owned()
}

/// A git host with the repository of [`setting`], and its address.
fn git(net: &HubNet, login: Option<Login>) -> (GitServer, String) {
    let place = Place::from(&net.server);
    let server = match login {
        Some(login) => GitServer::private(&place, &net.repos, login),
        None => GitServer::start(&place, &net.repos),
    };
    let url = server.url(M);
    (server, url)
}

#[test]
fn a_git_host_gives_the_same_files_and_swarm_as_the_hub() {
    let (net, repo, a) = setting();
    repo.tag("v1", &repo.resolve("main").unwrap());
    let (_server, url) = git(&net, None);
    let b = net.host("b", "");
    let commit = repo.resolve("main").unwrap();
    let printed = mirror(&b, &[&url, "--no-auto-share"]).ok();
    assert!(printed.contains(&commit), "{printed}");
    assert_eq!(tree(&mirrored(&b, M)), crate::support::git_server::tree(&clone(&b, &url, "main", "oracle")));

    let of_hub = mirror(&a, &[M, "--no-auto-share"]).ok();
    assert_eq!(info_hash(&printed), info_hash(&of_hub), "two mirrors of one commit are two swarms");

    // A tag with its whole history, as a revision of its own.
    mirror(&b, &[&url, "--branch", "v1", "--depth", "0", "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&b, "acme/m@v1")), tree(&mirrored(&b, M)));
    let manifest = b.run(&["registry", "export", M]).ok();
    assert!(manifest.contains(&url) && manifest.contains(&commit), "{manifest}");

    // `remove` deletes the stored git data as well.
    let history = b.base().join("mirror/acme/m.git");
    assert!(history.exists());
    b.run(&["remove", M]).ok();
    assert!(!history.exists() && !mirrored(&b, M).exists());
}

#[test]
fn the_history_of_a_hub_repository_gives_the_same_swarm() {
    let (net, repo, a) = setting();
    let former = repo.resolve("main").unwrap();
    let commit = repo.commit(&net.tree(M, "mit", 2));
    let origin = GitServer::before_hub(&Place::from(&net.server), &net.repos, net.hub.url(), None);
    let b = net.host_of(&origin.origin(), "b", "");
    let printed = mirror(&b, &[M, "--depth", "0", "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&b, M)), hashes(&net.tree(M, "mit", 2), PATIENCE));
    let of_hub = mirror(&a, &[M, "--no-auto-share"]).ok();
    assert_eq!(info_hash(&printed), info_hash(&of_hub), "git and the API of one hub are two swarms");
    // The files and the history came over git. The hub's file routes received no request.
    let served = origin.served();
    assert!(served.iter().any(|asked| asked.path.ends_with("/git-upload-pack")), "{served:?}");
    assert!(!served.iter().any(|asked| asked.path.contains("/resolve/")), "{served:?}");
    let history = b.base().join("mirror/acme/m.git");
    let mut git = b.command("git");
    let log = Finished::of(git.arg("-C").arg(&history).args(["log", "--format=%H", &commit]), PATIENCE).ok();
    assert_eq!(log.lines().collect::<Vec<_>>(), [&commit, &former]);
    // The manifest has the same facts of the hub as one that was made with the API.
    let manifest = b.run(&["registry", "export", M]).ok();
    for part in [format!("{}/{M}", origin.origin()), format!("/resolve/{commit}"), "\"mit\"".to_owned()] {
        assert!(manifest.contains(&part), "no {part} in {manifest}");
    }

    // Only the hub's API knows that a repository is gated. Files of a gated one that came over git are not shared.
    net.hub.set_access(M, Access::Gated);
    let c = net.host_of(&origin.origin(), "c", "");
    let error = Finished::of(&mut mirror_command(&c, &[M, "--depth", "0"], Some(MEMBER)), PATIENCE).error(1);
    assert!(error.contains("acme/m is not shared") && error.contains("gated"), "{error}");
    assert!(mirrored(&c, M).join(LARGE).exists());
}

#[test]
fn a_git_password_in_the_address_stays_secret() {
    let (net, _, a) = setting();
    let login = Login { user: "me".to_owned(), password: "sEcReT".to_owned() };
    let (_server, url) = git(&net, Some(login));
    let run = mirror(&a, &[&url]);
    run.error(1);
    let with = url.replacen("http://", "http://me:sEcReT@", 1);
    let run = mirror(&a, &[&with]);
    assert!(!run.stderr.contains("sEcReT") && !run.stdout.contains("sEcReT"), "{run:?}");
    let error = run.error(1);
    assert!(error.contains("private"), "{error}");
    assert!(!a.run(&["registry", "export", M]).ok().contains("sEcReT"));
    assert_eq!(tree(&mirrored(&a, M)), hashes(&net.tree(M, "mit", 1), PATIENCE));
}

#[test]
fn a_repository_opened_by_a_credential_helper_is_private() {
    let (net, _, a) = setting();
    let login = Login { user: "me".to_owned(), password: "sEcReT".to_owned() };
    let (_server, url) = git(&net, Some(login));
    let stored = a.home().join("stored");
    std::fs::write(&stored, url.replacen("http://", "http://me:sEcReT@", 1)).unwrap();
    let helper =
        format!("[credential]\n\thelper = store --file {}\n\tuseHttpPath = true\n", stored.display());
    std::fs::write(a.home().join(".gitconfig"), helper).unwrap();
    let error = mirror(&a, &[&url]).error(1);
    assert!(error.contains("acme/m is not shared") && error.contains("private"), "{error}");
    assert_eq!(tree(&mirrored(&a, M)), hashes(&net.tree(M, "mit", 1), PATIENCE));
}

#[test]
fn a_token_in_a_hub_address_opens_private_repositories() {
    let (net, _, _) = setting();
    net.hub.set_access(M, Access::Private);
    let login = Login { user: "me".to_owned(), password: MEMBER.to_owned() };
    let origin = GitServer::before_hub(&Place::from(&net.server), &net.repos, net.hub.url(), Some(login));
    let b = net.host_of(&origin.origin(), "b", "");
    let address = format!("{}/{M}", origin.origin()).replacen("http://", &format!("http://me:{MEMBER}@"), 1);
    let run = mirror(&b, &[&address]);
    assert!(!run.stderr.contains(MEMBER) && !run.stdout.contains(MEMBER), "{run:?}");
    let error = run.error(1);
    assert!(error.contains("acme/m is not shared") && error.contains("private"), "{error}");
    assert_eq!(tree(&mirrored(&b, M)), hashes(&net.tree(M, "mit", 1), PATIENCE));
}

#[test]
fn lfs_objects_are_retried_and_named_when_lost() {
    let (net, repo, a) = setting();
    let (server, url) = git(&net, None);
    let head = repo.resolve("main").unwrap();
    let What::Lfs(pointer) = repo.entry(&head, LARGE).unwrap().what else { panic!("not in LFS") };
    server.set_hrefs(Hrefs::SignedQuery);
    server.faults().times(1, "/objects/batch", Fault::RetryAfter(1));
    server.object_faults().times(1, &pointer.sha256, Fault::ExpiredLink);
    server.object_faults().times(1, &pointer.sha256, Fault::Truncated(1_000_000));
    server.object_faults().times(1, &pointer.sha256, Fault::WrongBytes);
    mirror(&a, &[&url, "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&a, M)), hashes(&net.tree(M, "mit", 1), PATIENCE));

    std::fs::remove_file(repo.lfs_object(&pointer.sha256).unwrap()).unwrap();
    let b = net.host("b", "");
    let error = mirror(&b, &[&url]).error(1);
    assert!(error.contains(LARGE), "{error}");
    assert!(!mirrored(&b, M).exists());
    // The pointer of a lost object can still be mirrored.
    let run = mirror(&b, &[&url, "--skip-lfs"]);
    assert!(run.stderr.contains("pointers"), "{}", run.stderr);
    run.ok();
}

#[test]
fn a_file_in_the_way_is_refused_before_downloading() {
    let net = HubNet::new();
    net.small(M, "mit");
    let a = net.host("a", "");
    let dir = mirrored(&a, M);
    model_dir(&dir, &[("README.md", b"mine")]);
    let error = mirror(&a, &[M, "--no-auto-share"]).error(1);
    assert!(error.contains("README.md exists already and is another file"), "{error}");
    assert!(net.hub.log().of(LARGE).is_empty(), "the large files came first");
    std::fs::remove_file(dir.join("README.md")).unwrap();
    mirror(&a, &[M, "--no-auto-share"]).ok();
    assert!(!net.hub.log().of(LARGE).is_empty());
}
