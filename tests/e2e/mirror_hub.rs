//! `mirror` of a repository of the hub, from the first byte to the swarm.

use std::path::Path;

use rustix::process::Signal;

use crate::support::fixtures::{hashes, minilm, python};
use crate::support::mirror::{HubNet, mirror, mirror_and_share, mirror_command, mirrored, tree};
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::{export, import};
use crate::support::web::faults::Fault;

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const WEIGHTS: &str = "model.safetensors";

#[test]
fn a_model_is_mirrored_shared_and_got_from_the_swarm() {
    let net = HubNet::new();
    let commit = net.repos.create(MINILM).commit(&minilm());
    net.hub.set_page_size(5);
    let (a, b) = (net.host("a", ""), net.host("b", ""));
    let share = mirror_and_share(&a, &[MINILM]);
    assert!(share.printed.contains(&format!("commit {commit}")), "{}", share.printed);
    let expected = hashes(&minilm(), PATIENCE);
    assert_eq!(tree(&mirrored(&a, MINILM)), expected);
    let left: Vec<_> = std::fs::read_dir(mirrored(&a, MINILM).parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "temporary files are left: {left:?}");

    // The second host gets the model by its name from the swarm, without the hub.
    net.unplug();
    b.run(&["get", MINILM]).ok();
    assert_eq!(tree(&mirrored(&b, MINILM)), expected);
    let manifest: serde_json::Value =
        serde_json::from_str(&b.run(&["registry", "export", MINILM]).ok()).unwrap();
    assert_eq!(manifest["source"]["commit"], commit);
    assert_eq!(manifest["source"]["kind"], "huggingface");
    assert_eq!(manifest["license"], "apache-2.0");
    let seed = format!("{}/{MINILM}/resolve/{commit}/", net.hub.url());
    assert_eq!(manifest["web_seeds"], serde_json::json!([seed]));
}

#[test]
fn a_mirrored_model_without_peers_is_read_from_the_hub() {
    let net = HubNet::new();
    net.repos.create(MINILM).commit(&minilm());
    let (a, c, d) = (net.host("a", ""), net.host("c", ""), net.host("d", ""));
    mirror(&a, &[MINILM, "--no-auto-share"]).ok();
    let manifest = export(&a, MINILM);
    // No host shares the model. The third host has only the manifest, and reads one tensor.
    import(&c, &manifest);
    let before = net.hub.log().all().len();
    let mounted = c.mount(&[]);
    let read = |path: &Path| {
        let script = "import sys; from safetensors import safe_open\n\
                      with safe_open(sys.argv[1], 'numpy') as f:\n    \
                      print(f.get_slice('embeddings.word_embeddings.weight')[2000:2010].tobytes().hex())";
        python(script, &[path], PATIENCE).ok()
    };
    let (file, expected) = (format!("{MINILM}/{WEIGHTS}"), read(&minilm().join(WEIGHTS)));
    assert_eq!(read(&mounted.path(&file)), expected);
    let asked: Vec<_> = net.hub.log().all().split_off(before);
    let asked: Vec<_> = asked.into_iter().filter(|asked| asked.site == "cdn").collect();
    let sent: u64 = asked.iter().map(|asked| asked.sent).sum();
    assert!(asked.iter().all(|asked| asked.status == 206), "{asked:#?}");
    assert!(sent <= 4 * (4 << 20), "{sent} bytes were sent for one tensor's rows: {asked:#?}");

    // The hub is gone, too. A fourth host reads the same rows from the third.
    net.unplug();
    import(&d, &manifest);
    let there = d.mount(&["--peer", &c.peer()]);
    assert_eq!(read(&there.path(&file)), expected);
}

#[test]
fn a_mirror_killed_twice_fetches_no_complete_file_again() {
    let net = HubNet::new();
    net.repos.create(MINILM).commit(&minilm());
    let a = net.host("a", "");
    net.hub.cdn_faults().always(WEIGHTS, Fault::Slow(20_000_000));
    let size = 90_868_376;
    for reached in [20_000_000, 50_000_000] {
        let mut process = Proc::spawn(&mut mirror_command(&a, &[MINILM], None));
        until("enough has come", PATIENCE, || net.hub.log().sent(WEIGHTS) > reached);
        process.signal(Signal::KILL);
        process.wait(PATIENCE);
        a.kill_node();
        assert!(!mirrored(&a, MINILM).join(WEIGHTS).exists(), "a partial file has its final name");
    }
    assert!(net.hub.log().sent(WEIGHTS) < size, "the test was too slow to kill in mid transfer");
    net.hub.cdn_faults().clear();
    mirror(&a, &[MINILM, "--no-auto-share"]).ok();
    assert_eq!(tree(&mirrored(&a, MINILM)), hashes(&minilm(), PATIENCE));
    let log = net.hub.log();
    for path in ["/tokenizer.json", "/vocab.txt", "/modules.json"] {
        let whole = log.of(path).iter().filter(|a| a.method == "GET" && a.status == 200).count();
        assert_eq!(whole, 1, "{path} was complete and was fetched again");
    }
    let asked = log.of(WEIGHTS).into_iter().filter(|a| a.site == "cdn").collect::<Vec<_>>();
    assert!(asked[1..].iter().all(|a| a.range.is_some()), "{asked:#?}");
    let again = log.sent(WEIGHTS).saturating_sub(size);
    // Eight ranges of 2 MiB are under way at each kill.
    assert!(again < 40_000_000, "{again} bytes were sent twice");
}

#[test]
fn only_changed_files_are_downloaded() {
    let net = HubNet::new();
    let repo = net.small("acme/m", "mit");
    let a = net.host("a", "");
    mirror(&a, &["acme/m", "--no-auto-share"]).ok();
    let log = net.hub.log();
    let before = log.all().len();
    let printed = mirror(&a, &["acme/m", "--no-auto-share"]).ok();
    assert!(printed.contains("up to date"), "{printed}");
    assert!(!log.all()[before..].iter().any(|a| a.path.contains("resolve")), "files were asked for again");

    let first = repo.resolve("main").unwrap();
    // The branch moves: one large file changes, and one small file is deleted.
    let next = net.tree("acme/m", "mit", 2);
    std::fs::remove_file(next.join("sub/a file+.json")).unwrap();
    let commit = repo.commit(&next);
    let before = log.sent("large.bin");
    let printed = mirror(&a, &["acme/m", "--no-auto-share"]).ok();
    assert!(printed.contains(&commit), "{printed}");
    assert_eq!(tree(&mirrored(&a, "acme/m")), hashes(&next, PATIENCE), "the directory has the new state");
    assert_eq!(log.sent("large.bin"), before, "an unchanged file was downloaded again");

    // The former commit is mirrored as a revision of its own.
    mirror(&a, &["acme/m", "--branch", &first, "--no-auto-share"]).ok();
    let there = mirrored(&a, &format!("acme/m@{first}"));
    assert_eq!(tree(&there), hashes(&net.tree("acme/m", "mit", 1), PATIENCE));
}

#[test]
fn edited_files_of_a_mirror_are_kept() {
    let net = HubNet::new();
    let repo = net.small("acme/m", "mit");
    let a = net.host("a", "");
    let dir = mirrored(&a, "acme/m");
    let again = || mirror(&a, &["acme/m", "--no-auto-share"]);
    again().ok();
    for (aside, commits) in [("config.json.edited", false), ("config.json.edited2", true)] {
        std::fs::write(dir.join("config.json"), aside).unwrap();
        if commits {
            let next = net.tree("acme/m", "mit", 2);
            std::fs::write(next.join("config.json"), "{}").unwrap();
            repo.commit(&next);
        }
        let end = again();
        assert!(end.stderr.contains(aside), "{}", end.stderr);
        end.ok();
        assert_eq!(std::fs::read_to_string(dir.join(aside)).unwrap(), aside);
    }
    assert_eq!(std::fs::read_to_string(dir.join("config.json")).unwrap(), "{}");
}

#[test]
fn a_mirror_killed_before_clean_up_cleans_up_later() {
    let net = HubNet::new();
    let repo = net.small("acme/m", "mit");
    let a = net.host("a", "");
    let dir = mirrored(&a, "acme/m");
    mirror(&a, &["acme/m", "--no-auto-share"]).ok();
    let manifest: serde_json::Value =
        serde_json::from_str(&a.run(&["registry", "export", "acme/m"]).ok()).unwrap();
    let record = format!("resume/{}.json", manifest["torrent"]["info_hash"].as_str().unwrap());
    let record = a.base().join(record);
    let recorded = std::fs::read(&record).unwrap();
    let (former, kept) = (dir.join("sub/a file+.json"), a.home().join("kept"));
    // The same inode, not a copy.
    std::fs::hard_link(&former, &kept).unwrap();
    let next = net.tree("acme/m", "mit", 2);
    std::fs::remove_file(next.join("sub/a file+.json")).unwrap();
    repo.commit(&next);
    mirror(&a, &["acme/m", "--no-auto-share"]).ok();
    assert!(!former.exists() && !record.exists());

    // This is the state after a kill when the model is already known.
    std::fs::rename(&kept, &former).unwrap();
    std::fs::write(&record, recorded).unwrap();
    let staging = dir.with_file_name(".m.mirror.silmaril-partial");
    std::fs::create_dir(&staging).unwrap();
    let printed = mirror(&a, &["acme/m", "--no-auto-share"]).ok();
    assert!(printed.contains("up to date"), "{printed}");
    assert_eq!(tree(&dir), hashes(&next, PATIENCE));
    for left in [&staging, &record] {
        assert!(!left.exists(), "{} is left", left.display());
    }
}

#[test]
fn a_branch_that_moves_during_a_mirror_changes_nothing() {
    let net = HubNet::new();
    let repo = net.small("acme/m", "mit");
    let first = net.tree("acme/m", "mit", 1);
    let a = net.host("a", "");
    net.hub.cdn_faults().always("large.bin", Fault::Slow(2_000_000));
    let mut process = Proc::spawn(&mut mirror_command(&a, &["acme/m", "--no-auto-share"], None));
    net.hub.log().wait_for(PATIENCE, |asked| asked.site == "cdn" && asked.sent > 0);
    repo.commit(&net.tree("acme/m", "mit", 2));
    assert!(process.is_running(), "the test was too slow to move the branch in mid mirror");
    process.finish(PATIENCE).ok();
    assert_eq!(tree(&mirrored(&a, "acme/m")), hashes(&first, PATIENCE));
}

#[test]
fn a_list_is_mirrored_to_its_end_despite_failures() {
    let net = HubNet::new();
    net.small("acme/one", "mit");
    net.small("acme/two", "apache-2.0");
    net.small("acme/closed", "llama3");
    let a = net.host("a", "");
    let list = a.home().join("list");
    std::fs::write(&list, "# models\nacme/one\nacme/none\n\nacme/two@main  # the other\nacme/closed\n")
        .unwrap();
    let args = ["--all", list.to_str().unwrap()];
    let run = mirror(&a, &args);
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("acme/none"), "{}", run.stderr);
    assert!(run.stderr.contains("1 of 4 repositories"), "{}", run.stderr);
    assert!(run.stderr.contains("acme/closed is not shared"), "{}", run.stderr);
    for model in ["acme/one", "acme/two", "acme/closed"] {
        assert!(mirrored(&a, model).join("large.bin").exists(), "{model}");
    }
    std::fs::write(&list, "acme/one\nacme/two\n").unwrap();
    let printed = mirror(&a, &args).ok();
    assert_eq!(printed.matches("up to date").count(), 2, "{printed}");
}

#[test]
fn datasets_and_hub_addresses_keep_their_names() {
    let net = HubNet::new();
    net.small("datasets/acme/corpus", "cc-by-4.0");
    let repo = net.small("acme/m", "mit");
    repo.tag("v1", &repo.resolve("main").unwrap());
    let a = net.host("a", "");
    mirror(&a, &["datasets/acme/corpus", "--no-auto-share"]).ok();
    assert!(mirrored(&a, "datasets/acme/corpus").join("large.bin").exists());
    let address = format!("{}/acme/m/tree/v1", net.hub.url());
    mirror(&a, &[&address, "--no-auto-share", "--name", "other/name"]).ok();
    assert!(mirrored(&a, "other/name@v1").join("large.bin").exists());
    let known = a.run(&["list"]).ok();
    assert!(known.contains("datasets/acme/corpus") && known.contains("other/name"), "{known}");
}
