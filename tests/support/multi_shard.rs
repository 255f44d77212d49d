//! A small model in several safetensors shards, as `save_pretrained` writes a large one. The same arguments give the
//! same bytes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::fixtures::{model_dir, noise};

/// Bytes of one row of a weight: 256 values of two bytes.
const ROW: u64 = 512;

/// Writes a model of `shards` shards into the new directory `dir`. The weights have at most `total` bytes together,
/// rounded down to whole rows: four tensors in each shard. Further files are an index, a configuration, a tokenizer,
/// a card (apache-2.0), and `.gitattributes` that put the shards into LFS.
pub fn multi_shard(dir: &Path, shards: usize, total: u64, seed: u64) -> PathBuf {
    const TENSORS: u64 = 4;
    let rows = total / ROW / shards as u64 / TENSORS;
    assert!(rows > 0, "{total} bytes are too few for {shards} shards");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut weight_map = Map::new();
    for shard in 0..shards {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        for tensor in 0..TENSORS {
            let layer = shard as u64 * TENSORS + tensor;
            let key = format!("model.layers.{layer}.mlp.weight");
            let (start, end) = (tensor * rows * ROW, (tensor + 1) * rows * ROW);
            weight_map.insert(key.clone(), name.clone().into());
            header.insert(
                key,
                json!({"dtype": "BF16", "shape": [rows, ROW / 2], "data_offsets": [start, end]}),
            );
        }
        let weights = noise(seed ^ (shard as u64 + 1) << 32, (TENSORS * rows * ROW) as usize);
        files.push((name, safetensors(&header, &weights)));
    }
    let bytes = rows * ROW * TENSORS * shards as u64;
    let index = json!({
        "metadata": {"total_size": bytes, "total_parameters": bytes / 2},
        "weight_map": weight_map,
    });
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": ROW / 2,
        "num_hidden_layers": shards as u64 * TENSORS, "max_position_embeddings": 2048, "torch_dtype": "bfloat16",
    });
    let card = "---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: text-generation\n\
                library_name: transformers\n---\n\n# A model of noise\n";
    let pretty = |value: &Value| serde_json::to_vec_pretty(value).unwrap();
    files.extend([
        ("model.safetensors.index.json".to_owned(), pretty(&index)),
        ("config.json".to_owned(), pretty(&config)),
        ("tokenizer/tokenizer.json".to_owned(), b"{\"version\": \"1.0\"}\n".to_vec()),
        ("README.md".to_owned(), card.as_bytes().to_vec()),
        (".gitattributes".to_owned(), b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n".to_vec()),
    ]);
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    model_dir(dir, &files)
}

/// A file in the safetensors format: the length of the header, the header padded to eight bytes, the tensors.
fn safetensors(header: &Map<String, Value>, tensors: &[u8]) -> Vec<u8> {
    let mut text = serde_json::to_vec(header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), &*text, tensors].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::fixtures::{hashes, python};
    use crate::support::process::PATIENCE;

    #[test]
    fn the_safetensors_library_reads_it_and_bytes_are_stable() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, seed| multi_shard(&dir.path().join(name), 3, 1 << 20, seed);
        let first = make("a", 1);
        assert_eq!(hashes(&first, PATIENCE), hashes(&make("b", 1), PATIENCE));
        assert_ne!(hashes(&first, PATIENCE), hashes(&make("c", 2), PATIENCE));
        let script = "import json, sys\n\
            from pathlib import Path\n\
            from safetensors import safe_open\n\
            dir = Path(sys.argv[1]); total = 0\n\
            index = json.loads((dir / 'model.safetensors.index.json').read_text())\n\
            for key, shard in sorted(index['weight_map'].items()):\n    \
                with safe_open(dir / shard, 'np') as f:\n        \
                    rows, columns = f.get_slice(key).get_shape(); total += rows * columns * 2\n\
            print(len(index['weight_map']), total == index['metadata']['total_size'], total > 1e6)\n";
        assert_eq!(python(script, &[&first], PATIENCE).ok(), "12 True True\n");
    }
}
