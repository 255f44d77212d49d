//! `mount --layout hf`: the mount is the cache directory of the hub's clients.

use std::path::Path;

use crate::serve::rig::Rig;
use crate::support::fixtures::{hashes, minilm, model_dir, noise};
use crate::support::process::{Finished, PATIENCE};

const NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// Runs a script with a cache directory.
fn script(rig: &Rig, venv: &str, cache: &Path, offline: bool, script: &str) -> Finished {
    let mut command = rig.client(venv, "python");
    command.env("HF_HUB_CACHE", cache).args(["-I", "-c", script]);
    if offline {
        command.env("HF_HUB_OFFLINE", "1").env_remove("HF_ENDPOINT");
    }
    Finished::of(&mut command, PATIENCE)
}

#[test]
fn clients_read_the_mount_as_their_cache() {
    let mut rig = Rig::new();
    rig.share(&minilm(), NAME, &[]);
    rig.serve();
    let plain = rig.user.mount_at("models", &[]);
    let hub = rig.user.mount_at("hub", &["--layout", "hf"]);
    let load = format!(
        "from huggingface_hub import snapshot_download, hf_hub_download\n\
         import os\n\
         d = snapshot_download('{NAME}')\n\
         print(sorted(os.listdir(d))[:2], os.path.getsize(hf_hub_download('{NAME}', 'config.json')))"
    );
    let tokens = format!(
        "from huggingface_hub import hf_hub_download\n\
         from tokenizers import Tokenizer; from safetensors import safe_open\n\
         print(Tokenizer.from_file(hf_hub_download('{NAME}', 'tokenizer.json')).encode('hello world').ids[:4])\n\
         with safe_open(hf_hub_download('{NAME}', 'model.safetensors'), 'numpy') as f:\n    \
         print(f.get_slice('embeddings.word_embeddings.weight')[7:8].shape)"
    );
    // The name is looked up when the first client opens it.
    let read = script(&rig, "venv", hub.point(), true, &load).ok();
    assert_eq!(read, "['.gitattributes', '1_Pooling'] 612\n");
    assert_eq!(script(&rig, "venv-oldest", hub.point(), true, &load).ok(), read);
    let read = script(&rig, "venv", hub.point(), true, &tokens).ok();
    assert_eq!(read, "[101, 7592, 2088, 102]\n(1, 384)\n");
    // With the endpoint, the newest client tolerates a cache that it cannot write.
    assert_eq!(script(&rig, "venv", hub.point(), false, &load).ok(), "['.gitattributes', '1_Pooling'] 612\n");

    let folder = hub.path("models--sentence-transformers--all-MiniLM-L6-v2");
    let commit = std::fs::read_to_string(folder.join("refs/main")).unwrap();
    assert_eq!(commit.len(), 40);
    assert_eq!(std::fs::read_dir(folder.join("blobs")).unwrap().count(), 0);
    assert_eq!(hashes(&folder.join("snapshots").join(&commit), PATIENCE), hashes(&minilm(), PATIENCE));
    let listed: Vec<_> = std::fs::read_dir(hub.point()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed, ["models--sentence-transformers--all-MiniLM-L6-v2"]);
    // `hf cache ls` reads the mount like any cache.
    let mut ls = rig.client("venv", "hf");
    let ls = Finished::of(ls.env("HF_HUB_CACHE", hub.point()).args(["cache", "ls"]), PATIENCE).ok();
    // The width of the columns depends on the sizes and times.
    assert!(ls.contains("model/sentence-transformers/") && ls.contains("Found 1 repo"), "{ls}");
    // Both mounts are of one daemon, and the endpoint reports the same commit.
    assert_eq!(hashes(&plain.path(NAME), PATIENCE), hashes(&minilm(), PATIENCE));
    let sha = format!("from huggingface_hub import model_info\nprint(model_info('{NAME}').sha)");
    assert_eq!(rig.script("venv", &sha, &[]).ok().trim(), commit);
}

#[test]
fn names_that_are_absent_are_missing_from_the_cache() {
    let mut rig = Rig::new();
    let dir = model_dir(&rig.publisher.home().join("d"), &[("data.txt", &noise(1, 1000))]);
    let name = ["--name", "datasets/acme/d", "--version", "v2", "--license", "mit"];
    let shared = rig.publisher.spawn(&[&["share", "-f", dir.to_str().unwrap()], &name[..]].concat());
    shared.wait_for_line("seeding", PATIENCE);
    rig.serve();
    let hub = rig.user.mount_at("hub", &["--layout", "hf"]);
    let read = |id: &str, kind: &str, file: &str| {
        let text = format!(
            "from huggingface_hub import hf_hub_download\n\
             from huggingface_hub.errors import LocalEntryNotFoundError\n\
             try: print(open(hf_hub_download('{id}', '{file}', repo_type='{kind}', revision='v2'), 'rb').read().hex()[:16])\n\
             except LocalEntryNotFoundError: print('absent')"
        );
        script(&rig, "venv", hub.point(), true, &text).ok().trim().to_owned()
    };
    assert_eq!(read("acme/d", "dataset", "data.txt"), hex::encode(&noise(1, 1000)[..8]));
    assert_eq!(read("acme/d", "dataset", "absent.txt"), "absent");
    assert_eq!(read("acme/absent", "model", "config.json"), "absent");
    // The only revision is also the default one.
    let refs = hub.path("datasets--acme--d/refs");
    assert_eq!(std::fs::read(refs.join("main")).unwrap(), std::fs::read(refs.join("v2")).unwrap());
    for path in ["CACHEDIR.TAG", ".locks", "models--acme", "models--acme--absent/refs/main"] {
        assert!(!hub.path(path).exists(), "{path}");
    }
}
