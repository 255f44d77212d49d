//! The hub as a witness: of two strangers' manifests for a name of the hub the true one is used, and false bytes are never read.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Value, json};

use super::rig::{LARGE, SHORT, info_hash, listed, mount_with, read_at, status};
use crate::support::fixtures::{dd, hashes, noise};
use crate::support::host::{Host, Mounted};
use crate::support::manifests;
use crate::support::mirror::{HubNet, mirror_and_share, mirrored, tree};
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::share::export;
use crate::support::web::faults::Fault;

const NAME: &str = "acme/m";

/// What is false in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// The bytes of a large file, with their own SHA-256.
    Hash,
    /// The bytes of a large file, with the SHA-256 that the hub lists: only the pieces root is false.
    Root,
    /// The bytes of a small file, of which the hub lists no SHA-256.
    Small,
}

/// A hub, and a host that reads.
struct Scene {
    net: HubNet,
    carol: Host,
}

impl Scene {
    fn new(more: &str) -> Self {
        let net = HubNet::new();
        net.small(NAME, "mit");
        let carol = net.host("carol", &format!("{more}{SHORT}"));
        carol.run(&["init"]).ok();
        Self { net, carol }
    }

    fn commit(&self) -> String {
        self.net.repos.find(NAME).unwrap().resolve("main").unwrap()
    }

    /// The files of the repository.
    fn files(&self) -> BTreeMap<String, String> {
        hashes(&self.net.tree(NAME, "mit", 1), PATIENCE)
    }

    /// A host that shares a false manifest of the name, signed with its own key. The daemon runs until the returned process is
    /// dropped.
    fn liar(&self, lie: Lie) -> (Host, Proc) {
        let host = self.net.host("mallory", SHORT);
        let dir = self.net.tree(NAME, "mit", 7);
        fs::write(dir.join("sub/changing.bin"), noise(1, 1_000_000)).unwrap();
        match lie {
            Lie::Hash | Lie::Root => {
                let mut large = LARGE.with(Clone::clone);
                large[1_234_567] ^= 1;
                fs::write(dir.join("large.bin"), large).unwrap();
            }
            Lie::Small => fs::write(dir.join("config.json"), b"{\"model_type\": \"evil\"}").unwrap(),
        }
        let sharing =
            host.spawn(&["share", "-f", dir.to_str().unwrap(), "--name", "evil/m", "--license", "mit"]);
        sharing.wait_for_line("seeding", PATIENCE);
        let mut manifest = manifests::read(&export(&host, "evil/m"));
        manifest["name"] = NAME.into();
        manifest["source"] = json!({"kind": "huggingface", "commit": self.commit()});
        for file in manifest["files"].as_array_mut().unwrap() {
            if file["path"] == "large.bin" && lie == Lie::Root {
                file["sha256"] = self.files()["large.bin"].clone().into();
            }
        }
        manifests::sign_as(&mut manifest, &host.base());
        let file = manifests::write(host.home().join("false.json"), &manifest);
        host.run(&["registry", "import", file.to_str().unwrap()]).ok();
        (host, sharing)
    }
}

/// Waits until a host knows the record of each of these publishers.
fn await_records(reader: &Host, publishers: &[&Host]) {
    let keys: Vec<String> = publishers.iter().map(|host| fingerprint(host)).collect();
    let found = || reader.run(&["discover", NAME, "--json"]).stdout;
    until("the publishers are known", PATIENCE, || {
        let found = found();
        keys.iter().all(|key| found.contains(key.as_str()))
    });
}

fn fingerprint(host: &Host) -> String {
    let shown: Value = serde_json::from_str(&host.run(&["key", "show", "--json"]).ok()).unwrap();
    shown["fingerprint"].as_str().unwrap().to_owned()
}

/// The files of a model below a mount point.
fn read_all(dir: &Path) -> BTreeMap<String, String> {
    hashes(dir, PATIENCE)
}

fn true_manifest_is_chosen(lie: Lie) {
    let scene = Scene::new("");
    let alice = scene.net.host("alice", SHORT);
    let _true = mirror_and_share(&alice, &[NAME]);
    let (mallory, _false) = scene.liar(lie);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&alice, &mallory]);
    // Through a mount: nothing is asked, and every byte is right.
    let mounted = carol.mount(&[]);
    assert_eq!(read_all(&mounted.path(NAME)), scene.files(), "{lie:?}");
    mounted.unmount();
    // Through `get`, on a host that has read nothing.
    let dave = scene.net.host("dave", SHORT);
    let other = dave.spawn(&["daemon", "-f"]);
    other.wait_for_line("running", PATIENCE);
    await_records(&dave, &[&alice, &mallory]);
    for host in [carol, &dave] {
        host.run(&["get", NAME]).ok();
        assert_eq!(tree(&mirrored(host, NAME)), scene.files(), "{lie:?}");
        assert_eq!(info_hash(host, NAME), info_hash(&alice, NAME), "{lie:?}");
        let status = status(host);
        assert_eq!(status["disputed"], json!([]));
        let refuted = &status["refuted"][0];
        assert_eq!(refuted["fingerprint"], fingerprint(&mallory).as_str(), "{refuted}");
        let path = if lie == Lie::Small { "config.json" } else { "large.bin" };
        assert!(refuted["difference"].as_str().unwrap().contains(path), "{refuted}");
    }
}

#[test]
fn false_listed_hash_loses_to_the_true_manifest() {
    true_manifest_is_chosen(Lie::Hash);
}

#[test]
fn false_pieces_root_loses_to_the_true_manifest() {
    true_manifest_is_chosen(Lie::Root);
}

#[test]
fn false_small_file_loses_to_the_true_manifest() {
    true_manifest_is_chosen(Lie::Small);
}

#[test]
fn two_strangers_are_a_dispute_without_the_hub() {
    for (more, unplugged) in [("", true), ("security: {hub_witness: false}\n", false)] {
        let scene = Scene::new(more);
        let alice = scene.net.host("alice", SHORT);
        let _true = mirror_and_share(&alice, &[NAME]);
        let (mallory, _false) = scene.liar(Lie::Hash);
        let carol = &scene.carol;
        if unplugged {
            scene.net.unplug();
        }
        let daemon = carol.spawn(&["daemon", "-f"]);
        daemon.wait_for_line("running", PATIENCE);
        await_records(carol, &[&alice, &mallory]);
        // While the hub is there, a mount may read from it instead.
        let mounted = unplugged.then(|| carol.mount(&[]));
        if let Some(mounted) = &mounted {
            let refused = fs::metadata(mounted.path(NAME)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        }
        let refused = carol.run(&["get", NAME]).error(1);
        for host in [&alice, &mallory] {
            assert!(refused.contains(&fingerprint(host)), "{refused}");
        }
        assert_eq!(status(carol)["refuted"], json!([]));
        mounted.into_iter().for_each(Mounted::unmount);
    }
}

#[test]
fn lone_stranger_that_contradicts_the_hub_is_refused() {
    let scene = Scene::new("");
    let (mallory, _false) = scene.liar(Lie::Hash);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&mallory]);
    let warned = carol.run(&["get", NAME, "--seed=false"]);
    let printed = format!("{}{}", warned.stdout, warned.stderr);
    warned.ok();
    // The manifest is refused, and the files come from the hub.
    assert!(
        printed.contains("contradicts the hub") && printed.contains("large.bin has the SHA-256"),
        "{printed}"
    );
    assert_eq!(tree(&mirrored(carol, NAME)), scene.files());
    let shown = carol.run(&["status"]).ok();
    assert!(shown.contains("refused") && shown.contains("large.bin has the SHA-256"), "{shown}");
}

#[test]
fn lone_stranger_stays_refused_when_the_hub_is_gone() {
    let scene = Scene::new("");
    let (mallory, _false) = scene.liar(Lie::Hash);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&mallory]);
    let point = mount_with(carol, "models", None, &[]);
    assert_eq!(fs::read(point.join(NAME).join("sub/a file+.json")).unwrap(), b"[1]");
    carol.run(&["unmount", point.to_str().unwrap()]).ok();
    carol.run(&["remove", NAME, "--yes"]).ok();
    drop(daemon);
    scene.net.unplug();
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&mallory]);
    let refused = carol.run(&["get", NAME]).error(1);
    assert!(refused.contains("large.bin has the SHA-256"), "{refused}");
}

#[test]
fn first_byte_of_a_false_small_file_is_never_read() {
    let scene = Scene::new("");
    let (mallory, _false) = scene.liar(Lie::Small);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&mallory]);
    // The model itself cannot be read from the hub for a while, so that the mount shows that of the swarm.
    let faults = scene.net.hub.faults();
    faults.always("revision/main", Fault::Status(503));
    let mounted = carol.mount(&[]);
    let shown = mounted.path(NAME);
    // Other files of the manifest can be read.
    assert_eq!(fs::read(shown.join("sub/a file+.json")).unwrap(), b"[1]");
    assert_eq!(info_hash(carol, NAME), info_hash(&mallory, "evil/m"));
    let refused = fs::read(shown.join("config.json")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(5), "{refused}");
    until("the manifest is refused", PATIENCE, || {
        status(carol)["refuted"].to_string().contains("config.json has the git object id")
    });
    until("the model is deleted", PATIENCE, || info_hash(carol, NAME).is_none());
    faults.clear();
    // The hub was not reachable for a lookup, which is remembered for a moment.
    until("the name is read from the hub", PATIENCE, || {
        fs::read(shown.join("config.json")).is_ok_and(|read| read == b"{\"model_type\": \"bert\"}")
    });
    mounted.unmount();
}

/// A host that knows only the false manifest gets the true files in one command.
fn get_continues_at_the_hub(lie: Lie, difference: &str) {
    let scene = Scene::new("");
    let (mallory, _false) = scene.liar(lie);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&mallory]);
    let got = carol.run(&["get", NAME, "--seed=false"]);
    let printed = format!("{}{}", got.stdout, got.stderr);
    got.ok();
    assert!(printed.contains("contradicts the hub") && printed.contains(difference), "{printed}");
    assert_eq!(tree(&mirrored(carol, NAME)), scene.files());
    assert!(status(carol)["refuted"].to_string().contains(difference));
}

#[test]
fn get_of_a_false_small_file_continues_at_the_hub() {
    get_continues_at_the_hub(Lie::Small, "config.json has the git object id");
}

#[test]
fn get_of_a_false_pieces_root_continues_at_the_hub() {
    get_continues_at_the_hub(Lie::Root, "the bytes of large.bin do not have the SHA-256");
}

/// Mounts a model of which only the false manifest is known, and of which the hub does not describe the newest state, so that the
/// mount shows the false manifest.
fn mount_of_a_liar<'a>(scene: &'a Scene, mallory: &Host) -> Mounted<'a> {
    let mounted = mount_of_swarm(scene);
    assert_eq!(info_hash(&scene.carol, NAME), info_hash(mallory, "evil/m"));
    mounted
}

/// Mounts a model that a host of the swarm has. The hub does not describe its newest state while the name is looked up, so that the mount
/// shows the manifest of the swarm.
fn mount_of_swarm(scene: &Scene) -> Mounted<'_> {
    let faults = scene.net.hub.faults();
    faults.always("revision/main", Fault::Status(503));
    let mounted = scene.carol.mount(&[]);
    assert_eq!(fs::read(mounted.path(NAME).join("sub/a file+.json")).unwrap(), b"[1]");
    faults.clear();
    mounted
}

#[test]
fn first_byte_of_a_false_part_is_never_read() {
    let scene = Scene::new("");
    let (mallory, _false) = scene.liar(Lie::Root);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&mallory]);
    let mounted = mount_of_a_liar(&scene, &mallory);
    // The first read of the file is that of the false bytes: it waits, and continues at the hub.
    let (at, len) = (1_200_000, 100_000);
    let read = read_at(&mounted.path(NAME).join("large.bin"), at, len).unwrap();
    assert!(read == LARGE.with(|large| large[at as usize..][..len].to_vec()), "false bytes were read");
    until("the manifest is refused", PATIENCE, || {
        status(carol)["refuted"].to_string().contains("the bytes of large.bin at the hub")
    });
    // The name of the directory is valid for a moment after the model was replaced.
    let refreshed = || read_all(&mounted.path(NAME)) == scene.files();
    until("all files are those of the hub", PATIENCE, refreshed);
    mounted.unmount();
}

#[test]
fn first_read_waits_a_short_time_for_a_hub_that_stalls() {
    let scene = Scene::new("");
    let alice = scene.net.host("alice", SHORT);
    let _true = mirror_and_share(&alice, &[NAME]);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&alice]);
    let mounted = mount_of_swarm(&scene);
    scene.net.hub.cdn_faults().always("large.bin", Fault::Stalled(0));
    let large = mounted.path(NAME).join("large.bin");
    dd(&large, 1000, 70, 1, PATIENCE).ok();
    let read = read_at(&large, 70_000, 1000).unwrap();
    assert!(read == LARGE.with(|large| large[70_000..71_000].to_vec()));
    assert_eq!(status(carol)["refuted"], json!([]));
    let asked = scene.net.hub.log().of("large.bin");
    assert!(asked.iter().any(|asked| asked.site == "cdn"), "the hub was not asked");
    mounted.unmount();
}

/// The extended attribute with what the hub has shown about a file.
fn hub_state(path: &Path) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(path, "user.silmaril.hub", &mut value).unwrap();
    String::from_utf8(value[..len].to_vec()).unwrap()
}

#[test]
fn file_is_as_on_the_hub_when_all_of_it_was_compared() {
    let scene = Scene::new("");
    let alice = scene.net.host("alice", SHORT);
    let _true = mirror_and_share(&alice, &[NAME]);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&alice]);
    let mounted = mount_of_swarm(&scene);
    let large = mounted.path(NAME).join("large.bin");
    assert_eq!(hub_state(&large), "listed by the hub");
    read_at(&large, 70_000, 1000).unwrap();
    assert_eq!(hub_state(&large), "listed by the hub", "a part was read");
    assert_eq!(listed(carol, NAME)["hub_state"], "listed by the hub");
    assert_eq!(status(carol)["notes"][0]["hub_state"], "listed by the hub");
    assert_eq!(read_all(&mounted.path(NAME)), scene.files());
    until("the file is compared", PATIENCE, || hub_state(&large) == "as on the hub");
    until("all files are compared", PATIENCE, || listed(carol, NAME)["hub_state"] == "as on the hub");
    mounted.unmount();
    drop(daemon);
    scene.net.unplug();
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    assert_eq!(listed(carol, NAME)["hub_state"], "as on the hub");
    assert_eq!(hub_state(&carol.mount(&[]).path(NAME).join("large.bin")), "as on the hub");
}

#[test]
fn complete_false_file_is_refused_in_the_background() {
    let scene = Scene::new("");
    let (mallory, _false) = scene.liar(Lie::Root);
    let carol = &scene.carol;
    let daemon = carol.spawn(&["daemon", "-f"]);
    daemon.wait_for_line("running", PATIENCE);
    await_records(carol, &[&mallory]);
    let mounted = mount_of_a_liar(&scene, &mallory);
    // No part can be compared before the first byte.
    scene.net.hub.cdn_faults().always("large.bin", Fault::Status(503));
    let large = mounted.path(NAME).join("large.bin");
    assert_ne!(fs::read(&large).unwrap(), LARGE.with(Clone::clone), "the file of the liar was not read");
    until("the manifest is refused", PATIENCE, || {
        status(carol)["refuted"].to_string().contains("the bytes of large.bin do not have the SHA-256")
    });
    scene.net.hub.cdn_faults().clear();
    until("all files are those of the hub", PATIENCE, || read_all(&mounted.path(NAME)) == scene.files());
    mounted.unmount();
}
