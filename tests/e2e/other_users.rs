//! Another user of the same machine, who can write to the directory that a model is fetched into.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::support::fixtures::{hashes, model_dir, noise};
use crate::support::host::Host;
use crate::support::manifests::read;
use crate::support::net::{Net, sh};
use crate::support::process::{Finished, PATIENCE, Proc, until};
use crate::support::share::{Share, import, share};

/// Runs a shell script as the other user.
fn as_other_user(script: &str) {
    sh(&format!("setpriv --reuid=65533 --regid=65533 --clear-groups -- sh -ec '{script}'"));
}

/// A user with private files, a directory in which all users can write, and a model that a peer shares.
struct Setup {
    _net: Net,
    sharer: Host,
    victim: Host,
    shared: PathBuf,
    share: Share,
}

impl Setup {
    fn new(mode: &str) -> Self {
        let net = Net::new();
        let (sharer, victim) = (net.host("a"), net.host("b"));
        let weights = noise(7, 24 << 20);
        let model = model_dir(&sharer.home().join("m"), &[("sub/w.bin", &weights), ("x.json", b"{}")]);
        let share = share(&sharer, &model, "acme/m", &["--piece-length", "1MiB"]);
        import(&victim, &share.manifest);
        let shared = net.dir().join("shared");
        std::fs::create_dir(&shared).unwrap();
        sh(&format!("chmod {mode} {}; chmod 755 {}", shared.display(), victim.home().display()));
        std::fs::write(victim.home().join(".bashrc"), "mine").unwrap();
        sh(&format!("chmod 600 {}/.bashrc", victim.home().display()));
        Self { _net: net, sharer, victim, shared, share }
    }

    fn get(&self, more: &[&str]) -> Proc {
        let peer = self.sharer.peer();
        let args = [&["get", "acme/m", "--peer", &peer, "--seed=false"][..], more].concat();
        Proc::spawn(&mut self.victim.silmaril_unprivileged(&args))
    }

    fn out(&self) -> PathBuf {
        self.shared.join("out")
    }

    fn get_out(&self) -> Proc {
        self.get(&["-o", self.out().to_str().unwrap()])
    }

    /// The directory in which the files of the model are collected.
    fn staging(&self) -> PathBuf {
        let manifest = read(&self.share.manifest);
        let hash = manifest["torrent"]["info_hash"].as_str().unwrap().to_owned();
        self.shared.join(format!(".out.{}.silmaril-partial", &hash[..16]))
    }

    /// The names of the files in which contents are collected.
    fn contents(&self) -> Vec<String> {
        let manifest = read(&self.share.manifest);
        let files = manifest["files"].as_array().unwrap().iter();
        files.map(|f| format!("{}.{}", f["pieces_root"].as_str().unwrap(), f["size"])).collect()
    }

    #[track_caller]
    fn assert_unharmed(&self) {
        let file = self.victim.home().join(".bashrc");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine", "a file of the user was overwritten");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "a private file is readable");
    }

    #[track_caller]
    fn assert_whole(&self, dir: &Path) {
        let mut got = hashes(dir, PATIENCE);
        got.remove(".silmaril.json");
        assert_eq!(got, hashes(&self.sharer.home().join("m"), PATIENCE));
    }
}

#[test]
fn staging_made_by_another_user_is_refused() {
    for kind in ["directory", "link"] {
        let setup = Setup::new("1777");
        let (staging, bashrc) = (setup.staging(), setup.victim.home().join(".bashrc"));
        let links: String = setup
            .contents()
            .iter()
            .map(|name| format!("ln -s {} {}/{name}; ", bashrc.display(), staging.display()))
            .collect();
        match kind {
            "directory" => as_other_user(&format!("mkdir -m 777 {0}; {links}", staging.display())),
            _ => as_other_user(&format!("ln -s {} {}", setup.victim.home().display(), staging.display())),
        }
        let error = setup.get_out().finish(PATIENCE).error(1);
        assert!(error.contains(staging.to_str().unwrap()), "{error}");
        setup.assert_unharmed();
        assert!(!setup.out().join("sub").exists());
        sh(&format!("rm -r {}", staging.display()));
        setup.get_out().finish(PATIENCE).ok();
        setup.assert_whole(&setup.out());
        assert!(!staging.exists());
    }
}

#[test]
fn a_link_in_place_of_the_staging_directory_is_not_followed() {
    for kind in ["link", "directory"] {
        let setup = Setup::new("777");
        setup.sharer.limit_rate("40mbit");
        let (staging, bashrc) = (setup.staging(), setup.victim.home().join(".bashrc"));
        // Files that the daemon has open continue to be written. The link would catch only files that it opens later.
        let getting = setup.get_out();
        until("some of it has come", PATIENCE, || setup.victim.received() > 4 << 20);
        let links: String = setup
            .contents()
            .iter()
            .map(|name| format!("ln -s {} {}/evil/{name}; ", bashrc.display(), setup.shared.display()))
            .collect();
        let evil = setup.shared.join("evil");
        let put = if kind == "link" { "ln -s" } else { "mv" };
        as_other_user(&format!(
            "mkdir -m 777 {0}; {links} mv {1} {1}.away; {put} {0} {1}",
            evil.display(),
            staging.display()
        ));
        let done = getting.finish(PATIENCE);
        // The daemon would make the directory again while the test moves it back.
        setup.victim.stop_background_daemon();
        setup.assert_unharmed();
        assert!(!done.status.success(), "`get` wrote into another user's directory\n{}", done.stdout);
        assert!(done.stderr.contains("error: "), "{}", done.stderr);
        // After the directory is moved back, the next call continues.
        sh(&format!("rm -r {0}; mv {0}.away {0}", staging.display()));
        setup.get_out().finish(PATIENCE).ok();
        setup.assert_whole(&setup.out());
        setup.assert_unharmed();
    }
}

#[test]
fn links_in_place_of_files_are_not_followed() {
    let setup = Setup::new("777");
    let (out, home) = (setup.out(), setup.victim.home().to_owned());
    for (put, link) in [
        (format!("ln -s {} {}", home.display(), out.display()), out.clone()),
        (format!("mkdir -m 777 {0}; ln -s {1} {0}/sub", out.display(), home.display()), out.join("sub")),
        (
            format!("mkdir -m 777 {0}; ln -s {1}/.bashrc {0}/x.json", out.display(), home.display()),
            out.join("x.json"),
        ),
        (
            format!("mkdir -m 777 {0}; ln -s {1}/new {0}/.silmaril.json", out.display(), home.display()),
            PathBuf::new(),
        ),
        (format!("mkdir -m 777 {0}; mkfifo {0}/x.json", out.display()), out.join("x.json")),
    ] {
        as_other_user(&put);
        let done = setup.get_out().finish(PATIENCE);
        if link.as_os_str().is_empty() {
            done.ok();
            assert!(out.join(".silmaril.json").symlink_metadata().unwrap().is_file());
            setup.assert_whole(&out);
        } else {
            let error = done.error(1);
            assert!(error.contains(link.to_str().unwrap()), "{error}");
        }
        setup.assert_unharmed();
        assert!(!home.join("w.bin").exists() && !home.join("new").exists() && !home.join("sub").exists());
        sh(&format!("rm -rf {}", out.display()));
    }
}

#[test]
fn models_dir_may_be_writable_by_all_users() {
    let setup = Setup::new("1777");
    let shared = setup.shared.display();
    setup.victim.configure(&format!("storage:\n  models_dir: {shared}\n"));
    let home = setup.victim.home().to_owned();
    let org = setup.shared.join("acme");
    as_other_user(&format!("ln -s {} {}", home.display(), org.display()));
    let error = setup.get(&[]).finish(PATIENCE).error(1);
    assert!(error.contains(org.to_str().unwrap()), "{error}");
    assert!(!home.join("m").exists());
    // A directory of the other user may be used, but nothing in it is trusted.
    as_other_user(&format!("rm {0}; mkdir -m 777 {0}; ln -s {1} {0}/m", org.display(), home.display()));
    let error = setup.get(&[]).finish(PATIENCE).error(1);
    assert!(error.contains("acme/m"), "{error}");
    as_other_user(&format!("rm {}/m", org.display()));
    setup.get(&[]).finish(PATIENCE).ok();
    setup.assert_whole(&org.join("m"));
    setup.assert_unharmed();
}

#[test]
fn a_linked_home_and_own_links_still_work() {
    let setup = Setup::new("755");
    let (home, linked) = (setup.victim.home().to_owned(), setup.shared.join("home"));
    std::os::unix::fs::symlink(&home, &linked).unwrap();
    let get = |more: &[&str]| {
        let peer = setup.sharer.peer();
        let args = [&["get", "acme/m", "--peer", &peer, "--seed=false"][..], more].concat();
        let mut command = setup.victim.silmaril_unprivileged(&args);
        Finished::of(command.env("HOME", &linked), PATIENCE).ok();
    };
    sh(&format!(
        "mkdir -p {0}/big {0}/.silmaril/models; ln -s ../../big {0}/.silmaril/models/acme",
        home.display()
    ));
    get(&[]);
    setup.assert_whole(&home.join("big/m"));
    get(&["-o", linked.join("out").to_str().unwrap()]);
    setup.assert_whole(&home.join("out"));
}
