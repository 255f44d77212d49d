//! The libraries of the hub, unchanged, read models that only a peer has.

use std::path::Path;

use crate::serve::rig::{Rig, on_the_wire};
use crate::support::fixtures::{hashes, minilm, model_dir, noise, wordllama};
use crate::support::process::PATIENCE;

const NAME: &str = "sentence-transformers/all-MiniLM-L6-v2";

fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let of = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => size(&entry.path()),
        meta => meta.len(),
    };
    entries.map(of).sum()
}

/// The hashes of a directory without the files that the client adds.
fn downloaded_hashes(dir: &Path) -> std::collections::BTreeMap<String, String> {
    let mut all = hashes(dir, PATIENCE);
    all.retain(|path, _| !path.starts_with(".cache/"));
    all
}

#[test]
fn hf_download_reads_a_model_that_only_a_peer_has() {
    let mut rig = Rig::new();
    rig.share(&minilm(), NAME, &[]);
    rig.serve();
    let before = rig.user.received();
    let out = rig.download("venv", &[NAME]);
    assert_eq!(downloaded_hashes(&out), hashes(&minilm(), PATIENCE));
    let received = rig.user.received() - before;
    let whole = size(&minilm());
    assert!(received <= on_the_wire(whole), "{received} bytes for {whole}");

    // The oldest client reads the same bytes, from the cache.
    let before = rig.user.received();
    let out = rig.download("venv-oldest", &[NAME]);
    assert_eq!(downloaded_hashes(&out), hashes(&minilm(), PATIENCE));
    assert!(rig.user.received() - before < 1 << 20, "a second download used the network");

    let listed: serde_json::Value = serde_json::from_str(&rig.user.run(&["list", "--json"]).ok()).unwrap();
    assert_eq!(listed[0]["name"], NAME);
    assert_eq!((&listed[0]["complete"], &listed[0]["shared"]), (&true.into(), &true.into()));
}

#[test]
fn patterns_fetch_only_their_files() {
    let mut rig = Rig::new();
    rig.share(&minilm(), NAME, &[]);
    rig.serve();
    let before = rig.user.received();
    let script = "import sys, os; from huggingface_hub import snapshot_download\n\
        d = snapshot_download(sys.argv[1], allow_patterns=['*.json', '*.txt'], ignore_patterns=['tokenizer.json'])\n\
        print(sorted(os.path.relpath(os.path.join(p, f), d) for p, _, fs in os.walk(d) for f in fs))";
    let expected = "['1_Pooling/config.json', 'config.json', 'config_sentence_transformers.json', \
                    'data_config.json', 'modules.json', \
                    'sentence_bert_config.json', 'special_tokens_map.json', 'tokenizer_config.json', 'vocab.txt']\n";
    for venv in ["venv", "venv-oldest"] {
        assert_eq!(rig.script(venv, script, &[NAME]).ok(), expected, "{venv}");
    }
    let received = rig.user.received() - before;
    assert!(received < 2 << 20, "{received} bytes for small files");
}

#[test]
fn libraries_read_parts_of_files() {
    let mut rig = Rig::new();
    rig.share(&minilm(), NAME, &["--piece-length", "1MiB"]);
    rig.serve();
    let metadata = "import sys; from huggingface_hub import get_safetensors_metadata\n\
        m = get_safetensors_metadata(sys.argv[1]); print(m.sharded, len(m.weight_map), m.parameter_count)";
    let files = "import sys; from huggingface_hub import HfFileSystem\n\
        fs = HfFileSystem(); root = sys.argv[1]\n\
        print(len(fs.ls(root, detail=False)), fs.info(root + '/config.json')['size'], fs.isdir(root + '/1_Pooling'))\n\
        print(fs.glob(root + '/*/*.json'), fs.exists(root + '/absent'))\n\
        with fs.open(root + '/model.safetensors') as f:\n    \
        f.seek(-16, 2); print(f.read().hex())";
    let weights = std::fs::read(minilm().join("model.safetensors")).unwrap();
    let before = rig.user.received();
    for venv in ["venv", "venv-oldest"] {
        let read = rig.script(venv, metadata, &[NAME]).ok();
        assert!(read.starts_with("False 104 {") && read.contains("'F32': 22713216"), "{venv}: {read}");
        let read = rig.script(venv, files, &[NAME]).ok();
        let lines: Vec<&str> = read.lines().collect();
        assert_eq!(lines[0], "13 612 True", "{venv}");
        assert!(lines[1].ends_with("False") && lines[1].contains("1_Pooling/config.json"), "{venv}: {read}");
        assert_eq!(lines[2], hex::encode(&weights[weights.len() - 16..]), "{venv}");
    }
    // A read at the end of the file also reads the 5 MiB block of HfFileSystem.
    let received = rig.user.received() - before;
    assert!(received < on_the_wire(12 << 20), "{received} bytes for parts of files");
}

#[test]
fn tokenizers_load_by_name() {
    let mut rig = Rig::new();
    rig.share(&minilm(), NAME, &[]);
    rig.serve();
    let script = "import sys; from tokenizers import Tokenizer\n\
        print(Tokenizer.from_pretrained(sys.argv[1]).encode('hello world').ids[:4])";
    assert_eq!(rig.script("venv", script, &[NAME]).ok(), "[101, 7592, 2088, 102]\n");
}

#[test]
fn datasets_stream_rows() {
    let mut rig = Rig::new();
    let rows: String = (0..2000).map(|n| format!("{{\"n\": {n}, \"text\": \"row {n}\"}}\n")).collect();
    let readme = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.jsonl\n---\n";
    let dir = model_dir(
        &rig.publisher.home().join("d"),
        &[("README.md", readme.as_bytes()), ("data/train.jsonl", rows.as_bytes())],
    );
    rig.share(&dir, "datasets/acme/rows", &[]);
    rig.serve();
    let script = "import sys; from datasets import load_dataset\n\
        d = load_dataset('acme/rows', split='train', streaming=True)\n\
        print([r['n'] for r in d.take(3)], sum(r['n'] for r in d))\n\
        print(load_dataset('acme/rows', split='train').num_rows)";
    let read = rig.script("venv", script, &[]).ok();
    assert_eq!(read, "[0, 1, 2] 1999000\n2000\n");
    let out = rig.download("venv", &["acme/rows", "--repo-type", "dataset"]);
    assert_eq!(downloaded_hashes(&out), hashes(&dir, PATIENCE));
}

#[test]
fn download_continues_during_a_fetch() {
    let mut rig = Rig::new();
    rig.share(&wordllama(), "dleemiller/wordllama", &[]);
    rig.publisher.limit_rate("60mbit");
    rig.serve();
    // Another program reads the same file at the same time, through a mount.
    let mounted = rig.user.mount(&["--peer", &rig.publisher.peer()]);
    let file = mounted.path("dleemiller/wordllama/l2_supercat_256.safetensors");
    let before = rig.user.received();
    let reader = crate::support::fixtures::reader(&file);
    reader.wait_for_line("read 1.", PATIENCE);
    let out = rig.download("venv", &["dleemiller/wordllama"]);
    assert_eq!(downloaded_hashes(&out), hashes(&wordllama(), PATIENCE));
    reader.finish(PATIENCE).ok();
    let (received, whole) = (rig.user.received() - before, size(&wordllama()));
    assert!(received <= on_the_wire(whole), "{received} bytes for {whole}: a file was fetched twice");
}

#[test]
fn snapshots_are_shared_by_hosts_with_equal_commits() {
    let mut rig = Rig::new();
    let dir =
        model_dir(&rig.publisher.home().join("m"), &[("config.json", b"{}"), ("w.bin", &noise(1, 300_000))]);
    rig.share(&dir, "acme/m", &[]);
    rig.serve();
    let script = "import sys; from huggingface_hub import model_info\nprint(model_info('acme/m').sha)";
    let there = rig.script("venv", script, &[]).ok();
    let mut other = Rig::new();
    // The same files under the same last component, published by another host.
    other.share(&dir, "other/m", &[]);
    other.serve();
    let here = other.script("venv", &script.replace("acme/m", "other/m"), &[]).ok();
    assert_eq!((there.trim().len(), &there), (40, &here));
}
