//! The table of clients in the README: each client reads a model that only a peer has, in each way, and the result is
//! written to the table (`UPDATE_README=1`) or compared with it.

use std::path::Path;

use crate::serve::rig::Rig;
use crate::support::fixtures::{minilm, model_dir};
use crate::support::process::{Finished, PATIENCE};

/// A client: its name in the table, the package with its version, the venv, and a script that ends with "read".
const CLIENTS: [(&str, &str, &str, &str); 7] = [
    (
        "huggingface_hub: `hf download`, `snapshot_download`",
        "huggingface_hub",
        "venv",
        "from huggingface_hub import snapshot_download\nimport os\n\
         assert os.path.getsize(os.path.join(snapshot_download('acme/m'), 'config.json')) == 612; print('read')",
    ),
    (
        "huggingface_hub, the oldest of version 1",
        "huggingface_hub",
        "venv-oldest",
        "from huggingface_hub import snapshot_download\nimport os\n\
         assert os.path.getsize(os.path.join(snapshot_download('acme/m'), 'config.json')) == 612; print('read')",
    ),
    (
        "huggingface_hub: `HfFileSystem`",
        "huggingface_hub",
        "venv",
        "from huggingface_hub import HfFileSystem\n\
         assert len(HfFileSystem().cat('acme/m/config.json')) == 612; print('read')",
    ),
    (
        "huggingface_hub: `get_safetensors_metadata`",
        "huggingface_hub",
        "venv",
        "from huggingface_hub import get_safetensors_metadata\n\
         assert get_safetensors_metadata('acme/m').parameter_count == {'F32': 4}; print('read')",
    ),
    (
        "tokenizers: `Tokenizer.from_pretrained`",
        "tokenizers",
        "venv",
        "from tokenizers import Tokenizer\n\
         assert Tokenizer.from_pretrained('acme/m').encode('hello').ids[1] == 7592; print('read')",
    ),
    (
        "safetensors: `safe_open`",
        "safetensors",
        "venv",
        "from huggingface_hub import hf_hub_download\nfrom safetensors import safe_open\n\
         with safe_open(hf_hub_download('acme/m', 'model.safetensors'), 'numpy') as f: assert f.get_tensor('a').sum() == 10\n\
         print('read')",
    ),
    (
        "datasets: `load_dataset`",
        "datasets",
        "venv",
        "from datasets import load_dataset\n\
         assert sum(r['n'] for r in load_dataset('acme/rows', split='train', streaming=True)) == 4950; print('read')",
    ),
];

/// A safetensors file with one tensor of four numbers.
fn safetensors() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend([1f32, 2.0, 3.0, 4.0].iter().flat_map(|number| number.to_le_bytes()));
    file
}

/// Whether a client reads with these variables.
fn reads(rig: &Rig, venv: &str, script: &str, variables: &[(&str, &str)], home: &Path) -> bool {
    let mut command = rig.client(venv, "python");
    command.env_remove("HF_ENDPOINT").env("HF_HOME", home).env("HF_HUB_DOWNLOAD_TIMEOUT", "60");
    command.envs(variables.iter().copied()).args(["-I", "-c", script]);
    let end = Finished::of(&mut command, PATIENCE);
    let has_read = end.status.success() && end.stdout.ends_with("read\n");
    if !has_read {
        eprintln!("{venv} {variables:?} {script}\n{}\n{}", end.stdout, end.stderr);
    }
    has_read
}

#[test]
fn table_of_the_readme_is_what_clients_do() {
    let mut rig = Rig::new();
    let small = |name: &str| std::fs::read(minilm().join(name)).unwrap();
    let (config, tokenizer) = (small("config.json"), small("tokenizer.json"));
    let files: [(&str, &[u8]); 3] =
        [("config.json", &config), ("tokenizer.json", &tokenizer), ("model.safetensors", &safetensors())];
    rig.share(&model_dir(&rig.publisher.home().join("m"), &files), "acme/m", &[]);
    let rows: String = (0..100).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    let dir = model_dir(&rig.publisher.home().join("rows"), &[("train.jsonl", rows.as_bytes())]);
    rig.share(&dir, "datasets/acme/rows", &[]);
    rig.serve();
    let hub = rig.user.mount_at("hub", &["--layout", "hf"]);
    let cache = hub.point().to_str().unwrap();

    let mut table =
        "| client | version | `HF_ENDPOINT` | `HF_HUB_CACHE`, offline | `HF_HUB_CACHE` and `HF_ENDPOINT` |\n\
                     |---|---|---|---|---|\n"
            .to_owned();
    for (number, (client, package, venv, script)) in CLIENTS.into_iter().enumerate() {
        let version = format!("from importlib.metadata import version\nprint(version('{package}'))");
        let version = rig.script(venv, &version, &[]).ok().trim().to_owned();
        let home = rig.user.home().join(format!("home-{number}"));
        let ways: [&[(&str, &str)]; 3] = [
            &[("HF_ENDPOINT", &rig.endpoint)],
            &[("HF_HUB_CACHE", cache), ("HF_HUB_OFFLINE", "1")],
            &[("HF_HUB_CACHE", cache), ("HF_ENDPOINT", &rig.endpoint)],
        ];
        let cells: Vec<&str> = ways
            .into_iter()
            .enumerate()
            .map(|(way, variables)| {
                let has_read = reads(&rig, venv, script, variables, &home.join(way.to_string()));
                if has_read { "yes" } else { "no" }
            })
            .collect();
        table.push_str(&format!("| {client} | {version} | {} |\n", cells.join(" | ")));
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let begin = "<!-- clients: written by the test serve::clients with UPDATE_README=1 -->\n";
    let (before, rest) = readme.split_once(begin).expect("the README has a place for the table");
    let (written, after) = rest.split_once("<!-- end of clients -->").unwrap();
    if std::env::var_os("UPDATE_README").is_some() {
        return std::fs::write(&path, format!("{before}{begin}\n{table}\n<!-- end of clients -->{after}"))
            .unwrap();
    }
    assert_eq!(written.trim(), table.trim(), "UPDATE_README=1 writes the table of the README again");
}
